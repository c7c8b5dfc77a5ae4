"""A model repository that any Triton with a python backend serves: one model that gives back what it was given."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from include.host.ports import free_ports
from include.settings import PROJECT
from include.triton import servers
from include.triton.servers import Ports, ServerPlan, ServerRecord

CONFIG = """
name: "echo"
backend: "python"
max_batch_size: 0
input [ { name: "IN" data_type: TYPE_INT32 dims: [ 1 ] } ]
output [ { name: "OUT" data_type: TYPE_INT32 dims: [ 1 ] } ]
instance_group [ { count: 1 kind: KIND_CPU } ]
"""
ECHO = """
import triton_python_backend_utils as pb_utils
class TritonPythonModel:
    def execute(self, requests):
        arrays = [pb_utils.get_input_tensor_by_name(r, "IN").as_numpy() for r in requests]
        return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", a)]) for a in arrays]
"""
BROKEN = """
class TritonPythonModel:
    def initialize(self, args):
        raise RuntimeError("no such engine: 4711")
"""
TIMEOUT_S = 120  # a container takes longer to start than a process
LAUNCH = """
import os, signal
from pathlib import Path
from include.triton import servers
from include.host.docker.containers import Containers
root = Path({root!r})
def die(*_): os.kill(os.getpid(), signal.SIGKILL)
{fault}
plan = servers.ServerPlan.model_validate_json((root / "plan.json").read_text())
servers.launch(plan, root / "server.json", timeout_s={timeout_s})
"""


def write_repository(root: Path, code: str = ECHO) -> Path:
    """The repository, below ``root``."""
    model = root / "repository" / "echo"
    (model / "1").mkdir(parents=True, exist_ok=True)
    (model / "config.pbtxt").write_text(CONFIG)
    (model / "1" / "model.py").write_text(code)
    return root / "repository"


def ask(record: ServerRecord, number: int) -> int:
    """What the model of a server answers."""
    body = {"inputs": [{"name": "IN", "shape": [1], "datatype": "INT32", "data": [number]}]}
    answer = httpx.post(f"{record.url}/v2/models/echo/infer", json=body, timeout=30).json()
    return int(answer["outputs"][0]["data"][0])


def free() -> Ports:
    """Ports that nobody has now."""
    http, grpc, metrics = free_ports(3)
    return Ports(http=http, grpc=grpc, metrics=metrics)


def launch(root: Path, fault: str = "") -> int:
    """Launches the plan of ``root`` from a process of its own; returns its exit code."""
    code = LAUNCH.format(root=str(root), fault=fault, timeout_s=TIMEOUT_S)
    return subprocess.run([sys.executable, "-c", code], cwd=PROJECT, check=False, start_new_session=True).returncode


@contextmanager
def launched(root: Path, plan: ServerPlan) -> Iterator[Path]:
    """The record of a server that was launched by a process that has ended since; none is left after the block."""
    (root / "plan.json").write_text(plan.model_dump_json())
    assert launch(root) == 0
    yield root / "server.json"
    if record := servers.find(root / "server.json"):
        servers.stop(record, root / "server.json", grace_s=0)
