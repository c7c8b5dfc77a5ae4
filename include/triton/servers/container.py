"""Servers as detached containers of this host's Docker engine."""

from __future__ import annotations

from pathlib import Path

from include.files import Log, write_atomic
from include.host import processes
from include.host.docker.containers import Container, Containers, ContainerSpec
from include.host.docker.engine import local_engine
from include.triton.servers.plan import ContainerPlan, ServerPlan, ServerRecord
from include.triton.servers.records import live_record

LABEL_SERVER = "hf2triton.server"
"""Holds the record's token."""

_LOG_OPTIONS = {"max-size": "64m", "max-file": "4"}  # a server's log would grow as long as it lives
_KILLED = 128 + 9


class ContainerServers:
    """The `include.triton.servers.Backend` of servers that have a container, described by ``plan``."""

    def __init__(self, plan: ContainerPlan, log: Log) -> None:
        self._plan = plan
        self._containers = Containers(local_engine, log)

    def start(self, record: ServerRecord, record_path: Path) -> ServerRecord:
        """Raises `HostError` if the image, a GPU, a path or a port cannot be had."""
        # What the record names can be found from now on, whenever this process is killed.
        write_atomic(record_path, record.model_dump_json(indent=1))
        processes.keep_last(record.log)
        spec = _spec(record, self._plan)
        record = record.model_copy(update={"container_id": self._containers.create(spec)})
        write_atomic(record_path, record.model_dump_json(indent=1))
        self._containers.start(record.container_id)
        return record

    def settle(self, record: ServerRecord) -> None:
        """From now on it comes back with its host. Before it was ready that would only repeat its failure."""
        self.collect_log(record)
        self._containers.restart_always(record.container_id)

    def find(self, record: ServerRecord, record_path: Path) -> ServerRecord | None:
        """The record with its container's id, if that runs or is about to; one that has ended is removed."""
        container = self._container(record)
        if container and (container.active or container.status == "created"):
            return record.model_copy(update={"container_id": container.id})
        self.stop(record, record_path, grace_s=0)
        return None

    def is_up(self, record: ServerRecord) -> bool:
        """Whether that very container runs: a published port is its alone, and without its port Triton ends."""
        container = self._container(record)
        return container is not None and container.status == "running"

    def why_gone(self, record: ServerRecord) -> str | None:
        """How its program ended."""
        container = self._container(record)
        if container is None:
            return "its container was removed"
        if container.active:
            return None
        if container.oom_killed or container.exit_code == _KILLED:
            return "it was killed, most likely for want of memory (OOM)"
        return f"exit code {container.exit_code}"

    def collect_log(self, record: ServerRecord) -> None:
        """Copies what the container has said: its own log goes with it."""
        if container := self._container(record):
            self._containers.save_log(container.id, record.log)

    def stop(self, record: ServerRecord, record_path: Path, grace_s: float) -> None:
        """Leaves the log, and no container."""
        if container := self._container(record):
            if container.active and grace_s:
                self._containers.stop(container.id, grace_s)
            self._containers.save_log(container.id, record.log)
            self._containers.remove(container.id)
        record_path.unlink(missing_ok=True)

    def _container(self, record: ServerRecord) -> Container | None:
        return next(iter(self._containers.find({LABEL_SERVER: record.token})), None)


def gpus_in_use(containers: Containers, artifacts: Path) -> set[str]:
    """Device ids that containers hold, but for the store's live server.

    A host with one GPU could otherwise calibrate nothing while it serves: whether both fit is a question of memory.
    """
    live = processes.read(live_record(artifacts), ServerRecord)
    return containers.gpus_in_use(besides=[live.container_id] if live else [])


def _spec(record: ServerRecord, container: ContainerPlan) -> ContainerSpec:
    plan: ServerPlan = record.plan
    return ContainerSpec(
        image=container.image,
        build=container.build,
        argv=plan.argv,
        env=plan.env,
        reads=container.reads,
        caches=container.caches,
        labels={LABEL_SERVER: record.token},
        gpus=record.gpus,
        network=container.network,
        ports=plan.ports.all if container.network == "bridge" else (),
        address=plan.address,
        shm_bytes=container.shm_bytes,
        ulimits=container.ulimits,
        log_options=_LOG_OPTIONS,
    )
