"""The embedded Airflow: all its components as one detached process group on this machine."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

import httpx

from include.demo.api import AirflowApi
from include.errors import ToolError
from include.host.ports import check_port_free, http_url
from include.host.services import ServiceRecord, ServiceSpec, find
from include.host.services.process import ProcessBackend
from include.settings import PROJECT, Settings

DAG = "release_awq_engine"
READY_TIMEOUT_S = 240
USER = "admin"
_DATABASE = "airflow.db"
_PASSWORDS = "simple_auth_manager_passwords.json.generated"
_GRACE_S = 15.0  # idle, it takes 11; with tasks that run it would wait for them, without the server that they talk to
_BACKEND = ProcessBackend(ask=signal.SIGINT)  # makes Airflow stop its components gracefully


def environment(settings: Settings) -> dict[str, str]:
    """Airflow's settings as environment variables: SQLite and the local executor, so no other server is needed."""
    url = url_of(settings)
    return {
        "PATH": f"{_scripts()}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join((str(PROJECT), str(PROJECT / "plugins"))),
        "AIRFLOW_HOME": str(settings.airflow_home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(PROJECT / "dags"),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(PROJECT / "plugins"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__EXECUTOR": "hf2triton.executor.LocalExecutor",
        # On a busy disk a write takes longer than the default of 5 s: the scheduler would end, and workers ask twice.
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{settings.airflow_home}/{_DATABASE}?timeout=60",
        "AIRFLOW__WORKERS__EXECUTION_API_TIMEOUT": "60",
        "AIRFLOW__CORE__PARALLELISM": "4",
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{url}/execution/",
        "AIRFLOW__API__BASE_URL": url,
        "AIRFLOW__API__HOST": settings.bind_address,
        "AIRFLOW__API__PORT": str(settings.airflow_port),
        "AIRFLOW__API__WORKERS": "1",
        "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "30",
    }


def url_of(settings: Settings) -> str:
    """The URL of the web UI and the REST API."""
    return http_url(settings.bind_address, settings.airflow_port)


def password(settings: Settings) -> str:
    """The password that Airflow generated for its only user."""
    return str(json.loads((settings.airflow_home / _PASSWORDS).read_text())[USER])


def start(settings: Settings) -> AirflowApi:
    """Starts Airflow unless it runs already; returns a logged-in client once every component is healthy.

    Raises:
        HostError: another program has its port.
        ToolError: Airflow died, was not healthy in time, or cannot parse a DAG.
    """
    record = _record(settings)
    if find(record, ServiceRecord, _BACKEND) is None:
        check_port_free(settings.airflow_port)
        make_private(settings.airflow_home)
        argv = (sys.executable, "-m", "hf2triton.standalone")
        spec = ServiceSpec(argv=argv, env={**os.environ, **environment(settings)})
        _BACKEND.start(spec, ServiceRecord(log=record.with_suffix(".log")), record)
    deadline = time.monotonic() + READY_TIMEOUT_S
    while not _healthy(settings):
        running = find(record, ServiceRecord, _BACKEND)
        if running is None or time.monotonic() > deadline:
            raise ToolError(
                "Airflow ended as it started" if running is None else f"Airflow not healthy in {READY_TIMEOUT_S} s",
                where=str(record.with_suffix(".log")),
                fix="its log names the cause",
            )
        time.sleep(1)
    make_private(settings.airflow_home)
    return _with_dags(AirflowApi(url_of(settings), USER, password(settings)), deadline)


def make_private(home: Path) -> None:
    """Keeps other users of this machine from the files of Airflow's home: passwords, keys, the database, logs.

    The umask, by which Airflow makes them, is left as it is: containers of stages read artifacts as another user.
    """
    home.mkdir(parents=True, exist_ok=True)
    home.chmod(0o700)
    for name in (_DATABASE, _PASSWORDS):
        (home / name).touch(0o600)
    for path in home.iterdir():
        if path.is_file() and not path.is_symlink():
            path.chmod(0o600)


def stop(settings: Settings) -> bool:
    """Stops the embedded Airflow with all its components; returns True if it ran."""
    record = _record(settings)
    running = find(record, ServiceRecord, _BACKEND)
    if running:
        _BACKEND.stop(running, record, _GRACE_S)
    return running is not None


def _with_dags(api: AirflowApi, deadline: float) -> AirflowApi:
    while not api.has_dag(DAG):
        errors = api.import_errors(f"{DAG}.py")
        if errors or time.monotonic() > deadline:
            raise ToolError("\n".join(errors) or f"Airflow has not parsed {DAG}", where="dags/")
        time.sleep(1)
    return api


def _healthy(settings: Settings) -> bool:
    try:
        answer = httpx.get(f"{url_of(settings)}/api/v2/monitor/health", timeout=5, trust_env=False)
        health = answer.raise_for_status().json()
    except (httpx.TransportError, httpx.HTTPStatusError):
        return False
    return all(health[name]["status"] == "healthy" for name in ("scheduler", "dag_processor", "triggerer"))


def _scripts() -> Path:
    return Path(sys.executable).parent


def _record(settings: Settings) -> Path:
    return settings.airflow_home / "standalone.json"
