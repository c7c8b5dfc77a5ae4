from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from include.errors import UserError
from include.model.architectures import ARCHITECTURES
from include.model.config import ModelConfig
from tests.include.model.configs import (
    GEMMA_2_2B,
    GEMMA_3_1B,
    GRANITE_3_1_2B,
    LLAMA2_7B,
    MISTRAL_NEMO,
    OLMO_2_1B,
    PHI_3_MINI_4K,
    PHI_4,
    QWEN2_5_0_5B,
    QWEN3_0_6B,
    SMOLLM2_135M,
    SMOLLM3_3B,
    config,
)


class TestRead:
    def test_takes_a_directory_or_its_file(self, tmp_path: Path) -> None:
        file = tmp_path / "config.json"
        file.write_text(json.dumps(SMOLLM2_135M))
        assert ModelConfig.read(tmp_path) == ModelConfig.read(file) == config(SMOLLM2_135M)

    def test_names_a_file_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="cannot be read"):
            ModelConfig.read(tmp_path / "config.json")

    def test_survives_json(self) -> None:
        read = config(LLAMA2_7B, rope_scaling={"type": "linear", "factor": 2.0})
        assert ModelConfig.model_validate_json(read.model_dump_json()) == read

    @pytest.mark.parametrize(
        ("base", "parameters"),
        [
            pytest.param(LLAMA2_7B, 6_738_415_616, id="llama-2-7b"),
            pytest.param(SMOLLM2_135M, 134_515_008, id="smollm2-135m"),
            pytest.param(QWEN2_5_0_5B, 494_032_768, id="qwen2.5-0.5b"),
            pytest.param(MISTRAL_NEMO, 12_247_782_400, id="mistral-nemo-12b"),
            pytest.param(QWEN3_0_6B, 596_049_920, id="qwen3-0.6b"),
            pytest.param(PHI_3_MINI_4K, 3_821_079_552, id="phi-3-mini"),
            pytest.param(PHI_4, 14_659_507_200, id="phi-4"),
            pytest.param(GRANITE_3_1_2B, 2_533_531_648, id="granite-3.1-2b"),
            pytest.param(SMOLLM3_3B, 3_075_098_624, id="smollm3-3b"),
            pytest.param(OLMO_2_1B, 1_484_916_736, id="olmo-2-1b"),
            pytest.param(GEMMA_2_2B, 2_614_341_888, id="gemma-2-2b"),
            pytest.param(GEMMA_3_1B, 999_885_952, id="gemma-3-1b"),
        ],
    )
    def test_counts_the_parameters_as_the_hub_does(self, base: dict[str, Any], parameters: int) -> None:
        assert config(base).parameters == parameters

    def test_counts_biases(self) -> None:
        plain = config(LLAMA2_7B).parameters
        assert config(LLAMA2_7B, attention_bias=True).parameters == plain + 32 * 4 * 4096
        assert config(LLAMA2_7B, mlp_bias=True).parameters == plain + 32 * (2 * 11008 + 4096)

    def test_fills_in_what_old_configurations_leave_out(self) -> None:
        read = config(LLAMA2_7B)
        assert (read.kv_heads, read.head_dim, read.rope_theta) == (32, 128, 10000.0)

    @pytest.mark.parametrize(
        ("fields", "dtype"),
        [
            ({"dtype": "bfloat16"}, "bfloat16"),
            ({"torch_dtype": "torch.bfloat16"}, "bfloat16"),
            ({}, "float32"),
        ],
        ids=["transformers-5", "old", "absent"],
    )
    def test_knows_the_stored_type(self, fields: dict[str, str], dtype: str) -> None:
        assert config(LLAMA2_7B, "torch_dtype", **fields).dtype == dtype


LLAMA_3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


class TestRope:
    @pytest.mark.parametrize(
        ("fields", "theta", "scaling"),
        [
            pytest.param({"rope_theta": 5e5}, 5e5, None, id="top-level"),
            pytest.param({"rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}}, 5e5, None, id="parameters"),
            pytest.param(
                {"rope_parameters": {"rope_theta": 5e5, **LLAMA_3}},
                5e5,
                LLAMA_3,
                id="parameters-with-scaling",
            ),
            pytest.param(
                {"rope_theta": 5e5, "rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}},
                5e5,
                None,
                id="both",
            ),
            pytest.param(
                {"rope_theta": 5e5, "rope_scaling": {"rope_type": "linear", "factor": 2.0}},
                5e5,
                {"rope_type": "linear", "factor": 2.0},
                id="scaling",
            ),
        ],
    )
    def test_is_found_wherever_it_stands(self, fields: dict[str, object], theta: float, scaling: object) -> None:
        read = config(LLAMA2_7B, **fields)
        assert (read.rope_theta, read.rope_scaling) == (theta, scaling)

    @pytest.mark.parametrize(
        "fields",
        [
            {"rope_scaling": {"type": "linear", "factor": 2.0}},
            {"rope_scaling": {"rope_type": "linear", "factor": 2.0}},
            {"rope_parameters": {"rope_theta": 1e4, "rope_type": "linear", "factor": 2.0}},
        ],
        ids=["old", "new", "parameters"],
    )
    def test_its_scaling_is_named_one_way(self, fields: dict[str, object]) -> None:
        assert config(LLAMA2_7B, **fields).rope_scaling == {"rope_type": "linear", "factor": 2.0}

    def test_dynamic_scaling_is_none_within_the_positions_that_are_served(self) -> None:
        read = config(LLAMA2_7B, rope_scaling={"type": "dynamic", "factor": 4.0})
        assert (read.rope_scaling, read.max_position_embeddings) == (None, 4096)

    def test_a_base_of_transformers_5_goes_before_one_of_4(self) -> None:
        read = config(LLAMA2_7B, rope_theta=1e4, rope_parameters={"rope_theta": 1e6, "rope_type": "default"})
        assert read.rope_theta == 1e6

    @pytest.mark.parametrize(
        ("scaling", "positions"),
        [
            ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}, 131072),
            ({"rope_type": "yarn", "factor": 4.0}, 163840),
            ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 4096}, 40960),
            ({"rope_type": "linear", "factor": 4.0}, 40960),
        ],
        ids=["as Qwen's cards say", "of the positions given", "of fewer positions", "linear"],
    )
    def test_yarn_goes_beyond_the_positions_given(self, scaling: dict[str, object], positions: int) -> None:
        read = config(QWEN3_0_6B, rope_scaling=scaling)
        assert read.max_position_embeddings == positions
        read.check_lengths(1024, positions)
        with pytest.raises(UserError, match="positions"):
            read.check_lengths(1024, positions + 1)

    @pytest.mark.parametrize("lost", sorted(LLAMA_3.keys() - {"rope_type"}))
    def test_what_transformers_cannot_do_without_is_asked_for(self, lost: str) -> None:
        scaling = {name: value for name, value in LLAMA_3.items() if name != lost}
        with pytest.raises(UserError, match=lost):
            config(LLAMA2_7B, rope_scaling=scaling)

    @pytest.mark.parametrize(
        ("fields", "targets"),
        [
            ({}, ["openvino", "tensorrt_llm", "vllm"]),
            ({"mscale": 1.0, "mscale_all_dim": 0.0, "beta_fast": None}, ["openvino", "tensorrt_llm", "vllm"]),
            ({"mscale": 1.0}, ["openvino", "tensorrt_llm", "vllm"]),
            ({"mscale": 1.0, "mscale_all_dim": 1.0}, ["openvino", "tensorrt_llm"]),
            ({"mscale": 0.707, "mscale_all_dim": 0.707}, ["openvino", "tensorrt_llm"]),
            ({"mscale": 0.707}, ["openvino", "vllm"]),
            ({"mscale_all_dim": 1.0}, ["openvino", "vllm"]),
            ({"truncate": False}, ["openvino", "vllm"]),
            ({"attention_factor": 1.0}, ["openvino"]),
            ({"attention_factor": 1.138629436111989}, ["openvino", "tensorrt_llm", "vllm"]),
            ({"attention_factor": 1.138629436111989, "mscale": 1.0}, ["openvino"]),
            ({"attn_factor": 0.8782488562869419}, ["openvino"]),
        ],
        ids=str,
    )
    def test_only_targets_that_compute_a_yarn_as_transformers_does_get_it(
        self, fields: dict[str, object], targets: list[str]
    ) -> None:
        read = config(QWEN3_0_6B, rope_scaling={"rope_type": "yarn", "factor": 4.0, **fields})
        for target in ("openvino", "tensorrt_llm", "vllm"):
            if target in targets:
                read.check_target(target, 4096, "bfloat16")
                continue
            with pytest.raises(UserError, match="another YaRN than transformers") as caught:
                read.check_target(target, 4096, "bfloat16")
            assert caught.value.fix == f"choose target {' or '.join(targets)}"

    def test_yarn_keeps_the_positions_that_it_scales(self) -> None:
        scaling = config(QWEN3_0_6B, rope_scaling={"type": "yarn", "factor": 2.0}).rope_scaling
        assert scaling == {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 40960}

    def test_layers_with_a_window_have_a_base_of_their_own(self) -> None:
        of_4 = config(GEMMA_3_1B, rope_scaling={"rope_type": "linear", "factor": 8.0}, rope_local_base_freq=2e4)
        of_5 = config(
            GEMMA_3_1B,
            "rope_theta",
            "rope_local_base_freq",
            rope_parameters={
                "full_attention": {"rope_theta": 1e6, "rope_type": "linear", "factor": 8.0},
                "sliding_attention": {"rope_theta": 2e4, "rope_type": "default"},
            },
        )
        assert of_4 == of_5
        assert (of_5.rope_theta, of_5.local_rope_theta) == (1e6, 2e4)


class TestRefused:
    @pytest.mark.parametrize(
        ("fields", "named"),
        [
            pytest.param({"architectures": ["GPT2LMHeadModel"]}, "GPT2LMHeadModel", id="architecture"),
            pytest.param({"architectures": []}, "config.json leaves out", id="no-architecture"),
            pytest.param({"architectures": "LlamaForCausalLM"}, "config.json leaves out", id="odd-architecture"),
        ],
    )
    def test_an_architecture_that_is_not_supported(self, fields: dict[str, object], named: str) -> None:
        with pytest.raises(UserError, match=named) as caught:
            config(LLAMA2_7B, **fields)
        assert all(name in caught.value.fix for name in ARCHITECTURES)
        assert caught.value.where == "field model"

    @pytest.mark.parametrize(
        ("fields", "named"),
        [
            pytest.param({"hidden_size": "wide"}, "hidden_size", id="text"),
            pytest.param({"num_hidden_layers": 0}, "num_hidden_layers", id="zero"),
            pytest.param({"vocab_size": None}, "vocab_size", id="null"),
            pytest.param({"torch_dtype": "float8_e4m3fn"}, "dtype: float8_e4m3fn", id="dtype"),
            pytest.param({"rope_parameters": {"rope_theta": "x"}}, "rope_theta: ", id="rope"),
            pytest.param({"rope_parameters": {"rope_theta": 10**400}}, "rope_theta: ", id="rope of 400 digits"),
            pytest.param({"rope_theta": float("nan")}, "cannot be used", id="rope nan"),
            pytest.param({"rope_scaling": {"rope_type": "linear"}}, "factor: Field required", id="no factor"),
            pytest.param({"rope_scaling": {"type": "dynamic", "factor": "2"}}, "factor: ", id="factor of text"),
            pytest.param({"rope_scaling": {"rope_type": ["yarn"]}}, "rotary scaling", id="kind of scaling"),
            pytest.param({"hidden_size": 10**400}, "hidden_size: ", id="400 digits"),
            pytest.param({"hidden_size": "4096"}, "hidden_size: ", id="number as text"),
            pytest.param({"hidden_size": [1] * 20_000}, "hidden_size: ", id="20,000 dimensions"),
            pytest.param({"num_hidden_layers": True}, "num_hidden_layers: ", id="truth"),
            pytest.param({"num_hidden_layers": 20_000}, "num_hidden_layers: ", id="20,000 layers"),
            pytest.param({"num_attention_heads": 5000}, "head_dim: ", id="more heads than width"),
            pytest.param({"num_key_value_heads": 5}, "cannot share 5 key-value heads", id="heads do not share"),
            pytest.param({"rms_norm_eps": "small"}, "rms_norm_eps: ", id="text for a number"),
            pytest.param({"tie_word_embeddings": "yes"}, "tie_word_embeddings: ", id="word for truth"),
            pytest.param({"quantization_config": [1]}, "quantization_config: ", id="list for object"),
        ],
    )
    def test_a_field_that_is_wrong(self, fields: dict[str, object], named: str) -> None:
        with pytest.raises(UserError, match=named):
            config(LLAMA2_7B, **fields)

    @pytest.mark.parametrize("field", ["intermediate_size", "max_position_embeddings"])
    def test_a_field_that_is_missing(self, field: str) -> None:
        with pytest.raises(UserError, match=f"{field}: Field required"):
            config(LLAMA2_7B, field)

    @pytest.mark.parametrize(
        "text", ["", "{", "[]", "null", "NaN", "[" * 100_000, '{"a":' * 100_000, '{"a": "\\ud800"}']
    )
    def test_a_file_that_is_no_configuration(self, text: str) -> None:
        with pytest.raises(UserError, match=r"config\.json of org/model cannot be used"):
            ModelConfig.parse(text, where="org/model")

    def test_a_model_that_is_quantized_already(self) -> None:
        with pytest.raises(UserError, match="already .awq."):
            config(LLAMA2_7B, quantization_config={"quant_method": "awq"}).check_supported()


class TestWindow:
    @pytest.mark.parametrize(
        ("read", "window"),
        [
            pytest.param(config(MISTRAL_NEMO, sliding_window=4096), 4096, id="mistral"),
            pytest.param(config(MISTRAL_NEMO, "sliding_window"), 4096, id="mistral-default"),
            pytest.param(
                config(QWEN2_5_0_5B, use_sliding_window=True, sliding_window=1024, max_window_layers=21),
                1024,
                id="qwen",
            ),
            pytest.param(
                config(QWEN2_5_0_5B, use_sliding_window=True, sliding_window=1024), None, id="qwen-of-no-layer"
            ),
            pytest.param(
                config(
                    QWEN3_0_6B, use_sliding_window=True, sliding_window=1024, layer_types=["sliding_attention"] * 28
                ),
                1024,
                id="qwen-by-layer-types",
            ),
            pytest.param(config(PHI_3_MINI_4K), 2047, id="phi-3"),
            pytest.param(config(GEMMA_2_2B, "sliding_window"), 4096, id="gemma-2-default"),
            pytest.param(config(QWEN2_5_0_5B, sliding_window=1024), None, id="qwen-switched-off"),
            pytest.param(config(SMOLLM3_3B, sliding_window=1024), None, id="smollm3-switched-off"),
            pytest.param(config(MISTRAL_NEMO), None, id="mistral-without"),
            pytest.param(config(MISTRAL_NEMO, sliding_window=131072), None, id="mistral-of-all-positions"),
            pytest.param(config(LLAMA2_7B), None, id="llama"),
        ],
    )
    def test_counts_where_it_takes_effect(self, read: ModelConfig, window: int | None) -> None:
        assert read.sliding_window == window

    @pytest.mark.parametrize(("target", "longest"), [("openvino", 8192), ("vllm", 8192), ("tensorrt_llm", 4096)])
    def test_is_served_by_target(self, target: str, longest: int) -> None:
        config(MISTRAL_NEMO, sliding_window=4096).check_target(target, longest, "bfloat16")

    def test_is_moot_up_to_its_length_where_it_is_not_served(self) -> None:
        with pytest.raises(UserError, match="window of 4096") as caught:
            config(MISTRAL_NEMO, sliding_window=4096).check_target("tensorrt_llm", 4097, "float16")
        assert caught.value.where == "field max_seq_len"
        assert caught.value.fix == "use at most 4096, or choose target openvino or vllm"


class TestTarget:
    @pytest.mark.parametrize("target", ["tensorrt_llm", "vllm"])
    def test_biases_that_engines_leave_out_are_for_the_target_that_computes_them(self, target: str) -> None:
        read = config(QWEN3_0_6B, attention_bias=True)
        read.check_target("openvino", 4096, "bfloat16")
        with pytest.raises(UserError, match="biases after the attention of a Qwen3ForCausalLM"):
            read.check_target(target, 4096, "bfloat16")
        config(LLAMA2_7B, attention_bias=True, mlp_bias=True).check_target(target, 4096, "bfloat16")
        config(QWEN2_5_0_5B, attention_bias=True).check_target(target, 4096, "bfloat16")  # it has none there

    @pytest.mark.parametrize("target", ["tensorrt_llm", "vllm"])
    def test_another_activation_is_for_the_target_that_computes_it(self, target: str) -> None:
        read = config(LLAMA2_7B, hidden_act="gelu")
        read.check_target("openvino", 4096, "float16")
        with pytest.raises(UserError, match="the activation silu only, the model's hidden_act is gelu") as caught:
            read.check_target(target, 4096, "float16")
        assert caught.value.fix == "choose target openvino"
        config(LLAMA2_7B, hidden_act="silu").check_target(target, 4096, "float16")
        config(GEMMA_2_2B, hidden_act="gelu").check_target(target, 4096, "bfloat16")  # Gemma's is hidden_activation

    @pytest.mark.parametrize(
        ("base", "target", "dtype", "field", "fix"),
        [
            pytest.param(SMOLLM3_3B, "tensorrt_llm", "float16", "target", "openvino or vllm", id="smollm3"),
            pytest.param(OLMO_2_1B, "tensorrt_llm", "float16", "target", "openvino or vllm", id="olmo2"),
            pytest.param(GEMMA_3_1B, "tensorrt_llm", "bfloat16", "target", "openvino or vllm", id="gemma3"),
            pytest.param(GEMMA_2_2B, "vllm", "float16", "dtype", "bfloat16", id="gemma2"),
            pytest.param(GEMMA_2_2B, "tensorrt_llm", "float16", "dtype", "bfloat16", id="gemma2 on tensorrt_llm"),
            pytest.param(GEMMA_3_1B, "vllm", "float16", "dtype", "bfloat16", id="gemma3 on vllm"),
        ],
    )
    def test_that_cannot_serve_a_model_names_what_can(
        self, base: dict[str, Any], target: str, dtype: str, field: str, fix: str
    ) -> None:
        with pytest.raises(UserError) as caught:
            config(base).check_target(target, 512, dtype)
        assert caught.value.where == f"field {field}"
        assert fix in caught.value.fix

    @pytest.mark.parametrize("name", ARCHITECTURES)
    def test_openvino_serves_every_architecture(self, name: str) -> None:
        config(LLAMA2_7B, architectures=[name]).check_target("openvino", 4096, "float16")


class TestGroupSize:
    def test_knows_the_dimensions_of_each_rank(self) -> None:
        assert config(MISTRAL_NEMO).quantized_input_dims(2) == {
            "qkv, gate, up": 5120,
            "attention output": 2048,
            "down": 7168,
        }

    @pytest.mark.parametrize(("base", "group", "tp"), [(SMOLLM2_135M, 64, 1), (LLAMA2_7B, 128, 1), (LLAMA2_7B, 128, 2)])
    def test_accepts_what_divides(self, base: dict[str, Any], group: int, tp: int) -> None:
        config(base).check_group_size(group, tp)

    @pytest.mark.parametrize(
        ("base", "group", "tp", "wrong", "fix"),
        [
            pytest.param(SMOLLM2_135M, 128, 1, "qkv, gate, up 576, attention output 576", "use 64", id="smollm2"),
            pytest.param(LLAMA2_7B, 128, 4, "on each of 4 ranks: down 2752", "use 64", id="only-a-rank's-share"),
            pytest.param(SMOLLM2_135M | {"hidden_size": 584}, 64, 1, "584", "no group size fits", id="none-fits"),
        ],
    )
    def test_proposes_one_that_fits(self, base: dict[str, Any], group: int, tp: int, wrong: str, fix: str) -> None:
        with pytest.raises(UserError, match=wrong) as caught:
            config(base).check_group_size(group, tp)
        assert fix in caught.value.fix
        assert caught.value.where == "field awq_group_size"

    def test_proposes_only_what_the_target_has(self) -> None:
        with pytest.raises(UserError) as caught:
            config(QWEN2_5_0_5B, intermediate_size=4896).check_group_size(128, allowed=(128, 64))
        assert "no group size fits" in caught.value.fix


class TestCalibration:
    def test_takes_samples_as_long_as_the_model_has_positions(self) -> None:
        config(LLAMA2_7B).check_calibration(128, 4096, 1)

    @pytest.mark.parametrize(
        ("read", "group", "seq_len", "tp", "where"),
        [
            pytest.param(config(LLAMA2_7B, quantization_config={}), 128, 512, 1, "field model", id="quantized"),
            pytest.param(config(SMOLLM2_135M), 64, 512, 2, "field tp_size", id="heads"),
            pytest.param(config(SMOLLM2_135M), 128, 512, 1, "field awq_group_size", id="group-size"),
            pytest.param(config(LLAMA2_7B), 128, 4097, 1, "field calib_seq_len", id="positions"),
        ],
    )
    def test_is_refused_by_field(self, read: ModelConfig, group: int, seq_len: int, tp: int, where: str) -> None:
        with pytest.raises(UserError) as caught:
            read.check_calibration(group, seq_len, tp)
        assert caught.value.where == where


class TestTensorParallel:
    @pytest.mark.parametrize(("base", "tp"), [(LLAMA2_7B, 8), (SMOLLM2_135M, 3), (MISTRAL_NEMO, 8)])
    def test_accepts_equal_shares(self, base: dict[str, Any], tp: int) -> None:
        config(base).check_tp(tp)

    @pytest.mark.parametrize(
        ("base", "tp", "works"),
        [
            pytest.param(SMOLLM2_135M, 2, "1, 3", id="odd-heads"),
            pytest.param(QWEN2_5_0_5B, 4, "1, 2", id="few-key-value-heads"),
        ],
    )
    def test_names_the_sizes_that_work(self, base: dict[str, Any], tp: int, works: str) -> None:
        with pytest.raises(UserError) as caught:
            config(base).check_tp(tp)
        assert caught.value.fix == f"use one of {works}"
        assert caught.value.where == "field tp_size"


class TestLengths:
    @pytest.mark.parametrize(("max_input_len", "max_seq_len"), [(4095, 4096), (1, 2)])
    def test_accepts_room_for_an_answer(self, max_input_len: int, max_seq_len: int) -> None:
        config(LLAMA2_7B).check_lengths(max_input_len, max_seq_len)

    @pytest.mark.parametrize(
        ("max_input_len", "max_seq_len", "field", "limit"),
        [(2048, 4097, "max_seq_len", "4096"), (2048, 2048, "max_input_len", "2047")],
    )
    def test_names_the_field_and_its_limit(self, max_input_len: int, max_seq_len: int, field: str, limit: str) -> None:
        with pytest.raises(UserError, match=field) as caught:
            config(LLAMA2_7B).check_lengths(max_input_len, max_seq_len)
        assert caught.value.where == f"field {field}"
        assert limit in caught.value.fix
