"""GPUs as nvidia-smi lists them, and the memory estimates."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from include.errors import HostError
from include.host.gpus import Gpu
from include.model.config import ModelConfig
from include.requests.release import ReleaseRequest
from include.targets.tensorrt_llm import gpu, memory
from include.targets.tensorrt_llm.memory import GIB

H100 = Gpu(
    index=0,
    uuid="GPU-1",
    name="NVIDIA H100 80GB HBM3",
    sm=90,
    driver="590.44.01",
    memory_total_mib=81559,
    memory_used_mib=4,
)
LLAMA2_7B = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "vocab_size": 32000,
    "max_position_embeddings": 4096,
    "rope_theta": 10000.0,
    "torch_dtype": "float16",
}
LLAMA3_70B = LLAMA2_7B | {
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
}


def h100s(count: int, **changes: object) -> list[Gpu]:
    return [replace(H100, index=n, uuid=f"GPU-{n}", **changes) for n in range(count)]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "0, GPU-5fb1, NVIDIA H100 80GB HBM3, 9.0, 590.44.01, 81559, 4",
            Gpu(0, "GPU-5fb1", "NVIDIA H100 80GB HBM3", 90, "590.44.01", 81559, 4),
        ),
        (
            "1, GPU-77, NVIDIA RTX 6000 Ada Generation, 8.9, 590.44.01, 49140, 812",
            Gpu(1, "GPU-77", "NVIDIA RTX 6000 Ada Generation", 89, "590.44.01", 49140, 812),
        ),
        (
            "0, GPU-9c, NVIDIA GB10, 12.1, 590.44.01, [N/A], [N/A]",
            Gpu(0, "GPU-9c", "NVIDIA GB10", 121, "590.44.01", None, None),
        ),
        (
            "0, GPU-1, Tesla K80, [Not Supported], 470.82.01, 11441, [Unknown Error]",
            Gpu(0, "GPU-1", "Tesla K80", None, "470.82.01", 11441, None),
        ),
        (
            "0, GPU-2, GRID A100, 40C, 8.0, 590.44.01, 40960, 0",
            Gpu(0, "GPU-2", "GRID A100, 40C", 80, "590.44.01", 40960, 0),
        ),
    ],
    ids=["h100", "rtx-6000-ada", "unified-memory", "old-gpu", "comma-in-name"],
)
def test_a_gpu_is_read_from_its_line(line: str, expected: Gpu) -> None:
    assert gpu.parse(f"{line}\n") == [expected]


def test_every_gpu_of_the_host_is_read() -> None:
    lines = [f"{n}, GPU-{n}, NVIDIA L40S, 8.9, 590.44.01, 46068, 0" for n in range(4)]
    assert [(g.index, g.sm) for g in gpu.parse("\n".join(lines))] == [(0, 89), (1, 89), (2, 89), (3, 89)]


@pytest.mark.parametrize(
    ("output", "words"),
    [
        ("", "lists no GPU"),
        ("No devices were found\n", "the driver sees no GPU"),
        ('Field "compute_cap" is not a valid field to query.\n', "too old to be asked"),
        ("Failed to initialize NVML: Driver/library version mismatch\n", "updated while it was loaded"),
        ("Failed to initialize NVML: Unknown Error\n", "lost its GPUs"),
        (
            "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. "
            "Make sure that the latest NVIDIA driver is installed and running.\n",
            "driver does not run",
        ),
    ],
    ids=["nothing", "no-devices", "old-driver", "mismatch", "cgroup", "no-driver"],
)
def test_what_nvidia_smi_says_instead_names_the_cause(output: str, words: str) -> None:
    with pytest.raises(HostError, match=words):
        gpu.parse(output)


@pytest.mark.parametrize(
    ("gpus", "count", "words"),
    [
        (h100s(1, driver="570.86.15"), 1, r"driver is 570\.86\.15; the image needs 590\.44\.01"),
        (h100s(1, name="NVIDIA B200", sm=100), 1, r"GPU 0 \(NVIDIA B200\) is SM 100.*Blackwell .*not supported"),
        (h100s(1, name="NVIDIA GeForce RTX 5090", sm=120), 1, "RTX 5090.*Blackwell"),
        (h100s(1, name="Tesla T4", sm=75), 1, "Tesla T4.*older than Ampere"),
        (h100s(1, sm=None), 1, "does not tell its compute capability"),
        (h100s(1), 2, "tp_size 2 needs 2 equal GPUs; the host has 1 x NVIDIA H100"),
        ([*h100s(1), replace(H100, index=1, name="NVIDIA L40S", sm=89)], 2, "needs 2 equal GPUs; the host has 1 x"),
        (h100s(2, memory_used_mib=61000), 1, r"GPU 0 \(NVIDIA H100 80GB HBM3\): 61000 of 81559 MiB in use"),
        ([H100, replace(H100, index=1, memory_used_mib=2000)], 2, "2 idle GPUs are needed, 1 are; GPU 1"),
    ],
    ids=["driver", "b200", "rtx-5090", "t4", "unknown-sm", "too-few", "mixed", "all-busy", "one-busy"],
)
def test_a_host_that_will_not_do_is_refused_with_the_gpu_named(gpus: list[Gpu], count: int, words: str) -> None:
    with pytest.raises(HostError, match=words):
        gpu.usable(gpus, count, min_driver="590.44.01", busy_mib=1024)


@pytest.mark.parametrize("sm", [80, 86, 89, 90])
def test_ampere_ada_and_hopper_will_do(sm: int) -> None:
    gpus = h100s(1, sm=sm)
    assert gpu.usable(gpus, 1, min_driver="590.44.01", busy_mib=1024) == gpus


def test_only_idle_gpus_of_the_commonest_supported_model_are_offered() -> None:
    busy = replace(H100, index=5, memory_used_mib=9000)
    other = [replace(H100, index=7, name="NVIDIA L40S", sm=89), replace(H100, index=8, name="NVIDIA B200", sm=100)]
    assert gpu.usable([*other, *h100s(3), busy], 2, min_driver="590.44", busy_mib=1024) == h100s(3)


def test_the_gpus_of_the_live_server_are_offered_only_where_idle_ones_do_not_suffice() -> None:
    gpus = [replace(H100, index=n, uuid=f"GPU-{n}", memory_used_mib=used) for n, used in enumerate([60000, 60000, 4])]
    offered = [
        [g.index for g in gpu.usable(gpus, count, min_driver="1", busy_mib=1024, shared={"GPU-0"})] for count in (1, 2)
    ]
    assert offered == [[2], [0, 2]]
    with pytest.raises(HostError, match="3 idle GPUs are needed, 2 are; GPU 1"):
        gpu.usable(gpus, 3, min_driver="1", busy_mib=1024, shared={"GPU-0"})


def test_a_longer_driver_version_is_compared_as_numbers() -> None:
    assert gpu.usable(h100s(1, driver="600.9"), 1, min_driver="590.44.01", busy_mib=1024)


def test_memory_that_comes_back_is_waited_for() -> None:
    used = iter([60000, 30000, 2])
    gpu.wait_until_idle(_listing(lambda: next(used)), ["GPU-1"], busy_mib=1024, timeout_s=30, poll_s=0)
    assert next(used, None) is None


def test_memory_that_does_not_come_back_is_an_error() -> None:
    with pytest.raises(HostError, match="60000 of 81559 MiB in use"):
        gpu.wait_until_idle(_listing(lambda: 60000), ["GPU-1"], busy_mib=1024, timeout_s=0, poll_s=0)


def test_other_gpus_are_not_waited_for() -> None:
    gpu.wait_until_idle(_listing(lambda: 60000), ["GPU-2"], busy_mib=1024, timeout_s=0, poll_s=0)


def _listing(used: Callable[[], int]) -> Callable[[], Sequence[Gpu]]:
    return lambda: [replace(H100, memory_used_mib=used())]


def config_of(fields: dict[str, object]) -> ModelConfig:
    return ModelConfig.parse(json.dumps(fields), where="test")


def request(**fields: object) -> ReleaseRequest:
    return ReleaseRequest.parse({"target": "tensorrt_llm", "awq_group_size": 128, "calib_seq_len": 512, **fields})


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
    found = memory.estimate(config_of(fields), request(tp_size=tp))
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
    config = config_of(LLAMA2_7B)
    less, more = (getattr(memory.estimate(config, request(**{field: size})), stage) for size in (small, large))
    assert less < more


@pytest.mark.parametrize(
    ("total_mib", "task"), [(12_000, "calibrate_awq"), (24_564, None)], ids=["rtx-3060", "rtx-4090"]
)
def test_a_gpu_that_is_too_small_is_refused_before_anything_runs(total_mib: int, task: str | None) -> None:
    needs = memory.estimate(config_of(LLAMA2_7B), request())
    gpus = [replace(H100, memory_total_mib=total_mib)]
    if task is None:
        memory.check_fits(needs, gpus)
    else:
        with pytest.raises(HostError, match=f"{task} needs about .* GiB of GPU memory, 11.7 GiB are free"):
            memory.check_fits(needs, gpus)


def test_a_gpu_that_does_not_tell_its_memory_is_let_through() -> None:
    memory.check_fits(memory.estimate(config_of(LLAMA3_70B), request()), [replace(H100, memory_total_mib=None)])
