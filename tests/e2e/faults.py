"""Candidates that are ready but wrong, made from a real release's artifacts."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from include.artifacts.store import Artifact
from include.gates import Client, Endpoint, Report, Trial, gates_for, read_reference, validate
from include.requests.release import ReleaseRequest
from include.settings import PROJECT, Settings
from include.targets import pytriton
from include.triton import servers
from tests.support.echo import free
from tests.support.planted import swapped_tokenizer

PYTHON = Settings().openvino_python
IN_THE_ENGINE = {"wrong rotary base": "rope", "shuffled scales": "scales"}
FAULTS = (*IN_THE_ENGINE, "swapped tokenizer")
GATES = ("ready", "templates", "quality", "agreement")


def plant(fault: str, checkpoint: Artifact, engine: Artifact, repository: Artifact, root: Path) -> Path:
    """A copy of the repository that serves an engine or a tokenizer with the fault; all new files are in ``root``."""
    if fault in IN_THE_ENGINE:
        right, wrong = engine.path, root / "engine"
        program = PROJECT / "tests" / "e2e" / "plant_in_ir.py"
        subprocess.run([PYTHON, program, IN_THE_ENGINE[fault], right, wrong], check=True)
    else:
        right = checkpoint.path / "tokenizer"
        wrong = swapped_tokenizer(right, root / "tokenizer")
    planted = root / "repository"
    shutil.copytree(repository.path, planted)
    for config in planted.glob("*/config.pbtxt"):
        config.write_text(config.read_text().replace(str(right), str(wrong)))
    return planted


def judge(repository: Path, checkpoint: Artifact, root: Path) -> Report:
    """Serves the repository and tries the gates that are to tell it from a good one."""
    plan = pytriton.server("openvino", pytriton.ask(PYTHON), repository, free())
    record = servers.launch(plan, root / "server.json", timeout_s=180)
    try:
        with Client.open(Endpoint(host="127.0.0.1", http_port=plan.ports.http, grpc_port=plan.ports.grpc)) as client:
            trial = Trial(
                client,
                tuple(ReleaseRequest().test_prompts),
                streaming=True,
                chat=True,
                reference=read_reference(checkpoint.path),
                repository=repository,
                tokenizer=checkpoint.path / "tokenizer",
            )
            return validate(trial, [gate for gate in gates_for(ReleaseRequest()) if gate.name in GATES])
    finally:
        servers.stop(record, root / "server.json")
