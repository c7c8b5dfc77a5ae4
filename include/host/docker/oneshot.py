"""An image for one-off use: inspecting it, running one command in it, copying files out of it."""

from __future__ import annotations

import io
import logging
import secrets
import shutil
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

from include.host.docker.containers import Containers, ContainerSpec
from include.host.docker.engine import engine_errors, local_engine
from include.host.docker.images import ImageId
from include.host.docker.registry import FindLogin, no_login

LABEL = "hf2triton.one-shot"
_TIMEOUT_S = 300

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Finished:
    """A finished command: its exit code, and its output on both streams."""

    code: int
    output: str


class DockerImage(Containers):
    """One image of this host's engine. Connects at the first use; ``find_login`` is called before a pull."""

    def __init__(self, name: str, find_login: FindLogin = no_login) -> None:
        super().__init__(partial(local_engine, timeout_s=_TIMEOUT_S), log.info, find_login)
        self.name = name

    def ensure(self) -> ImageId:
        """Calls `Containers.ensure_image` for this image."""
        return self.ensure_image(self.name)

    def run(self, argv: Sequence[str], *, gpus: bool = False) -> Finished:
        """Runs a command in a temporary container without a network. ``gpus`` gives it all GPUs.

        The image's own entrypoint is left out: NVIDIA's prints pages of text before the command's output.

        Raises:
            HostError: the container could not be started, e.g. without an NVIDIA runtime.
        """
        with self._container(tuple(argv), ("all",) if gpus else ()) as container:
            self.start(container)
            with engine_errors(self.name):
                code = self._client.wait(container, timeout=_TIMEOUT_S)["StatusCode"]
                return Finished(code=code, output=self._client.logs(container).decode(errors="replace"))

    def copy_out(self, path: str, into: Path) -> None:
        """Copies a directory of the image to ``into``, whole or not at all. No program of the image is run.

        If another process did the same meanwhile, its copy stays.
        """
        draft = into.with_name(f".{into.name}.{secrets.token_hex(4)}")
        draft.mkdir(parents=True)
        try:
            with self._container(("true",)) as container, engine_errors(self.name):
                chunks, _ = self._client.get_archive(container, path)
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
    def _container(self, argv: tuple[str, ...], gpus: tuple[str, ...] = ()) -> Iterator[str]:
        """A container that is created but not started, and removed at the end of the block."""
        spec = ContainerSpec(image=self.name, entrypoint=argv[:1], argv=argv[1:], labels={LABEL: "true"}, gpus=gpus)
        container = self.create(spec)
        try:
            yield container
        finally:
            self.remove(container)
