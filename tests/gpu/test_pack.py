"""What is packed for a bare GPU host, put together again, and the runtime of its engine: all that needs no GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from include.errors import HostError
from tests.gpu import layout, pack, runtime, unpack
from tests.gpu.__main__ import environment
from tests.gpu.visit import FAILED, Visit, alone, judged

CUBLAS = "nvidia-cublas==13.1 \\\n    --hash=sha256:0b\n"
LOCK = f"numpy==1.26.4 \\\n    --hash=sha256:0a\n    # via x\n{CUBLAS}nvidia-pytriton==0.7.0\n"
TEXT = "Model: \t\t NVIDIA H200\nGPU UUID: \t GPU-{0}\nDevice Minor: \t {0}\n"


def test_a_lock_keeps_the_hashes_of_what_is_packed() -> None:
    assert pack.without(LOCK, layout.ON_THE_HOST) == LOCK.replace(CUBLAS, "")


def test_every_pattern_of_what_stays_out_names_a_requirement() -> None:
    lock = (pack.LOCKS / "requirements.txt").read_text()
    for pattern in (*layout.ON_THE_HOST, *pack.NOT_USED):
        assert pack.without(lock, [pattern]) != lock, pattern
    kept = pack.without(lock, (*layout.ON_THE_HOST, *pack.NOT_USED))
    assert all(f"\n{name}==" in f"\n{kept}" for name in ("vllm", "xgrammar", "numpy", *pack.NEEDED))


def test_parts_have_the_size_and_put_together_are_what_was_packed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pack, "PART_BYTES", 1000)
    (tmp_path / "one" / "__pycache__").mkdir(parents=True)
    (tmp_path / "one" / "random").write_bytes(os.urandom(3000))
    (tmp_path / "one" / "link").symlink_to("random")
    (tmp_path / "out").mkdir()
    parts = pack.cut([pack.archive(tmp_path / "one", tmp_path / "out")], tmp_path / "out")
    assert len(parts) > 3
    assert {part.stat().st_size for part in parts[:-1]} == {1000}
    for archive in unpack.join(parts, tmp_path / "root"):
        unpack.extract(archive, tmp_path / "root")
    found = tmp_path / "root" / "one"
    assert sorted(path.name for path in found.iterdir()) == ["link", "random"]
    assert (found / "link").read_bytes() == (tmp_path / "one" / "random").read_bytes()


OF_TORCH = (
    *("torch", "torch-2.11.0+cu130.dist-info", "torchgen", "functorch", "torchvision", "torchvision.libs"),
    *("triton", "triton-3.6.0.dist-info", "numba", "llvmlite", "nvidia", "nvidia_cublas-13.1.0.3.dist-info", "cuda"),
    *("cuda_bindings-13.4.4.dist-info", "nvidia_cutlass_dsl"),
)


def folders(where: Path, *names: str) -> Path:
    for name in names:
        (where / name).mkdir(parents=True)
    return where


def linked(site: Path) -> list[str]:
    return sorted(path.name for path in site.iterdir() if path.is_symlink())


def test_a_site_gets_no_second_version_of_what_it_has(tmp_path: Path) -> None:
    site = folders(tmp_path / "site", "numpy", "numpy-1.26.4.dist-info")
    unpack.complete(site, folders(tmp_path / "other", "numpy", "numpy-2.5.2.dist-info", "scipy"))
    assert linked(site) == ["scipy"]


def test_of_the_host_only_torch_and_what_belongs_to_it_is_taken(tmp_path: Path) -> None:
    others = ("scipy", "scipy.libs", "scipy-1.17.dist-info", "jax", "sklearn", "torchmetrics", "tritonclient", "cudf")
    host = folders(tmp_path / "host", *OF_TORCH, *others, "nvidia_ml_py-13.dist-info", "__pycache__")
    for name in ("_virtualenv.pth", "nvidia_cutlass_dsl.pth", "_virtualenv.py", "six.py"):
        (host / name).touch()
    vllm = folders(tmp_path / "root" / layout.VLLM / layout.SITE, "nvidia_ml_py-13.615.71.dist-info")
    stub = folders(vllm / "pytriton" / "tritonserver", "backends/python", f"python_backend_stubs/{layout.PYTHON}")
    (stub / "python_backend_stubs" / layout.PYTHON / "triton_python_backend_stub").touch()
    unpack.finish(tmp_path / "root", host)
    assert set(linked(vllm)) == set(OF_TORCH)


def test_programs_start_in_the_environment_that_they_are_unpacked_into(tmp_path: Path) -> None:
    script = tmp_path / layout.SITE / "bin" / "tool"
    script.parent.mkdir(parents=True)
    script.write_text("#!/elsewhere/python\nprint(1)\n")
    unpack.environment(tmp_path)
    assert (tmp_path / "bin" / "tool").read_text() == f"#!{tmp_path}/bin/python\nprint(1)\n"
    assert (tmp_path / "bin" / "python").resolve() == Path(sys.executable).resolve()


def test_programs_of_a_shielded_environment_do_without_multicast(tmp_path: Path) -> None:
    (tmp_path / layout.SITE).mkdir(parents=True)
    unpack.environment(tmp_path)
    unpack.shield(tmp_path / "lib" / f"python3.{sys.version_info.minor}" / "site-packages")
    code = f"import os; print([os.environ.get(name) for name in {sorted(unpack.WITHOUT_MULTICAST)}])"
    said = subprocess.run([tmp_path / "bin" / "python", "-c", code], env={}, capture_output=True, text=True).stdout
    assert said.strip() == str([value for _, value in sorted(unpack.WITHOUT_MULTICAST.items())])


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """/proc and /dev of a host with two GPUs."""
    for number in (0, 1):
        folder = tmp_path / "driver" / "nvidia" / "gpus" / f"0000:0{number}:00.0"
        folder.mkdir(parents=True)
        (folder / "information").write_text(TEXT.format(number))
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm", "nvidia-caps"):
        (tmp_path / name).touch()
    return tmp_path


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("", []),
        ("void", []),
        ("all", ["nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"]),
        ("GPU-1", ["nvidia1", "nvidiactl", "nvidia-uvm"]),
        ("GPU-1,0", ["nvidia1", "nvidia0", "nvidiactl", "nvidia-uvm"]),
    ],
)
def test_a_container_gets_the_gpus_that_it_asks_for(host: Path, asked: str, found: list[str]) -> None:
    spec: dict[str, Any] = {"process": {"env": [f"{runtime.VARIABLE}={asked}"]}, "mounts": [{}], "linux": {}}
    made = runtime.prepared(spec, host, host)
    assert [device["path"] for device in made["linux"]["devices"]] == [f"/dev/{name}" for name in found]
    assert len(made["linux"]["resources"]["devices"]) == len(found)
    programs = {mount["destination"]: mount["options"] for mount in made["mounts"] if mount}
    assert programs["/usr"] == ["rbind", "ro"]
    assert runtime.STAGE_CODE not in programs


def test_a_gpu_that_is_not_there_is_no_container(host: Path) -> None:
    with pytest.raises(KeyError):
        runtime.nodes("GPU-7", runtime.minors(host), host)


def test_a_visit_goes_on_after_a_failed_step_and_names_what_it_did_not_run() -> None:
    visit = Visit("one", until_s=60)
    failed = visit.step("fails", lambda: 1 / 0)
    assert failed is FAILED
    assert visit.step("needs it", lambda _: {}, failed) is FAILED
    assert visit.step("does not", lambda: {"found": 2}) == {"found": 2}
    first, second, third = visit.record()["steps"]
    assert first["failed"].startswith("ZeroDivisionError")
    assert second["not run"] == "a step before it has no result"
    assert third["found"] == 2
    assert visit.failed


def test_a_step_whose_claims_are_not_all_true_keeps_what_it_found() -> None:
    visit = Visit("one", until_s=60)
    visit.step("proves", lambda: judged({"devices": 1}, one_device=True))
    assert visit.step("does not", lambda: judged({"devices": 2}, one_device=False, no_network=True)) is FAILED
    proved, unproved = visit.record()["steps"]
    assert (proved["devices"], "failed" in proved) == (1, False)
    assert (unproved["devices"], unproved["failed"]) == (2, "Unproved: not so: one_device")


def test_the_step_at_which_a_visit_is_ended_is_on_record() -> None:
    visit = Visit("one", until_s=60)
    with pytest.raises(SystemExit):
        visit.step("long", sys.exit)
    assert visit.record()["steps"] == [{"step": "long", "seconds": 0.0, "failed": "the visit was ended"}]


def test_no_visit_begins_beside_another_one_of_the_same_folder(tmp_path: Path) -> None:
    with alone(tmp_path), pytest.raises(HostError, match="another visit is still running"):
        alone(tmp_path)
    alone(tmp_path).release()


@pytest.mark.parametrize(
    ("options", "why"), [({"until_s": -1}, "no time was left"), ({"only": {"x"}}, "not asked for")]
)
def test_a_step_that_does_not_begin_says_why(options: dict[str, Any], why: str) -> None:
    visit = Visit("one", **{"until_s": 60.0, **options})
    visit.step("late", lambda: {})
    assert visit.record()["steps"] == [{"step": "late", "not run": why}]
    assert not visit.failed


def test_the_settings_of_a_visit_are_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    from include.settings import Settings
    from include.targets.vllm.settings import VllmSettings

    for name, value in environment("docker").items():
        monkeypatch.setenv(name, value)
    assert Settings().runner == "docker"
    assert Settings().artifacts.is_relative_to(layout.DATA)
    assert (VllmSettings().network, VllmSettings().image) == ("host", layout.VLLM_IMAGE)
