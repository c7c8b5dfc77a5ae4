"""The servers of releases and candidates, by their records in ``servers/``.

A release's server has the record ``release-<model>-<n>.json``, a run's candidate ``candidate-<run>.json``. The
candidate that passed the gates is the server that goes live: renaming its record makes it the release's.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from include.artifacts.kind import Kind
from include.artifacts.pins import run_slug
from include.artifacts.store import ArtifactStore
from include.context import Context
from include.errors import PipelineError, UserError
from include.files import Damaged, Unreadable, damaged
from include.host import services
from include.host.ports import are_free
from include.live.launch import launch, launch_on_free_ports
from include.releases.records import Release
from include.triton import servers
from include.triton.servers import ServerRecord

_SERVED_FROM = (Kind.REPOSITORY, Kind.ENGINE, Kind.CHECKPOINT)


class ReleaseServers:
    """The servers of one deployment. Callers must hold the lock of their name, or of all; see `include.live.locks`."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._directory = context.settings.artifacts / "servers"

    def record_of(self, release: Release) -> Path:
        """The path of the record of a release's server."""
        return servers.release_record(self._context.settings.artifacts, release.name)

    def find(self, release: Release) -> ServerRecord | None:
        """The record of the release's server, if it runs. One whose record is damaged is found by its plan."""
        path, damage = self.record_of(release), list[Damaged]()
        record = servers.find(path, damage.append)
        for one in damage:
            self._context.skip(one)
            record = servers.recover(path, release.server) if release.server else None
        return record

    def ready(self, release: Release) -> ServerRecord | None:
        """The record of the release's server, if it runs and is ready."""
        record = self.find(release)
        return record if record and servers.is_ready(record) else None

    def adopt(self, candidate: Path, release: Release) -> ServerRecord | None:
        """Makes a candidate the release's server, if it is ready and serves the release's repository."""
        record = servers.find(candidate)
        if record is None or record.repository.name != release.repository or not servers.is_ready(record):
            return None
        candidate.rename(self.record_of(release))
        self._context.log(f"the candidate ({record}) is the server of release {release.name} now")
        return record

    def launch(self, release: Release) -> ServerRecord:
        """Starts a release's server from its own artifacts, and waits until it is ready.

        Raises:
            UserError: the release's artifacts were pruned.
            PipelineError: as `include.live.launch.launch`.
        """
        release = self._context.releases.get(release.model, release.number)  # raises if its record is damaged
        if self._context.releases.is_pruned(release):
            raise UserError(
                f"release {release.name} was pruned: its artifacts are gone",
                where="artifact store",
                fix="run release_awq_engine with the request in its release.json; that builds the same release anew",
            )
        self.stop(release)
        store = ArtifactStore(self._context.settings.artifacts)
        for kind in _SERVED_FROM:
            if name := release.chain.get(kind):
                store.get(kind, name)
        record, proved = self.record_of(release), release.server
        if proved and are_free(proved.ports.all):
            try:
                return launch(self._context, proved, record)
            except PipelineError:
                if are_free(proved.ports.all):
                    raise
        repository = store.get(Kind.REPOSITORY, release.repository).path
        target = self._context.target(release.target)
        return launch_on_free_ports(self._context, partial(target.server, repository), record)

    def stop(self, release: Release) -> None:
        """Stops a release's server if it runs."""
        if record := self.find(release):
            servers.stop(record, self.record_of(release))

    def stop_all(self) -> list[tuple[Path, ServerRecord]]:
        """Stops every server of a release or a run; returns them with their records."""
        found = [(path, record) for path, _ in self.recorded() if (record := self._find_or_skip(path))]
        for path, record in found:
            servers.stop(record, path)
        return found

    def running(self, name: str) -> list[tuple[Path, ServerRecord]]:
        """The servers of a name's releases, and those that no name and no run has: with their records.

        Only these are looked for: a server that another process is starting would seem to have ended.
        """
        names = self._names_by_record()
        runs = {*map(run_slug, self._context.pins.runs()), *self._context.pins.unknown()}
        candidates = {self._directory / f"candidate-{run}.json" for run in runs}
        mine = [path for path, _ in self.recorded() if names.get(path, name) == name and path not in candidates]
        return [(path, record) for path in mine if (record := self._find_or_skip(path))]

    def names(self) -> set[str]:
        """The served names of the releases whose servers have a record."""
        return {name for path, name in self._names_by_record().items() if path.exists()}

    def recorded(self) -> list[tuple[Path, ServerRecord]]:
        """Every record of a server, which may have ended; of two records of one server only that of a live release."""
        paths = [p for kind in ("release", "candidate") for p in sorted(self._directory.glob(f"{kind}-*.json"))]
        live = set(self._context.live_records.values())
        found: dict[str, tuple[Path, ServerRecord]] = {}
        for path in sorted(paths, key=lambda path: path not in live):
            if record := self._read_or_skip(path):
                first, _ = found.setdefault(record.token, (path, record))
                if first != path:
                    self._context.skip(damaged(path, f"it is a copy of {first.name}"))
        return sorted(found.values(), key=lambda pair: paths.index(pair[0]))

    def of_unknown_runs(self) -> frozenset[Path]:
        """The records that candidates of runs have whose pins are damaged: these runs may not be over."""
        return frozenset(self._directory / f"candidate-{slug}.json" for slug in self._context.pins.unknown())

    def _names_by_record(self) -> dict[Path, str]:
        releases = [*self._context.releases.every(), *self._context.releases.lives().values()]
        return {self.record_of(release): release.served_name for release in releases}

    def _read_or_skip(self, path: Path) -> ServerRecord | None:
        try:
            return services.read(path, ServerRecord, self._context.skip)
        except Unreadable as damage:
            self._context.skip(damage)
            return None

    def _find_or_skip(self, path: Path) -> ServerRecord | None:
        try:
            return servers.find(path, self._context.skip)
        except Unreadable as damage:
            self._context.skip(damage)
            return None
