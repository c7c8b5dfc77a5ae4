"""# Roll back to an earlier release

Makes an earlier release of a served name live again from its own artifacts. Nothing is built, and no request is lost.
The release that was live keeps its artifacts, so another run of this DAG can bring it back: with *to: previous*,
two runs end where they began. For an older release, give its number (page *Releases*).
A model that *retire_model* took off the air comes back in the same way, by its name.

| task | does |
|---|---|
| `approve_release` | lets a person decide, if the deployment requires approval; otherwise it is skipped |
| `rollback_release` | launches the release's server, asks it, moves the live address to it, stops the server that was live |

## When it fails

The release that was live stays live.

| problem | what to do |
|---|---|
| the release does not exist, or was rejected or pruned | the message names the available ones |
| the rollback is not approved | clear `approve_release` with its downstream task, and let an approver answer; after *Reject*, trigger a new run |
| the server does not start | the error has its own last lines; the usual cause is too little memory for two servers, which *swap: recreate* avoids |
| its answer differs from the one at its promotion | the error shows both answers; see the release's report, or choose another release |
"""

from __future__ import annotations

from airflow.sdk import DAG

from hf2triton.assets import LIVE_RELEASE
from hf2triton.form import request_params
from hf2triton.operators import ReleaseApprovalOperator, TaskOperator
from hf2triton.retries import default_args
from include.requests.operations import RollbackRequest
from include.settings import settings
from include.tasks import approve_release, promote_release, rollback_release

with DAG(
    dag_id="rollback_release",
    dag_display_name="Roll back to an earlier release",
    description="Makes an earlier release of a served name live again, without building anything.",
    doc_md=__doc__,
    schedule=None,
    catchup=False,
    params=request_params(RollbackRequest),
    tags=["hf2triton", "release"],
    default_args=default_args(),
):
    approve = ReleaseApprovalOperator(
        task_id="approve_release", question=rollback_release.question, answer=approve_release.answer
    )
    rollback = TaskOperator(
        task_id="rollback_release",
        call=rollback_release.run,
        events={LIVE_RELEASE: promote_release.event},
        trigger_rule="none_failed",
        queue=settings().serve_queue,
    )
    approve >> rollback
