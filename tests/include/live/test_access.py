"""A deployment with API keys and TLS: its own calls go on, and the supervisor takes changes of the files."""

from __future__ import annotations

import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from include.demo import run
from include.errors import GateFailure, HostError
from include.live.last_answer import LastAnswer
from include.live.proxy import proxy_of
from include.live.supervise import NAME, Supervision
from include.settings import PROJECT
from include.tasks import LiveRelease
from tests.support.certificates import write_pair
from tests.support.live import NAME as SERVED
from tests.support.live import Deployment
from tests.support.wait import wait_for

ALICE, BOB = (f"{name}-0123456789abcdef" for name in ("alice", "bob"))


def write(path: Path, *lines: str, mode: int = 0o600) -> None:
    draft = path.with_suffix(".new")
    draft.write_text("\n".join(lines))
    draft.chmod(mode)
    draft.replace(path)


@pytest.fixture
def guarded(deployment: Deployment, short_path: Path) -> Deployment:
    """The deployment with keys and TLS; nothing is live."""
    keys = short_path / "keys.txt"
    write(keys, f"alice {ALICE}")
    chain, key = write_pair(short_path)
    files = {"api_keys_file": keys, "tls_certificate_file": chain, "tls_key_file": key}
    return Deployment(deployment.settings.model_copy(update=files))


def status(deployment: Deployment, key: str) -> int:
    url = f"{deployment.live().url}/v2/models/ensemble/generate"
    body = {"text_input": "x", "max_tokens": 1}
    return httpx.post(url, json=body, headers={"x-api-key": key}, verify=False, timeout=20).status_code


def test_promotion_check_and_pages_work_as_without(guarded: Deployment) -> None:
    first, second = guarded.release("un"), guarded.release("deux")
    for release, answer in ((first, "un"), (second, "deux"), (first, "un")):
        promoted = guarded.live().promote(release)
        assert LiveRelease.of(promoted, guarded.live().url, guarded.context()).endpoint.startswith("https://")
        assert promoted.answer == answer
    assert guarded.live().check(SERVED) is not None
    assert LastAnswer(guarded.settings, SERVED).is_now()
    endpoint = f"{guarded.live().url}/v2/models/ensemble/generate"
    assert run.ask(endpoint, guarded.settings) == "un"
    certificate = guarded.settings.tls_certificate_file
    asks = f"curl -s --cacert {certificate} -H 'Authorization: Bearer <key>' {endpoint} -d "
    assert run.curl_line(endpoint, run.SEED_REQUEST, guarded.settings).startswith(asks)
    assert status(guarded, ALICE) == 200
    assert status(guarded, BOB) == 401
    root = guarded.settings.artifacts
    own = proxy_of(guarded.settings).client(1).headers["authorization"].removeprefix("Bearer ")
    known = [ALICE.encode(), own.encode(), guarded.settings.tls_key_file.read_bytes().splitlines()[1]]
    holding = [path for path in root.rglob("*") if path.is_file() and any(one in path.read_bytes() for one in known)]
    assert {path.name for path in holding} == {"keys.txt", "tls.key", "keys.json", "tls.json"}
    assert {stat.S_IMODE(path.stat().st_mode) for path in holding} == {0o600}
    assert not any(one.decode() in line for one in known for line in guarded.log)


def test_an_answer_that_differs_is_still_seen(guarded: Deployment) -> None:
    first = guarded.live().promote(guarded.release("un"))
    (guarded.settings.artifacts / "repositories" / first.repository / "answer.txt").write_text("autre")
    guarded.kill_live_server()
    with pytest.raises(GateFailure, match="'autre'"):
        guarded.live().check(SERVED)


def test_keys_that_cannot_be_used_leave_the_live_release_alone(deployment: Deployment, guarded: Deployment) -> None:
    deployment.live().promote(deployment.release("un"))
    guarded.settings.api_keys_file.chmod(0o644)
    with pytest.raises(HostError, match="chmod 600"):
        guarded.live().promote(guarded.release("deux"))
    assert deployment.answer() == "un"


def test_turning_keys_on_takes_effect_at_the_next_check(deployment: Deployment, guarded: Deployment) -> None:
    deployment.live().promote(deployment.release("un"))
    guarded.live().check(SERVED)
    assert status(guarded, BOB) == 401
    assert status(guarded, ALICE) == 200


@contextmanager
def supervised(deployment: Deployment, log: Path) -> Iterator[None]:
    command = [sys.executable, "-m", "tests.support.supervise", deployment.settings.model_dump_json()]
    with log.open("w") as out, subprocess.Popen(command, cwd=PROJECT, stdout=out, stderr=out) as process:
        try:
            yield
        finally:
            process.kill()


def test_the_supervisor_takes_new_files_and_tells_of_broken_ones(guarded: Deployment, short_path: Path) -> None:
    guarded.live().promote(guarded.release("un"))
    keys, log = guarded.settings.api_keys_file, short_path / "said"
    with supervised(guarded, log):
        write(keys, f"bob {BOB}")
        wait_for(lambda: status(guarded, BOB) == 200)
        assert status(guarded, ALICE) == 401
        write(keys, f"alice {ALICE}", "broken")
        wait_for(lambda: "line 2" in log.read_text())
        assert "last good" in log.read_text()
        assert status(guarded, BOB) == 200
    assert not any(
        key in path.read_text(errors="replace") for path in short_path.rglob("*.log") for key in (ALICE, BOB)
    )
    assert not any(key in log.read_text() for key in (ALICE, BOB))


def test_a_dead_proxy_comes_back_with_the_last_good_files(guarded: Deployment) -> None:
    guarded.live().promote(guarded.release("un"))
    supervision = Supervision(guarded.context(NAME))
    guarded.settings.api_keys_file.unlink()
    guarded.settings.tls_certificate_file.unlink()
    guarded.stop_proxy()
    for now in (0.0, 1000.0):
        supervision.step(SERVED, now)
    assert status(guarded, ALICE) == 200
    assert any("last good" in line for line in guarded.log)
    with pytest.raises(HostError, match="last good"):
        supervision.refresh_access()
