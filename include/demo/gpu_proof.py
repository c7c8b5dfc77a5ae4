"""``python -m include.demo.gpu_proof``: a release on this GPU host, and a dated record of it to commit.

Runs the DAG through Airflow's REST API with target ``tensorrt_llm``. The record is the release's report, with
the times, the answers, the speed and the versions: ``docs/proof/<date>-<gpu>.json`` and ``.html``.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import httpx
from rich.console import Console

from include import report
from include.demo import airflow, run
from include.errors import PipelineError, ToolError
from include.requests.release import SEED_PROMPT
from include.settings import PROJECT, settings

MODEL = "NousResearch/Llama-2-7b-hf"
REQUEST = {
    "target": "tensorrt_llm",
    "awq_group_size": 128,
    "calib_size": 32,
    "calib_seq_len": 512,
    "max_batch_size": 64,
    "max_input_len": 2048,
    "max_seq_len": 4096,
    "max_num_tokens": 8192,
    "streaming": False,
    "test_prompts": [SEED_PROMPT, "The capital of Portugal is", "A short history of the steam engine:"],
    "speed_concurrencies": [1, 8, 32],
}


def write(release: Path, directory: Path) -> Path:
    """Copies a release's report; returns the page. Raises `ToolError` if it does not name a GPU."""
    found = report.read(release)
    gpu = next((stage.gpu for stage in reversed(found.chain) if stage.gpu), None) if found else None
    if found is None or gpu is None:
        raise ToolError("the release's report does not say on which GPU it was made", where=str(release))
    name = f"{found.made_at:%Y-%m-%d}-{re.sub(r'[^A-Za-z0-9]+', '-', gpu).strip('-')}"
    directory.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(release / report.JSON_FILE, directory / f"{name}.json")
    return shutil.copyfile(release / report.HTML_FILE, directory / f"{name}.html")


def main(arguments: Sequence[str] | None = None) -> int:
    """Makes a proof record as the command line specifies; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m include.demo.gpu_proof", description=__doc__)
    parser.add_argument("--model", default=MODEL, help="Hub id or model directory (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=PROJECT / "docs" / "proof", help="folder of the records")
    given = parser.parse_args(arguments)
    console = Console(highlight=False, soft_wrap=True)
    try:
        outcome = run.release(airflow.start(settings()), {**REQUEST, "model": given.model}, console)
        page = write(Path(outcome.released["report"]).parent, given.out)
    except (PipelineError, httpx.HTTPError) as error:
        console.print(f"[red]{type(error).__name__}[/red]", error, markup=True)
        return 1
    console.print(f"proof: {page}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
