"""Task ``calibrate_awq``: quantized weights as a TensorRT-LLM checkpoint, with the reference to judge them by.

The task's name is older than its other formats.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from include import gates
from include.artifacts.kind import Kind
from include.artifacts.store import Artifact
from include.context import Context
from include.gates.reference import REFERENCE_FILE
from include.requests.release import ReleaseRequest
from include.runners.job import StageJob, stage_code
from include.stages.formats import DEFAULT, unused_fields
from include.tasks import ArtifactRef, Checked, Pulled
from include.tasks.check_request import calibration_file_digest

MODULE = "include.stages.calibrate"
_FLAGS = {"awq_group_size": "group-size"}
_IGNORED = {
    "model": "the key has its commit and content",
    "revision": "the key has its commit and content",
    "target": "the key has its environment and device",
    "calib_data": "the key has its digest",
}


def job(context: Context, checked: Checked, pulled: Pulled) -> StageJob:
    """The run of the calibrate program that this request needs."""
    request = checked.request
    target = context.target(request.target)
    model = pulled.model.load(context.store)
    data, data_digest = _calibration_data(context, checked, pulled.dataset)
    options = _options(request, target.calibrate_options()) | {"device": target.device}
    flags = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    return StageJob(
        target=target.name,
        kind=Kind.CHECKPOINT,
        module=MODULE,
        args=("--model", str(model.path), "--calib-data", data, *flags),
        reads=(model.path, *([Path(data)] if data.startswith("/") else [])),
        inputs={
            "model": {"commit": checked.source.commit, "content": model.content},
            "calibration_data": data_digest,
            "options": options,
            "environment": target.environment(),
            "stage_code": stage_code(MODULE),
        },
        gpus=target.gpus(request),
    )


def event(context: Context, made: ArtifactRef) -> dict[str, Any]:
    """``scores``: perplexity on held-out text before and after quantization."""
    artifact = made.load(context.store)
    quality = gates.read_reference(artifact.path).quality
    scores = {"metric": quality.metric, "before": quality.before, "after": quality.after} if quality else {}
    return made.event(artifact, scores, REFERENCE_FILE)


def _options(request: ReleaseRequest, of_target: Mapping[str, str]) -> dict[str, Any]:
    """The options of the program, which refuses any that it does not know: a new field is used or named as ignored.

    Those that only another format uses are left out. Keys of earlier versions do not name the format: it was the
    default one.
    """
    unused = unused_fields(request.quantization) | ({"quantization"} if request.quantization == DEFAULT else set())
    fields = request.section("Model", "Quantization", ignored=_IGNORED) | {"tp_size": request.tp_size, **of_target}
    return {_FLAGS.get(name, name.replace("_", "-")): value for name, value in fields.items() if name not in unused}


def _calibration_data(context: Context, checked: Checked, dataset: ArtifactRef | None) -> tuple[str, str]:
    if dataset is not None:
        artifact: Artifact = dataset.load(context.store)
        return str(artifact.path), artifact.content
    data = checked.request.calib_data
    return data, calibration_file_digest(checked.request) if data.startswith("/") else data
