"""Who answers at the live address, through promotions, rollbacks and whatever goes wrong in them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from include.errors import GateFailure, PipelineError, UserError
from include.live.proxy.envoy import ProxyRecord
from include.releases.records import Release
from include.requests.release import Swap
from tests.support.live import NAME, Deployment
from tests.support.wait import wait_for

RUN = "manual__1"


def break_repository(deployment: Deployment, release: Release, flaw: str) -> None:
    (deployment.settings.artifacts / "repositories" / release.repository / flaw).touch()


def test_the_candidate_is_the_server_that_goes_live(deployment: Deployment) -> None:
    release = deployment.release("un")
    candidate = deployment.candidate(release, RUN)
    deployment.live(RUN).promote(release, candidate=candidate)
    assert deployment.answer() == "un"
    assert deployment.serving() == ["release-org--name-1"]
    deployment.live(RUN).finish_run(NAME)
    assert deployment.answer() == "un"


def test_a_promotion_is_on_record(deployment: Deployment, first: Release) -> None:
    assert first.answer == "un"
    assert [promotion.downtime_s for promotion in first.promotions] == [0]
    assert deployment.releases.current(first.model) == deployment.releases.live() == first


def test_promoting_what_is_live_changes_nothing(deployment: Deployment, first: Release) -> None:
    before = deployment.log[:]
    assert deployment.live().promote(first) == first
    assert "is not signed" in deployment.log[len(before)]
    assert deployment.log[len(before) + 1 :] == [f"release {first.name} is live as {NAME} at {deployment.live().url}"]


@pytest.mark.slow
def test_promotions_and_rollbacks_lose_no_request(deployment: Deployment, first: Release) -> None:
    second = deployment.release("deux")
    candidate = deployment.candidate(second, RUN)
    with deployment.load(takes_s=2) as counts:
        deployment.live(RUN).promote(second, candidate=candidate)
        deployment.live(RUN).finish_run(NAME)
        deployment.live().promote(first)
        deployment.live().promote(second)
    assert set(counts) == {"un", "deux"}
    assert deployment.serving() == ["release-org--name-2"]


def test_promotions_at_once_take_turns(deployment: Deployment) -> None:
    said = ("un", "deux", "trois")
    releases = [deployment.release(one, model=f"org--{one}", served_name=NAME) for one in said]
    threads = [threading.Thread(target=deployment.live().promote, args=(release,)) for release in releases]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(deployment.states()) == ["live", "retired", "retired"]
    assert deployment.answer() == deployment.releases.live().answer
    assert len(deployment.serving()) == 1


@pytest.mark.parametrize("verdict", ["candidate", "rejected"])
def test_what_has_not_passed_cannot_go_live(deployment: Deployment, first: Release, verdict: str) -> None:
    second = deployment.releases.judge(deployment.release("deux"), verdict)
    with pytest.raises(UserError, match="cannot go live"):
        deployment.live().promote(second)
    assert deployment.answer() == "un"


def mute_after_the_launch(deployment: Deployment, second: Release) -> None:
    deployment.candidate(second, RUN)
    break_repository(deployment, second, "mute")


def change_the_answer(deployment: Deployment, second: Release) -> None:
    candidate = deployment.candidate(second, RUN)
    deployment.releases.record_proof(second, answer="dix", server=deployment.releases.live().server, by=RUN)
    assert candidate.exists()


def lose_the_server(deployment: Deployment, second: Release) -> None:
    break_repository(deployment, second, "broken")


@pytest.mark.parametrize("spoil", [mute_after_the_launch, change_the_answer, lose_the_server])
def test_a_release_that_fails_leaves_the_one_before_it_live(
    deployment: Deployment, first: Release, spoil: Callable[[Deployment, Release], None]
) -> None:
    second = deployment.release("deux")
    spoil(deployment, second)
    context = deployment.context(RUN)
    with deployment.load() as counts, pytest.raises((PipelineError, GateFailure)):
        deployment.live(RUN).promote(second, candidate=context.candidate_record)
    deployment.live(RUN).finish_run(NAME)
    assert set(counts) == {"un"}
    assert deployment.states() == ["live", "candidate"]
    assert deployment.serving() == ["release-org--name-1"]


def test_a_proxy_that_cannot_be_moved_leaves_the_release_before_live(
    deployment: Deployment, first: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = deployment.release("deux")
    live = deployment.live()
    moved = live._ask_through_proxy
    monkeypatch.setattr(live, "_ask_through_proxy", lambda name, expected: moved(name, "something else"))
    with pytest.raises(GateFailure):
        live.promote(second)
    assert deployment.answer() == "un"
    assert deployment.serving() == ["release-org--name-1"]


def test_a_first_promotion_that_fails_leaves_nothing_live(deployment: Deployment) -> None:
    release = deployment.release("un", "mute")
    with pytest.raises(PipelineError):
        deployment.live().promote(release)
    assert deployment.releases.live() is None
    assert deployment.serving() == []


def test_recreate_says_how_long_nobody_answered(deployment: Deployment, first: Release) -> None:
    second = deployment.release("deux")
    deployment.live().promote(second, swap="recreate")
    assert deployment.answer() == "deux"
    (promotion,) = deployment.releases.live().promotions
    assert 0 < promotion.downtime_s < 60
    assert any("had no server from" in line for line in deployment.log)


def test_recreate_in_a_run(deployment: Deployment, first: Release) -> None:
    second = deployment.release("deux")
    deployment.context(RUN).store.get("repositories", second.repository)
    deployment.live(RUN).suspend(NAME)
    assert deployment.answer() == "HTTP 503"
    assert deployment.live().check(NAME) == first, "what is away on purpose is not brought back"
    assert deployment.serving() == []
    candidate = deployment.candidate(second, RUN)
    promoted = deployment.live(RUN).promote(second, candidate=candidate)
    deployment.live(RUN).finish_run(NAME)
    assert promoted.promotions[0].downtime_s > 0
    assert deployment.live().suspended(NAME) is None
    assert deployment.answer() == "deux"


def test_recreate_lets_requests_in_flight_end_and_refuses_new_ones(deployment: Deployment, first: Release) -> None:
    """A server under mpirun ends its requests as soon as it is asked to end, and so does the stand-in."""
    deployment.context(RUN).store.get("repositories", first.repository)
    active = deployment.live()._proxy._admin.active
    with ThreadPoolExecutor(2) as pool:
        slow = pool.submit(deployment.answer, takes_s=5)
        wait_for(lambda: sum(active().values()), "the request to be in flight")
        away = pool.submit(deployment.live(RUN).suspend, NAME)
        wait_for(lambda: deployment.answer() == "HTTP 503", "new requests to be refused")
        assert slow.result() == "un"
        away.result()
    assert deployment.serving() == []


def test_recreate_that_fails_brings_the_old_one_back_with_the_run(deployment: Deployment, first: Release) -> None:
    second = deployment.release("deux", "broken")
    deployment.context(RUN).store.get("repositories", second.repository)
    deployment.live(RUN).suspend(NAME)
    with pytest.raises(PipelineError, match="no such engine"):
        deployment.candidate(second, RUN)
    deployment.live(RUN).finish_run(NAME)
    assert deployment.answer() == "un"


def test_a_rollback_that_stops_first_and_fails_brings_the_old_one_back(deployment: Deployment, first: Release) -> None:
    second = deployment.release("deux", "broken")
    with pytest.raises(PipelineError, match="no such engine"):
        deployment.live().promote(second, swap="recreate")
    assert deployment.answer() == "un"
    assert deployment.live().suspended(NAME) is None


def test_a_run_that_vanished_while_the_address_had_no_server(deployment: Deployment, first: Release) -> None:
    context = deployment.context(RUN)
    context.pins.add(RUN, "repositories", "x")
    deployment.live(RUN).suspend(NAME)
    context.pins.drop_stale(lambda run: run == RUN)
    deployment.live().check(NAME)
    assert deployment.answer() == "un"


def test_reconcile_stops_candidates_of_runs_that_are_over(deployment: Deployment, first: Release) -> None:
    second = deployment.release("deux")
    deployment.candidate(second, RUN)
    deployment.live().reconcile()
    assert len(deployment.serving()) == 2
    deployment.context().pins.drop(RUN)
    deployment.live().reconcile()
    assert deployment.serving() == ["release-org--name-1"]


def test_a_dead_live_server_is_started_again_from_its_own_release(deployment: Deployment, first: Release) -> None:
    deployment.kill_live_server()
    assert deployment.answer() == "HTTP 503"
    assert deployment.live().check(NAME) == first
    assert deployment.answer() == "un"


def test_a_live_server_that_answers_nonsense_is_started_again(deployment: Deployment, first: Release) -> None:
    repository = deployment.settings.artifacts / "repositories" / first.repository
    (repository / "mute").touch()
    with pytest.raises(PipelineError, match="no engine"):
        deployment.live().check(NAME)
    (repository / "mute").unlink()
    deployment.live().check(NAME)
    assert deployment.answer() == "un"


def test_a_check_of_a_good_release_changes_nothing(deployment: Deployment, first: Release) -> None:
    before = deployment.log[:]
    assert deployment.live().check(NAME) == first
    assert deployment.log == before


def test_without_a_live_release_there_is_nothing_to_check(deployment: Deployment) -> None:
    assert deployment.live().check(NAME) is None


def test_a_port_that_was_taken_meanwhile_is_not_waited_for(deployment: Deployment, first: Release) -> None:
    second = deployment.live().promote(deployment.release("deux"))
    moved = first.server.model_copy(update={"ports": second.server.ports})
    deployment.releases.record_proof(first, answer="un", server=moved, by=RUN)
    deployment.live().promote(first)
    assert deployment.answer() == "un"


OLD_RECORD = """{{
 "log": "{log}", "token": "{token}", "pid": {pid},
 "plan": {{
  "target": "stand-in", "repository": "{repository}", "argv": ["{argv[0]}"], "env": {{}},
  "ports": {{"http": {ports.http}, "grpc": {ports.grpc}, "metrics": {ports.metrics}}},
  "address": "127.0.0.1", "shared_memory": "", "container": null
 }},
 "container_id": "", "gpus": []
}}"""
OLD_RELEASE = """{{
 "model": "org--name", "number": 1, "schema_version": 2, "verdict": "accepted", "target": "stand-in",
 "repository": "{repository}", "chain": {{}}, "request": {{}}, "answer": "un", "promoted_by": null,
 "promotions": [{{"at": "2026-11-20T10:00:00Z", "downtime_s": 0}}], "created_at": "2026-11-20T09:00:00Z",
 "server": {{
  "target": "stand-in", "repository": "{plan.repository}", "env": {{}},
  "argv": ["{program}", "--http-address=0.0.0.0", "--grpc-address=0.0.0.0", "--http-port={plan.ports.http}"],
  "ports": {{"http": {plan.ports.http}, "grpc": {plan.ports.grpc}, "metrics": {plan.ports.metrics}}},
  "address": "0.0.0.0", "shared_memory": "", "container": null
 }}
}}"""
OLD_PROGRAM = """#!/bin/sh
echo "$@" > {said}
exec {argv}
"""
OLD_PROXY_RECORD = '{{"log": "{log}", "token": "{token}", "pid": {pid}, "digest": "{digest}"}}'


def test_servers_that_an_earlier_version_started_serve_on(deployment: Deployment, first: Release) -> None:
    directory = deployment.settings.artifacts / "servers"
    record, plan = deployment.live_server(), first.server
    proxy = ProxyRecord.model_validate_json((directory / "proxy.json").read_text())
    deployment.context().live_records[NAME].write_text(
        OLD_RECORD.format(**{**dict(record), "repository": plan.repository, "argv": plan.argv, "ports": plan.ports})
    )
    (directory / "proxy.json").write_text(OLD_PROXY_RECORD.format(**dict(proxy)))
    before = deployment.log[:]
    with deployment.load() as counts:
        assert deployment.live().reconcile() == [first]
    assert set(counts) == {"un"}
    assert deployment.live_server().pid == record.pid
    assert ProxyRecord.model_validate_json((directory / "proxy.json").read_text()).pid == proxy.pid
    assert deployment.log == before, "nothing was started or stopped"


@pytest.mark.parametrize("swap", ["blue_green", "recreate"])
def test_a_release_of_an_earlier_version_is_started_as_a_new_one(
    deployment: Deployment, first: Release, tmp_path: Path, swap: Swap
) -> None:
    program, said, plan = tmp_path / "tritonserver", tmp_path / "said", first.server
    program.write_text(OLD_PROGRAM.format(said=said, argv=" ".join(plan.argv)))
    program.chmod(0o755)
    deployment.live().promote(deployment.release("deux"))
    (deployment.releases.path(first) / "release.json").write_text(
        OLD_RELEASE.format(repository=first.repository, plan=plan, program=program)
    )
    deployment.live().promote(first, swap=swap)
    assert deployment.answer() == "un"
    words = said.read_text().split()
    assert [word for word in words if "address" in word] == [
        f"--{s}-address=127.0.0.1" for s in ("http", "grpc", "metrics")
    ]
    assert [word for word in words if word.startswith(("--http-restricted-api=", "--grpc-restricted-protocol="))]
    assert f"--http-port={plan.ports.http}" in words
    record = deployment.live_server()
    assert psutil.Process(record.pid).rlimit(psutil.RLIMIT_STACK)[0] == 512 << 20
    recorded = deployment.releases.live().server
    assert (record.plan.address, recorded.address) == ("127.0.0.1", "127.0.0.1")
    assert "hf2triton-key" not in recorded.model_dump_json()
