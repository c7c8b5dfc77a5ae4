"""# Release followed models anew when something has changed

Follows the models of the catalogue (`HF2TRITON_CATALOGUE`; docs/schedules.md). The DAG runs whenever the schedule of an
entry says so. It checks the entries that are due, and starts one run of `release_awq_engine` for each that has changed: by
a new commit upstream, by another target (image or locked environment, versions, stage code, GPU), or by other settings. A
run by hand checks all entries, or the named ones.

| task | does |
|---|---|
| `read_catalogue` | reads the catalogue and finds the entries that are due |
| `rebuild_on_change` | one instance for each entry, with its name: compares, and starts a release run if something has changed |

A green instance has started a run, and the run's note lists the changes. A pink instance had nothing to do. A red one has
an error. The log has one line, which begins with *changed*, *new*, *unchanged*, *busy* or *held*. A request is started
only once, however it ended, until something changes; `force` starts it again.

## When a task fails

| task | what to do |
|---|---|
| `read_catalogue` | a name in `entries` is not in the catalogue, or not enabled: the message proposes one |
| `rebuild_on_change` | if the entry is wrong, the message names file, line and field, as does the import error of `catalogue_errors.py`; if the model is gone or gated, check its id, its branch and the token; if `release_awq_engine` is paused, unpause it. The other entries are followed regardless |
"""

from __future__ import annotations

from airflow.sdk import DAG

from hf2triton.form import request_params
from hf2triton.operators.rebuild import CatalogueOperator, RebuildOperator
from hf2triton.retries import default_args
from hf2triton.schedules import catalogue_timetable
from include.requests.operations import CatalogueCheck
from include.settings import settings
from include.tasks import read_catalogue, rebuild_on_change

with DAG(
    dag_id="rebuild_on_change",
    dag_display_name="Release followed models anew",
    description="Follows the models of the catalogue, and releases what has changed.",
    doc_md=__doc__,
    schedule=catalogue_timetable(),
    catchup=False,
    max_active_runs=1,
    params=request_params(CatalogueCheck),
    tags=["hf2triton", "schedule"],
    default_args=default_args(),
):
    read = CatalogueOperator(task_id="read_catalogue", call=read_catalogue.run)

    # What the target is, only its host knows.
    RebuildOperator.partial(
        task_id="rebuild_on_change",
        call=rebuild_on_change.run,
        queue=settings().serve_queue,
        map_index_template="{{ task.due.name }}",
    ).expand(due=read.output)
