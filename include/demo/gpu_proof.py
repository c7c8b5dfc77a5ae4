"""``python -m include.demo.gpu_proof``: the whole chain on this GPU host, and a dated record of it to be committed.

Runs the DAG through Airflow's REST API with target ``tensorrt_llm`` and writes the release's report, which has the
times, the answers, the speed and the versions, as ``docs/proof/<date>-<gpu>.json`` and ``.md``.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import httpx
from pydantic import BaseModel, ConfigDict
from rich.console import Console

from include import report
from include.demo import airflow, run
from include.demo.api import API_ERRORS
from include.errors import PipelineError, ToolError
from include.files import write_atomic
from include.report import ReleaseReport
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
    "test_prompts": [SEED_PROMPT, "The capital of Portugal is", "A short history of the steam engine:"],
    "speed_concurrencies": [1, 8, 32],
}


class Proof(BaseModel):
    """One whole run on a real GPU: its release's report, and the stages whose artifact was taken from the store."""

    model_config = ConfigDict(frozen=True)
    schema_version: int = 2
    gpu: str
    reused: list[str]
    report: ReleaseReport

    @property
    def name(self) -> str:
        """``<date>-<gpu>``, for file names."""
        return f"{self.report.made_at:%Y-%m-%d}-{re.sub(r'[^A-Za-z0-9]+', '-', self.gpu).strip('-')}"

    def to_markdown(self) -> str:
        """The record as a page."""
        found = self.report
        chain = found.chain
        reused = f" Taken from the store: {', '.join(self.reused)}." if self.reused else ""
        tasks = found.run.tasks if found.run else ()
        versions = dict(pair for stage in chain for pair in stage.versions.items())
        parts = ((f"{s.kind}: {part}", f"{v:.1f}") for s in chain for part, v in s.timings_s.items())
        lines = [
            f"# {found.subject.source} on {self.gpu}, {found.made_at:%Y-%m-%d %H:%M} UTC",
            "",
            f"Release {found.subject.model}/{found.subject.number}, made by one run of `release_awq_engine` "
            f"with target `{found.subject.target}`.{reused}",
            "",
            *_table(("version", ""), (versions | (found.run.versions if found.run else {})).items()),
            *_table(("request", ""), ((k, v) for k, v in found.request.items() if k != "test_prompts")),
            *_table(("stage", "seconds"), ((t.task, f"{t.seconds:.1f}") for t in tasks if t.seconds is not None)),
            *_table(("part", "seconds"), parts),
            *_table(("at a time", "tokens/s"), found.scores.tokens_per_s.items()),
            found.to_markdown(),
            *(line for a in found.answers for line in (f"> {a.prompt}", "", "```text", a.answer.strip(), "```", "")),
        ]
        return "\n".join(lines)

    def write(self, directory: Path) -> Path:
        """Writes both files; returns the page's path."""
        page = directory / f"{self.name}.md"
        write_atomic(page, self.to_markdown())
        write_atomic(directory / f"{self.name}.json", self.model_dump_json(indent=1))
        return page


def gather(release: Path, reused: Iterable[str]) -> Proof:
    """The record of a release; raises `ToolError` if it has no report, or if no GPU built its engine."""
    found = report.read(release)
    gpu = next((stage.gpu for stage in reversed(found.chain) if stage.gpu), None) if found else None
    if found is None or gpu is None:
        raise ToolError("the release's report does not say on which GPU it was made", where=str(release))
    return Proof(gpu=gpu, reused=sorted(reused), report=found)


def main(arguments: Sequence[str] | None = None) -> int:
    """Makes a proof record as the command line asks; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m include.demo.gpu_proof", description=__doc__)
    parser.add_argument("--model", default=MODEL, help="Hub id or model directory (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=PROJECT / "docs" / "proof", help="folder of the records")
    given = parser.parse_args(arguments)
    console = Console(highlight=False, soft_wrap=True)
    try:
        outcome = run.release(airflow.start(settings()), {**REQUEST, "model": given.model}, console)
        page = gather(Path(outcome.released["report"]).parent, outcome.reused).write(given.out)
    except (PipelineError, httpx.HTTPError, *API_ERRORS) as error:
        console.print(f"[red]{type(error).__name__}[/red]", error, markup=True)
        return 1
    console.print(f"proof: {page}")
    return 0


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """A Markdown table, and the empty line after it."""
    lines = [head, ["---"] * len(head), *rows]
    return [f"| {' | '.join(map(str, line))} |" for line in lines] + [""]


if __name__ == "__main__":
    sys.exit(main())
