"""The pages in Airflow's web UI: for users who are logged in, of what is in the store, and of nothing else."""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from hf2triton import web
from hf2triton.form import request_params
from include import report
from include.errors import HostError
from include.host.ports import free_ports
from include.live.last_answer import LastAnswer
from include.live.proxy import Proxy
from include.releases.approval import Approval
from include.releases.records import Release, ReleaseStore
from include.report.page import STATIC
from include.report.runs import Run, Task
from include.requests.presets import PRESETS
from include.settings import settings
from tests.support.report import report as example
from tests.support.web import Handler, serving

PAGES = [
    "/models",
    "/models/model",
    "/static/pages.js",
    "/presets",
    "/presets.json",
    "/releases",
    "/reports/org--model/1/report.html",
    "/reports/org--model/1/report.json",
    "/runs/release_awq_engine/manual__1",
]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (port,) = free_ports(1)
    monkeypatch.setenv("HF2TRITON_ARTIFACTS", str(tmp_path))
    monkeypatch.setenv("HF2TRITON_LIVE_HTTP_PORT", str(port))
    settings.cache_clear()
    yield tmp_path / "releases"
    settings.cache_clear()


@pytest.fixture
def release(root: Path) -> Release:
    releases = ReleaseStore(root)
    made = releases.open("org--model", target="openvino", repository="r", chain={}, request={})
    report.write(releases.path(made), example())
    (releases.path(made) / report.SBOM_FILE).write_text("{}")
    return made


@pytest.fixture
def visitor(release: Release) -> TestClient:
    """Someone who is not logged in, at the address that Airflow mounts the pages at."""
    airflow = FastAPI()
    airflow.mount("/hf2triton", web.app)
    return TestClient(airflow, base_url="http://airflow", follow_redirects=False)


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[Run, dict[str, Any]]]:
    """The runs that Airflow's database has, by id."""
    there: dict[str, tuple[Run, dict[str, Any]]] = {}
    monkeypatch.setattr(web.runs, "find", lambda dag, run: there.get(run))
    return there


@pytest.fixture
def user(visitor: TestClient, known: object, monkeypatch: pytest.MonkeyPatch) -> TestClient:
    """Someone who may see the runs of the DAG."""
    (permission,) = (dependency.dependency for dependency in web.app.router.dependencies)
    monkeypatch.setitem(web.app.dependency_overrides, permission, lambda: None)
    return visitor


@pytest.mark.parametrize("page", PAGES)
def test_a_program_without_a_login_is_refused(visitor: TestClient, page: str) -> None:
    assert visitor.get(f"/hf2triton{page}").status_code == 401


@pytest.mark.parametrize("page", PAGES)
def test_a_browser_without_a_login_is_sent_to_the_login_page(visitor: TestClient, page: str) -> None:
    answer = visitor.get(f"/hf2triton{page}", headers={"Accept": "text/html"})
    assert answer.status_code == 307
    assert answer.headers["Location"].endswith(f"/auth/login?next={quote(f'http://airflow/hf2triton{page}', safe='')}")


@pytest.mark.parametrize("name", ["report.html", "report.json", "sbom.cdx.json"])
def test_a_report_is_served_as_it_stands_in_the_store(
    user: TestClient, root: Path, release: Release, name: str
) -> None:
    answer = user.get(f"/hf2triton/reports/org--model/1/{name}")
    assert answer.content == (root / release.name / name).read_bytes()


SITE = ["/models", "/models/model", "/models/none", "/presets", "/releases", "/runs/release_awq_engine/none"]


@pytest.mark.parametrize("page", [*SITE, "/reports/org--model/1/report.html"])
def test_no_page_may_be_framed_by_others_or_run_scripts_but_those_of_the_site(user: TestClient, page: str) -> None:
    policy = user.get(f"/hf2triton{page}").headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'self'" in policy
    assert "unsafe-eval" not in policy
    assert ("script-src 'self'" in policy) == (page in SITE)


@pytest.mark.parametrize("script", ["theme.js", "pages.js"])
def test_the_scripts_of_the_pages_are_served(user: TestClient, script: str) -> None:
    answer = user.get(f"/hf2triton/static/{script}")
    assert answer.headers["Content-Type"].startswith("text/javascript")
    assert answer.content == (STATIC / script).read_bytes()


@pytest.mark.parametrize("script", ["other.js", "..%2fpage.py", "../page.py"])
def test_no_other_file_is_served_as_a_script(user: TestClient, script: str) -> None:
    assert user.get(f"/hf2triton/static/{script}").status_code in {404, 422}


@pytest.mark.parametrize(
    "path",
    [
        "reports/org--model/2/report.html",
        "reports/org--model/0/report.html",
        "reports/org--model/current/report.html",
        "reports/org--model/1/release.json",
        "reports/../releases/org--model/1/report.html",
        "reports/%2e%2e/1/report.html",
        "reports/..%2f..%2fsecret/1/report.html",
        "reports/.hidden/1/report.html",
        "reports/org--model/..%2f1/report.html",
        "reports/org--model%0a/1/report.html",
    ],
)
def test_nothing_but_reports_is_served(user: TestClient, root: Path, path: str) -> None:
    for elsewhere in (root / "1", root.parent / "1", root / ".hidden" / "1", root.parent / "secret" / "1"):
        report.write(elsewhere, example())
    assert user.get(f"/hf2triton/{path}").status_code in {404, 422}


def test_a_run_leads_to_the_report_of_its_release(user: TestClient) -> None:
    answer = user.get("/hf2triton/runs/release_awq_engine/manual__1", follow_redirects=True)
    assert answer.url.path == "/hf2triton/reports/org--model/1/report.html"
    assert answer.status_code == 200


def a_run(state: str, **tasks: Task) -> Run:
    began = datetime(2026, 3, 1, 12, tzinfo=UTC)
    return Run("release_awq_engine", "manual__9", state, "name int4 g64", began, None, tasks)


def test_a_run_that_works_shows_its_tasks_and_how_far_they_are(
    user: TestClient, known: dict[str, tuple[Run, dict[str, Any]]]
) -> None:
    working = Task("calibrate_awq", "running", datetime.now(UTC), progress="search: layer 3 of 30 (10.0 %), about 40 s")
    known["manual__9"] = a_run("running", calibrate_awq=working), {"model": "org/model"}
    answer = user.get("/hf2triton/runs/release_awq_engine/manual__9")
    assert answer.status_code == 200
    for text in ("name int4 g64", "search: layer 3 of 30", "promote_release", 'http-equiv="refresh"'):
        assert text in answer.text


@pytest.mark.parametrize(("run", "links"), [("manual__1", True), ("manual__9", False)], ids=["judged", "not judged"])
def test_a_run_that_failed_beside_its_gates_shows_the_error(
    user: TestClient, known: dict[str, tuple[Run, dict[str, Any]]], run: str, links: bool
) -> None:
    failed = Task("promote_release", "failed", error="port 8000 is taken <by> another program\n  do: free it")
    known[run] = replace(a_run("failed", promote_release=failed), id=run), {}
    page = user.get(f"/hf2triton/runs/release_awq_engine/{run}").text
    assert "port 8000 is taken &lt;by&gt; another program" in page
    assert "refresh" not in page
    assert (f"runs/release_awq_engine/{run}/report" in page) == links


def test_a_run_whose_gates_failed_leads_to_its_report(
    user: TestClient, known: dict[str, tuple[Run, dict[str, Any]]]
) -> None:
    known["manual__1"] = a_run("failed", validate_generate=Task("validate_generate", "failed", error="gate")), {}
    answer = user.get("/hf2triton/runs/release_awq_engine/manual__1")
    assert answer.headers["Location"].endswith("/reports/org--model/1/report.html")


def test_the_tasks_of_a_run_can_be_seen_after_its_gates_too(
    user: TestClient, known: dict[str, tuple[Run, dict[str, Any]]]
) -> None:
    done = Task("validate_generate", "success", seconds=70.0)
    known["manual__1"] = replace(a_run("success", validate_generate=done), id="manual__1"), {}
    page = user.get("/hf2triton/runs/release_awq_engine/manual__1/tasks").text
    assert "1 min 10 s" in page
    assert "runs/release_awq_engine/manual__1/report" in page
    assert user.get("/hf2triton/runs/release_awq_engine/none/tasks").status_code == 404


def test_the_report_of_a_run_has_an_address_of_its_own(user: TestClient) -> None:
    answer = user.get("/hf2triton/runs/release_awq_engine/manual__1/report", follow_redirects=True)
    assert answer.url.path == "/hf2triton/reports/org--model/1/report.html"


@pytest.mark.parametrize("run", ["release_awq_engine/manual__2", "prune_artifacts/manual__1"])
def test_a_run_without_a_report_says_so(user: TestClient, run: str) -> None:
    answer = user.get(f"/hf2triton/runs/{run}")
    assert answer.status_code == 404
    assert "No report" in answer.text


def test_the_list_has_every_release_newest_first(user: TestClient, root: Path, release: Release) -> None:
    releases = ReleaseStore(root)
    second = releases.open("org--model", target="openvino", repository="other", chain={}, request={})
    releases.judge(second, "rejected")
    page = user.get("/hf2triton/releases").text
    assert page.index("<strong>2</strong>") < page.index(">rejected<") < page.index("<strong>1</strong>")
    assert 'href="/hf2triton/reports/org--model/1/report.html"' in page
    assert 'href="/hf2triton/reports/org--model/2/report.html"' not in page


def test_the_live_release_is_asked_whether_it_answers(user: TestClient, root: Path, release: Release) -> None:
    releases = ReleaseStore(root)
    releases.make_live(release)
    assert "live, does not answer" in user.get("/hf2triton/releases").text
    (root.parent / "servers").mkdir()
    LastAnswer(settings(), "model").record()
    assert ">live, answers<" in user.get("/hf2triton/releases").text, "it answered the supervisor a moment ago"
    os.utime(root.parent / "servers" / "answers" / "model", (0, 0))
    assert "live, does not answer" in user.get("/hf2triton/releases").text
    with serving(Ready, settings().live_http_port):
        assert ">live, answers<" in user.get("/hf2triton/releases").text


class Ready(Handler):
    """Listens at the live address, and is ready."""

    def do_GET(self) -> None:
        self.reply(status=200 if self.path == "/v2/models/model/ready" else 404)


def test_outages_are_listed_with_their_cause_and_end(user: TestClient, root: Path, release: Release) -> None:
    releases = ReleaseStore(root)
    assert "Outages" not in user.get("/hf2triton/releases").text
    releases.make_live(release)
    releases.begin_outage(release, "the server ended: it was killed\n<script>")
    assert ">lasts<" in user.get("/hf2triton/releases").text
    releases.end_outage(releases.live(), "supervisor")
    page = user.get("/hf2triton/releases").text
    assert "<summary>the server ended: it was killed</summary>" in page
    assert ">supervisor<" in page
    assert ">lasts<" not in page
    assert "<script>" not in page
    assert "<script>" not in user.get("/hf2triton/models/model").text


def test_a_store_without_releases_has_a_list(user: TestClient, root: Path, release: Release) -> None:
    root.rename(root.with_name("away"))
    assert "no release yet" in user.get("/hf2triton/releases").text
    assert "No model has been released yet" in user.get("/hf2triton/models").text


def test_every_preset_can_be_copied_from_its_page(user: TestClient) -> None:
    page = user.get("/hf2triton/presets").text
    shown = [json.loads(unescape(conf)) for conf in re.findall(r'<pre class="answer">(.*?)</pre>', page, re.DOTALL)]
    assert shown == [preset.conf for preset in PRESETS]


def test_programs_get_the_presets_by_name(user: TestClient) -> None:
    by_name = {preset["name"]: preset["conf"] for preset in user.get("/hf2triton/presets.json").json()}
    assert by_name == {preset.name: preset.conf for preset in PRESETS}


def test_the_form_links_to_the_presets(user: TestClient) -> None:
    description = request_params()["model"].schema["description_md"]
    (link,) = re.findall(r"\[presets\]\((.*?)\)", description)
    assert user.get(f"/{link}").is_success


def test_a_damaged_file_is_named_and_the_others_are_listed(user: TestClient, root: Path, release: Release) -> None:
    releases = ReleaseStore(root)
    second = releases.open("org--model", target="openvino", repository="other", chain={}, request={})
    (releases.path(second) / "release.json").write_text('<b>"no record"</b>')
    (releases.path(release) / "report.json").write_text("[" * 100_000)
    engine = root.parent / "engines" / "key"
    engine.mkdir(parents=True)
    os.mkfifo(engine / "manifest.json")
    page = user.get("/hf2triton/releases").text
    assert "<strong>1</strong>" in page
    damage = page[page.index("Damaged files") :]
    for path in (
        releases.path(second) / "release.json",
        releases.path(release) / "report.json",
        engine / "manifest.json",
    ):
        assert damage.count(str(path)) == 1
    assert "Damaged files" not in user.get("/hf2triton/presets").text


@pytest.mark.parametrize("name", ["report.html", "report.json"])
def test_a_report_that_leads_elsewhere_is_not_shown(
    user: TestClient, root: Path, release: Release, tmp_path: Path, name: str
) -> None:
    path = ReleaseStore(root).path(release) / name
    path.unlink()
    (tmp_path / "secret").write_text("secret")
    path.symlink_to(tmp_path / "secret")
    assert user.get(f"/hf2triton/reports/org--model/1/{name}").status_code == 404
    path.unlink()
    os.mkfifo(path)
    assert user.get(f"/hf2triton/reports/org--model/1/{name}").status_code == 404


def test_a_rollback_that_asks_leads_to_the_report_of_the_release_it_asks_about(
    user: TestClient, root: Path, release: Release
) -> None:
    asked = Approval(question="q", dag="rollback_release", run="manual__7", content="c", promotions=0)
    ReleaseStore(root).record_question(release, asked)
    answer = user.get("/hf2triton/runs/rollback_release/manual__7", follow_redirects=True)
    assert answer.url.path == "/hf2triton/reports/org--model/1/report.html"
    assert answer.is_success


def test_a_served_name_has_a_page_of_its_own(user: TestClient, root: Path, release: Release) -> None:
    ReleaseStore(root).make_live(release)
    assert 'href="/hf2triton/models/model"' in user.get("/hf2triton/models").text
    page = user.get("/hf2triton/models/model").text
    assert "live, does not answer" in page
    assert 'data-to="live"' in page


@pytest.mark.parametrize(
    ("name", "status"),
    [("none", 404), ("ensemble", 404), ("%3Cscript%3E", 404), ("a%0a", 404), ("..%2fmodel", 404), ("a" * 64, 422)],
)
def test_a_name_that_no_release_has_is_not_found(user: TestClient, name: str, status: int) -> None:
    answer = user.get(f"/hf2triton/models/{name}")
    assert answer.status_code == status
    assert "html" not in answer.headers["Content-Type"] or "<script>" not in answer.text


def test_releases_to_compare_are_chosen_in_the_address(user: TestClient, root: Path, release: Release) -> None:
    for number in (2, 3):
        ReleaseStore(root).open(
            "org--model", target="openvino", repository=f"{number}", chain={}, request={"dtype": number}
        )
    page = user.get("/hf2triton/models/model?before=org--model/2&after=org--model/3").text
    assert '<td data-label="release 2"><code>2</code></td><td data-label="release 3"><code>3</code></td>' in page
    assert user.get("/hf2triton/models/model?before=%3Cscript%3E&after=..").is_success


def test_a_question_reaches_the_live_model_and_its_answer_comes_as_events(
    user: TestClient, root: Path, release: Release
) -> None:
    ReleaseStore(root).make_live(release)
    with serving(Storyteller, settings().live_http_port):
        answer = user.post("/hf2triton/models/model/try", json={"prompt": "tell me"})
    assert answer.headers["Content-Type"].startswith("text/event-stream")
    assert answer.text == 'data: {"text": "/v2/models/model/generate: tell me"}\n\n'


class Storyteller(Handler):
    """Answers with what it was asked, and where."""

    def do_POST(self) -> None:
        self.reply({"text_output": f"{self.path}: {json.loads(self.body())['text_input']}"})


@pytest.mark.parametrize(
    "question",
    [
        {},
        {"prompt": ""},
        {"prompt": "a" * 8001},
        {"prompt": "a", "max_tokens": 0},
        {"prompt": "a", "max_tokens": 1025},
        {"prompt": "a", "temperature": -1},
        {"prompt": "a", "url": "http://elsewhere"},
    ],
    ids=str,
)
def test_a_question_out_of_its_bounds_is_refused(user: TestClient, question: dict[str, object]) -> None:
    assert user.post("/hf2triton/models/model/try", json=question).status_code == 422


def test_a_question_without_a_login_is_refused(visitor: TestClient) -> None:
    assert visitor.post("/hf2triton/models/model/try", json={"prompt": "a"}).status_code == 401


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_a_question_that_a_page_of_another_site_could_send_is_refused(user: TestClient, kind: str) -> None:
    answer = user.post("/hf2triton/models/model/try", content='{"prompt": "a"}', headers={"Content-Type": kind})
    assert answer.status_code in {415, 422}


def test_a_question_to_what_does_not_run_says_so(user: TestClient) -> None:
    for to in ("live", "candidate-manual__1", "../x"):
        answer = user.post("/hf2triton/models/model/try", json={"prompt": "a", "to": to})
        assert answer.status_code == 404
        assert "nothing of model runs there any more" in answer.json()["detail"]


def test_more_questions_at_once_than_allowed_wait_for_another_time(
    user: TestClient, root: Path, release: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    ReleaseStore(root).make_live(release)
    monkeypatch.setattr(web, "_asking", asyncio.Semaphore(0))
    assert user.post("/hf2triton/models/model/try", json={"prompt": "a"}).status_code == 429


def test_a_live_address_that_cannot_be_asked_is_told(
    user: TestClient, root: Path, release: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    ReleaseStore(root).make_live(release)

    def fail(proxy: Proxy) -> dict[str, object]:
        raise HostError("the file with the keys cannot be read", fix="make it readable")

    monkeypatch.setattr(Proxy, "client_options", fail)
    answer = user.post("/hf2triton/models/model/try", json={"prompt": "a"})
    assert answer.status_code == 503
    assert "the file with the keys cannot be read" in answer.json()["detail"]


@pytest.mark.parametrize("page", ["/models", "/models/model", "/releases"])
def test_settings_of_the_live_address_that_cannot_be_used_are_told(
    user: TestClient, page: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF2TRITON_TLS_KEY_FILE", "/key.pem")
    settings.cache_clear()
    answer = user.get(f"/hf2triton{page}", headers={"accept": "text/html"})
    assert (answer.status_code, "TLS needs a certificate" in answer.text) == (503, True)
    assert "TLS needs a certificate" in user.get(f"/hf2triton{page}").json()["detail"]


def test_the_command_that_asks_a_model_names_what_the_address_wants(
    user: TestClient, root: Path, release: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    ReleaseStore(root).make_live(release)
    for name in ("API_KEYS_FILE", "TLS_CERTIFICATE_FILE", "TLS_KEY_FILE"):
        monkeypatch.setenv(f"HF2TRITON_{name}", f"/{name.lower()}")
    settings.cache_clear()
    page = unescape(user.get("/hf2triton/models/model").text)
    assert page.count("curl -s --cacert /tls_certificate_file -H 'Authorization: Bearer <key>' https://127.0.0.1:") == 2
