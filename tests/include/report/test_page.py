"""The page says what the report says, to everyone, and runs nothing of what a model wrote."""

from __future__ import annotations

import itertools
import re
from html.parser import HTMLParser

import pytest

from include.gates import Quality, Sample
from include.releases.ids import ReleaseId
from include.releases.records import Promotion
from include.releases.run import RunRecord, TaskTime
from include.report import ReleaseReport, Subject
from include.report.model import Compared, Setting
from include.report.page import render_report
from include.report.runs import ORDER
from tests.support.report import WHEN, full_report, load, report, spread, stage, verdict

VOID = {"meta", "br", "link", "img", "input", "hr", "wbr"}
EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>{{ 7 * 7 }}"


class Page(HTMLParser):
    """A parsed page: its elements, the text in order, and what was left open."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in {"style", "title"} and data.strip():
            self.words.append(data.strip())

    def tags(self, *names: str) -> list[str]:
        return [tag for tag, _ in self.elements if tag in names]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def page(made: ReleaseReport) -> Page:
    return Page(render_report(made))


def test_the_verdict_comes_first_and_names_the_failed_gates() -> None:
    text = page(full_report()).text
    assert text.index("Failed its gates") < text.index("1 of 5 failed: agreement") < text.index("Gates")


def test_a_release_that_passed_says_so() -> None:
    text = page(report(verdict("ready"), verdict("streaming", "skip"))).text
    assert "Passed its gates 1 of 2 passed, 1 could not be tried here." in text
    assert "Failed" not in text


def test_what_breaks_clients_comes_first_of_what_changes_for_them() -> None:
    text = page(full_report()).text
    assert "Compared with release org--model/2, which was live. breaking streaming is <off> change new fields" in text
    assert "Changes for clients" not in page(report()).text


def test_failed_gates_come_first_and_are_open() -> None:
    html = render_report(full_report())
    found = re.findall(r'<details( open)?>\s*<summary><span class="badge (\w+)"', html)
    assert [outcome for _, outcome in found] == ["fail", "pass", "pass", "pass", "skip"]
    assert [bool(opened) for opened, _ in found] == [True, False, False, False, False]


@pytest.mark.parametrize(
    "said",
    [
        "release 3",
        "found by agreement",
        "threshold of agreement",
        "ACCEPT",
        "10.000",
        "12.000",
        "1 client, candidate",
        "4 clients, live",
        "a prompt",
        "NVIDIA H200",
        "3 MB in 2 files",
        "1 min 40 s",
        "2 GB",
        "org/model",
        "manual__1",
        "2026-03-01 12:30 UTC",
        "check_request success in 12.5 s",
        "approve_release skipped",
        "triton 2.51.0",
    ],
)
def test_the_page_shows(said: str) -> None:
    assert said in page(full_report()).text


def test_answers_are_marked_from_where_they_differ() -> None:
    html = render_report(report(answers=(Sample(prompt="p", answer="one two", expected="one three"),)))
    assert re.findall(r"<mark>(.*?)</mark>", html) == ["wo", "hree"]


def test_the_originals_answer_stands_beside_both() -> None:
    html = render_report(report(answers=(Sample(prompt="p", answer="one", expected="one", original="one <b>"),)))
    assert "original model" in html
    assert "one<mark> &lt;b&gt;</mark>" in html
    assert "original model</p>" not in render_report(report(answers=(Sample(prompt="p", answer="one"),)))


def test_a_release_that_is_left_to_a_person_says_so() -> None:
    html = render_report(report(verdict("ready"), verdict("tasks", "ask", rating="INCONCLUSIVE")))
    assert "Left to a person" in html
    assert "tasks did not decide" in html
    assert "Passed its gates" not in html


def test_equal_answers_are_not_marked() -> None:
    assert page(report(answers=(Sample(prompt="p", answer="one", expected="one"),))).tags("mark") == []


def test_an_empty_answer_is_said_to_be_empty() -> None:
    assert "(nothing)" in page(report(answers=(Sample(prompt="p", answer="", expected="one"),))).text


def test_candidate_and_live_are_drawn_beside_each_other() -> None:
    loads = (load("candidate", 1, 30, ttft_ms=spread(10)), load("live", 1, 20, ttft_ms=spread(20)))
    html = render_report(report(verdict("speed", loads=loads)))
    assert re.findall(r'<rect class="(\w+)" x="0" y="\d+%" width="([\d.]+)%"', html) == [
        ("candidate", "100.00"),
        ("live", "66.67"),
    ]
    assert re.findall(r'<circle cx="([\d.]+)%"', html) == ["16.67", "33.33"]


@pytest.mark.parametrize(
    ("made", "missing"),
    [
        (report(), "Speed"),
        (report(), "Quality"),
        (report(), "Answers"),
        (report(), "Time and memory"),
        (report(verdict("speed", loads=(load("candidate", 1, 30),))), "Time to first token"),
        (report(verdict("speed", loads=(load("candidate", 1, 30),))), "1 client, live"),
    ],
    ids=["no loads", "no quality", "no answers", "no timings", "no streaming", "no live release"],
)
def test_what_was_not_measured_is_not_shown(made: ReleaseReport, missing: str) -> None:
    assert missing not in page(made).words


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.0], ids=str)
def test_a_quality_that_is_no_number_is_still_reported(value: float) -> None:
    made = report(quality=Quality(before=value, after=12.0, samples=8, tokens=4000))
    assert f"{value:.3f}" in page(made).text
    assert "nan%" not in render_report(made)


def test_an_answer_that_fails_alone_is_marked() -> None:
    samples = (Sample(prompt="good", answer="a"), Sample(prompt="bad", answer="a", ok=False))
    assert "fail bad" in page(report(verdict("ready", samples=samples))).text
    assert "fail good" not in page(report(verdict("ready", samples=samples))).text


@pytest.mark.parametrize(("downtime_s", "said"), [(0, "without downtime"), (2.5, "2.50 s without a server")])
def test_a_live_release_states_its_downtime(downtime_s: float, said: str) -> None:
    assert said in page(report(promotions=(Promotion(at=WHEN, downtime_s=downtime_s),))).text


def test_nothing_that_others_wrote_becomes_markup() -> None:
    sample = Sample(prompt=EVIL, answer=EVIL, expected=f"{EVIL}!", expected_from=EVIL, note=EVIL)
    evil = full_report().model_copy(
        update={
            "verdicts": (verdict(EVIL, rating=EVIL, measured={EVIL: 1}, samples=(sample,)),),
            "answers": (sample,),
            "request": {EVIL: [EVIL], "model": EVIL},
            "runs": (EVIL,),
            "chain": (
                stage(timings_s={EVIL: 1}, versions={EVIL: EVIL}, results={EVIL: {EVIL: EVIL}}, gpu=EVIL, host=EVIL),
            ),
            "subject": full_report().subject.model_copy(update={"model": EVIL, "source": f"{EVIL}@{EVIL}"}),
        }
    )
    parsed = page(evil)
    assert parsed.tags("script", "img") == []
    assert "<script>alert(1)</script>" in parsed.text
    assert "{{ 7 * 7 }}" in parsed.text


def test_a_report_is_one_file_without_scripts() -> None:
    html = render_report(full_report())
    parsed = Page(html)
    assert parsed.open == []
    assert parsed.tags("script", "link", "img", "iframe", "object") == []
    hrefs = [str(a["href"]) for _, a in parsed.elements if "href" in a]
    assert [href for href in hrefs if href != "report.json" and not href.startswith("../")] == []
    assert not [name for _, a in parsed.elements for name in a if name == "src" or name.startswith("on")]
    assert "url(" not in html
    assert "@import" not in html


def test_the_page_can_be_read_out() -> None:
    parsed = page(full_report())
    assert ("html", {"lang": "en"}) in parsed.elements
    levels = [int(tag[1]) for tag in parsed.tags("h1", "h2", "h3")]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    assert all("scope" in attributes for tag, attributes in parsed.elements if tag == "th")
    assert all(a.get("aria-hidden") == "true" for tag, a in parsed.elements if tag == "svg"), "values stand in cells"


def variables(css: str, scheme: str) -> dict[str, str]:
    """The colours of the light or the dark scheme."""
    found = re.findall(r"--([\w-]+): light-dark\((#\w+), (#\w+)\)", css)
    return {name: light if scheme == "light" else dark for name, light, dark in found}


def contrast(one: str, other: str) -> float:
    """As WCAG 2 defines it."""
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def luminance(colour: str) -> float:
    digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
    shares = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    red, green, blue = (s / 12.92 if s <= 0.03928 else ((s + 0.055) / 1.055) ** 2.4 for s in shares)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(
    ("ink", "paper", "least"),
    [
        ("ink", "page", 7),
        ("ink", "card", 7),
        ("ink", "mark", 4.5),
        ("soft", "page", 4.5),
        ("soft", "card", 4.5),
        ("link", "page", 4.5),
        ("link", "card", 4.5),
        ("pass", "pass-card", 4.5),
        ("fail", "fail-card", 4.5),
        ("skip", "skip-card", 4.5),
        ("candidate", "card", 3),
        ("live", "card", 3),
        ("card", "candidate", 4.5),
        ("pass", "card", 4.5),
        ("fail", "card", 4.5),
    ],
)
def test_colours_can_be_told_apart(scheme: str, ink: str, paper: str, least: float) -> None:
    colours = variables(render_report(report()), scheme)
    assert contrast(colours[ink], colours[paper]) >= least


def links(html: str) -> list[str]:
    return [str(attributes["href"]) for tag, attributes in Page(html).elements if tag == "a" and "href" in attributes]


def test_the_report_leads_to_its_run_to_the_releases_and_to_the_live_one_then() -> None:
    live = ReleaseId(model="org--other", number=7)
    html = render_report(report(compared=Compared(release=live, settings=()), runs=("manual__1", "a/b?c")))
    assert {"../2/report.html", "../../org--other/7/report.html", "../../../releases", "../../../models"} <= {
        *links(html)
    }
    assert "../../../runs/release_awq_engine/a/b%3Fc/tasks" in links(html)
    assert "made by the same request" in html


def test_the_report_has_the_settings_that_differ_and_how_to_ask() -> None:
    changed = Setting(field="max_batch_size", live=4, here=8), Setting(field="quantization", here=EVIL)
    compared = Compared(release=ReleaseId(model="m", number=1), settings=changed)
    subject = Subject(model="m", number=2, target="openvino", source="o/m@c", served_name="chat")
    html = render_report(report(compared=compared, subject=subject, address="https://a.example", curl="curl -s"))
    text = Page(html).text
    assert "max_batch_size" in text
    assert "not given" in text
    assert EVIL not in html
    assert "curl -s https://a.example/v2/models/chat/generate -d" in text
    assert "Once it is live" in text


def test_the_tasks_of_a_run_stand_in_their_order() -> None:
    names = ("build_engine", "calibrate_awq", "check_request", "validate_generate")
    tasks = tuple(TaskTime(task=name, state="success", seconds=1.0) for name in names)
    html = render_report(report(run=RunRecord(id="r", tasks=tasks), chain=()))
    places = [html.index(f'<th scope="row">{name}</th>') for name in ORDER if name in names]
    assert places == sorted(places)


def test_values_of_fields_stand_as_requests_have_them() -> None:
    html = render_report(
        report(request={"streaming": True, "calib_size": None, "aliases": [], "test_prompts": ["True"]})
    )
    assert "<code>true</code>" in html
    assert "<code>not given</code>" in html
    assert "<code>none</code>" in html
    assert "<code>True</code>" in html, "a text stays as it is"
