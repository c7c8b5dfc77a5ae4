"""Where the openvino target takes its image from."""

from __future__ import annotations

from pathlib import Path

import pytest

from include.settings import Settings
from include.targets.openvino import OpenVinoTarget, image
from tests.support.echo import free, write_repository

REGISTRY = "registry.example:5000/hf2triton/openvino"


@pytest.mark.parametrize(
    ("repository", "name", "build"),
    [
        (None, image.image(), image.BUILD_COMMAND),
        (REGISTRY, f"{REGISTRY}:{image.image().partition(':')[2]}", ""),
    ],
    ids=["built here", "from a registry"],
)
def test_stages_and_servers_run_in_it_and_keys_do_not_depend_on_where_it_is(
    tmp_path: Path, repository: str | None, name: str, build: str
) -> None:
    target = OpenVinoTarget(Settings(runner="docker", openvino_image=repository))
    found = target.stage_image()
    plan = target.server(write_repository(tmp_path), free())
    assert plan.container
    assert (found.image, found.build) == (plan.container.image, plan.container.build) == (name, build)
    assert target.environment() == {"image": image.image()}


def test_the_packages_of_the_image_are_those_of_its_locks() -> None:
    packages = OpenVinoTarget(Settings(runner="docker")).packages()
    assert packages["torch"].startswith("2.")
    assert packages["numpy"] == "1.26.4"
    assert "nvidia-cudnn-cu13" not in packages
