"""The suspensions: which names' live servers are stopped on purpose, as notes in ``servers/away/<name>.json``."""

from __future__ import annotations

import os
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from include.context import Context
from include.files import Damaged, find_record, remove, replace, write_atomic
from include.live.decide import Suspension
from include.releases.records import ReleaseStore


class Suspensions:
    """The notes of one deployment. Changes need the name's lock, see `include.live.locks`.

    Earlier versions had one live release and the note ``servers/away.json``, which counts as that of its name.
    """

    def __init__(self, context: Context) -> None:
        self._root = context.settings.artifacts / "servers" / "away"
        self._former = self._root.with_suffix(".json")
        self._releases: ReleaseStore = context.releases
        self._skip = context.skip

    def find(self, name: str) -> Suspension | None:
        """The suspension of a name's live server; None if it is not suspended."""
        path = self._former if self._is_former(name) else self._path(name)
        try:
            return find_record(path, Suspension)
        except Damaged as damage:
            self._skip(damage)
            return None

    def of_run(self, run: str) -> list[str]:
        """The names whose servers made room for a run's candidate."""
        names = sorted({*self._releases.live_names(), *(path.stem for path in self._root.glob("*.json"))})
        return [name for name in names if (note := self.find(name)) and note.run == run]

    def record(self, name: str, run: str) -> None:
        """Records that the server is stopped for a run; empty: for a rollback, or until the next reconciling."""
        note = Suspension(run=run, since=datetime.now(UTC), live_since=self._releases.live_since(name))
        write_atomic(self._path(name), note.model_dump_json())

    def end(self, name: str) -> None:
        """Removes the note of a name."""
        if os.path.lexists(self._path(name)):
            remove(self._path(name))

    def adopt_former(self) -> None:
        """Gives the note of an earlier version to its name, before anything else becomes live."""
        name = self._releases.default_name()
        if os.path.lexists(self._former) and name:
            self._root.mkdir(exist_ok=True)
            with suppress(FileNotFoundError):  # another process has done it
                replace(self._former, self._path(name))

    def _is_former(self, name: str) -> bool:
        return os.path.lexists(self._former) and name == self._releases.default_name()

    def _path(self, name: str) -> Path:
        return self._root / f"{name}.json"
