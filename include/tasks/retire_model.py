"""Task ``retire_model``: a served name is taken off the air; its release keeps its artifacts and its history."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from include import report
from include.context import Context
from include.frozen import Frozen
from include.live.address import LiveAddress
from include.requests.operations import RetireRequest


class Retired(Frozen):
    """A name that was taken off the air, the release that was live, and the default model from now on, if any."""

    name: str
    model: str
    release: int
    default: str | None


def run(context: Context, params: Mapping[str, Any]) -> Retired:
    """Removes the name from the live address, lets its requests end, and stops its server.

    Raises:
        UserError: nothing is live under this name.
        PipelineError: the proxy fails. The name is off the air; `check_live_release` does the rest.
    """
    request = RetireRequest.parse(dict(params))
    release = LiveAddress(context).retire(request.name, by=context.find_requester() or "")
    releases = context.releases
    report.record_history(releases.path(release), releases.get(release.model, release.number))
    context.tell(f"release {release.number} is off the air")
    context.log(f"rollback_release with name {request.name} brings it back")
    return Retired(name=request.name, model=release.model, release=release.number, default=releases.default_name())
