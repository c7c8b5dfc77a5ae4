"""The bare engine, Triton, the proxy in front of Triton, and the OpenAI API behind that, under one load in turns.

    PYTHONPATH=. .venvs/airflow/bin/python benchmarks/gateway.py

Needs what `make setup` makes, and about two minutes more the first time: SmolLM2-135M is calibrated and built by the
tasks of the DAG, and kept in .local/benchmarks. All servers are its own, on free ports, and end with it.
Prints ratios of tokens/s and differences of the time to the first token, with their spread over the rounds. All
paths are measured in each round, so that other work on the machine changes all of them; only ratios mean something.
The CPU time that each process takes for a token is told too: it changes least with other work on the machine.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import psutil
from aiohttp import ClientSession

from benchmarks.serving import PROMPTS
from include.context import Context
from include.gates.load import Burst, Timing, Workload, burst, post
from include.host import services
from include.host.ports import free_ports
from include.host.services import ServiceRecord
from include.live.api import models
from include.live.api.service import models_file
from include.live.daemon import Daemon
from include.live.proxy import Served, Upstream, files_of, proxy_of
from include.model.files import TOKENIZER_CONFIG_FILE
from include.runners.job import StageJob, inherited
from include.runners.process import ProcessRunner
from include.settings import PROJECT, Settings
from include.tasks import ArtifactRef, assemble_repository, build_engine, calibrate_awq, check_request, pull_model
from include.triton import servers
from include.triton.client import Endpoint, NoAnswer
from include.triton.repository import read
from include.triton.servers import Ports

SMOLLM2 = PROJECT / ".local" / "models" / "SmolLM2-135M-Instruct"
WORK = PROJECT / ".local" / "benchmarks"
START_S = 300
NAME = "measured"
MAX_INPUT_LEN, MAX_SEQ_LEN = 1024, 2048

Measure = Callable[[Sequence[dict[str, Any]], int], Burst]
"""A path: answers requests in Triton's form from a number of clients."""

_MODELS = {"tensorrt_llm": "engine", "preprocessing": "preprocessing", "postprocessing": "postprocessing"}
PROCESSES = (*_MODELS.values(), "triton", "envoy", "api", "client")
"""What takes CPU time on the way of a token, by the names of the table's columns."""


@dataclass(frozen=True)
class Found:
    """A burst on one path, and the CPU time in ms that each process took for a token meanwhile."""

    burst: Burst
    cpu_ms: dict[str, float]

    @classmethod
    def of(cls, ask: Callable[[], Burst], spent: Callable[[], dict[str, float]]) -> Found:
        """Measures a burst; ``spent`` tells the CPU seconds so far."""
        before, answered, after = spent(), ask(), spent()
        tokens = max(answered.tokens, 1)
        return cls(answered, {name: 1000 * (after[name] - before[name]) / tokens for name in PROCESSES})


@dataclass(frozen=True)
class Goal:
    """What a path may cost against the one below it."""

    path: str
    below: str
    least_ratio: float
    most_ttft_ms: float | None = None


GOALS = (
    Goal("triton", "engine", least_ratio=0.95),
    Goal("envoy", "triton", least_ratio=0.97, most_ttft_ms=10),
    Goal("openai", "triton", least_ratio=0.97, most_ttft_ms=10),
)


@contextmanager
def paths(repository: Path, context: Context) -> Iterator[dict[str, Measure]]:
    """All paths to one repository, each with its servers: a further path is a further row."""
    with ExitStack() as running:
        triton = running.enter_context(triton_server(repository, context))
        envoy = running.enter_context(proxy(triton, context))
        yield {
            "engine": running.enter_context(bare_engine(repository, context)),
            "triton": partial(burst, triton),
            "envoy": partial(burst, envoy),
            "openai": partial(burst, running.enter_context(api(repository, envoy, context)), ask=complete),
        }


@contextmanager
def bare_engine(repository: Path, context: Context) -> Iterator[Measure]:
    """The engine as a program that answers bursts, with the variables that Triton's models get."""
    python = context.settings.openvino_python
    values = {name: field.string_value for name, field in read(repository)["tensorrt_llm"].parameters.items()}
    argv = [python, PROJECT / "benchmarks" / "bare_engine.py", repository / "tensorrt_llm" / "1", json.dumps(values)]
    env = {**inherited(), **context.target("openvino").server(repository, servers.some_ports()).env}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(argv, env=env, **pipes) as program:

        def said() -> str:
            if not (line := program.stdout.readline()):
                raise SystemExit("the bare engine ended")
            return line

        def measure(bodies: Sequence[dict[str, Any]], concurrency: int) -> Burst:
            asked = {"texts": [body["text_input"] for body in bodies], "max_tokens": bodies[0]["max_tokens"]}
            print(json.dumps({**asked, "concurrency": concurrency}), file=program.stdin, flush=True)
            found = json.loads(said())
            timings = tuple(Timing(found["tokens"], latency_s=last, first_s=first) for first, last in found["timings"])
            return Burst(found["seconds"], timings, ())

        said()
        try:
            yield measure
        finally:
            program.kill()


@contextmanager
def triton_server(repository: Path, context: Context) -> Iterator[Endpoint]:
    """Triton, as the deployment starts it."""
    plan = context.target("openvino").server(repository, servers.some_ports())
    record = servers.launch(plan, context.candidate_record, timeout_s=START_S, log=context.log)
    try:
        yield Endpoint(host="127.0.0.1", http_port=plan.ports.http, grpc_port=plan.ports.grpc)
    finally:
        servers.stop(record, context.candidate_record)


@contextmanager
def proxy(triton: Endpoint, context: Context) -> Iterator[Endpoint]:
    """The deployment's proxy before that server."""
    envoy = proxy_of(context.settings, context.log)
    envoy.ensure_running()
    try:
        metrics = context.settings.live_metrics_port
        upstream = Upstream(ports=Ports(http=triton.http_port, grpc=triton.grpc_port, metrics=metrics))
        envoy.point_to(NAME, Served(upstream=upstream, release=f"{NAME}/1"))
        envoy.set_default(NAME)
        yield Endpoint(host="127.0.0.1", http_port=envoy.ports.http, grpc_port=envoy.ports.grpc)
    finally:
        envoy.stop()


@contextmanager
def api(repository: Path, envoy: Endpoint, context: Context) -> Iterator[Endpoint]:
    """The deployment's OpenAI API, which the proxy sends its requests to."""
    limits = {"max_input_len": MAX_INPUT_LEN, "max_seq_len": MAX_SEQ_LEN}
    about = {"name": NAME, "aliases": (), "release": f"{NAME}/1", "created": datetime.now(UTC)}
    model = models.served_from(repository, **about, **limits)
    tokenizer = endless(model.tokenizer, context.settings.artifacts / "endless")
    no_ends = {"tokenizer": tokenizer, "end_ids": (), "engine_ends": frozenset()}
    models.publish(models_file(context.settings), [model.model_copy(update=no_ends)])
    daemon = Daemon.api(context)
    daemon.start()
    try:
        deadline = time.monotonic() + START_S
        while not httpx.get(f"{envoy.url}/v1/models", trust_env=False).is_success:
            if time.monotonic() > deadline:
                raise SystemExit("the API does not start")
            time.sleep(0.2)
        yield envoy
    finally:
        daemon.stop()


def endless(tokenizer: Path, copy: Path) -> Path:
    """A tokenizer that knows no end: OpenAI's API cannot ask for an answer of exactly so many tokens."""
    shutil.copytree(tokenizer, copy, dirs_exist_ok=True)
    config = copy / TOKENIZER_CONFIG_FILE
    config.write_text(json.dumps({k: v for k, v in json.loads(config.read_text()).items() if k != "eos_token"}))
    return copy


async def complete(http: ClientSession, body: dict[str, Any]) -> Timing | NoAnswer:
    """One request of the load as a completion of OpenAI's API."""
    asked = {"model": NAME, "prompt": body["text_input"], "max_tokens": body["max_tokens"], "temperature": 0}
    options = {"stream": True, "stream_options": {"include_usage": True}}
    received = await post(http, "/v1/completions", asked | options)
    if isinstance(received, NoAnswer):
        return received
    events = [line.removeprefix("data: ") for line in received.text.splitlines() if line.startswith("data: {")]
    usage = json.loads(events[-1]).get("usage") if events else None
    if not usage:
        return NoAnswer(received.text[:200])
    if usage["completion_tokens"] != body["max_tokens"]:
        return NoAnswer(f"an answer of {usage['completion_tokens']} tokens, and not of {body['max_tokens']}")
    return Timing(usage["completion_tokens"], received.last_s, received.first_s)


def make_release(context: Context, model: Path, precision: str) -> Path:
    """The repository of a release that streams, made by the tasks of the DAG; from the store if it has it."""
    params = {"model": str(model), "chat_template": "off", "streaming": True, "precision": precision}
    limits = {"max_batch_size": 16, "max_input_len": MAX_INPUT_LEN, "max_seq_len": MAX_SEQ_LEN}
    checked = check_request.run(context, {**params, **limits})
    pulled = pull_model.run(context, checked)
    checkpoint = made(context, calibrate_awq.job(context, checked, pulled))
    engine = made(context, build_engine.job(context, checked, checkpoint))
    return assemble_repository.run(context, checked, checkpoint, engine).load(context.store).path


def made(context: Context, job: StageJob) -> ArtifactRef:
    """The artifact of a stage program."""
    with context.store.claim(job.kind, job.inputs, log=context.log) as claim:
        ProcessRunner(context.target, context.log).run(job, claim)
    return ArtifactRef(kind=job.kind, name=claim.name, reused=claim.hit)


def context_in(work: Path) -> Context:
    """A deployment of its own."""
    http, grpc, metrics = free_ports(3)
    ports = {"live_http_port": http, "live_grpc_port": grpc, "live_metrics_port": metrics}
    settings = Settings(artifacts=work.resolve(), runner="process", bind_address="127.0.0.1", **ports)
    return Context(settings, partial(print, file=sys.stderr, flush=True), "gateway", "gateway")


def cpu_seconds(context: Context) -> dict[str, float]:
    """The CPU seconds so far of each process, by its name in `PROCESSES`; the bare engine counts as the engine."""
    servers = context.settings.artifacts / "servers"
    records = {"triton": context.candidate_record, "envoy": files_of(context.settings).record}
    spent = dict.fromkeys(PROCESSES, 0.0)
    spent["client"] = _cpu_of(psutil.Process())
    spent["engine"] = sum(map(_cpu_of, psutil.Process().children()))
    for name, path in {**records, "api": servers / "api.json"}.items():
        if record := services.read(path, ServiceRecord):
            process = psutil.Process(record.pid)
            spent[name] = _cpu_of(process)
            for model in process.children():
                spent[_MODELS[Path(model.cmdline()[1]).parent.parent.name]] += _cpu_of(model)
    return spent


def _cpu_of(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def ttft_ms(found: Burst) -> float:
    """The middle time to the first token."""
    return 1000 * median(timing.first_s or 0 for timing in found.timings)


def measure(
    paths: dict[str, Measure], concurrency: int, context: Context, options: argparse.Namespace
) -> list[dict[str, Found]]:
    """The rounds at one concurrency. Each begins with another path, and all paths of a round get the same prompts."""
    workload = Workload(PROMPTS, options.max_tokens, stream=True)
    spent = partial(cpu_seconds, context)
    names, rounds = list(paths), []
    for number in range(-1, options.rounds):  # the first warms up
        bodies = [without_end(body) for body in workload.bodies(max(concurrency, options.requests))]
        first = number % len(names)
        turns = names[first:] + names[:first]
        found = {name: Found.of(partial(paths[name], bodies, concurrency), spent) for name in turns}
        if errors := [error for one in found.values() for error in one.burst.errors]:
            raise SystemExit(f"{len(errors)} requests failed, e.g. {errors[0]}")
        rounds.append(found)
    return rounds[1:]


def without_end(body: dict[str, Any]) -> dict[str, Any]:
    """The request as each path can say it. A least length would also keep the engine from tokens that the API gets.

    An end token that comes first has no text, so that the first text comes with the next one.
    """
    return {name: value for name, value in body.items() if name != "min_tokens"} | {"end_id": -1}


def compare(concurrency: int, rounds: list[dict[str, Found]]) -> list[dict[str, Any]]:
    """A row for each goal: the rounds' ratios of tokens/s, and differences of the time to the first token."""
    rows = []
    for goal in GOALS:
        pairs = [(found[goal.path].burst, found[goal.below].burst) for found in rounds]
        row = {"path": goal.path, "to": goal.below, "concurrency": concurrency, "least_ratio": goal.least_ratio}
        row |= spread("ratio", [path.tokens_per_s / below.tokens_per_s for path, below in pairs])
        row |= spread("ttft_ms", [ttft_ms(path) - ttft_ms(below) for path, below in pairs])
        row["met"] = row["ratio"] >= goal.least_ratio and (
            goal.most_ttft_ms is None or row["ttft_ms"] <= goal.most_ttft_ms
        )
        rows.append(row)
    return rows


def spread(name: str, values: list[float]) -> dict[str, float]:
    """The median and the middle half."""
    ordered = sorted(values)
    quarter = len(ordered) // 4
    return {name: median(ordered), f"{name}_low": ordered[quarter], f"{name}_high": ordered[-1 - quarter]}


def cpu(concurrency: int, rounds: list[dict[str, Found]]) -> list[dict[str, Any]]:
    """A row for each path: the CPU time in ms that each process took for a token."""
    return [
        {"path": path, "concurrency": concurrency}
        | {name: median(found[path].cpu_ms[name] for found in rounds) for name in PROCESSES}
        for path in rounds[0]
    ]


def cpu_table(rows: list[dict[str, Any]]) -> str:
    """The rows in Markdown."""
    lines = [f"| at once | path | {' | '.join(PROCESSES)} | sum |", f"| ---: | --- |{' ---: |' * (len(PROCESSES) + 1)}"]
    for row in rows:
        times = [row[name] for name in PROCESSES]
        values = " | ".join(f"{time:.2f}" for time in [*times, sum(times)])
        lines.append(f"| {row['concurrency']} | {row['path']} | {values} |")
    return "\n".join(lines)


def table(rows: list[dict[str, Any]]) -> str:
    """The rows in Markdown."""
    lines = ["| at once | | tokens/s, ratio | TTFT, difference in ms | goals |", "| ---: | --- | --- | --- | --- |"]
    for row in rows:
        ratio = f"{row['ratio']:.2f} ({row['ratio_low']:.2f} to {row['ratio_high']:.2f})"
        ttft = f"{row['ttft_ms']:+.1f} ({row['ttft_ms_low']:+.1f} to {row['ttft_ms_high']:+.1f})"
        met = "met" if row["met"] else "missed"
        lines.append(f"| {row['concurrency']} | {row['path']} / {row['to']} | {ratio} | {ttft} | {met} |")
    return "\n".join(lines)


def main() -> None:
    """Measures at each concurrency, prints a table, and writes JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=SMOLLM2, help="a model directory; SmolLM2 is made if need be")
    parser.add_argument("--precision", choices=("exact", "fast"), default="exact")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 8, 16], help="16 at most")
    parser.add_argument("--requests", type=int, default=4, help="requests in a burst, at least one a client")
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--work", type=Path, default=WORK, help="where the release is made and kept")
    parser.add_argument("--json", type=Path, help="a file for the figures")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))  # and the servers with it
    context = context_in(options.work)
    if options.model == SMOLLM2:
        argv = [context.settings.openvino_python, "-m", "include.demo.smollm2", "--out", SMOLLM2]
        subprocess.run(argv, check=True, cwd=PROJECT, stdout=sys.stderr)
    rows, times = [], []
    with paths(make_release(context, options.model, options.precision), context) as every:
        for concurrency in options.concurrency:
            rounds = measure(every, concurrency, context, options)
            rows += compare(concurrency, rounds)
            times += cpu(concurrency, rounds)
    print(f"\n{options.rounds} rounds, {options.max_tokens} tokens an answer, precision {options.precision}:")
    print("the median of the rounds, and their middle half\n")
    print(table(rows))
    print("\nCPU time for a token, in ms, the median of the rounds\n")
    print(cpu_table(times))
    if options.json:
        options.json.write_text(json.dumps({"ratios": rows, "cpu_ms": times}, indent=1))


if __name__ == "__main__":
    main()
