"""Task ``rebuild_on_change``: one followed model; is a release run to be started?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from include.context import Worker
from include.errors import UserError
from include.requests.catalogue import Entry
from include.requests.operations import CatalogueCheck
from include.tasks.read_catalogue import Due
from include.tasks.rebuild import Asked, Memory, Start, Wanted, changes, look


def run(worker: Worker, due: Due, params: Mapping[str, Any]) -> Start | None:
    """The run to start, None if there is none: nothing has changed, or another run of the model is not over.

    Whatever was asked for is asked for once, however it ended, until something changes or a person forces it.

    Raises:
        UserError: the entry is wrong, the message says where; or the model cannot be used.
        PipelineError: the Hub or the target cannot be asked.
    """
    if due.entry is None:
        raise UserError(due.problem, where=f"catalogue {worker.settings.catalogue}", fix="correct the entry")
    memory = Memory(worker)
    if busy := memory.busy(due.entry):
        worker.log(f"{due.name}: busy: run {busy} of {due.entry.model} is not over; looked at again when next due")
        return None
    wanted = look(worker, due.entry)
    if held := _held(due.entry, wanted):
        worker.log(f"{due.name}: held: {held}")
        return None
    last = memory.last(due.entry)
    why = _why(wanted, last)
    if last and not why:
        worker.log(f"{due.name}: unchanged since run {last.run_id} ({worker.run_state(last.run_id) or 'deleted'})")
        if not CatalogueCheck.parse(dict(params)).force:
            return None
    run_id = memory.ask(due.entry, wanted)
    worker.log(f"{due.name}: {why or 'forced'}; starting run {run_id}")
    return Start(run_id=run_id, conf=wanted.request.model_dump(mode="json"), why=f"{due.name}: {why or 'forced'}")


def _why(wanted: Wanted, last: Asked | None) -> str:
    if last is None:
        return f"new: no run was started for this entry yet; {wanted.request.model} is at {wanted.commit}"
    found = changes(wanted, last)
    return found and f"changed: {found}"


def _held(entry: Entry, wanted: Wanted) -> str:
    if not entry.only_commits or wanted.commit in entry.only_commits:
        return ""
    return f"{entry.revision} is at {wanted.commit}, which only_commits does not name; review it, then add it"
