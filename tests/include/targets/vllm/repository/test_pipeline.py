"""The folder that vLLM works in."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from include.stages.build_vllm.proof import caches
from tests.include.targets.vllm.repository.test_engine import load


@pytest.fixture
def pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setitem(sys.modules, "transformers", SimpleNamespace(AutoTokenizer=None))  # type: ignore[arg-type]
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    return load("pipeline")


@pytest.fixture
def built(tmp_path: Path) -> Path:
    folder = tmp_path / "engine"
    (folder / "cache" / "graphs").mkdir(parents=True)
    (folder / "cache" / "graphs" / "one").write_text("compiled")
    (folder / "config.json").write_text("{}")
    return folder


def test_vllm_works_on_a_copy_of_the_cache(pipeline: ModuleType, built: Path) -> None:
    folder = pipeline._work_folder(built)
    (folder / "cache" / "graphs" / "one").write_text("changed")
    assert (built / "cache" / "graphs" / "one").read_text() == "compiled"
    assert (folder / "config.json").resolve() == built / "config.json"


def test_an_engine_without_a_cache_is_compiled_anew(pipeline: ModuleType, built: Path) -> None:
    (built / "cache" / "graphs" / "one").unlink()
    (built / "cache" / "graphs").rmdir()
    (built / "cache").rmdir()
    assert [path.name for path in pipeline._work_folder(built).iterdir()] == ["config.json"]


def test_what_ended_servers_left_is_removed(pipeline: ModuleType, built: Path) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    left, kept = (Path(tempfile.mkdtemp(prefix=f"hf2triton-vllm-{pid}-")) for pid in (ended.pid, os.getppid()))
    pipeline._work_folder(built)
    assert not left.exists()
    assert kept.exists()


def test_a_server_finds_what_was_compiled_at_the_build(
    pipeline: ModuleType, built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """vLLM's cache, Triton's and the driver's, each in the engine's copy."""
    seen: dict[str, str] = {}
    engine = SimpleNamespace(from_engine_args=lambda _: seen.update(os.environ))
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(AsyncEngineArgs=dict))  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "vllm.v1", ModuleType("vllm.v1"))
    monkeypatch.setitem(sys.modules, "vllm.v1.engine", ModuleType("vllm.v1.engine"))
    monkeypatch.setitem(sys.modules, "vllm.v1.engine.async_llm", SimpleNamespace(AsyncLLM=engine))  # type: ignore[arg-type]
    monkeypatch.setattr(pipeline, "_memory", lambda: [(8, 10)])
    monkeypatch.setattr(pipeline.multiprocessing, "set_executable", lambda _: None)
    monkeypatch.setattr(sys, "executable", sys.executable)  # what `_start` sets
    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.chdir(tmp_path)
    pipeline._start(built, {}, pipeline.Capacity(0.9, 0))
    assert seen.items() >= caches().items()
    # Their files name each other, and an engine is moved and copied.
    assert (seen["VLLM_CACHE_ROOT"], seen["TRITON_CACHE_DIR"]) == ("cache", "cache/triton")
    assert seen["CUDA_CACHE_PATH"] == f"{Path.cwd()}/cache/cuda"
    assert Path("cache", "graphs", "one").read_text() == "compiled"
