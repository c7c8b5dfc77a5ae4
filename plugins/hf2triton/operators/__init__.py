"""Operators: for tasks that run in the worker itself, and for tasks that run a stage program."""

from __future__ import annotations

from hf2triton.operators.release import ReleaseApprovalOperator, ReleaseOperator
from hf2triton.operators.stage import StageOperator
from hf2triton.operators.task import TaskOperator
from include.settings import settings

__all__ = ["ReleaseApprovalOperator", "ReleaseOperator", "StageOperator", "TaskOperator", "stage_operator"]


def stage_operator() -> type[StageOperator]:
    """The operator of tasks that run a stage program, on this deployment's runner."""
    if settings().runner == "process":
        return StageOperator
    # Imports the Docker client, which a deployment without Docker does not need.
    from hf2triton.operators.docker_stage import DockerStageOperator

    return DockerStageOperator
