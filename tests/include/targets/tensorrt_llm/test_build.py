"""The build program against a stand-in for ``trtllm-build`` that takes the documented flags and no others."""

from __future__ import annotations

import io
import itertools
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from include.errors import ToolError, UserError, from_dict
from include.requests.release import ReleaseRequest
from include.runners.container import CODE_ROOT, code_archive
from include.stages.build_tensorrt_llm import options
from include.stages.build_tensorrt_llm.outputs import (
    check_engine,
    read_engine,
    seconds_of_build,
    world_size_of_checkpoint,
)
from include.targets.tensorrt_llm import engines
from include.targets.tensorrt_llm.image import ImageFacts, Tools, Versions
from include.targets.tensorrt_llm.settings import TensorRTLLMSettings

PROJECT = Path(__file__).parents[4]
FIXTURES = PROJECT / "tests" / "fixtures" / "tensorrt_llm"
FLAGS = json.loads((FIXTURES / "trtllm_build_flags.json").read_text())
LIMITS = ["--max-batch-size", "8", "--max-input-len", "1024", "--max-seq-len", "2048", "--max-num-tokens", "2048"]
IMAGE = ImageFacts(
    image="image",
    id="sha256:0",
    digest=None,
    tools=Tools(python="/py", trtllm_build="/bin/trtllm-build", tritonserver="/ts", templates="/t"),
    versions=Versions(
        tensorrt_llm="1.2.1",
        tensorrt="10.14.1.48",
        modelopt="0.37.0",
        transformers="4.57.3",
        torch="2.9.0",
        python="3.12.3",
    ),
)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "checkpoint", world_size=1)


def write_checkpoint(path: Path, *, world_size: int, algorithm: str = "W4A16_AWQ") -> Path:
    path.mkdir()
    mapping = {"world_size": world_size, "tp_size": world_size, "pp_size": 1}
    config = {"architecture": "LlamaForCausalLM", "mapping": mapping, "quantization": {"quant_algo": algorithm}}
    (path / "config.json").write_text(json.dumps(config))
    for rank in range(world_size):
        (path / f"rank{rank}.safetensors").write_bytes(b"weights")
    return path


@pytest.fixture
def image_path(tmp_path: Path) -> dict[str, str]:
    """An environment like the image's: trtllm-build and nvidia-smi on PATH, packages with versions, our code sent."""
    tools, packages, code = tmp_path / "bin", tmp_path / "packages", tmp_path / "code"
    tools.mkdir()
    (tools / "trtllm-build").symlink_to(FIXTURES / "fake_trtllm_build.py")
    (tools / "nvidia-smi").write_text("#!/bin/sh\necho 'NVIDIA L40S'\n")
    (tools / "nvidia-smi").chmod(0o755)
    for name, version in (("tensorrt_llm", "1.2.1"), ("tensorrt", "10.14.1.48")):
        meta = packages / f"{name}-{version}.dist-info" / "METADATA"
        meta.parent.mkdir(parents=True)
        meta.write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    with tarfile.open(fileobj=io.BytesIO(code_archive())) as tar:
        tar.extractall(code, filter="data")
    return {"PATH": f"{tools}:{os.environ['PATH']}", "PYTHONPATH": f"{code}{CODE_ROOT}:{packages}"}


def run(
    env: dict[str, str], checkpoint: Path, out: Path, *more: str, fault: str = ""
) -> subprocess.CompletedProcess[str]:
    out.mkdir()
    argv = [sys.executable, "-m", "include.stages.build_tensorrt_llm", "--checkpoint", str(checkpoint), *LIMITS, *more]
    environment = {**os.environ, **env, "FAKE_FAULT": fault}
    return subprocess.run([*argv, "--out", str(out)], env=environment, cwd="/", capture_output=True, text=True)


def report_of(out: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((out / "stage.json").read_text())
    return report


def test_a_build_leaves_the_engine_and_a_report(image_path: dict[str, str], checkpoint: Path, tmp_path: Path) -> None:
    done = run(image_path, checkpoint, tmp_path / "out")
    assert done.returncode == 0, done.stdout + done.stderr
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["config.json", "rank0.engine", "stage.json"]
    report = report_of(tmp_path / "out")
    assert report["results"]["build_s"] == 3 * 60 + 56
    assert report["versions"].items() >= {"tensorrt_llm": "1.2.1", "tensorrt": "10.14.1.48"}.items()
    assert report["gpu"] == "NVIDIA L40S"
    assert "building 10%\nbuilding 100%" in done.stdout.replace("[TRT-LLM] [I] ", "")


@pytest.mark.parametrize(("algorithm", "built"), [("FP8", True), ("NVFP4", False)])
def test_a_checkpoint_of_another_format(
    image_path: dict[str, str], tmp_path: Path, algorithm: str, built: bool
) -> None:
    """Its engine is of the same, or it is refused before ``trtllm-build`` runs."""
    checkpoint = write_checkpoint(tmp_path / "checkpoint", world_size=1, algorithm=algorithm)
    done = run(image_path, checkpoint, tmp_path / "out")
    assert (done.returncode == 0) is built, done.stdout + done.stderr
    if built:
        assert read_engine(tmp_path / "out").quantization == algorithm
    else:
        assert "quant_algo is NVFP4, not one of W4A16_AWQ, FP8" in done.stdout
        assert not list((tmp_path / "out").glob("*.engine"))


def test_the_timing_cache_goes_from_build_to_build(
    image_path: dict[str, str], checkpoint: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "timing" / "10.14.1.48-L40S.cache"
    used = []
    for name in ("first", "second"):
        assert run(image_path, checkpoint, tmp_path / name, "--timing-cache", str(cache)).returncode == 0
        used.append(json.loads((tmp_path / name / "config.json").read_text())["build_config"].get("input_timing_cache"))
    assert used == [None, str(cache)]
    assert list(cache.parent.iterdir()) == [cache]


def test_as_many_ranks_are_built_as_the_checkpoint_has(image_path: dict[str, str], tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "checkpoint", world_size=4)
    assert run(image_path, checkpoint, tmp_path / "out").returncode == 0
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["build_config"]["workers"] == 4
    assert (read_engine(tmp_path / "out").world_size, report_of(tmp_path / "out")["results"]["tp_size"]) == (4, 4)


@pytest.mark.parametrize(
    ("fault", "failure", "words"),
    [
        ("gpu-oom", "HostError", "GPU is out of memory"),
        ("killed", "HostError", "host is out of memory"),
        ("assertion", "ToolError", "exit code 1:\n.*Engine building failed"),
        ("rank-missing", "ToolError", r"engine files are \[\], not \['rank0.engine'\]"),
        ("other-version", "ToolError", "TensorRT-LLM 1.2.0, but the image has 1.2.1"),
    ],
)
def test_a_failed_build_says_why(
    image_path: dict[str, str], checkpoint: Path, tmp_path: Path, fault: str, failure: str, words: str
) -> None:
    cache = tmp_path / "timing" / "any.cache"
    done = run(image_path, checkpoint, tmp_path / "out", "--timing-cache", str(cache), fault=fault)
    described = from_dict(json.loads((tmp_path / "out" / "failure.json").read_text()))
    assert (type(described).__name__, done.returncode) == (failure, described.exit_code)
    with pytest.raises(type(described), match=f"(?s){words}"):
        raise described
    assert not [path for path in cache.parent.iterdir() if path != cache]


def test_an_image_without_trtllm_build_is_refused(image_path: dict[str, str], checkpoint: Path, tmp_path: Path) -> None:
    run(image_path, checkpoint, tmp_path / "out", "--trtllm-build", "/opt/none/trtllm-build")
    failure = json.loads((tmp_path / "out" / "failure.json").read_text())
    assert (failure["class"], failure["where"]) == ("HostError", "/opt/none/trtllm-build")


def test_a_vocabulary_with_gaps_is_not_built(image_path: dict[str, str], checkpoint: Path, tmp_path: Path) -> None:
    (checkpoint / "generation_config.json").write_text(json.dumps({"eos_token_id": 2, "suppress_tokens": [255, 258]}))
    out = tmp_path / "out"
    done = run(image_path, checkpoint, out)
    assert done.returncode == UserError.exit_code
    assert "2 ids of the vocabulary stand for no token, 255" in json.loads((out / "failure.json").read_text())["what"]


def test_a_checkpoint_that_lacks_a_rank_is_refused(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "checkpoint", world_size=2)
    (checkpoint / "rank1.safetensors").unlink()
    with pytest.raises(UserError, match=r"2 GPUs, but has no rank1\.safetensors"):
        world_size_of_checkpoint(checkpoint)


@pytest.mark.parametrize(
    ("text", "message"), [("{", "cannot be read"), ('{"version": "1.2.1"}', "no field 'pretrained_config'")]
)
def test_an_engine_without_a_proper_config_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ToolError, match=message):
        read_engine(tmp_path)


@pytest.mark.parametrize("algorithm", ["W4A16_AWQ", "FP8"])
def test_an_engine_of_another_format_than_its_checkpoint_is_refused(tmp_path: Path, algorithm: str) -> None:
    (tmp_path / "rank0.engine").touch()
    (tmp_path / "config.json").write_text(json.dumps({"version": "1.2.1", "pretrained_config": {}}))
    with pytest.raises(ToolError, match=f"quantization is None, not {algorithm}"):
        check_engine(tmp_path, version="1.2.1", world_size=1, algorithm=algorithm)


@pytest.mark.parametrize(
    ("line", "seconds"),
    [
        ("[11/22/2026-18:00:00] [TRT-LLM] [I] Total time of building all engines: 01:02:03\n", 3723),
        ("[TRT-LLM] [I] Total time of building Unnamed Network 0: 00:00:33", None),
    ],
)
def test_the_build_time_is_read_from_the_log(line: str, seconds: int | None) -> None:
    assert seconds_of_build(line) == seconds


FORM = [
    {
        "max_batch_size": batch,
        "max_input_len": prompt,
        "max_seq_len": length,
        "max_num_tokens": tokens,
        "awq_group_size": group,
        "dtype": dtype,
        "tp_size": tp,
    }
    for batch, (prompt, length), tokens, group, dtype, tp in itertools.product(
        (1, 64, 256), ((1, 2), (1024, 2048), (4096, 131072)), (16, 8192), (64, 128), ("float16", "bfloat16"), (1, 2, 8)
    )
]
PLUGINS = list(itertools.product(options.GEMM_PLUGINS, options.ATTENTION_PLUGINS))


@pytest.mark.parametrize("plugins", PLUGINS, ids="-".join)
def test_every_combination_of_form_values_renders_documented_flags(plugins: tuple[str, str], tmp_path: Path) -> None:
    settings = TensorRTLLMSettings.model_validate({"gemm_plugin": plugins[0], "gpt_attention_plugin": plugins[1]})
    for with_cache, form in itertools.product((False, True), FORM):
        cache = tmp_path / f"{with_cache}.cache"
        if with_cache:
            cache.touch()
        request = ReleaseRequest.parse(form)
        flags = engines.build_flags(engines.build_options(request, settings), IMAGE, cache)
        parsed = options.parse(["--checkpoint", "/c", *flags, "--out", "/o"])
        argv = options.trtllm_build(parsed, workers=request.tp_size, new_timing_cache=tmp_path / "new")
        assert_documented(argv)
        given = dict(zip(argv[1::2], argv[2::2], strict=True))
        assert given == {
            "--checkpoint_dir": "/c",
            "--output_dir": "/o",
            "--max_batch_size": str(form["max_batch_size"]),
            "--max_input_len": str(form["max_input_len"]),
            "--max_seq_len": str(form["max_seq_len"]),
            "--max_num_tokens": str(form["max_num_tokens"]),
            "--gemm_plugin": plugins[0],
            "--gpt_attention_plugin": plugins[1],
            "--context_fmha": "enable",
            "--remove_input_padding": "enable",
            "--kv_cache_type": "paged",
            "--workers": str(form["tp_size"]),
            "--output_timing_cache": str(tmp_path / "new"),
            **({"--input_timing_cache": str(cache)} if with_cache else {}),
        }


def assert_documented(argv: list[str]) -> None:
    assert argv[0] == "/bin/trtllm-build"
    for flag, value in zip(argv[1::2], argv[2::2], strict=True):
        name = flag.removeprefix("--")
        if name in FLAGS["choice"]:
            assert value in FLAGS["choice"][name]
        elif name in FLAGS["integer"]:
            assert int(value) > 0
        else:
            assert name in FLAGS["path"]
            assert Path(value).is_absolute()


@pytest.mark.parametrize(
    ("gpu", "name"),
    [("NVIDIA H100 80GB HBM3", "NVIDIA_H100_80GB_HBM3"), ("NVIDIA RTX 6000 Ada/x", "NVIDIA_RTX_6000_Ada_x")],
)
def test_a_timing_cache_belongs_to_a_tensorrt_version_and_a_gpu_model(tmp_path: Path, gpu: str, name: str) -> None:
    assert engines.timing_cache(tmp_path, "10.14.1.48", gpu) == tmp_path / f"10.14.1.48-{name}.cache"


@pytest.mark.parametrize("group", [16, 32])
def test_a_group_size_that_upstreams_kernels_do_not_have_is_refused(group: int) -> None:
    with pytest.raises(UserError, match="64 and 128 only"):
        engines.check_request(ReleaseRequest.parse({"awq_group_size": group}))
