"""The host's GPUs: reading them from nvidia-smi, and choosing those that are usable."""

from __future__ import annotations

import csv
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from include.errors import HostError

FIELDS = (
    *("index", "uuid", "name", "compute_cap", "driver_version", "memory.total", "memory.used"),
    "mig.mode.current",
)
NVIDIA_SMI = ("nvidia-smi", f"--query-gpu={','.join(FIELDS)}", "--format=csv,noheader,nounits")

_ONE_LINE = 200
_WHOLE = "stages and servers take whole GPUs, because an instance has a part of the memory and of the bandwidth"
# nvidia-smi's texts for a value that a GPU does not have: [N/A], [Not Supported], [Unknown Error] ...
_UNKNOWN = "["

_SMI_FAILURES = (
    (
        "driver/library version mismatch",
        "the NVIDIA driver was updated while it was loaded",
        "reboot the host, or reload the driver's kernel modules",
    ),
    (
        "couldn't communicate with the nvidia driver",
        "the NVIDIA driver does not run",
        "install or start the driver: `nvidia-smi` must work on the host itself",
    ),
    (
        "unknown error",
        "the container lost its GPUs",
        "restart the container runtime: a reload of systemd takes GPUs away from containers under cgroup v1",
    ),
    ("not a valid field to query", "the NVIDIA driver is too old to be asked", "update the driver"),
    ("no devices were found", "the driver sees no GPU", "check `nvidia-smi` on the host itself"),
)


@dataclass(frozen=True)
class Gpu:
    """One GPU. ``sm`` is the compute capability as one number (8.9 is 89), memory is in MiB; None is unknown.

    ``mig``: it is divided into instances, and does not compute as a whole.
    """

    index: int
    uuid: str
    name: str
    sm: int | None
    driver: str
    memory_total_mib: int | None
    memory_used_mib: int | None
    mig: bool = False

    def __str__(self) -> str:
        return f"GPU {self.index} ({self.name})"


@dataclass(frozen=True)
class Kernels:
    """The kernels of an engine, and the compute capabilities that they are for; ``fix`` says what else there is.

    ``too_old`` and ``too_new`` name the GPUs beyond; the names of the target's settings begin with ``settings``.
    """

    name: str
    min_sm: int
    max_sm: int
    too_old: str
    too_new: str
    fix: str
    settings: str


def parse(output: str) -> list[Gpu]:
    """The GPUs in the output of `NVIDIA_SMI`, with whatever else was printed around them.

    Raises:
        HostError: there is no GPU, or the output is an error of nvidia-smi.
    """
    rows = [row for row in csv.reader(output.splitlines(), skipinitialspace=True) if _is_gpu(row)]
    if not rows:
        raise smi_failure(output)
    return [_gpu(row) for row in rows]


def _is_gpu(row: list[str]) -> bool:
    """True for a GPU's row: drivers and images may print other lines around them."""
    return len(row) >= len(FIELDS) and row[0].isdecimal() and row[1].startswith("GPU-")


def smi_failure(output: str) -> HostError:
    """The failure for a host on which nvidia-smi printed ``output`` instead of a list of GPUs."""
    said = " ".join(output.split())[:_ONE_LINE]
    for words, what, fix in _SMI_FAILURES:
        if words in output.lower():
            return HostError(what, where=f"nvidia-smi: {said}", fix=fix)
    return HostError("nvidia-smi lists no GPU", where=said or "no output", fix="check `nvidia-smi` on the host itself")


def alike(gpus: Sequence[Gpu], kernels: Kernels) -> list[Gpu]:
    """The GPUs that an engine can be built for and served on: all of the most frequent supported model.

    Raises:
        HostError: no GPU has a supported architecture.
    """
    fitting = [gpu for gpu in gpus if gpu.sm is not None and kernels.min_sm <= gpu.sm <= kernels.max_sm]
    supported = [gpu for gpu in fitting if not gpu.mig]
    if not supported:
        raise HostError(
            "; ".join(_why_unsupported(gpu, kernels) for gpu in fitting or gpus),
            where=kernels.name,
            fix=f"turn MIG off, as root on the host: `nvidia-smi -i {fitting[0].index} -mig 0`; {_WHOLE}"
            if fitting
            else kernels.fix,
        )
    ((name, _),) = Counter(gpu.name for gpu in supported).most_common(1)
    return [gpu for gpu in supported if gpu.name == name]


def idle_first(gpus: Sequence[Gpu], busy_mib: int) -> list[Gpu]:
    """The same GPUs, idle ones first."""
    return sorted(gpus, key=lambda gpu: _is_busy(gpu, busy_mib))


def usable(
    gpus: Sequence[Gpu],
    count: int,
    *,
    kernels: Kernels,
    min_driver: str,
    busy_mib: int,
    shared: Collection[str] = (),
) -> list[Gpu]:
    """At least ``count`` of the GPUs `alike`: the idle ones; if too few, also those with an id in ``shared``.

    Raises:
        HostError: the driver is too old, or too few GPUs have the right architecture or are idle.
    """
    _check_driver(gpus[0], min_driver, kernels)
    same = alike(gpus, kernels)
    if len(same) < count:
        raise HostError(
            f"tp_size {count} needs {count} equal GPUs; the host has {len(same)} x {same[0].name}",
            where="field tp_size",
            fix=f"use tp_size {len(same)} or less, or a host with more GPUs",
        )
    idle = [gpu for gpu in same if not _is_busy(gpu, busy_mib)]
    if len(idle) >= count:
        return idle
    busy = [gpu for gpu in same if _is_busy(gpu, busy_mib) and gpu.uuid not in shared]
    if len(same) - len(busy) < count:
        raise _busy(busy, count, len(same) - len(busy), busy_mib, kernels)
    return [gpu for gpu in same if gpu not in busy]


def wait_until_idle(
    list_gpus: Callable[[], Sequence[Gpu]],
    uuids: Collection[str],
    *,
    kernels: Kernels,
    busy_mib: int,
    timeout_s: float,
    poll_s: float = 1,
) -> None:
    """Waits until the driver has released the GPU memory of a stopped server.

    Raises:
        HostError: the memory is still in use after ``timeout_s`` seconds; the message names the GPUs.
    """
    deadline = time.monotonic() + timeout_s
    while busy := [g for g in list_gpus() if g.uuid in uuids and _is_busy(g, busy_mib)]:
        if time.monotonic() > deadline:
            raise _busy(busy, len(uuids), len(uuids) - len(busy), busy_mib, kernels)
        time.sleep(poll_s)


def _gpu(row: list[str]) -> Gpu:
    """Parses one row. A name that contains a comma fills several fields, so the others are counted from the ends."""
    index, uuid, *name, capability, driver, total, used, mig = (field.strip() for field in row)
    return Gpu(
        index=int(index),
        uuid=uuid,
        name=", ".join(name),
        sm=None if capability.startswith(_UNKNOWN) else int(capability.replace(".", "")),
        driver=driver,
        memory_total_mib=_number(total),
        memory_used_mib=_number(used),
        mig=mig == "Enabled",
    )


def _is_busy(gpu: Gpu, busy_mib: int) -> bool:
    return (gpu.memory_used_mib or 0) > busy_mib


def _number(field: str) -> int | None:
    return int(field) if field.isdecimal() else None


def _check_driver(gpu: Gpu, minimum: str, kernels: Kernels) -> None:
    if _version(gpu.driver) < _version(minimum):
        raise HostError(
            f"the NVIDIA driver is {gpu.driver}; the image needs {minimum} or later",
            where=str(gpu),
            fix="install a later driver; if NVIDIA's release notes of the image allow this branch on your data-center "
            f"GPU (CUDA compatibility), set {kernels.settings}MIN_DRIVER to it",
        )


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".") if part.isdecimal())


def _why_unsupported(gpu: Gpu, kernels: Kernels) -> str:
    if gpu.sm is None:
        return f"{gpu} does not tell its compute capability"
    if gpu.mig:
        return f"{gpu} is in MIG mode"
    reason = kernels.too_new if gpu.sm > kernels.max_sm else kernels.too_old
    return f"{gpu} is SM {gpu.sm}: upstream's kernels are for SM {kernels.min_sm} to {kernels.max_sm}, {reason}"


def _busy(busy: Sequence[Gpu], count: int, idle: int, busy_mib: int, kernels: Kernels) -> HostError:
    used = ", ".join(f"{gpu}: {gpu.memory_used_mib} of {gpu.memory_total_mib} MiB in use" for gpu in busy)
    return HostError(
        f"{count} idle GPUs are needed, {idle} are; {used}",
        where=f"more than {busy_mib} MiB counts as busy",
        fix=f"stop what uses them (`nvidia-smi` on the host names it), or raise {kernels.settings}BUSY_MIB",
    )
