"""Looking into an image, against a real Docker engine. Skipped where there is none with the small base image."""

from __future__ import annotations

from pathlib import Path

import docker  # noqa: TID253
import pytest
from docker.errors import DockerException, ImageNotFound  # noqa: TID253

from include.errors import HostError, ToolError
from include.host.docker.oneshot import LABEL, DockerImage
from tests.support.engine import BASE, lacking

pytestmark = pytest.mark.docker


@pytest.fixture(scope="module")
def client() -> docker.DockerClient:
    try:
        client = docker.from_env()
        client.images.get(BASE)
    except ImageNotFound:
        lacking(f"this Docker engine has no {BASE}")
    except DockerException as error:
        lacking(f"no Docker engine: {error}")
    return client


@pytest.fixture
def image(client: docker.DockerClient) -> DockerImage:
    return DockerImage(BASE)


def left(client: docker.DockerClient) -> list[str]:
    return [c.id for c in client.containers.list(all=True, filters={"label": LABEL})]


def test_an_image_is_known_by_what_cannot_move(image: DockerImage, client: docker.DockerClient) -> None:
    assert image.ensure().id == client.images.get(BASE).id


def test_a_command_runs_alone_without_a_network_and_leaves_nothing(
    image: DockerImage, client: docker.DockerClient
) -> None:
    done = image.run(["ls", "/sys/class/net"])
    assert (done.code, done.output.split()) == (0, ["lo"])
    assert left(client) == []


def test_a_commands_exit_code_and_both_streams_come_back(image: DockerImage) -> None:
    done = image.run(["sh", "-c", "echo out; echo err >&2; exit 9"])
    assert (done.code, sorted(done.output.split())) == (9, ["err", "out"])


def test_a_command_that_is_not_there_is_an_error_and_leaves_nothing(
    image: DockerImage, client: docker.DockerClient
) -> None:
    with pytest.raises(ToolError, match="nvidia-smi"):
        image.run(["nvidia-smi"])
    assert left(client) == []


def test_a_gpu_is_given_or_its_want_explained(image: DockerImage, client: docker.DockerClient) -> None:
    try:
        said = f"exit code {image.run(['true'], gpus=True).code}"
    except HostError as error:
        said = error.what
    assert said == "exit code 0" or "no NVIDIA runtime" in said
    assert left(client) == []


def test_a_directory_is_copied_out_whole(image: DockerImage, client: docker.DockerClient, tmp_path: Path) -> None:
    image.copy_out("/etc/apt", tmp_path / "apt")
    assert (tmp_path / "apt" / "trusted.gpg.d").is_dir()
    (tmp_path / "apt" / "ours").touch()
    image.copy_out("/etc/apt", tmp_path / "apt")
    assert (tmp_path / "apt" / "ours").exists(), "the copy that is there stays"
    assert [path.name for path in tmp_path.iterdir()] == ["apt"]
    assert left(client) == []


def test_a_directory_that_is_not_there_is_an_error_and_leaves_nothing(image: DockerImage, tmp_path: Path) -> None:
    with pytest.raises(ToolError, match="/app/all_models"):
        image.copy_out("/app/all_models", tmp_path / "templates")
    assert list(tmp_path.iterdir()) == []
