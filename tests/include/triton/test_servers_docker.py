"""Servers in containers, on a real engine with the openvino target's image: they outlive everybody, leave nothing."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from include.context import gpus_in_use
from include.errors import HostError, ToolError
from include.host.docker.containers import LABEL_GPUS, Containers
from include.host.docker.engine import local_engine
from include.host.leases import lease
from include.host.ports import check_port_free
from include.requests.release import ReleaseRequest
from include.settings import Settings
from include.targets.openvino import SHM_BYTES, OpenVinoTarget, image
from include.triton import servers
from include.triton.servers import ServerPlan, ServerRecord
from tests.support.echo import BROKEN, ECHO, ask, free, launch, launched, write_repository
from tests.support.engine import client_with_image_or_skip, containers, none_left
from tests.support.wait import wait_for

pytestmark = pytest.mark.docker

TIMEOUT_S = 120


@pytest.fixture(scope="module")
def client() -> Any:
    return client_with_image_or_skip()


def plan_of(root: Path, code: str = ECHO) -> ServerPlan:
    return OpenVinoTarget(Settings(runner="docker")).server(write_repository(root, code), free())


def ours(client: Any, record_path: Path) -> list[str]:
    """Ids of the containers that stand for a record, by the token in it."""
    token = ServerRecord.model_validate_json(record_path.read_text()).token
    return containers(client, server=token)


@pytest.fixture
def root(client: Any, tmp_path: Path) -> Iterator[Path]:
    """A folder for a server's plan and record; nothing of the engine's is left after it."""
    with none_left(client, tmp_path):
        yield tmp_path


@pytest.fixture(scope="module")
def record_path(client: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The record of one server that the tests share; it was launched by a process that has ended since."""
    root = tmp_path_factory.mktemp("shared")
    with launched(root, plan_of(root)) as path:
        yield path


@pytest.fixture
def record(record_path: Path) -> ServerRecord:
    """The shared server, found by its record."""
    found = servers.find(record_path)
    assert found is not None
    return found


@pytest.fixture
def inspected(client: Any, record: ServerRecord) -> dict[str, Any]:
    return client.inspect_container(record.container_id)


def test_it_survives_its_launcher_and_answers_on_this_host(record: ServerRecord) -> None:
    assert servers.is_ready(record)
    assert ask(record, 42) == 42


def test_it_may_do_little(inspected: dict[str, Any], record: ServerRecord) -> None:
    host = inspected["HostConfig"]
    assert inspected["Config"]["User"].split(":")[0] not in {"", "0", "root"}
    assert (host["CapDrop"], host["SecurityOpt"], host["Privileged"]) == (["ALL"], ["no-new-privileges"], False)
    assert {mount["Source"]: mount["RW"] for mount in inspected["Mounts"]} == {str(record.repository): False}
    assert host["ShmSize"] == SHM_BYTES


def test_only_its_ports_are_published_and_only_on_the_plans_address(
    inspected: dict[str, Any], record: ServerRecord
) -> None:
    published = inspected["NetworkSettings"]["Ports"]
    expected = {f"{port}/tcp": [{"HostIp": "127.0.0.1", "HostPort": str(port)}] for port in record.ports.all}
    assert published == expected


def test_it_comes_back_with_its_host_but_its_log_does_not_grow_forever(inspected: dict[str, Any]) -> None:
    assert inspected["HostConfig"]["RestartPolicy"]["Name"] == "unless-stopped"
    assert inspected["HostConfig"]["LogConfig"]["Config"]["max-size"]


def test_launch_on_a_taken_port_leaves_the_other_server_alone(
    record: ServerRecord, record_path: Path, tmp_path: Path
) -> None:
    with pytest.raises(HostError, match=f"port {record.ports.http} is taken by a container"):
        servers.launch(record.plan, tmp_path / "second.json", timeout_s=1)
    assert not (tmp_path / "second.json").exists()
    assert servers.find(record_path) == record
    assert servers.is_ready(record)


def test_a_port_that_is_taken_meanwhile_is_a_host_error_and_leaves_nothing(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("include.triton.servers.check_port_free", lambda port: None)
    plan = plan_of(root)
    with (
        socket.create_server(("127.0.0.1", plan.ports.http)),
        pytest.raises(HostError, match="a port that a container is to have is taken"),
    ):
        servers.launch(plan, root / "server.json", timeout_s=1)
    assert not (root / "server.json").exists()


def test_a_model_that_does_not_load_is_a_tool_error_with_the_servers_own_words(root: Path) -> None:
    with pytest.raises(ToolError, match="exit code 1\n(.|\n)*no such engine: 4711"):
        servers.launch(plan_of(root, BROKEN), root / "server.json", timeout_s=TIMEOUT_S)
    assert not (root / "server.json").exists()
    assert "4711" in (root / "server.log").read_text()


def test_a_server_that_is_not_ready_in_time_is_ended(root: Path) -> None:
    idle = plan_of(root).model_copy(update={"argv": ("sleep", "1000")})
    with pytest.raises(ToolError, match=r"not ready within 0.1 s"):
        servers.launch(idle, root / "server.json", timeout_s=0.1)
    assert servers.find(root / "server.json") is None


def test_an_image_that_is_not_there_says_how_to_get_it(root: Path) -> None:
    plan = plan_of(root)
    container = plan.container.model_copy(update={"image": "hf2triton/nothing:1", "build": "make nothing"})
    with pytest.raises(HostError, match="make nothing"):
        servers.launch(plan.model_copy(update={"container": container}), root / "server.json", timeout_s=1)
    assert not (root / "server.json").exists()


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        ("Containers.create = die", None),
        ("Containers.start = die", "created"),
        ("start = Containers.start; Containers.start = lambda *given: die(start(*given))", "running"),
    ],
    ids=["before it is created", "before it is started", "before it is ready"],
)
def test_a_launcher_that_is_killed_leaves_nothing_that_is_not_found(
    client: Any, root: Path, fault: str, status: str | None
) -> None:
    path = root / "server.json"
    (root / "plan.json").write_text(plan_of(root).model_dump_json())
    assert launch(root, fault) == -signal.SIGKILL
    assert [client.inspect_container(found)["State"]["Status"] for found in ours(client, path)] == (
        [status] if status else []
    )
    found = servers.find(path)
    assert (found is not None) is (status is not None)
    if found:
        assert not servers.is_ready(found) or status == "running"
        servers.stop(found, path, grace_s=0)
    assert not path.exists()


def test_one_that_was_killed_is_gone_and_leaves_its_log(client: Any, root: Path) -> None:
    record = servers.launch(plan_of(root), root / "server.json", timeout_s=TIMEOUT_S)
    record.log.unlink()
    client.kill(record.container_id)
    assert not servers.is_ready(record)
    assert servers.find(root / "server.json") is None
    assert not (root / "server.json").exists()
    assert "Started HTTPService" in (root / "server.log").read_text()


def test_one_that_crashed_is_started_again_by_the_engine(client: Any, root: Path) -> None:
    path = root / "server.json"
    record = servers.launch(plan_of(root), path, timeout_s=TIMEOUT_S)
    before = client.inspect_container(record.container_id)["State"]
    psutil.Process(before["Pid"]).kill()
    wait_for(
        lambda: client.inspect_container(record.container_id)["State"]["StartedAt"] != before["StartedAt"],
        within_s=TIMEOUT_S,
    )
    wait_for(lambda: servers.is_ready(record), within_s=TIMEOUT_S)
    assert servers.find(path) == record
    assert ask(record, 7) == 7
    servers.stop(record, path)
    assert containers(client, server=record.token) == []
    for port in record.ports.all:
        check_port_free(port)


def test_a_plan_starts_the_same_server_again(root: Path) -> None:
    path = root / "server.json"
    first = servers.launch(plan_of(root), path, timeout_s=TIMEOUT_S)
    plan = ServerPlan.model_validate_json(first.plan.model_dump_json())
    servers.stop(first, path)
    second = servers.launch(plan, path, timeout_s=TIMEOUT_S)
    assert (second.plan, second.container_id != first.container_id) == (first.plan, True)
    assert (root / "server.log.1").exists()
    servers.stop(second, path, grace_s=0)


def test_its_gpus_are_on_it_and_those_of_the_live_server_block_no_stage(client: Any, root: Path) -> None:
    path = servers.release_record(root, "org--name/1")
    engine = Containers(local_engine, print)
    plan = plan_of(root)
    plan = plan.model_copy(update={"gpus": 2})
    gpus = lease(2, ("a", "b", "c"), directory=root / "leases", in_use=lambda: {"b"}, log=print)
    try:
        record = servers.launch(plan, path, timeout_s=TIMEOUT_S, gpus=gpus)
    except HostError as error:
        pytest.skip(f"this engine accepts no device request: {error.what}")
    assert record.gpus == ("a", "c")
    assert client.inspect_container(record.container_id)["Config"]["Labels"][LABEL_GPUS] == "a,c"
    assert {"a", "c"} <= gpus_in_use(engine, root)
    (root / "releases").mkdir()
    (root / "releases" / "live").symlink_to("org--name/1")
    assert not {"a", "c"} & gpus_in_use(engine, root)
    with lease(1, ("a",), directory=root / "leases", in_use=set, log=print) as again:
        assert again == ("a",), "the launcher's lease has ended"
    servers.stop(record, path, grace_s=0)


def test_a_deployment_with_containers_needs_no_environment_of_its_own(client: Any, tmp_path: Path) -> None:
    settings = Settings(runner="docker", artifacts=tmp_path, openvino_python=tmp_path / "none")
    target = OpenVinoTarget(settings)
    target.check_host(ReleaseRequest())
    assert target.environment() == {"image": image.image()}
    assert target.server(write_repository(tmp_path), free()).container.image == image.image()
