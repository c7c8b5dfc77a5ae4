"""The pages that the API server serves: presets, releases and their reports, to users who may see the DAG's runs."""

from __future__ import annotations

import mimetypes
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlencode

from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
from airflow.api_fastapi.core_api.security import requires_access_dag
from fastapi import Depends, FastAPI, HTTPException, Request, status
from fastapi import Path as PathParam
from fastapi.exception_handlers import http_exception_handler
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from hf2triton.context import RELEASE_DAG
from hf2triton.links import root_path
from include import reading, report
from include.live.last_answer import LastAnswer
from include.reading import Limit
from include.releases.ids import ReleaseId
from include.releases.records import ReleaseStore
from include.report.page import render_message, render_presets, render_releases
from include.requests.presets import PRESETS
from include.settings import settings

# Reports contain text from models and users. All of it is escaped; a script in a page would still not run.
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'self'",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}

Model = Annotated[str, PathParam(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=200)]
Number = Annotated[int, PathParam(ge=1, lt=10**9)]
ReportFile = Literal["report.html", "report.json", "sbom.cdx.json"]

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


@app.get("/releases")
def releases() -> HTMLResponse:
    """All releases, newest first, with their states, reports and outages; the live ones are asked if they answer."""

    def answers(name: str) -> bool:
        return LastAnswer(settings(), name).is_now()

    return HTMLResponse(render_releases(ReleaseStore(_root()), answers), headers=_HEADERS)


@app.get("/presets")
def presets() -> HTMLResponse:
    """The presets, to be copied into the trigger form: Airflow 3.3 has no link that opens it filled in."""
    return HTMLResponse(render_presets(PRESETS), headers=_HEADERS)


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
def run_report(dag_id: str, run_id: str) -> Response:
    """Redirects to the report of the release that a run has validated last, or asked about."""
    found = report.find_by_run(_root(), run_id) if dag_id == RELEASE_DAG else _asked_about(dag_id, run_id)
    if found is None:
        text = "No release report belongs to this run: it has not come as far as its gates, or it makes no release."
        return HTMLResponse(render_message("No report", text), status.HTTP_404_NOT_FOUND, _HEADERS)
    return RedirectResponse(f"../../reports/{found.relative_to(_root())}/{report.HTML_FILE}")


def _asked_about(dag_id: str, run_id: str) -> Path | None:
    releases = ReleaseStore(_root())
    asked = releases.asked_by(dag_id, run_id)
    return releases.path(asked) if asked else None


def _root() -> Path:
    return settings().artifacts / "releases"
