"""``python -m include.stages.build_tensorrt_llm --checkpoint DIR ... --out DIR``."""

from __future__ import annotations

import sys
from functools import partial

from include.stages.build_tensorrt_llm.options import parse
from include.stages.build_tensorrt_llm.program import build
from include.stages.common import run_stage


def main() -> int:
    """Builds the engine of the command line; returns the exit code."""
    options = parse(sys.argv[1:])
    return run_stage(partial(build, options), options.out)


if __name__ == "__main__":
    sys.exit(main())
