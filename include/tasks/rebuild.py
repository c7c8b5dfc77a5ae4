"""The state of followed models: the inputs of an entry as they are now, and those of its last run.

The last run of an entry is a file of the artifact store, ``catalogue/<entry>.json``. Releases cannot tell it: a
run that failed early leaves none, a rollback makes an older one live on purpose, and people release by hand, too.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from include import sources
from include.artifacts.store import differences
from include.context import Context
from include.files import Damaged, find_record, write_atomic
from include.frozen import Frozen
from include.requests.catalogue import Entry
from include.requests.release import ReleaseRequest, Section
from include.runners.job import stage_code
from include.tasks import calibrate_awq, check_request

# A change of section Promotion, how a release goes live and not what it is, waits for the next release.
_COMPARED: tuple[Section, ...] = ("Model", "Quantization", "Engine", "Serving", "Gates")
_IGNORED = {"revision": "its commit is compared", "candidate_http_port": "no release has it"}


class LastRun(Frozen):
    """The last run of `release_awq_engine` that an entry asked for, and its inputs.

    ``started``: Airflow has known that run. If a check was cut off before it started the run, the next one starts it;
    a run that was deleted since is not started again.
    """

    model: str
    inputs: dict[str, Any]
    run_id: str
    started: bool = False


class Trigger(Frozen):
    """A run to start: its id, its params, and the reason."""

    run_id: str
    conf: dict[str, Any]
    why: str


class Desired(Frozen):
    """The inputs that an entry would be built from now. ``request`` names the commit itself."""

    request: ReleaseRequest
    commit: str
    inputs: dict[str, Any]


class FollowState:
    """The last run of each entry, kept in files."""

    def __init__(self, context: Context) -> None:
        self._root = context.settings.artifacts / "catalogue"
        self._context = context

    def last(self, entry: Entry) -> LastRun | None:
        """The last run that the entry asked for, if it was started."""
        asked = self._read(self._root / f"{entry.name}.json")
        if asked is None or asked.started:
            return asked
        if self._context.run_state(asked.run_id) is None:
            return None
        return self._write(entry, asked.model_copy(update={"started": True}))

    def ask(self, entry: Entry, wanted: Desired) -> str:
        """Records that a run is about to be started; returns its id."""
        run_id = f"rebuild__{entry.name}__{datetime.now(UTC).isoformat()}"
        self._write(
            entry,
            LastRun(model=self._context.releases.name_of(entry.request.model), inputs=wanted.inputs, run_id=run_id),
        )
        return run_id

    def busy(self, entry: Entry) -> str | None:
        """The id of a queued or running run of the entry's model: one that an entry asked for, or one that has pins."""
        slug = self._context.releases.name_of(entry.request.model)
        asked = (self._read(path) for path in self._root.glob("*.json"))
        runs = [one.run_id for one in asked if one and one.model == slug] + self._context.pins.of_model(slug)
        return next((run for run in runs if not self._context.is_over(run)), None)

    def _read(self, path: Path) -> LastRun | None:
        try:
            return find_record(path, LastRun)
        except Damaged as damage:
            self._context.skip(damage)
            return None

    def _write(self, entry: Entry, asked: LastRun) -> LastRun:
        write_atomic(self._root / f"{entry.name}.json", asked.model_dump_json(indent=1))
        return asked


def fingerprint(context: Context, entry: Entry) -> Desired:
    """The inputs of an entry as they are now, from the Hub or the model's directory. Nothing large is fetched.

    Raises:
        PipelineError: the model, the calibration data or the target cannot be had; the message says which.
    """
    request, target = entry.request, context.target(entry.target)
    source = sources.resolve(
        request.model, request.revision, token=context.token, endpoint=context.settings.hub_endpoint
    )
    inputs = {
        "commit": source.commit,
        "calibration_data": _calibration_data(context, request),
        **_task_file(request),
        "settings": request.section(*_COMPARED, ignored=_IGNORED),
        "environment": target.environment(),
        "hardware": target.hardware(),
        "code": {
            "calibrate": stage_code(calibrate_awq.MODULE),
            "build": stage_code(target.build_module),
            "templates": target.template_code(),
        },
    }
    pinned = request if request.is_local else request.model_copy(update={"revision": source.commit})
    return Desired(request=pinned, commit=source.commit, inputs=inputs)


def changes(wanted: Desired, last: LastRun) -> str:
    """The changes since the last run, as ``field: old -> new``; empty if there are none."""
    return "; ".join(f"{d.field}: {d.there} -> {d.here}" for d in differences(wanted.inputs, last.inputs))


def _task_file(request: ReleaseRequest) -> dict[str, str]:
    return {"tasks": check_request.task_file_digest(request)} if request.task_data.startswith("/") else {}


def _calibration_data(context: Context, request: ReleaseRequest) -> str:
    if request.calib_data.startswith("/"):
        return check_request.calibration_file_digest(request)
    dataset = check_request.resolve_dataset(context, request)
    return dataset.commit if dataset else request.calib_data
