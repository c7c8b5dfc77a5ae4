"""The openvino target's image: the stage programs run in it as they will in production, alone and unprivileged."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from include.runners.container import StageContainers
from include.runners.job import Command
from include.settings import PROJECT, Settings
from include.targets.openvino import LOCK, OpenVinoTarget
from tests.support.engine import client_or_skip, containers, lacking, run_to_end

pytestmark = pytest.mark.docker

TEST = {"hf2triton.test": str(os.getpid())}

MAKE_MODEL = """
import sys
sys.path.insert(0, {project!r})
from pathlib import Path
from tests.support.tiny_models import save_model
save_model(Path(sys.argv[2]))
"""

LIST_VERSIONS = """
import importlib.metadata, json, re
print(json.dumps({re.sub("[-_.]+", "-", d.name.lower()): d.version for d in importlib.metadata.distributions()}))
"""

CHECK_SERVER = """
cd /opt/venv/lib/python3.*/site-packages/pytriton/tritonserver
for file in bin/tritonserver backends/python/libtriton_python.so backends/python/triton_python_backend_stub; do
    ldd $file > /tmp/libraries || exit 3
    ! grep "not found" /tmp/libraries || exit 4
done
"""


@pytest.fixture(scope="module")
def target() -> OpenVinoTarget:
    client = client_or_skip()
    target = OpenVinoTarget(Settings(runner="docker"))
    if not client.images(name=target.stage_image().image):
        lacking(f"the image is not built: {target.stage_image().build}")
    return target


Run = Callable[..., Path]


@pytest.fixture
def log() -> list[str]:
    return []


@pytest.fixture
def run(target: OpenVinoTarget, log: list[str], tmp_path: Path) -> Run:
    runner = StageContainers(client_or_skip, log.append)

    def run_in_container(command: Command, name: str, *reads: Path) -> Path:
        out = tmp_path / name
        out.mkdir()
        fields = {
            "argv": (*command.argv, "--out", str(out)),
            "env": dict(command.env),
            "out": out,
            "reads": reads,
            "labels": TEST,
        }
        run_to_end(runner, target.stage_image().model_copy(update=fields))
        assert containers(client_or_skip(), test=TEST["hf2triton.test"]) == []
        return out

    return run_in_container


def test_the_locked_versions_are_in_it(run: Run, log: list[str]) -> None:
    run(Command(("python", "-c", LIST_VERSIONS), {}), "none")
    installed = json.loads(log[-1])
    locked = dict(re.findall(r"^([a-zA-Z0-9_.-]+)==(\S+)", LOCK.read_text(), re.MULTILINE))
    assert locked
    assert {name: installed.get(name) for name in locked} == locked
    assert installed["torch"].startswith("2.")


def test_triton_and_its_python_backend_find_their_libraries(run: Run) -> None:
    run(Command(("sh", "-c", CHECK_SERVER), {}), "none")


def test_a_model_becomes_a_checkpoint_and_an_engine(run: Run, target: OpenVinoTarget, log: list[str]) -> None:
    make = Command(("python", "-c", MAKE_MODEL.format(project=str(PROJECT))), {})
    model = run(make, "model", PROJECT / "tests")
    options = {"group-size": 16, "calib-size": 4, "calib-seq-len": 32, "dtype": "float32", "device": "cpu"}
    flags = tuple(word for name, value in options.items() for word in (f"--{name}", str(value)))
    calibrate = target.command("include.stages.calibrate", ("--model", str(model), "--calib-data", "builtin", *flags))
    checkpoint = run(calibrate, "checkpoint", model)
    assert (checkpoint / "rank0.safetensors").stat().st_size > 0
    assert json.loads((checkpoint / "reference.json").read_text())["quality"]["after"] > 1
    build = target.command("include.stages.build_openvino", ("--checkpoint", str(checkpoint)))
    engine = run(build, "engine", checkpoint)
    assert {"openvino_model.xml", "openvino_model.bin", "config.json"} <= {path.name for path in engine.iterdir()}
    assert any("done in" in line for line in log)
