"""Target vllm: refusals, keys, repositories and the start of its server, without a GPU."""

from __future__ import annotations

import ast
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from include.errors import HostError, ToolError, UserError
from include.host import gpus as gpu
from include.host.docker.images import ImageId
from include.host.docker.oneshot import Finished
from include.host.gpus import Gpu
from include.model.config import ModelConfig
from include.requests.release import ReleaseRequest
from include.settings import Settings
from include.stages.build_vllm.__main__ import LIMITS
from include.targets import pytriton
from include.targets.vllm import VllmTarget
from include.targets.vllm.settings import VllmSettings
from include.tasks import calibrate_awq, measure_original
from include.triton import repository
from include.triton.servers import Ports

PORTS = Ports(http=1, grpc=2, metrics=3)
B200 = Gpu(0, "GPU-1", "NVIDIA B200", 100, "580.159.04", 183359, 4)
LLAMA = {
    "architectures": ["LlamaForCausalLM"], "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
    "num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49152, "max_position_embeddings": 8192,
    "tie_word_embeddings": True, "torch_dtype": "bfloat16",
}  # fmt: skip
CONFIG = ModelConfig.parse(json.dumps(LLAMA), where="test")


class PlayedImage:
    """An image whose nvidia-smi lists one GPU."""

    def __init__(self, one: Gpu = B200) -> None:
        self._line = (
            f"{one.index}, {one.uuid}, {one.name}, {(one.sm or 0) / 10}, {one.driver}, "
            f"{one.memory_total_mib}, {one.memory_used_mib}, Disabled"
        )

    def ensure(self) -> ImageId:
        return ImageId(id="sha256:1", digest="sha256:2")

    def run(self, argv: tuple[str, ...], *, gpus: bool = False) -> Finished:
        assert gpus
        return Finished(0, self._line)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    modelopt = tmp_path / "modelopt"
    modelopt.mkdir()
    locked = (
        "nvidia-modelopt==0.37.0 \\\n    --hash=sha256:0a\n    # via x\ntransformers==4.57.3 \\\n    --hash=sha256:0b\n"
    )
    (modelopt / "requirements.txt").write_text(locked)
    return Settings(artifacts=tmp_path / "artifacts", runner="docker", vllm_modelopt=modelopt)


def target(settings: Settings, one: Gpu = B200, **own: Any) -> VllmTarget:
    return VllmTarget(settings, VllmSettings(**own), PlayedImage(one))  # type: ignore[arg-type]


def request(**fields: Any) -> ReleaseRequest:
    return ReleaseRequest(target="vllm", **fields)


@pytest.mark.parametrize("sm", [75, 80, 86, 89, 90, 100, 103, 120])
def test_turing_to_blackwell_will_do(settings: Settings, sm: int) -> None:
    target(settings, replace(B200, sm=sm)).check_host(request())


@pytest.mark.parametrize(
    ("one", "fields", "words"),
    [
        (replace(B200, sm=70, name="Tesla V100"), {}, "V100.*older than Turing"),
        (replace(B200, driver="570.86.15"), {}, "driver is 570.86.15"),
        (replace(B200, memory_used_mib=9000), {}, "9000 of 183359 MiB in use"),
        (B200, {"tp_size": 2}, "tp_size 2 needs 2 equal GPUs"),
    ],
    ids=["volta", "driver", "busy", "two"],
)
def test_a_host_that_will_not_do_is_refused(settings: Settings, one: Gpu, fields: dict[str, Any], words: str) -> None:
    with pytest.raises(HostError, match=words):
        target(settings, one).check_host(request(**fields))


def test_a_group_size_that_no_kernel_takes_is_refused(settings: Settings) -> None:
    with pytest.raises(UserError, match="32, 64 and 128 only"):
        target(settings).check_host(request(awq_group_size=16))


@pytest.mark.parametrize("sm", [75, 80, 86])
def test_a_gpu_that_is_too_old_for_fp8_is_refused_by_name(settings: Settings, sm: int) -> None:
    old = replace(B200, sm=sm, name="NVIDIA A10")
    with pytest.raises(HostError) as refusal:
        target(settings, old).check_host(request(quantization="fp8"))
    assert f"GPU 0 (NVIDIA A10) is SM {sm}; FP8 needs SM 89 or later" in str(refusal.value)
    assert "set quantization to int4_awq" in str(refusal.value)


@pytest.mark.parametrize("sm", [89, 90, 100, 120])
def test_fp8_asks_for_no_group_size(settings: Settings, sm: int) -> None:
    target(settings, replace(B200, sm=sm)).check_host(request(quantization="fp8", awq_group_size=16))


def test_without_modelopts_folder_the_setup_is_named(settings: Settings) -> None:
    (settings.vllm_modelopt / "requirements.txt").unlink()
    with pytest.raises(HostError, match="make setup-vllm"):
        target(settings).check_host(request())


def test_as_processes_it_needs_an_environment(settings: Settings, tmp_path: Path) -> None:
    bare = settings.model_copy(update={"runner": "process", "vllm_python": tmp_path / "none"})
    with pytest.raises(HostError, match="make setup-vllm"):
        target(bare).check_host(request())


def test_a_host_without_nvidia_smi_is_refused(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "NVIDIA_SMI", ("/no/such/nvidia-smi",))
    with pytest.raises(HostError, match="nvidia-smi does not run"):
        target(settings.model_copy(update={"runner": "process"})).list_gpus()


def test_both_sides_of_the_comparison_see_modelopts_folder_and_the_build_does_not(settings: Settings) -> None:
    it = target(settings)
    for module in (calibrate_awq.MODULE, measure_original.MODULE):
        assert it.command(module, ()).env["HF2TRITON_SITE"] == str(settings.vllm_modelopt)
    assert "HF2TRITON_SITE" not in it.command(it.build_module, ()).env
    assert settings.vllm_modelopt in it.stage_image().reads


def test_every_limit_reaches_the_build_and_its_key(settings: Settings) -> None:
    it = target(settings, attention_backend="FLASH_ATTN")
    asked = request(max_seq_len=4096, max_batch_size=16)
    args = it.build_args(asked)
    assert args[args.index("--max-seq-len") + 1] == "4096"
    assert {f"--{name.replace('_', '-')}" for name in LIMITS} <= set(args)
    assert it.build_options(asked) != it.build_options(request(max_batch_size=16))
    assert it.environment()["attention"] == "FLASH_ATTN"
    assert it.hardware() == {"gpu": "NVIDIA B200", "sm": "100"}
    assert it.calibrate_options() == {"smoothing": "foldable"}


def test_the_bill_of_materials_has_modelopts_folder_and_the_image(settings: Settings) -> None:
    it = target(settings)
    assert it.packages() == {"nvidia-modelopt": "0.37.0", "transformers": "4.57.3"}
    assert it.image_id() == ImageId(id="sha256:1", digest="sha256:2")
    assert it.environment()["modelopt"] == "nvidia-modelopt==0.37.0 transformers==4.57.3"


@pytest.fixture
def filled(settings: Settings, tmp_path: Path) -> Path:
    engine, checkpoint, out = tmp_path / "engine", tmp_path / "checkpoint", tmp_path / "repository"
    engine.mkdir()
    (checkpoint / "tokenizer").mkdir(parents=True)
    (engine / "engine.json").write_text(json.dumps({"arguments": {"tensor_parallel_size": 2}}))
    it = target(settings)
    values = it.repository_values(request(streaming=True), CONFIG, checkpoint, engine)
    repository.assemble(it.templates(), values, out, it.overlay())
    repository.check(out)
    return out


def test_the_repository_is_the_shared_ensemble_with_its_own_engine(settings: Settings, filled: Path) -> None:
    slot = filled / "tensorrt_llm" / "1"
    own = target(settings).overlay() / "tensorrt_llm" / "1"
    assert (slot / "engine.py").read_bytes() == (own / "engine.py").read_bytes()
    assert (slot / "replies.py").is_file()
    parameters = repository.read(filled)["tensorrt_llm"].parameters
    assert parameters["kv_cache_free_gpu_mem_fraction"].string_value == "0.8"
    assert int(parameters["kv_cache_bytes"].string_value) > 2 << 30


def test_the_shared_files_of_the_slot_find_what_they_import_from_its_own(settings: Settings, filled: Path) -> None:
    own = {path.stem for path in (target(settings).overlay() / "tensorrt_llm" / "1").glob("*.py")}
    trees = {path.stem: ast.parse(path.read_text()) for path in (filled / "tensorrt_llm" / "1").glob("*.py")}
    imports = [node for name in {"model", "replies", "hangups", "text"} & set(trees) for node in ast.walk(trees[name])]
    wanted = {
        (node.module, alias.name)
        for node in imports
        if isinstance(node, ast.ImportFrom) and node.module in own
        for alias in node.names
    }
    assert wanted
    bodies = [(name, node) for name in own for node in trees[name].body]
    given = {(name, getattr(node, "name", "")) for name, node in bodies}
    given |= {(name, ast.unparse(node.targets[0])) for name, node in bodies if isinstance(node, ast.Assign)}
    assert wanted <= given


def test_the_server_takes_the_engines_gpus_in_the_image(settings: Settings, filled: Path) -> None:
    plan = target(settings).server(filled, PORTS)
    assert plan.gpus == 2
    assert plan.argv[0] == "/opt/tritonserver/bin/tritonserver"
    assert plan.container is not None
    assert plan.container.image == "sha256:1"
    assert filled in plan.container.reads
    assert plan.container.network == "bridge"


def test_on_the_hosts_network_triton_itself_listens_on_loopback(
    settings: Settings, filled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF2TRITON_VLLM_NETWORK", "host")
    plan = target(settings).server(filled, PORTS).hardened()
    assert plan.container is not None
    assert plan.in_container(plan.container).ports == ()
    assert "--http-address=127.0.0.1" in plan.argv


def test_as_a_process_it_is_pytritons_server(
    settings: Settings, filled: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = pytriton.Environment(
        python="3.12", site_packages=tmp_path, scripts=tmp_path, library="l", library_dir=tmp_path,
        pytriton=tmp_path, numpy="1.26.4",
    )  # fmt: skip
    monkeypatch.setattr(pytriton, "ask", lambda python: found)
    plan = target(settings.model_copy(update={"runner": "process"})).server(filled, PORTS)
    assert (plan.target, plan.gpus, plan.container) == ("vllm", 2, None)
    assert plan.env["VLLM_USE_FLASHINFER_SAMPLER"] == "0"


def test_a_stage_and_a_server_have_the_same_key_of_the_compile_cache(settings: Settings, filled: Path) -> None:
    it = target(settings)
    stage, server = it.command(it.build_module, ()).env, it.server(filled, PORTS).env
    hashed = {name for name in (*stage, *server) if name.startswith(("VLLM_", "CUDA_"))}
    assert {name: stage.get(name) for name in hashed} == {name: server.get(name) for name in hashed}


@pytest.mark.parametrize("text", ["{}", "[]", "{"])
def test_what_is_no_engine_is_named(settings: Settings, filled: Path, text: str) -> None:
    (filled.parent / "engine" / "engine.json").write_text(text)
    with pytest.raises(ToolError, match="not an engine of target vllm"):
        target(settings).server(filled, PORTS)


def test_each_rank_takes_a_gpu(settings: Settings) -> None:
    assert target(settings).gpus(request(tp_size=4)) == 4
