"""The speed gate's load generator and aiperf, NVIDIA's load tool, on one server, in turns.

    PYTHONPATH=. .venvs/airflow/bin/python benchmarks/serving.py --url http://127.0.0.1:8000 \
        --tokenizer .local/models/SmolLM2-135M-Instruct --aiperf .local/aiperf

Prints both tools' figures and their ratio, which is 1 if both measure the same. Both send each prompt once, so that
no KV cache knows it, and ask for answers of one length; the endpoint counts our tokens, the tokenizer aiperf's.
Times to first token need a release that streams. aiperf's environment (840 MB) is made if it is not there.
Without --url the server is a stand-in that takes 200 ms to the first token and 50 ms to each that follows, with any
number of clients: what a tool should find is known, and a busy host matters little.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import urlsplit

from include.gates.load import Workload, burst, load_of, streams
from include.requests.release import SEED_PROMPT
from include.settings import PROJECT
from include.triton.client import Endpoint, path_of

AIPERF = "aiperf==0.13.0"
PROMPTS = (SEED_PROMPT, "Tell me about the sea.", "Write a short story about a robot.", "What is a list in Python?")
TEMPLATE = """{"text_input": {{ text|tojson }}, "max_tokens": %d, "min_tokens": %d, "top_k": 1, "stream": %s}"""
OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")  # with them aiperf takes a tokenizer's path for a Hub id

FIRST_S, NEXT_S = 0.2, 0.05

Figures = Mapping[str, float]


class Paced(BaseHTTPRequestHandler):
    """Triton's streaming endpoint of a model whose tokens take a known time."""

    def do_GET(self) -> None:
        """The model's configuration."""
        self._start()
        self.wfile.write(b'{"model_transaction_policy": {"decoupled": true}}')

    def do_POST(self) -> None:
        """An answer, a word a token."""
        tokens = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["max_tokens"]
        start = time.perf_counter()
        self._start()
        for number in range(tokens):
            time.sleep(max(0, start + FIRST_S + number * NEXT_S - time.perf_counter()))
            event = {"text_output": " the", "num_output_tokens": 1}
            self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())

    def _start(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@contextmanager
def paced() -> Iterator[Endpoint]:
    """The stand-in, in a process of its own."""
    web = ThreadingHTTPServer(("127.0.0.1", 0), Paced)
    process = multiprocessing.get_context("fork").Process(target=web.serve_forever, daemon=True)
    process.start()
    yield Endpoint(host="127.0.0.1", http_port=web.server_port, grpc_port=0)
    process.terminate()


@contextmanager
def running(url: str) -> Iterator[Endpoint]:
    """A server that somebody else has started."""
    address = urlsplit(url)
    yield Endpoint(host=str(address.hostname), http_port=address.port or 80, grpc_port=0)


def make_environment(path: Path) -> Path:
    """aiperf's executable, in an environment of its own."""
    executable = path / "bin" / "aiperf"
    if not executable.exists():
        uv = str(PROJECT / ".venvs" / "uv" / "bin" / "uv")
        start = time.perf_counter()
        subprocess.run([uv, "venv", "-q", "--python", ">=3.11,<3.13", str(path)], check=True)
        subprocess.run([uv, "pip", "install", "-q", "--python", str(path), AIPERF], check=True)
        print(f"installed {AIPERF} in {time.perf_counter() - start:.0f} s", flush=True)
    return executable


def ours(endpoint: Endpoint, workload: Workload, concurrency: int, requests: int) -> Figures:
    """One burst, measured as the gate does."""
    load = load_of("candidate", concurrency, [burst(endpoint, workload.bodies(requests), concurrency)])
    if load.failures:
        raise SystemExit(f"{load.failures} of {load.requests} requests failed")
    percentiles = {"TTFT": load.ttft_ms, "ITL": load.itl_ms, "latency": load.latency_ms}
    times = {
        f"{name} {share}, ms": getattr(found, share)
        for name, found in percentiles.items()
        if found
        for share in ("p50", "p90")
    }
    return {"tokens/s": load.output_tokens_per_s, "requests/s": load.requests_per_s, **times}


def aiperf(command: list[str], workload: Workload, concurrency: int, requests: int) -> Figures:
    """The same by aiperf; ``command`` is what does not change between the runs."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        length, stream = workload.max_tokens, json.dumps(workload.stream)
        (work / "template.json").write_text(TEMPLATE % (length, length, stream))
        prompts = [json.dumps({"text": body["text_input"]}) for body in workload.bodies(requests)]
        (work / "prompts.jsonl").write_text("\n".join(prompts))
        argv = [*command, "--concurrency", str(concurrency), "--request-count", str(requests)]
        argv += ["--input-file", str(work / "prompts.jsonl"), "--custom-dataset-type", "single_turn"]
        argv += ["--extra-inputs", f"payload_template:{work / 'template.json'}", "response_field:text_output"]
        argv += ["--output-artifact-dir", str(work)]
        env = {name: value for name, value in os.environ.items() if name not in OFFLINE}
        run = subprocess.run(argv, env=env, capture_output=True, text=True)
        if run.returncode:
            raise SystemExit(run.stdout + run.stderr)
        return _figures_of(json.loads((work / "profile_export_aiperf.json").read_text()))


def _figures_of(report: dict[str, Any]) -> Figures:
    tags = {"TTFT": "time_to_first_token", "ITL": "inter_token_latency", "latency": "request_latency"}
    times = {
        f"{name} {share}, ms": report[tag][share]
        for name, tag in tags.items()
        if tag in report
        for share in ("p50", "p90")
    }
    throughput = {"tokens/s": "output_token_throughput", "requests/s": "request_throughput"}
    return {name: report[tag]["avg"] for name, tag in throughput.items()} | times


def compare(rounds: list[tuple[Figures, Figures]]) -> list[str]:
    """A Markdown table: each figure's median of the rounds by each tool, and ours to aiperf's."""
    rows = ["| | ours | aiperf | ratio |", "| --- | ---: | ---: | ---: |"]
    for name in rounds[0][0]:
        mine, theirs = (median(figures[tool][name] for figures in rounds) for tool in (0, 1))
        rows.append(f"| {name} | {mine:.1f} | {theirs:.1f} | {mine / theirs:.2f} |")
    return rows


def main() -> None:
    """Measures at each concurrency and prints a table for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", help="the HTTP address of a Triton server; without it, the stand-in")
    parser.add_argument("--tokenizer", type=Path, required=True, help="directory of the model or its tokenizer")
    parser.add_argument("--aiperf", type=Path, required=True, help="aiperf's environment")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--requests", type=int, default=32, help="requests in a run of a tool")
    parser.add_argument("--max-tokens", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=4, help="runs of each tool at each concurrency")
    options = parser.parse_args()
    executable = make_environment(options.aiperf)
    with running(options.url) if options.url else paced() as endpoint:
        workload = Workload(PROMPTS, options.max_tokens, streams(endpoint))
        command = [str(executable), "profile", "--model", "ensemble", "--url", endpoint.url]
        command += ["--endpoint-type", "template", "--tokenizer", str(options.tokenizer.resolve()), "--ui", "none"]
        command += ["--custom-endpoint", path_of("generate_stream" if workload.stream else "generate")]
        command += ["--no-gpu-telemetry", "--no-server-metrics", *(["--streaming"] if workload.stream else [])]
        for concurrency in options.concurrency:
            measure(endpoint, command, workload, concurrency, options)


def measure(
    endpoint: Endpoint, command: list[str], workload: Workload, concurrency: int, options: argparse.Namespace
) -> None:
    """All rounds at one concurrency; each tool goes first in every other round."""
    tools = [
        lambda: ours(endpoint, workload, concurrency, options.requests),
        lambda: aiperf(command, workload, concurrency, options.requests),
    ]
    burst(endpoint, workload.bodies(concurrency), concurrency)
    rounds: list[tuple[Figures, Figures]] = []
    seconds = {0: 0.0, 1: 0.0}
    for number in range(options.rounds):
        found: dict[int, Figures] = {}
        for tool in (1, 0) if number % 2 else (0, 1):
            start = time.perf_counter()
            found[tool] = tools[tool]()
            seconds[tool] += time.perf_counter() - start
        rounds.append((found[0], found[1]))
    print(f"\n{concurrency} at once, {options.rounds} runs of {options.requests} x {options.max_tokens} tokens each:\n")
    print("\n".join(compare(rounds)))
    mine, theirs = (seconds[tool] / options.rounds for tool in (0, 1))
    print(f"\nA run took {mine:.1f} s with ours, {theirs:.1f} s with aiperf.", flush=True)


if __name__ == "__main__":
    main()
