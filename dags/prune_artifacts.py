"""# Prune artifacts

Frees the disk of artifacts that nothing needs any more. A release whose artifacts went keeps its record and report,
and cannot be rolled back to; running its request again builds it anew.

What always stays: the live release, each model's current and previous one, its last *keep_last*; what a run uses or
builds, what a server runs on, what is younger than *keep_days*; and all that these were made from.

Once a week, and by hand. Both only tell what they would remove, unless *dry_run* is off; for the weekly run that is
setting *HF2TRITON_PRUNE_DRY_RUN=false*.

| task | does |
|---|---|
| `prune_artifacts` | removes, or tells; its log names each directory and its size |

## When it fails

| what | what to do |
|---|---|
| a directory cannot be deleted | check its owner; what was half deleted is in *.trash* of the artifact store and goes with the next run |
"""

from __future__ import annotations

from datetime import UTC, datetime

from airflow.sdk import DAG

from hf2triton.form import request_params
from hf2triton.operators import TaskOperator
from hf2triton.retries import default_args
from include.requests.operations import PruneRequest
from include.settings import settings
from include.tasks import prune_artifacts

with DAG(
    dag_id="prune_artifacts",
    doc_md=__doc__,
    schedule="@weekly",
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    params=request_params(PruneRequest),
    tags=["hf2triton"],
    default_args=default_args(),
):
    TaskOperator(task_id="prune_artifacts", call=prune_artifacts.run, queue=settings().serve_queue)
