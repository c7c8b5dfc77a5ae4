"""The time at which a live release was last seen to answer: for pages that cannot ask it themselves."""

from __future__ import annotations

from collections.abc import Container
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx

from include.errors import PipelineError
from include.files import remove
from include.live.proxy import proxy_of
from include.settings import Settings

_RECENT = timedelta(seconds=15)
_TIMEOUT_S = 2.0


class LastAnswer:
    """The file ``servers/answers/<name>``: the supervisor touches it whenever the release of that name answers."""

    def __init__(self, settings: Settings, name: str) -> None:
        self._path = _directory(settings) / name
        self._settings, self._name = settings, name

    @staticmethod
    def forget_all_but(names: Container[str], settings: Settings) -> None:
        """Removes the files of all other names."""
        for path in _directory(settings).glob("*"):
            if path.name not in names:
                remove(path)

    def record(self) -> None:
        """Records that the live release answers now."""
        self._path.parent.mkdir(exist_ok=True)
        self._path.touch()

    def at(self) -> datetime | None:
        """The time of the last answer; None if there was none."""
        try:
            return datetime.fromtimestamp(self._path.stat().st_mtime, UTC)
        except OSError:
            return None

    def is_now(self) -> bool:
        """True if the live release answers this process, or else answered the supervisor a moment ago.

        A web server in a container of its own does not reach the loopback address of the serving host.
        """
        try:
            with proxy_of(self._settings).client(_TIMEOUT_S) as http:
                answer = http.get(f"/v2/models/{self._name}/ready")
        except (httpx.HTTPError, PipelineError):
            answer = None
        if answer is not None and answer.status_code == httpx.codes.OK:
            return True
        at = self.at()
        return at is not None and datetime.now(UTC) - at < _RECENT


def _directory(settings: Settings) -> Path:
    return settings.artifacts / "servers" / "answers"
