"""Target ``vllm``: quantized weights served by vLLM in the ensemble of the other targets, on NVIDIA GPUs, SM 75 to 120.

ModelOpt calibrates out of a folder of its own (`Settings.vllm_modelopt`), for neither NVIDIA's image nor vLLM's
environment has the versions that write the checkpoint.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Collection
from functools import cached_property
from pathlib import Path

from include.errors import HostError, ToolError, UserError
from include.host import gpus as gpu
from include.host.docker.containers import ContainerSpec
from include.host.docker.images import ImageId
from include.host.docker.oneshot import DockerImage
from include.host.docker.registry import FindLogin, no_login
from include.host.gpus import Gpu
from include.model.config import ModelConfig
from include.requests.release import ReleaseRequest
from include.runners.job import Command, inherited
from include.settings import Settings
from include.stages.build_vllm.__main__ import LIMITS
from include.targets import ensemble, estimates, pytriton
from include.targets.base import Target, check_format, pinned
from include.targets.vllm.settings import VllmSettings
from include.triton.repository import paths, read
from include.triton.servers import Ports, ServerPlan

HERE = Path(__file__).parent
# The ensemble around the slot is the one of target openvino.
TEMPLATES = HERE.parent / "openvino" / "repository"
_BY_MODELOPT = ("include.stages.calibrate", "include.stages.calibrate.original")
"""Stages that run with ModelOpt's versions: one transformers for both sides of a comparison."""
STAMP = "requirements.txt"
GROUP_SIZES = (128, 64, 32)
"""Those of vLLM's Marlin kernel."""

KERNELS = gpu.Kernels(
    name="vLLM's kernels",
    min_sm=75,
    max_sm=120,
    too_old="it is older than Turing",
    too_new="it is not known to this version",
    fix="use a host with a Turing, Ampere, Ada, Hopper or Blackwell GPU, or choose target openvino",
    settings="HF2TRITON_VLLM_",
)
_IMAGE_TRITON = Path("/opt/tritonserver")
_SHM_BYTES = 4 << 30
_MEMORY_BACK_S = 60.0
_CUDA_GRAPHS = 2 * estimates.GIB

_ENV = {
    # With FlashInfer's sampler a request's seed has no effect, and it would be compiled on the host at the first use.
    "VLLM_USE_FLASHINFER_SAMPLER": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_DO_NOT_TRACK": "1",
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
    "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    # It is part of the key of vLLM's compile cache, and a worker may have another one than a server.
    "CUDA_HOME": "/usr/local/cuda",
    "HF_HUB_OFFLINE": "1",
}
_LIST_VERSIONS = """
import importlib.metadata as m, json, platform
print(json.dumps({"python": platform.python_version()} | {d.name.lower(): d.version for d in m.distributions()}))
"""
_TOOLS = ("python", "torch", "vllm", "transformers", "compressed-tensors", "nvidia-pytriton")


class VllmTarget(Target):
    """Calibrates with ModelOpt on the GPU, builds by vLLM's own proof, serves with vLLM in Triton's python backend."""

    name = "vllm"
    build_module = "include.stages.build_vllm"
    device = "cuda"
    applies_chat_template = True

    def __init__(
        self,
        settings: Settings,
        own: VllmSettings | None = None,
        docker: DockerImage | None = None,
        find_login: FindLogin = no_login,
    ) -> None:
        self._settings = settings
        self._own = own or VllmSettings()
        self._docker = docker or DockerImage(self._own.image, find_login)
        self._python = settings.vllm_python

    def check_host(self, request: ReleaseRequest, shared: Collection[str] = ()) -> None:
        """Checks the request, the environments or the image, and the host's GPUs; pulls the image if need be.

        Raises:
            UserError: a field that vLLM does not take, or no such image.
            HostError: a part is missing, or the GPUs are too few, too old or busy.
        """
        if request.group_size not in (None, *GROUP_SIZES):
            raise UserError(
                f"awq_group_size is {request.group_size}; vLLM's int4 kernels take 32, 64 and 128 only",
                where="field awq_group_size",
                fix="use 128, or 64 if 128 does not divide the model's dimensions",
            )
        if not (self._settings.vllm_modelopt / STAMP).is_file():
            raise HostError(
                f"target vllm is not available: {self._settings.vllm_modelopt} holds no ModelOpt",
                where="HF2TRITON_VLLM_MODELOPT",
                fix=f"run `make {'setup-vllm-image' if self._in_containers else 'setup-vllm'}`",
            )
        if self._in_containers:
            self._docker.ensure()
        elif not self._python.exists():
            raise HostError(
                f"target vllm is not available: {self._python} does not exist",
                where="field target",
                fix="run `make setup-vllm`, or set HF2TRITON_VLLM_PYTHON",
            )
        else:
            pytriton.prepare(self._python)
        self.devices(request, shared)

    def check_fits(self, request: ReleaseRequest, config: ModelConfig, shared: Collection[str] = ()) -> None:
        """Raises `HostError` if a stage needs more memory than the idle GPUs have, as `estimates` has it."""
        estimates.check_fits(estimates.estimate(config, request), self.devices(request, shared))

    def devices(self, request: ReleaseRequest, shared: Collection[str] = ()) -> list[Gpu]:
        """The GPUs that ``tp_size`` of them may be leased from; raises `HostError` if there are too few."""
        found = gpu.usable(
            self.list_gpus(),
            self.gpus(request),
            kernels=KERNELS,
            min_driver=self._own.min_driver,
            busy_mib=self._own.busy_mib,
            shared=shared,
        )
        return check_format(request, found)

    def environment(self) -> dict[str, str]:
        """The image, by its digest or id, or the versions of the tools; and ModelOpt's folder, by its requirements."""
        modelopt = {"modelopt": " ".join("==".join(one) for one in self._modelopt.items())} if self._modelopt else {}
        attention = {"attention": self._own.attention_backend} if self._own.attention_backend else {}
        if self._in_containers:
            found = self._docker.ensure()
            return {"image": found.digest or found.id, **modelopt, **attention}
        return {**{tool: self._installed.get(tool, "missing") for tool in _TOOLS}, **modelopt, **attention}

    def host_versions(self) -> dict[str, str]:
        """The GPUs and their driver."""
        found = self.list_gpus()
        return {"driver": found[0].driver, "gpus": ", ".join(one.name for one in found)}

    def packages(self) -> dict[str, str]:
        """The environment's packages, and ModelOpt's of other names; those of NVIDIA's image are not known."""
        serving = {} if self._in_containers else self._installed
        return {name: version for name, version in {**self._modelopt, **serving}.items() if name != "python"}

    def image_id(self) -> ImageId | None:
        """NVIDIA's image by its digest and id."""
        return self._docker.ensure() if self._in_containers else None

    def hardware(self) -> dict[str, str]:
        """The GPU model: vLLM's compile cache in an engine is for no other."""
        found = gpu.alike(self.list_gpus(), KERNELS)[0]
        return {"gpu": found.name, "sm": str(found.sm)}

    def command(self, module: str, args: tuple[str, ...]) -> Command:
        """The stage program; calibration sees ModelOpt's folder before the rest of its environment."""
        python = "python3" if self._in_containers else str(self._python)
        extra = {"HF2TRITON_SITE": str(self._settings.vllm_modelopt)} if module in _BY_MODELOPT else {}
        extensions = {"TORCH_EXTENSIONS_DIR": str(self._cache / "torch_extensions")}
        return Command.python(python, module, args, **_ENV, **extensions, **extra)

    def stage_image(self) -> ContainerSpec:
        """NVIDIA's image, with ModelOpt's folder and the cache of compiled extensions of this host."""
        cache = self._cache / "torch_extensions"
        cache.mkdir(parents=True, exist_ok=True)
        reads = (self._settings.vllm_modelopt,)
        return ContainerSpec(image=self._docker.ensure().id, reads=reads, caches=(cache,), shm_bytes=_SHM_BYTES)

    def gpus(self, request: ReleaseRequest) -> int:
        """One for each rank of vLLM's tensor parallelism."""
        return request.tp_size

    def gpu_ids(self) -> tuple[str, ...]:
        """UUIDs of the GPUs of one model that vLLM's kernels are for, those with the least memory in use first."""
        found = gpu.alike(self.list_gpus(), KERNELS)
        return tuple(one.uuid for one in gpu.idle_first(found, self._own.busy_mib))

    def wait_for_memory(self, gpus: Collection[str]) -> None:
        """Waits until GPUs whose server was stopped are idle; raises `HostError` if they are not within a minute."""
        if gpus:
            gpu.wait_until_idle(
                self.list_gpus, gpus, kernels=KERNELS, busy_mib=self._own.busy_mib, timeout_s=_MEMORY_BACK_S
            )

    def calibrate_options(self) -> dict[str, str]:
        """vLLM has no input scales of its own: they must fold."""
        return {"smoothing": "foldable"}

    def build_options(self, request: ReleaseRequest) -> dict[str, str]:
        """All limits: vLLM compiles for them. The precision is that of another engine."""
        return {name: str(value) for name, value in request.section("Engine", ignored=("precision",)).items()}

    def build_args(self, request: ReleaseRequest) -> tuple[str, ...]:
        """The command line of `build_module` besides the checkpoint."""
        limits = {name: str(getattr(request, name)) for name in LIMITS}
        backend = self._own.attention_backend
        options = {**limits, **({"attention_backend": backend} if backend else {})}
        return tuple(word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", value))

    def templates(self) -> Path:
        """The ensemble that serves token ids out of any engine."""
        return TEMPLATES

    def overlay(self) -> Path:
        """The slot's adapter to vLLM."""
        return HERE / "repository"

    def repository_values(
        self, request: ReleaseRequest, config: ModelConfig, checkpoint: Path, engine: Path
    ) -> dict[str, dict[str, str]]:
        """The templates' values; memory beyond what a full batch needs is left to others."""
        memory = estimates.estimate(config, request)
        enough = memory.serve_full + _CUDA_GRAPHS
        fraction = request.kv_cache_memory_fraction
        return ensemble.values(request, checkpoint, engine, kv_cache_bytes=enough, gpu_memory_fraction=fraction)

    def server(self, repository: Path, ports: Ports) -> ServerPlan:
        """Triton out of NVIDIA's image, or out of the nvidia-pytriton wheel."""
        engine = Path(read(repository)["tensorrt_llm"].parameters["gpt_model_path"].string_value)
        count = _gpus_of(engine)
        if not self._in_containers:
            found = pytriton.ask(self._python)
            plan = pytriton.server(self.name, found, repository, ports, _ENV)
            return plan.model_copy(update={"gpus": count})
        return ServerPlan(
            target=self.name,
            repository=repository,
            argv=pytriton.server_argv(_IMAGE_TRITON, repository, ports, "hf2triton_"),
            env={**_ENV, "HOME": "/tmp", "TOKENIZERS_PARALLELISM": "false"},  # noqa: S108 - in a container
            ports=ports,
            gpus=count,
            container=ContainerSpec(
                image=self._docker.ensure().id,
                reads=(repository, *sorted(paths(repository))),
                network=self._own.network,
                shm_bytes=_SHM_BYTES,
            ),
        )

    def list_gpus(self) -> list[Gpu]:
        """The GPUs that nvidia-smi lists now, on the host or in the image; raises `HostError` if it lists none."""
        if self._in_containers:
            self._docker.ensure()
            asked = self._docker.run(gpu.NVIDIA_SMI, gpus=True)
            if asked.code != 0:
                raise gpu.smi_failure(asked.output)
            return gpu.parse(asked.output)
        try:
            found = subprocess.run(gpu.NVIDIA_SMI, env=inherited(), capture_output=True, text=True)
        except OSError as error:
            raise HostError(
                f"nvidia-smi does not run: {error.strerror}",
                where="target vllm",
                fix="use a host with an NVIDIA GPU and its driver, or choose target openvino",
            ) from error
        if found.returncode != 0:
            raise gpu.smi_failure(found.stdout + found.stderr)
        return gpu.parse(found.stdout)

    @property
    def _in_containers(self) -> bool:
        return self._settings.runner == "docker"

    @property
    def _cache(self) -> Path:
        return self._settings.artifacts / "cache" / self.name

    @property
    def _modelopt(self) -> dict[str, str]:
        """The packages in ModelOpt's folder by name, as its requirements have them."""
        stamp = self._settings.vllm_modelopt / STAMP
        return pinned(stamp.read_text()) if stamp.is_file() else {}

    @cached_property
    def _installed(self) -> dict[str, str]:
        argv = [str(self._python), "-I", "-c", _LIST_VERSIONS]
        asked = subprocess.run(argv, env=inherited(), capture_output=True, text=True, check=True)
        versions: dict[str, str] = json.loads(asked.stdout)
        return versions


def _gpus_of(engine: Path) -> int:
    """The number of GPUs that an engine is for; raises `ToolError` if it is none."""
    path = engine / "engine.json"
    try:
        return int(json.loads(path.read_text())["arguments"]["tensor_parallel_size"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ToolError(f"not an engine of target vllm: {error}", where=str(path), fix="build it again") from error
