"""# Compare settings of a model

Calibrates one model with several settings (group sizes, formats, calibration data), builds their engines, and shows
perplexity, size and tokens/s in one table, with a recommendation. Nothing goes live. A later release with one of these
settings takes its artifacts from the store.

| task | does |
|---|---|
| `check_settings` | checks each setting as a release is checked, in seconds |
| `pull_model` | downloads one commit; for all settings but the first it is there already |
| `measure_original` | measures the model before quantization, once for all settings of one data type |
| `calibrate_awq` | calibrates with one setting; one setting after the other |
| `build_engine` | builds the engine of one setting |
| `assemble_repository` | fills the model repository of one setting |
| `compare_settings` | starts a server of each setting, one after the other, measures it, and makes the table |
| `stop_candidate` | stops a server that is left, however the run ended |

The table is in the log of `compare_settings`, in its XCom, and on the page of its button *Release report*.

## When a task fails

| task | what to do |
|---|---|
| `check_settings` | the message names the setting and the field: correct it and trigger again |
| `pull_model` | as in *release_awq_engine*: accept the licence, set the token, or wait for the network |
| `measure_original` | if memory is short, stop what else uses the device |
| `calibrate_awq` | if memory is short, lower *calib_size* or *calib_seq_len*; leave a setting out that the model cannot have |
| `build_engine` | the error has the tool's last lines |
| `assemble_repository` | the error names the file and the variable or path |
| `compare_settings` | a server that does not start fails nothing: its row says why |
| `stop_candidate` | the error has the server's own last lines |
"""

from __future__ import annotations

from typing import Any

from airflow.sdk import DAG, XComArg, task_group

from hf2triton.context import COMPARE_DAG
from hf2triton.form import request_params
from hf2triton.operators import ReleaseOperator, TaskOperator, stage_operator
from hf2triton.retries import default_args
from include.requests.comparison import CompareRequest
from include.settings import settings
from include.tasks import (
    assemble_repository,
    build_engine,
    calibrate_awq,
    check_settings,
    compare_settings,
    measure_original,
    pull_model,
    stop_candidate,
)

Stage = stage_operator()
HOST: dict[str, Any] = {"queue": settings().serve_queue}
POOL: dict[str, Any] = {"pool": settings().gpu_pool}
# Two calibrations at once would each take the memory that the other was promised.
ALONE: dict[str, Any] = {"queue": "gpu", **POOL, "max_active_tis_per_dagrun": 1}

with DAG(
    dag_id=COMPARE_DAG,
    dag_display_name="Compare settings of a model",
    description="Makes the engines of several settings and sets quality, size and speed beside each other.",
    doc_md=__doc__,
    schedule=None,
    catchup=False,
    params=request_params(CompareRequest),
    tags=["hf2triton", "release"],
    default_args=default_args(),
):
    check = TaskOperator(task_id="check_settings", call=check_settings.run, **HOST)
    made: dict[str, Any] = {"checked": check.output}

    @task_group(prefix_group_id=False)
    def setting(one: XComArg) -> None:
        """The artifacts of one setting."""
        checked = {"checked": one}
        pull = TaskOperator(task_id="pull_model", call=pull_model.run, inputs=checked)
        pulled = {**checked, "pulled": pull.output}
        measure = Stage(task_id="measure_original", job=measure_original.job, inputs=pulled, **ALONE)
        measured = {**pulled, "original": measure.output}
        calibrate = Stage(task_id="calibrate_awq", job=calibrate_awq.job, inputs=measured, **ALONE)
        calibrated = {**checked, "checkpoint": calibrate.output}
        build = Stage(task_id="build_engine", job=build_engine.job, inputs=calibrated, **ALONE)
        built = {**calibrated, "engine": build.output}
        assemble = TaskOperator(task_id="assemble_repository", call=assemble_repository.run, inputs=built, **HOST)
        made.update(checkpoints=calibrate.output, engines=build.output, repositories=assemble.output)

    settings_made = setting.expand(one=check.output)

    compare = ReleaseOperator(task_id="compare_settings", call=compare_settings.run, inputs=made, **HOST, **POOL)

    stop = TaskOperator(task_id="stop_candidate", call=stop_candidate.run, **HOST).as_teardown()

    settings_made >> compare >> stop
