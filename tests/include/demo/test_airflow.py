"""The files of the demo's Airflow, which only its user may read."""

from __future__ import annotations

import stat
from pathlib import Path

from include.demo.airflow import environment, make_private, password
from include.settings import Settings


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_passwords_keys_and_the_database_are_of_their_user_alone(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o755)
    for name in ("airflow.cfg", "airflow.db-wal", "standalone.log"):
        (home / name).touch(0o644)
    make_private(home)
    assert mode(home) == 0o700
    assert {path.name: oct(mode(path)) for path in home.iterdir()} == dict.fromkeys(
        (
            "airflow.cfg",
            "airflow.db",
            "airflow.db-wal",
            "standalone.log",
            "simple_auth_manager_passwords.json.generated",
        ),
        "0o600",
    )


def test_the_private_files_are_those_that_airflow_uses(tmp_path: Path) -> None:
    settings = Settings(airflow_home=tmp_path)
    make_private(tmp_path)
    database = environment(settings)["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"].removeprefix("sqlite:///").partition("?")[0]
    assert Path(database).exists()
    (tmp_path / "simple_auth_manager_passwords.json.generated").write_text('{"admin": "x"}')
    assert password(settings) == "x"
