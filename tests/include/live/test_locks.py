"""Who waits for whom at the live address: a name for itself, and nobody for a server of another name that hangs."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from include.errors import UserError
from include.files import try_lock
from include.live.locks import LiveLocks
from include.live.supervise import NAME as SUPERVISOR
from include.live.supervise import Supervision
from include.releases.records import Release
from include.settings import PROJECT
from include.tasks import check_live_release, prune_artifacts, retire_model, rollback_release, stop_candidate
from include.triton import servers
from tests.support.live import HERE, NAME, Deployment
from tests.support.wait import wait_for

OTHER = "org--other"
PATIENT_S = 600.0


@pytest.fixture
def patient(deployment: Deployment) -> Deployment:
    """The deployment whose servers may take long to load."""
    return replace(deployment, settings=deployment.settings.model_copy(update={"launch_timeout_s": PATIENT_S}))


def runs(deployment: Deployment, release: Release) -> bool:
    """True if the release's server runs; asked so that one that is just being started is left alone."""
    return servers.look(servers.release_record(deployment.settings.artifacts, release.name)) is not None


@contextmanager
def promoting_one_that_hangs(deployment: Deployment, name: str) -> Iterator[Future[Release]]:
    """Within the block a promotion waits for the server of a new release of that name, and after it goes on."""
    release = deployment.release(f"{name} at last", "unready", model=f"org--{name}", served_name=name)
    flaw = deployment.settings.artifacts / "repositories" / release.repository / "unready"
    with ThreadPoolExecutor() as pool:
        promotion = pool.submit(deployment.live("hanging").promote, release)
        try:
            wait_for(lambda: promotion.done() or runs(deployment, release), "the server that hangs")
            yield promotion
        finally:
            flaw.unlink()
        promotion.result()


@pytest.mark.parametrize("hanging", ["new", NAME])
def test_a_server_that_hangs_while_it_loads_keeps_no_other_name_waiting(
    patient: Deployment, first: Release, hanging: str
) -> None:
    other = patient.live().promote(patient.release("autre", model=OTHER))
    second = patient.release("autre 2", model=OTHER)
    candidate = patient.candidate(second, "run")
    with promoting_one_that_hangs(patient, hanging) as promotion:
        patient.live("run").promote(second, candidate=candidate)
        stop_candidate.run(patient.context("run"), {"model": "org/other"})
        assert patient.answer("other") == "autre 2"
        rollback_release.run(patient.context("rollback"), {"name": "other"})
        assert patient.answer("other") == "autre"
        patient.kill_live_server("other")
        supervision = Supervision(patient.context(SUPERVISOR))
        for name in ("other", hanging):
            supervision.step(name, 0)
        assert patient.answer("other") == "autre"
        assert patient.live().check("other").id == other.id
        patient.live().tidy()
        retire_model.run(patient.context("retire"), {"name": "other"})
        assert patient.answer("other") == "HTTP 404"
        assert patient.answer(NAME) == "un"
        assert not promotion.done()
    assert patient.answer(hanging) == f"{hanging} at last"
    assert [one.name for one in check_live_release.run(patient.context("check"))] == sorted({NAME, hanging})
    assert len(patient.serving()) == len({NAME, hanging})
    assert [release.outages for release in patient.releases.lives().values()] == [()] * len({NAME, hanging})


def test_the_supervisor_looks_at_others_while_one_hangs(patient: Deployment, first: Release) -> None:
    """As a program: both servers are killed, and that of the name that comes first does not get ready."""
    patient.live().promote(patient.release("autre", model=OTHER))
    flaw = patient.settings.artifacts / "repositories" / first.repository / "unready"
    flaw.touch()
    for name in (NAME, "other"):
        patient.kill_live_server(name)
    argv = [sys.executable, HERE / "supervise.py", patient.settings.model_dump_json()]
    supervisor = subprocess.Popen(argv, env={**os.environ, "PYTHONPATH": str(PROJECT)})
    try:
        wait_for(lambda: patient.answer("other") == "autre", "the other model")
        wait_for(lambda: runs(patient, first), "the server that hangs")
        assert patient.live().answers(NAME) is False
        flaw.unlink()
        wait_for(lambda: patient.live().answers(NAME), "the first model")
    finally:
        supervisor.kill()
        supervisor.wait()


def test_of_two_promotions_at_once_one_gets_the_alias(patient: Deployment) -> None:
    releases = [patient.release(one, "unready", model=f"org--{one}", aliases=["chat"]) for one in ("un", "deux")]
    with ThreadPoolExecutor() as pool:
        promotions = [pool.submit(patient.live(one.model).promote, one) for one in releases]
        wait_for(lambda: all(runs(patient, one) for one in releases), "both servers")
        for one in releases:
            (patient.settings.artifacts / "repositories" / one.repository / "unready").unlink()
    (refused,) = filter(None, (promotion.exception() for promotion in promotions))
    assert isinstance(refused, UserError)
    assert "chat is a name of the live model" in refused.what
    (live,) = patient.releases.lives().values()
    assert {patient.answer(name) for name in ("chat", live.served_name, "ensemble")} == {live.answer}
    assert len(patient.serving()) == 1


def test_pruning_waits_for_a_promotion(patient: Deployment, first: Release) -> None:
    with ThreadPoolExecutor() as pool:
        with promoting_one_that_hangs(patient, "new"):
            waits = threading.Event()
            context = replace(patient.context("prune"), log=lambda line: waits.set() if "waiting" in line else None)
            pruning = pool.submit(prune_artifacts.run, context, {"keep_days": 0})
            wait_for(waits.is_set, "the pruning to wait")
            assert not pruning.done()
        assert pruning.result().removed == ()
    assert patient.answer("new") == "new at last"


def test_names_do_not_exclude_each_other_and_all_excludes_every_name(tmp_path: Path) -> None:
    locks = LiveLocks(tmp_path, print)
    with locks.of("a"), locks.of("b"), locks.of(""), locks.if_free("c") as free, locks.if_free("a") as again:
        assert (free, again) == (True, False)
        assert try_lock(tmp_path / "live.lock") is None, "an earlier version's lock"
    with locks.all(), locks.if_free("a") as free:
        assert not free
    with locks.if_free("a") as free:
        assert free
