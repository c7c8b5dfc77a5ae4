"""# Prune artifacts

Removes artifacts that are no longer needed. A release without its artifacts keeps its record and report, but a rollback
to it is no longer possible; running its request again builds it anew.

These artifacts always stay: those of each served name's live and previous release, of each model's current one, and of its
last *keep_last* releases; artifacts that a run uses or builds, that a server runs on, or that are younger than *keep_days*; and
all artifacts that these were made from.

The DAG runs once a week and by hand. Both runs only list the artifacts to remove, unless *dry_run* is off; for the weekly
run that is setting *HF2TRITON_PRUNE_DRY_RUN=false*.

| task | does |
|---|---|
| `prune_artifacts` | removes or lists artifacts; its log names each directory and its size |

## When it fails

| problem | what to do |
|---|---|
| a directory cannot be deleted | check its owner; the rest of the directory is in *.trash* of the artifact store, and the next run deletes it |
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
    dag_display_name="Prune artifacts",
    description="Frees the disk of artifacts that no release needs.",
    doc_md=__doc__,
    schedule="@weekly",
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    params=request_params(PruneRequest),
    tags=["hf2triton", "upkeep"],
    default_args=default_args(),
):
    TaskOperator(task_id="prune_artifacts", call=prune_artifacts.run, queue=settings().serve_queue)
