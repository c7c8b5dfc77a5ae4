"""Visit ``pair``: one model on two GPUs, and what leases and waits for memory do where there are two."""

from __future__ import annotations

import os
import subprocess
from functools import partial
from pathlib import Path
from typing import Any

from include.context import Context
from include.settings import PROJECT, settings
from tests.gpu import engine, figures, stages
from tests.gpu.visit import Visit

SIZE = 2
MODEL = figures.WORK / "tiny"
"""A model whose heads two GPUs can share."""

_MAKE = """
import sys
from pathlib import Path
from benchmarks.calibrate import SHAPES, make_model
make_model(SHAPES["tiny"], Path(sys.argv[1]))
"""


def run(visit: Visit, model: Path) -> None:
    """The visit: a Docker engine for leases, then the chain and the figures as processes."""
    with engine.running():
        context = Context(settings=settings(), log=print, dag_id="pair", run_id="pair")
        gpus = visit.step("list_gpus", lambda: stages.list_gpus(context))
        visit.step("container", lambda found: stages.look_inside(found["vllm"]), gpus)
        visit.step("leases", lambda found: stages.wait_for_lease(found["vllm"]), gpus)
        visit.step("busy_gpu", lambda _: stages.busy(context), gpus)
    tiny = visit.step("model", make_tiny)
    visit.step("chain", lambda _: figures.chain(MODEL, f"--field=tp_size={SIZE}", '--field=task_data="off"'), tiny)
    made = visit.step("make", partial(figures.make, figures.FORMATS[0], model, SIZE))
    visit.step("live", lambda _: figures.served("live", model), made)
    bare = ("bare", "--engine", figures.engine(figures.FORMATS[0]))
    visit.step("bare", lambda _: figures.measured(figures.python(), *bare), made)


def make_tiny() -> dict[str, Any]:
    """Writes the model, with the versions that calibrate it."""
    MODEL.mkdir(parents=True, exist_ok=True)
    env = {**os.environ, "PYTHONPATH": f"{settings().vllm_modelopt}{os.pathsep}{PROJECT}"}
    subprocess.run([settings().vllm_python, "-c", _MAKE, MODEL], env=env, check=True)
    return {"files": sorted(path.name for path in MODEL.iterdir())}
