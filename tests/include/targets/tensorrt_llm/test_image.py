"""The probe, run for real on a tree like the image's, and what is made of its answer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from include.errors import HostError, ToolError
from include.targets.tensorrt_llm import probe
from include.targets.tensorrt_llm.image import CANDIDATES, ImageFacts, probe_argv

VERSIONS = {
    "tensorrt_llm": "1.2.1",
    "tensorrt": "10.14.1.48",
    "nvidia-modelopt": "0.37.0",
    "transformers": "4.57.3",
    "torch": "2.9.0a0",
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """An image's tools and packages, with an interpreter that has them and a first one that does not."""
    packages = tmp_path / "packages"
    for name, version in VERSIONS.items():
        meta = packages / f"{name.replace('-', '_')}-{version}.dist-info" / "METADATA"
        meta.parent.mkdir(parents=True)
        meta.write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    for name, path in (("python-plain", ""), ("python-venv", packages)):
        tool = tmp_path / "bin" / name
        tool.parent.mkdir(exist_ok=True)
        tool.write_text(f'#!/bin/sh\nPYTHONPATH={path} exec {sys.executable} -S "$@"\n')
        tool.chmod(0o755)
    for name in ("trtllm-build", "tritonserver", "mpirun"):
        (tmp_path / "bin" / name).write_text("#!/bin/sh\n")
        (tmp_path / "bin" / name).chmod(0o755)
    (tmp_path / "app" / "templates").mkdir(parents=True)
    (tmp_path / "app" / "link").symlink_to("templates")
    return tmp_path


def candidates(tree: Path, **changes: list[str]) -> dict[str, list[str]]:
    return {
        "python": [str(tree / "bin" / "python-plain"), str(tree / "bin" / "python-venv")],
        "trtllm_build": ["trtllm-build"],
        "tritonserver": [str(tree / "none"), str(tree / "bin" / "tritonserver")],
        "mpirun": ["mpirun"],
        "templates": [str(tree / "none"), str(tree / "app" / "link")],
        **changes,
    }


def run_probe(tree: Path, asked: dict[str, list[str]]) -> str:
    argv = [sys.executable, *probe_argv()[1:3], json.dumps(asked)]
    env = {"PATH": f"{tree / 'bin'}:{os.environ['PATH']}", "TRITON_SERVER_VERSION": "2.60.0"}
    done = subprocess.run(argv, env=env, capture_output=True, text=True, check=True)
    return f"== NVIDIA banner ==\nWARNING: no driver\n{done.stdout}"


def facts(output: str) -> ImageFacts:
    return ImageFacts.parse(output, image="image:tag", image_id="sha256:0123456789abcdef", digest="sha256:feed")


def test_the_probe_finds_paths_and_versions(tree: Path) -> None:
    found = facts(run_probe(tree, candidates(tree)))
    assert found.tools.model_dump() == {
        "python": str(tree / "bin" / "python-venv"),
        "trtllm_build": str(tree / "bin" / "trtllm-build"),
        "tritonserver": str(tree / "bin" / "tritonserver"),
        "mpirun": str(tree / "bin" / "mpirun"),
        "templates": str(tree / "app" / "templates"),
    }
    assert found.versions.model_dump(by_alias=True).items() >= {**VERSIONS, "tritonserver": "2.60.0"}.items()
    assert found.short_id == "0123456789ab"


def test_facts_survive_being_written_down(tree: Path) -> None:
    found = facts(run_probe(tree, candidates(tree)))
    assert ImageFacts.model_validate_json(found.model_dump_json(by_alias=True)) == found


@pytest.mark.parametrize("tool", ["trtllm_build", "tritonserver", "templates"])
def test_an_image_that_lacks_a_tool_is_refused_with_where_it_was_looked_for(tree: Path, tool: str) -> None:
    output = run_probe(tree, candidates(tree, **{tool: ["/opt/none"]}))
    with pytest.raises(HostError, match=f"lacks {tool} .*{CANDIDATES[tool][-1]}"):
        facts(output)


def test_an_image_without_tensorrt_llm_is_refused(tree: Path) -> None:
    output = run_probe(tree, candidates(tree, python=[str(tree / "bin" / "python-plain")]))
    with pytest.raises(HostError, match="lacks tensorrt_llm; tensorrt; nvidia-modelopt"):
        facts(output)


def test_only_an_engine_of_many_gpus_needs_mpirun(tree: Path) -> None:
    found = facts(run_probe(tree, candidates(tree, mpirun=["/opt/none"])))
    with pytest.raises(HostError, match="no mpirun .*tp_size must be 1"):
        found.mpirun()


@pytest.mark.parametrize("version", ["1.3.0rc22", "1.4.0", "2.0"])
def test_a_version_that_cannot_build_engines_is_refused(version: str) -> None:
    with pytest.raises(HostError, match=f"TensorRT-LLM {version} cannot build engines"):
        facts(answer(tensorrt_llm=version))


@pytest.mark.parametrize("version", ["1.0.0", "1.2.1", "1.2.1+cu131", "0.20.0"])
def test_a_version_that_can_build_engines_is_taken(version: str) -> None:
    assert facts(answer(tensorrt_llm=version)).versions.tensorrt_llm == version


def answer(**versions: str) -> str:
    tools = dict.fromkeys(CANDIDATES, "/opt/tool")
    found = {"tools": tools, "versions": {**VERSIONS, "python": "3.12.3", **versions}}
    return probe.MARKER + json.dumps(found)


def test_a_probe_that_did_not_run_is_an_error() -> None:
    with pytest.raises(ToolError, match="could not be probed: exec: python3: not found"):
        facts("exec: python3: not found\n")


@pytest.mark.parametrize("accepted", [frozenset(), frozenset({"sha256:feed", "sha256:beef"})], ids=["any", "listed"])
def test_an_accepted_digest_is_taken(accepted: frozenset[str]) -> None:
    facts(answer()).check_digest(accepted)


def test_another_digest_is_refused() -> None:
    with pytest.raises(HostError, match="digest is sha256:feed, which is not accepted"):
        facts(answer()).check_digest(frozenset({"sha256:beef"}))
