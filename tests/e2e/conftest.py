"""Whole deployments: one for a module alone, with its own store, Airflow and ports, and one that modules share.

A module of the shared one releases a model of a name of its own, so that its releases begin with number 1. Artifacts
that take minutes are there from the start: those of test_process, else those of the project's own store.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from include.demo import airflow
from include.host.ports import free_ports
from include.releases.records import ReleaseStore
from include.settings import PROJECT, Settings
from tests.e2e.rest import AnyPath
from tests.e2e.stack import save_tiny_model
from tests.support.hub_server import HubServer, running

HERE = Path(__file__).parent
MODEL = PROJECT / ".local" / "models" / "SmolLM2-135M-Instruct"
CHAIN = PROJECT / ".local" / "e2e" / "artifacts"
# The same model by the name of each module that shares the deployment.
OWN = PROJECT / ".local" / "e2e" / "models"
SHARERS = ("approval", "browser", "rebuild", "rest")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts test_process first among the e2e tests: it makes what the others begin with."""
    items.sort(key=lambda item: (item.path.parent == HERE, item.path.name != "test_process.py"))


@dataclass(frozen=True)
class Deployment:
    """The environment of one deployment and the settings that stand in it."""

    env: dict[str, str]
    settings: Settings

    def demo(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Runs the program behind `make demo` and `make down`; its output is shown as it comes."""
        command = [sys.executable, "-m", "include.demo", *arguments]
        process = subprocess.Popen(
            command, env=self.env, cwd=PROJECT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        lines = []
        for line in process.stdout or ():
            print(line, end="", flush=True)
            lines.append(line)
        return subprocess.CompletedProcess(command, process.wait(), "".join(lines))

    def start_airflow(self) -> None:
        """Starts its Airflow as the demo does, and runs nothing."""
        code = "from include.demo import airflow; from include.settings import settings; airflow.start(settings())"
        subprocess.run([sys.executable, "-c", code], env=self.env, cwd=PROJECT, check=True)

    def api(self) -> AnyPath:
        """A logged-in client of its Airflow."""
        return AnyPath(airflow.url_of(self.settings), airflow.USER, airflow.password(self.settings))

    def processes(self) -> list[psutil.Process]:
        """Every process that names this deployment's folder in its command line or environment."""
        home = str(self.settings.artifacts.parent)
        return [p for p in psutil.process_iter() if p.pid != os.getpid() and _names(p, home)]


@pytest.fixture(scope="module")
def more_settings() -> dict[str, str]:
    """Environment variables that a module's deployment has besides; a module may define its own."""
    return {}


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory, more_settings: dict[str, str]) -> Iterator[Deployment]:
    with _deployed(tmp_path_factory.mktemp("deployment"), more_settings) as made:
        yield made


@pytest.fixture(scope="session")
def hub() -> Iterator[HubServer]:
    """The Hub that the shared deployment knows."""
    with running() as server:
        yield server


@pytest.fixture(scope="session")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shared deployment's catalogue, empty at first."""
    return tmp_path_factory.mktemp("catalogue")


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory, hub: HubServer, catalogue: Path) -> Iterator[Deployment]:
    """The deployment, with its Airflow, that modules share: only what no other module could notice may be changed."""
    settings = {"HF2TRITON_CATALOGUE": str(catalogue), "HF_ENDPOINT": hub.endpoint}
    shutil.rmtree(OWN, ignore_errors=True)
    for name in SHARERS:
        shutil.copytree(MODEL, OWN / name, copy_function=_link)
    with _deployed(tmp_path_factory.mktemp("shared"), settings) as made:
        copy_artifacts(CHAIN if CHAIN.is_dir() else Settings().artifacts, made.settings.artifacts)
        made.start_airflow()
        yield made


@contextmanager
def _deployed(home: Path, more_settings: dict[str, str]) -> Iterator[Deployment]:
    http, grpc, metrics, web = free_ports(4)
    variables = {
        "HF2TRITON_ARTIFACTS": str(home / "artifacts"),
        "HF2TRITON_AIRFLOW_HOME": str(home / "airflow"),
        "HF2TRITON_LIVE_HTTP_PORT": str(http),
        "HF2TRITON_LIVE_GRPC_PORT": str(grpc),
        "HF2TRITON_LIVE_METRICS_PORT": str(metrics),
        "HF2TRITON_AIRFLOW_PORT": str(web),
        "PYTHONPATH": str(PROJECT),
        **more_settings,
    }
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("AIRFLOW", "HF2TRITON"))}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        settings = Settings()
    made = Deployment({**clean, **variables}, settings)
    try:
        yield made
    finally:
        made.demo("down")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random model that can be released in seconds."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    save_tiny_model(folder)
    return folder


@pytest.fixture
def releases(deployment: Deployment) -> ReleaseStore:
    return ReleaseStore(deployment.settings.artifacts / "releases")


@pytest.fixture
def live(deployment: Deployment) -> str:
    return f"http://127.0.0.1:{deployment.settings.live_http_port}/v2/models/ensemble/generate"


def copy_artifacts(source: Path, store: Path) -> None:
    """The artifacts that take minutes to make: they are never written to, so links will do."""
    for kind in ("models", "checkpoints", "engines"):
        if (source / kind).is_dir():
            shutil.copytree(source / kind, store / kind, copy_function=_link)


def _link(source: str, copy: str) -> None:
    try:
        os.link(source, copy)
    except OSError:  # another file system
        shutil.copy2(source, copy)


def _names(process: psutil.Process, home: str) -> bool:
    try:
        return any(home in text for text in [*process.cmdline(), *process.environ().values()])
    except psutil.Error:
        return False
