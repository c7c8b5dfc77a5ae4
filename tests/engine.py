"""The Docker engine that tests run against; without one they are skipped."""

from __future__ import annotations

from typing import Any

import pytest

BASE = "debian:bookworm-slim"


def client_or_skip(**options: Any) -> Any:
    """A client of an engine that has the small base image."""
    import docker

    try:
        client = docker.APIClient(version="auto", **options)
        client.inspect_image(BASE)
    except docker.errors.ImageNotFound:
        pytest.skip(f"this Docker engine has no {BASE}")
    except docker.errors.DockerException as error:
        pytest.skip(f"no Docker engine: {error}")
    return client


def containers(client: Any, **labels: str) -> list[str]:
    """Ids of all containers with these labels, given without their prefix ``hf2triton.``."""
    wanted = [f"hf2triton.{name}={value}" for name, value in labels.items()]
    return [summary["Id"] for summary in client.containers(all=True, filters={"label": wanted})]
