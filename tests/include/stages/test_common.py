"""What a stage program writes: its own lines bare, those of its tools marked."""

from __future__ import annotations

import logging
import sys
import warnings
from pathlib import Path

import pytest

from include.errors import UserError
from include.stages import common
from include.stages.common import StageReport, log, run_stage, tell


def noisy(report: StageReport) -> None:
    with report.part("search"):
        warnings.warn("transformers is incompatible with modelopt", stacklevel=1)
        print("Enable lm_head quantization.", end="")
        print(" 10%\r 20%", file=sys.stderr)
        logging.getLogger("modelopt").warning("beware")
        tell("layer 3 of 30", 0.1)
        log.info("a line of our own")


@pytest.fixture
def lines(capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr(common, "EVERY_S", 0)
    assert run_stage(noisy, tmp_path) == 0
    return capfd.readouterr().out.splitlines()


def test_the_stages_own_lines_are_bare(lines: list[str]) -> None:
    own = [line for line in lines if not line.startswith("tool: ")]
    assert own[:3] == ["search ...", "search: layer 3 of 30 (10.0 %)", "a line of our own"]
    assert own[3].startswith("search done in ")
    assert len(own) == 4


@pytest.mark.parametrize(
    "said", ["transformers is incompatible with modelopt", "Enable lm_head quantization.", " 20%", "modelopt: beware"]
)
def test_what_tools_say_is_marked(lines: list[str], said: str) -> None:
    assert [line for line in lines if said in line and line.startswith("tool: ")]


def test_a_part_is_told_of_once_in_a_while(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run_stage(noisy, tmp_path) == 0
    assert "layer 3" not in capfd.readouterr().out, "the part has just begun"


def test_outside_of_a_part_nothing_is_told() -> None:
    tell("layer 3 of 30", 0.1)


def test_a_failure_is_said_and_written(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    def fail(report: StageReport) -> None:
        raise UserError("no such thing", fix="name another")

    assert run_stage(fail, tmp_path) == UserError.exit_code
    assert "UserError: no such thing\n  do: name another\n" in capfd.readouterr().out
    assert (tmp_path / common.FAILURE_FILE).exists()
