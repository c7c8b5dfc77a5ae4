"""Launching and ending a candidate on runner docker: the tasks, the openvino target's image, a real engine."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from include.context import Context
from include.runners.container_job import LABEL_DAG, LABEL_KEY, LABEL_PARTIAL, LABEL_RUN, LABEL_STORE
from include.settings import Settings
from include.tasks import ArtifactRef, check_request, launch_triton, stop_candidate
from include.triton import servers
from include.triton.servers import ServerRecord
from tests.support.echo import ask, write_repository
from tests.support.engine import BASE, client_with_image_or_skip, containers, none_left

pytestmark = pytest.mark.docker

PARAMS = {"awq_group_size": 64, "calib_seq_len": 64, "max_input_len": 128, "max_seq_len": 256}


@pytest.fixture
def client() -> Any:
    return client_with_image_or_skip()


@pytest.fixture
def context(context: Context, client: Any) -> Iterator[Context]:
    """A worker of a deployment that runs containers, and has no environment of the target's own."""
    settings = Settings(runner="docker", openvino_python=context.settings.artifacts / "none")
    with none_left(client, settings.artifacts):
        yield replace(context, settings=settings)


def repository(context: Context) -> ArtifactRef:
    with context.store.claim("repositories", {"is": "echo"}, log=context.log) as claim:
        write_repository(claim.partial).rename(claim.partial / "models")
        (claim.partial / "models" / "echo").rename(claim.partial / "echo")
        (claim.partial / "models").rmdir()
        claim.commit()
        return ArtifactRef(kind="repositories", name=claim.name, reused=False)


def test_a_candidate_is_launched_replaced_and_stopped(context: Context, model: Path, client: Any) -> None:
    checked = check_request.run(context, {"model": str(model), **PARAMS})
    made = repository(context)
    first = launch_triton.run(context, checked, made)
    again = launch_triton.run(context, checked, made)
    assert ask(ServerRecord.model_validate(again.model_dump(mode="json")), 5) == 5
    assert containers(client, server=first.token) == [], "a retry replaces what the attempt before it has left"
    assert containers(client, server=again.token) == [again.container_id]
    stop_candidate.run(context)
    assert containers(client, server=again.token) == []
    assert servers.find(context.candidate_record) is None


def test_stages_of_a_run_whose_workers_all_died_are_removed(context: Context, client: Any) -> None:
    ours, others = (stage_of(context, client, run) for run in (context.run_id, "another run"))
    try:
        stop_candidate.run(context)
        left = containers(client, store=str(context.settings.artifacts))
        assert left == [others]
        assert [path.name for path in (context.settings.artifacts / "engines").iterdir()] == ["another run.partial-0"]
        assert ours not in left
    finally:
        for container in containers(client, store=str(context.settings.artifacts)):
            client.remove_container(container, force=True)


def stage_of(context: Context, client: Any, run: str) -> str:
    """A stage's container, at work, with its partial directory; returns its id."""
    partial = context.settings.artifacts / "engines" / f"{run}.partial-0"
    partial.mkdir(parents=True)
    labels = {
        LABEL_STORE: str(context.settings.artifacts),
        LABEL_DAG: context.dag_id,
        LABEL_RUN: run,
        LABEL_KEY: run,
        LABEL_PARTIAL: str(partial),
    }
    container = str(client.create_container(BASE, ["sleep", "600"], labels=labels)["Id"])
    client.start(container)
    return container


def test_a_run_that_has_left_nothing_ends_quietly(context: Context) -> None:
    lines: list[str] = []
    stop_candidate.run(replace(context, log=lines.append))
    assert lines == ["nothing is live"]
