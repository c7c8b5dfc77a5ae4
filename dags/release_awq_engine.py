"""# Release a quantized engine

Turns a model of the Hugging Face Hub (or of a directory) into a live, tested Triton endpoint. Every stage that makes
files keeps them in the artifact store; a stage whose inputs have not changed takes them from there and starts nothing.

| task | does |
|---|---|
| `check_request` | checks params, model, host, ports and disk, in seconds |
| `pull_model` | downloads one commit, verifies every file's hash |
| `calibrate_awq` | calibrates to the format asked for, INT4 AWQ or FP8, with NVIDIA ModelOpt; makes a TensorRT-LLM checkpoint with its quality reference |
| `build_engine` | builds the target's engine from the same quantized weights, and compares it with the checkpoint |
| `assemble_repository` | fills and checks the ensemble's model repository |
| `launch_triton` | starts a candidate server on its own ports, and waits until it is ready and alive |
| `validate_generate` | tries the gates through the generate endpoint |
| `approve_release` | lets a person decide, if *require_approval* or the deployment asks for it; otherwise it is skipped |
| `promote_release` | makes the candidate's server the live one of its served name, without losing a request |
| `stop_candidate` | stops a candidate that is not live, however the run ended; with *swap: recreate*, restarts the live server if nothing replaced it |
| `finish_run` | makes a run that was cancelled end as failed, and not as a success |

The [presets](hf2triton/presets) have limits for common models and GPUs. All releases are listed on the page [releases](hf2triton/releases).

## When a task fails

The last lines of its log name the problem, its place and the remedy. The live release is untouched.

| task | what to do |
|---|---|
| `check_request` | the message names the field, or the missing requirement of the host: correct it and trigger again |
| `pull_model` | if the model is gated, accept the licence on the Hub and set the token in Connection *huggingface_default*; after a network error the task retries by itself and resumes |
| `calibrate_awq` | if memory is short, lower *calib_size* or *calib_seq_len*; if the group size does not fit, use the proposed one |
| `build_engine` | the error has the tool's last lines |
| `assemble_repository` | the error names the file and the variable or path |
| `launch_triton` | the error has the server's own last lines |
| `validate_generate` | its button *Release report* shows each answer; change the request or the gate's limit |
| `approve_release` | *Reject*, or no answer in time, rejects the release and ends the run as failed; trigger a new run |
| `promote_release` | the previous release answers again; the error names the fault of the new one, or the approval that is missing |
| `stop_candidate` | if the live server does not start, the error has its own last lines; *rollback_release* brings back an earlier release |
| `finish_run` | the run was cancelled; trigger it again, finished stages are not repeated |
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
    finish_run,
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
    dag_display_name="Release a model: INT4 AWQ, engine, Triton",
    description="Calibrates a model to INT4 AWQ, builds its engine, tries it behind Triton, and makes it live if it passes.",
    doc_md=__doc__,
    schedule=None,
    catchup=False,
    params=request_params(),
    tags=["hf2triton", "release"],
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
        task_id="approve_release", question=approve_release.question, answer=approve_release.answer, inputs=asked
    )

    # The approval is skipped where none is asked for.
    live: dict[str, Any] = {"trigger_rule": "none_failed", "events": {LIVE_RELEASE: promote_release.event}, **HOST}
    promote = ReleaseOperator(task_id="promote_release", call=promote_release.run, inputs=proven, **live)

    # No setup is named, so it runs however the others ended, a launch that was killed included.
    stop = ReleaseOperator(task_id="stop_candidate", call=stop_candidate.run, **HOST).as_teardown()
    finish = TaskOperator(task_id="finish_run", call=finish_run.run).as_teardown(on_failure_fail_dagrun=True)

    check >> pull >> calibrate >> build >> assemble >> launch >> validate >> approve >> promote >> stop >> finish
