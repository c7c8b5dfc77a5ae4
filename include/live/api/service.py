"""The service of the OpenAI API, as the live address sees it: the list of models that it serves, and its process."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from include.artifacts.kind import Kind
from include.context import Context
from include.errors import PipelineError
from include.live.api import models
from include.live.api.models import LiveModel
from include.live.daemon import Daemon
from include.releases.records import Release
from include.settings import Settings


def models_file(settings: Settings) -> Path:
    """The file that says which models are live."""
    return settings.artifacts / "servers" / "models.json"


class ApiService:
    """The service of one deployment."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._daemon = Daemon.api(context)

    def serve(self, live: Mapping[str, Release], default: str | None) -> None:
        """Serves these releases by their names from now on, and no other; the first of the list is the default.

        A failure is only logged, as they answer without the API.
        """
        ordered = sorted(live.items(), key=lambda pair: (pair[0] != default, pair[0]))
        try:
            models.publish(
                models_file(self._context.settings), filter(None, (self._described(*one) for one in ordered))
            )
        except (PipelineError, LookupError, ValueError) as error:
            self._context.log(f"the API does not learn what is live: {error}")
        if live:
            self._daemon.ensure_running()

    def stop(self) -> bool:
        """Stops the service; returns True if it ran."""
        return self._daemon.stop()

    def _described(self, name: str, release: Release) -> LiveModel | None:
        repository = self._context.store.root / Kind.REPOSITORY / release.repository
        if not (repository / models.ENGINE).is_dir():
            return None
        return models.served_from(
            repository,
            name=name,
            aliases=release.aliases,
            release=release.name,
            max_input_len=release.request["max_input_len"],
            max_seq_len=release.request["max_seq_len"],
            created=release.created_at,
        )
