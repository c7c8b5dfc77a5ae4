"""Every DAG parses, and is the DAG that the docs promise."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.serialization.serialized_objects import DagSerialization

from hf2triton.assets import LIVE_RELEASE, OUTAGE
from include.report.runs import ORDER
from include.requests.comparison import CompareRequest
from include.requests.operations import CatalogueCheck, PruneRequest, RollbackRequest
from include.requests.release import Form, ReleaseRequest
from include.settings import settings

AFTER = Path(__file__).parents[2] / "docs" / "after-a-release.md"
DAGS = Path(__file__).parents[2] / "dags"
DAG_IDS = {
    "release_awq_engine",
    "compare_settings",
    "rollback_release",
    "retire_model",
    "prune_artifacts",
    "check_live_release",
    "rebuild_on_change",
}
HEAVY = ["torch", "transformers", "huggingface_hub", "tritonclient", "docker"]


@pytest.fixture(scope="module")
def bag() -> DagBag:
    return DagBag(DAGS)


def test_the_dag_ids_are_exactly_these(bag: DagBag) -> None:
    assert bag.import_errors == {}
    assert set(bag.dag_ids) == DAG_IDS


def test_the_stages_stand_in_their_order(bag: DagBag) -> None:
    dag = bag.dags["release_awq_engine"]
    assert [t.task_id for t in dag.topological_sort()] == [*ORDER]
    for before, after in itertools.pairwise(ORDER):
        assert after in dag.get_task(before).downstream_task_ids


@pytest.mark.parametrize("dag_id", sorted(DAG_IDS))
def test_a_dag_comes_back_from_airflows_database_with_all_its_tasks(bag: DagBag, dag_id: str) -> None:
    dag = bag.dags[dag_id]
    kept = json.loads(json.dumps(DagSerialization.to_dict(dag)))
    found = DagSerialization.from_dict(kept)
    assert found.task_ids == dag.task_ids
    for task in found.tasks:
        assert [outlet.name for outlet in task.outlets] == [o.name for o in dag.get_task(task.task_id).outlets]


def test_all_that_touches_the_gpu_host_runs_there(bag: DagBag) -> None:
    tasks = bag.dags["release_awq_engine"].tasks
    assert {t.task_id for t in tasks if t.queue != "gpu"} == {"pull_model", "approve_release", "finish_run"}


def test_the_candidate_is_stopped_however_the_run_ends(bag: DagBag) -> None:
    stop = bag.dags["release_awq_engine"].get_task("stop_candidate")
    assert stop.is_teardown
    assert not stop.on_failure_fail_dagrun


def test_a_cancelled_run_can_fail_by_its_last_teardown_and_any_other_by_its_promotion(bag: DagBag) -> None:
    dag = bag.dags["release_awq_engine"]
    finish = dag.get_task("finish_run")
    assert (finish.is_teardown, finish.on_failure_fail_dagrun) == (True, True)
    # Airflow judges by these: a task before such a teardown would not count.
    assert "finish_run" not in dag.get_task("promote_release").downstream_task_ids


@pytest.mark.parametrize("dag_id", sorted(DAG_IDS))
def test_a_dag_says_in_lists_what_it_does(bag: DagBag, dag_id: str) -> None:
    dag = bag.dags[dag_id]
    assert dag.dag_display_name != dag_id
    assert dag.description.endswith(".")
    assert len(dag.tags) > 1


@pytest.mark.parametrize(
    ("dag_id", "request_type"),
    [
        ("release_awq_engine", ReleaseRequest),
        ("compare_settings", CompareRequest),
        ("rollback_release", RollbackRequest),
        ("prune_artifacts", PruneRequest),
        ("rebuild_on_change", CatalogueCheck),
    ],
)
def test_the_form_has_every_field_of_the_request_in_a_section(
    bag: DagBag, dag_id: str, request_type: type[Form]
) -> None:
    params = bag.dags[dag_id].params
    assert list(params) == list(request_type.model_fields)
    for name in params:
        schema = params.get_param(name).schema
        assert schema["section"], name
        assert schema["title"], name
        assert schema["description_md"], name


@pytest.mark.parametrize("dag_id", sorted(DAG_IDS))
def test_the_docs_have_a_table_of_what_the_tasks_do_and_one_of_what_to_do_when_they_fail(
    bag: DagBag, dag_id: str
) -> None:
    dag = bag.dags[dag_id]
    stages, triage = dag.doc_md.split("\n## When ")
    tasks = [t.task_id for t in dag.topological_sort()]
    assert _rows(stages) == tasks
    assert "| what to do |\n" in triage
    assert set(_rows(triage)) <= set(tasks)


def _rows(table: str) -> list[str]:
    return [line.split("`")[1] for line in table.splitlines() if line.startswith("| `")]


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


@pytest.mark.parametrize("dag_id", ["prune_artifacts", "check_live_release"])
def test_a_scheduled_dag_runs_one_at_a_time_and_catches_nothing_up(bag: DagBag, dag_id: str) -> None:
    dag = bag.dags[dag_id]
    assert (dag.max_active_runs, dag.catchup) == (1, False)
    assert dag.schedule


def test_the_check_of_the_live_release_is_on_without_anybody_unpausing_it(bag: DagBag) -> None:
    dag = bag.dags["check_live_release"]
    assert dag.is_paused_upon_creation is False
    announce = dag.get_task("announce_outages")
    assert announce.is_teardown, "it runs after a failed check, too"
    assert not announce.on_failure_fail_dagrun
    assert [outlet.name for outlet in announce.outlets] == [OUTAGE.name]


def test_a_broken_catalogue_is_an_import_error_and_stops_no_dag(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalogue = tmp_path / "catalogue.yaml"
    catalogue.write_text("- {name: good, model: org/good, target: openvino, schedule: '*/5 * * * *'}\n- {name: bad}\n")
    monkeypatch.setenv("HF2TRITON_CATALOGUE", str(catalogue))
    settings.cache_clear()
    bag = DagBag(DAGS)
    settings.cache_clear()
    ((file, error),) = bag.import_errors.items()
    assert Path(file).name == "catalogue_errors.py"
    assert f"{catalogue}:2: bad: model: Field required" in error
    assert set(bag.dag_ids) == DAG_IDS
    dag = bag.dags["rebuild_on_change"]
    assert (dag.max_active_runs, dag.catchup) == (1, False)
    assert [one.expression for one in dag.timetable.timetables] == ["*/5 * * * *"]


def test_the_catalogue_that_comes_along_schedules_nothing(bag: DagBag) -> None:
    assert bag.dags["rebuild_on_change"].schedule is None


def test_assets_are_emitted_where_the_docs_say(bag: DagBag) -> None:
    emitted = {(task.task_id, o.name) for dag in bag.dags.values() for task in dag.tasks for o in task.outlets}
    rows = [line for line in AFTER.read_text().splitlines() if line.startswith("| `hf2triton_")]
    documented = {
        (task, asset)
        for asset, tasks, _ in (row.strip("| ").split(" | ") for row in rows)
        for task in tasks.split(", ")
    }
    assert {(f"`{task}`", f"`{asset}`") for task, asset in emitted} == documented


def test_the_example_of_a_dag_that_waits_for_a_release_waits_for_ours(tmp_path: Path) -> None:
    (tmp_path / "after_a_release.py").write_text(re.search(r"```python\n(.*?)```", AFTER.read_text(), re.DOTALL)[1])
    bag = DagBag(tmp_path)
    assert bag.import_errors == {}
    (example,) = bag.dags.values()
    (asset,) = example.timetable.asset_condition.objects
    assert (asset.name, asset.uri) == (LIVE_RELEASE.name, LIVE_RELEASE.uri)
