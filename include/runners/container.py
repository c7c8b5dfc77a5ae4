"""Stage programs, each in a container of its own.

A container is created, gets the stage code, and is started. The engine never removes it by itself, so its result
outlives the worker that started it. `include.runners.container_job` connects a container to an artifact.
"""

from __future__ import annotations

import io
import tarfile
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from include.errors import PipelineError, TransientError
from include.host.docker.attach import STDERR, STDOUT, frames
from include.host.docker.containers import Container, Containers, ContainerSpec
from include.host.docker.engine import EngineAway, engine_errors
from include.host.docker.lines import Lines
from include.runners.job import travelling_code
from include.runners.process import failure
from include.settings import PROJECT

if TYPE_CHECKING:
    from requests import Response

CODE_ROOT = "/opt/hf2triton"
"""The directory of the stage code in a container: its PYTHONPATH."""

ENGINE_WAIT_S = 60.0
_SILENCE_S = 1.0
_KILLED = {128 + 9, 128 + 15}


class StageContainers(Containers):
    """The containers of stage programs on one engine."""

    @cached_property
    def _attached(self) -> dict[str, Response]:
        return {}

    def create(self, spec: ContainerSpec) -> str:
        """Creates a container as `Containers.create` does, with the stage code in it."""
        # The result of a stopped container is discarded, so there is no reason to wait for its end.
        inside = {"env": {**spec.env, "PYTHONPATH": CODE_ROOT}, "stop_signal": "SIGKILL"}
        created = super().create(spec.model_copy(update=inside))
        with engine_errors(f"container {created[:12]}"):
            self._client.put_archive(created, "/", code_archive())
        return created

    def start(self, container_id: str) -> None:
        """Starts a created container; raises `HostError` if the host lacks a resource that it asks for."""
        # Attached before the start, so that no output is missed or logged twice.
        self._attached[container_id] = self._attach(container_id, logs=False, stream=True)
        super().start(container_id)

    def follow(self, container_id: str) -> Container:
        """Logs all output of a container from its start, returns when its program has ended.

        If another runner started the container, a line written at the moment of attaching may be logged twice.

        Raises:
            TransientError: the container is gone, or ended because the engine was restarted.
            EngineAway: the engine stopped answering, and did not answer again within `ENGINE_WAIT_S` seconds.
        """
        streams = {STDOUT: Lines(self._log), STDERR: Lines(self._log)}
        restarted, late = False, container_id not in self._attached
        while True:
            self._log_output(container_id, streams)
            try:
                container = self._ended(container_id)
            except EngineAway:
                self.await_engine()
                container, restarted = self.inspect(container_id), True
            if container is None or not container.active:
                if late:  # output from the moment of attaching, if it was the last
                    self._log_output(container_id, streams)
                for lines in streams.values():
                    lines.close()
                return _whole(container, restarted)

    def failure_of(self, container: Container, argv: tuple[str, ...], out: Path | None) -> PipelineError:
        """The failure of a container's program that ended with another exit code than 0.

        Exit code 137 comes from the kernel's out-of-memory killer, but also from ``docker stop`` and from an engine
        that shuts down: the engine remembers for a while which containers it has killed itself.
        """
        if container.exit_code in _KILLED and not container.oom_killed and self._killed_by_engine(container):
            return TransientError(
                f"container {container.id[:12]} was stopped from outside", where=" ".join(argv[:3]), fix="none: retried"
            )
        code = 128 + 9 if container.oom_killed else container.exit_code
        return failure(argv, code, out, self.last_lines(container.id))

    def _killed_by_engine(self, container: Container) -> bool:
        with engine_errors(f"container {container.id[:12]}"):
            events = self._client.events(
                since=f"{container.started_at:.6f}",
                until=f"{time.time():.6f}",
                filters={"container": container.id, "event": "kill"},
                decode=True,
            )
            return any(True for _ in events)

    def _log_output(self, container_id: str, streams: Mapping[int, Lines]) -> None:
        """Logs the output from its start to its end, without the bytes that the streams have seen."""
        for lines in streams.values():
            lines.rewind()
        try:
            # The stream of a container that has ended would never end.
            output = self._attached.pop(container_id, None) or self._attach(
                container_id, logs=True, stream=self._is_active(container_id)
            )
            for source, data in frames(output, _SILENCE_S):
                for stream, lines in streams.items():
                    lines.feed(data if stream == source else b"")
                if not data and not self._is_active(container_id):
                    return  # it ended just before the attach, so the stream would never end
        except EngineAway:
            return

    def _attach(self, container_id: str, *, logs: bool, stream: bool) -> Response:
        """The output so far, the output to come, or both. (The engine's logs call gives only complete lines.)"""
        with engine_errors(f"container {container_id[:12]}"):
            response: Response = self._client.post(
                f"{self._client.base_url}/v{self._client.api_version}/containers/{container_id}/attach",
                params={"logs": int(logs), "stream": int(stream), "stdout": 1, "stderr": 1},
                stream=True,
                timeout=None,
            )
        return response

    def _is_active(self, container_id: str) -> bool:
        container = self.inspect(container_id)
        return container is not None and container.active

    def _ended(self, container_id: str) -> Container | None:
        """The container after its output has ended; its state may change a moment later."""
        from docker.errors import APIError
        from requests.exceptions import ReadTimeout

        with engine_errors(f"container {container_id[:12]}"), suppress(APIError, ReadTimeout):
            self._client.wait(container_id, timeout=_SILENCE_S)
        return self.inspect(container_id)

    def await_engine(self) -> None:
        """Waits until the engine answers again; raises `EngineAway` after `ENGINE_WAIT_S` seconds."""
        self._log("the Docker engine does not answer: waiting for it")
        deadline = time.monotonic() + ENGINE_WAIT_S
        while True:
            try:
                with engine_errors("the Docker engine"):
                    # An engine that shuts down takes no new connections, but answers on old ones until it ends.
                    self._client.close()
                    self._client.ping()
                return
            except EngineAway:
                if time.monotonic() > deadline:
                    raise
                time.sleep(_SILENCE_S)


def code_archive() -> bytes:
    """A tar of the code that stage programs import, to be unpacked in a container's root directory."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        tar.add(PROJECT / "include", f"{CODE_ROOT}/include", recursive=False, filter=_readable_by_all)
        for path in travelling_code():
            tar.add(path, f"{CODE_ROOT}/{path.relative_to(PROJECT)}", filter=_readable_by_all)
    return buffer.getvalue()


def _readable_by_all(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    if "__pycache__" in member.name:
        return None
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mode = 0o755 if member.isdir() else 0o644
    return member


def _whole(container: Container | None, restarted: bool) -> Container:
    if container is None:
        raise TransientError("the container was removed while it ran", fix="none: retried")
    if restarted and not container.succeeded:
        raise TransientError(
            f"the Docker engine was restarted, which ended container {container.id[:12]}",
            fix='none: retried. `"live-restore": true` in /etc/docker/daemon.json keeps containers running',
        )
    return container
