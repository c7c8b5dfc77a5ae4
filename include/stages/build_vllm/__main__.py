"""``python -m include.stages.build_vllm --checkpoint DIR --out DIR --max-seq-len N ...``."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from include.stages.common import run_stage

LIMITS = ("tp_size", "max_batch_size", "max_input_len", "max_seq_len", "max_num_tokens")


def main() -> int:
    """The program; returns the exit code."""
    parser = argparse.ArgumentParser(prog="include.stages.build_vllm", description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True, help="what the calibrate program wrote")
    parser.add_argument("--out", type=Path, required=True, help="existing, empty directory")
    for name in LIMITS:
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, required=True, help=f"the form's {name}")
    parser.add_argument("--attention-backend", default=None, help="vLLM's; without it, vLLM's own choice")
    args = parser.parse_args()
    # Everything is local by now: a missing file must not turn into a network time-out.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from include.stages.build_vllm.stage import build

    limits = {name: getattr(args, name) for name in LIMITS}
    return run_stage(lambda report: build(args.checkpoint, args.out, limits, args.attention_backend, report), args.out)


if __name__ == "__main__":
    sys.exit(main())
