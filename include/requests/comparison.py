"""The form of DAG `compare_settings`: one model, and the settings that are tried with it."""

from __future__ import annotations

from typing import Annotated, Any, get_args

from pydantic import Field, field_validator

from include.errors import UserError
from include.reading import parse_json
from include.requests.release import MODEL_PATTERN, REVISION_PATTERN, Form, ReleaseRequest, form_field

MOST_SETTINGS = 8
_TARGETS = get_args(ReleaseRequest.model_fields["target"].annotation)
_FIX = "write one setting a line, e.g. `awq_group_size=64`, or several fields of one setting: `a=1 b=2`"
Setting = Annotated[str, Field(min_length=3, max_length=300)]


class CompareRequest(Form):
    """One run of `compare_settings`."""

    model: str = form_field(
        "Model",
        "Model",
        "Hugging Face Hub id, or the absolute path of a local model directory, as in a release.",
        ReleaseRequest.model_fields["model"].default,
        pattern=MODEL_PATTERN,
        max_length=400,
    )
    revision: str = form_field(
        "Model", "Revision", "Branch, tag or commit on the Hub.", "main", pattern=REVISION_PATTERN
    )
    target: str = form_field(
        "Model",
        "Target",
        "The target of a release.",
        _TARGETS[0],
        extra={"enum": list(_TARGETS)},
    )
    settings: list[Setting] = form_field(
        "Settings",
        "Settings",
        "One setting a line: fields of a release as `name=value`, e.g. `awq_group_size=64`; several are separated by "
        "spaces. Fields of gates and promotion change nothing here.",
        ["awq_group_size=32", "awq_group_size=64"],
        min_length=2,
        max_length=MOST_SETTINGS,
        extra={"items": {"type": "string", "maxLength": 300}},
    )
    request: dict[str, Any] = form_field(
        "Settings",
        "All settings have",
        "Further fields of a release, the same for all settings, as JSON: the params of a run, or of a preset.",
        {},
        max_length=len(ReleaseRequest.model_fields),
    )
    measure_speed: bool = form_field(
        "Settings",
        "Measure speed",
        "Start a server for each setting, one after the other, and measure its tokens/s alone.",
        True,
    )

    @field_validator("settings", mode="before")
    @classmethod
    def _one_a_line(cls, value: object) -> object:
        lines = value.splitlines() if isinstance(value, str) else value
        return (
            [line for line in lines if not isinstance(line, str) or line.strip()] if isinstance(lines, list) else value
        )

    def requests(self) -> dict[str, ReleaseRequest]:
        """The request of a release with each setting, by the setting as it was written.

        Raises:
            UserError: a setting is no release's, or is there twice; the message has its line.
        """
        common = {**self.request, "model": self.model, "revision": self.revision, "target": self.target}
        found = {" ".join(line.split()): _parsed(line, common) for line in self.settings}
        made = [request.model_dump_json() for request in found.values()]
        if len(found) < len(self.settings) or len(set(made)) < len(made):
            raise UserError("two settings are the same", where="field settings", fix="leave one of them out")
        return found


def _parsed(line: str, common: dict[str, Any]) -> ReleaseRequest:
    fields: dict[str, Any] = {}
    for word in line.split():
        name, equals, value = word.partition("=")
        if not (name and equals and value) or name in fields or name in ("model", "revision", "target"):
            raise UserError(f"{word!r} is no field of a setting with a value", where=f"settings: {line!r}", fix=_FIX)
        fields[name] = _value(value)
    try:
        return ReleaseRequest.parse(common | fields)
    except UserError as error:
        raise UserError(error.what, where=f"field settings or request: {line!r}", fix=_FIX) from error


def _value(text: str) -> Any:  # noqa: ANN401 - any JSON
    try:
        return parse_json(text)
    except ValueError:
        return text
