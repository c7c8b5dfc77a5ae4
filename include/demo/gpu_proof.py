"""``python -m include.demo.gpu_proof``: the whole chain on this GPU host, and a dated record of it to be committed.

Runs the DAG through Airflow's REST API with target ``tensorrt_llm``, asks the live endpoint, measures tokens per
second, and writes ``docs/proof/<date>-<gpu>.json`` and ``.md``.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console

from include.artifacts.kind import Kind
from include.artifacts.store import ArtifactStore
from include.demo import airflow, run
from include.demo.api import AirflowApi
from include.errors import PipelineError, ToolError
from include.files import write_atomic
from include.frozen import Frozen
from include.releases.records import ReleaseStore
from include.requests.release import SEED_PROMPT, ReleaseRequest
from include.settings import PROJECT, Settings, settings

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
}
PROMPTS = (SEED_PROMPT, "The capital of Portugal is", "A short history of the steam engine:")
CONCURRENCIES = (1, 8, 32)
ANSWER_TOKENS = 128
_ARTIFACTS = (Kind.CHECKPOINT, Kind.ENGINE)


class Answer(Frozen):
    """What the live endpoint said to a prompt, greedily."""

    prompt: str
    text: str


class Speed(Frozen):
    """``requests`` answered ``concurrency`` at a time: tokens generated, and seconds from the first to the last."""

    concurrency: int
    requests: int
    tokens: int
    seconds: float

    @property
    def tokens_per_s(self) -> float:
        """Tokens generated per second, all requests together."""
        return self.tokens / self.seconds


class Proof(Frozen):
    """One whole run on a real GPU. Times in seconds; ``parts_s`` is by artifact kind, then by part of the stage."""

    schema_version: int = 1
    made_at: datetime
    gpu: str
    model: str
    release: str
    request: dict[str, Any]
    environment: dict[str, str]
    stages_s: dict[str, float]
    reused: list[str]
    parts_s: dict[str, dict[str, float]]
    engine_build_s: float | None
    answers: list[Answer]
    speeds: list[Speed]

    @property
    def name(self) -> str:
        """``<date>-<gpu>``, for file names."""
        return f"{self.made_at:%Y-%m-%d}-{re.sub(r'[^A-Za-z0-9]+', '-', self.gpu).strip('-')}"

    def to_markdown(self) -> str:
        """The record as a page."""
        reused = f" Taken from the store: {', '.join(self.reused)}." if self.reused else ""
        lines = [
            f"# {self.model} on {self.gpu}, {self.made_at:%Y-%m-%d %H:%M} UTC",
            "",
            f"Release {self.release}, made by one run of `release_awq_engine` with target `tensorrt_llm`.{reused}",
            "",
            *_table(("environment", ""), self.environment.items()),
            *_table(("request", ""), self.request.items()),
            *_table(("stage", "seconds"), ((k, f"{v:.1f}") for k, v in self.stages_s.items())),
            *_table(
                ("part", "seconds"),
                ((f"{kind}: {part}", f"{v:.1f}") for kind, parts in self.parts_s.items() for part, v in parts.items()),
            ),
            f"The engine took {self.engine_build_s:.0f} s by trtllm-build's own clock." if self.engine_build_s else "",
            "",
            *_table(
                ("at a time", "requests", "tokens", "seconds", "tokens/s"),
                (
                    (s.concurrency, s.requests, s.tokens, f"{s.seconds:.2f}", f"{s.tokens_per_s:.1f}")
                    for s in self.speeds
                ),
            ),
            *(line for a in self.answers for line in (f"> {a.prompt}", "", "```text", a.text.strip(), "```", "")),
        ]
        return "\n".join(lines)

    def write(self, directory: Path) -> Path:
        """Writes both files; returns the page's path."""
        page = directory / f"{self.name}.md"
        write_atomic(page, self.to_markdown())
        write_atomic(directory / f"{self.name}.json", self.model_dump_json(indent=1))
        return page


def ask(endpoint: str, prompt: str, tokens: int) -> tuple[str, int]:
    """The greedy answer to a prompt, and the number of its tokens; raises `ToolError` for an error."""
    body = {"text_input": prompt, "max_tokens": tokens, "top_k": 1, "return_num_output_tokens": True}
    answer = httpx.post(endpoint, json=body, timeout=300, trust_env=False)
    if not answer.is_success:
        raise ToolError(f"{answer.status_code}: {answer.text[:500]}", where=endpoint)
    fields = answer.json()
    return str(fields["text_output"]), int(fields["num_output_tokens"])


def measure(endpoint: str, concurrency: int, tokens: int) -> Speed:
    """Four rounds of ``concurrency`` requests at once, after one that is not counted."""
    requests = 4 * concurrency
    prompts = [PROMPTS[n % len(PROMPTS)] for n in range(requests)]
    ask(endpoint, PROMPTS[0], tokens)
    with ThreadPoolExecutor(concurrency) as pool:
        start = time.perf_counter()
        made = sum(count for _, count in pool.map(lambda prompt: ask(endpoint, prompt, tokens), prompts))
        seconds = time.perf_counter() - start
    return Speed(concurrency=concurrency, requests=requests, tokens=made, seconds=round(seconds, 3))


def prove(api: AirflowApi, chosen: Settings, model: str, console: Console) -> Proof:
    """Runs the chain with ``model`` and gathers what it left: manifests, times, answers, speeds."""
    outcome = run.release(api, {**REQUEST, "model": model}, console)
    endpoint = outcome.released["endpoint"]
    tasks = api.tasks(airflow.DAG, outcome.run)
    return gather(
        chosen,
        released=outcome.released,
        stages_s={stage: tasks[stage].seconds or 0 for stage in run.STAGES if stage in tasks},
        reused=sorted(outcome.reused),
        answers=[Answer(prompt=p, text=ask(endpoint, p, ANSWER_TOKENS)[0]) for p in PROMPTS],
        speeds=[measure(endpoint, concurrency, ANSWER_TOKENS) for concurrency in CONCURRENCIES],
    )


def gather(
    chosen: Settings,
    *,
    released: dict[str, Any],
    stages_s: dict[str, float],
    reused: list[str],
    answers: list[Answer],
    speeds: list[Speed],
) -> Proof:
    """The record of a release: what was measured, with what the manifests of its artifacts say."""
    release = ReleaseStore(chosen.artifacts / "releases").get(released["model"], released["release"])
    store = ArtifactStore(chosen.artifacts)
    manifests = {kind: store.get(kind, release.chain[kind]).manifest for kind in _ARTIFACTS}
    engine = manifests[Kind.ENGINE]
    return Proof(
        made_at=datetime.now(UTC),
        gpu=engine.inputs["hardware"]["gpu"],
        model=release.chain["model"],
        release=f"{release.model}/{release.number}",
        request=ReleaseRequest.parse(release.request).model_dump(mode="json", exclude={"test_prompts"}),
        environment=engine.inputs["environment"],
        stages_s=stages_s,
        reused=reused,
        parts_s={kind: manifest.report.get("timings_s", {}) for kind, manifest in manifests.items()},
        engine_build_s=engine.report.get("results", {}).get("build_s"),
        answers=answers,
        speeds=speeds,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Makes a proof record as the command line asks; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m include.demo.gpu_proof", description=__doc__)
    parser.add_argument("--model", default=MODEL, help="Hub id or model directory (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=PROJECT / "docs" / "proof", help="folder of the records")
    given = parser.parse_args(arguments)
    console = Console(highlight=False, soft_wrap=True)
    try:
        page = prove(airflow.start(settings()), settings(), given.model, console).write(given.out)
    except (PipelineError, httpx.HTTPError) as error:
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
