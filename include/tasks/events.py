"""What events of Airflow's assets say: ``extra`` of the checkpoint, the engine and the live release.

All have ``key`` (the artifact's name in the store), ``digest`` (of its bytes), ``new`` (whether this run made it:
it may have been there), ``scores`` and ``report`` (a path).
"""

from __future__ import annotations

import json
from typing import Any

from include import gates
from include.artifacts.kind import Kind
from include.artifacts.store import MANIFEST_FILE, ArtifactStore
from include.context import Context
from include.gates.reference import REFERENCE_FILE
from include.tasks import ArtifactRef, LiveRelease


def checkpoint_event(context: Context, made: ArtifactRef) -> dict[str, Any]:
    """``scores``: perplexity on held-out text before and after quantization."""
    path = made.load(context.store).path
    return _artifact(context, made, _scores(gates.read_reference(path).quality), REFERENCE_FILE)


def engine_event(context: Context, made: ArtifactRef) -> dict[str, Any]:
    """``scores``: how the engine compares with its checkpoint, if the target's build measures that."""
    config = json.loads((made.load(context.store).path / "config.json").read_text())
    return _artifact(context, made, config.get("proof", {}), MANIFEST_FILE)


def live_event(context: Context, made: LiveRelease) -> dict[str, Any]:
    """What the task returned."""
    repository = ArtifactStore(context.settings.artifacts).get(Kind.REPOSITORY, made.repository)
    fields = made.model_dump(mode="json", exclude={"repository"})
    return {**fields, "key": repository.name, "digest": repository.content}


def _artifact(context: Context, made: ArtifactRef, scores: dict[str, Any], report_file: str) -> dict[str, Any]:
    artifact = made.load(context.store)
    return {
        "key": artifact.name,
        "digest": artifact.content,
        "new": not made.reused,
        "scores": scores,
        "report": str(artifact.path / report_file),
    }


def _scores(quality: gates.Quality | None) -> dict[str, Any]:
    return {"metric": quality.metric, "before": quality.before, "after": quality.after} if quality else {}
