"""# Take a model off the air

Removes a served name from the live address. Requests that are in flight are answered, then the server stops and its
memory is free. New requests to this name get an error. The release keeps its artifacts, its report and its history:
*rollback_release* with the same name brings it back. If it was the default model, another one becomes it: the one that
setting *HF2TRITON_DEFAULT_MODEL* names, or else the live model that was promoted first; the log says which.

| task | does |
|---|---|
| `retire_model` | removes the name from the live address, waits for its requests, stops its server |

## When it fails

| problem | what to do |
|---|---|
| nothing is live under this name | the message names the live models |
| the proxy or the server cannot be stopped | the name is off the air already; *check_live_release* does the rest within five minutes |
"""

from __future__ import annotations

from airflow.sdk import DAG

from hf2triton.form import request_params
from hf2triton.operators import TaskOperator
from hf2triton.retries import default_args
from include.requests.operations import RetireRequest
from include.settings import settings
from include.tasks import retire_model

with DAG(
    dag_id="retire_model",
    dag_display_name="Take a model off the air",
    description="Stops serving a model; its release is kept.",
    doc_md=__doc__,
    schedule=None,
    catchup=False,
    params=request_params(RetireRequest),
    tags=["hf2triton", "release"],
    default_args=default_args(),
):
    TaskOperator(task_id="retire_model", call=retire_model.run, queue=settings().serve_queue)
