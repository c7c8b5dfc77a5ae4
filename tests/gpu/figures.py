"""Visit ``figures``: what users ask: how fast through the live address, which format, how good is FP8."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

from include.settings import PROJECT, settings
from tests.gpu.layout import DATA
from tests.gpu.visit import Unproved, Visit

WORK = DATA / "figures"
FORMATS = ("int4_awq", "fp8", "float16")


def run(visit: Visit, model: Path) -> None:
    """The visit: the engines' own speed first, then int4 through the live address in the same visit."""
    for weights in FORMATS:
        made = visit.step(f"make_{weights}", partial(make, weights, model))
        if weights == "int4_awq":
            visit.step("warm", lambda _: measured(python(), "warm", "--engine", engine(FORMATS[0])), made)
            visit.step("live_int4_awq", lambda _: served("live", model), made)
        visit.step(
            f"bare_{weights}", lambda _, name=weights: measured(python(), "bare", "--engine", engine(name)), made
        )
    visit.step("fp8_chain", partial(chain, model, '--field=quantization="fp8"'))


def python() -> Path:
    """Of vLLM's environment."""
    return settings().vllm_python


def engine(weights: str) -> Path:
    return WORK / weights


def make(weights: str, model: Path, tp_size: int = 1) -> dict[str, Any]:
    """An engine of Llama-2-7B's shape."""
    options = ("--weights", weights, "--tp-size", str(tp_size), "--attention", "FLASH_ATTN")
    return measured(python(), "make", "--engine", engine(weights), "--tokenizer", model, *options)


def served(where: str, model: Path) -> dict[str, Any]:
    """Through the ensemble; started by this environment, in which targets are."""
    work = WORK / f"work-{where}-{os.getpid()}"
    place = ("--engine", engine(FORMATS[0]), "--tokenizer", model, "--work", work)
    return measured(Path(sys.executable), where, *place)


def measured(interpreter: Path, *arguments: str | Path) -> dict[str, Any]:
    """A part of benchmarks/vllm_serving.py; its figures."""
    return {"figures": said(interpreter, "SPEED", "benchmarks.vllm_serving", *arguments)}


def chain(model: Path, *fields: str) -> dict[str, Any]:
    """`tests.gpu.chain`; its steps."""
    place = ("--model", model, "--field=awq_group_size=64", "--field=calib_size=32", "--field=calib_seq_len=128")
    return {"steps": said(Path(sys.executable), "CHAIN", "tests.gpu.chain", *place, *fields)}


def said(interpreter: Path, mark: str, module: str, *arguments: str | Path) -> list[Any]:
    """The JSON of the lines with a mark that a program prints; its whole output is shown as it comes."""
    env = {**os.environ, "PYTHONPATH": str(PROJECT), "PYTHONUNBUFFERED": "1", "HF2TRITON_RUNNER": "process"}
    argv = [str(word) for word in (interpreter, "-m", module, *arguments)]
    found = []
    with subprocess.Popen(argv, env=env, stdout=subprocess.PIPE, text=True, errors="replace") as process:
        for line in process.stdout or ():
            print(line, end="", flush=True)
            if line.startswith(f"{mark} "):
                found.append(json.loads(line.removeprefix(mark)))
    if process.returncode:
        raise Unproved({"said": found}, f"{module} ended with {process.returncode}")
    return found
