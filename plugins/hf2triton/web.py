"""The pages that the API server serves to users who may see the DAG's runs: models, releases, reports and presets.

What changes something is no part of this app: the page Models starts DAG runs through Airflow's own REST API, in the
browser, so that Airflow itself decides what its user may do.
"""

from __future__ import annotations

import asyncio
import mimetypes
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlencode

from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
from airflow.api_fastapi.core_api.security import requires_access_dag
from fastapi import Depends, FastAPI, HTTPException, Query, Request, status
from fastapi import Path as PathParam
from fastapi.concurrency import run_in_threadpool
from fastapi.exception_handlers import http_exception_handler
from fastapi.responses import HTMLResponse, RedirectResponse, Response, StreamingResponse

from hf2triton import runs
from hf2triton.context import COMPARE_DAG, RELEASE_DAG
from hf2triton.links import root_path
from include import reading, report
from include.errors import PipelineError, UserError
from include.live.last_answer import LastAnswer
from include.live.playground import LIVE, Question, Server, answer, candidates, server_of
from include.live.proxy import proxy_of
from include.reading import Limit
from include.releases.ids import ReleaseId
from include.releases.records import ReleaseStore
from include.report.comparison import read_comparison
from include.report.models import chosen
from include.report.page import (
    STATIC,
    damage,
    render_message,
    render_model,
    render_models,
    render_presets,
    render_releases,
    render_run,
    render_settings,
)
from include.report.runs import Run
from include.report.served import Served, Snapshot
from include.requests.names import LONGEST
from include.requests.presets import PRESETS
from include.requests.release import ReleaseRequest
from include.settings import settings

# Pages contain text from models and users. All of it is escaped; a script in a page would still not run.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'self'; "
_HEADERS = {
    "Content-Security-Policy": f"{_POLICY}form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}
# Pages of the site run this project's scripts, from files.
_SITE_HEADERS = _HEADERS | {
    "Content-Security-Policy": f"{_POLICY}form-action 'self'; script-src 'self'; connect-src 'self'"
}

Model = Annotated[str, PathParam(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=200)]
Number = Annotated[int, PathParam(ge=1, lt=10**9)]
Name = Annotated[str, PathParam(max_length=LONGEST)]
Chosen = Annotated[str | None, Query(max_length=300)]
Script = Literal["theme.js", "pages.js"]
ReportFile = Literal["report.html", "report.json", "sbom.cdx.json"]

_MOST_QUESTIONS = 8
_asking = asyncio.Semaphore(_MOST_QUESTIONS)

app = FastAPI(
    title="hf2triton",
    dependencies=[Depends(requires_access_dag("GET", DagAccessEntity.RUN, RELEASE_DAG))],
    docs_url=None,
    redoc_url=None,
    openapi_url=None,
)


@app.exception_handler(HTTPException)
async def ask_to_log_in(request: Request, error: HTTPException) -> Response:
    """Sends a browser without a login to the login page; programs get the error."""
    browser = "text/html" in request.headers.get("accept", "")
    if browser and error.status_code == status.HTTP_401_UNAUTHORIZED:
        return RedirectResponse(f"{root_path()}/api/v2/auth/login?{urlencode({'next': str(request.url)})}")
    return await http_exception_handler(request, error)


@app.exception_handler(PipelineError)
async def say_what_is_wrong(request: Request, error: PipelineError) -> Response:
    """Tells what is wrong with the live address's settings, its keys or its certificate."""
    if "text/html" in request.headers.get("accept", ""):
        return _message("The live address cannot be used", str(error), status.HTTP_503_SERVICE_UNAVAILABLE)
    return await http_exception_handler(request, HTTPException(status.HTTP_503_SERVICE_UNAVAILABLE, str(error)))


@app.get("/models")
def models() -> HTMLResponse:
    """The served names: what is live, whether it answers, and what can be done."""
    served = _served()
    return _site(render_models(served.cards(), damage(served.releases), root_path()))


@app.get("/models/{name}")
def model(name: Name, before: Chosen = None, after: Chosen = None) -> HTMLResponse:
    """One served name, with its history; ``before`` and ``after`` choose the releases that stand side by side."""
    card = _served().card(name)
    if card is None:
        return _message("No such model", f"No release has the name {name}.", status.HTTP_404_NOT_FOUND)
    return _site(render_model(card, chosen(card, before, after), root_path()))


@app.post("/models/{name}/try")
async def ask_model(request: Request, name: Name, question: Question) -> Response:
    """The answer of a model of this name, as it comes; ``text/event-stream`` is what Airflow does not hold back."""
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        # A page of another site can send anything but this without the browser asking first.
        raise HTTPException(status.HTTP_415_UNSUPPORTED_MEDIA_TYPE, "the question must be application/json")
    server = await run_in_threadpool(_server_of, name, question.to)
    if server is None:
        raise HTTPException(status.HTTP_404_NOT_FOUND, f"nothing of {name} runs there any more; reload the page")
    if _asking.locked():
        raise HTTPException(status.HTTP_429_TOO_MANY_REQUESTS, "too many questions at once; try again in a moment")
    return StreamingResponse(_bounded(answer(server, question)), media_type="text/event-stream", headers=_HEADERS)


@app.get("/static/{name}")
def script(name: Script) -> Response:
    """A script of these pages."""
    return Response((STATIC / name).read_bytes(), headers=_HEADERS, media_type="text/javascript")


@app.get("/releases")
def releases() -> HTMLResponse:
    """All releases, newest first, with their states, reports and outages; those that are live are asked to answer."""
    served = _served()
    return _site(render_releases(served.releases, served.answers, root_path()))


@app.get("/presets")
def presets() -> HTMLResponse:
    """The presets, to be copied into the trigger form: Airflow 3.3 has no link that opens it filled in."""
    return _site(render_presets(PRESETS, root_path()))


@app.get("/presets.json")
def presets_data() -> list[dict[str, Any]]:
    """The presets for programs; ``conf`` is the body of a run's trigger."""
    return [{"name": p.name, "device": p.device, "licence": p.licence, "conf": p.conf} for p in PRESETS]


@app.get("/reports/{model}/{number}/{name}")
def release_report(model: Model, number: Number, name: ReportFile) -> Response:
    """The report of a release, as a page or as data, or its bill of materials; a link in its place is not followed."""
    release = ReleaseId(model=model, number=number)
    try:
        content = reading.read_bytes(ReleaseStore(_root()).path(release) / name, Limit.RECORD, follow=False)
    except OSError:
        raise HTTPException(status.HTTP_404_NOT_FOUND, f"release {release} has no {name}") from None
    return Response(content, headers=_HEADERS, media_type=mimetypes.guess_type(name)[0])


@app.get("/runs/{dag_id}/{run_id}")
def run_page(dag_id: str, run_id: str) -> Response:
    """Redirects to the report of a run, or shows its comparison; without both, or after another failure, the run."""
    if compared := _comparison(dag_id, run_id):
        return compared
    found, known = _report_of(dag_id, run_id), runs.find(dag_id, run_id)
    if known is None or (found and not known[0].failed_beside_its_gates):
        return _to_report(found, "../../reports")
    return _run_page(*known, has_report=found is not None)


@app.get("/runs/{dag_id}/{run_id}/tasks")
def run_tasks(dag_id: str, run_id: str) -> Response:
    """The page of a run, whether it has a report or not."""
    known = runs.find(dag_id, run_id)
    if known is None:
        return _to_report(None, "")
    return _run_page(*known, has_report=_report_of(dag_id, run_id) is not None)


def _run_page(run: Run, conf: dict[str, Any], *, has_report: bool) -> Response:
    paces = _paces(conf) if run.dag == RELEASE_DAG else {}
    return _site(render_run(run, paces, datetime.now(UTC), has_report=has_report, root=root_path()))


@app.get("/runs/{dag_id}/{run_id}/report")
def run_report(dag_id: str, run_id: str) -> Response:
    """The comparison of a run's settings, or a redirect to the report of the release that it was about."""
    return _comparison(dag_id, run_id) or _to_report(_report_of(dag_id, run_id), "../../../reports")


def _comparison(dag_id: str, run_id: str) -> Response | None:
    made = read_comparison(settings().artifacts, run_id) if dag_id == COMPARE_DAG else None
    return _site(render_settings(made, root_path())) if made else None


def _report_of(dag_id: str, run_id: str) -> Path | None:
    return report.find_by_run(_root(), run_id) if dag_id == RELEASE_DAG else _asked_about(dag_id, run_id)


def _to_report(found: Path | None, reports: str) -> Response:
    if found is None:
        text = "Airflow does not know this run, and no release report belongs to it."
        return _message("No report", text, status.HTTP_404_NOT_FOUND)
    return RedirectResponse(f"{reports}/{found.relative_to(_root())}/{report.HTML_FILE}")


def _paces(conf: dict[str, Any]) -> dict[str, report.Pace]:
    try:
        return report.paces(ReleaseStore(_root()), ReleaseRequest.parse(conf))
    except UserError:
        return {}


def _asked_about(dag_id: str, run_id: str) -> Path | None:
    releases = ReleaseStore(_root())
    asked = releases.asked_by(dag_id, run_id)
    return releases.path(asked) if asked else None


def _root() -> Path:
    return settings().artifacts / "releases"


def _served() -> Served:
    releases, proxy = Snapshot(_root(), settings().default_model), proxy_of(settings())
    return Served(releases, _answers, settings().public_url or proxy.url, candidates(settings(), releases), proxy.curl)


def _answers(name: str) -> bool:
    return LastAnswer(settings(), name).is_now()


def _server_of(name: str, to: str) -> Server | None:
    releases, proxy = Snapshot(_root()), proxy_of(settings())
    running = () if to == LIVE else candidates(settings(), releases)
    server = server_of(name, to, proxy.url, releases, running)
    return replace(server, options=proxy.client_options()) if server and to == LIVE else server


async def _bounded(events: AsyncGenerator[str]) -> AsyncGenerator[str]:
    async with _asking, aclosing(events):
        async for event in events:
            yield event


def _message(title: str, text: str, code: int) -> HTMLResponse:
    return _site(render_message(title, text, root_path()), code)


def _site(html: str, code: int = status.HTTP_200_OK) -> HTMLResponse:
    return HTMLResponse(html, code, _SITE_HEADERS)
