"""The service of the OpenAI API, as the live address sees it: the list of models that it serves, and its process."""

from __future__ import annotations

from collections.abc import Iterable
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

    def serve(self, live: Iterable[Release]) -> None:
        """Serves these releases from now on, and no other; a failure is only logged, as they answer without it."""
        served = [model for model in map(self._described, live) if model]
        try:
            models.publish(models_file(self._context.settings), served)
        except PipelineError as error:
            self._context.log(f"the API does not learn what is live: {error}")
        if served:
            self._daemon.ensure_running()

    def stop(self) -> bool:
        """Stops the service; returns True if it ran."""
        return self._daemon.stop()

    def _described(self, release: Release) -> LiveModel | None:
        """The model of a release; None if nothing serves its tokens, or if a file about it is damaged."""
        repository = self._context.store.root / Kind.REPOSITORY / release.repository
        if not (repository / models.ENGINE).is_dir():
            return None
        try:
            return models.served_from(
                repository,
                name=release.served_name,
                aliases=release.aliases,
                release=release.name,
                max_input_len=release.request["max_input_len"],
                max_seq_len=release.request["max_seq_len"],
                created=release.created_at,
            )
        except (PipelineError, LookupError, ValueError) as error:
            self._context.log(f"the API does not serve {release.name}: {error}")
            return None
