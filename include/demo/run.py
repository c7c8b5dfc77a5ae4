"""The demo's run: triggers the DAG through the REST API, shows each stage, asks the live endpoint."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Any

import httpx
from rich.console import Console
from rich.live import Live
from rich.table import Table

from include.demo.airflow import DAG
from include.demo.api import AirflowApi, TaskState
from include.errors import ToolError, UserError
from include.live.proxy import proxy_of
from include.report.runs import ORDER
from include.requests.release import SEED_PROMPT
from include.settings import Settings

STAGES = tuple(task for task in ORDER if task != "approve_release")
"""The tasks that run if nobody is asked."""
SEED_REQUEST = {
    "text_input": SEED_PROMPT,
    "parameters": {"max_tokens": 100, "bad_words": [""], "stop_words": [""]},
}
_ANSWER_S = 120.0
_API_STARTS_S = 60.0
_POLL_S = 0.5
CHAT_PROMPT = "Name three colours of the rainbow."
ENDED = {"success", "failed", "upstream_failed", "skipped", "removed"}
_STYLES = {"success": "green", "failed": "red", "upstream_failed": "red", "running": "yellow"}


@dataclass(frozen=True)
class Outcome:
    """The outcome of a successful run: the promotion's result, and the stages that reused their artifact."""

    released: dict[str, Any]
    reused: frozenset[str]


def release(api: AirflowApi, conf: dict[str, Any], console: Console) -> Outcome:
    """Runs the DAG with ``conf`` and shows its stages until it ends.

    Raises:
        ToolError: the run failed; the message is the failed stage's error.
    """
    run = api.trigger(DAG, conf, _run_id(conf))
    console.print(f"run {run}: {api.url}/dags/{DAG}/runs/{run}", soft_wrap=True)
    tasks = _watch(api, run, console)
    failed = [t for t in tasks.values() if t.state == "failed"]
    if failed or api.run_state(DAG, run) == "failed":
        state = failed[0] if failed else tasks["check_request"]
        raise ToolError(f"{state.task} failed: {api.error(DAG, run, state)}", where=f"run {run}")
    released = api.result(DAG, run, "promote_release")
    if released is None:
        raise UserError("the release was not approved", where=f"run {run}", fix="its report says who decided, and why")
    return Outcome(released=released, reused=reused(api, run))


def reused(api: AirflowApi, run: str) -> frozenset[str]:
    """The stages of a run that took their artifact from the store."""
    return frozenset(stage for stage in STAGES if _reused(api.result(DAG, run, stage)))


def _run_id(conf: Mapping[str, Any]) -> str:
    """An id that names the model, as a list of runs shows ids."""
    model = PurePosixPath(str(conf.get("model", DAG))).name
    return re.sub(r"[^A-Za-z0-9_.~:+-]", "-", f"{model}__{datetime.now(UTC).isoformat()}")


def ask(endpoint: str, settings: Settings | None = None) -> str:
    """The live endpoint's answer to the seed request; ``settings`` are those of a deployment with keys or TLS."""
    with proxy_of(settings).client(_ANSWER_S) if settings else httpx.Client(timeout=_ANSWER_S, trust_env=False) as http:
        answer = http.post(endpoint, json=SEED_REQUEST)
    answer.raise_for_status()
    return str(answer.json()["text_output"])


def curl_line(endpoint: str, body: Mapping[str, Any], settings: Settings) -> str:
    """A curl command that sends a request to the endpoint; users with keys fill in theirs."""
    return f"{proxy_of(settings).curl} {endpoint} -d '{json.dumps(body)}'"


def ask_chat(model: str, settings: Settings) -> tuple[str, str]:
    """A chat's answer by the OpenAI API of the live endpoint, and a curl command that asks the same.

    The first promotion has just started the API's service.
    """
    body = {"model": model, "max_tokens": 60, "messages": [{"role": "user", "content": CHAT_PROMPT}]}
    proxy = proxy_of(settings)
    with proxy.client(_ANSWER_S) as http:
        until = time.monotonic() + _API_STARTS_S
        while (asked := http.post("/v1/chat/completions", json=body)).status_code == httpx.codes.SERVICE_UNAVAILABLE:
            if time.monotonic() > until:
                break
            time.sleep(_POLL_S)
        answer = asked.raise_for_status().json()
    line = curl_line(f"{proxy.url}/v1/chat/completions", body, settings)
    return str(answer["choices"][0]["message"]["content"]), line


def _watch(api: AirflowApi, run: str, console: Console) -> dict[str, TaskState]:
    seen: dict[str, str | None] = {}
    with Live(console=console, refresh_per_second=2, transient=False, auto_refresh=console.is_terminal) as live:
        while True:
            tasks = api.tasks(DAG, run)
            ended = api.run_state(DAG, run) in {"success", "failed"} and all(
                task.state in ENDED for task in tasks.values()
            )
            asking = tasks.get("approve_release")
            if asking and asking.state == "awaiting_input" and asking.task not in seen:
                seen[asking.task] = asking.state
                console.print("  approve_release waits for an answer: Required Actions, in the web UI")
            if console.is_terminal:
                live.update(_table(tasks))
            else:
                _print_changes(tasks, seen, console)
            if ended:
                return tasks
            time.sleep(1)


def _table(tasks: dict[str, TaskState]) -> Table:
    table = Table("stage", "state", "seconds", box=None, pad_edge=False)
    for stage in STAGES:
        task = tasks.get(stage)
        state = (task.state if task else None) or "waiting"
        style = _STYLES.get(state, "dim")
        seconds = f"{task.seconds:.1f}" if task and task.seconds else ""
        table.add_row(stage, f"[{style}]{state}[/{style}]", seconds)
    return table


def _print_changes(tasks: dict[str, TaskState], seen: dict[str, str | None], console: Console) -> None:
    for stage in STAGES:
        task = tasks.get(stage)
        if task is None or seen.get(stage) == task.state or task.state not in {"running", *ENDED}:
            continue
        seen[stage] = task.state
        seconds = f" in {task.seconds:.1f} s" if task.state in ENDED and task.seconds else ""
        console.print(f"  {stage:<20} {task.state}{seconds}")


def _reused(result: object) -> bool:
    """True if a stage's result, or the artifact in it, was taken from the store."""
    if not isinstance(result, dict):
        return False
    return bool(result.get("reused", _reused(result.get("model"))))
