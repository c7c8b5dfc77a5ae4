"""A copy of the project and the Compose services that its own `make up` starts, under names and ports of their own."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from include.artifacts.store import ArtifactStore
from include.deploy.init import read_env
from include.host.ports import free_ports
from include.runners.container_job import LABEL_PARTIAL, LABEL_STORE, LABEL_TASK
from include.settings import PROJECT, Settings
from tests.e2e.rest import AnyPath

AIRFLOW_IMAGE = "hf2triton/airflow:e2e"
# Of a request for the tiny model. A random model's perplexity falls as easily as it rises. Speeds are not compared:
# neighbours work meanwhile.
TINY = {"calib_seq_len": 16, "max_perplexity_decrease": 1, "min_speed_ratio": 0}
CERTIFICATES = Path("/usr/local/share/ca-certificates")


@dataclass(frozen=True)
class Stack:
    """A copy of the project with the environment that its `make up` was called with."""

    tree: Path
    env: dict[str, str]

    def call(self, *command: str) -> str:
        """Runs a command in the copy; its errors are shown as they come."""
        done = subprocess.run(command, cwd=self.tree, env=self.env, text=True, stdout=subprocess.PIPE, check=True)
        return done.stdout

    def compose(self, *words: str) -> str:
        return self.call("docker", "compose", *words)

    def container(self, service: str) -> str:
        return self.compose("ps", "--all", "--quiet", service).strip()

    @cached_property
    def variables(self) -> dict[str, str]:
        return read_env(self.tree / ".env")

    @cached_property
    def api(self) -> AnyPath:
        url = f"http://127.0.0.1:{self.env['HF2TRITON_AIRFLOW_PORT']}"
        return AnyPath(url, "admin", self.variables["HF2TRITON_ADMIN_PASSWORD"])

    @property
    def data(self) -> Path:
        return Path(self.env["HF2TRITON_DATA"])

    @property
    def store(self) -> ArtifactStore:
        return ArtifactStore(self.data / "artifacts")

    @property
    def model(self) -> Path:
        return self.data / "models" / "tiny"

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.env['HF2TRITON_LIVE_HTTP_PORT']}/v2/models/ensemble/generate"

    @property
    def prometheus(self) -> str:
        return f"http://127.0.0.1:{self.env['HF2TRITON_PROMETHEUS_PORT']}"

    def log(self, dag: str, run: str, task: str, attempt: int) -> str:
        """What an attempt has logged so far."""
        path = self.data / "logs" / f"dag_id={dag}" / f"run_id={run}" / f"task_id={task}" / f"attempt={attempt}.log"
        return path.read_text() if path.exists() else ""

    def stages(self, engine: Any, task: str = "") -> list[str]:
        """Ids of the stage containers that run, or of those of one task."""
        labels = [f"{LABEL_STORE}={self.store.root}", LABEL_PARTIAL, *([f"{LABEL_TASK}={task}"] if task else [])]
        return [found["Id"] for found in engine.containers(filters={"label": labels})]

    def save_model(self) -> None:
        """Puts a model there to be named in requests."""
        self.model.parent.mkdir(parents=True)
        save_tiny_model(self.model)

    def remove(self, engine: Any) -> None:
        """The services with their volumes, then every container that has the store mounted."""
        subprocess.run(["docker", "compose", "down", "--volumes", "--timeout", "5"], cwd=self.tree, env=self.env)
        for found in engine.containers(all=True):
            if any(str(self.store.root) in mount.get("Source", "") for mount in found["Mounts"]):
                engine.remove_container(found["Id"], force=True, v=True)


def save_tiny_model(folder: Path) -> None:
    """A tiny random model that passes the gates, see `tests.support.tiny_models`."""
    command = [Settings().openvino_python, "-m", "tests.support.tiny_models", "releasable", folder]
    subprocess.run(command, cwd=PROJECT, check=True)


def stack_in(home: Path) -> Stack:
    """A clean copy in ``home``; nothing is started."""
    return Stack(_clean_copy(home / "tree"), _environment(home))


def replacing(engine: Any, image: str, build: Callable[[], Any]) -> None:
    """Builds ``image``, and leaves nothing of the one that had its name before."""
    (before,) = engine.images(name=image, quiet=True) or [None]
    build()
    if before and before not in engine.images(name=image, quiet=True):
        engine.remove_image(before)


def _clean_copy(tree: Path) -> Path:
    """The files that git has or would take."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=PROJECT, text=True, capture_output=True, check=True)
    for name in filter(None, listed.stdout.split("\0")):
        if (PROJECT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(PROJECT / name, tree / name)
    return tree


def _environment(home: Path) -> dict[str, str]:
    extra = home / "build" / "extra" / "ca-certificates"
    extra.mkdir(parents=True)
    for certificate in CERTIFICATES.glob("*.crt"):
        shutil.copy(certificate, extra)
    ports = ("AIRFLOW", "REDIS", "PROMETHEUS", "GPU_METRICS", "LIVE_HTTP", "LIVE_GRPC", "LIVE_METRICS")
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("AIRFLOW", "HF2TRITON", "PYTHON"))}
    return {
        **clean,
        "COMPOSE_PROJECT_NAME": home.name,
        "COMPOSE_FILE": "docker-compose.yaml:tests/e2e/compose.yaml",
        "COMPOSE_PROFILES": "metrics",
        "BUILD_EXTRA": str(home / "build"),
        "HF2TRITON_AIRFLOW_IMAGE": AIRFLOW_IMAGE,
        "HF2TRITON_POSTGRES_IMAGE": "hf2triton/e2e-postgres",
        "HF2TRITON_REDIS_IMAGE": "hf2triton/e2e-redis",
        "HF2TRITON_PROMETHEUS_IMAGE": "hf2triton/e2e-prometheus",
        "HF2TRITON_DATA": str(home / "data"),
        "HF2TRITON_GPU_LEASE_DIR": str(home / "leases"),
        "HF2TRITON_WORKER_CONCURRENCY": "2",
        "HF2TRITON_GPU_WORKER_CONCURRENCY": "3",
        **{f"HF2TRITON_{name}_PORT": str(port) for name, port in zip(ports, free_ports(len(ports)), strict=True)},
    }
