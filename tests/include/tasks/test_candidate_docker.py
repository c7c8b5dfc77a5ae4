"""Launching and ending a candidate on runner docker: the tasks, the openvino target's image, a real engine."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from include.context import Worker
from include.runners.container_job import LABEL_DAG, LABEL_KEY, LABEL_PARTIAL, LABEL_RUN, LABEL_STORE
from include.settings import Settings
from include.targets.openvino import image
from include.tasks import ArtifactRef, check_request, launch_triton, stop_candidate
from include.triton import servers
from include.triton.servers import ServerRecord
from tests.echo import ask, write_repository
from tests.engine import BASE, client_or_skip, containers, none_left

PARAMS = {"awq_group_size": 64, "calib_seq_len": 64, "max_input_len": 128, "max_seq_len": 256}


@pytest.fixture
def client() -> Any:
    client = client_or_skip()
    if not client.images(name=image.image()):
        pytest.skip(f"the image is not built: {image.BUILD_COMMAND}")
    return client


@pytest.fixture
def worker(worker: Worker, client: Any) -> Iterator[Worker]:
    """A worker of a deployment that runs containers, and has no environment of the target's own."""
    settings = Settings(runner="docker", openvino_python=worker.settings.artifacts / "none")
    with none_left(client, settings.artifacts):
        yield replace(worker, settings=settings)


def repository(worker: Worker) -> ArtifactRef:
    with worker.store.claim("repositories", {"is": "echo"}, log=worker.log) as claim:
        write_repository(claim.partial).rename(claim.partial / "models")
        (claim.partial / "models" / "echo").rename(claim.partial / "echo")
        (claim.partial / "models").rmdir()
        claim.commit()
        return ArtifactRef(kind="repositories", name=claim.name, reused=False)


def test_a_candidate_is_launched_replaced_and_stopped(worker: Worker, model: Path, client: Any) -> None:
    checked = check_request.run(worker, {"model": str(model), **PARAMS})
    made = repository(worker)
    first = launch_triton.run(worker, checked, made)
    again = launch_triton.run(worker, checked, made)
    assert ask(ServerRecord.model_validate(again.model_dump(mode="json")), 5) == 5
    assert containers(client, server=first.token) == [], "a retry replaces what the attempt before it has left"
    assert containers(client, server=again.token) == [again.container_id]
    stop_candidate.run(worker)
    assert containers(client, server=again.token) == []
    assert servers.find(worker.candidate_record) is None


def test_stages_of_a_run_whose_workers_all_died_are_removed(worker: Worker, client: Any) -> None:
    ours, others = (stage_of(worker, client, run) for run in (worker.run_id, "another run"))
    try:
        stop_candidate.run(worker)
        left = containers(client, store=str(worker.settings.artifacts))
        assert left == [others]
        assert [path.name for path in (worker.settings.artifacts / "engines").iterdir()] == ["another run.partial-0"]
        assert ours not in left
    finally:
        for container in containers(client, store=str(worker.settings.artifacts)):
            client.remove_container(container, force=True)


def stage_of(worker: Worker, client: Any, run: str) -> str:
    """A stage's container, at work, with its partial directory; returns its id."""
    partial = worker.settings.artifacts / "engines" / f"{run}.partial-0"
    partial.mkdir(parents=True)
    labels = {
        LABEL_STORE: str(worker.settings.artifacts),
        LABEL_DAG: worker.dag_id,
        LABEL_RUN: run,
        LABEL_KEY: run,
        LABEL_PARTIAL: str(partial),
    }
    container = str(client.create_container(BASE, ["sleep", "600"], labels=labels)["Id"])
    client.start(container)
    return container


def test_a_run_that_has_left_nothing_ends_quietly(worker: Worker) -> None:
    lines: list[str] = []
    stop_candidate.run(replace(worker, log=lines.append))
    assert lines == ["nothing is live"]
