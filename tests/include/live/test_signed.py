"""The signature of a release is checked at each launch and promotion: with a changed file the live release stays."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from include.artifacts.kind import Kind
from include.errors import HostError
from include.live.launch import launch_on_free_ports
from include.live.supervise import NAME as SUPERVISOR
from include.live.supervise import Supervision
from include.releases.records import Release
from include.triton.signatures import Signatures, _verified
from tests.support.live import NAME, Deployment

ENGINE = "engine.bin"


def signed(deployment: Deployment, answer: str) -> Release:
    """An accepted release of a signed repository, with an engine of its own."""
    context = deployment.context()
    with context.store.claim(Kind.ENGINE, {"of": answer}, log=print) as claim:
        (claim.partial / ENGINE).write_text(answer)
        engine = claim.commit().path

    def fill(repository: Path) -> None:
        (repository / "answer.txt").write_text(answer)
        (repository / "tensorrt_llm").mkdir()
        parameter = f'parameters {{ key: "engine_dir" value {{ string_value: "{engine}" }} }}'
        (repository / "tensorrt_llm" / "config.pbtxt").write_text(f'name: "tensorrt_llm"\n{parameter}\n')

    release = deployment.release_of(answer, fill, "stand-in")
    context.signatures.sign(release.repository, files(deployment, release))
    return release


def files(deployment: Deployment, release: Release) -> Path:
    return deployment.settings.artifacts / Kind.REPOSITORY / release.repository


def change(path: Path) -> None:
    """Another byte, and neither another size nor another time."""
    before = path.stat()
    path.write_bytes(b"X" + path.read_bytes()[1:])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.timeout(120)
def test_a_signed_release_goes_live_and_a_changed_one_does_not(deployment: Deployment) -> None:
    first, second = signed(deployment, "un"), signed(deployment, "deux")
    deployment.live().promote(first)
    deployment.live().promote(second)
    assert any("is as it was signed" in line for line in deployment.log)

    change(files(deployment, first) / "answer.txt")
    with pytest.raises(HostError, match=r"answer\.txt"):  # the rollback
        deployment.live().promote(first)
    assert (deployment.answer(), deployment.serving()) == ("deux", ["release-org--name-2"])

    third = signed(deployment, "trois")
    candidate = deployment.candidate(third, "run")
    engines = deployment.settings.artifacts.glob(f"engines/*/{ENGINE}")
    change(next(engine for engine in engines if engine.read_text() == "trois"))
    with pytest.raises(HostError, match=r"engine\.bin"):  # its candidate is ready, and was launched before the change
        deployment.live("run").promote(third, candidate=candidate)
    context = deployment.context("other")
    plan = partial(context.target("stand-in").server, files(deployment, third))
    with pytest.raises(HostError, match=r"engine\.bin"):
        launch_on_free_ports(context, plan, context.candidate_record)
    assert deployment.answer() == "deux"


@pytest.mark.timeout(120)
def test_a_process_reads_what_goes_live_once(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, third = (signed(deployment, answer) for answer in ("un", "deux", "trois"))
    candidate = deployment.candidate(third, "run")
    read = list[str]()
    read_all = Signatures._read
    _verified.clear()

    def counted(self: Signatures, directory: Path) -> None:
        read.append(directory.name)
        read_all(self, directory)

    monkeypatch.setattr(Signatures, "_read", counted)
    deployment.live().promote(first)
    deployment.live().promote(second)
    deployment.live().promote(first)  # a rollback, from its own plan
    deployment.live().promote(second, swap="recreate")
    deployment.live("run").promote(third, candidate=candidate)  # its server runs already
    deployment.live().promote(third)
    deployment.kill_live_server()
    deployment.live().reconcile()
    assert read == [one.repository for one in (first, second, third)]
    _verified.clear()  # as in another process
    supervision = Supervision(deployment.context(SUPERVISOR))
    for _ in range(2):
        supervision.read_ahead(NAME)
    deployment.kill_live_server()
    supervision.step(NAME, 0)
    assert deployment.answer() == "trois"
    assert read[3:] == [third.repository]
    (files(deployment, third) / "answer.txt").touch()  # its bytes are as they were, which only reading tells
    deployment.live().promote(third)
    assert read[4:] == [third.repository]


@pytest.mark.timeout(120)
def test_a_release_without_a_signature_goes_live_unless_one_is_required(deployment: Deployment) -> None:
    release = deployment.release("un")
    deployment.live().promote(release)
    assert any("is not signed" in line for line in deployment.log)
    strict = replace(deployment, settings=deployment.settings.model_copy(update={"require_signature": True}))
    with pytest.raises(HostError, match="is not signed") as refused:
        strict.live().promote(strict.release("deux"))
    assert "run its request again" in refused.value.fix
    assert deployment.answer() == "un"
