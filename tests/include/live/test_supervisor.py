"""The supervisor brings back what died, leaves alone what was stopped, and records the outage."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import psutil
import pytest

from include.errors import PipelineError
from include.host.docker.engine import EngineAway
from include.host.services import ServiceRecord, read
from include.live.daemon import Daemon
from include.live.last_answer import LastAnswer
from include.live.locks import LiveLocks
from include.live.supervise import NAME, Supervision
from include.releases.records import Outage, Release
from include.settings import PROJECT
from include.tasks import announce_outages, check_live_release, retire_model
from include.triton import servers
from tests.support.live import MODEL, Deployment
from tests.support.live import NAME as SERVED
from tests.support.wait import wait_for

SERVER, PROXY, SUPERVISOR, API = "release-org--name-1", "proxy", "supervisor", "api"
LONG_SILENT_S = 11.0


def record_of(deployment: Deployment, name: str) -> ServiceRecord:
    return read(deployment.settings.artifacts / "servers" / f"{name}.json", ServiceRecord)


def kill(deployment: Deployment, name: str) -> int:
    """Kills a service as ``kill -9`` does; returns when it is gone, or a zombie."""
    process = psutil.Process(record_of(deployment, name).pid)
    process.kill()
    wait_for(lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE)
    return process.pid


def flaw_of(deployment: Deployment, flaw: str) -> Path:
    """A flaw of the live release, see `stand_in`; it lasts as long as the file is there."""
    path = deployment.settings.artifacts / "repositories" / deployment.releases.live().repository / flaw
    path.touch()
    return path


def outages(deployment: Deployment) -> tuple[Outage, ...]:
    return deployment.releases.live().outages


@pytest.fixture
def supervision(deployment: Deployment, first: Release) -> Supervision:
    return Supervision(deployment.context(NAME))


@contextmanager
def supervised(deployment: Deployment) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "tests.support.supervise", deployment.settings.model_dump_json()]
    with subprocess.Popen(command, cwd=PROJECT) as process:
        yield process
        process.kill()


def test_a_killed_server_and_a_killed_proxy_come_back_by_themselves(deployment: Deployment, first: Release) -> None:
    with supervised(deployment):
        for number, name in enumerate((SERVER, PROXY), 1):
            killed = kill(deployment, name)
            wait_for(lambda: [one.until is None for one in outages(deployment)] == [False] * number, f"{name} again")  # noqa: B023
            assert deployment.answer() == "un"
            assert record_of(deployment, name).pid != killed
    assert [outage.ended_by for outage in outages(deployment)] == [NAME, NAME]
    server, proxy = (outage.cause for outage in outages(deployment))
    assert server.startswith("the server ended: ")
    assert proxy.startswith("the proxy ended: ")
    assert deployment.serving() == [SERVER]


def test_a_release_that_answers_is_left_alone(deployment: Deployment, supervision: Supervision) -> None:
    before = deployment.log[:]
    supervision.step(SERVED, 0)
    assert deployment.log == before
    assert outages(deployment) == ()
    assert LastAnswer(deployment.settings, SERVED).at()


def test_without_a_live_release_there_is_nothing_to_do(deployment: Deployment) -> None:
    Supervision(deployment.context(NAME)).step(SERVED, 0)
    assert deployment.log == []


def test_what_another_process_is_changing_is_left_to_it(deployment: Deployment, supervision: Supervision) -> None:
    kill(deployment, SERVER)
    with LiveLocks(deployment.settings.artifacts / ".locks", print).of(SERVED):
        supervision.step(SERVED, 0)
        assert deployment.serving() == []
    supervision.step(SERVED, 1)
    assert deployment.answer() == "un"


def test_what_made_room_for_a_candidate_stays_away(deployment: Deployment, supervision: Supervision) -> None:
    deployment.context("run").pins.add("run", "repositories", "x")
    deployment.live("run").suspend(SERVED)
    supervision.step(SERVED, 0)
    assert deployment.serving() == []
    assert outages(deployment) == ()
    deployment.live("run").finish_run(SERVED)
    assert deployment.answer() == "un"
    assert outages(deployment) == ()


def test_what_was_stopped_stays_stopped_until_it_is_reconciled(
    deployment: Deployment, supervision: Supervision
) -> None:
    assert deployment.live().stop()[0] == PROXY
    supervision.step(SERVED, 0)
    assert deployment.serving() == []
    assert deployment.live().reconcile()
    assert deployment.answer() == "un"
    assert outages(deployment) == ()
    assert deployment.live().suspended(SERVED) is None


def test_a_candidate_after_a_stop_can_make_the_live_server_stay_away(deployment: Deployment, first: Release) -> None:
    deployment.live().stop()
    deployment.context("run").pins.add("run", "repositories", "x")
    deployment.live("run").suspend(SERVED)
    deployment.live().reconcile()
    assert deployment.serving() == []
    assert deployment.live().suspended(SERVED).run == "run"


def test_one_that_dies_at_each_start_leaves_its_cause_and_is_waited_for(
    deployment: Deployment, supervision: Supervision
) -> None:
    flaw = flaw_of(deployment, "broken")
    kill(deployment, SERVER)
    with pytest.raises(PipelineError, match="no such engine"):
        supervision.step(SERVED, 0)
    started = len(deployment.log)
    supervision.step(SERVED, 0)
    assert len(deployment.log) == started, "it waits before the next start"
    (outage,) = outages(deployment)
    assert outage.until is None
    flaw.unlink()
    supervision.step(SERVED, 1e6)
    (outage,) = outages(deployment)
    assert outage.ended_by == NAME
    assert outage.since < outage.until


def test_one_that_hangs_is_an_outage_that_the_check_ends(deployment: Deployment, supervision: Supervision) -> None:
    flaw = flaw_of(deployment, "unready")
    supervision.step(SERVED, 0)
    assert outages(deployment) == ()
    supervision.step(SERVED, LONG_SILENT_S)
    (outage,) = outages(deployment)
    assert "not ready" in outage.cause
    hung = record_of(deployment, SERVER).pid
    hasty = replace(deployment, settings=deployment.settings.model_copy(update={"launch_timeout_s": 2}))
    with pytest.raises(PipelineError, match="not ready within 2 s"):
        check_live_release.run(hasty.context("check"))
    assert not psutil.pid_exists(hung) or psutil.Process(hung).status() == psutil.STATUS_ZOMBIE
    flaw.unlink()
    check_live_release.run(deployment.context("check"))
    assert deployment.answer() == "un"
    (outage,) = outages(deployment)
    assert outage.ended_by == "check"


def test_one_that_answers_again_by_itself_ends_its_outage(deployment: Deployment, supervision: Supervision) -> None:
    flaw = flaw_of(deployment, "unready")
    for now in (0, LONG_SILENT_S):
        supervision.step(SERVED, now)
    flaw.unlink()
    supervision.step(SERVED, 30)
    (outage,) = outages(deployment)
    assert outage.ended_by == "itself"


def test_a_promotion_ends_the_outage_of_the_release_before(deployment: Deployment, first: Release) -> None:
    flaw_of(deployment, "broken")
    kill(deployment, SERVER)
    second = deployment.live("run").promote(deployment.release("deux"))
    (outage,) = deployment.releases.get(first.model, first.number).outages
    assert outage.ended_by == f"the promotion of release {second.name}"
    assert "no such engine" not in outage.cause, "the cause is the first one"


def test_each_outage_is_announced_when_it_began_and_when_it_ended(
    deployment: Deployment, supervision: Supervision
) -> None:
    flaw = flaw_of(deployment, "broken")
    kill(deployment, SERVER)
    with pytest.raises(PipelineError):
        supervision.step(SERVED, 0)
    context = deployment.context("announce")
    (began,) = announce_outages.run(context)
    assert (began.model, began.release, began.until) == (MODEL, 1, None)
    assert announce_outages.run(context) == []
    flaw.unlink()
    supervision.step(SERVED, 1e6)
    (ended,) = announce_outages.run(context)
    assert ended.since == began.since
    assert ended.until
    assert announce_outages.run(context) == []


def test_what_a_dead_server_has_left_running_and_in_memory_goes(deployment: Deployment, first: Release) -> None:
    record = deployment.live_server()
    child = subprocess.Popen(["sleep", "1000"], env={"HF2TRITON_PROCESS": record.token})
    try:
        kill(deployment, SERVER)
        assert deployment.live_server() is None
        assert child.wait(20) == -signal.SIGKILL
    finally:
        child.kill()


def test_a_promotion_starts_the_supervisor_and_the_check_starts_it_again(
    deployment: Deployment, first: Release
) -> None:
    whole = replace(deployment, settings=deployment.settings.model_copy(update={"start_supervisor": True}))
    whole.live().reconcile()
    seen = LastAnswer(whole.settings, SERVED)
    wait_for(seen.at, "the supervisor's first look")
    again = record_of(whole, SUPERVISOR).pid
    whole.live().reconcile()
    assert record_of(whole, SUPERVISOR).pid == again, "the same one goes on"
    killed = kill(whole, SUPERVISOR)
    check_live_release.run(whole.context("check"))
    process = psutil.Process(record_of(whole, SUPERVISOR).pid)
    assert process.pid != killed
    assert whole.live().stop()[0] == SUPERVISOR
    wait_for(lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE)
    left = sorted(path.name for path in (whole.settings.artifacts / "servers").glob("*.json"))
    assert left == ["models.json"]


def test_the_api_comes_with_a_promotion_and_back_by_itself(deployment: Deployment, first: Release) -> None:
    whole = replace(deployment, settings=deployment.settings.model_copy(update={"start_supervisor": True}))
    whole.live().reconcile()
    url = f"http://127.0.0.1:{whole.settings.live_http_port}/v1/models"
    wait_for(lambda: httpx.get(url).is_success, "the API")
    wait_for(LastAnswer(whole.settings, first.served_name).at, "the supervisor's first look")
    killed = kill(whole, API)
    assert httpx.get(url).status_code == 503
    assert whole.answer() == "un"
    wait_for(lambda: httpx.get(url).is_success, "the API again")
    assert record_of(whole, API).pid != killed
    assert outages(whole) == ()
    retire_model.run(whole.context(), {"name": SERVED})
    assert not Daemon.api(whole.context()).runs(), "nobody would bring it back"


def test_an_engine_that_is_away_is_the_cause_of_an_outage(
    deployment: Deployment, supervision: Supervision, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(record_path: Path) -> str:
        raise EngineAway("the Docker engine does not answer")

    kill(deployment, SERVER)
    with monkeypatch.context() as patch, pytest.raises(EngineAway):
        patch.setattr(servers, "obituary", away)
        supervision.step(SERVED, 0)
    supervision.step(SERVED, 1e6)
    (outage,) = outages(deployment)
    assert outage.cause == "the Docker engine does not answer"
    assert outage.ended_by == NAME
