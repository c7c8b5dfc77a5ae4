"""The estimates, against sizes that were measured on real artifacts and GPUs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from include.errors import HostError
from include.host.gpus import Gpu
from include.requests.release import ReleaseRequest
from include.targets import estimates
from include.targets.estimates import GIB, MIB
from tests.include.model.configs import LLAMA2_7B, QWEN2_5_0_5B, SMOLLM2_135M, config

H100 = Gpu(
    index=0,
    uuid="GPU-1",
    name="NVIDIA H100 80GB HBM3",
    sm=90,
    driver="590.44.01",
    memory_total_mib=81559,
    memory_used_mib=4,
)
LLAMA3_70B = LLAMA2_7B | {
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
}


def request(**fields: object) -> ReleaseRequest:
    return ReleaseRequest.parse({"target": "tensorrt_llm", "awq_group_size": 128, "calib_seq_len": 512, **fields})


class TestSizes:
    def test_the_model_is_what_its_safetensors_file_has(self) -> None:
        assert estimates.model_bytes(config(SMOLLM2_135M)) == pytest.approx(269_060_280, rel=0.001)

    def test_a_type_can_be_named(self) -> None:
        read = config(SMOLLM2_135M)
        assert estimates.model_bytes(read, "float32") == 2 * estimates.model_bytes(read, "float16")

    @pytest.mark.parametrize(
        ("base", "group", "measured"),
        [
            pytest.param(LLAMA2_7B, 128, 3783 * MIB, id="llama-2-7b"),
            pytest.param(SMOLLM2_135M, 64, 173_327_320, id="smollm2-135m-tied"),
        ],
    )
    def test_the_checkpoint_is_what_modelopt_exported(self, base: dict[str, Any], group: int, measured: int) -> None:
        found = estimates.checkpoint_bytes(config(base), request(awq_group_size=group))
        assert found == pytest.approx(measured, rel=0.001)

    def test_calibration_of_llama_2_7b_is_a_little_above_what_was_measured(self) -> None:
        needed = estimates.calibration_bytes(config(LLAMA2_7B), 32, 512)
        assert 36 * 1024 * MIB < needed < 40 * 1024 * MIB

    def test_calibration_grows_with_the_batch_beyond_the_weights(self) -> None:
        read = config(LLAMA2_7B)
        needed = (estimates.calibration_bytes(read, batch, 512) for batch in (1, 2))
        one, two = (count - estimates.model_bytes(read, "float16") for count in needed)
        assert two == 2 * one

    def test_a_smaller_group_has_more_scales(self) -> None:
        read = config(SMOLLM2_135M)
        small, large = (request(awq_group_size=size) for size in (32, 64))
        assert estimates.checkpoint_bytes(read, small) > estimates.checkpoint_bytes(read, large)
        assert estimates.engine_bytes(read, small) > estimates.engine_bytes(read, large)

    def test_fp8_takes_a_byte_for_each_weight(self) -> None:
        read = config(LLAMA2_7B)
        int4, fp8 = (request(quantization=name) for name in ("int4_awq", "fp8"))
        for size in (estimates.checkpoint_bytes, estimates.engine_bytes):
            assert size(read, fp8) > size(read, int4) + read.linear_weights * 0.4
        assert estimates.engine_bytes(read, fp8) == pytest.approx(6.5e9 + 2 * 2 * 32000 * 4096, rel=0.01)
        assert estimates.engine_bytes(read, fp8) == estimates.engine_bytes(
            read, request(quantization="fp8", awq_group_size=16)
        )
        assert estimates.estimate(read, fp8).serve > estimates.estimate(read, int4).serve

    def test_a_run_needs_room_for_checkpoint_and_engine(self) -> None:
        read = config(LLAMA2_7B)
        files = estimates.checkpoint_bytes(read, request()) + estimates.engine_bytes(read, request())
        assert estimates.pipeline_disk_bytes(read, request()) > files

    @pytest.mark.parametrize(
        ("base", "expected"), [(LLAMA2_7B, 524_288), (SMOLLM2_135M, 23_040), (QWEN2_5_0_5B, 12_288)]
    )
    def test_the_kv_cache_counts_key_value_heads_only(self, base: dict[str, Any], expected: int) -> None:
        assert estimates.kv_cache_bytes_per_token(config(base)) == expected


@pytest.mark.parametrize(
    ("fields", "tp", "calibrate", "build", "serve"),
    [
        (LLAMA2_7B, 1, (14, 18), (8, 10), (6, 8)),
        (LLAMA3_70B, 1, (132, 142), (70, 80), (36, 44)),
        (LLAMA3_70B, 2, (70, 80), (36, 42), (20, 24)),
    ],
    ids=["7b", "70b", "70b-tp2"],
)
def test_the_estimates_are_of_the_known_size(
    fields: dict[str, object],
    tp: int,
    calibrate: tuple[int, int],
    build: tuple[int, int],
    serve: tuple[int, int],
) -> None:
    found = estimates.estimate(config(fields), request(tp_size=tp))
    for needed, (low, high) in ((found.calibrate, calibrate), (found.build, build), (found.serve, serve)):
        assert low * GIB < needed < high * GIB
    assert found.serve_full > found.serve


@pytest.mark.parametrize(
    ("field", "small", "large", "stage"),
    [
        ("calib_seq_len", 128, 4096, "calibrate"),
        ("max_num_tokens", 1024, 16384, "build"),
        ("max_seq_len", 2048, 4096, "serve"),
    ],
)
def test_the_field_that_a_refusal_names_is_the_one_that_helps(field: str, small: int, large: int, stage: str) -> None:
    read = config(LLAMA2_7B)
    less, more = (getattr(estimates.estimate(read, request(**{field: size})), stage) for size in (small, large))
    assert less < more


@pytest.mark.parametrize(
    ("total_mib", "task"), [(12_000, "calibrate_awq"), (24_564, None)], ids=["rtx-3060", "rtx-4090"]
)
def test_a_gpu_that_is_too_small_is_refused_before_anything_runs(total_mib: int, task: str | None) -> None:
    needs = estimates.estimate(config(LLAMA2_7B), request())
    gpus = [replace(H100, memory_total_mib=total_mib)]
    if task is None:
        estimates.check_fits(needs, gpus)
    else:
        with pytest.raises(HostError, match=f"{task} needs about .* GiB of GPU memory, 11.7 GiB are free"):
            estimates.check_fits(needs, gpus)


def test_a_gpu_that_does_not_tell_its_memory_is_let_through() -> None:
    estimates.check_fits(estimates.estimate(config(LLAMA3_70B), request()), [replace(H100, memory_total_mib=None)])
