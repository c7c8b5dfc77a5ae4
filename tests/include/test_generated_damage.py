"""Generated damage of the store and of servers' records: no error but ours, nothing lost, nothing touched outside."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from include import report
from include.artifacts.kind import Kind
from include.artifacts.pins import run_slug
from include.context import Context, live_records
from include.errors import PipelineError
from include.host.services import ServiceRecord
from include.live.address import LiveAddress
from include.live.decide import Suspension
from include.live.proxy.config import Files, Model, Routing, Served, Upstream, listening, publish, published
from include.live.proxy.guard import Limits
from include.releases.records import RELEASE_FILE, ReleaseStore
from include.report.page import render_releases
from include.requests.catalogue import Entry
from include.settings import Settings
from include.tasks.rebuild import FollowState, LastRun
from include.triton import servers
from include.triton.servers import Ports, ServerPlan, ServerRecord
from tests.include.releases.test_prune import Scene
from tests.support import generated
from tests.support.report import full_report

MODEL, NAME, RUN, ENTRY = "org--name", "name", "manual__1", "followed"
PORTS = Ports(http=1, grpc=2, metrics=3)
PLAN = ServerPlan(target="t", repository=Path("/r"), argv=("x", "y"), env={}, ports=PORTS, shared_memory="hf2triton_1_")
SERVER = ServerRecord(plan=PLAN, log=Path("/nowhere/log"), token="0" * 32, pid=2**22)
FOLLOWED = Entry(name=ENTRY, model="org/name", target="openvino")
ENVOY = {"static_resources": {"listeners": [{"address": {"socket_address": {"port_value": 8000}}}]}}

Place = Callable[[Path], Path]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a live release, a previous one and one more, a run's pins, and all kinds of records."""
    scene = Scene(tmp_path_factory.mktemp("template") / "store")
    for number in range(3):
        release = scene.release(MODEL, str(number))
        report.write(scene.releases.path(release), full_report())
        if number < 2:
            scene.promote(release)
    scene.pins.add(RUN, Kind.ENGINE, scene.artifact("engines", id="pinned"))
    directory = scene.root / "servers"
    for name, record in RECORDS.items():
        path = PLACES[name](scene.root)
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(record))
    served = Served(upstream=Upstream(ports=PORTS), release="org--name/1")
    publish(Files(directory / "proxy"), Routing(models={"name": Model(served=served)}), Limits.of(Settings()))
    return scene.root


def engine(root: Path) -> Path:
    """The manifest of the live release's engine."""
    release = ReleaseStore(root / "releases").get(MODEL, 2)
    return root / "engines" / release.chain["engines"] / "manifest.json"


PLACES: dict[str, Place] = {
    "live release": lambda root: root / "releases" / MODEL / "2" / RELEASE_FILE,
    "other release": lambda root: root / "releases" / MODEL / "3" / RELEASE_FILE,
    "report": lambda root: root / "releases" / MODEL / "2" / "report.json",
    "manifest": engine,
    "pin": lambda root: root / "pins" / f"{run_slug(RUN)}.run",
    "server": lambda root: root / "servers" / f"release-{MODEL}-2.json",
    "candidate": lambda root: root / "servers" / "candidate-x.json",
    "suspension": lambda root: root / "servers" / "away" / f"{NAME}.json",
    "former suspension": lambda root: root / "servers" / "away.json",
    "routing": lambda root: root / "servers" / "proxy" / "config" / "routing" / "routing.json",
    "bootstrap": lambda root: root / "servers" / "proxy" / "config" / "bootstrap.json",
    "last run": lambda root: root / "catalogue" / f"{ENTRY}.json",
}
RECORDS: dict[str, dict[str, Any]] = {
    "server": SERVER.model_dump(mode="json"),
    "candidate": SERVER.model_dump(mode="json"),
    "suspension": Suspension.model_validate({"run": RUN, "since": "2026-11-28T12:00:00Z"}).model_dump(mode="json"),
    "former suspension": {"run": RUN, "since": "2026-11-28T12:00:00Z", "live_since": None},
    "bootstrap": ENVOY,
    "last run": LastRun(model=MODEL, inputs={"a": {"b": 1}}, run_id=RUN).model_dump(mode="json"),
}


@pytest.fixture
def root(template: Path, short_path: Path) -> Path:
    (short_path / "outside" / "1").mkdir(parents=True)
    (short_path / "outside" / "precious").write_text("text")
    return short_path / "store"


def tree(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


def use(context: Context) -> None:
    """What tasks and pages do with the store, one after the other; each may fail by an error of ours."""
    releases, store, live = context.releases, context.store, LiveAddress(context)
    proxy = Files(context.settings.artifacts / "servers" / "proxy")
    scene = Scene(context.settings.artifacts)
    actions: list[Callable[[], object]] = [
        lambda: [releases.state(r) for r in releases.every() if not releases.is_pruned(r)],
        lambda: [
            releases.live(),
            releases.current(MODEL),
            releases.previous(NAME),
            releases.default_name(),
            releases.name_of("org/name"),
        ],
        lambda: [releases.get(MODEL, number) for number in (2, 3)],
        lambda: releases.record_promotion(NAME),
        lambda: [store.all(kind) for kind in Kind],
        lambda: [store.get(kind, name) for r in releases.every() for kind, name in r.chain.items() if kind in [*Kind]],
        lambda: render_releases(ReleaseStore(releases.root), lambda name: True),
        lambda: report.find_by_run(releases.root, "unknown"),
        lambda: context.pins.drop_stale(lambda run: run != RUN),
        lambda: [servers.find(path) for path in sorted((store.root / "servers").glob("*-*.json"))],
        lambda: [live_records(store.root), live.suspended(NAME)],
        lambda: [published(proxy), listening(proxy)],
        lambda: FollowState(context).last(FOLLOWED),
        lambda: FollowState(context).busy(FOLLOWED),
        lambda: scene.prune(keep_last=0),
        lambda: releases.open(MODEL, target="t", repository="new", chain={}, request={}),
    ]
    for action in actions:
        with suppress(PipelineError):
            action()


@pytest.mark.parametrize("name", PLACES)
def test_generated_damage_of_one_record(name: str, template: Path, root: Path) -> None:
    """Each example: the whole store is used with the record damaged, and all other files are as they were."""
    original = PLACES[name](template)
    content = original.read_bytes()
    record = json.loads(content) if content.startswith(b"{") else {"run": RUN}

    @generated.bounded(25)
    @example(b"")
    @given(generated.damage(record))
    def check(damaged: bytes) -> None:
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(template, root, symlinks=True)
        PLACES[name](root).write_bytes(damaged)
        outside = tree(root.parent / "outside")
        kept = {path: text for path, text in tree(root / "releases").items() if path.endswith("report.json")}
        use(Context(settings=Settings(artifacts=root), log=len, dag_id="d", run_id="r"))
        assert tree(root.parent / "outside") == outside
        assert tree(root / "releases").items() >= kept.items()
        first = ReleaseStore(root / "releases").get(MODEL, 1)
        assert Scene(root).chain_is_whole(first), "the release before is kept with all that it needs"
        assert os.path.lexists(root / "engines")

    check()


@pytest.mark.parametrize("place", ["live/name", "releases/live"], ids=["of a name", "of an earlier version"])
@generated.bounded(100)
@given(st.text(max_size=40) | st.sampled_from([f"{MODEL}/1", f"{MODEL}/²", "../outside/1", "/", ".", "x" * 300]))
def test_generated_targets_of_the_live_link(tmp_path_factory: pytest.TempPathFactory, place: str, target: str) -> None:
    root = tmp_path_factory.mktemp("links") / "releases"
    releases = ReleaseStore(root)
    releases.open(MODEL, target="t", repository="r", chain={}, request={})
    link = root.parent / place
    link.parent.mkdir(exist_ok=True)
    above = "../releases/" if place.startswith("live") else ""
    try:
        link.symlink_to(above + target)
    except (OSError, ValueError):  # no link can have that target
        return
    live = releases.live()
    assert live is None or live.model == target.rpartition("/")[0]
    for name in releases.live_names():
        releases.record_promotion(name)
    assert {path.parent for path in live_records(root.parent).values()} <= {root.parent / "servers"}


@generated.bounded(100)
@given(generated.values())
def test_generated_fields_of_a_service(value: object) -> None:
    """A record that is accepted can be used: its process is looked for."""
    from include.host.services.process import process_of

    for field in ("pid", "token", "log", "container_id", "gpus"):
        try:
            record = ServiceRecord.model_validate({"log": "/log", field: value})
        except ValueError:
            continue
        assert process_of(record) is None or record.pid == 0
