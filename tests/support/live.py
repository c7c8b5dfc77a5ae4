"""A deployment with a real proxy, real detached servers that stand in for Triton, and releases to promote."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx

from include.artifacts.store import ArtifactStore
from include.context import Context, live_records
from include.host.ports import free_ports
from include.host.services import ServiceRecord, find
from include.host.services.process import ProcessBackend
from include.live.address import LiveAddress
from include.live.launch import launch
from include.releases.records import Release, ReleaseStore
from include.settings import Settings
from include.targets.base import Target
from include.triton import servers
from include.triton.servers import Ports, ServerPlan, ServerRecord

HERE = Path(__file__).parent
MODEL, NAME = "org--name", "name"
BACKEND = ProcessBackend()


class StandInTarget:
    """What `Context` and `LiveAddress` ask of a target."""

    def gpu_ids(self) -> tuple[str, ...]:
        return ()

    def wait_for_memory(self, gpus: Collection[str]) -> None:
        pass

    def server(self, repository: Path, ports: Ports) -> ServerPlan:
        argv = (sys.executable, "-E", "-s", "-S", str(HERE / "stand_in.py"), str(repository), str(ports.http))
        return ServerPlan(target="stand-in", repository=repository, argv=argv, env={}, ports=ports)


class StandInWorker(Context):
    def target(self, name: str) -> Target:
        return StandInTarget()


@dataclass(frozen=True)
class Deployment:
    settings: Settings
    kind: type[Context] = StandInWorker

    @cached_property
    def log(self) -> list[str]:
        return []

    def context(self, run: str = "other") -> Context:
        return self.kind(settings=self.settings, log=self.log.append, dag_id="release_awq_engine", run_id=run)

    def live(self, run: str = "other") -> LiveAddress:
        return LiveAddress(self.context(run))

    @property
    def releases(self) -> ReleaseStore:
        return self.context().releases

    def release(self, answer: str, *flaws: str, model: str = MODEL, **request: object) -> Release:
        """An accepted release whose server will say ``answer``."""

        def fill(repository: Path) -> None:
            (repository / "answer.txt").write_text(answer)
            for flaw in flaws:
                (repository / flaw).touch()

        return self.release_of(answer, fill, "stand-in", model, **request)

    def release_of(
        self, key: str, fill: Callable[[Path], None], target: str, model: str = MODEL, **request: object
    ) -> Release:
        """An accepted release of a repository that ``fill`` makes."""
        with ArtifactStore(self.settings.artifacts).claim("repositories", {"key": key}, log=print) as claim:
            fill(claim.partial)
            claim.commit()
        release = self.releases.open(model, target=target, repository=claim.name, chain={}, request=request)
        return self.releases.judge(release, "accepted")

    def candidate(self, release: Release, run: str) -> Path:
        """Launches the candidate server of a run, as `launch_triton` does; its record."""
        context = self.context(run)
        http, grpc, metrics = free_ports(3)
        repository = context.store.get("repositories", release.repository).path
        plan = context.target(release.target).server(repository, Ports(http=http, grpc=grpc, metrics=metrics))
        launch(context, plan, context.candidate_record)
        return context.candidate_record

    def answer(self, name: str = "ensemble", **asked: object) -> str:
        """What clients get at the live address, under a name."""
        url = f"{self.live().url}/v2/models/{name}/generate"
        body = {"text_input": "x", "max_tokens": 1, **asked}
        response = httpx.post(url, json=body, trust_env=False, timeout=20)
        return response.json()["text_output"] if response.is_success else f"HTTP {response.status_code}"

    def serving(self) -> list[str]:
        """The records of all servers that run."""
        records = sorted((self.settings.artifacts / "servers").glob("[cr]*-*.json"))
        return [path.stem for path in records if servers.find(path)]

    def states(self) -> list[str]:
        return [self.releases.state(release) for release in self.releases.every()]

    def live_server(self, name: str = NAME) -> ServerRecord | None:
        path = self.context().live_records.get(name)
        return servers.find(path) if path else None

    def kill_live_server(self, name: str = NAME) -> None:
        os.kill(self.live_server(name).pid, signal.SIGKILL)
        while self.live_server(name):
            pass

    def stop_proxy(self) -> None:
        path = self.settings.artifacts / "servers" / "proxy.json"
        BACKEND.stop(find(path, ServiceRecord, BACKEND), path, grace_s=0)

    def load(self, name: str = "ensemble", **first_client: object) -> AbstractContextManager[dict[str, int]]:
        """Clients of a name at the live address; see `load_on`."""
        return load_on(self.live().url, name, **first_client)

    def promote_at_once(self, releases: Collection[Release]) -> None:
        """Promotes them at the same time, each as a run of its own."""
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda release: self.live(f"run of {release.name}").promote(release), releases))

    def close(self) -> None:
        for path in (self.settings.artifacts / "servers").glob("*.json"):
            if record := find(path, ServiceRecord, BACKEND):
                BACKEND.stop(record, path, grace_s=0)


def live_record(artifacts: Path) -> Path:
    """The record of the server of the one live release."""
    (record,) = live_records(artifacts).values()
    return record


@contextmanager
def load_on(
    url: str, name: str = "ensemble", *, pause_s: float = 0.25, **first_client: object
) -> Iterator[dict[str, int]]:
    """Clients at an address, from a process of its own; filled with the count of each answer at the end."""
    counts: dict[str, int] = {}
    endpoint = f"{url}/v2/models/{name}/generate"
    argv = [sys.executable, str(HERE / "live_load.py"), endpoint, json.dumps(first_client), str(pause_s)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "asking\n"
        yield counts
        counts |= json.loads(process.communicate()[0])


def killed_before_change(number: int, action: Callable[..., object], *args: Any, **options: Any) -> bool:
    """Calls ``action`` in a process that kills itself before its ``number``-th change; whether it came to that."""
    child = os.fork()
    if child == 0:
        _kill_before_change(number)
        try:
            action(*args, **options)
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def _kill_before_change(number: int) -> None:
    left = number

    def count(event: str, args: tuple[Any, ...]) -> None:
        nonlocal left
        if _is_change(event, args):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)


def _is_change(event: str, args: tuple[Any, ...]) -> bool:
    """Whether it changes what another process goes by: files that a later rename puts in place do not yet."""
    match event:
        case "os.rename":
            return "routing." not in Path(args[1]).parent.name
        case "os.remove":
            return Path(args[0]).is_absolute()
        case "os.kill":
            return args[1] != 0
        case _:
            return event == "subprocess.Popen"
