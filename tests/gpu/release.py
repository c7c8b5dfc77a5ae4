"""Visit ``release``: target vllm through the whole DAG with Airflow, and what its live servers survive."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console

from include import report
from include.context import Context, live_records
from include.demo import airflow
from include.demo import run as demo
from include.host.docker.engine import local_engine
from include.live.address import LiveAddress
from include.releases.records import ReleaseStore
from include.settings import settings
from include.targets.registry import get_target
from include.triton import servers
from tests.e2e.outage import comes_back
from tests.e2e.rest import AnyPath
from tests.gpu import engine
from tests.gpu.stages import REQUEST
from tests.gpu.visit import FAILED, Visit, judged
from tests.support.live import load_on
from tests.support.wait import wait_for

FIRST, SECOND = "first", "second"
# Neighbours work meanwhile: speeds are measured, and not compared.
CONF = {**REQUEST, "speed_concurrencies": [1, 8], "min_speed_ratio": 0, "kv_cache_memory_fraction": 0.3}

CHANGED = {"kv_cache_memory_fraction": 0.25}
"""Makes another repository, and so another release, of the same engine."""


def run_visit(visit: Visit, model: Path) -> None:
    """The steps, in an Airflow of the visit's own."""
    before = [gpu.memory_used_mib for gpu in get_target("vllm", settings()).list_gpus()]
    api = visit.step("airflow", start)
    conf = {**CONF, "model": str(model), "served_name": FIRST}
    try:
        first = visit.step("release", partial(released, conf=conf), api)
        after = visit.step("second_release_under_load", partial(second, conf=conf), api, first)
        visit.step("rollback", rolled_back, api, first, after)
        visit.step("killed_server", comes_back_by_itself, api, first)
        other = visit.step("two_models", partial(two_models, conf={**conf, "served_name": SECOND}), api, first)
        visit.step("retired", retired, api, first if other is FAILED else other)
    finally:
        if api is not FAILED:
            visit.step("memory_back", lambda _: memory_back(before), api)


def run(visit: Visit, model: Path) -> None:
    """The visit, beside a Docker engine if the runner is docker."""
    with engine.running() if settings().runner == "docker" else nullcontext():
        run_visit(visit, model)


def start() -> AnyPath:
    """Airflow, as `make demo` starts it."""
    chosen = settings()
    airflow.start(chosen)
    return AnyPath(airflow.url_of(chosen), airflow.USER, airflow.password(chosen))


def released(api: AnyPath, *_: Any, conf: dict[str, Any]) -> dict[str, Any]:
    """A release: the seconds of its tasks, the verdicts of its gates, an answer."""
    outcome = demo.release(api, conf, Console(highlight=False, soft_wrap=True))
    found = report.read(Path(outcome.released["report"]).parent)
    assert found
    assert found.run
    return {
        "release": outcome.released["release"],
        "reused": sorted(outcome.reused),
        "tasks_s": {task.task: task.seconds for task in found.run.tasks if task.seconds},
        "gates": {verdict.gate: verdict.outcome for verdict in found.verdicts},
        "scores": found.scores,
        "downtime_s": [promotion.model_dump(mode="json") for promotion in found.promotions],
        "answer": demo.ask(live(conf["served_name"])),
    }


def live(name: str) -> str:
    """The URL of a served name."""
    return f"http://127.0.0.1:{settings().live_http_port}/v2/models/{name}/generate"


def under_load(action: Callable[[], dict[str, Any]], name: str = FIRST) -> dict[str, Any]:
    """Does something while clients ask; fails if a request has failed."""
    with load_on(f"http://127.0.0.1:{settings().live_http_port}", name) as counts:
        found = action()
    failed = {said: number for said, number in counts.items() if said.startswith("failed")}
    return judged({"requests": sum(counts.values()), "failed requests": failed, **found}, none_failed=failed == {})


def second(api: AnyPath, first: dict[str, Any], conf: dict[str, Any]) -> dict[str, Any]:
    """Another release of the name, from the same engine, while clients ask."""
    found = under_load(partial(released, api, conf={**conf, **CHANGED}))
    return judged(found, another_release=found["release"] != first["release"])


def rolled_back(api: AnyPath, first: dict[str, Any], _: Any) -> dict[str, Any]:
    """Back to the first release while clients ask."""
    found = under_load(partial(dag, api, "rollback_release", {"name": FIRST}))
    live_one = ReleaseStore(settings().artifacts / "releases").lives()[FIRST].number
    return judged({**found, "live release": live_one}, first_is_live=live_one == first["release"])


def dag(api: AnyPath, name: str, conf: dict[str, Any]) -> dict[str, Any]:
    """A run of another DAG to its end."""
    one = api.trigger(name, conf)
    wait_for(lambda: api.run_state(name, one) in {"success", "failed"}, name, within_s=300, every_s=0.5)
    failed = [task for task in api.tasks(name, one).values() if task.state == "failed"]
    errors = [f"{task.task}: {api.error(name, one, task)}" for task in failed]
    return judged({"run": one, "errors": errors}, succeeded=api.run_state(name, one) == "success")


def comes_back_by_itself(api: AnyPath, _: Any) -> dict[str, Any]:
    """The live server is killed, and the supervisor starts it again."""
    record = servers.find(live_records(settings().artifacts)[FIRST])
    assert record
    in_container = record.container_id
    kill = partial(local_engine().kill, in_container) if in_container else psutil.Process(record.pid).kill
    begun = time.monotonic()
    cause = comes_back(api, ReleaseStore(settings().artifacts / "releases"), live(FIRST), kill)
    return {"cause": cause[:200], "back_s": round(time.monotonic() - begun, 1)}


def two_models(api: AnyPath, _: Any, conf: dict[str, Any]) -> dict[str, Any]:
    """A second served name beside the first: both answer, and the GPU's memory holds both."""
    found = under_load(partial(released, api, conf=conf))
    used = [(gpu.memory_used_mib, gpu.memory_total_mib) for gpu in get_target("vllm", settings()).list_gpus()]
    logs = [record.log.read_text(errors="replace") for path in live_records(settings().artifacts).values()
            if (record := servers.find(path))]  # fmt: skip
    caches = [line[-160:] for log in logs for line in log.splitlines() if "KV cache" in line]
    return {**found, "used_of_mib": used, "vllm_says": caches, "first_answers": demo.ask(live(FIRST))}


def retired(api: AnyPath, _: Any) -> dict[str, Any]:
    """Both names off the air."""
    names = list(live_records(settings().artifacts))
    for name in names:
        dag(api, "retire_model", {"name": name})
    return {"names": names}


def memory_back(before: list[int | None]) -> dict[str, Any]:
    """Everything is stopped, and the GPUs have their memory back."""
    airflow.stop(settings())
    LiveAddress(Context(settings=settings(), log=print, dag_id="", run_id="")).stop()
    target = get_target("vllm", settings())
    target.wait_for_memory([gpu.uuid for gpu in target.list_gpus()])
    after = [gpu.memory_used_mib for gpu in target.list_gpus()]
    return {"used_mib": {"before": before, "after": after}}
