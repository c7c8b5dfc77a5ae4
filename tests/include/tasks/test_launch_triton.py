"""When a candidate is needed. What a launch does is in test_candidate_docker.py and in tests/serving."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from include import report
from include.context import Context
from include.live.address import LiveAddress
from include.releases.records import Release, ReleaseId
from include.targets.openvino import OpenVinoTarget
from include.tasks import ArtifactRef, Checked, check_request, launch_triton, validate_generate
from include.triton.servers import Ports, ServerPlan, ServerRecord
from tests.support.report import report as example

PARAMS = {"awq_group_size": 64, "calib_seq_len": 64, "max_input_len": 128, "max_seq_len": 256, "swap": "recreate"}


class StandIn(OpenVinoTarget):
    def server(self, repository: Path, ports: Ports) -> ServerPlan:
        return ServerPlan(target="openvino", repository=repository, argv=("triton",), env={}, ports=ports)


class Dry(Context):
    """Has a target without a server."""

    def target(self, name: str) -> StandIn:
        return StandIn(self.settings)


def launched(context: Context, plan: ServerPlan, record_path: Path, **_: object) -> ServerRecord:
    return ServerRecord(plan=plan, log=record_path)


@pytest.fixture
def dry(context: Context, monkeypatch: pytest.MonkeyPatch) -> Context:
    """Starts no server."""
    monkeypatch.setattr("include.live.launch.launch", launched)
    return Dry(settings=context.settings, log=context.log, dag_id=context.dag_id, run_id="manual__2")


@pytest.fixture
def checked(dry: Context, model: Path) -> Checked:
    return check_request.run(dry, {"model": str(model), **PARAMS})


def made(context: Context, kind: str, content: str = "") -> ArtifactRef:
    with context.store.claim(kind, {"is": content}, log=context.log) as claim:
        (claim.partial / "file").write_text(content)
        claim.commit()
        return ArtifactRef(kind=kind, name=claim.name, reused=True)


@pytest.fixture
def repository(dry: Context) -> ArtifactRef:
    return made(dry, "repositories")


@pytest.fixture
def live(dry: Context, checked: Checked, repository: ArtifactRef) -> Release:
    """The live release, as an earlier run of the same request has left it."""
    releases, request = dry.releases, checked.request
    chain = {"model": f"{checked.source.id}@{checked.source.commit}"}
    opened = releases.open(
        request.slug,
        target=request.target,
        repository=repository.name,
        chain=chain,
        request=request.model_dump(mode="json"),
    )
    report.write(releases.path(opened), example())
    releases.make_live(releases.judge(opened, "accepted"))
    return opened


def test_nothing_is_launched_for_a_request_whose_release_is_live(
    dry: Context, checked: Checked, repository: ArtifactRef, live: Release
) -> None:
    assert launch_triton.run(dry, checked, repository) is None
    suspended = LiveAddress(dry).suspended(checked.request.name)
    assert suspended is None, "the live server makes no room for a candidate that does not come"


def test_a_live_release_of_a_version_with_fewer_fields_is_proved_for_the_same_request(
    dry: Context, checked: Checked, repository: ArtifactRef, live: Release
) -> None:
    path = dry.releases.path(live) / "release.json"
    record = json.loads(path.read_text())
    for field in ("served_name", "aliases"):
        del record["request"][field]
    path.write_text(json.dumps(record))
    assert launch_triton.run(dry, checked, repository) is None


def no_report(context: Context, live: Release) -> None:
    (context.releases.path(live) / report.JSON_FILE).unlink()


def not_live(context: Context, live: Release) -> None:
    shutil.rmtree(context.releases.root.parent / "live")


@pytest.mark.parametrize("lacks", [no_report, not_live])
def test_what_is_not_proved_or_not_live_needs_a_candidate(
    dry: Context, checked: Checked, repository: ArtifactRef, live: Release, lacks: Callable[[Context, Release], None]
) -> None:
    lacks(dry, live)
    assert launch_triton.run(dry, checked, repository)


def test_other_limits_of_the_gates_need_a_candidate(
    dry: Context, checked: Checked, repository: ArtifactRef, live: Release
) -> None:
    stricter = checked.request.model_copy(update={"min_agreement": 0.9})
    assert launch_triton.run(dry, checked.model_copy(update={"request": stricter}), repository)


def test_another_repository_needs_a_candidate(dry: Context, checked: Checked, live: Release) -> None:
    assert launch_triton.run(dry, checked, made(dry, "repositories", "other"))


def test_without_a_candidate_the_release_is_the_one_that_is_live(
    dry: Context, checked: Checked, repository: ArtifactRef, live: Release
) -> None:
    known = report.read(dry.releases.path(live))
    refs = (made(dry, kind) for kind in ("checkpoints", "engines"))
    assert validate_generate.run(dry, checked, *refs, repository, None) == ReleaseId(model=live.model, number=1)
    assert known
    changed = known.model_copy(update={"runs": (*known.runs, "manual__2")})
    assert report.read(dry.releases.path(live)) == changed
