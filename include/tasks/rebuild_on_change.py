"""Task ``rebuild_on_change``: one followed model; is a release run to be started?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from include.context import Context
from include.errors import UserError
from include.requests.catalogue import Entry
from include.requests.operations import CatalogueCheck
from include.tasks.read_catalogue import DueEntry
from include.tasks.rebuild import Desired, FollowState, LastRun, Trigger, changes, fingerprint


def run(context: Context, due: DueEntry, params: Mapping[str, Any]) -> Trigger | None:
    """The run to start, None if there is none: nothing has changed, or another run of the model is not over.

    The same inputs are built once, even if that run failed, until something changes or a person forces it.

    Raises:
        UserError: the entry is wrong, the message says where; or the model cannot be used.
        PipelineError: the Hub or the target cannot be asked.
    """
    if due.entry is None:
        raise UserError(due.problem, where=f"catalogue {context.settings.catalogue}", fix="correct the entry")
    memory = FollowState(context)
    if busy := memory.busy(due.entry):
        _say(context, f"{due.name}: busy: run {busy} of {due.entry.model} is not over; looked at again when next due")
        return None
    wanted = fingerprint(context, due.entry)
    if held := _held(due.entry, wanted):
        _say(context, f"{due.name}: held: {held}")
        return None
    last = memory.last(due.entry)
    why = _why(wanted, last)
    if last and not why:
        _say(context, f"{due.name}: unchanged since run {last.run_id} ({context.run_state(last.run_id) or 'deleted'})")
        if not CatalogueCheck.parse(dict(params)).force:
            return None
    run_id = memory.ask(due.entry, wanted)
    _say(context, f"{due.name}: {why or 'forced'}; starting run {run_id}")
    return Trigger(run_id=run_id, conf=wanted.request.model_dump(mode="json"), why=f"{due.name}: {why or 'forced'}")


def _say(context: Context, outcome: str) -> None:
    context.log(outcome)
    context.tell(outcome)


def _why(wanted: Desired, last: LastRun | None) -> str:
    if last is None:
        return f"new: no run was started for this entry yet; {wanted.request.model} is at {wanted.commit}"
    found = changes(wanted, last)
    return found and f"changed: {found}"


def _held(entry: Entry, wanted: Desired) -> str:
    if not entry.only_commits or wanted.commit in entry.only_commits:
        return ""
    return f"{entry.revision} is at {wanted.commit}, which only_commits does not name; review it, then add it"
