"""Releases are numbered once, their states follow from one link."""

from __future__ import annotations

import json
import multiprocessing
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from include.artifacts.store import ArtifactStore
from include.errors import UserError
from include.releases.ids import ReleaseId
from include.releases.live import LiveLinks
from include.releases.records import Release, ReleaseStore
from include.triton.servers import Ports, ServerPlan

MODEL, NAME = "org--name", "name"
OTHER = "org--other"
PLAN = ServerPlan(target="openvino", repository=Path("/r"), argv=("x",), env={}, ports=Ports(http=1, grpc=2, metrics=3))


@pytest.fixture
def releases(tmp_path: Path) -> ReleaseStore:
    return ReleaseStore(tmp_path / "releases")


def open_release(releases: ReleaseStore, repository: str, model: str = MODEL) -> Release:
    return releases.open(model, target="openvino", repository=repository, chain={}, request={})


def promote(releases: ReleaseStore, release: Release) -> Release:
    releases.make_live(release)
    live = releases.record_promotion(release.served_name)
    assert live is not None
    return live


def states(releases: ReleaseStore) -> dict[str, str]:
    return {r.name: releases.state(r) for r in releases.every()}


def test_numbers_count_up(releases: ReleaseStore) -> None:
    assert [open_release(releases, key).number for key in ("a", "b", "c")] == [1, 2, 3]


def test_the_same_repository_is_the_same_release(releases: ReleaseStore) -> None:
    first = open_release(releases, "a")
    assert open_release(releases, "a").number == first.number


def test_a_rejected_release_is_not_opened_again(releases: ReleaseStore) -> None:
    releases.judge(open_release(releases, "a"), "rejected")
    assert open_release(releases, "a").number == 2


@pytest.mark.parametrize("name", ["live", "index.json"])
def test_a_model_cannot_take_a_name_that_has_a_meaning(releases: ReleaseStore, name: str) -> None:
    with pytest.raises(UserError, match=name):
        open_release(releases, "a", name)


def test_a_number_that_is_not_there_is_refused_with_those_that_are(releases: ReleaseStore) -> None:
    open_release(releases, "a")
    with pytest.raises(UserError, match=f"no release 7 of {MODEL}; it has: 1"):
        releases.get(MODEL, 7)


def test_one_release_of_each_name_is_live(releases: ReleaseStore) -> None:
    first, second, other = open_release(releases, "a"), open_release(releases, "b"), open_release(releases, "o", OTHER)
    rejected, untried = open_release(releases, "c"), open_release(releases, "d")
    releases.judge(rejected, "rejected")
    for release in (first, other, second):
        promote(releases, release)
    assert states(releases) == {
        first.name: "retired",
        other.name: "live",
        second.name: "live",
        rejected.name: "rejected",
        untried.name: "candidate",
    }
    assert {name: release.id for name, release in releases.lives().items()} == {NAME: second.id, "other": other.id}
    assert (releases.live("other").id, releases.live("none")) == (other.id, None)
    assert releases.current(MODEL).number == second.number


def test_without_a_promotion_nothing_is_live(releases: ReleaseStore) -> None:
    open_release(releases, "a")
    assert (
        releases.live() is releases.current(MODEL) is releases.previous(NAME) is releases.record_promotion(NAME) is None
    )


def test_settling_again_changes_nothing(releases: ReleaseStore) -> None:
    first = promote(releases, open_release(releases, "a"))
    assert promote(releases, first) == first
    assert len(first.promotions) == 1


def test_a_promotion_that_was_cut_off_after_its_commit_point_is_settled_later(releases: ReleaseStore) -> None:
    first, second = promote(releases, open_release(releases, "a")), open_release(releases, "b")
    releases.make_live(second)
    assert states(releases) == {first.name: "retired", second.name: "live"}
    assert releases.record_promotion(NAME).verdict == "accepted"
    assert releases.current(MODEL).number == 2


def test_downtime_is_counted_until_the_promotion(releases: ReleaseStore) -> None:
    releases.make_live(open_release(releases, "a"))
    live = releases.record_promotion(NAME, suspended_since=datetime.now(UTC) - timedelta(seconds=100))
    assert live.promotions[0].downtime_s == pytest.approx(100, abs=5)
    assert releases.record_promotion(NAME, suspended_since=None) == live


def test_previous_is_the_one_promoted_last_that_is_not_live(releases: ReleaseStore) -> None:
    first, second, _ = (open_release(releases, key) for key in "abc")
    promote(releases, first)
    promote(releases, second)
    assert releases.previous(NAME).name == first.name
    promote(releases, first)
    assert releases.previous(NAME).name == second.name
    promote(releases, open_release(releases, "a", OTHER))
    assert releases.previous(NAME).name == second.name, "another name has a history of its own"


def test_a_release_that_has_been_live_stays_accepted(releases: ReleaseStore) -> None:
    first = promote(releases, open_release(releases, "a"))
    assert releases.judge(first, "rejected").verdict == "accepted"


def test_the_first_recorded_answer_stays(releases: ReleaseStore) -> None:
    first = open_release(releases, "a")
    releases.record_proof(first, answer="un", server=PLAN, by="run 1")
    releases.record_proof(first, answer="deux", server=PLAN, by="run 2")
    known = releases.get(MODEL, 1)
    assert (known.answer, known.server, known.promoted_by) == ("un", PLAN, "run 2")


def test_a_run_that_finds_its_release_live_has_not_promoted_it(releases: ReleaseStore) -> None:
    first = open_release(releases, "a")
    releases.record_proof(first, answer="un", server=PLAN, by="run 1")
    promote(releases, first)
    assert releases.record_proof(first, answer="un", server=PLAN, by="run 2").promoted_by == "run 1"


@pytest.mark.parametrize(
    ("state", "verdict", "promotions"),
    [("candidate", "candidate", 0), ("rejected", "rejected", 0), ("live", "accepted", 1), ("retired", "accepted", 1)],
)
def test_records_of_version_1_are_read(releases: ReleaseStore, state: str, verdict: str, promotions: int) -> None:
    path = releases.path(open_release(releases, "a")) / "release.json"
    fields = json.loads(path.read_text())
    for name in ("verdict", "promotions", "answer"):
        del fields[name]
    path.write_text(json.dumps(fields | {"schema_version": 1, "state": state, "changed_at": "2026-11-22T18:49:37Z"}))
    read = releases.get(MODEL, 1)
    assert (read.verdict, len(read.promotions), read.schema_version) == (verdict, promotions, 2)


def test_a_stored_request_has_the_swap_by_its_name_of_today(releases: ReleaseStore) -> None:
    request = {"model": MODEL, "swap": "stop_first"}
    releases.open(MODEL, target="openvino", repository="a", chain={}, request=request)
    assert releases.get(MODEL, 1).request == {"model": MODEL, "swap": "recreate"}


def test_a_release_without_its_repository_is_pruned(releases: ReleaseStore, tmp_path: Path) -> None:
    with ArtifactStore(tmp_path).claim("repositories", {}, log=print) as claim:
        claim.commit()
    assert releases.is_pruned(open_release(releases, "a"))
    assert not releases.is_pruned(open_release(releases, claim.name))


def test_an_id_is_read_as_it_is_printed(releases: ReleaseStore) -> None:
    release = open_release(releases, "a")
    assert str(release.id) == release.name == f"{MODEL}/1"
    assert ReleaseId.parse(release.name) == release.id
    assert releases.path(release.id) == releases.path(release)


def test_the_index_of_an_earlier_version_is_no_model(releases: ReleaseStore) -> None:
    release = open_release(releases, "a")
    (releases.root / "index.json").write_text('{"live": null}')
    assert (releases.models(), releases.every()) == ([MODEL], [release])


def test_the_live_link_can_be_read_at_every_moment_of_a_move(releases: ReleaseStore) -> None:
    pair = [open_release(releases, key) for key in ("a", "b")]
    releases.make_live(pair[0])
    seen: set[int] = set()
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            seen.add(releases.live().number)

    reader = threading.Thread(target=read)
    reader.start()
    for turn in range(50):
        releases.make_live(pair[turn % 2])
    done.set()
    reader.join()
    assert seen <= {1, 2}
    assert seen


def _open(root: Path, key: str) -> None:
    open_release(ReleaseStore(root), key)


def test_runs_that_open_at_once_get_numbers_of_their_own(releases: ReleaseStore) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_open, args=(releases.root, str(n))) for n in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [r.number for r in releases.all(MODEL)] == [1, 2, 3, 4]
    assert {r.repository for r in releases.all(MODEL)} == {"0", "1", "2", "3"}


def test_an_outage_begins_once_and_ends_once(releases: ReleaseStore) -> None:
    release = promote(releases, open_release(releases, "a"))
    for cause in ("killed", "killed again"):
        releases.begin_outage(release, cause)
    lasting = releases.live()
    for run in ("supervisor", "check"):
        releases.end_outage(lasting, run)
    (outage,) = releases.live().outages
    assert (outage.cause, outage.ended_by) == ("killed", "supervisor")
    assert outage.since <= outage.until
    assert releases.live().outage is None


def test_only_the_last_outages_are_kept(releases: ReleaseStore) -> None:
    release = promote(releases, open_release(releases, "a"))
    for number in range(60):
        releases.begin_outage(release, str(number))
        releases.end_outage(releases.live(), "itself")
    assert [outage.cause for outage in releases.live().outages] == [str(number) for number in range(10, 60)]


def test_an_outage_is_announced_when_it_began_and_when_it_ended(releases: ReleaseStore) -> None:
    release = promote(releases, open_release(releases, "a"))
    assert releases.announce_outages() == []
    releases.begin_outage(release, "killed")
    assert [outage.until for _, outage in releases.announce_outages()] == [None]
    assert releases.announce_outages() == []
    releases.end_outage(releases.live(), "itself")
    assert [outage.until is None for _, outage in releases.announce_outages()] == [False]
    assert releases.announce_outages() == []


def test_a_promotion_ends_the_outage_of_the_release_that_it_replaces_and_of_no_other(releases: ReleaseStore) -> None:
    first, other = promote(releases, open_release(releases, "a")), promote(releases, open_release(releases, "o", OTHER))
    releases.begin_outage(first, "killed")
    releases.begin_outage(other, "killed")
    second = promote(
        releases,
        releases.open("org--third", target="t", repository="b", chain={}, request={"served_name": NAME}),
    )
    assert releases.live("other").outage
    (outage,) = releases.get(first.model, first.number).outages
    assert outage.ended_by == f"the promotion of release {second.name}"


def test_the_same_repository_under_another_name_is_another_release(releases: ReleaseStore) -> None:
    def opened(**request: object) -> Release:
        return releases.open(MODEL, target="t", repository="a", chain={}, request=request)

    numbers = [opened().number, opened(served_name="chat").number, opened(aliases=["x"]).number, opened().number]
    assert numbers == [1, 2, 3, 1]
    assert opened(served_name="chat").served_name == "chat"
    assert [release.number for release in releases.of_name(NAME)] == [1, 3]


def test_the_default_is_the_name_that_was_promoted_first_or_the_settings(releases: ReleaseStore) -> None:
    assert releases.default_name() is None
    for model in ("org--b", "org--a", "org--c"):
        promote(releases, open_release(releases, "r", model))
    promote(releases, open_release(releases, "r2", "org--b"))
    assert releases.default_name() == "b"
    assert ReleaseStore(releases.root, default="c").default_name() == "c"
    assert ReleaseStore(releases.root, default="none").live().served_name == "b"
    releases.retire("b", run="r", by="")
    assert (releases.default_name(), releases.live_names()) == ("a", ["a", "c"])
    releases.make_live(open_release(releases, "r", "org--new"))
    assert releases.default_name() == "a", "its promotion is not on record yet"


def test_a_retirement_that_was_cut_off_is_recorded_once(
    releases: ReleaseStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = promote(releases, open_release(releases, "a"))
    with monkeypatch.context() as patch:
        patch.setattr(LiveLinks, "remove", lambda links, name: None)
        releases.retire(NAME, run="run 1", by="ann")
    assert releases.state(first) == "live"
    releases.retire(NAME, run="run 2", by="bob")
    promote(releases, first)
    releases.retire(NAME, run="run 3", by="")
    assert [one.run for one in releases.get(MODEL, 1).retirements] == ["run 2", "run 3"]
    releases.retire(NAME, run="run 4", by="")
    assert len(releases.get(MODEL, 1).retirements) == 2, "nothing was live"


@pytest.mark.parametrize(
    ("name", "aliases", "model", "given", "taken"),
    [
        ("chat", (), MODEL, True, ""),
        (NAME, (), MODEL, False, ""),
        (NAME, (), "org--third", False, NAME),
        (NAME, (), "org--third", True, ""),
        ("x", (), "org--third", False, "x"),
        ("chat", (NAME,), "org--third", True, NAME),
        ("chat", ("other",), "org--third", True, "other"),
        ("other", ("x",), OTHER, False, ""),
    ],
)
def test_a_name_is_one_models(
    releases: ReleaseStore, name: str, aliases: tuple[str, ...], model: str, given: bool, taken: str
) -> None:
    promote(releases, open_release(releases, "a"))
    promote(releases, releases.open(OTHER, target="t", repository="o", chain={}, request={"aliases": ["x"]}))
    if not taken:
        releases.check_names(name, aliases, model, given=given)
        return
    with pytest.raises(UserError, match=rf"^{taken}\b"):
        releases.check_names(name, aliases, model, given=given)
