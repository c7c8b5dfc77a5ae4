"""``python -m include.stages.calibrate``: see `include.stages.calibrate.parser` for the flags."""

from __future__ import annotations

import sys

from include.stages.calibrate.environment import prepare
from include.stages.calibrate.parser import parse
from include.stages.common import run_stage


def main() -> int:
    """The program; returns the exit code."""
    options = parse()
    prepare()
    from include.stages.calibrate.stage import calibrate

    return run_stage(lambda report: calibrate(options, report), options.out)


if __name__ == "__main__":
    sys.exit(main())
