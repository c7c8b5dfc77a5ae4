"""Task ``measure_original``: the model before quantization: its perplexity, and its answers to the tasks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from include.artifacts.kind import Kind
from include.context import Context
from include.requests.release import ReleaseRequest
from include.runners.job import StageJob, stage_code
from include.stages.calibrate.tasks import BUILTIN_FILE
from include.tasks import Checked, Pulled, calibrate_awq
from include.tasks.check_request import task_file_digest

MODULE = "include.stages.calibrate.original"


def job(context: Context, checked: Checked, pulled: Pulled) -> StageJob:
    """The run of the program that measures the original model: of all settings only the data type counts."""
    request = checked.request
    target = context.target(request.target)
    model = pulled.model.load(context.store)
    file, digest = _tasks(request)
    in_chat = file and request.chat_template == "auto" and target.applies_chat_template
    options: dict[str, Any] = {
        "device": target.device,
        "dtype": request.dtype,
        "chat": "auto" if in_chat else "off",
    }
    flags = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    return StageJob(
        target=target.name,
        kind=Kind.ORIGINAL,
        module=MODULE,
        args=("--model", str(model.path), *flags, *(("--tasks", str(file)) if file else ())),
        reads=(model.path, *([file] if file else [])),
        inputs={
            "model": {"commit": checked.source.commit, "content": model.content},
            "tasks": digest,
            "options": options,
            "environment": target.environment(),
            "stage_code": stage_code(calibrate_awq.MODULE),
        },
        gpus=target.gpus(request),
    )


def _tasks(request: ReleaseRequest) -> tuple[Path | None, str]:
    """The file of the tasks and its digest; those that are built in are part of the program's code."""
    if request.task_data.startswith("/"):
        return Path(request.task_data), task_file_digest(request)
    return (BUILTIN_FILE if request.task_data == "builtin" else None), request.task_data
