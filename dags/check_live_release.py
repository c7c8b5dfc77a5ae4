"""# Check the live release

Every five minutes: the live server is alive, and answers the seed's prompt as it did when it was promoted. If not, its
server is started again, once, from its own release. Nothing live is no failure. Runs that ended without their
teardown are tidied up after.

| task | does |
|---|---|
| `check_live_release` | asks the live release; restarts its server or the proxy if need be |

## When it fails

| what | what to do |
|---|---|
| the restart did not help: the live address does not answer as it should | the server's own last error lines are in the error, its log in *servers/* of the artifact store; *rollback_release* brings back an earlier release |
"""

from __future__ import annotations

from datetime import UTC, datetime

from airflow.sdk import DAG

from hf2triton.operators import TaskOperator
from hf2triton.retries import default_args
from include.settings import settings
from include.tasks import check_live_release

with DAG(
    dag_id="check_live_release",
    doc_md=__doc__,
    schedule="*/5 * * * *",
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    tags=["hf2triton"],
    default_args=default_args(),
):
    TaskOperator(task_id="check_live_release", call=check_live_release.run, queue=settings().serve_queue)
