"""Triton servers: services that are ready once their models are; each has a record as JSON."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import httpx
from pydantic import Field, model_validator

from include.errors import ToolError
from include.files import Log, Skip, ignore
from include.frozen import Frozen
from include.host import services
from include.host.docker.containers import Containers, ContainerSpec
from include.host.docker.engine import local_engine
from include.host.ports import PLAIN_HTTP, check_port_free, free_ports, http_url
from include.host.services import ServiceRecord, ServiceSpec
from include.host.services.container import ContainerBackend
from include.host.services.process import GRACE_S, ProcessBackend, token_by_arguments
from include.triton.hardening import EVERYWHERE, LOOPBACK, STACK_BYTES, beside_its_models, closed_off, with_stack

if TYPE_CHECKING:
    from include.host.services import Backend

LABEL_SERVER = "hf2triton.server"
POLL_S = 0.25
_TELL_S = 15.0
_ERROR_LINES = 25
_HARMLESS = ("NVML", "DCGM", "CUDA driver version")  # messages of every server on a host without a GPU
_MEMORY = Path("/dev/shm")  # noqa: S108 - the shared memory of the kernel


Port = Annotated[int, Field(ge=1, le=65535)]


class Ports(Frozen):
    """The three ports of a server."""

    http: Port
    grpc: Port
    metrics: Port

    @property
    def all(self) -> tuple[int, int, int]:
        """The three numbers."""
        return self.http, self.grpc, self.metrics


class ServerPlan(ServiceSpec):
    """The plan of a server: it can be started on this host at any time, on ``gpus`` GPUs that are chosen at each start.

    It is started on loopback, whatever its ``argv`` and ``address`` say: see `hardened`. ``shared_memory`` is the
    prefix of the names of a process's segments in /dev/shm: a killed server leaves them there.
    """

    target: str
    repository: Path
    ports: Ports
    address: str = LOOPBACK
    shared_memory: str = Field(default="", pattern=r"^\w*$")
    gpus: int = Field(default=0, ge=0)

    @model_validator(mode="before")
    @classmethod
    def _migrate(cls, data: Any) -> Any:  # noqa: ANN401 - any input
        """Migrates plans of earlier versions, which kept the number of GPUs with the container."""
        box = data.get("container") if isinstance(data, dict) else None
        if not isinstance(box, dict) or not isinstance(box.get("gpus"), int):
            return data
        rest = {name: value for name, value in box.items() if name != "gpus"}
        return {**data, "gpus": box["gpus"], "container": {"network": "bridge", **rest}}

    def hardened(self) -> ServerPlan:
        """The plan as it is started; a container's ports on a ``bridge`` are published on loopback."""
        box = self.container
        inside = EVERYWHERE if box and box.network == "bridge" else LOOPBACK
        argv = beside_its_models(closed_off(self.argv, inside), self.repository)
        if box:
            box = box.model_copy(update={"ulimits": {**box.ulimits, "stack": STACK_BYTES}})
        else:
            argv = with_stack(argv)
        return self.model_copy(update={"argv": argv, "address": LOOPBACK, "container": box})

    def in_container(self, box: ContainerSpec) -> ContainerSpec:
        """The container ``box`` with the server in it and its ports published."""
        ports = self.ports.all if box.network == "bridge" else ()
        return super().in_container(box).model_copy(update={"ports": ports, "address": self.address})


class ServerRecord(ServiceRecord):
    """The record of a launched server."""

    plan: ServerPlan

    @property
    def ports(self) -> Ports:
        """The ports that the server listens on."""
        return self.plan.ports

    @property
    def repository(self) -> Path:
        """The model repository that the server serves."""
        return self.plan.repository

    @property
    def url(self) -> str:
        """The URL of its HTTP endpoint on this host."""
        return http_url(self.plan.address, self.ports.http)


def release_record(artifacts: Path, release: str) -> Path:
    """The path of the record of a release's server; ``release`` is its name, ``<model>/<n>``."""
    return artifacts / "servers" / f"release-{release.replace('/', '-')}.json"


def some_ports(http: int | None = None) -> Ports:
    """Free ports for a server; ``http`` is its HTTP port if given."""
    free, grpc, metrics = free_ports(3)
    return Ports(http=http or free, grpc=grpc, metrics=metrics)


def launch(
    plan: ServerPlan,
    record_path: Path,
    *,
    timeout_s: float,
    log: Log = print,
    log_path: Path | None = None,
    gpus: AbstractContextManager[tuple[str, ...]] | None = None,
) -> ServerRecord:
    """Starts a server and waits until it is ready. Its log is ``log_path``, else beside the record, as ``.log``.

    ``gpus`` gives the device ids for a plan that needs GPUs, and holds them until the server does; see
    `include.live.launch.launch`.

    Raises:
        HostError: a port is taken (the message names it and the process), or the engine lacks a resource.
        ToolError: the server died or was not ready in time; the message has its last error lines, and it is removed.
        TransientError: the Docker engine went away.
    """
    for port in plan.ports.all:
        check_port_free(port)
    backend = _backend(plan, log)
    with gpus or nullcontext(()) as devices:
        # The record keeps the plan without the key and limits of this start; it says where the server really listens.
        listening = plan.model_copy(update={"address": LOOPBACK})
        record = ServerRecord(plan=listening, log=log_path or record_path.with_suffix(".log"), gpus=devices)
        try:
            record = backend.start(plan.hardened(), record, record_path)
            log(f"started {Path(plan.argv[0]).name}, {record}, log {record.log}")
            _wait_until_ready(record, backend, timeout_s, log)
            backend.collect_log(record)
            backend.keep_across_restarts(record)
        except BaseException:
            stop(record, record_path, grace_s=0)
            raise
    return record


def find(record_path: Path, skip: Skip = ignore) -> ServerRecord | None:
    """The record at ``record_path`` if its server runs; the remains of a server that has ended are removed.

    Raises:
        TransientError: its Docker engine does not answer.
        Unreadable: the system refuses to read the record.
    """
    record = services.read(record_path, ServerRecord, skip)
    if record is None:
        return None
    found = _backend(record.plan).find(record, record_path)
    if found is None:
        _free_shared_memory(record.plan)
    return found


def look(record_path: Path) -> ServerRecord | None:
    """The record at ``record_path`` if its server runs, as `find`; the remains of one that has ended stay.

    For who does not hold the lock of the live address: remains tell how a server ended.
    """
    record = services.read(record_path, ServerRecord)
    return record if record and _backend(record.plan).why_gone(record) is None else None


def obituary(record_path: Path) -> str | None:
    """The way in which a recorded server ended, with its last lines; None if it runs, or has no record."""
    record = services.read(record_path, ServerRecord)
    return services.obituary(record, _backend(record.plan)) if record else None


def memory(record: ServerRecord) -> int | None:
    """The bytes of host memory that a server holds; None if its engine does not say."""
    return _backend(record.plan).memory(record)


def why_restarted(record: ServerRecord, since: float) -> str | None:
    """The way in which a server ended that its engine has started again since a time, in seconds since 1970."""
    return _backend(record.plan).why_restarted(record, since)


def recover(record_path: Path, plan: ServerPlan) -> ServerRecord | None:
    """The server of a plan that runs as a process though its record is damaged; the record is written anew."""
    token = None if plan.container else token_by_arguments(plan.argv[1:])
    if token is None:
        return None
    record = ServerRecord(plan=plan, log=record_path.with_suffix(".log"), token=token)
    return _backend(plan).find(record, record_path)


def is_ready(record: ServerRecord) -> bool:
    """True if the record's server runs, has its port, and reports that all its models are ready."""
    return _is_ready(record, _backend(record.plan))


def stop(record: ServerRecord, record_path: Path, *, grace_s: float = GRACE_S) -> None:
    """Stops a server and its model processes, and kills them after ``grace_s`` seconds. Its ports are free then."""
    _backend(record.plan).stop(record, record_path, grace_s)
    _free_shared_memory(record.plan)


def _free_shared_memory(plan: ServerPlan) -> None:
    if plan.shared_memory:
        for segment in _MEMORY.glob(f"{plan.shared_memory}*"):
            segment.unlink(missing_ok=True)


def _backend(plan: ServerPlan, log: Log = print) -> Backend:
    return ContainerBackend(LABEL_SERVER, Containers(local_engine, log)) if plan.container else ProcessBackend()


def _is_ready(record: ServerRecord, backend: Backend) -> bool:
    try:
        answer = httpx.get(f"{record.url}/v2/health/ready", timeout=5, trust_env=False, verify=PLAIN_HTTP)
    except httpx.TransportError:
        return False
    return answer.status_code == httpx.codes.OK and backend.is_up(record, record.ports.http)


def _wait_until_ready(record: ServerRecord, backend: Backend, timeout_s: float, log: Log) -> None:
    began = told = time.monotonic()
    deadline = began + timeout_s
    while not _is_ready(record, backend):
        if why := backend.why_gone(record):
            raise _failure(f"the server died as it started: {why}", record, backend)
        if time.monotonic() > deadline:
            raise _failure(f"the server was not ready within {timeout_s:g} s", record, backend)
        if time.monotonic() - told >= _TELL_S:
            told = time.monotonic()
            log(f"not ready yet after {told - began:.0f} s; it may take {timeout_s:.0f} s")
        time.sleep(POLL_S)


def _failure(what: str, record: ServerRecord, backend: Backend) -> ToolError:
    backend.collect_log(record)
    return ToolError(f"{what}\n{_last_errors(record.log)}", where=str(record.log))


def _last_errors(log: Path) -> str:
    """The last log lines about a server's failure: those of level E or about errors, else simply the last lines."""
    text = log.read_text(errors="replace") if log.exists() else ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    lines = [line for line in lines if not any(word in line for word in _HARMLESS)]
    errors = [line for line in lines if line.startswith("E") or "error" in line.lower() or "Traceback" in line]
    return "\n".join(line[:500] for line in (errors or lines)[-_ERROR_LINES:])
