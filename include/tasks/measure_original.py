"""Task ``measure_original``: the model before quantization: its perplexity, and its answers to the tasks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from include.artifacts.kind import Kind
from include.context import Context
from include.runners.job import StageJob, stage_code
from include.tasks import Checked, Pulled, calibrate_awq
from include.tasks.check_request import task_file_digest

MODULE = "include.stages.calibrate.original"


def job(context: Context, checked: Checked, pulled: Pulled) -> StageJob:
    """The run of the program that measures the original model: of all settings only the data type counts."""
    request = checked.request
    target = context.target(request.target)
    model = pulled.model.load(context.store)
    own = Path(request.task_data) if request.task_data.startswith("/") else None
    asks = request.task_data != "off"
    in_chat = asks and request.chat_template == "auto" and target.applies_chat_template
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
        args=("--model", str(model.path), *flags, *(("--tasks", request.task_data) if asks else ())),
        reads=(model.path, *([own] if own else [])),
        inputs={
            "model": {"commit": checked.source.commit, "content": model.content},
            "tasks": task_file_digest(request) if own else request.task_data,
            "options": options,
            "environment": target.environment(),
            "stage_code": stage_code(calibrate_awq.MODULE),
        },
        gpus=target.gpus(request),
    )
