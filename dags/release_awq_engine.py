"""# Release an INT4 AWQ engine

Takes a model from the Hugging Face Hub (or a directory) to a live Triton endpoint that has proved itself.
Every stage that makes files leaves them in the artifact store; a stage whose inputs have not changed
takes them from there and starts nothing.

| task | does |
|---|---|
| `check_request` | checks params, model, host, ports and disk, in seconds |
| `pull_model` | downloads one commit, verifies every file's hash |
| `calibrate_awq` | INT4 AWQ by NVIDIA ModelOpt into a TensorRT-LLM checkpoint, with the quality reference |
| `build_engine` | the target's engine from the same int4 weights, proved against the checkpoint |
| `assemble_repository` | the ensemble's model repository, filled and checked |
| `launch_triton` | a candidate server on its own ports, ready and alive |
| `validate_generate` | the gates, through the generate endpoint |
| `approve_release` | a person decides, if *require_approval* is on; skipped else |
| `promote_release` | the candidate's server becomes the live one, without a request lost |
| `stop_candidate` | stops a candidate that is not live, whatever happened; with *swap: recreate*, starts the live server again if nothing replaced it |

Limits for common models and GPUs: [presets](hf2triton/presets). What has been released: [releases](hf2triton/releases).

## When a task fails

The last lines of its log say what, where, and what to do. The live release is untouched.

| task | what to do |
|---|---|
| `check_request` | the message names the field, or what the host lacks: correct it and trigger again |
| `pull_model` | gated: accept the licence on the Hub and set the token in Connection *huggingface_default*; network: it retries by itself and resumes |
| `calibrate_awq` | out of memory: smaller *calib_size* or *calib_seq_len*; group size: use the one proposed |
| `build_engine` | the last lines of the tool are in the error |
| `assemble_repository` | the error names the file and the variable or path |
| `launch_triton` | the server's own last error lines are in the error |
| `validate_generate` | its button *Release report* shows each answer: change the request, or the gate's limit |
| `approve_release` | a no, or no answer in time, rejects the release and skips what follows |
| `promote_release` | the release before it answers again; the error says what the new one did not |
| `stop_candidate` | the live server does not start: its own last error lines are in the error; *rollback_release* brings back an earlier release |
"""

from __future__ import annotations

from typing import Any

from airflow.sdk import DAG

from hf2triton.assets import CHECKPOINT, ENGINE, LIVE_RELEASE
from hf2triton.form import request_params
from hf2triton.operators import ReleaseApprovalOperator, ReleaseOperator, TaskOperator, stage_operator
from hf2triton.retries import default_args
from include.settings import settings
from include.tasks import (
    approve_release,
    assemble_repository,
    build_engine,
    calibrate_awq,
    check_request,
    launch_triton,
    promote_release,
    pull_model,
    stop_candidate,
    validate_generate,
)

Stage = stage_operator()
# Servers run on the GPU host, on ports of that host: what talks to them runs there, too.
HOST: dict[str, Any] = {"queue": settings().serve_queue}
# A launch waits for a GPU, too: in the pool, waiting runs leave workers to those that would free one.
POOL: dict[str, Any] = {"pool": settings().gpu_pool}
GPU: dict[str, Any] = {"queue": "gpu", **POOL}

with DAG(
    dag_id="release_awq_engine",
    doc_md=__doc__,
    schedule=None,
    catchup=False,
    params=request_params(),
    tags=["hf2triton"],
    default_args=default_args(),
):
    check = TaskOperator(task_id="check_request", call=check_request.run, **HOST)
    checked = {"checked": check.output}

    pull = TaskOperator(task_id="pull_model", call=pull_model.run, inputs=checked)

    pulled = {**checked, "pulled": pull.output}
    calibrate = Stage(
        task_id="calibrate_awq", job=calibrate_awq.job, inputs=pulled, events={CHECKPOINT: calibrate_awq.event}, **GPU
    )

    calibrated = {**checked, "checkpoint": calibrate.output}
    build = Stage(
        task_id="build_engine", job=build_engine.job, inputs=calibrated, events={ENGINE: build_engine.event}, **GPU
    )

    made = {**calibrated, "engine": build.output}
    assemble = TaskOperator(task_id="assemble_repository", call=assemble_repository.run, inputs=made, **HOST)

    served = {**checked, "repository": assemble.output}
    launch = TaskOperator(task_id="launch_triton", call=launch_triton.run, inputs=served, **HOST, **POOL)

    running = {**made, **served, "candidate": launch.output}
    validate = ReleaseOperator(task_id="validate_generate", call=validate_generate.run, inputs=running, **HOST)

    proven = {"release": validate.output}
    asked = {**proven, "candidate": launch.output}
    approve = ReleaseApprovalOperator(
        task_id="approve_release", question=approve_release.question, reject=approve_release.reject, inputs=asked
    )

    # The approval is skipped where none is asked for; a no skips this task itself.
    live: dict[str, Any] = {"trigger_rule": "none_failed", "events": {LIVE_RELEASE: promote_release.event}, **HOST}
    promote = ReleaseOperator(task_id="promote_release", call=promote_release.run, inputs=proven, **live)

    # No setup is named, so it runs however the others ended, a launch that was killed included.
    stop = ReleaseOperator(task_id="stop_candidate", call=stop_candidate.run, **HOST).as_teardown()

    check >> pull >> calibrate >> build >> assemble >> launch >> validate >> approve >> promote >> stop
