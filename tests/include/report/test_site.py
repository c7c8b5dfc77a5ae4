"""The pages of the web UI: whole HTML, this project's own scripts alone, and nothing of what others wrote as markup."""

from __future__ import annotations

import json
from datetime import timedelta
from html import unescape
from typing import Any

import pytest

from include.files import Damaged
from include.gates import Quality, Sample
from include.releases.approval import Answer, Approval
from include.releases.ids import ReleaseId
from include.releases.records import Outage, Promotion, Retirement
from include.report.comparison import SettingsComparison
from include.report.models import Candidate, Card, chosen
from include.report.page import (
    STATIC,
    render_message,
    render_model,
    render_models,
    render_presets,
    render_report,
    render_settings,
)
from include.requests.operations import RetireRequest, RollbackRequest
from include.requests.presets import PRESETS
from tests.include.report.test_models import card, line, measured
from tests.include.report.test_page import EVIL, Page
from tests.support.report import WHEN, report, verdict

CANDIDATE = Candidate(
    "candidate-manual__7", ReleaseId(model="org--model", number=3), "http://127.0.0.1:1", streams=True
)


def full(**fields: Any) -> Card:
    """A name with all that a card can show, all of it hostile."""
    made = report(
        verdict("ready"),
        quality=Quality(before=10, after=12, samples=8, tokens=4000),
        answers=(Sample(prompt=EVIL, answer=EVIL),),
    )
    outage = Outage(since=WHEN, cause=f"{EVIL}\n{EVIL}", ended_by=EVIL)
    request = {"model": EVIL, "served_name": "model", "aliases": ["other"], EVIL: EVIL}
    live = line(
        2, "live", report_=made, request=request, outages=(outage,), promoted_by=EVIL, promotions=(Promotion(at=WHEN),)
    )
    former = line(1, report_=made, request={"model": "m"}, promotions=(Promotion(at=WHEN),))
    known = {"candidates": (CANDIDATE,), "is_default": True}
    return card(line(3, "candidate"), live, former, previous=1, **{**known, **fields})


def pages(one: Card) -> list[str]:
    return [render_model(one, chosen(one, None, None)), render_models([one], [Damaged(EVIL, where=EVIL, fix=EVIL)])]


def buttons(html: str) -> list[tuple[str, dict[str, Any]]]:
    found = (attributes for tag, attributes in Page(html).elements if tag == "button" and "data-dag" in attributes)
    return [(str(one["data-dag"]), json.loads(str(one["data-conf"]))) for one in found]


@pytest.mark.parametrize(
    "html",
    [
        *pages(full()),
        render_models([], []),
        render_model(card(line(1, "candidate")), None),
        render_presets(PRESETS),
        render_message("No such model", "none of this name"),
        render_settings(SettingsComparison(model="org/name", target="openvino", rows=())),
    ],
    ids=["model", "models", "no models", "never live", "presets", "message", "settings"],
)
def test_a_page_is_whole_and_loads_only_its_own_scripts(html: str) -> None:
    parsed = Page(html)
    assert parsed.open == []
    scripts = [attributes["src"] for tag, attributes in parsed.elements if tag == "script"]
    assert scripts == ["/hf2triton/static/theme.js", "/hf2triton/static/pages.js"]
    assert parsed.tags("link", "img", "iframe", "object") == []
    assert not [name for _, attributes in parsed.elements for name in attributes if name.startswith("on")]
    assert "http-equiv" not in html, "the response has the policy"
    ids = [attributes["id"] for _, attributes in parsed.elements if "id" in attributes]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("html", pages(full()), ids=["model", "models"])
def test_nothing_that_others_wrote_becomes_markup(html: str) -> None:
    assert "<script>alert" not in html
    assert "<img" not in html
    assert EVIL in unescape(html)


def test_links_begin_where_airflow_serves_its_pages() -> None:
    html = render_models([full()], [], root="/airflow")
    links = [str(attributes["href"]) for tag, attributes in Page(html).elements if tag == "a"]
    assert links
    assert all(link.startswith("/airflow/hf2triton/") for link in links)


def test_buttons_carry_what_the_runs_need() -> None:
    one = full()
    found = buttons(render_models([one], []))
    assert one.live is not None
    assert found == [
        ("rollback_release", {"name": "model", "to": "1"}),
        ("release_awq_engine", one.live.release.request),
        ("retire_model", {"name": "model"}),
    ]


@pytest.mark.parametrize("html", pages(full()), ids=["model", "models"])
def test_the_dags_of_the_buttons_take_their_params(html: str) -> None:
    forms = {"rollback_release": RollbackRequest, "retire_model": RetireRequest}
    asked = [(dag, conf) for dag, conf in buttons(html) if dag in forms]
    assert {dag for dag, _ in asked} == set(forms)
    for dag, conf in asked:
        forms[dag].parse(conf)


def test_a_name_off_the_air_cannot_be_retired_and_says_who_did_it() -> None:
    retired = Retirement(at=WHEN, run="manual__9", by="jo")
    one = card(line(1, promotions=(Promotion(at=WHEN),), retirements=(retired,)), previous=1)
    html = render_models([one], [])
    assert [dag for dag, _ in buttons(html)] == ["rollback_release", "release_awq_engine"]
    text = Page(html).text
    assert "off the air" in text
    assert "by jo, manual__9" in text


def test_a_name_that_was_never_live_says_so() -> None:
    text = Page(render_models([card(line(1, "candidate"))], [])).text
    assert "never live" in text
    assert "No release of this name has been live." in text


def test_a_pruned_release_is_not_offered_for_a_rollback() -> None:
    one = card(line(2, "live"), line(1, pruned=True), previous=1)
    for html in pages(one):
        assert "rollback_release" not in [dag for dag, _ in buttons(html)]


def test_a_card_says_who_approved_the_release() -> None:
    answer = Answer(approved=True, by="7", name="Jo <b>", at=WHEN)
    asked = Approval(question="q", dag="d", run="r", content="c", promotions=0, answer=answer)
    html = render_models([card(line(1, "live", approvals=(asked,)))], [])
    assert "approved by Jo &lt;b&gt; at 2026-03-01 12:30" in html


def test_a_silent_model_is_marked() -> None:
    assert "live, does not answer" in Page(render_models([full(answers=False)], [])).text


def test_the_playground_asks_the_live_model_and_the_candidate() -> None:
    parsed = Page(render_model(full(), None))
    assert [a["data-to"] for _, a in parsed.elements if "data-to" in a] == ["live", "candidate-manual__7"]


def test_without_a_server_there_is_no_playground() -> None:
    html = render_model(card(line(1)), None)
    assert "Nothing of this name runs" in html
    assert 'id="playground"' not in html


def test_an_empty_store_leads_to_the_first_release() -> None:
    assert "No model has been released yet." in Page(render_models([], [])).text


def test_figures_that_were_not_measured_are_not_shown_as_zero() -> None:
    text = Page(render_models([card(line(1, "live"))], [])).text
    assert text.count("not measured") == 2


def test_a_trend_can_be_read_out() -> None:
    one = card(line(2, "live", report_=measured(11, 60)), line(1, report_=measured(12, 30)), previous=1)
    labels = [str(a["aria-label"]) for tag, a in Page(render_model(one, None)).elements if tag == "svg"]
    assert labels[0] == "Perplexity: release 1 12.0, release 2 11.0"


def test_the_scripts_make_no_markup_of_texts() -> None:
    risky = ("innerHTML", "outerHTML", "insertAdjacentHTML", "eval(", "document.write")
    assert list(STATIC.glob("*.js"))
    for path in STATIC.glob("*.js"):
        assert [word for word in risky if word in path.read_text()] == []


@pytest.mark.parametrize(
    ("span", "said"),
    [
        (timedelta(seconds=-5), "less than a minute"),
        (timedelta(seconds=20), "less than a minute"),
        (timedelta(minutes=59), "59 min"),
        (timedelta(minutes=61), "1 h 1 min"),
        (timedelta(days=12, hours=3, minutes=5), "12 d 3 h"),
    ],
    ids=str,
)
def test_the_time_since_a_promotion_is_told_in_two_units(span: timedelta, said: str) -> None:
    assert f"of {said}" in Page(render_models([card(line(1, "live"), now=WHEN + span)], [])).text


@pytest.mark.parametrize(
    ("down_s", "said"), [(0, "100 %"), (1, "99.99 %"), (86400, "90 %"), (432, "99.95 %"), (864000, "0 %")]
)
def test_an_uptime_is_never_rounded_up_to_the_whole(down_s: int, said: str) -> None:
    outage = Outage(since=WHEN, until=WHEN + timedelta(seconds=down_s), cause="c")
    assert f"Uptime {said} of" in Page(render_models([card(line(1, "live", outages=(outage,)))], [])).text


@pytest.mark.parametrize(
    ("asked", "title", "settings"),
    [
        ({"awq_group_size": 64}, "INT4 AWQ", {"awq_group_size"}),
        ({"quantization": "int4_awq", "awq_group_size": 64}, "INT4 AWQ", {"quantization", "awq_group_size"}),
        ({"quantization": "fp8", "awq_group_size": 64}, "FP8", {"quantization"}),
        ({"quantization": "to come"}, "to come", {"quantization"}),
    ],
    ids=["older than the field", "int4_awq", "fp8", "newer than this version"],
)
def test_pages_name_the_format_of_a_release(asked: dict[str, Any], title: str, settings: set[str]) -> None:
    request = {"model": "m", **asked}
    one = line(1, "live", request=request, promotions=(Promotion(at=WHEN),))
    models = render_models([card(one)], [])
    assert f"<dt>Format</dt><dd>{title}</dd>" in models
    shown = {name for name in ("quantization", "awq_group_size") if f'<th scope="row">{name}</th>' in models}
    assert shown == settings
    assert f"<dt>Format</dt><dd>{title}</dd>" in render_report(report(request=request))


def test_a_click_on_a_preset_releases_with_all_its_values() -> None:
    html = render_presets(PRESETS)
    assert buttons(html) == [("release_awq_engine", preset.conf) for preset in PRESETS]
    assert html.count("not run yet") == sum(not preset.runs for preset in PRESETS) > 0
