"""The parts that all stage programs share: the timed and logged report, and the written failure."""

from __future__ import annotations

import io
import json
import logging
import re
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from include.errors import PipelineError, UserError
from include.stages.progress import EVERY_S, TOOL, Step

REPORT_FILE = "stage.json"
FAILURE_FILE = "failure.json"

# As the kernel names them: AVX-512 and AMX on x86-64, the bf16 extension on Arm.
_BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})

log = logging.getLogger("stage")


def has_native_bfloat16() -> bool:
    """True if this host's CPU has instructions for bfloat16; calibration on a CPU then uses them."""
    try:
        flags = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return False
    return bool(flags & _BF16_FLAGS)


def read_json(path: Path, failure: type[PipelineError] = UserError) -> dict[str, Any]:
    """The fields of a file that an earlier stage wrote; ``failure`` if it cannot be read."""
    try:
        fields: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise failure(f"{path.name} cannot be read: {error}", where=str(path), fix="make it again") from error
    return fields


@dataclass
class _Part:
    name: str
    told: float = field(default_factory=time.monotonic)


_part: ContextVar[_Part | None] = ContextVar("part", default=None)


def tell(what: str, share: float) -> None:
    """Logs how far the running part is, at most every `EVERY_S` seconds. ``share`` is from 0 to 1."""
    part = _part.get()
    if part and time.monotonic() - part.told >= EVERY_S:
        part.told = time.monotonic()
        log.info("%s", Step(part.name, what, share))


class _Tools(io.TextIOBase):
    """Standard output as the libraries of a stage see it: each line is marked as a tool's."""

    def __init__(self, out: TextIO) -> None:
        self._out, self._rest = out, ""

    def write(self, text: str) -> int:
        *lines, self._rest = re.split(r"\r?\n|\r", self._rest + text)
        for line in filter(str.strip, lines):
            self._out.write(f"{TOOL}{line.rstrip()}\n")
        self._out.flush()
        return len(text)

    def fileno(self) -> int:
        return self._out.fileno()

    @property
    def buffer(self) -> BinaryIO:
        return self._out.buffer


@contextmanager
def _tools_apart() -> Iterator[None]:
    """Marks what libraries print, log and warn of in the block; this project's lines and uncaught errors stay bare."""
    own = logging.StreamHandler(sys.stdout)
    log.handlers, log.propagate = [own], False
    log.setLevel(logging.INFO)
    tools = _Tools(sys.stdout)
    logging.basicConfig(stream=tools, level=logging.INFO, format="%(name)s: %(message)s", force=True)
    logging.captureWarnings(True)
    with redirect_stdout(tools), redirect_stderr(tools):
        try:
            yield
        finally:
            tools.write("\n")
            logging.captureWarnings(False)


@dataclass
class StageReport:
    """The record of one stage run: seconds of each part, versions, results, peak memory in bytes."""

    timings_s: dict[str, float] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    results: dict[str, Any] = field(default_factory=dict)
    gpu: str | None = None
    gpu_peak_bytes: int | None = None

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Times the block as ``name`` and logs when it starts and ends; in it, `tell` logs how far it is."""
        log.info("%s", Step(name))
        start = time.perf_counter()
        token = _part.set(_Part(name))
        try:
            yield
        finally:
            _part.reset(token)
        self.timings_s[name] = round(time.perf_counter() - start, 3)
        log.info("%s", Step(name, share=1, seconds=self.timings_s[name]))

    def write(self, out: Path) -> None:
        """Writes ``stage.json`` into ``out``; the runner moves it into the artifact's manifest."""
        # Its own or that of the largest program it called, such as trtllm-build.
        used = [resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        fields = {**asdict(self), "peak_rss_bytes": max(used) * 1024}
        (out / REPORT_FILE).write_text(json.dumps(fields, indent=1))


def run_stage(main: Callable[[StageReport], None], out: Path) -> int:
    """Runs ``main``, which writes its files into the existing directory ``out``; returns the exit code.

    A `PipelineError` is written to ``failure.json`` so that the caller can raise the same class again.
    """
    report = StageReport()
    try:
        with _tools_apart():
            main(report)
    except PipelineError as error:
        (out / FAILURE_FILE).write_text(json.dumps(error.to_dict()))
        log.error("%s: %s", type(error).__name__, error)
        return error.exit_code
    report.write(out)
    return 0
