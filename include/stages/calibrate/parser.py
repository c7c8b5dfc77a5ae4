"""The flags of the calibrate program."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from include.model.config import DTYPE_BYTES
from include.stages.formats import DEFAULT, FORMATS
from include.stages.formats.base import Format

BUILTIN = "builtin"
SMOOTHINGS = ("free", "foldable")
"""``free``: a scale for each layer; ``foldable``: see `include.stages.calibrate.foldable`."""


@dataclass(frozen=True)
class Options:
    """One calibration. Lengths are in tokens; batch size 0 means all samples at once.

    ``group_size`` and ``smoothing`` are of INT4 AWQ alone. ``original`` has the measurement before quantization;
    without one it is made here.
    """

    model: Path
    out: Path
    device: str = "cpu"
    dtype: str = "float16"
    group_size: int = 128
    calib_size: int = 32
    calib_seq_len: int = 512
    calib_data: str = BUILTIN
    tp_size: int = 1
    batch_size: int = 0
    smoothing: str = "free"
    quantization: str = DEFAULT
    original: Path | None = None

    @property
    def format(self) -> Format:
        """The format to calibrate for."""
        return FORMATS[self.quantization]


def _at_least(low: int) -> type:
    def number(text: str) -> int:
        value = int(text)
        if value < low:
            raise argparse.ArgumentTypeError(f"must be at least {low}")
        return value

    return number  # type: ignore[return-value]


def model_parser(program: str, about: str | None) -> argparse.ArgumentParser:
    """The arguments of every program that loads a model: which one, where the results go, and what to compute in."""
    parser = argparse.ArgumentParser(prog=program, description=about)
    add = parser.add_argument
    add("--model", type=Path, required=True, help="Hugging Face model directory")
    add("--out", type=Path, required=True, help="existing, empty directory")
    add("--device", choices=("cpu", "cuda"), default=Options.device)
    add("--dtype", choices=DTYPE_BYTES, default=Options.dtype)
    return parser


def parse(argv: Sequence[str] | None = None) -> Options:
    """The options out of the command line; exits with 2 and a usage line on a bad one."""
    parser = model_parser("include.stages.calibrate", __doc__)
    add = parser.add_argument
    add("--group-size", type=_at_least(2), default=Options.group_size, help="weights that share one scale")
    add("--calib-size", type=_at_least(1), default=Options.calib_size, help="token blocks")
    add("--calib-seq-len", type=_at_least(2), default=Options.calib_seq_len, help="tokens in a block")
    add("--calib-data", default=BUILTIN, help="builtin, a .txt or .jsonl file, or a dataset directory")
    add("--tp-size", type=_at_least(1), default=Options.tp_size, help="ranks of the checkpoint")
    add("--batch-size", type=_at_least(0), default=Options.batch_size, help="0: all blocks in one batch")
    add("--smoothing", choices=SMOOTHINGS, default=Options.smoothing, help="which input scales AWQ may choose")
    add("--quantization", choices=FORMATS, default=Options.quantization, help="the format")
    add("--original", type=Path, help="directory that include.stages.calibrate.original made of the model")
    return Options(**vars(parser.parse_args(argv)))
