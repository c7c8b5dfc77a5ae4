"""GPUs as nvidia-smi lists them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from include.errors import HostError
from include.host.gpus import Gpu
from include.targets import vllm
from include.targets.tensorrt_llm import KERNELS, gpu
from include.targets.tensorrt_llm.settings import TensorRTLLMSettings

H100 = Gpu(
    index=0,
    uuid="GPU-1",
    name="NVIDIA H100 80GB HBM3",
    sm=90,
    driver="590.44.01",
    memory_total_mib=81559,
    memory_used_mib=4,
)


def h100s(count: int, **changes: object) -> list[Gpu]:
    return [replace(H100, index=n, uuid=f"GPU-{n}", **changes) for n in range(count)]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "0, GPU-5fb1, NVIDIA H100 80GB HBM3, 9.0, 590.44.01, 81559, 4, [N/A]",
            Gpu(0, "GPU-5fb1", "NVIDIA H100 80GB HBM3", 90, "590.44.01", 81559, 4),
        ),
        (
            "1, GPU-77, NVIDIA RTX 6000 Ada Generation, 8.9, 590.44.01, 49140, 812, [N/A]",
            Gpu(1, "GPU-77", "NVIDIA RTX 6000 Ada Generation", 89, "590.44.01", 49140, 812),
        ),
        (
            "0, GPU-9c, NVIDIA GB10, 12.1, 590.44.01, [N/A], [N/A], [N/A]",
            Gpu(0, "GPU-9c", "NVIDIA GB10", 121, "590.44.01", None, None),
        ),
        (
            "0, GPU-1, Tesla K80, [Not Supported], 470.82.01, 11441, [Unknown Error], [N/A]",
            Gpu(0, "GPU-1", "Tesla K80", None, "470.82.01", 11441, None),
        ),
        (
            "0, GPU-2, GRID A100, 40C, 8.0, 590.44.01, 40960, 0, [N/A]",
            Gpu(0, "GPU-2", "GRID A100, 40C", 80, "590.44.01", 40960, 0),
        ),
        (
            "0, GPU-3, NVIDIA A100-SXM4-80GB, 8.0, 590.44.01, 81920, 88, Enabled",
            Gpu(0, "GPU-3", "NVIDIA A100-SXM4-80GB", 80, "590.44.01", 81920, 88, mig=True),
        ),
    ],
    ids=["h100", "rtx-6000-ada", "unified-memory", "old-gpu", "comma-in-name", "mig"],
)
def test_a_gpu_is_read_from_its_line(line: str, expected: Gpu) -> None:
    assert gpu.parse(f"{line}\n") == [expected]


def test_every_gpu_of_the_host_is_read() -> None:
    lines = [f"{n}, GPU-{n}, NVIDIA L40S, 8.9, 590.44.01, 46068, 0, Disabled" for n in range(4)]
    assert [(g.index, g.sm) for g in gpu.parse("\n".join(lines))] == [(0, 89), (1, 89), (2, 89), (3, 89)]


BANNER = """
=============================
== Triton Inference Server ==
=============================

NVIDIA Release 26.07 (build 123456789)
Triton Server Version 2.71.0

Copyright (c) 2018-2026, NVIDIA CORPORATION & AFFILIATES.  All rights reserved.
Various files include modifications (c) NVIDIA, its suppliers, and others, named in the notices.

GOVERNING TERMS: The software and materials are governed by the license agreement, the terms, and what they name.

WARNING: The NVIDIA Driver was not detected, is old, or is 580, which this one is not: functionality is not available.
   Use the NVIDIA Container Toolkit to start this container with GPU support; see
   https://docs.nvidia.com/datacenter/cloud-native/ .

NOTE: CUDA Forward Compatibility mode ENABLED.
  Using CUDA 13.1 driver version 590.44.01 with kernel driver version 580.95.05, 0, 0, 0, 0, 0, 0.
2026, GPUs, of, which, this, line, lists, none
"""
"""In the form of NVIDIA's entrypoint, with lines that have as many commas as a GPU's."""


def test_a_banner_around_the_list_is_no_gpu() -> None:
    line = "0, GPU-5fb1, NVIDIA H100 80GB HBM3, 9.0, 590.44.01, 81559, 4, Disabled"
    assert gpu.parse(f"{BANNER}\n{line}\n{BANNER}") == [
        Gpu(0, "GPU-5fb1", "NVIDIA H100 80GB HBM3", 90, "590.44.01", 81559, 4)
    ]
    with pytest.raises(HostError, match="lists no GPU"):
        gpu.parse(BANNER)


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
        (h100s(1, mig=True), 1, "(?s)is in MIG mode.*nvidia-smi -i 0 -mig 0.*whole GPUs"),
        ([replace(H100, mig=True), replace(H100, index=1)], 2, "the host has 1 x NVIDIA H100"),
        (h100s(1), 2, "tp_size 2 needs 2 equal GPUs; the host has 1 x NVIDIA H100"),
        ([*h100s(1), replace(H100, index=1, name="NVIDIA L40S", sm=89)], 2, "needs 2 equal GPUs; the host has 1 x"),
        (h100s(2, memory_used_mib=61000), 1, r"GPU 0 \(NVIDIA H100 80GB HBM3\): 61000 of 81559 MiB in use"),
        ([H100, replace(H100, index=1, memory_used_mib=2000)], 2, "2 idle GPUs are needed, 1 are; GPU 1"),
    ],
    ids=[
        "driver",
        "b200",
        "rtx-5090",
        "t4",
        "unknown-sm",
        "mig",
        "one-mig",
        "too-few",
        "mixed",
        "all-busy",
        "one-busy",
    ],
)
def test_a_host_that_will_not_do_is_refused_with_the_gpu_named(gpus: list[Gpu], count: int, words: str) -> None:
    with pytest.raises(HostError, match=words):
        gpu.usable(gpus, count, kernels=KERNELS, min_driver="590.44.01", busy_mib=1024)


@pytest.mark.parametrize("sm", [80, 86, 89, 90])
def test_ampere_ada_and_hopper_will_do(sm: int) -> None:
    gpus = h100s(1, sm=sm)
    assert gpu.usable(gpus, 1, kernels=KERNELS, min_driver="590.44.01", busy_mib=1024) == gpus


def test_only_idle_gpus_of_the_commonest_supported_model_are_offered() -> None:
    busy = replace(H100, index=5, memory_used_mib=9000)
    other = [replace(H100, index=7, name="NVIDIA L40S", sm=89), replace(H100, index=8, name="NVIDIA B200", sm=100)]
    assert gpu.usable([*other, *h100s(3), busy], 2, kernels=KERNELS, min_driver="590.44", busy_mib=1024) == h100s(3)


def test_the_gpus_of_the_live_server_are_offered_only_where_idle_ones_do_not_suffice() -> None:
    gpus = [replace(H100, index=n, uuid=f"GPU-{n}", memory_used_mib=used) for n, used in enumerate([60000, 60000, 4])]
    offered = [
        [g.index for g in gpu.usable(gpus, count, kernels=KERNELS, min_driver="1", busy_mib=1024, shared={"GPU-0"})]
        for count in (1, 2)
    ]
    assert offered == [[2], [0, 2]]
    with pytest.raises(HostError, match="3 idle GPUs are needed, 2 are; GPU 1"):
        gpu.usable(gpus, 3, kernels=KERNELS, min_driver="1", busy_mib=1024, shared={"GPU-0"})


def test_a_driver_of_cuda_13_0_will_do() -> None:
    """CUDA 13.1 runs on it: minor versions are compatible."""
    minimum = TensorRTLLMSettings().min_driver
    assert gpu.usable(h100s(1, driver="580.95.05"), 1, kernels=KERNELS, min_driver=minimum, busy_mib=1024)
    with pytest.raises(HostError, match=r"570\.86\.15"):
        gpu.usable(h100s(1, driver="570.86.15"), 1, kernels=KERNELS, min_driver=minimum, busy_mib=1024)


def test_a_longer_driver_version_is_compared_as_numbers() -> None:
    assert gpu.usable(h100s(1, driver="600.9"), 1, kernels=KERNELS, min_driver="590.44.01", busy_mib=1024)


def test_memory_that_comes_back_is_waited_for() -> None:
    used = iter([60000, 30000, 2])
    gpu.wait_until_idle(_listing(lambda: next(used)), ["GPU-1"], kernels=KERNELS, busy_mib=1024, timeout_s=30, poll_s=0)
    assert next(used, None) is None


def test_memory_that_does_not_come_back_is_an_error() -> None:
    with pytest.raises(HostError, match="60000 of 81559 MiB in use"):
        gpu.wait_until_idle(_listing(lambda: 60000), ["GPU-1"], kernels=KERNELS, busy_mib=1024, timeout_s=0, poll_s=0)


@pytest.mark.parametrize(("kernels", "prefix"), [(KERNELS, "TRTLLM"), (vllm.KERNELS, "VLLM")], ids=["trtllm", "vllm"])
def test_advice_names_the_settings_of_the_target(kernels: gpu.Kernels, prefix: str) -> None:
    busy = h100s(1, memory_used_mib=9000)
    with pytest.raises(HostError, match=f"raise HF2TRITON_{prefix}_BUSY_MIB"):
        gpu.usable(busy, 1, kernels=kernels, min_driver="1", busy_mib=1024)
    with pytest.raises(HostError, match=f"raise HF2TRITON_{prefix}_BUSY_MIB"):
        gpu.wait_until_idle(lambda: busy, ["GPU-0"], kernels=kernels, busy_mib=1024, timeout_s=0, poll_s=0)
    with pytest.raises(HostError, match=f"set HF2TRITON_{prefix}_MIN_DRIVER"):
        gpu.usable(busy, 1, kernels=kernels, min_driver="999", busy_mib=1024)


def test_other_gpus_are_not_waited_for() -> None:
    gpu.wait_until_idle(_listing(lambda: 60000), ["GPU-2"], kernels=KERNELS, busy_mib=1024, timeout_s=0, poll_s=0)


def _listing(used: Callable[[], int]) -> Callable[[], Sequence[Gpu]]:
    return lambda: [replace(H100, memory_used_mib=used())]
