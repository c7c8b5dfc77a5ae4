"""The contract of a candidate beside that of the live release: compared, recorded, and refused if a setting says so."""

from __future__ import annotations

from include.artifacts.kind import Kind
from include.context import Context
from include.errors import PipelineError, UserError
from include.releases.contract import Comparison, Contract, compare
from include.releases.records import Release
from include.requests.release import ReleaseRequest

_SETTING = "HF2TRITON_REFUSE_BREAKING_CHANGES"


def check_request(context: Context, request: ReleaseRequest) -> None:
    """Logs what the request alone would change for clients of its name's live release.

    Raises:
        UserError: it would break them, and the deployment refuses that.
    """
    live = context.releases.live(request.name)
    if live is None:
        return
    applies = context.target(request.target).applies_chat_template
    found = _compared(context, live, Contract.of_request(request, applies_chat_template=applies))
    if found:
        _check(context, "this request", found)


def record(context: Context, release: Release) -> Release:
    """Compares the release with the live one of its name, and records the comparison in it, unless it is that one."""
    live = context.releases.live(release.served_name)
    if live is not None and live.id == release.id:
        return release
    found = _compared(context, live, _contract_of(context, release)) if live else None
    return context.releases.record_contract(release, found)


def check(context: Context, release: Release) -> None:
    """Logs the changes for clients, as recorded; raises `UserError` as `check_request` does."""
    if release.contract and context.releases.state(release) != "live":
        _check(context, f"release {release.name}", release.contract)


def _compared(context: Context, live: Release, candidate: Contract | None) -> Comparison | None:
    known = _contract_of(context, live)
    return Comparison(against=live.name, changes=compare(known, candidate)) if known and candidate else None


def _check(context: Context, what: str, found: Comparison) -> None:
    for line in found.lines():
        context.log(f"compared with the live release {found.against}: {line}")
    if found.breaking and context.settings.refuse_breaking_changes:
        raise UserError(
            f"{what} would break clients of the live release {found.against}: "
            + "; ".join(change.text for change in found.breaking),
            where=_SETTING,
            fix=f"set these fields as the live release has them and run again; or, once the clients can take the "
            f"changes, unset {_SETTING} and clear this task",
        )


def _contract_of(context: Context, release: Release) -> Contract | None:
    """The contract as the store has it; None for a release whose files cannot be read."""
    try:
        return Contract.stored(context.store.root / Kind.REPOSITORY / release.repository, release.request)
    except (PipelineError, OSError) as error:
        context.log(f"the contract of release {release.name} is not known: {error}")
        return None
