"""How far a stage program is, as its runner logs it, with the time that is left."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from include.runners.progress import StageLog
from include.stages.progress import TOOL, Step, about

EXPECTED = {"load": 10.0, "search": 100.0, "export": 20.0}


@dataclass
class Told:
    """A log with a clock that the test turns."""

    expected: dict[str, float] = field(default_factory=dict)
    clock: float = 0
    lines: list[str] = field(default_factory=list)
    debug: list[str] = field(default_factory=list)
    published: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.log = StageLog(
            self.lines.append, self.debug.append, self.published.append, self.expected, lambda: self.clock
        )

    def say(self, at: float, line: object) -> str:
        self.clock = at
        self.log(str(line))
        return self.lines[-1]


@pytest.mark.parametrize(
    "step",
    [Step("measure before"), Step("search", "alpha search, layer 3 of 30", 0.145), Step("load", share=1, seconds=3.2)],
    ids=str,
)
def test_a_program_and_its_runner_speak_the_same_lines(step: Step) -> None:
    assert Step.parse(str(step)) == step


@pytest.mark.parametrize("line", ["perplexity 11.2 before, 12.3 after", "out of memory: again with batch size 2", ""])
def test_any_other_line_is_logged_as_it_is(line: str) -> None:
    told = Told(EXPECTED)
    assert told.say(0, line) == line


def test_what_a_tool_says_goes_to_debug() -> None:
    told = Told()
    told.log(f"{TOOL}UserWarning: transformers is incompatible with modelopt")
    assert (told.lines, told.debug) == ([], ["UserWarning: transformers is incompatible with modelopt"])


def test_the_time_that_is_left_is_that_of_an_earlier_run() -> None:
    told = Told(EXPECTED)
    assert told.say(0, Step("load")) == "load ..., about 2 min left"
    assert told.say(10, Step("search")) == "search ..., about 2 min left"


def test_a_run_that_is_slower_than_the_earlier_one_has_more_left() -> None:
    told = Told(EXPECTED)
    told.say(0, Step("load"))
    assert told.say(30, Step("load", share=1, seconds=30)).endswith("about 6 min left")
    told.say(30, Step("search"))
    assert told.say(130, Step("search", "layer 1 of 2", 0.5)).endswith("(50.0 %), about 3 min left")


def test_without_an_earlier_run_it_is_the_rest_of_the_running_part() -> None:
    told = Told()
    assert told.say(0, Step("search")) == "search ..."
    assert told.say(20, Step("search", "layer 1 of 4", 0.25)).endswith("about 60 s left of this step")


def test_the_page_hears_of_it_once_in_a_while() -> None:
    told = Told()
    for second in range(0, 30, 2):
        told.say(second, Step("search", f"layer {second}", second / 30))
    assert [line.split(",")[0].split(" (")[0] for line in told.published] == [
        f"search: layer {second}" for second in (0, 10, 20)
    ]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "5 s"), (42, "40 s"), (94, "95 s"), (150, "2 min"), (7800, "2 h 10 min")]
)
def test_an_estimate_is_as_exact_as_it_can_be(seconds: float, text: str) -> None:
    assert about(seconds) == text
