"""Every preset is a request that its model and its GPU can meet, by the checks that `check_request` makes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from include.errors import HostError
from include.host.gpus import Gpu
from include.model.config import ModelConfig
from include.requests.presets import PRESETS, Preset
from include.requests.release import ReleaseRequest
from include.targets import estimates
from include.targets.estimates import GIB, MIB
from include.targets.tensorrt_llm import engines

DOCS = Path(__file__).parents[3] / "docs"
LLAMA_2_7B = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "vocab_size": 32000,
    "max_position_embeddings": 4096,
    "torch_dtype": "float16",
}
LLAMA_3_1_8B = LLAMA_2_7B | {
    "intermediate_size": 14336,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "rope_theta": 500000.0,
    "rope_scaling": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
    "torch_dtype": "bfloat16",
}
MISTRAL_7B = LLAMA_2_7B | {
    "architectures": ["MistralForCausalLM"],
    "intermediate_size": 14336,
    "num_key_value_heads": 8,
    "vocab_size": 32768,
    "max_position_embeddings": 32768,
    "rope_theta": 1000000.0,
    "sliding_window": None,
    "torch_dtype": "bfloat16",
}
QWEN2_5_7B = {
    "architectures": ["Qwen2ForCausalLM"],
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152064,
    "max_position_embeddings": 32768,
    "rope_theta": 1000000.0,
    "sliding_window": 131072,
    "use_sliding_window": False,
    "torch_dtype": "bfloat16",
}
SMOLLM2_135M = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "vocab_size": 49152,
    "max_position_embeddings": 8192,
    "rope_theta": 100000,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
}
# Each with its number of weights, as the Hub counts them.
CONFIGS: dict[str, tuple[dict[str, Any], int]] = {
    "NousResearch/Llama-2-7b-hf": (LLAMA_2_7B, 6_738_415_616),
    "meta-llama/Llama-3.1-8B-Instruct": (LLAMA_3_1_8B, 8_030_261_248),
    "mistralai/Mistral-7B-Instruct-v0.3": (MISTRAL_7B, 7_248_023_552),
    "Qwen/Qwen2.5-7B-Instruct": (QWEN2_5_7B, 7_615_616_512),
    "HuggingFaceTB/SmolLM2-135M-Instruct": (SMOLLM2_135M, 134_515_008),
}
# The least that a card of its size has: an A10G's 24 GB and an H100's 80 GB, as nvidia-smi tells them.
GPUS = {
    "24 GB GPU": Gpu(0, "GPU-1", "NVIDIA A10G", 86, "590.44.01", 23028, 4),
    "80 GB GPU": Gpu(0, "GPU-1", "NVIDIA H100 80GB HBM3", 90, "590.44.01", 81559, 4),
}


def config(preset: Preset) -> ModelConfig:
    return ModelConfig.parse(json.dumps(CONFIGS[preset.request.model][0]), where=preset.name)


def gpu_of(preset: Preset) -> Gpu:
    return GPUS[preset.device]


def serving(preset: Preset) -> Gpu:
    """Its GPU with a live server of the preset: it took its share of what its weights left free."""
    gpu = gpu_of(preset)
    used = estimates.estimate(config(preset), preset.request)
    share = preset.request.kv_cache_memory_fraction
    sequence = preset.request.max_seq_len * estimates.kv_cache_bytes_per_token(config(preset))
    fixed = used.serve - int(sequence / share)
    total = (gpu.memory_total_mib or 0) * MIB
    return replace(gpu, memory_used_mib=int(fixed + share * (total - fixed)) // MIB)


def check_fits(preset: Preset, gpu: Gpu) -> None:
    """As `check_request` does, for a full batch of longest requests."""
    estimate = estimates.estimate(config(preset), preset.request)
    estimates.check_fits(replace(estimate, serve=estimate.serve_full), [gpu])


def presets(*devices: str) -> Any:
    chosen = [preset for preset in PRESETS if preset.device in devices]
    return pytest.mark.parametrize("preset", chosen, ids=lambda preset: preset.name)


@pytest.mark.parametrize(("fields", "weights"), CONFIGS.values(), ids=CONFIGS)
def test_the_configs_here_are_those_of_the_models(fields: dict[str, Any], weights: int) -> None:
    assert ModelConfig.parse(json.dumps(fields), where="here").parameters == weights


@pytest.mark.parametrize("preset", PRESETS, ids=lambda preset: preset.name)
def test_its_conf_is_the_request_with_every_field(preset: Preset) -> None:
    assert ReleaseRequest.parse(json.loads(json.dumps(preset.conf))) == preset.request
    assert list(preset.conf) == list(ReleaseRequest.model_fields)


@pytest.mark.parametrize("preset", PRESETS, ids=lambda preset: preset.name)
def test_its_model_can_be_asked_for_like_this(preset: Preset) -> None:
    model, request = config(preset), preset.request
    model.check_supported()
    model.check_group_size(request.awq_group_size)
    model.check_lengths(request.max_input_len, request.max_seq_len)
    assert request.max_num_tokens >= request.max_input_len


@presets("24 GB GPU", "80 GB GPU")
def test_its_engine_is_one_that_tensorrt_llm_builds(preset: Preset) -> None:
    engines.check_request(preset.request)
    assert preset.request.dtype == config(preset).dtype


@presets("24 GB GPU", "80 GB GPU")
def test_a_gpu_of_its_own_holds_it_with_a_full_batch_of_longest_requests(preset: Preset) -> None:
    check_fits(preset, gpu_of(preset))


@presets("80 GB GPU")
def test_80_gb_hold_it_beside_the_live_server(preset: Preset) -> None:
    check_fits(preset, serving(preset))


@presets("24 GB GPU")
def test_24_gb_do_not_hold_it_beside_the_live_server_as_the_page_says(preset: Preset) -> None:
    with pytest.raises(HostError, match="calibrate_awq needs about"):
        check_fits(preset, serving(preset))


def test_the_docs_have_every_preset_as_it_is() -> None:
    text = (DOCS / "presets.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    assert rows == [_row(preset) for preset in PRESETS]


def _row(preset: Preset) -> str:
    request = preset.request
    cells = [
        f"`{preset.name}`",
        f"`{request.model}`",
        request.dtype,
        request.awq_group_size,
        f"{request.calib_size} x {request.calib_seq_len}",
        request.max_batch_size,
        f"{request.max_input_len} of {request.max_seq_len}",
        request.kv_cache_memory_fraction,
        request.max_perplexity_increase,
        *_needs(preset),
    ]
    return f"| {' | '.join(map(str, cells))} |"


def _needs(preset: Preset) -> list[str]:
    if preset.device not in GPUS:
        return ["-", "-", "-"]
    needed = estimates.estimate(config(preset), preset.request)
    return [f"{size / GIB:.1f}" for size in (needed.calibrate, needed.build, needed.serve_full)]
