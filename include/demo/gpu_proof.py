"""``python -m include.demo.gpu_proof``: releases on this GPU host, and a dated record of each to commit.

Runs the DAG through Airflow's REST API, once for each target that is named. A record is the release's report, with
the times, the answers, the speed and the versions: ``docs/proof/<date>-<gpu>-<target>.json`` and ``.html``. The
releases have a name of their own, `NAME`; the last one stays live.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console

from include import report
from include.context import live_records
from include.demo import airflow, run
from include.demo.api import AirflowApi
from include.errors import PipelineError, ToolError
from include.requests.release import SEED_PROMPT
from include.settings import PROJECT, Settings, settings
from include.stages.formats import DEFAULT, FORMATS

MODEL = "NousResearch/Llama-2-7b-hf"
NAME = "gpu-proof"
REQUEST = {
    "served_name": NAME,
    "awq_group_size": 128,
    "calib_size": 32,
    "calib_seq_len": 512,
    "max_batch_size": 64,
    "max_input_len": 2048,
    "max_seq_len": 4096,
    "max_num_tokens": 8192,
    "test_prompts": [SEED_PROMPT, "The capital of Portugal is", "A short history of the steam engine:"],
    "speed_concurrencies": [1, 8, 32],
}
TARGETS: dict[str, dict[str, Any]] = {"tensorrt_llm": {"streaming": False}, "vllm": {"streaming": True}}
"""The targets, and the fields in which their requests differ: `tensorrt_llm` does not stream Llama 2."""

_RETIRE = "retire_model"


def request(target: str, quantization: str = DEFAULT, model: str = MODEL) -> dict[str, Any]:
    """The request for a record of one target in one format."""
    return {**REQUEST, **TARGETS[target], "target": target, "quantization": quantization, "model": model}


def write(release: Path, directory: Path) -> Path:
    """Copies a release's report; returns the page. Raises `ToolError` if it does not name a GPU."""
    found = report.read(release)
    gpu = next((stage.gpu for stage in reversed(found.chain) if stage.gpu), None) if found else None
    if found is None or gpu is None:
        raise ToolError("the release's report does not say on which GPU it was made", where=str(release))
    form = found.request.get("quantization", DEFAULT)
    parts = (f"{found.made_at:%Y-%m-%d}", re.sub(r"[^A-Za-z0-9]+", "-", gpu).strip("-"), found.subject.target)
    name = "-".join(parts if form == DEFAULT else (*parts, form))
    directory.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(release / report.JSON_FILE, directory / f"{name}.json")
    return shutil.copyfile(release / report.HTML_FILE, directory / f"{name}.html")


def free_gpu(api: AirflowApi, chosen: Settings) -> None:
    """Takes the release of an earlier record off the air: the next one needs the GPU's memory for itself.

    Raises:
        ToolError: it could not be taken off the air.
    """
    if NAME not in live_records(chosen.artifacts):
        return
    retiring = api.trigger(_RETIRE, {"name": NAME})
    while (state := api.run_state(_RETIRE, retiring)) not in run.ENDED:
        time.sleep(1)
    if state == "failed":
        task = api.tasks(_RETIRE, retiring)[_RETIRE]
        raise ToolError(f"{_RETIRE} failed: {api.error(_RETIRE, retiring, task)}", where=f"run {retiring}")


def prove(conf: dict[str, Any], directory: Path, console: Console) -> bool:
    """Makes one record; returns whether there is one."""
    console.print(f"target {conf['target']}, {conf['quantization']}")
    try:
        api = airflow.start(settings())
        free_gpu(api, settings())
        outcome = run.release(api, conf, console)
        page = write(Path(outcome.released["report"]).parent, directory)
    except (PipelineError, httpx.HTTPError) as error:
        console.print(f"[red]{type(error).__name__}[/red]", error, markup=True)
        return False
    console.print(f"proof: {page}")
    return True


def main(arguments: Sequence[str] | None = None) -> int:
    """Makes the records that the command line names, one after the other; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m include.demo.gpu_proof", description=__doc__)
    parser.add_argument("targets", nargs="+", choices=TARGETS, help="one target, or several in one go")
    parser.add_argument("--quantization", choices=FORMATS, default=DEFAULT, help="format (default: %(default)s)")
    parser.add_argument("--model", default=MODEL, help="Hub id or model directory (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=PROJECT / "docs" / "proof", help="folder of the records")
    given = parser.parse_args(arguments)
    console = Console(highlight=False, soft_wrap=True)
    asked = [request(target, given.quantization, given.model) for target in given.targets]
    # A target that fails says nothing about the next one.
    return 0 if all([prove(conf, given.out, console) for conf in asked]) else 1


if __name__ == "__main__":
    sys.exit(main())
