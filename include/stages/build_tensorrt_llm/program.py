"""Runs ``trtllm-build`` and reports its result."""

from __future__ import annotations

import importlib.metadata
import os
import signal
import subprocess
import tempfile
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from include.errors import HostError, PipelineError, ToolError, UserError
from include.model.generation import suppressed_ids
from include.stages.build_tensorrt_llm.options import BuildOptions, trtllm_build
from include.stages.build_tensorrt_llm.outputs import (
    algorithm_of_checkpoint,
    check_engine,
    seconds_of_build,
    world_size_of_checkpoint,
)
from include.stages.common import StageReport, log

LAST_LINES = 20
_OUT_OF_MEMORY = ("out of memory", "outofmemory", "cuda_error_out_of_memory")
_SMALLER = "lower max_num_tokens or max_batch_size, raise tp_size and calibrate again, or use a GPU with more memory"
_VERSIONS = ("tensorrt_llm", "tensorrt", "torch", "transformers")


def build(options: BuildOptions, report: StageReport) -> None:
    """Builds the engine into ``options.out``, checks it, and keeps the timing cache for the next build.

    Raises:
        UserError: the checkpoint is not whole, or its vocabulary has gaps, which an engine would draw from.
        HostError: no ``trtllm-build``, or the host or the GPU ran out of memory.
        ToolError: ``trtllm-build`` failed, or wrote something else than asked for.
    """
    ranks, algorithm = world_size_of_checkpoint(options.checkpoint), algorithm_of_checkpoint(options.checkpoint)
    if gaps := suppressed_ids(options.checkpoint):
        raise UserError(
            f"{len(gaps)} ids of the vocabulary stand for no token, {gaps[0]} for instance: an engine would draw them",
            where=str(options.checkpoint),
            fix="choose target vllm or openvino, which keep them out of answers",
        )
    report.versions = _versions()
    report.gpu = _gpu_name()
    with _new_timing_cache(options.timing_cache) as cache, report.part("trtllm-build"):
        argv = trtllm_build(options, workers=ranks, new_timing_cache=cache)
        seconds = _run(argv)
    version = report.versions.get("tensorrt_llm", "unknown")
    engine = check_engine(options.out, version=version, world_size=ranks, algorithm=algorithm)
    report.results = {
        "build_s": seconds,
        "tensorrt_llm": engine.version,
        "tp_size": engine.tp_size,
        "pp_size": engine.pp_size,
        "argv": argv,
    }


@contextmanager
def _new_timing_cache(kept: Path | None) -> Iterator[Path]:
    """A new cache beside the kept one, whose place it takes whole after the block: two builds may share the file."""
    parent = (kept.parent if kept else Path(tempfile.gettempdir())).absolute()
    try:
        parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=".timing-", suffix=".cache", dir=parent)
    except OSError as error:
        raise HostError(
            f"the timing cache cannot be written: {error.strerror}", where=str(parent), fix="check its owner"
        ) from error
    os.close(descriptor)
    new = Path(name)
    try:
        yield new
        if kept is not None and new.stat().st_size > 0:
            new.replace(kept)
    finally:
        new.unlink(missing_ok=True)


def _run(argv: list[str]) -> int | None:
    """Runs the tool, passing its lines on; returns the seconds that it says it took."""
    tail: deque[str] = deque(maxlen=LAST_LINES)
    seconds = None
    log.info("%s", " ".join(argv))
    try:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
    except OSError as error:
        raise HostError(
            f"trtllm-build cannot be started: {error.strerror}",
            where=argv[0],
            fix="use an image with TensorRT-LLM 1.2.1 or earlier: later ones have no trtllm-build",
        ) from error
    with process:
        for line in process.stdout or ():
            log.info("%s", line.rstrip())
            tail.append(line.rstrip())
            seconds = seconds_of_build(line) or seconds
    if process.returncode != 0:
        raise _failure(process.returncode, list(tail))
    return seconds


def _failure(code: int, tail: list[str]) -> PipelineError:
    lines = "\n".join(tail)
    if code in {-signal.SIGKILL, 128 + signal.SIGKILL}:
        return HostError("trtllm-build was killed: the host is out of memory (OOM)", where=lines, fix=_SMALLER)
    if any(word in lines.lower() for word in _OUT_OF_MEMORY):
        return HostError("the GPU is out of memory (OOM) while building", where=lines, fix=_SMALLER)
    return ToolError(f"trtllm-build ended with exit code {code}:\n{lines}", where="trtllm-build")


def _versions() -> dict[str, str]:
    found = {}
    for name in _VERSIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _gpu_name() -> str | None:
    """Names of the GPUs in sight; None where there is no nvidia-smi."""
    try:
        asked = subprocess.run(
            ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return ", ".join(sorted(set(asked.stdout.strip().splitlines()))) or None
