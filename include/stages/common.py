"""The parts that all stage programs share: the timed and logged report, and the written failure."""

from __future__ import annotations

import json
import logging
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from include.errors import PipelineError, UserError

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
class StageReport:
    """The record of one stage run: seconds of each part, versions, results, peak memory in bytes."""

    timings_s: dict[str, float] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    results: dict[str, Any] = field(default_factory=dict)
    gpu: str | None = None
    gpu_peak_bytes: int | None = None

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Times the block as ``name`` and logs when it starts and ends."""
        log.info("%s ...", name)
        start = time.perf_counter()
        yield
        self.timings_s[name] = round(time.perf_counter() - start, 3)
        log.info("%s done in %.1f s", name, self.timings_s[name])

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
    logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(message)s", force=True)
    report = StageReport()
    try:
        main(report)
    except PipelineError as error:
        (out / FAILURE_FILE).write_text(json.dumps(error.to_dict()))
        log.error("%s: %s", type(error).__name__, error)
        return error.exit_code
    report.write(out)
    return 0
