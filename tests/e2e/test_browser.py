"""The web UI as people use it, in Chromium: from the log-in to an approved release that answers.

The tests of this module tell one story and run in their order, on one page, in the deployment that modules share. What
it looked like after each step is in `SCREENSHOTS`.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import Browser, FrameLocator, Locator, Page, ViewportSize, expect

from hf2triton.form import OPEN_SECTION
from include.demo import run
from include.demo.airflow import DAG, USER, password, url_of
from include.releases.records import ReleaseStore
from include.requests.names import default_name
from include.requests.presets import PRESETS
from include.requests.release import slug_of
from include.settings import PROJECT
from tests.e2e.conftest import OWN, Deployment
from tests.support.chromium import chromium, log_in

pytestmark = pytest.mark.story

SCREENSHOTS = Path(os.environ.get("HF2TRITON_SCREENSHOTS", PROJECT / ".local" / "e2e" / "browser"))
MODEL = OWN / "browser"
SLUG = slug_of(str(MODEL))
NAME = default_name(str(MODEL))
QUESTION = rf"Release \d of {SLUG}: make it live as {NAME}\?"
VIEWPORT: ViewportSize = {"width": 1440, "height": 900}
STEP_MS = 60_000
RUN_MS = 1_800_000
DAGS = sorted(path.stem for path in (PROJECT / "dags").glob("*.py") if "dag_id=" in path.read_text())
# What its log says, besides what every task's says.
LOGS = {
    "check_request": [
        rf"model {MODEL}",
        "commit [0-9a-f]{12}: LlamaForCausalLM, 135 M parameters",
        "target openvino: int4 in groups of 64",
    ],
    "pull_model": [rf"(hit: |made )models/{SLUG}@[0-9a-f]{{12}} \("],
    "measure_original": [r"(hit: |made )originals/[0-9a-f]{12} \("],
    "calibrate_awq": [r"(hit: |made )checkpoints/[0-9a-f]{12} \("],
    "build_engine": [r"(hit: |made )engines/[0-9a-f]{12} \("],
    "assemble_repository": ["miss: ", r"made repositories/[0-9a-f]{12} \("],
    "launch_triton": [r"candidate answers on http://127\.0\.0\.1:\d+"],
    "validate_generate": [rf"release {SLUG}/\d: the gates ask", r"ACCEPT quality +perplexity", r"pass +agreement"],
    "approve_release": [QUESTION, "asked: everyone who may act on the run; no answer in 24 h is a no", "Approved"],
    "promote_release": [rf"release {SLUG}/\d is live as {NAME} at http://127\.0\.0\.1:\d+"],
    "stop_candidate": [rf"release {SLUG}/\d is live as {NAME} at http://127\.0\.0\.1:\d+"],
    "finish_run": ["promote_release: success"],
}


@dataclass
class Story:
    """The page on which all of it happens, and the run that it is about."""

    page: Page
    run: str = ""
    _steps: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def picture(self, name: str, page: Page | None = None) -> None:
        (page or self.page).screenshot(path=SCREENSHOTS / f"{next(self._steps):02}-{name}.png")

    @property
    def models(self) -> FrameLocator:
        """The page Models inside the web UI."""
        return self.page.frame_locator("iframe[title=Models]")

    def start(self, button: str, dag: str) -> None:
        """Presses a button of the model's page, waits for the end of its run, and looks anew."""
        self.models.get_by_role("button", name=button, exact=True).first.click()
        self.models.get_by_role("button", name="Start the run").click()
        outcome = self.models.locator(".outcome").first
        expect(outcome).to_contain_text(f"of {dag}: success", timeout=RUN_MS)
        self.open_model()

    def open_model(self) -> None:
        """Opens the page of the story's model; other modules may have left models that are live, too."""
        self.page.goto("plugin/hf2triton-models")
        self.models.get_by_role("link", name=NAME, exact=True).click()
        expect(self.models.get_by_role("heading", name="Try it")).to_be_visible()

    def open_form(self) -> Locator:
        return open_form(self.page)

    def open_task(self, task: str, tab: str = "") -> None:
        self.page.goto(f"dags/{DAG}/runs/{self.run}/tasks/{task}{tab}")


def open_form(page: Page) -> Locator:
    """Opens the form of a release."""
    page.goto(f"dags/{DAG}")
    page.get_by_test_id("trigger-dag-button").click()
    form = page.get_by_role("dialog")
    expect(form.get_by_role("button", name="Advanced Options")).to_be_visible()
    return form


def section(form: Locator, name: str) -> None:
    """Opens a section of the form; the one that was open closes."""
    form.get_by_role("button", name=name, exact=True).click()


def entry(form: Locator, name: str) -> Locator:
    return form.locator(f"[name=element_{name}]")


def trigger(form: Locator) -> Locator:
    return form.get_by_test_id("trigger-dag-submit")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as made:
        yield made


@pytest.fixture(scope="module")
def deployment(shared: Deployment) -> Deployment:
    return shared


@pytest.fixture(scope="module")
def story(deployment: Deployment, browser: Browser) -> Story:
    shutil.rmtree(SCREENSHOTS, ignore_errors=True)
    print(f"screenshots: {SCREENSHOTS}")
    expect.set_options(timeout=STEP_MS)
    context = browser.new_context(
        base_url=f"{url_of(deployment.settings)}/",
        viewport=VIEWPORT,
        permissions=["clipboard-read", "clipboard-write"],
    )
    context.set_default_timeout(STEP_MS)
    return Story(context.new_page())


def test_log_in(story: Story, deployment: Deployment) -> None:
    log_in(story.page, USER, password(deployment.settings))
    story.picture("logged-in")


@pytest.mark.parametrize("dag", DAGS)
def test_the_docs_of_a_dag_fit_their_panel(story: Story, dag: str) -> None:
    story.page.goto(f"dags/{dag}")
    story.page.get_by_role("button", name="Dag Docs").click()
    panel = story.page.get_by_role("dialog")
    tables = panel.get_by_role("table")
    expect(tables).to_have_count(2)
    expect(tables.last).to_contain_text("what to do")
    for table in tables.all():
        assert table.evaluate("t => t.scrollWidth") <= panel.evaluate("p => p.clientWidth")
    tables.last.scroll_into_view_if_needed()
    story.picture(f"docs-{dag}")


def test_a_preset_fills_the_form(story: Story) -> None:
    form = story.open_form()
    story.picture("form")
    with story.page.context.expect_page() as opened:
        form.get_by_role("link", name="presets").click()
    presets = opened.value
    preset = PRESETS[0]
    presets.get_by_text(f"{preset.name} as JSON").click()
    presets.locator("details[open] pre").click()
    presets.keyboard.press("ControlOrMeta+C")
    story.picture("presets", presets)
    presets.close()
    section(form, "Advanced Options")
    form.locator(".monaco-editor").last.click()
    story.page.keyboard.press("ControlOrMeta+A")
    story.page.keyboard.press("ControlOrMeta+V")
    section(form, OPEN_SECTION)
    for name, value in preset.changed.items():
        if isinstance(value, bool):
            expect(entry(form, name)).to_be_checked(checked=value)
        else:
            expect(entry(form, name)).to_have_value(str(value))
    story.picture("form-filled-by-preset")


def test_a_click_on_a_preset_starts_a_run_with_it(story: Story) -> None:
    story.page.goto("hf2triton/presets")
    story.page.get_by_role("button", name="Release", exact=True).last.click()
    params = story.page.get_by_label("Params")
    conf = json.loads(params.input_value())
    assert conf == PRESETS[-1].conf
    params.fill(json.dumps({**conf, "max_input_len": conf["max_seq_len"]}))  # so that its first task refuses it
    story.page.get_by_role("button", name="Start the run").click()
    expect(story.page.locator(".outcome").last).to_contain_text(f"of {DAG}: failed", timeout=RUN_MS)
    story.picture("preset-started")


def test_a_field_left_empty_is_marked(story: Story) -> None:
    form = story.open_form()
    section(form, "Engine")
    entry(form, "max_input_len").fill("")
    expect(form.get_by_text("This field is required")).to_be_visible()
    expect(trigger(form)).to_be_disabled()
    story.picture("form-field-empty")


def test_a_value_out_of_its_limits_is_refused_by_name(story: Story) -> None:
    form = story.open_form()
    entry(form, "model").fill("no model;")
    trigger(form).click()
    refusal = form.get_by_text("Invalid input for param model: 'no model;' is not of the form")
    expect(form.get_by_text("Failed validating")).to_have_count(0)
    expect(refusal).to_be_visible()
    refusal.scroll_into_view_if_needed()
    story.picture("form-value-refused")


def test_fields_that_contradict_each_other_fail_in_the_first_task(story: Story) -> None:
    form = story.open_form()
    section(form, "Engine")
    entry(form, "max_input_len").fill("2048")
    trigger(form).click()
    started(story, form)
    story.open_task("check_request")
    expect(story.page.get_by_text("Failed", exact=True)).to_be_visible()
    expect(story.page.get_by_text("max_input_len (2048) must be below max_seq_len (2048)").first).to_be_visible()
    expect(story.page.get_by_text("do: correct the field and trigger the DAG again").first).to_be_visible()
    story.picture("check-request-failed")


def test_a_run_waits_for_its_approval(story: Story) -> None:
    form = story.open_form()
    entry(form, "model").fill(str(MODEL))
    section(form, "Quantization")
    entry(form, "calib_seq_len").fill("64")
    section(form, "Engine")
    entry(form, "max_batch_size").fill("2")  # a repository that no other module has made
    section(form, "Gates")
    entry(form, "speed_concurrencies").fill("1\n2\n")
    entry(form, "min_speed_ratio").fill("0")  # not against another module's live server
    section(form, "Promotion")
    form.locator("label", has=story.page.locator("[name=element_require_approval]")).click()
    expect(entry(form, "require_approval")).to_be_checked()
    story.picture("form-filled")
    trigger(form).click()
    started(story, form)
    expect(story.page.get_by_text("Awaiting Input")).to_be_visible(timeout=RUN_MS)
    story.page.reload()
    in_grid_and_list = story.page.locator(f"a[href$='/runs/{story.run}/tasks/approve_release']")
    expect(in_grid_and_list.nth(1)).to_be_visible()
    expect(story.page.get_by_text("Required Actions")).to_be_visible()
    story.picture("awaiting-approval")


def started(story: Story, form: Locator) -> None:
    """Takes the id of the run that the form has started."""
    expect(form).to_have_count(0)
    story.page.wait_for_url("**/runs/**")
    story.run = story.page.url.split("/runs/")[1].split("/")[0]


def test_the_button_of_a_task_opens_the_report(story: Story) -> None:
    story.open_task("validate_generate", "/details")
    story.page.get_by_role("link", name="Release report").click()
    expect(story.page.get_by_text("Passed its gates")).to_be_visible()
    story.picture("report")


def test_a_person_approves(story: Story) -> None:
    story.page.goto(f"dags/{DAG}/runs/{story.run}")
    story.page.get_by_text("Required Actions").click()
    question = story.page.get_by_role("dialog")
    expect(question.get_by_text(re.compile(QUESTION))).to_be_visible()
    reject = question.get_by_role("button", name="Reject")
    reject.scroll_into_view_if_needed()
    expect(reject).to_be_in_viewport(ratio=0.9)
    story.picture("question")
    question.get_by_role("button", name="Approve").click()
    expect(story.page.get_by_text("Pending required actions (0)")).to_be_visible()


def test_the_release_is_live_and_answers(story: Story, deployment: Deployment) -> None:
    story.page.goto(f"dags/{DAG}/runs/{story.run}")
    expect(story.page.get_by_text("Success", exact=True)).to_have_count(1 + len(LOGS), timeout=3 * STEP_MS)
    story.picture("run-succeeded")
    story.page.goto("plugin/hf2triton-releases")
    page = story.page.frame_locator("iframe[title=Releases]")
    expect(page.locator(".badge.live").first).to_be_visible()  # other modules may have left theirs
    story.picture("releases")
    assert ReleaseStore(deployment.settings.artifacts / "releases").live(NAME).model == SLUG
    assert run.ask(f"http://127.0.0.1:{deployment.settings.live_http_port}/v2/models/{NAME}/generate")


def test_the_page_of_a_model_says_that_it_answers(story: Story) -> None:
    story.open_model()
    expect(story.models.get_by_role("heading", name=NAME).locator(".badge.live")).to_have_text("live, answers")
    expect(story.models.get_by_text(f"{USER}, {story.run}")).to_be_visible()
    story.picture("model")


def test_the_playground_answers(story: Story) -> None:
    story.models.get_by_label("Max tokens").fill("8")
    story.models.get_by_role("button", name="Ask").click()
    expect(story.models.get_by_text("First text after")).to_be_visible()
    expect(story.models.locator("[data-to=live] .answer")).not_to_be_empty()
    story.picture("model-asked")


def test_a_button_takes_the_model_off_the_air(story: Story) -> None:
    story.start("Retire", "retire_model")
    expect(story.models.get_by_text("No release of this name is live.")).to_be_visible()
    story.picture("model-retired")


def test_a_button_rolls_the_model_back(story: Story, deployment: Deployment) -> None:
    story.start("Roll back", "rollback_release")
    expect(story.models.get_by_role("heading", name=NAME).locator(".badge.live")).to_be_visible()
    story.picture("model-back")
    assert run.ask(f"http://127.0.0.1:{deployment.settings.live_http_port}/v2/models/{NAME}/generate")


def test_a_started_run_can_be_opened(story: Story) -> None:
    story.models.get_by_text("Promoted by").locator("..").get_by_role("link").click()
    story.page.wait_for_url("**/dags/rollback_release/runs/**")
    expect(story.page.get_by_role("link", name="Roll back to an earlier release").first).to_be_visible()


def test_the_pages_follow_the_dark_mode(story: Story) -> None:
    story.page.goto("plugin/hf2triton-models")
    page = story.models.locator("html")
    for theme in ("dark", "light"):
        story.page.evaluate("theme => localStorage.setItem('theme', theme)", theme)
        story.page.reload()
        expect(page).to_have_attribute("data-theme", theme)
        expect(page).to_have_css("color-scheme", theme)
        story.picture(f"models-{theme}")


def test_the_pages_fit_a_telephone(story: Story) -> None:
    story.page.set_viewport_size({"width": 420, "height": 900})
    run_page = f"runs/{DAG}/{story.run}"  # leads to its report
    for page in ("models", f"models/{NAME}", "releases", "presets", run_page, f"{run_page}/tasks"):
        story.page.goto(f"hf2triton/{page}")
        too_wide = "html => html.scrollWidth - html.clientWidth"
        assert story.page.locator("html").evaluate(too_wide) <= 0, page
    story.page.set_viewport_size(VIEWPORT)


@pytest.mark.parametrize("task", LOGS)
def test_the_log_of_a_task_says_what_it_did(story: Story, task: str) -> None:
    story.page.set_viewport_size({**VIEWPORT, "height": 1600})  # only lines in view are in the page
    story.open_task(task)
    log = story.page.get_by_test_id("virtualized-list")
    for line in LOGS[task]:
        expect(log).to_contain_text(re.compile(line))
    story.picture(f"log-{task}")
