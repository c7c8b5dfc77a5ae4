"""What is asked of the Docker engine besides running stages: look at the image, run one command, copy files out."""

from __future__ import annotations

import io
import logging
import secrets
import shutil
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from include.host.docker.errors import failure
from include.host.docker.images import ensure_image
from include.host.docker.registry import FindLogin, no_login

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.models.containers import Container

LABEL = "hf2triton.one-shot"
_TIMEOUT_S = 300

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImageId:
    """Names of an image that cannot move to another: the engine's ``id``, and the registry's ``digest`` if any."""

    id: str
    digest: str | None


@dataclass(frozen=True)
class Finished:
    """A command that has ended: its exit code, and what it printed on both streams."""

    code: int
    output: str


class DockerImage:
    """One image of the Docker engine that the environment names (``DOCKER_HOST``). Connects when first used.

    ``find_login`` is called if it has to be pulled.
    """

    def __init__(self, name: str, find_login: FindLogin = no_login) -> None:
        self.name = name
        self._find_login = find_login

    def ensure(self) -> ImageId:
        """The image's id, and its digest in the registry that it was asked from; pulled if this host does not have it.

        Raises:
            HostError: no Docker, or the registry refuses, or the disk is full.
            UserError: there is no such image.
            TransientError: the registry cannot be reached.
        """
        from docker.utils import parse_repository_tag

        with _failures(self.name):
            ensure_image(self._client.api, self.name, "", log.info, self._find_login)
            image = self._client.images.get(self.name)
        # Other registries, or this one, may have the same image by other digests.
        repository = parse_repository_tag(self.name)[0]
        names = sorted(
            image.attrs.get("RepoDigests") or (),
            key=lambda name: (name != self.name, not name.startswith(f"{repository}@")),
        )
        return ImageId(id=str(image.id), digest=names[0].partition("@")[2] if names else None)

    def run(self, argv: Sequence[str], *, gpus: bool = False) -> Finished:
        """Runs a command in a container of its own, without a network, that is gone afterwards.

        Raises:
            HostError: the container could not be started, e.g. for want of an NVIDIA runtime.
        """
        with self._container(list(argv), gpus=gpus) as container:
            container.start()
            code = container.wait(timeout=_TIMEOUT_S)["StatusCode"]
            return Finished(code=code, output=container.logs().decode(errors="replace"))

    def copy_out(self, path: str, into: Path) -> None:
        """Copies a directory of the image to ``into``, whole or not at all. Nothing of the image is run.

        If another process did the same meanwhile, its copy stays.
        """
        draft = into.with_name(f".{into.name}.{secrets.token_hex(4)}")
        draft.mkdir(parents=True)
        try:
            with self._container(["true"]) as container:
                chunks, _ = container.get_archive(path)
                archive = io.BytesIO(b"".join(chunks))
            with tarfile.open(fileobj=archive) as tar:
                tar.extractall(draft, filter="data")
            try:
                (draft / PurePosixPath(path).name).rename(into)
            except OSError:
                if not into.is_dir():
                    raise
        finally:
            shutil.rmtree(draft, ignore_errors=True)

    @contextmanager
    def _container(self, argv: list[str], *, gpus: bool = False) -> Iterator[Container]:
        """A container that was created, not started; removed in the end, started or not."""
        from docker.types import DeviceRequest

        everything = [DeviceRequest(count=-1, capabilities=[["gpu"]])] if gpus else None
        with _failures(self.name):
            container = self._client.containers.create(
                self.name,
                argv,
                device_requests=everything,
                network_disabled=True,
                cap_drop=["ALL"],
                security_opt=["no-new-privileges"],
                labels={LABEL: "true"},
            )
            try:
                yield container
            finally:
                container.remove(force=True)

    @cached_property
    def _client(self) -> DockerClient:
        import docker

        return docker.from_env(timeout=_TIMEOUT_S)


@contextmanager
def _failures(where: str) -> Iterator[None]:
    """Docker's and the connection's own errors become failures that name a cause."""
    from docker.errors import APIError, DockerException
    from requests.exceptions import RequestException

    try:
        yield
    except APIError as error:
        raise failure(str(error.explanation or error), where=where) from error
    except (DockerException, RequestException) as error:
        raise failure(str(error), where=where) from error
