"""A damaged file beside the live address: the live release answers on, and promotion, rollback and pruning go on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from include.artifacts.pins import run_slug
from include.errors import GateFailure, UserError
from include.files import Damaged, remove
from include.live.decide import Actual, Desired, Step, Suspension, decide
from include.releases.records import RELEASE_FILE, Release
from include.tasks import check_live_release, prune_artifacts, rollback_release
from include.triton import servers
from tests.support.damage import NOT_A_FILE, NOT_A_RECORD, Make
from tests.support.live import MODEL, NAME, Deployment

RUN = "manual__1"
Place = Callable[[Deployment, Release], Path]


def server(deployment: Deployment, live: Release) -> Path:
    return deployment.settings.artifacts / "servers" / f"release-{MODEL}-{live.number}.json"


def beside(name: str) -> Place:
    return lambda deployment, live: deployment.settings.artifacts / "servers" / name


def below(*names: str) -> Place:
    return lambda deployment, live: deployment.releases.root.joinpath(*names)


def live_links(*names: str) -> Place:
    return lambda deployment, live: deployment.settings.artifacts.joinpath("live", *names)


def record(deployment: Deployment, live: Release) -> Path:
    return deployment.releases.path(live) / RELEASE_FILE


def repository(deployment: Deployment, live: Release) -> Path:
    return deployment.settings.artifacts / "repositories" / live.repository / "manifest.json"


CASES: dict[str, tuple[Place, Make]] = {
    "live server's record, cut off": (server, NOT_A_RECORD["cut off"]),
    "live server's record, a directory": (server, NOT_A_FILE["full directory"]),
    "live server's record, a FIFO": (server, NOT_A_FILE["fifo"]),
    "proxy's record, empty": (beside("proxy.json"), NOT_A_RECORD["empty"]),
    "proxy's record, a link": (beside("proxy.json"), NOT_A_FILE["dangling link"]),
    "routing, deep": (beside("proxy/config/routing/routing.json"), NOT_A_RECORD["deep list"]),
    "suspension, other object": (beside("away/name.json"), NOT_A_RECORD["other object"]),
    "suspension, a directory": (beside("away/name.json"), NOT_A_FILE["directory"]),
    "an earlier version's suspension, other object": (beside("away.json"), NOT_A_RECORD["other object"]),
    "an earlier version's suspension, a directory": (beside("away.json"), NOT_A_FILE["full directory"]),
    "foreign server's record": (beside("release-other-9.json"), NOT_A_RECORD["wrong types"]),
    "foreign candidate's record": (beside("candidate-x.json"), NOT_A_FILE["socket"]),
    "live release's record, zeros": (record, NOT_A_RECORD["zeros"]),
    "live release's record, a directory": (record, NOT_A_FILE["directory"]),
    "live link, a loop": (live_links(NAME), NOT_A_FILE["loop"]),
    "live link, a directory": (live_links(NAME), NOT_A_FILE["full directory"]),
    "all live links, a FIFO": (live_links(), NOT_A_FILE["fifo"]),
    "foreign live link": (live_links("other"), NOT_A_FILE["dangling link"]),
    "current link": (below(MODEL, "current"), NOT_A_FILE["dangling link"]),
    "foreign release": (below(MODEL, "7"), NOT_A_FILE["full directory"]),
    "pin": (lambda deployment, live: deployment.settings.artifacts / "pins" / "x.run", NOT_A_FILE["device"]),
    "live repository's manifest": (repository, NOT_A_RECORD["text"]),
}


@pytest.mark.parametrize(("place", "damage"), CASES.values(), ids=CASES)
def test_one_damaged_file_costs_that_file_only(
    deployment: Deployment, first: Release, place: Place, damage: Make
) -> None:
    live = deployment.live().promote(deployment.release("deux"))
    pid = deployment.live_server().pid
    path = place(deployment, live)
    remove(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    damage(path)
    assert [one.release for one in check_live_release.run(deployment.context())] == [live.number]
    assert (deployment.answer(), servers.find(server(deployment, live)).pid) == ("deux", pid), "nobody was cut off"
    assert prune_artifacts.run(deployment.context(), {"dry_run": False, "keep_last": 0, "keep_days": 0}).removed == ()
    third = deployment.live().promote(deployment.release("trois"))
    assert deployment.answer() == "trois"
    assert rollback_release.run(deployment.context(), {"to": "1"}).release == first.number
    deployment.live(RUN).finish_run(NAME)
    assert deployment.answer() == "un"
    assert deployment.serving() == [server(deployment, first).stem]
    assert deployment.releases.previous(NAME).number == third.number


def test_the_record_of_a_dead_live_server_is_made_anew(deployment: Deployment, first: Release) -> None:
    record = deployment.live_server()
    servers.stop(record, server(deployment, first))
    NOT_A_RECORD["cut off"](server(deployment, first))
    assert deployment.live().reconcile() == [first]
    assert deployment.answer() == "un"


def test_a_live_release_without_its_record_is_not_started_but_another_is(
    deployment: Deployment, first: Release
) -> None:
    second = deployment.release("deux")
    deployment.kill_live_server()
    shutil.rmtree(deployment.releases.path(first))
    with pytest.raises(UserError, match="no release 1"):
        deployment.live().reconcile()
    deployment.live().promote(second)
    assert deployment.answer() == "deux"


def test_a_copy_of_the_live_servers_record_stops_nothing(deployment: Deployment, first: Release) -> None:
    copy = deployment.settings.artifacts / "servers" / "candidate-copy.json"
    shutil.copy(server(deployment, first), copy)
    pid = deployment.live_server().pid
    deployment.live().reconcile()
    assert deployment.live_server().pid == pid
    assert any("it is a copy of" in line for line in deployment.log)


def test_a_candidate_of_a_run_with_a_damaged_pin_goes_on(deployment: Deployment, first: Release) -> None:
    candidate = deployment.candidate(deployment.release("deux"), RUN)
    pin = deployment.settings.artifacts / "pins" / f"{run_slug(RUN)}.run"
    pin.unlink()
    NOT_A_RECORD["no UTF-8"](pin)
    deployment.live().reconcile()
    assert servers.find(candidate)


def test_a_promotion_that_fails_leaves_the_live_release_though_its_record_is_damaged(
    deployment: Deployment, first: Release
) -> None:
    other = deployment.release("deux")
    deployment.releases.record_proof(other, answer="dix", server=first.server, by="run")
    NOT_A_RECORD["empty"](deployment.releases.path(first) / RELEASE_FILE)
    with pytest.raises(GateFailure, match="'deux'"):
        deployment.live().promote(other)
    assert deployment.answer() == "un"


@pytest.mark.parametrize(
    "fields", [{"shared_memory": "../"}, {"shared_memory": "*"}, {"argv": []}, {"ports": {"http": 0}}]
)
def test_a_servers_record_cannot_reach_beyond_its_server(
    deployment: Deployment, first: Release, fields: dict[str, object]
) -> None:
    path = server(deployment, first)
    record = json.loads(path.read_text())
    record["plan"] |= fields
    path.write_text(json.dumps(record))
    named: list[Damaged] = []
    assert servers.find(path, named.append) is None
    assert len(named) == 1


def test_a_clock_that_was_set_back_does_not_hide_a_promotion() -> None:
    """The process was killed between the promotion and the end of the suspension."""
    old, new = "2026-11-28T12:00:00Z", "2026-11-28T11:00:00Z"
    note = Suspension.model_validate({"run": RUN, "since": "2026-11-28T13:00:00Z", "live_since": old})
    moved = Suspension.model_validate({"run": "", "since": new}).since
    desired = Desired(live=Path("a.json"), live_since=moved, suspension=note, runs=frozenset({RUN}))
    assert decide(desired, Actual())[0] is Step.END_SUSPENSION
    same = Desired(live=Path("a.json"), live_since=note.live_since, suspension=note, runs=frozenset({RUN}))
    assert Step.END_SUSPENSION not in decide(same, Actual())
