"""``make demo`` and ``make down``: the main job on the embedded default, and stopping everything that it started."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import httpx
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from include import report
from include.context import Context
from include.demo import airflow, run
from include.errors import PipelineError
from include.live.address import LiveAddress
from include.settings import Settings, settings

# Calibration small enough for a laptop's CPU; SmolLM2's hidden size of 576 is a multiple of 64, not of 128.
DEMO = {"target": "openvino", "awq_group_size": 64, "calib_size": 32, "calib_seq_len": 64}


def main() -> int:
    """Runs the command of the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m include.demo", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    demo = commands.add_parser("run", help="release a model and ask it")
    demo.add_argument("--model", required=True, help="Hub id, or absolute path of a model directory")
    commands.add_parser("down", help="stop Airflow and every Triton of this store")
    arguments = parser.parse_args()
    console = Console(highlight=False)
    try:
        if arguments.command == "down":
            _down(settings(), console)
        else:
            _demo(settings(), arguments.model, console)
    except (PipelineError, httpx.HTTPError) as error:
        console.print(f"[red]{type(error).__name__}[/red]", error, markup=True)
        return 1
    return 0


def _demo(chosen: Settings, model: str, console: Console) -> None:
    console.print("starting Airflow (web UI, scheduler, DAG processor, triggerer) ...")
    api = airflow.start(chosen)
    outcome = run.release(api, {**DEMO, "model": model}, console)
    released = outcome.released
    if outcome.reused:
        stages = ", ".join(stage for stage in run.STAGES if stage in outcome.reused)
        console.print(f"reused from the artifact store: {stages}", soft_wrap=True)
    console.print(_gates(Path(released["report"]).parent))
    names = (released["name"], *released["aliases"], *["ensemble (the default)"] * released["default"])
    question = run.SEED_REQUEST["text_input"]
    console.print(Panel(run.ask(released["endpoint"], chosen).strip(), title=str(question), title_align="left"))
    chat, chat_line = run.ask_chat(released["name"], chosen)
    console.print(Panel(Text(chat.strip()), title=run.CHAT_PROMPT, title_align="left"))
    for name, value in {
        "release": f"{released['model']} number {released['release']}, served as {', '.join(names)}",
        "report": released["report"],
        "ask it": run.curl_line(released["endpoint"], run.SEED_REQUEST, chosen),
        "or chat": chat_line,
        "Airflow": f"{airflow.url_of(chosen)}  user {airflow.USER}  password {airflow.password(chosen)}",
        "stop all": "make down",
    }.items():
        console.print(f"{name:<9} {value}", markup=False, soft_wrap=True)


def _gates(release: Path) -> Table:
    """The gates' verdicts on the release, one per line."""
    table = Table("gate", "verdict", "found", box=None, pad_edge=False)
    found = report.read(release)
    for verdict in found.verdicts if found else ():
        table.add_row(verdict.gate, (verdict.rating or verdict.outcome).lower(), Text(verdict.found.split("; ")[0]))
    return table


def _down(chosen: Settings, console: Console) -> None:
    if airflow.stop(chosen):
        console.print("Airflow stopped")
    context = Context(settings=chosen, log=lambda _: None, dag_id="", run_id="")
    for server in LiveAddress(context).stop():
        console.print(f"{server} stopped")


if __name__ == "__main__":
    sys.exit(main())
