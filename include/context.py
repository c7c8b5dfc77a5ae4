"""The context of a task: the settings, stores and logins of the machine that it runs on."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path

from include.artifacts.pins import Pins, run_slug
from include.artifacts.store import ArtifactStore
from include.files import Log, Skip, telling
from include.host import services
from include.host.docker.containers import Containers
from include.host.docker.registry import FindLogin, no_login
from include.host.leases import lease
from include.releases.records import ReleaseStore
from include.releases.run import RunRecord
from include.runners.job import StageJob
from include.settings import Settings
from include.targets.base import Target
from include.targets.registry import get_target
from include.triton import servers
from include.triton.servers import ServerRecord
from include.triton.signatures import Signatures


@dataclass(frozen=True)
class Context:
    """The context of one task: settings, log, and the functions that look up the Hub token and the registry's login.

    ``run_state`` gives the state of a run that makes artifacts, in Airflow's words, None if Airflow does not know it;
    ``find_run`` gives the record of this run so far. ``find_requester`` gives the name of the user who triggered it, if
    one did; ``find_users`` the ids of the users who may answer questions, None if Airflow cannot say. ``tell`` takes a
    few words on what came of the run, for its note; ``publish`` how far the task is, for the run's page.
    ``web_url`` is the address of Airflow's web UI.
    """

    settings: Settings
    log: Log
    dag_id: str
    run_id: str
    find_token: Callable[[], str | None] = field(default=lambda: None, repr=False)
    find_login: FindLogin = field(default=no_login, repr=False)
    run_state: Callable[[str], str | None] = field(default=lambda run_id: "running", repr=False)
    find_run: Callable[[], RunRecord | None] = field(default=lambda: None, repr=False)
    find_requester: Callable[[], str | None] = field(default=lambda: None, repr=False)
    find_users: Callable[[], frozenset[str] | None] = field(default=lambda: None, repr=False)
    tell: Callable[[str], None] = field(default=lambda outcome: None, repr=False)
    web_url: str = ""
    publish: Callable[[str], None] = field(default=lambda progress: None, repr=False)

    def progress(self, line: str) -> None:
        """Tells how far the task is, in its log and on the run's page."""
        self.log(line)
        self.publish(line)

    def is_over(self, run_id: str) -> bool:
        """True if a run that makes artifacts is neither queued nor running; a deleted run is over, too."""
        return self.run_state(run_id) not in {"queued", "running"}

    @property
    def store(self) -> ArtifactStore:
        """The deployment's artifact store; what this run takes from it is pinned."""
        return ArtifactStore(self.settings.artifacts, partial(self.pins.add, self.run_id))

    @property
    def pins(self) -> Pins:
        """The pins: the artifacts that each run uses."""
        return Pins(self.settings.artifacts / "pins", self.skip)

    @property
    def releases(self) -> ReleaseStore:
        """The deployment's releases."""
        return ReleaseStore(self.settings.artifacts / "releases", self.skip, self.settings.default_model)

    @cached_property
    def skip(self) -> Skip:
        """Names in the log, once, what is damaged in the store."""
        return telling(self.log)

    @property
    def signatures(self) -> Signatures:
        """The signatures of model repositories."""
        key = self.settings.signing_key or self.settings.artifacts / "keys" / "signing.pem"
        return Signatures(self.settings.artifacts, key)

    @property
    def token(self) -> str | None:
        """The user's Hub token; looked up when a task needs it, kept nowhere."""
        return self.find_token()

    @property
    def run(self) -> RunRecord:
        """This run, with the tasks that have ended so far."""
        return self.find_run() or RunRecord(id=self.run_id)

    def target(self, name: str) -> Target:
        """A target of this deployment; raises `HostError` if it has none of that name."""
        return get_target(name, self.settings, self.find_login)

    @property
    def live_records(self) -> dict[str, Path]:
        """The paths of the live servers' records, by served name."""
        return live_records(self.settings.artifacts)

    @property
    def candidate_record(self) -> Path:
        """The path of the record of this run's candidate server."""
        return self.settings.artifacts / "servers" / f"candidate-{run_slug(self.run_id)}.json"

    def live_servers(self) -> dict[str, ServerRecord]:
        """The records of the live servers that run, by served name."""
        found = {name: servers.look(path) for name, path in self.live_records.items()}
        return {name: record for name, record in found.items() if record}

    def live_gpus(self) -> tuple[str, ...]:
        """The device ids that the live servers hold; empty if none runs."""
        return tuple(dict.fromkeys(gpu for record in self.live_servers().values() for gpu in record.gpus))


def live_records(artifacts: Path) -> dict[str, Path]:
    """The paths of the records of the live releases' servers by served name, for the store at ``artifacts``."""
    lives = ReleaseStore(artifacts / "releases").live_ids()
    return {name: servers.release_record(artifacts, str(live)) for name, live in lives.items()}


def gpus_of_processes(artifacts: Path) -> set[str]:
    """The device ids that servers hold which are processes, except the store's live ones, as for `gpus_in_use`."""
    lives = live_records(artifacts).values()
    records = [servers.look(path) for path in (artifacts / "servers").glob("*.json") if path not in lives]
    return {device for record in records if record and not record.plan.container for device in record.gpus}


def stage_gpus(context: Context, job: StageJob) -> AbstractContextManager[tuple[str, ...]]:
    """The lease of the GPUs that a stage takes which runs as a process."""
    return lease(
        job.gpus,
        context.target(job.target).gpu_ids() if job.gpus else (),
        directory=context.settings.gpu_lease_dir,
        in_use=partial(gpus_of_processes, context.settings.artifacts),
        log=context.log,
    )


def gpus_in_use(containers: Containers, artifacts: Path) -> set[str]:
    """The device ids that containers hold, except those of the store's live servers.

    Otherwise a host with one GPU could not calibrate while it serves. GPU memory decides if all fit.
    """
    lives = (services.read(path, ServerRecord) for path in live_records(artifacts).values())
    return containers.gpus_in_use(besides=[live.container_id for live in lives if live])
