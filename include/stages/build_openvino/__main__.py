"""``python -m include.stages.build_openvino --checkpoint DIR --out DIR``."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from include.stages.common import run_stage


def main() -> int:
    """The program; returns the exit code."""
    parser = argparse.ArgumentParser(prog="include.stages.build_openvino", description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True, help="what the calibrate program wrote")
    parser.add_argument("--out", type=Path, required=True, help="existing, empty directory")
    parser.add_argument("--precision", choices=("exact", "fast"), default="exact", help="of the engine's arithmetic")
    args = parser.parse_args()
    # Everything is local by now: a missing file must not turn into a network time-out.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from include.stages.build_openvino.stage import build

    return run_stage(lambda report: build(args.checkpoint, args.out, args.precision, report), args.out)


if __name__ == "__main__":
    sys.exit(main())
