from __future__ import annotations

import re
from pathlib import Path

from include.model.architectures import ARCHITECTURES, TARGETS

PAGE = Path(__file__).parents[3] / "docs" / "architectures.md"


def test_the_page_has_the_table_of_the_code() -> None:
    rows = re.findall(r"^\| `.*$", PAGE.read_text(), re.MULTILINE)
    assert rows == [
        f"| `{row.name}` | {row.models} | {' | '.join(map(row.standing, TARGETS))} |" for row in ARCHITECTURES.values()
    ]
