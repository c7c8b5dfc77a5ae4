"""Operators: one for a task that its worker does itself, one for a task that runs a stage program."""

from hf2triton.operators.stage import StageOperator
from hf2triton.operators.task import TaskOperator

__all__ = ["StageOperator", "TaskOperator"]
