"""The check of a followed model starts a run or skips itself; a scheduled one answers for the time since the last."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.standard.operators.trigger_dagrun import DagIsPaused
from airflow.sdk import DagRunState
from airflow.sdk.exceptions import AirflowSkipException, DagRunTriggerException

from hf2triton.context import RELEASE_DAG, task_context
from hf2triton.operators.rebuild import CatalogueOperator, RebuildOperator
from hf2triton.schedules import catalogue_timetable
from include.settings import settings
from include.tasks import read_catalogue, rebuild_on_change
from tests.support import tiny_files as tiny

ENTRIES = """\
- {{name: tiny, model: {model}, target: openvino, schedule: "0 3 * * *", settings: {{max_batch_size: 4}}}}
- {{name: other, model: org/other, target: openvino, schedule: "@hourly"}}
- {{name: third, model: org/third, target: openvino, schedule: "@hourly"}}
- {{name: broken, model: org/broken}}
"""


class TaskInstance(SimpleNamespace):
    """What the operators ask of Airflow: states of release runs by id, and when the check before this one was."""

    runs: dict[str, DagRunState]
    before: datetime | None

    dag_id = "rebuild_on_change"
    is_paused = False

    def get_dr_count(self, dag_id: str, run_ids: list[str]) -> int:
        return len(self.runs.keys() & set(run_ids)) if dag_id == RELEASE_DAG else 0

    def get_dagrun_state(self, dag_id: str, run_id: str) -> DagRunState:
        return self.runs[run_id]

    def get_previous_dagrun(self) -> SimpleNamespace | None:
        return self.before and SimpleNamespace(logical_date=self.before)

    def get_dag(self, dag_id: str) -> SimpleNamespace:
        return SimpleNamespace(is_paused=self.is_paused)

    def xcom_push(self, **_: Any) -> None:
        pass


@pytest.fixture(autouse=True)
def catalogue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    path = tmp_path / "catalogue.yaml"
    path.write_text(ENTRIES.format(model=tiny.write(tiny.model(), tmp_path / "model")))
    monkeypatch.setenv("HF2TRITON_ARTIFACTS", str(tmp_path / "artifacts"))
    monkeypatch.setenv("HF2TRITON_CATALOGUE", str(path))
    monkeypatch.setenv("HF2TRITON_RUNNER", "docker")
    settings.cache_clear()
    yield path
    settings.cache_clear()


def at(hour: int) -> datetime:
    return datetime(2026, 11, 5, hour, tzinfo=UTC)


def context(ti: TaskInstance, run_type: str = "manual", **params: Any) -> Any:
    run = SimpleNamespace(run_type=run_type, logical_date=at(4))
    return {"ti": ti, "task_instance": ti, "run_id": f"{run_type}__1", "dag_run": run, "params": params}


def instance(*, before: datetime | None = None, paused: bool = False) -> TaskInstance:
    return TaskInstance(runs={}, before=before, is_paused=paused)


def read(ti: TaskInstance, run_type: str) -> list[dict[str, Any]]:
    return list(CatalogueOperator(task_id="read_catalogue", call=read_catalogue.run).execute(context(ti, run_type)))


def rebuild(due: dict[str, Any]) -> RebuildOperator:
    return RebuildOperator(task_id="rebuild_on_change", call=rebuild_on_change.run, due=due)


def check(ti: TaskInstance, **params: Any) -> DagRunTriggerException:
    """The run that is asked for; its state is then running."""
    due = read(instance(), "manual")[0]
    with pytest.raises(DagRunTriggerException) as asked:
        rebuild(due).execute(context(ti, **params))
    ti.runs[asked.value.dag_run_id] = DagRunState.RUNNING
    return asked.value


@pytest.mark.parametrize(
    ("run_type", "before", "names"),
    [
        pytest.param("manual", at(3), ["tiny", "other", "third", "broken"], id="by hand"),
        pytest.param("scheduled", at(3), ["other", "third", "broken"], id="an hour later"),
        pytest.param("scheduled", at(1), ["tiny", "other", "third", "broken"], id="after a pause"),
        pytest.param("scheduled", None, ["other", "third", "broken"], id="the first"),
    ],
)
def test_a_run_answers_for_the_time_since_the_one_before(
    run_type: str, before: datetime | None, names: list[str]
) -> None:
    assert [due["name"] for due in read(instance(before=before), run_type)] == names


def test_the_run_is_asked_for_with_the_settings_and_a_note() -> None:
    asked = check(instance())
    assert (asked.trigger_dag_id, asked.logical_date, asked.reset_dag_run) == (RELEASE_DAG, None, False)
    assert asked.conf["max_batch_size"] == 4
    assert asked.note.startswith("tiny: new: ")


def test_while_that_run_is_not_over_the_task_skips_itself() -> None:
    ti = instance()
    run = check(ti).dag_run_id
    with pytest.raises(AirflowSkipException):
        check(ti, force=True)
    ti.runs[run] = DagRunState.SUCCESS
    assert check(ti, force=True).note == "tiny: forced"


def test_runs_of_a_paused_dag_are_not_collected_and_not_forgotten() -> None:
    due = read(instance(), "manual")[0]
    with pytest.raises(DagIsPaused, match=f"Dag {RELEASE_DAG} is paused"):
        rebuild(due).execute(context(instance(paused=True)))
    assert check(instance())


@pytest.mark.parametrize("state", [*DagRunState, None])
def test_a_worker_knows_the_state_of_a_run_in_airflows_words(state: DagRunState | None) -> None:
    ti = instance()
    ti.runs |= {"run": state} if state else {}
    assert task_context(context(ti), print).run_state("run") == (state and state.value)


def test_the_dag_runs_whenever_an_entry_is_due(catalogue: Path) -> None:
    assert [one.expression for one in catalogue_timetable().timetables] == ["0 3 * * *", "0 * * * *"]
    catalogue.write_text("[]")
    assert catalogue_timetable() is None
