"""Services as containers of this host's Docker engine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from include.host.docker.containers import Container, Containers
from include.host.services import R, ServiceRecord, ServiceSpec, keep_last, write

_KILLED = 128 + 9


@dataclass(frozen=True)
class ContainerBackend:
    """The backend for containers; their ``label`` holds the record's token."""

    label: str
    containers: Containers

    def start(self, spec: ServiceSpec, record: R, path: Path) -> R:
        """Starts a container; raises `HostError` if the image, a GPU, a path or a port is not available."""
        if spec.container is None:
            raise ValueError("a service without a container is started as a process")
        write(record, path)
        keep_last(record.log)
        box = spec.in_container(spec.container)
        labels = {**box.labels, self.label: record.token}
        created = self.containers.create(box.model_copy(update={"labels": labels, "gpus": record.gpus}))
        record = record.model_copy(update={"container_id": created})
        write(record, path)
        self.containers.start(created)
        return record

    def keep_across_restarts(self, record: ServiceRecord) -> None:
        """Makes the engine restart the container whenever it ends."""
        self.containers.restart_always(record.container_id)

    def find(self, record: R, path: Path) -> R | None:
        """The record with its container's id, if that runs or is starting; a container that has ended is removed."""
        container = self._container(record)
        if container and (container.active or container.status == "created"):
            return record.model_copy(update={"container_id": container.id})
        self.stop(record, path, grace_s=0)
        return None

    def is_up(self, record: ServiceRecord, port: int) -> bool:
        """True if the record's container runs: a server that cannot get its port ends, so the port needs no check."""
        container = self._container(record)
        return container is not None and container.status == "running"

    def why_gone(self, record: ServiceRecord) -> str | None:
        """The way in which the container's program ended; None if it still runs."""
        container = self._container(record)
        if container is None:
            return "its container was removed"
        if container.active and container.status != "restarting":
            return None
        return _way(_KILLED if container.oom_killed else container.exit_code)

    def why_restarted(self, record: ServiceRecord, since: float) -> str | None:
        """The way in which the program ended if the engine has started it again since a time, in seconds since 1970."""
        container = self._container(record)
        if container is None or container.started_at <= since:
            return None
        codes = self.containers.exit_codes(container.id, since)
        return f"{_way(codes[-1]) if codes else 'it ended'}; the engine started it again"

    def memory(self, record: ServiceRecord) -> int | None:
        """The bytes of host memory that the container holds, without the cache of files; None if it is not known."""
        container = self._container(record)
        return self.containers.memory(container.id) if container else None

    def collect_log(self, record: ServiceRecord) -> None:
        """Copies the container's output into the record's log, because removing a container removes its own log."""
        if container := self._container(record):
            self.containers.save_log(container.id, record.log)

    def stop(self, record: ServiceRecord, path: Path, grace_s: float) -> None:
        """Stops and removes the container; its log is kept."""
        for container in self.containers.find({self.label: record.token}):
            if container.active and grace_s:
                self.containers.stop(container.id, grace_s)
            self.containers.save_log(container.id, record.log)
            self.containers.remove(container.id)
        path.unlink(missing_ok=True)

    def _container(self, record: ServiceRecord) -> Container | None:
        return next(iter(self.containers.find({self.label: record.token})), None)


def _way(exit_code: int) -> str:
    if exit_code == _KILLED:
        return "it was killed, most likely for want of memory (OOM)"
    return f"exit code {exit_code}"
