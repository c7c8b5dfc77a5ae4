"""``python -m include.stages.calibrate``: see `include.stages.calibrate.parser` for the flags."""

from __future__ import annotations

import os
import sys

from include.stages.calibrate.parser import parse
from include.stages.common import run_stage


def main() -> int:
    """The program; returns the exit code."""
    options = parse()
    # A target whose environment has other versions carries these in a folder of their own.
    if site := os.environ.get("HF2TRITON_SITE"):
        sys.path.insert(0, site)
    # Everything is local by now: a missing file must not turn into a network time-out.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    # tiktoken keeps copies of what it has read by the path, which another model may have later.
    os.environ.setdefault("TIKTOKEN_CACHE_DIR", "")
    from include.stages.calibrate.stage import calibrate

    return run_stage(lambda report: calibrate(options, report), options.out)


if __name__ == "__main__":
    sys.exit(main())
