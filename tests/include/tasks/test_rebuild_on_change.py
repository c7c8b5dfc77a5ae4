"""A followed model is released anew if something has changed, once, and only if no run of it is on its way."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from include.context import Context
from include.errors import TransientError, UserError
from include.requests.catalogue import Entry
from include.requests.release import ReleaseRequest
from include.runners import job as stage_job
from include.settings import PROJECT, Settings
from include.tasks import rebuild_on_change
from include.tasks.read_catalogue import DueEntry
from include.tasks.rebuild import Trigger
from tests.support import tiny_files as tiny
from tests.support.hub_server import HubServer, Repo, running

MODEL = "org/tiny"
DATA = "calibration.txt"


@dataclass
class Scene:
    """An entry, the Hub that has its model, the worker that looks, and the runs that Airflow knows."""

    context: Context
    hub: HubServer
    home: Path
    entry: Entry
    runs: dict[str, str] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)

    def follow(self, **fields: Any) -> None:
        self.entry = Entry.model_validate({**self.entry.model_dump(), **fields})

    def set(self, **settings: Any) -> None:
        self.follow(settings={**self.entry.settings, **settings})

    def publish(self, version: str, name: str = MODEL) -> str:
        return self.hub.add(Repo(name, tiny.model(**{"generation_config.json": version.encode()}))).commit

    def ask(self, *, force: bool = False) -> Trigger | None:
        """A check that is cut off before it starts the run."""
        context = replace(self.context, run_state=self.runs.get, log=self.log.append)
        return rebuild_on_change.run(context, DueEntry(name=self.entry.name, entry=self.entry), {"force": force})

    def check(self, *, end: str = "success", **how: Any) -> Trigger | None:
        """A check, and the end of the run that it starts."""
        start = self.ask(**how)
        if start:
            assert start.run_id not in self.runs
            self.runs[start.run_id] = end
        return start


@pytest.fixture
def scene(context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    (tmp_path / DATA).write_text("one text")
    monkeypatch.setenv("HF2TRITON_RUNNER", "docker")
    with running() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        settings = {"calib_data": str(tmp_path / DATA)}
        entry = Entry(name="followed", model=MODEL, target="openvino", settings=settings)
        scene = Scene(replace(context, settings=Settings()), hub, tmp_path, entry)
        scene.publish("{}")
        yield scene


def test_a_new_entry_starts_a_run_of_the_commit_that_it_saw(scene: Scene) -> None:
    scene.set(max_batch_size=4)
    scene.follow(require_approval=True)
    start = scene.check()
    commit = scene.hub.repos["model", MODEL].commit
    request = ReleaseRequest.parse(start.conf)
    assert (request.model, request.revision, request.max_batch_size) == (MODEL, commit, 4)
    assert request.require_approval
    assert start.run_id.startswith("rebuild__followed__")
    assert start.why == f"followed: new: no run was started for this entry yet; {MODEL} is at {commit}"


@pytest.mark.parametrize("end", ["success", "failed"])
def test_what_was_asked_for_is_asked_for_once_however_it_ended(scene: Scene, end: str) -> None:
    start = scene.check(end=end)
    assert [scene.check(), scene.check()] == [None, None]
    assert scene.log[-1] == f"followed: unchanged since run {start.run_id} ({end})"


def change_the_stage_code(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = scene.home / "project"
    shutil.copytree(PROJECT / "include", copy / "include")
    (copy / "include" / "stages" / "quality.py").write_text("# changed")
    monkeypatch.setattr(stage_job, "PROJECT", copy)


def change_the_environment(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF2TRITON_RUNNER", "process")
    scene.context = replace(scene.context, settings=Settings())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        pytest.param(lambda s, _: s.publish('{"v": 2}'), "changed: commit: ", id="commit"),
        pytest.param(lambda s, _: s.set(max_batch_size=4), "changed: settings.max_batch_size: 8 -> 4;", id="setting"),
        pytest.param(lambda s, _: s.set(min_agreement=0.7), "settings.min_agreement: 0.65 -> 0.7;", id="gate"),
        pytest.param(lambda s, _: (s.home / DATA).write_text("other"), "calibration_data: ", id="calibration data"),
        pytest.param(change_the_environment, "environment.image: hf2triton/op", id="environment"),
        pytest.param(change_the_stage_code, "changed: code.build: ", id="stage code"),
    ],
)
def test_a_change_starts_one_run_and_is_said(
    scene: Scene, change: Callable[[Scene, pytest.MonkeyPatch], Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.check()
    change(scene, monkeypatch)
    start = scene.check()
    assert said in scene.log[-1]
    assert start.why in scene.log[-1]
    assert scene.check() is None


def test_a_commit_is_said_from_old_to_new(scene: Scene) -> None:
    old = scene.hub.repos["model", MODEL].commit
    scene.check()
    new = scene.publish('{"v": 2}')
    assert scene.check().why == f"followed: changed: commit: {old[:12]}... -> {new[:12]}..."


def test_the_content_of_a_directory_is_its_commit(scene: Scene, model: Path) -> None:
    scene.follow(model=str(model))
    assert scene.check().conf["model"] == str(model)
    assert scene.check() is None
    (model / "generation_config.json").write_text('{"eos_token_id": 1}')
    assert "changed: commit: " in scene.check().why


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda s: s.set(approvers=["ann"]), id="approvers"),
        pytest.param(lambda s: s.follow(require_approval=True), id="approval"),
        pytest.param(lambda s: s.set(swap="recreate"), id="swap"),
        pytest.param(lambda s: s.follow(schedule="@weekly"), id="schedule"),
        pytest.param(lambda s: s.publish("{}", name="org/other"), id="another model"),
    ],
)
def test_what_does_not_change_the_release_starts_nothing(scene: Scene, change: Callable[[Scene], Any]) -> None:
    scene.check()
    change(scene)
    assert scene.check() is None


def test_to_change_back_is_a_change(scene: Scene) -> None:
    started = []
    for size in (8, 4, 8, 4):
        scene.set(max_batch_size=size)
        started.append(scene.check().run_id)
    assert len(set(started)) == 4


@pytest.mark.parametrize("state", ["queued", "running"])
def test_while_a_run_of_the_model_is_on_its_way_none_is_started(scene: Scene, state: str) -> None:
    start = scene.check(end=state)
    scene.set(max_batch_size=4)
    assert [scene.check(), scene.check(force=True)] == [None, None]
    assert scene.log[-1] == (
        f"followed: busy: run {start.run_id} of {MODEL} is not over; looked at again when next due"
    )
    scene.runs[start.run_id] = "success"
    assert scene.check()


def test_a_renamed_entry_waits_for_the_run_of_its_old_name(scene: Scene) -> None:
    start = scene.check(end="running")
    scene.follow(name="renamed")
    assert scene.check() is None
    scene.runs[start.run_id] = "success"
    assert scene.check()


@pytest.mark.parametrize(("model", "starts"), [("org--tiny", False), ("org--tiny-2", True), ("other--tiny", True)])
def test_runs_that_people_start_count_too(scene: Scene, model: str, starts: bool) -> None:
    scene.runs["manual__1"] = "running"
    scene.context.pins.add("manual__1", "models", f"{model}@0123")
    assert bool(scene.check()) is starts


def test_pins_of_a_run_that_is_over_do_not_count(scene: Scene) -> None:
    scene.runs["manual__1"] = "failed"
    scene.context.pins.add("manual__1", "models", "org--tiny@0123")
    assert scene.check()


def test_a_check_that_was_cut_off_is_made_up_for(scene: Scene) -> None:
    scene.ask()
    assert scene.check()
    assert scene.check() is None


def test_a_run_that_was_deleted_is_not_started_again(scene: Scene) -> None:
    start = scene.check()
    assert scene.check() is None
    scene.runs.clear()
    assert scene.check() is None
    assert scene.log[-1] == f"followed: unchanged since run {start.run_id} (deleted)"


def test_a_person_can_force_a_run(scene: Scene) -> None:
    first = scene.check(end="failed")
    forced = scene.check(force=True)
    assert forced.run_id != first.run_id
    assert forced.why == "followed: forced"


def test_a_commit_that_is_not_allowed_waits_for_a_person(scene: Scene) -> None:
    scene.follow(only_commits=[scene.hub.repos["model", MODEL].commit])
    assert scene.check()
    new = scene.publish('{"v": 2}')
    assert [scene.check(), scene.check(force=True)] == [None, None]
    assert f"followed: held: main is at {new}, which only_commits does not name" in scene.log[-1]
    scene.follow(only_commits=[*scene.entry.only_commits, new])
    assert scene.check().conf["revision"] == new


def test_a_broken_entry_fails_with_what_is_wrong(scene: Scene) -> None:
    with pytest.raises(UserError, match="1.yaml:1: x: target: Field required"):
        rebuild_on_change.run(scene.context, DueEntry(name="x", problem="1.yaml:1: x: target: Field required"), {})


@pytest.mark.parametrize(
    ("break_it", "error"),
    [
        pytest.param(lambda s: s.hub.repos.clear(), UserError, id="the model is gone"),
        pytest.param(lambda s: s.hub.close(), TransientError, id="the Hub is away"),
        pytest.param(lambda s: (s.home / DATA).unlink(), UserError, id="the calibration file is gone"),
    ],
)
def test_what_cannot_be_looked_at_is_an_error_and_nothing_is_remembered(
    scene: Scene, break_it: Callable[[Scene], Any], error: type[Exception]
) -> None:
    break_it(scene)
    with pytest.raises(error):
        scene.check()
    assert not (scene.context.settings.artifacts / "catalogue").exists()
