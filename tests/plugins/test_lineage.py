"""The events of OpenLineage as a collector gets them, from Airflow's own listener."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from include.settings import PROJECT

DAG = """
from airflow.sdk import DAG
from hf2triton.operators import TaskOperator
from include.artifacts.kind import Kind
from include.releases.ids import ReleaseId
from include.sources import ModelSource
from include.tasks import ArtifactRef, Pulled

COMMIT = "a" * 40


def check(context) -> dict[str, ModelSource]:
    return {"source": ModelSource(origin="hub", id="org/model", revision="main", commit=COMMIT, files=(), config="{}")}


def pull(context, checked: dict) -> Pulled:
    return Pulled(model=ArtifactRef(kind=Kind.MODEL, name=f"org--model@{COMMIT}", reused=False))


def build(context, checked: dict, pulled: Pulled) -> ArtifactRef:
    return ArtifactRef(kind=Kind.ENGINE, name="e" * 64, reused=True)


def validate(context, engine: ArtifactRef) -> ReleaseId:
    return ReleaseId(model="org--model", number=3)


with DAG("lineage", schedule=None):
    checked = TaskOperator(task_id="check", call=check).output
    pulled = TaskOperator(task_id="pull", call=pull, inputs={"checked": checked}).output
    engine = TaskOperator(task_id="build", call=build, inputs={"checked": checked, "pulled": pulled}).output
    TaskOperator(task_id="validate", call=validate, inputs={"engine": engine})
"""

Event = dict[str, Any]


@pytest.fixture
def collector() -> Iterator[tuple[str, list[Event]]]:
    """The URL of a collector, and the events that it has got."""
    events: list[Event] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            events.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(201)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Collector)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", events
    server.shutdown()
    server.server_close()


@pytest.mark.slow
def test_a_collector_learns_what_each_task_read_and_made(tmp_path: Path, collector: tuple[str, list[Event]]) -> None:
    url, events = collector
    (tmp_path / "dags").mkdir()
    (tmp_path / "dags" / "lineage.py").write_text(DAG)
    environment = os.environ | {
        "AIRFLOW_HOME": str(tmp_path / "airflow"),
        "AIRFLOW__CORE__DAGS_FOLDER": str(tmp_path / "dags"),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(PROJECT / "plugins"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__OPENLINEAGE__TRANSPORT": json.dumps({"type": "http", "url": url}),
        "PYTHONPATH": f"{PROJECT}:{PROJECT / 'plugins'}",
        "HF2TRITON_ARTIFACTS": "/store",
    }
    airflow = [sys.executable, "-m", "airflow"]
    for command in (["db", "migrate"], ["dags", "test", "lineage"]):
        done = subprocess.run([*airflow, *command], env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    ended = {event["job"]["name"]: event for event in events if event["eventType"] == "COMPLETE"}

    def sets(task: str, kind: str) -> list[tuple[str, str]]:
        found = ended[f"lineage.{task}"][kind]
        return [(f"{one['namespace']}:{one['name']}", one["facets"]["version"]["datasetVersion"]) for one in found]

    hub = ("https://huggingface.co:org/model", "a" * 40)
    model = (f"file:/store/models/org--model@{'a' * 40}", "a" * 40)
    engine = (f"file:/store/engines/{'e' * 64}", "e" * 64)
    assert (sets("pull", "inputs"), sets("pull", "outputs")) == ([hub], [model])
    assert (sets("build", "inputs"), sets("build", "outputs")) == ([model], [engine])
    assert (sets("validate", "inputs"), sets("validate", "outputs")) == (
        [engine],
        [("file:/store/releases/org--model", "3")],
    )
