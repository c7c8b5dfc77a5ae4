"""What a task has at hand on the machine that it runs on."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from include.releases import Releases
from include.settings import Settings
from include.store import ArtifactStore, Log
from include.targets import Target, get_target


@dataclass(frozen=True)
class Worker:
    """Settings, the store, the log of this task, and how to get the Hub token if the user has given one."""

    settings: Settings
    log: Log
    run_id: str
    find_token: Callable[[], str | None] = field(default=lambda: None, repr=False)

    @property
    def store(self) -> ArtifactStore:
        """The deployment's artifact store."""
        return ArtifactStore(self.settings.artifacts)

    @property
    def releases(self) -> Releases:
        """The deployment's releases."""
        return Releases(self.settings.artifacts / "releases")

    @property
    def token(self) -> str | None:
        """The user's Hub token; looked up when a task needs it, kept nowhere."""
        return self.find_token()

    def target(self, name: str) -> Target:
        """A target of this deployment; raises `HostError` if it has none of that name."""
        return get_target(name, self.settings)

    @property
    def live_record(self) -> Path:
        """Where the live server's record stands."""
        return self._servers / "live.json"

    @property
    def candidate_record(self) -> Path:
        """Where this run's candidate server's record stands."""
        readable = re.sub(r"[^A-Za-z0-9.-]", "_", self.run_id)[:60]
        return self._servers / f"candidate-{readable}-{hashlib.sha256(self.run_id.encode()).hexdigest()[:8]}.json"

    @property
    def _servers(self) -> Path:
        return self.settings.artifacts / "servers"
