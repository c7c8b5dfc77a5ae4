# ruff: noqa: TID253
from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from include.stages.calibrate import rank_file

TENSORS = {
    "b": torch.arange(-60, 60, dtype=torch.int8).reshape(12, 10),
    "a": torch.arange(7, dtype=torch.int8),
    "half": torch.randn(5, 3).half(),
    "scalar": torch.tensor(2.5),
    "bfloat": torch.randn(4, 4).bfloat16(),
    "eight": torch.randn(3, 4).to(torch.float8_e4m3fn),
}


@pytest.mark.parametrize("buffer", [rank_file._BUFFER_BYTES, 16], ids=["whole", "in pieces"])
@pytest.mark.parametrize(
    "names",
    [["b", "a", "half", "scalar"], ["a", "bfloat"], ["scalar"], ["eight", "half", "scalar"]],
    ids="-".join,
)
def test_writes_the_bytes_that_safetensors_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: list[str], buffer: int
) -> None:
    monkeypatch.setattr(rank_file, "_BUFFER_BYTES", buffer)
    tensors = {name: TENSORS[name] for name in names}
    rank_file.save(tensors, tmp_path / "ours")
    save_file(tensors, tmp_path / "theirs")
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()
