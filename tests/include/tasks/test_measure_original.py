"""The original model is measured once for each model, data type and file of tasks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from include.artifacts.kind import Kind
from include.context import Context
from include.errors import UserError
from include.tasks import ArtifactRef, Checked, Pulled, calibrate_awq, check_request, measure_original, pull_model

PARAMS = {"awq_group_size": 64, "calib_seq_len": 64, "max_input_len": 128, "max_seq_len": 256}
TASK = json.dumps({"prompt": "What is 2 + 2?", "expected": "4"})


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    path = tmp_path / "tasks.jsonl"
    path.write_text(f"{TASK}\n")
    return path


@pytest.fixture
def checked(context: Context, model: Path, tasks: Path) -> Checked:
    return check_request.run(context, {"model": str(model), "task_data": str(tasks), **PARAMS})


@pytest.fixture
def pulled(context: Context, checked: Checked) -> Pulled:
    return pull_model.run(context, checked)


def inputs(context: Context, checked: Checked, pulled: Pulled, **fields: object) -> object:
    asked = checked.model_copy(update={"request": checked.request.model_copy(update=fields)})
    return measure_original.job(context, asked, pulled).inputs


@pytest.mark.parametrize(
    ("field", "value", "counts"),
    [
        ("awq_group_size", 32, False),
        ("calib_size", 16, False),
        ("calib_data", "/other.txt", False),
        ("max_batch_size", 4, False),
        ("max_task_drop", 0.1, False),
        ("tp_size", 2, False),
        ("dtype", "bfloat16", True),
        ("chat_template", "off", True),
        ("task_data", "builtin", True),
        ("task_data", "off", True),
    ],
)
def test_settings_of_quantization_count_for_nothing(
    context: Context, checked: Checked, pulled: Pulled, field: str, value: object, counts: bool
) -> None:
    changed = inputs(context, checked, pulled, **{field: value}) != inputs(context, checked, pulled)
    assert changed is counts


def test_another_content_of_the_file_is_another_artifact(
    context: Context, checked: Checked, pulled: Pulled, tasks: Path
) -> None:
    before = inputs(context, checked, pulled)
    tasks.write_text(f"{TASK}\n{TASK}\n")
    assert inputs(context, checked, pulled) != before


def test_the_program_reads_model_and_tasks(context: Context, checked: Checked, pulled: Pulled, tasks: Path) -> None:
    job = measure_original.job(context, checked, pulled)
    assert (job.kind, job.reads) == (Kind.ORIGINAL, (pulled.model.load(context.store).path, tasks))
    assert job.args[-2:] == ("--tasks", str(tasks))
    off = checked.model_copy(update={"request": checked.request.model_copy(update={"task_data": "off"})})
    assert "--tasks" not in measure_original.job(context, off, pulled).args


def test_tasks_that_are_built_in_come_with_the_program(context: Context, checked: Checked, pulled: Pulled) -> None:
    """A container's engine may not see the worker's own files."""
    builtin = checked.model_copy(update={"request": checked.request.model_copy(update={"task_data": "builtin"})})
    job = measure_original.job(context, builtin, pulled)
    assert job.args[-2:] == ("--tasks", "builtin")
    assert job.reads == (pulled.model.load(context.store).path,)


def test_a_calibration_begins_with_it_and_has_the_key_that_it_has_without(
    context: Context, checked: Checked, pulled: Pulled
) -> None:
    job = measure_original.job(context, checked, pulled)
    with context.store.claim(job.kind, job.inputs, log=context.log) as claim:
        (claim.partial / "before.json").write_text("{}")
        claim.commit()
    original = ArtifactRef(kind=Kind.ORIGINAL, name=claim.name, reused=False)
    path = original.load(context.store).path
    alone, after = (calibrate_awq.job(context, checked, pulled, known) for known in (None, original))
    assert alone.inputs == after.inputs
    assert after.args == (*alone.args, "--original", str(path))
    assert path in after.reads


def test_a_file_that_is_gone_is_named(context: Context, checked: Checked, pulled: Pulled, tasks: Path) -> None:
    tasks.unlink()
    with pytest.raises(UserError, match="cannot be read(.|\n)*field task_data"):
        measure_original.job(context, checked, pulled)


def test_a_bad_line_is_refused_before_anything_is_fetched(context: Context, model: Path, tasks: Path) -> None:
    tasks.write_text(f'{TASK}\n{{"prompt": "p"}}\n')
    with pytest.raises(UserError, match=r"field expected: Field required(.|\n)*line 2"):
        check_request.run(context, {"model": str(model), "task_data": str(tasks), **PARAMS})
    assert not list(context.settings.artifacts.rglob("*"))
