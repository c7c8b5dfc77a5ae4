"""A run's note says what it is and what came of it."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from airflow.models import import_all_models
from airflow.models.base import Base
from airflow.models.dagrun import DagRun
from airflow.models.taskinstance import TaskInstance
from airflow.models.xcom import XComModel
from airflow.sdk import timezone
from airflow.utils.types import DagRunTriggeredByType, DagRunType
from sqlalchemy import create_engine, insert
from sqlalchemy.orm import Session

from hf2triton import notes
from hf2triton.context import ERROR, OUTCOME, PROGRESS
from hf2triton.operators import TaskOperator
from hf2triton.operators.failures import outcome_of
from hf2triton.runs import read
from include.context import Context
from include.errors import Cancelled, Ended, GateFailure, HostError, PipelineError, TransientError, UserError
from include.releases.run import RunRecord, TaskTime
from include.report.runs import ORDER, Task
from include.requests.release import ReleaseRequest
from include.settings import PROJECT, Settings
from include.tasks import finish_run

UNUSED = {"pool_slots": 1, "priority_weight": 1, "try_number": 1, "max_tries": 0, "hostname": "", "unixname": ""}
SUBJECT = "SmolLM2-135M-Instruct int4 g64"


@pytest.fixture(scope="module")
def session() -> Iterator[Session]:
    """Airflow's tables, in memory."""
    import_all_models()
    engine = create_engine("sqlite://")
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        yield session


@pytest.fixture
def run(session: Session, request: pytest.FixtureRequest) -> DagRun:
    made = DagRun(
        dag_id="release_awq_engine",
        run_id=request.node.name,
        run_type=DagRunType.MANUAL,
        run_after=timezone.utcnow(),
        conf={"model": "HuggingFaceTB/SmolLM2-135M-Instruct", "awq_group_size": 64},
        triggered_by=DagRunTriggeredByType.TEST,
    )
    session.add(made)
    session.flush()
    return made


def tell(session: Session, run: DagRun, task: str, outcome: str, minute: int, **entry: Any) -> None:
    when = timezone.datetime(2026, 1, 1, 0, minute)
    same: dict[str, Any] = {
        "dag_id": run.dag_id,
        "run_id": run.run_id,
        "dag_run_id": run.id,
        "key": OUTCOME,
        "map_index": -1,
    }
    session.add(XComModel(**{**same, **entry}, task_id=task, value=XComModel.serialize_value(outcome), timestamp=when))
    session.flush()


def test_a_run_says_what_it_is_and_then_what_came_of_it(session: Session, run: DagRun) -> None:
    notes.on_dag_run_running(run, "started")
    assert run.note == SUBJECT
    tell(session, run, "promote_release", "release 3, promoted", 2)
    tell(session, run, "launch_triton", "launch_triton failed: port taken", 1)
    notes.on_dag_run_success(run, "success")
    assert run.note == f"{SUBJECT} -> release 3, promoted"


def test_what_people_wrote_stays_below_however_often_it_runs(session: Session, run: DagRun) -> None:
    run.note = "for the fair\ntry it on Monday"
    for outcome in ("refused: awq_group_size: 48 does not divide 576", "release 4, promoted"):
        notes.on_dag_run_running(run, "started")
        tell(session, run, f"task-{outcome[:3]}", outcome, len(outcome))
        notes.on_dag_run_failed(run, "task_failure")
        assert run.note.splitlines()[1:] == ["for the fair", "try it on Monday"]


def test_a_run_that_a_person_ends_is_cancelled(run: DagRun) -> None:
    notes.on_dag_run_failed(run, "Dag Run's state was manually set to `failed`.")
    assert run.note == f"{SUBJECT} -> cancelled"


def test_all_instances_of_a_mapped_task_are_told_of(session: Session, run: DagRun) -> None:
    run.dag_id = "rebuild_on_change"
    for number, outcome in enumerate(("smollm2: unchanged", "llama: new")):
        tell(session, run, "rebuild_on_change", outcome, 10 - number, map_index=number)
    notes.on_dag_run_success(run, "success")
    assert run.note == "followed models -> smollm2: unchanged; llama: new"


def test_a_request_that_cannot_be_read_still_has_a_subject(run: DagRun) -> None:
    run.conf = {"model": "org/name", "unknown": 1}
    notes.on_dag_run_running(run, "started")
    assert run.note == "name"


def test_the_runs_of_every_dag_have_a_subject() -> None:
    dags = {path.stem for path in (PROJECT / "dags").glob("*.py") if "dag_id=" in path.read_text()}
    assert set(notes.SUBJECTS) == dags
    assert notes.SUBJECTS["compare_settings"]({"model": "org/name"}) == "compare settings of name"


def test_a_run_of_another_project_is_left_alone(run: DagRun) -> None:
    run.dag_id = "somebody_elses"
    notes.on_dag_run_failed(run, "task_failure")
    assert run.note is None


def test_the_page_of_a_run_has_its_tasks_with_what_they_said(session: Session, run: DagRun) -> None:
    tell(session, run, "calibrate_awq", "search: layer 3 of 30", 1, key=PROGRESS)
    tell(session, run, "calibrate_awq", "out of memory\n  do: use less", 2, key=ERROR)
    values = {"id": uuid4(), "dag_id": run.dag_id, "run_id": run.run_id, "task_id": "calibrate_awq", "map_index": -1}
    session.execute(insert(TaskInstance).values(**values, state="failed", duration=3.5, pool="p", **UNUSED))
    found, conf = read(session, run.dag_id, run.run_id)
    assert conf == run.conf
    assert found.tasks["calibrate_awq"] == Task(
        "calibrate_awq", "failed", None, 3.5, "search: layer 3 of 30", "out of memory\n  do: use less"
    )
    assert [task.name for task in found.in_order] == list(ORDER)
    assert [task.name for task in found.errors] == ["calibrate_awq"]
    assert read(session, run.dag_id, "none") is None


@pytest.mark.parametrize(
    ("failure", "outcome"),
    [
        (UserError("48 does not divide 576", where="field awq_group_size"), "refused: awq_group_size: 48 does not"),
        (UserError("calib_size: too small", where="params of the run"), "refused: calib_size: too small"),
        (GateFailure("agreement: 0.2 is below 0.65"), "rejected: agreement: 0.2 is below 0.65"),
        (GateFailure("release m/2 is rejected by ann: slow"), "release m/2 is rejected by ann: slow"),
        (HostError("out of memory\nlong story"), "calibrate_awq failed: out of memory"),
        (Cancelled("cancelled in build_engine: nothing went live"), "cancelled in build_engine: nothing went live"),
    ],
)
def test_a_failure_in_a_few_words(failure: PipelineError, outcome: str) -> None:
    assert outcome_of(failure, "calibrate_awq").startswith(outcome)
    assert "\n" not in outcome_of(failure, "calibrate_awq")


def test_the_message_of_a_failure_comes_before_a_traceback_without_our_frames(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[dict[str, Any]] = []
    logged: list[str] = []

    class Instance:
        dag_id = "d"

        def xcom_push(self, **entry: Any) -> None:
            told.append(entry)

    def refuse(context: Context) -> None:
        raise UserError("no such thing", where="field model", fix="name another") from ValueError("inner")

    operator = TaskOperator(task_id="check_request", call=refuse)
    monkeypatch.setattr(operator.log, "error", lambda text, *values: logged.append(text % values))
    with pytest.raises(UserError) as caught:
        operator.execute({"ti": Instance(), "run_id": "r", "params": {}})
    assert logged == ["UserError: no such thing\n  where: field model\n  do: name another"]
    assert told == [
        {"key": OUTCOME, "value": "refused: model: no such thing"},
        {"key": ERROR, "value": "no such thing\n  where: field model\n  do: name another"},
    ]
    assert caught.value.__cause__ is None
    assert "refuse" not in [entry.name for entry in caught.traceback]


def test_a_task_that_ends_with_its_run_does_not_say_what_came_of_the_run() -> None:
    told: list[str] = []

    def end(context: Context) -> None:
        raise Ended

    instance = SimpleNamespace(dag_id="d", xcom_push=lambda key, value: told.append(key))
    with pytest.raises(TransientError, match="stopped with its task"):
        TaskOperator(task_id="calibrate_awq", call=end).execute({"ti": instance, "run_id": "r", "params": {}})
    assert told == [ERROR]


def finish(**states: str) -> None:
    record = RunRecord(id="r", tasks=tuple(TaskTime(task=task, state=state) for task, state in states.items()))
    finish_run.run(Context(Settings(), print, "release_awq_engine", "r", find_run=lambda: record))


def test_a_cancelled_run_fails_and_says_where_it_was() -> None:
    with pytest.raises(Cancelled, match="cancelled in calibrate_awq: nothing went live"):
        finish(check_request="success", calibrate_awq="failed", promote_release="skipped")


@pytest.mark.parametrize("state", ["success", "upstream_failed", "failed"])
def test_any_other_end_is_left_as_it_is(state: str) -> None:
    finish(approve_release="skipped", promote_release=state)


def test_a_title_names_the_model_and_how_it_is_made() -> None:
    assert ReleaseRequest().title == SUBJECT
