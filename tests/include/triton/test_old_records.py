"""Records of servers as earlier versions wrote them: still read, and their servers found again."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from include.host.docker.containers import ContainerSpec
from include.host.services.process import TOKEN_VARIABLE
from include.releases.records import Release
from include.triton import servers
from include.triton.servers import Ports, ServerPlan, ServerRecord

PROCESS_PLAN = """{
 "target": "openvino", "repository": "/store/repositories/ab12", "argv": ["tritonserver", "--model-repository=/r"],
 "env": {"PYTHONPATH": "/p"}, "ports": {"http": 41001, "grpc": 41002, "metrics": 41003}, "address": "127.0.0.1",
 "shared_memory": "hf2triton_41001_", "container": null
}"""
CONTAINER_PLAN = """{
 "target": "tensorrt_llm", "repository": "/store/repositories/cd34", "argv": ["/opt/tritonserver"],
 "env": {"HF_HUB_OFFLINE": "1"}, "ports": {"http": 42001, "grpc": 42002, "metrics": 42003}, "address": "0.0.0.0",
 "shared_memory": "",
 "container": {
  "image": "sha256:feed", "build": "", "gpus": 2, "reads": ["/store/repositories/cd34", "/store/engines/e"],
  "caches": [], "network": "bridge", "shm_bytes": 2147483648, "ulimits": {"memlock": -1, "stack": 67108864}
 }
}"""
RECORD = """{"log": "/store/servers/x.log", "token": "00ff", "pid": %d, "plan": %s, "container_id": "%s", "gpus": %s}"""


def test_a_process() -> None:
    record = ServerRecord.model_validate_json(RECORD % (4711, PROCESS_PLAN, "", "[]"))
    assert (record.pid, record.token, record.gpus, str(record)) == (4711, "00ff", (), "pid 4711")
    assert record.plan == ServerPlan(
        target="openvino",
        repository=Path("/store/repositories/ab12"),
        argv=("tritonserver", "--model-repository=/r"),
        env={"PYTHONPATH": "/p"},
        ports=Ports(http=41001, grpc=41002, metrics=41003),
        shared_memory="hf2triton_41001_",
    )


def test_a_container() -> None:
    record = ServerRecord.model_validate_json(RECORD % (0, CONTAINER_PLAN, "c0ffee", '["GPU-1", "GPU-2"]'))
    assert (record.container_id, record.gpus, record.url) == ("c0ffee", ("GPU-1", "GPU-2"), "http://127.0.0.1:42001")
    assert record.plan.gpus == 2
    assert record.plan.container == ContainerSpec(
        image="sha256:feed",
        reads=(Path("/store/repositories/cd34"), Path("/store/engines/e")),
        network="bridge",
        shm_bytes=2147483648,
        ulimits={"memlock": -1, "stack": 67108864},
    )
    started = record.plan.in_container(record.plan.container)
    assert (started.argv, started.env) == (("/opt/tritonserver",), {"HF_HUB_OFFLINE": "1"})
    assert (started.ports, started.address) == ((42001, 42002, 42003), "0.0.0.0")


def test_an_old_process_is_started_as_a_new_one() -> None:
    old = PROCESS_PLAN.replace('"--model', '"--http-address=0.0.0.0", "--model').replace("127.0.0.1", "10.0.0.7")
    started = ServerPlan.model_validate_json(old).hardened()
    assert started.address == "127.0.0.1"
    assert started.argv[:2] == ("prlimit", f"--stack={512 << 20}:")
    assert_closed_off(started.argv[2:], "127.0.0.1")
    assert started.argv[-1] == "--model-repository=/r"


@pytest.mark.parametrize(("network", "inside"), [("bridge", "0.0.0.0"), ("host", "127.0.0.1")])
@pytest.mark.parametrize("program", ['"/opt/tritonserver"', '"mpirun", "-n", "1", "/opt/tritonserver"'])
def test_an_old_container_is_started_as_a_new_one(network: str, inside: str, program: str) -> None:
    old = CONTAINER_PLAN.replace('"bridge"', f'"{network}"')
    old = old.replace('"/opt/tritonserver"', f'{program}, "--grpc-address=0.0.0.0", ":", "/opt/tritonserver"')
    started = ServerPlan.model_validate_json(old).hardened()
    first, second = " ".join(started.argv).split(" : ")
    assert_closed_off(first.split()[first.split().index("/opt/tritonserver") :], inside)
    assert_closed_off(second.split(), inside)
    assert started.container.ulimits == {"memlock": -1, "stack": 512 << 20}
    assert started.in_container(started.container).address == "127.0.0.1"


def test_each_start_has_a_key_of_its_own_and_the_same_flags() -> None:
    once = ServerPlan.model_validate_json(CONTAINER_PLAN).hardened()
    again = once.hardened()
    assert once.argv != again.argv
    assert [word.partition("=")[0] for word in once.argv] == [word.partition("=")[0] for word in again.argv]


def assert_closed_off(argv: tuple[str, ...] | list[str], address: str) -> None:
    flags = dict(word.removeprefix("--").split("=", 1) for word in argv[1:])
    assert [flags[f"{service}-address"] for service in ("http", "grpc", "metrics")] == [address] * 3
    for flag in ("http-restricted-api", "grpc-restricted-protocol"):
        assert re.fullmatch("shared-memory,logging,trace:hf2triton-key=[0-9a-f]{32}", flags[flag])


def test_on_the_hosts_network_nothing_is_published() -> None:
    plan = ServerPlan.model_validate_json(CONTAINER_PLAN.replace('"bridge"', '"host"'))
    assert plan.in_container(plan.container).ports == ()


def test_a_plan_is_the_same_after_it_was_written_and_read() -> None:
    for text in (PROCESS_PLAN, CONTAINER_PLAN):
        plan = ServerPlan.model_validate_json(text)
        assert ServerPlan.model_validate_json(plan.model_dump_json()) == plan


def test_the_server_of_a_release() -> None:
    written = {
        "schema_version": 1,
        "number": 3,
        "model": "org--name",
        "target": "tensorrt_llm",
        "repository": "cd34",
        "chain": {"model": "org/name@abc"},
        "request": {},
        "created_at": "2026-11-20T10:00:00Z",
        "server": json.loads(CONTAINER_PLAN),
    }
    assert Release.model_validate_json(json.dumps(written)).server == ServerPlan.model_validate_json(CONTAINER_PLAN)


def test_a_running_process_is_found_again_and_stopped(tmp_path: Path) -> None:
    path = tmp_path / "release-org--name-1.json"
    with subprocess.Popen(["sleep", "1000"], env={**os.environ, TOKEN_VARIABLE: "00ff"}) as running:
        path.write_text(RECORD % (running.pid, PROCESS_PLAN, "", "[]"))
        found = servers.find(path)
        assert found is not None
        assert found.pid == running.pid
        servers.stop(found, path)
        assert running.wait(timeout=20) != 0
    assert not path.exists()
