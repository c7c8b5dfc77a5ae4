"""The docker runner against a real engine."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from include.errors import HostError, ToolError, TransientError, UserError
from include.host.docker.containers import LABEL_GPUS, ContainerSpec
from include.host.docker.engine import EngineAway, local_engine, unreachable
from include.runners.container import CODE_ROOT, StageContainers
from include.settings import PROJECT
from tests.support.engine import BASE, client_or_skip, containers, run_to_end

pytestmark = pytest.mark.docker

TEST = {"hf2triton.test": str(os.getpid())}


@pytest.fixture(scope="module")
def client() -> Any:
    return client_or_skip()


@pytest.fixture
def log() -> list[str]:
    return []


@pytest.fixture
def runner(client: Any, log: list[str]) -> Iterator[StageContainers]:
    runner = StageContainers(lambda: client, log.append)
    yield runner
    left = containers(client, test=TEST["hf2triton.test"])
    for container in left:
        runner.remove(container)
    assert not left


@pytest.fixture
def spec(tmp_path: Path) -> Callable[..., ContainerSpec]:
    out = tmp_path / "out"
    out.mkdir()
    return lambda script, **fields: ContainerSpec(
        **{"image": BASE, "argv": ("sh", "-c", script), "out": out, "labels": TEST, **fields}
    )


Spec = Callable[..., ContainerSpec]


def test_the_output_is_logged_lines_of_both_streams_whole(runner: StageContainers, spec: Spec, log: list[str]) -> None:
    run_to_end(runner, spec("printf '10%%\\r' >&2; echo one; printf '100%%\\n' >&2; echo two; printf end"))
    assert [line for line in log if line != "100%"] == ["one", "two", "end"]
    assert log.count("100%") == 1


def test_a_long_silence_is_no_end(spec: Spec, log: list[str]) -> None:
    runner = StageContainers(partial(client_or_skip, timeout=1), log.append)
    run_to_end(runner, spec("echo one; sleep 3; echo two"))
    assert log == ["one", "two"]


def test_the_program_finds_the_stage_code(runner: StageContainers, spec: Spec, log: list[str]) -> None:
    run_to_end(runner, spec("cd $PYTHONPATH; find . -type f | sort; cat include/errors.py > /dev/null && pwd"))
    folders = (PROJECT / "include" / name for name in ("model", "stages"))
    files = [path for folder in folders for kind in ("*.py", "*.jsonl") for path in folder.rglob(kind)]
    code = {f"./{path.relative_to(PROJECT)}" for path in files}
    assert set(log) == {CODE_ROOT, "./include/__init__.py", "./include/errors.py", "./include/reading.py", *code}


def test_the_program_may_do_little(runner: StageContainers, spec: Spec, log: list[str]) -> None:
    run_to_end(
        runner,
        spec("grep -E '^(CapBnd|CapEff|NoNewPrivs)' /proc/self/status; id -u; ls /sys/class/net; pwd; echo $HOME"),
    )
    user = str(os.getuid() or 65534)
    no_capability = f"\t{0:016x}"
    assert sorted(log) == sorted(
        [f"CapBnd:{no_capability}", f"CapEff:{no_capability}", "NoNewPrivs:\t1", user, "lo", "/tmp", "/tmp"]
    )


def test_only_the_output_and_the_caches_can_be_written(
    runner: StageContainers, spec: Spec, log: list[str], tmp_path: Path
) -> None:
    reads, cache = tmp_path / "reads", tmp_path / "cache"
    for path in (reads, cache):
        path.mkdir()
        path.chmod(0o777)
    (reads / "input").write_text("weights")
    wanted = spec(
        f"cat {reads}/input; echo; for d in {reads} {cache} {tmp_path}/out {CODE_ROOT}; do"
        " if touch $d/new 2>/dev/null; then echo $d; fi; done",
        reads=(reads,),
        caches=(cache,),
    )
    run_to_end(runner, wanted)
    assert log == ["weights", str(cache), f"{tmp_path}/out"]
    assert (tmp_path / "out" / "new").exists()
    assert not (reads / "new").exists()


def test_shared_memory_and_limits_are_as_asked(runner: StageContainers, spec: Spec, log: list[str]) -> None:
    run_to_end(runner, spec("df -k /dev/shm | tail -1; ulimit -s", shm_bytes=256 << 20, ulimits={"stack": 16 << 20}))
    assert log[0].split()[1] == str(256 << 10)
    assert log[1] == str(16 << 10)


def test_a_tools_error_carries_its_last_lines(runner: StageContainers, spec: Spec) -> None:
    with pytest.raises(ToolError, match=r"exit code 3:\nline 6(.|\n)*line 20"):
        run_to_end(runner, spec("for n in $(seq 20); do echo line $n; done; exit 3"))


def test_a_failure_that_the_program_describes_keeps_its_class(runner: StageContainers, spec: Spec) -> None:
    described = json.dumps({"class": "UserError", "what": "128 does not divide 576", "where": "x", "fix": "use 64"})
    wanted = spec("")
    script = f"echo '{described}' > {wanted.out}/failure.json; exit 64"
    wanted = wanted.model_copy(update={"argv": ("sh", "-c", script)})
    with pytest.raises(UserError, match="does not divide"):
        run_to_end(runner, wanted)


@pytest.mark.parametrize(
    "script", ["exec tail /dev/zero", "tail /dev/zero; sleep 1; exit 1"], ids=["the program", "its child"]
)
def test_a_kill_by_the_kernel_is_called_out_of_memory(
    runner: StageContainers, spec: Spec, client: Any, script: str
) -> None:
    wanted = spec(script)
    container = runner.create(wanted)
    client.update_container(container, mem_limit=16 << 20, memswap_limit=16 << 20)
    runner.start(container)
    ended = runner.follow(container)
    error = runner.failure_of(ended, wanted.argv, wanted.out)
    runner.remove(container)
    if ended.exit_code != 137 and not ended.oom_killed:
        pytest.skip("the engine did not notice that a child was killed")
    assert isinstance(error, HostError)
    assert "OOM" in error.what
    assert "calib_size" in error.fix


def test_a_stop_from_outside_is_not_called_out_of_memory(
    client: Any, runner: StageContainers, spec: Spec, log: list[str]
) -> None:
    wanted = spec("echo ready; sleep 600")
    container = runner.create(wanted)

    def stop_when_ready(line: str) -> None:
        log.append(line)
        client.stop(container)

    runner.start(container)
    ended = StageContainers(lambda: client, stop_when_ready).follow(container)
    error = runner.failure_of(ended, wanted.argv, wanted.out)
    runner.remove(container)
    assert log == ["ready"]
    assert isinstance(error, TransientError)


def test_a_container_that_is_taken_away_is_worth_another_attempt(
    client: Any, runner: StageContainers, spec: Spec
) -> None:
    container = runner.create(spec("echo ready; sleep 600"))
    runner.start(container)
    with pytest.raises(TransientError, match="removed"):
        StageContainers(lambda: client, lambda line: runner.remove(container)).follow(container)


def test_whoever_starts_it_sees_everything_once_and_so_does_who_comes_later(
    runner: StageContainers, spec: Spec, client: Any, log: list[str]
) -> None:
    container = runner.create(spec("for n in $(seq 2000); do echo line $n; done; exit 7"))
    runner.start(container)
    assert runner.follow(container).exit_code == 7
    later: list[str] = []
    StageContainers(lambda: client, later.append).follow(container)
    runner.remove(container)
    assert log == later == [f"line {n}" for n in range(1, 2001)]


def test_whoever_comes_in_the_middle_misses_nothing(runner: StageContainers, spec: Spec, client: Any) -> None:
    container = runner.create(spec("for n in $(seq 2000); do echo line $n; done; sleep 1"))
    runner.start(container)
    seen: list[str] = []
    StageContainers(lambda: client, seen.append).follow(container)
    runner.remove(container)
    # A line of the moment of attaching may show twice.
    assert list(dict.fromkeys(seen)) == [f"line {n}" for n in range(1, 2001)]


def test_a_gpu_that_nobody_can_give_is_explained(runner: StageContainers, client: Any) -> None:
    from docker.types import DeviceRequest

    request = DeviceRequest(driver="no-such-driver", device_ids=["0"], capabilities=[["gpu"]])
    config = client.create_host_config(device_requests=[request])
    container = client.create_container(BASE, ["true"], labels=TEST, host_config=config)["Id"]
    with pytest.raises(HostError, match="no NVIDIA runtime") as raised:
        runner.start(container)
    assert "NVIDIA Container Toolkit" in raised.value.fix
    (found,) = runner.find(TEST)
    assert (found.status, found.active, found.succeeded) == ("created", False, False)
    runner.remove(container)


def test_the_gpus_of_a_running_container_are_in_use(
    runner: StageContainers, spec: Spec, client: Any, log: list[str]
) -> None:
    wanted = spec("echo gpus $NVIDIA_VISIBLE_DEVICES; sleep 600", gpus=("3", "5"))
    container = runner.create(wanted)
    assert runner.inspect(container).labels[LABEL_GPUS] == "3,5"
    try:
        runner.start(container)
    except HostError as error:
        pytest.skip(f"this engine accepts no device request: {error.what}")
    else:
        during: list[set[str]] = []

        def look(line: str) -> None:
            log.append(line)
            during.append(runner.gpus_in_use())
            client.kill(container)

        StageContainers(lambda: client, look).follow(container)
        assert log == ["gpus 3,5"]
        assert {"3", "5"} <= during[0]
        assert not {"3", "5"} & runner.gpus_in_use()
    finally:
        runner.remove(container)


def test_an_image_that_has_to_be_built_says_how(runner: StageContainers, spec: Spec) -> None:
    with pytest.raises(HostError, match="not on this host") as raised:
        run_to_end(runner, spec("true", image="hf2triton/nothing:1", build="make nothing"))
    assert "make nothing" in raised.value.fix


def test_an_image_that_cannot_be_pulled_says_what_to_do(runner: StageContainers, spec: Spec) -> None:
    image = "registry.invalid/org/nothing:1"
    with pytest.raises(HostError, match="cannot be pulled") as raised:
        run_to_end(runner, spec("true", image=image))
    assert "docker load" in raised.value.fix


def test_a_program_that_the_image_lacks_is_named(runner: StageContainers, spec: Spec) -> None:
    with pytest.raises(ToolError, match="no-such-program"):
        run_to_end(runner, spec("", argv=("no-such-program",)))


def test_a_path_that_the_engine_cannot_see_is_named(runner: StageContainers, spec: Spec, tmp_path: Path) -> None:
    with pytest.raises(HostError, match="gone"):
        run_to_end(runner, spec("true", reads=(tmp_path / "gone",)))


def test_no_engine_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    with pytest.raises(HostError, match="no Docker engine"):
        local_engine()


@pytest.fixture
def dead_socket() -> Iterator[Path]:
    """A socket that nobody listens on, below directories that anybody may enter."""
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as made:
        Path(folder).chmod(0o755)
        made.bind(f"{folder}/docker.sock")
        yield Path(folder) / "docker.sock"


def test_an_engine_that_does_not_answer_is_worth_another_attempt(
    monkeypatch: pytest.MonkeyPatch, dead_socket: Path
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{dead_socket}")
    with pytest.raises(EngineAway):
        local_engine()


@pytest.mark.parametrize("url", ["unix://{}", "unix:/{}"], ids=["three slashes", "two slashes"])
def test_a_user_outside_the_docker_group_is_told(dead_socket: Path, url: str) -> None:
    dead_socket.chmod(0o600)
    ours = os.geteuid()
    if ours == 0:
        os.seteuid(65534)
    else:
        dead_socket.chmod(0)
    try:
        error = unreachable(url.format(dead_socket))
    finally:
        os.seteuid(ours)
    assert isinstance(error, HostError)
    assert "usermod -aG docker" in error.fix


def test_nothing_of_docker_is_imported_before_it_is_needed() -> None:
    code = "import sys, include.runners.container, include.runners.container_job; print('docker' in sys.modules)"
    python = PROJECT / ".venvs" / "airflow" / "bin" / "python"
    assert subprocess.check_output([python, "-c", code], cwd=PROJECT, text=True).strip() == "False"
