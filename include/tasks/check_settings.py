"""Task ``check_settings``: refuses, within seconds, settings that a release would be refused with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from include.context import Context
from include.errors import UserError
from include.requests.comparison import CompareRequest
from include.tasks import Checked, check_request


def run(context: Context, params: Mapping[str, Any]) -> list[Checked]:
    """The checked request of each setting, in their order; raises as `check_request.run`, and names the setting."""
    checked = []
    for setting, request in CompareRequest.parse(dict(params)).requests().items():
        context.log(f"setting {setting}")
        try:
            checked.append(check_request.run(context, request.model_dump(mode="json")))
        except UserError as error:
            raise UserError(f"setting {setting}: {error.what}", where=error.where, fix=error.fix) from error
    return checked
