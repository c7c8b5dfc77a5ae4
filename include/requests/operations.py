"""The forms of the DAGs that work on releases: rollback, pruning, and the check of the catalogue."""

from __future__ import annotations

from include.requests.names import LONGEST, NAME_OR_EMPTY_PATTERN, NAME_PATTERN
from include.requests.release import FORMER_SWAPS, MODEL_PATTERN, Form, Swap, form_field
from include.settings import settings

_OR_EMPTY = MODEL_PATTERN.replace("(?:", "(?:|", 1)


class RollbackRequest(Form):
    """One run of `rollback_release`."""

    name: str = form_field(
        "Release",
        "Name",
        "Served name, of a live model or of one that was retired. Empty: that of the field below, or of the only live "
        "model.",
        "",
        pattern=NAME_OR_EMPTY_PATTERN,
        max_length=LONGEST,
        extra={"type": ["string", "null"]},  # or the form would demand an entry
    )
    model: str = form_field(
        "Release",
        "Model",
        "Instead of a name: Hub id or directory, as it was released, or its name in the artifact store (`org--name`).",
        "",
        pattern=_OR_EMPTY,
        max_length=400,
        extra={"type": ["string", "null"]},  # or the form would demand an entry
    )
    to: str = form_field(
        "Release",
        "To",
        "`previous`: the release of this name that was live before the one that is live now, or until it was retired; "
        "or a number.",
        "previous",
        pattern=r"^(?:previous|[1-9][0-9]{0,8})$(?!\n)",
    )
    swap: Swap = form_field(
        "Promotion",
        "Swap",
        "`blue_green`: no request is lost. `recreate`, where memory does not hold two servers: the live server stops "
        "first, and the address answers 503 until the release is live.",
        "blue_green",
        extra={"former": list(FORMER_SWAPS)},
    )


class RetireRequest(Form):
    """One run of `retire_model`."""

    name: str = form_field(
        "Release",
        "Name",
        "Served name of the live model to take off the air.",
        "",
        validate_default=True,
        pattern=NAME_PATTERN,
        max_length=LONGEST,
    )


class PruneRequest(Form):
    """One run of `prune_artifacts`."""

    keep_last: int = form_field(
        "Pruning",
        "Keep last",
        "How many of each model's newest releases keep their artifacts, besides the live, the current and the "
        "previous one.",
        3,
        ge=0,
        le=1000,
    )
    keep_days: float = form_field(
        "Pruning",
        "Keep days",
        "Whatever was made, or downloaded in part, within so many days stays: a run that failed may be tried again.",
        7,
        ge=0,
        le=3650,
    )
    dry_run: bool = form_field(
        "Pruning",
        "Dry run",
        "Only tell what would be removed. What the scheduled run does is setting `HF2TRITON_PRUNE_DRY_RUN`.",
        settings().prune_dry_run,
    )


class CatalogueCheck(Form):
    """One run of `rebuild_on_change` by hand. The scheduled runs look at the entries that are due, and never force."""

    entries: list[str] = form_field(
        "Catalogue",
        "Entries",
        "Names of the entries to look at, one a line. Empty: all that are enabled, whatever their schedule says.",
        [],
        max_length=200,
        extra={"type": ["array", "null"]},  # or the form would demand an entry
    )
    force: bool = form_field(
        "Catalogue",
        "Force",
        "Start a release run of each even if nothing has changed since the last one, e.g. if that failed.",
        False,
    )
