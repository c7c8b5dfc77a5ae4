"""Every DAG parses, and is the DAG that the docs promise."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

import pytest
from airflow.dag_processing.dagbag import DagBag

from include.request import ReleaseRequest

DAGS = Path(__file__).parents[2] / "dags"
HEAVY = ["torch", "transformers", "huggingface_hub", "tritonclient", "docker"]


@pytest.fixture(scope="module")
def bag() -> DagBag:
    return DagBag(DAGS)


def test_the_dag_ids_are_exactly_these(bag: DagBag) -> None:
    assert bag.import_errors == {}
    assert set(bag.dag_ids) == {"release_awq_engine"}


def test_the_stages_stand_in_their_order(bag: DagBag) -> None:
    dag = bag.dags["release_awq_engine"]
    stages = [
        "check_request",
        "pull_model",
        "calibrate_awq",
        "build_engine",
        "assemble_repository",
        "launch_triton",
        "validate_generate",
        "promote_release",
        "stop_candidate",
    ]
    assert [t.task_id for t in dag.topological_sort()] == stages
    for before, after in itertools.pairwise(stages):
        assert after in dag.get_task(before).downstream_task_ids


def test_all_that_touches_the_gpu_host_runs_there(bag: DagBag) -> None:
    tasks = bag.dags["release_awq_engine"].tasks
    assert {t.task_id for t in tasks if t.queue != "gpu"} == {"pull_model"}


def test_the_candidate_is_stopped_however_the_run_ends(bag: DagBag) -> None:
    stop = bag.dags["release_awq_engine"].get_task("stop_candidate")
    assert stop.is_teardown
    assert not stop.on_failure_fail_dagrun


def test_the_form_has_every_field_of_the_request_in_a_section(bag: DagBag) -> None:
    params = bag.dags["release_awq_engine"].params
    assert list(params) == list(ReleaseRequest.model_fields)
    for name in params:
        schema = params.get_param(name).schema
        assert schema["section"], name
        assert schema["title"], name
        assert schema["description_md"], name


def test_every_task_of_the_table_exists(bag: DagBag) -> None:
    dag = bag.dags["release_awq_engine"]
    rows = [line.split("`")[1] for line in dag.doc_md.splitlines() if line.startswith("| `")]
    assert rows == [t.task_id for t in dag.topological_sort()]


@pytest.mark.parametrize("path", sorted(DAGS.glob("*.py")), ids=lambda p: p.name)
def test_a_dag_file_is_wiring_only(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 120


def test_parsing_loads_nothing_heavy() -> None:
    code = (
        "import sys; from airflow.dag_processing.dagbag import DagBag; "
        f"DagBag({str(DAGS)!r}); print([m for m in {HEAVY} if m in sys.modules])"
    )
    asked = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert asked.stdout.splitlines()[-1] == "[]"
