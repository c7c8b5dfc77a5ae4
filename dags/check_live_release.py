"""# Check the live releases

Every five minutes this DAG checks that each live server is alive, and that it answers the seed's prompt as it did when it
was promoted. If not, that server is restarted once from its own release. A deployment without a live release passes. The
task also cleans up after runs that ended without their teardown. It is on from the start.

A server or a proxy that died is brought back by the supervisor within seconds. This DAG starts the supervisor if it is
gone, and does what the supervisor cannot do: it notices a server that hangs or answers wrong.

| task | does |
|---|---|
| `check_live_release` | asks the live release of each served name; restarts its server, the proxy or the supervisor if necessary |
| `announce_outages` | emits an event of asset `hf2triton_outage` for each outage that began or ended |

## When it fails

| problem | what to do |
|---|---|
| after the restart, the live address still does not answer as it should | the error names each model that does not, with its server's own last lines and the path of its log; *rollback_release* brings back an earlier release |
"""

from __future__ import annotations

from datetime import UTC, datetime

from airflow.sdk import DAG

from hf2triton.assets import OUTAGE
from hf2triton.operators import TaskOperator
from hf2triton.retries import default_args
from include.settings import settings
from include.tasks import announce_outages, check_live_release

with DAG(
    dag_id="check_live_release",
    dag_display_name="Check the live releases",
    description="Asks each live model every five minutes, and restarts a server that hangs or answers wrong.",
    doc_md=__doc__,
    schedule="*/5 * * * *",
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    is_paused_upon_creation=False,
    tags=["hf2triton", "upkeep"],
    default_args=default_args(),
):
    check = TaskOperator(task_id="check_live_release", call=check_live_release.run, queue=settings().serve_queue)
    # A teardown runs after a failed check, too, and leaves the run failed.
    announce = TaskOperator(
        task_id="announce_outages", call=announce_outages.run, news=OUTAGE, queue=settings().serve_queue
    )
    check >> announce.as_teardown()
