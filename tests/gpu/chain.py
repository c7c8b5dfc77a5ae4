"""The whole chain of target vllm on a bare GPU host, without Airflow: the tasks of a release, one after the other.

``python -m tests.gpu.chain --model DIR`` checks, pulls, calibrates, builds, assembles, launches and
judges by the gates; then it hangs up on a long stream and waits until the engine has stopped working on it, kills
vLLM's core and waits until the server has ended, and waits until the GPU has its memory back. It prints one JSON line
for each step. Runner ``process``; the settings are those of the deployment.
"""

from __future__ import annotations

import argparse
import http.client
import json
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from include.context import Context, stage_gpus
from include.errors import GateFailure
from include.runners.job import StageJob
from include.runners.process import ProcessRunner
from include.settings import settings
from include.targets.vllm import VllmTarget
from include.tasks import (
    ArtifactRef,
    assemble_repository,
    build_engine,
    calibrate_awq,
    check_request,
    launch_triton,
    pull_model,
    validate_generate,
)
from include.triton import servers
from include.triton.servers import ServerRecord

WAIT_S = 60


def say(step: str, **facts: Any) -> None:
    print("CHAIN", json.dumps({"step": step, **facts}), flush=True)


@contextmanager
def timed(step: str) -> Iterator[dict[str, Any]]:
    start, facts = time.monotonic(), dict[str, Any]()
    yield facts
    say(step, seconds=round(time.monotonic() - start, 1), **facts)


def make(context: Context, job: StageJob) -> ArtifactRef:
    """What a stage operator does."""
    runner = ProcessRunner(context.target, context.log, partial(stage_gpus, context))
    with context.store.claim(job.kind, job.inputs, log=context.log) as claim:
        runner.run(job, claim)
    return ArtifactRef(kind=job.kind, name=claim.name, reused=claim.hit)


def release(context: Context, params: dict[str, Any]) -> ServerRecord:
    """Every task up to the gates; returns the candidate, which still runs."""
    with timed("check_request"):
        checked = check_request.run(context, params)
    with timed("pull_model"):
        pulled = pull_model.run(context, checked)
    with timed("calibrate_awq") as facts:
        checkpoint = make(context, calibrate_awq.job(context, checked, pulled))
        facts |= calibrate_awq.event(context, checkpoint)["scores"]
    with timed("build_engine") as facts:
        engine = make(context, build_engine.job(context, checked, checkpoint))
        facts |= build_engine.event(context, engine)["scores"]
    with timed("assemble_repository"):
        repository = assemble_repository.run(context, checked, checkpoint, engine)
    with timed("launch_triton"):
        candidate = launch_triton.run(context, checked, repository)
    assert candidate is not None
    with timed("validate_generate") as facts:
        try:
            validate_generate.run(context, checked, checkpoint, engine, repository, candidate)
            facts["accepted"] = True
        except GateFailure as failure:
            facts |= {"accepted": False, "why": str(failure)}
    return candidate


def hang_up(record: ServerRecord) -> None:
    """Reads a few pieces of a long stream and closes it: the engine must stop working on it."""
    connection = http.client.HTTPConnection("127.0.0.1", record.ports.http, timeout=60)
    body = {"text_input": "Once upon a time", "max_tokens": 900, "end_id": -1, "stream": True}
    connection.request("POST", "/v2/models/ensemble/generate_stream", json.dumps(body))
    response = connection.getresponse()
    for _ in range(6):
        response.readline()
    connection.sock.close()
    response.close()
    start = time.monotonic()
    while time.monotonic() - start < WAIT_S:
        said = [line for line in record.log.read_text(errors="replace").splitlines() if "client has gone" in line]
        if said:
            say("hang_up", seconds=round(time.monotonic() - start, 2), log=said[-1][-80:])
            return
        time.sleep(0.05)
    say("hang_up", failed="the engine went on")


def kill_core(record: ServerRecord) -> None:
    """Kills vLLM's core: the server must end, so that its supervisor sees it."""
    server = psutil.Process(record.pid)
    cores = [child for child in server.children(recursive=True) if "EngineCore" in " ".join(child.cmdline())]
    for core in cores:
        core.send_signal(signal.SIGKILL)
    start = time.monotonic()
    while server.is_running() and server.status() != psutil.STATUS_ZOMBIE and time.monotonic() - start < WAIT_S:
        time.sleep(0.1)
    ended = not server.is_running() or server.status() == psutil.STATUS_ZOMBIE
    say("kill_core", cores=len(cores), server_ended=ended, seconds=round(time.monotonic() - start, 1))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--field", action="append", default=[], help="name=JSON value of a field of the form")
    options = parser.parse_args()
    context = Context(settings=settings(), log=partial(print, flush=True), dag_id="release_awq_engine", run_id="gpu")
    fields = {name: json.loads(value) for name, _, value in (field.partition("=") for field in options.field)}
    params = {"model": str(options.model), "target": "vllm", "streaming": True, **fields}
    target = VllmTarget(context.settings)
    before = target.list_gpus()
    try:
        record = release(context, params)
        hang_up(record)
        kill_core(record)
    finally:
        if left := servers.find(context.candidate_record):
            servers.stop(left, context.candidate_record)
    with timed("memory_back") as facts:
        target.wait_for_memory([gpu.uuid for gpu in before])
        after = target.list_gpus()
        facts["used_mib"] = [[gpu.memory_used_mib for gpu in then] for then in (before, after)]


if __name__ == "__main__":
    main()
