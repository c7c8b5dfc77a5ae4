"""The figures of README.md are replaced between their markers, and nothing else is changed."""

from __future__ import annotations

import re
from datetime import date

import pytest

from benchmarks.readme import BEGIN, END, Demo, Figures, Machine, Quality, Sizes, Took, rewritten, text
from include.demo import run
from include.errors import UserError
from include.settings import PROJECT

README = (PROJECT / "README.md").read_text()
FIGURES = Figures(
    day=date(2026, 12, 3),
    machine=Machine(cores=2, memory_gib=23.4, system="Debian GNU/Linux 12 (bookworm)", load=0.04),
    setup=Took(101.2, 10**9),
    first=Demo(Took(200.0, 4 * 10**9), dict.fromkeys(run.STAGES, 61.26), frozenset()),
    second=Demo(Took(17.4, 10**9), dict.fromkeys(run.STAGES, 0.31), frozenset({"build_engine"})),
    sizes=Sizes(download=810_000_000, environments=2_700_000_000, local=740_000_000),
    quality=Quality(11.6925, 14.1511, 14.1475, group=64, tokens=2048, python="3.11.7", compute="bfloat16"),
)


def test_the_figures_are_replaced_and_nothing_else():
    before, after = README.split(BEGIN)[0], README.split(END)[1]
    once = rewritten(README, text(FIGURES))
    assert once == f"{before}{BEGIN}\n{text(FIGURES)}{END}{after}"
    assert rewritten(once, text(FIGURES)) == once


@pytest.mark.parametrize(
    "page",
    ["", f"{BEGIN}\n", f"{END}\n", f"{END}\n{BEGIN}\n", f"{BEGIN}\n{END}\n{BEGIN}\n", f"{BEGIN}\n{END}\n{END}\n"],
)
def test_a_page_without_its_markers_stays_as_it_is(page):
    with pytest.raises(UserError, match="once each"):
        rewritten(page, "new")


def test_the_text_tells_what_was_measured():
    told = text(FIGURES)
    flowing = " ".join(told.split())
    for words in (
        "| the first time | 5 min 1 s, 1 min 41 s of them for download and set-up |",
        "| every further time | 17 s |",
        "| download | 0.8 GB of packages",
        "| disk | 2.7 GB of environments (`.venvs`), 0.7 GB of all else (`.local`) |",
        "| memory | 4.0 GB |",
        "| `build_engine` | 61.3 s | 0.3 s, reused |",
        "| `check_request` | 61.3 s | 0.3 s |",
        "Measured on 3 December 2026, from a clean clone",
        "2 cores with 23 GiB (Debian GNU/Linux 12 (bookworm), load average 0.0 before it began)",
        "was 11.69 before and 14.15 after INT4 AWQ with groups of 64 and 2048 calibration tokens in bfloat16",
        "PyTorch measured 14.151 and the engine 14.148",
        "another Python version than 3.11.7",
    ):
        assert words in flowing
    assert re.findall(r"^\| `(\w+)` \| \d", told, re.MULTILINE) == list(run.STAGES)
