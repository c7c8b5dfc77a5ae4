"""# Roll back to an earlier release

Makes an earlier release of a model live again, from its own artifacts: nothing is built, no request is lost.
The release that was live keeps its artifacts, so the way back is another run of this DAG: with *to: previous*
two runs end where they began. For a release further back, give its number (page *Releases*).

| task | does |
|---|---|
| `rollback_release` | launches the release's server, asks it, moves the live address to it, stops the server that was live |

## When it fails

The release that was live still is.

| what | what to do |
|---|---|
| no such release, rejected or pruned | the message names those there are |
| the server does not start | its own last error lines are in the error; most often memory for two servers: *swap: recreate* |
| it answers otherwise than when it was promoted | the error shows both answers; see the release's report, or take another release |
"""

from __future__ import annotations

from airflow.sdk import DAG

from hf2triton.assets import LIVE_RELEASE
from hf2triton.form import request_params
from hf2triton.operators import TaskOperator
from hf2triton.retries import default_args
from include.requests.operations import RollbackRequest
from include.settings import settings
from include.tasks import rollback_release

with DAG(
    dag_id="rollback_release",
    doc_md=__doc__,
    schedule=None,
    catchup=False,
    params=request_params(RollbackRequest),
    tags=["hf2triton"],
    default_args=default_args(),
):
    TaskOperator(
        task_id="rollback_release",
        call=rollback_release.run,
        events={LIVE_RELEASE: rollback_release.event},
        queue=settings().serve_queue,
    )
