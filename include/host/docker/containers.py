"""Containers of one Docker engine: creating, inspecting and stopping them. Their programs are defined elsewhere."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import BaseModel, ConfigDict

from include.errors import HostError
from include.files import Log
from include.host.docker.engine import engine_errors
from include.host.docker.images import ImageId, check_digest, pull
from include.host.docker.registry import FindLogin, no_login
from include.settings import settings

if TYPE_CHECKING:
    from docker import APIClient

LABEL_GPUS = "hf2triton.gpus"
LAST_LINES = 15
_NOBODY = 65534
_ACTIVE = ("running", "paused", "restarting")


class ContainerSpec(BaseModel):
    """The specification of a container for one program. Paths are the same inside as outside.

    It reads the host paths ``reads``, and writes only ``out`` and ``caches``. ``gpus`` are device ids. ``ports`` are
    published on ``address`` under the same numbers. ``build`` is the command that builds an image that no registry
    has. ``entrypoint`` stands for the image's own. ``user`` is ``uid:gid``; None is the caller, or nobody if the caller
    is root. ``log_options`` are those of the engine's ``json-file`` log.
    """

    model_config = ConfigDict(frozen=True)
    image: str
    argv: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] | None = None
    out: Path | None = None
    reads: tuple[Path, ...] = ()
    caches: tuple[Path, ...] = ()
    env: dict[str, str] = {}
    labels: dict[str, str] = {}
    gpus: tuple[str, ...] = ()
    network: Literal["none", "bridge", "host"] = "none"
    ports: tuple[int, ...] = ()
    address: str = "127.0.0.1"
    shm_bytes: int | None = None
    ulimits: dict[str, int] = {}
    user: str | None = None
    build: str = ""
    stop_signal: str | None = None
    log_options: dict[str, str] = {}

    @property
    def writable(self) -> frozenset[Path]:
        """The paths that the program can write to."""
        return frozenset([*self.caches, *([self.out] if self.out else [])])


@dataclass(frozen=True)
class Container:
    """The state of a container. ``started_at`` is in seconds since 1970, 0 if it was never started."""

    id: str
    status: str
    exit_code: int
    oom_killed: bool
    started_at: float
    labels: Mapping[str, str]

    @classmethod
    def parse(cls, inspected: Mapping[str, Any]) -> Self:
        """Parses the engine's answer to ``inspect``."""
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
        """True if its program has not ended yet."""
        return self.status in _ACTIVE

    @property
    def succeeded(self) -> bool:
        """True if its program ended with exit code 0."""
        return self.status == "exited" and self.exit_code == 0


class Containers:
    """The containers of one engine. ``connect`` is called when it is first needed, ``find_login`` before a pull.

    All methods raise `HostError` or `TransientError` if the engine cannot be reached.
    """

    def __init__(self, connect: Callable[[], APIClient], log: Log, find_login: FindLogin = no_login) -> None:
        self._connect = connect
        self._log = log
        self._find_login = find_login

    @cached_property
    def _client(self) -> APIClient:
        return self._connect()

    def ensure_image(self, image: str, build: str = "") -> ImageId:
        """Pulls the image if the engine does not have it; an image that has to be built on the host is never pulled.

        Raises:
            HostError: the image is missing and cannot be pulled, or its digest is none that the deployment accepts.
            PipelineError: as `include.host.docker.images.pull`.
        """
        from docker.errors import ImageNotFound

        with engine_errors(image):
            with suppress(ImageNotFound):
                return self._identify(image, build)
            if build:
                raise HostError(f"image {image} is not on this host", fix=f"in the project: {build}")
            if image.startswith("sha256:"):
                raise HostError(
                    f"image {image} is gone from this host",
                    fix="trigger release_awq_engine, which gets it by its name; or `docker load` a copy",
                )
            pull(self._client, image, self._log, self._find_login())
            return self._identify(image, build)

    def _identify(self, image: str, build: str) -> ImageId:
        """The image's names; an image that is built on the host comes from no registry, and has no digest."""
        inspected = self._client.inspect_image(image)
        check_digest(image, inspected, () if build else settings().image_digests)
        return ImageId.of(image, inspected)

    def create(self, spec: ContainerSpec) -> str:
        """Creates a container without starting it; returns its id.

        Raises:
            HostError: the image is missing and cannot be pulled, or the engine cannot see a path.
        """
        self.ensure_image(spec.image, spec.build)
        user = spec.user or _hand_over(spec)
        with engine_errors(spec.image):
            created = self._client.create_container(
                spec.image,
                list(spec.argv),
                entrypoint=None if spec.entrypoint is None else list(spec.entrypoint),
                user=user,
                # The user has no entry in the image's /etc/passwd, so getpass and HOME need these variables.
                environment={"HOME": "/tmp", "USER": "hf2triton", **spec.env},  # noqa: S108 - in the container
                labels={**spec.labels, **({LABEL_GPUS: ",".join(spec.gpus)} if spec.gpus else {})},
                working_dir="/tmp",  # noqa: S108 - in the container
                ports=list(spec.ports),
                stop_signal=spec.stop_signal,
                host_config=self._host_config(spec),
                # The proxies of the engine's clients, with their passwords, are not the program's.
                use_config_proxy=False,
            )
        return str(created["Id"])

    def start(self, container_id: str) -> None:
        """Starts a created container; raises `HostError` if the host lacks a resource that it asks for."""
        with engine_errors(f"container {container_id[:12]}"):
            self._client.start(container_id)

    def restart_always(self, container_id: str) -> None:
        """Makes the engine restart the container after it ends or the host restarts, unless it was stopped."""
        with engine_errors(f"container {container_id[:12]}"):
            self._client.update_container(container_id, restart_policy={"Name": "unless-stopped"})

    def exit_codes(self, container_id: str, since: float) -> list[int]:
        """The exit codes with which its program has ended since a time, as far as the engine remembers them."""
        filters = {"container": container_id, "event": "die"}
        with engine_errors(f"container {container_id[:12]}"):
            events = self._client.events(since=int(since), until=int(time.time()) + 1, filters=filters, decode=True)
            return [int(event["Actor"]["Attributes"]["exitCode"]) for event in events]

    def inspect(self, container_id: str) -> Container | None:
        """The state of a container; None if the engine has none with that id."""
        with _unless_gone(container_id):
            return Container.parse(self._client.inspect_container(container_id))
        return None

    def find(self, labels: Mapping[str, str]) -> list[Container]:
        """All containers with these labels, in any state."""
        wanted = [f"{name}={value}" for name, value in labels.items()]
        with engine_errors("the Docker engine"):
            listed = self._client.containers(all=True, filters={"label": wanted})
        found = [self.inspect(summary["Id"]) for summary in listed]
        return [container for container in found if container]

    def gpus_in_use(self, besides: Collection[str] = ()) -> set[str]:
        """The device ids that running containers hold, except the containers with an id in ``besides``."""
        with engine_errors("the Docker engine"):
            running = self._client.containers(filters={"label": LABEL_GPUS, "status": list(_ACTIVE)})
        counted = (summary for summary in running if summary["Id"] not in besides)
        return {device for summary in counted for device in summary["Labels"][LABEL_GPUS].split(",")}

    def memory(self, container_id: str) -> int | None:
        """The bytes of memory that a running container holds, without the cache of files, as ``docker stats`` says."""
        stats = self._client.stats(container_id, stream=False, one_shot=True).get("memory_stats", {})
        usage, cache = stats.get("usage"), stats.get("stats", {}).get("inactive_file", 0)
        return None if usage is None else usage - cache

    def stop(self, container_id: str, grace_s: float) -> None:
        """Asks the program to end, and kills it after ``grace_s`` seconds. A missing container is no error."""
        with _unless_gone(container_id):
            self._client.stop(container_id, timeout=round(grace_s))

    def remove(self, container_id: str) -> None:
        """Kills the container if it runs, and removes it; a missing container is no error."""
        from docker.errors import APIError

        with engine_errors(f"container {container_id[:12]}"):
            try:
                self._client.remove_container(container_id, force=True, v=True)
            except APIError as error:
                if error.status_code not in {404, 409}:  # gone, or another process is removing it
                    raise

    def last_lines(self, container_id: str) -> list[str]:
        """The last lines that its program wrote."""
        with engine_errors(f"container {container_id[:12]}"):
            text: bytes = self._client.logs(container_id, tail=LAST_LINES)
        return [line for line in text.decode(errors="replace").splitlines() if line.strip()][-LAST_LINES:]

    def save_log(self, container_id: str, path: Path) -> None:
        """Writes the container's whole output into a file; writes nothing if the container is gone."""
        with _unless_gone(container_id):
            output = self._client.logs(container_id, stream=True, follow=False)
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                file.writelines(output)

    def _host_config(self, spec: ContainerSpec) -> dict[str, Any]:
        from docker.types import DeviceRequest, LogConfig, Mount, Ulimit

        mounts = [
            Mount(str(path), str(path), type="bind", read_only=path not in spec.writable)
            for path in sorted({*spec.reads, *spec.writable})
        ]
        config: dict[str, Any] = self._client.create_host_config(
            mounts=mounts,
            network_mode=spec.network,
            port_bindings={port: (spec.address, port) for port in spec.ports},
            cap_drop=["ALL"],
            security_opt=["no-new-privileges"],
            shm_size=spec.shm_bytes,
            ulimits=[Ulimit(name=name, soft=limit, hard=limit) for name, limit in spec.ulimits.items()],
            device_requests=[DeviceRequest(device_ids=list(spec.gpus), capabilities=[["gpu"]])] if spec.gpus else None,
            # The engine's default log driver may be one whose logs cannot be read back.
            log_config=LogConfig(type="json-file", config=dict(spec.log_options)),
        )
        return config


@contextmanager
def _unless_gone(container_id: str) -> Iterator[None]:
    """Leaves the block if the engine no longer has a container with that id."""
    from docker.errors import NotFound

    with engine_errors(f"container {container_id[:12]}"), suppress(NotFound):
        yield


def _hand_over(spec: ContainerSpec) -> str:
    """The program's user. If the caller is root, its writable directories are given to that user."""
    user, group = user_of_programs()
    if os.getuid() == 0:
        for path in spec.writable:
            os.chown(path, user, group)
    return f"{user}:{group}"


def user_of_programs() -> tuple[int, int]:
    """The user and the group of containers: the caller's, or nobody's if the caller is root."""
    return (os.getuid(), os.getgid()) if os.getuid() != 0 else (_NOBODY, _NOBODY)
