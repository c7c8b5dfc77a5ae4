"""The docker runner: a stage program in a container of its own.

A container is created, gets the stage code, and is started. The engine never removes it by itself, so that its
result outlives the worker that asked for it. `include.runners.container_job` ties one to an artifact.
"""

from __future__ import annotations

import io
import os
import tarfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from include.errors import PipelineError, TransientError
from include.runners.attach import STDERR, STDOUT, frames
from include.runners.engine import EngineAway, engine_errors
from include.runners.images import ensure_image
from include.runners.lines import Lines
from include.runners.process import LAST_LINES, failure
from include.settings import PROJECT
from include.store import Log

if TYPE_CHECKING:
    from docker import APIClient
    from requests import Response

CODE_ROOT = "/opt/hf2triton"
"""Where the stage code is in a container: its PYTHONPATH."""

LABEL_GPUS = "hf2triton.gpus"
ENGINE_WAIT_S = 60.0
_SILENCE_S = 1.0
_NOBODY = 65534
_KILLED = {128 + 9, 128 + 15}
_ACTIVE = ("running", "paused", "restarting")


@dataclass(frozen=True)
class ContainerSpec:
    """A container for one program. Paths are the same inside as outside.

    Of the host it sees ``reads``, and can write only ``out`` and ``caches``. ``gpus`` are device ids. ``build`` is
    the command that makes the image where no registry has it. ``user`` is ``uid:gid``; None is the caller, or
    nobody if the caller is root.
    """

    image: str
    argv: tuple[str, ...]
    out: Path
    reads: tuple[Path, ...] = ()
    caches: tuple[Path, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    gpus: tuple[str, ...] = ()
    network: Literal["none", "bridge"] = "none"
    shm_bytes: int | None = None
    ulimits: Mapping[str, int] = field(default_factory=dict)
    user: str | None = None
    build: str = ""


@dataclass(frozen=True)
class Container:
    """What the engine says of a container. ``started_at`` is in seconds since 1970, 0 if it never was."""

    id: str
    status: str
    exit_code: int
    oom_killed: bool
    started_at: float
    labels: Mapping[str, str]

    @classmethod
    def parse(cls, inspected: Mapping[str, Any]) -> Self:
        """Out of the engine's answer to ``inspect``."""
        state = inspected["State"]
        started = datetime.fromisoformat(state["StartedAt"])
        return cls(
            id=inspected["Id"],
            status=state["Status"],
            exit_code=state["ExitCode"],
            oom_killed=state["OOMKilled"],
            started_at=started.timestamp() if started.year > 1 else 0,
            labels=inspected["Config"]["Labels"] or {},
        )

    @property
    def active(self) -> bool:
        """Whether its program has yet to end."""
        return self.status in _ACTIVE

    @property
    def succeeded(self) -> bool:
        """Whether its program ended with exit code 0."""
        return self.status == "exited" and self.exit_code == 0


class DockerRunner:
    """Containers of one engine. ``connect`` is called when the engine is first needed."""

    def __init__(self, connect: Callable[[], APIClient], log: Log) -> None:
        self._connect = connect
        self._log = log
        self._attached: dict[str, Response] = {}

    @cached_property
    def _client(self) -> APIClient:
        return self._connect()

    def run(self, spec: ContainerSpec) -> None:
        """Runs a container to its end and removes it.

        Raises:
            PipelineError: as `failure_of`, or the engine's own failure.
        """
        container_id = self.create(spec)
        try:
            self.start(container_id)
            ended = self.follow(container_id)
            if not ended.succeeded:
                raise self.failure_of(ended, spec.argv, spec.out)
        finally:
            self.remove(container_id)

    def create(self, spec: ContainerSpec) -> str:
        """Makes a container that only has to be started, with the stage code in it; returns its id.

        Raises:
            HostError: the image is not there and cannot be had, or the engine cannot see a path.
        """
        ensure_image(self._client, spec.image, spec.build, self._log)
        user = spec.user or _hand_over(spec)
        with engine_errors(spec.image):
            created = self._client.create_container(
                spec.image,
                list(spec.argv),
                user=user,
                # The user has no entry in the image's /etc/passwd, which getpass and HOME would come from.
                environment={"HOME": "/tmp", "USER": "stage", **spec.env, "PYTHONPATH": CODE_ROOT},  # noqa: S108
                labels={**spec.labels, **({LABEL_GPUS: ",".join(spec.gpus)} if spec.gpus else {})},
                working_dir="/tmp",  # noqa: S108 - in the container
                # What is stopped is thrown away: nothing is gained by waiting for it.
                stop_signal="SIGKILL",
                host_config=self._host_config(spec),
            )
            self._client.put_archive(created["Id"], "/", stage_code())
        return str(created["Id"])

    def start(self, container_id: str) -> None:
        """Starts a created container; raises `HostError` if the host cannot give it what it asks for."""
        # Attached to before there is anything to miss, or to see twice.
        self._attached[container_id] = self._attach(container_id, logs=False, stream=True)
        with engine_errors(f"container {container_id[:12]}"):
            self._client.start(container_id)

    def follow(self, container_id: str) -> Container:
        """Logs all output of a container from its start, returns when its program has ended.

        Of a container that this runner has not started, a line may show twice that comes in the moment of attaching.

        Raises:
            TransientError: the container is gone, or ended because the engine was restarted.
            EngineAway: the engine went away and did not come back within `ENGINE_WAIT_S` seconds.
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
                if late:  # what it wrote in the moment of attaching, if that was its last
                    self._log_output(container_id, streams)
                for lines in streams.values():
                    lines.close()
                return _whole(container, restarted)

    def inspect(self, container_id: str) -> Container | None:
        """What the engine says of a container; None if there is none of that id."""
        from docker.errors import NotFound

        with engine_errors(f"container {container_id[:12]}"):
            try:
                return Container.parse(self._client.inspect_container(container_id))
            except NotFound:
                return None

    def find(self, labels: Mapping[str, str]) -> list[Container]:
        """All containers with these labels, whatever their state."""
        wanted = [f"{name}={value}" for name, value in labels.items()]
        with engine_errors("the Docker engine"):
            listed = self._client.containers(all=True, filters={"label": wanted})
        found = [self.inspect(summary["Id"]) for summary in listed]
        return [container for container in found if container]

    def gpus_in_use(self) -> set[str]:
        """Device ids that running containers hold."""
        with engine_errors("the Docker engine"):
            running = self._client.containers(filters={"label": LABEL_GPUS, "status": list(_ACTIVE)})
        return {device for summary in running for device in summary["Labels"][LABEL_GPUS].split(",")}

    def remove(self, container_id: str) -> None:
        """Kills the container if it runs, and removes it; one that is gone already is no error."""
        from docker.errors import APIError

        with engine_errors(f"container {container_id[:12]}"):
            try:
                self._client.remove_container(container_id, force=True, v=True)
            except APIError as error:
                if error.status_code not in {404, 409}:  # gone, or someone else is removing it
                    raise

    def failure_of(self, container: Container, argv: tuple[str, ...], out: Path) -> PipelineError:
        """Why a container's program ended with another exit code than 0.

        137 is what the kernel's killer leaves when memory is short, and what ``docker stop`` and a Docker that
        shuts down leave: the engine remembers for a while whom it has killed itself.
        """
        if container.exit_code in _KILLED and not container.oom_killed and self._killed_by_engine(container):
            return TransientError(
                f"container {container.id[:12]} was stopped from outside", where=" ".join(argv[:3]), fix="none: retried"
            )
        code = 128 + 9 if container.oom_killed else container.exit_code
        return failure(argv, code, out, self.last_lines(container.id))

    def last_lines(self, container_id: str) -> list[str]:
        """The last lines that its program wrote."""
        with engine_errors(f"container {container_id[:12]}"):
            text: bytes = self._client.logs(container_id, tail=LAST_LINES)
        return [line for line in text.decode(errors="replace").splitlines() if line.strip()][-LAST_LINES:]

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
        """Logs the output from its start until it ends, less what the streams have seen."""
        for lines in streams.values():
            lines.rewind()
        try:
            # The stream of a container that has ended would have no end.
            output = self._attached.pop(container_id, None) or self._attach(
                container_id, logs=True, stream=self._is_active(container_id)
            )
            for frame in frames(output, _SILENCE_S):
                for stream, lines in streams.items():
                    lines.feed(frame.data if stream == frame.stream else b"")
                if not frame.data and not self._is_active(container_id):
                    return  # it ended just before the attach, whose stream has no end then
        except EngineAway:
            return

    def _attach(self, container_id: str, *, logs: bool, stream: bool) -> Response:
        """The output so far, what comes, or both. (The engine's logs call has only lines that are complete.)"""
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
        """The container after its output has ended, which may be a moment before its state says so."""
        from docker.errors import APIError
        from requests.exceptions import ReadTimeout

        with engine_errors(f"container {container_id[:12]}"), suppress(APIError, ReadTimeout):
            self._client.wait(container_id, timeout=_SILENCE_S)
        return self.inspect(container_id)

    def await_engine(self) -> None:
        """Waits until an engine that went away answers again; raises `EngineAway` after `ENGINE_WAIT_S` seconds."""
        self._log("the Docker engine does not answer: waiting for it")
        deadline = time.monotonic() + ENGINE_WAIT_S
        while True:
            try:
                with engine_errors("the Docker engine"):
                    # An engine that shuts down takes no new connections, but answers on old ones to its very end.
                    self._client.close()
                    self._client.ping()
                return
            except EngineAway:
                if time.monotonic() > deadline:
                    raise
                time.sleep(_SILENCE_S)

    def _host_config(self, spec: ContainerSpec) -> dict[str, Any]:
        from docker.types import DeviceRequest, LogConfig, Mount, Ulimit

        writable = {spec.out, *spec.caches}
        mounts = [
            Mount(str(path), str(path), type="bind", read_only=path not in writable)
            for path in sorted({*spec.reads, *writable})
        ]
        config: dict[str, Any] = self._client.create_host_config(
            mounts=mounts,
            network_mode=spec.network,
            cap_drop=["ALL"],
            security_opt=["no-new-privileges"],
            shm_size=spec.shm_bytes,
            ulimits=[Ulimit(name=name, soft=limit, hard=limit) for name, limit in spec.ulimits.items()],
            device_requests=[DeviceRequest(device_ids=list(spec.gpus), capabilities=[["gpu"]])] if spec.gpus else None,
            # The engine's default may be one that cannot be read back.
            log_config=LogConfig(type="json-file"),
        )
        return config


def stage_code() -> bytes:
    """A tar of what stage programs import, as it lies in a container's root directory."""
    include = PROJECT / "include"
    files = [include / "__init__.py", include / "errors.py", *sorted((include / "stages").rglob("*"))]
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for path in [include, *files]:
            if path.name != "__pycache__" and path.suffix != ".pyc":
                tar.add(path, f"{CODE_ROOT}/{path.relative_to(PROJECT)}", recursive=False, filter=_readable_by_all)
    return buffer.getvalue()


def _readable_by_all(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mode = 0o755 if member.isdir() else 0o644
    return member


def _hand_over(spec: ContainerSpec) -> str:
    """Who the program runs as. A root caller gives its writable directories away; nothing else can run as root."""
    if os.getuid() != 0:
        return f"{os.getuid()}:{os.getgid()}"
    for path in (spec.out, *spec.caches):
        os.chown(path, _NOBODY, _NOBODY)
    return f"{_NOBODY}:{_NOBODY}"


def _whole(container: Container | None, restarted: bool) -> Container:
    if container is None:
        raise TransientError("the container was removed while it ran", fix="none: retried")
    if restarted and not container.succeeded:
        raise TransientError(
            f"the Docker engine was restarted, which ended container {container.id[:12]}",
            fix='none: retried. `"live-restore": true` in /etc/docker/daemon.json keeps containers running',
        )
    return container
