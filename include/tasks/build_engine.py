"""Task ``build_engine``: the target's engine out of the checkpoint's own quantized weights."""

from __future__ import annotations

import json
from typing import Any

from include.artifacts.kind import Kind
from include.artifacts.store import MANIFEST_FILE
from include.context import Context
from include.runners.job import StageJob, stage_code
from include.tasks import ArtifactRef, Checked


def job(context: Context, checked: Checked, checkpoint: ArtifactRef) -> StageJob:
    """The run of the target's build program that this checkpoint needs."""
    target = context.target(checked.request.target)
    path = checkpoint.load(context.store).path
    return StageJob(
        target=target.name,
        kind=Kind.ENGINE,
        module=target.build_module,
        args=("--checkpoint", str(path), *target.build_args(checked.request)),
        reads=(path,),
        inputs={
            "checkpoint": checkpoint.name,
            "options": target.build_options(checked.request),
            "hardware": target.hardware(),
            "environment": target.environment(),
            "stage_code": stage_code(target.build_module),
        },
        gpus=target.gpus(checked.request),
    )


def event(context: Context, made: ArtifactRef) -> dict[str, Any]:
    """The asset's event. ``scores``: the engine against its checkpoint, if the target's build measures that."""
    artifact = made.load(context.store)
    described = [artifact.path / name for name in ("engine.json", "config.json")]
    config = json.loads(next(path for path in described if path.is_file()).read_text())
    return made.event(artifact, config.get("proof", {}), MANIFEST_FILE)
