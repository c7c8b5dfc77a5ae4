"""# Check the live release

Every five minutes this DAG checks that the live server is alive, and that it answers the seed's prompt as it did when it
was promoted. If not, the server is restarted once from its own release. A deployment without a live release passes. The
task also cleans up after runs that ended without their teardown.

| task | does |
|---|---|
| `check_live_release` | asks the live release; restarts its server or the proxy if necessary |

## When it fails

| problem | what to do |
|---|---|
| after the restart, the live address still does not answer as it should | the error has the server's own last lines, and *servers/* of the artifact store has its log; *rollback_release* brings back an earlier release |
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
