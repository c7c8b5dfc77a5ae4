"""The Docker engine that tests run against; without one they are skipped, and fail in CI."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import pytest

from include.host.docker.containers import ContainerSpec
from include.runners.container import StageContainers
from include.targets.openvino import image
from tests.support.wait import wait_for

BASE = "debian:bookworm-slim"


def lacking(what: str) -> NoReturn:
    """Skips a test for what this machine does not have; in CI, where it should have it, fails it."""
    if os.environ.get("CI"):
        pytest.fail(what, pytrace=False)
    pytest.skip(what)


def client_or_skip(**options: Any) -> Any:
    """A client of an engine that has the small base image."""
    import docker

    try:
        client = docker.APIClient(version="auto", **options)
        client.inspect_image(BASE)
    except docker.errors.ImageNotFound:
        lacking(f"this Docker engine has no {BASE}")
    except docker.errors.DockerException as error:
        lacking(f"no Docker engine: {error}")
    return client


def client_with_image_or_skip() -> Any:
    """A client of an engine that has the openvino target's image, too."""
    client = client_or_skip()
    if not client.images(name=image.image()):
        lacking(f"the image is not built: {image.BUILD_COMMAND}")
    return client


def containers(client: Any, **labels: str) -> list[str]:
    """Ids of all containers with these labels, given without their prefix ``hf2triton.``."""
    wanted = [f"hf2triton.{name}={value}" for name, value in labels.items()]
    return [summary["Id"] for summary in client.containers(all=True, filters={"label": wanted})]


@contextmanager
def frozen(client: Any, container: str) -> Iterator[None]:
    """Whatever takes how long meanwhile: the container's program does not end."""
    wait_for(lambda: client.inspect_container(container)["State"]["Running"])
    client.pause(container)
    try:
        yield
    finally:
        client.unpause(container)


@contextmanager
def none_left(client: Any, folder: Path) -> Iterator[None]:
    """After the block no container may be there that sees anything below ``folder``; removes those that are."""
    yield
    listed = client.containers(all=True)
    left = [c["Id"] for c in listed if any(Path(m["Source"]).is_relative_to(folder) for m in c["Mounts"])]
    for container in left:
        client.remove_container(container, force=True)
    assert not left


def run_to_end(containers: StageContainers, spec: ContainerSpec) -> None:
    """Runs a stage container to its end and removes it; raises the failure of its program."""
    container = containers.create(spec)
    try:
        containers.start(container)
        ended = containers.follow(container)
        if not ended.succeeded:
            raise containers.failure_of(ended, spec.argv, spec.out)
    finally:
        containers.remove(container)
