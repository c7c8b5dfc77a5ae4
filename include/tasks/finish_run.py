"""Task ``finish_run``: the last teardown. A run that was cancelled ends as a failure, and says so."""

from __future__ import annotations

from include.context import Context
from include.errors import Cancelled

_LAST = "promote_release"


def run(context: Context) -> None:
    """Fails if the run was cancelled.

    Airflow marks the tasks as skipped that a cancelled run had before it. It judges a run by its last tasks, teardowns
    excepted, and takes skipped ones for success.

    Raises:
        Cancelled: the promotion was skipped, which only a person does.
    """
    states = {task.task: task.state for task in context.run.tasks}
    if states.get(_LAST) != "skipped":
        context.log(f"{_LAST}: {states.get(_LAST, 'has not run')}")
        return
    running = sorted(name for name, state in states.items() if state == "failed")
    raise Cancelled(
        f"cancelled{f' in {running[0]}' if running else ''}: nothing went live",
        fix="trigger it again if it was a mistake: finished stages are taken from the store",
    )
