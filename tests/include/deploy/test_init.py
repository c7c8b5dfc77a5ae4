"""`make init`: secrets of one's own, written once."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from include.deploy import init


@pytest.fixture
def env(tmp_path: Path) -> Path:
    path = tmp_path / ".env"
    assert init.write_env(path)
    return path


def secrets_in(path: Path) -> dict[str, str]:
    found = init.read_env(path)
    return {name: value for name, value in found.items() if name.endswith(("PASSWORD", "SECRET", "KEY"))}


def test_its_owner_alone_can_read_it(env: Path) -> None:
    assert env.stat().st_mode & 0o777 == 0o600


def test_files_with_secrets_that_are_there_become_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(init, "PROJECT", tmp_path)
    init.main()
    (tmp_path / "settings.env").write_text("HF_TOKEN=hf_secret")
    for name in (".env", "settings.env"):
        (tmp_path / name).chmod(0o644)
    init.main()
    assert {(tmp_path / name).stat().st_mode & 0o777 for name in (".env", "settings.env")} == {0o600}


def test_every_secret_is_long_and_of_its_own(env: Path, tmp_path: Path) -> None:
    init.write_env(tmp_path / "other")
    found = [*secrets_in(env).values(), *secrets_in(tmp_path / "other").values()]
    assert len(found) == len(set(found)) == 12
    assert min(map(len, found)) >= 44
    assert len(base64.urlsafe_b64decode(secrets_in(env)["HF2TRITON_FERNET_KEY"])) == 32


def test_one_that_is_there_stays_as_it_is(env: Path) -> None:
    before = env.read_bytes()
    assert not init.write_env(env)
    assert env.read_bytes() == before


def test_the_environment_goes_over_it(env: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF2TRITON_DATA", "/elsewhere")
    assert init.read_env(env)["HF2TRITON_DATA"] == "/elsewhere"


def test_containers_never_run_as_root(env: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert init.owner() == (init.NOT_ROOT, init.NOT_ROOT)


def test_what_is_mounted_is_made_and_left_alone_after(env: Path, tmp_path: Path) -> None:
    variables = {
        **init.read_env(env),
        "HF2TRITON_DATA": str(tmp_path / "data"),
        "HF2TRITON_GPU_LEASE_DIR": str(tmp_path / "leases"),
    }
    init.make_directories(variables)
    made = [tmp_path / "leases", *(tmp_path / "data" / name for name in init.DIRECTORIES)]
    assert {path.stat().st_uid for path in made} == {int(variables["HF2TRITON_UID"])}
    made[0].chmod(0o700)
    init.make_directories(variables)
    assert made[0].stat().st_mode & 0o777 == 0o700
