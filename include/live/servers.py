"""The servers of releases and candidates, by their records in ``servers/``.

A release's server has the record ``release-<model>-<n>.json``, a run's candidate ``candidate-<run>.json``. The
candidate that passed the gates is the server that goes live: renaming its record makes it the release's.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

from include.artifacts.kind import Kind
from include.artifacts.pins import run_slug
from include.artifacts.store import ArtifactStore
from include.context import Context
from include.errors import HostError, UserError
from include.host.processes import check_port_free
from include.releases.records import Release
from include.triton import servers
from include.triton.servers import Ports, ServerPlan, ServerRecord

_SERVED_FROM = (Kind.REPOSITORY, Kind.ENGINE, Kind.CHECKPOINT)


class ReleaseServers:
    """Finds, launches and stops them. Call it while nobody else does: `include.live.address.Live` holds the lock."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._directory = context.settings.artifacts / "servers"

    def record_of(self, release: Release) -> Path:
        """Where the record of a release's server stands."""
        return servers.release_record(self._context.settings.artifacts, release.name)

    def find(self, release: Release) -> ServerRecord | None:
        """The release's server, if it runs."""
        return servers.find(self.record_of(release))

    def ready(self, release: Release) -> ServerRecord | None:
        """The release's server, if it runs and is ready."""
        record = self.find(release)
        return record if record and servers.is_ready(record) else None

    def adopt(self, candidate: Path, release: Release) -> ServerRecord | None:
        """Makes a candidate that is ready, and serves the release's repository, the release's server."""
        record = servers.find(candidate)
        if record is None or record.repository.name != release.repository or not servers.is_ready(record):
            return None
        candidate.rename(self.record_of(release))
        self._context.log(f"the candidate ({record}) is the server of release {release.name} now")
        return record

    def launch(self, release: Release) -> ServerRecord:
        """Starts a release's server from its own artifacts, and waits until it is ready.

        Raises:
            UserError: its artifacts were pruned.
            PipelineError: as `include.context.Context.launch`.
        """
        if self._context.releases.is_pruned(release):
            raise UserError(
                f"release {release.name} was pruned: its artifacts are gone",
                where="artifact store",
                fix="run release_awq_engine with the request in its release.json; that builds the same release anew",
            )
        self.stop(release)
        return self._context.launch(self._plan(release), self.record_of(release))

    def stop(self, release: Release) -> None:
        """Stops a release's server if it runs."""
        if record := self.find(release):
            servers.stop(record, self.record_of(release))

    def stop_all(self) -> list[tuple[Path, ServerRecord]]:
        """Stops every server of a release or a run; returns them with their records."""
        found = list(self._all())
        for path, record in found:
            servers.stop(record, path)
        return found

    def others(self, keep: Collection[Path]) -> Iterator[tuple[Path, ServerRecord]]:
        """Servers that nobody needs: of releases, and of candidates whose run is over, but for the records in ``keep``.

        A run is over when it holds no pins any more.
        """
        running = {f"candidate-{run_slug(run)}.json" for run in self._context.pins.runs()}
        return ((p, record) for p, record in self._all() if p not in keep and p.name not in running)

    def repositories(self) -> frozenset[Path]:
        """What all servers that run now serve."""
        return frozenset(record.repository for _, record in self._all())

    def _all(self) -> Iterator[tuple[Path, ServerRecord]]:
        paths = (p for kind in ("release", "candidate") for p in sorted(self._directory.glob(f"{kind}-*.json")))
        return ((path, record) for path in paths if (record := servers.find(path)))

    def _plan(self, release: Release) -> ServerPlan:
        """The plan that the release was proved with; another one if a port of it is taken by now."""
        store = ArtifactStore(self._context.settings.artifacts)
        for kind in _SERVED_FROM:
            if name := release.chain.get(kind):
                store.get(kind, name)
        if release.server and _are_free(release.server.ports):
            return release.server
        http, grpc, metrics = servers.free_ports(3)
        repository = store.get(Kind.REPOSITORY, release.repository).path
        return self._context.target(release.target).server(repository, Ports(http=http, grpc=grpc, metrics=metrics))


def _are_free(ports: Ports) -> bool:
    try:
        for port in ports.all:
            check_port_free(port)
    except HostError:
        return False
    return True
