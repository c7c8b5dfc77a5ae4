"""Target ``tensorrt_llm``: NVIDIA's image calibrates, builds and serves. It is used as it is.

Written to upstream's contract (TensorRT-LLM 1.2.1). The image has not been run with it: see docs/gpu-host.md.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import cached_property
from pathlib import Path

from include.errors import HostError
from include.files import write_atomic
from include.host import gpus as gpu
from include.host.docker.containers import ContainerSpec
from include.host.docker.images import ImageId
from include.host.docker.oneshot import DockerImage
from include.host.docker.registry import FindLogin, no_login
from include.host.gpus import Gpu
from include.model.config import ModelConfig
from include.model.generation import end_ids
from include.requests.release import ReleaseRequest
from include.runners.job import Command
from include.settings import Settings
from include.stages.build_tensorrt_llm.outputs import Engine
from include.targets import estimates
from include.targets.base import Target, check_format
from include.targets.tensorrt_llm import engines, templates
from include.targets.tensorrt_llm.image import ImageFacts, probe_argv
from include.targets.tensorrt_llm.server import SHM_BYTES, ULIMITS, server_argv
from include.targets.tensorrt_llm.settings import TensorRTLLMSettings
from include.triton.repository import paths, read
from include.triton.servers import Ports, ServerPlan

KERNELS = gpu.Kernels(
    name="TensorRT-LLM 1.2.1's kernels",
    min_sm=80,
    max_sm=90,
    too_old="it is older than Ampere",
    too_new="Blackwell and later are not supported",
    fix="choose target vllm, whose kernels are for SM 75 to 120; or use a host with an Ampere, Ada or Hopper GPU "
    "(e.g. A100, L40S, H100); or choose target openvino",
    settings="HF2TRITON_TRTLLM_",
)

_MEMORY_BACK_S = 60.0


class TensorRTLLMTarget(Target):
    """Calibrates with ModelOpt on the GPU, builds with ``trtllm-build``, serves with Triton's tensorrtllm backend.

    Nothing is asked of Docker before it is needed: a target can be made where there is none.
    """

    name = "tensorrt_llm"
    build_module = engines.MODULE
    device = "cuda"
    applies_chat_template = False

    def __init__(
        self,
        settings: Settings,
        own: TensorRTLLMSettings | None = None,
        docker: DockerImage | None = None,
        find_login: FindLogin = no_login,
    ) -> None:
        self._settings = settings
        self._own = own or TensorRTLLMSettings()
        self._docker = docker or DockerImage(self._own.image, find_login)
        self.cache = settings.artifacts / "cache" / self.name

    def check_host(self, request: ReleaseRequest, shared: Collection[str] = ()) -> None:
        """Checks the request, the image and the host's GPUs; pulls the image if need be.

        Raises:
            UserError: a field that TensorRT-LLM does not take, or no such image.
            HostError: no Docker, no NVIDIA runtime, image, driver, GPU architecture, too few or busy GPUs.
            TransientError: the registry cannot be reached.
        """
        engines.check_request(request)
        if self._settings.runner != "docker":
            raise HostError(
                "target tensorrt_llm runs in containers, this deployment runs processes",
                where="field target",
                fix="set HF2TRITON_RUNNER=docker on a GPU host, or choose target openvino",
            )
        self.image.check_digest(self._own.digests)
        if request.tp_size > 1:
            self.image.mpirun()
        self.devices(request, shared)

    def check_fits(self, request: ReleaseRequest, config: ModelConfig, shared: Collection[str] = ()) -> None:
        """Checks that upstream's layers fit the model's, and that its stages fit the idle GPUs.

        Raises:
            UserError: the model's dimensions cannot be shared as asked.
            HostError: a stage needs more memory than there is, as `estimates` has it.
        """
        engines.check_dimensions(request, config)
        estimates.check_fits(estimates.estimate(config, request), self.devices(request, shared))

    def check_tokenizer(self, request: ReleaseRequest, folder: Path) -> None:
        """Raises `UserError` for a tokenizer that NVIDIA's models or engines cannot serve as the request asks."""
        engines.check_vocabulary(folder)
        engines.check_end(folder)
        if request.streaming:
            engines.check_pieces(folder)

    def devices(self, request: ReleaseRequest, shared: Collection[str] = ()) -> list[Gpu]:
        """The GPUs that ``tp_size`` of them may be leased from; raises `HostError` if there are too few.

        They are idle. If those are too few, ``shared`` ones are among them: `check_fits` counts the memory that
        their server leaves free.
        """
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
        """The image, by its digest or id, and the versions in it."""
        found = self.image.versions.model_dump(exclude_none=True)
        return {"image": self.image.digest or self.image.id, **found}

    def host_versions(self) -> dict[str, str]:
        """The GPUs and their driver, and the image by the name that it was asked for."""
        found = self.list_gpus()
        return {"image": self._own.image, "driver": found[0].driver, "gpus": ", ".join(one.name for one in found)}

    def packages(self) -> dict[str, str]:
        """The packages in the image that make an engine's bytes."""
        found = self.image.versions.model_dump(by_alias=True, exclude={"python", "tritonserver"})
        return {name.replace("_", "-"): version for name, version in found.items()}

    def image_id(self) -> ImageId:
        """The image by its digest and id."""
        return ImageId(id=self.image.id, digest=self.image.digest, name=self._own.image)

    def hardware(self) -> dict[str, str]:
        """The GPU model: an engine runs on no other."""
        return {"gpu": self._gpu.name, "sm": str(self._gpu.sm)}

    def command(self, module: str, args: tuple[str, ...]) -> Command:
        """The stage program with the image's own interpreter.

        ModelOpt's CUDA extension is compiled once for an image and a GPU architecture, into `cache`.
        """
        extensions = self.cache / "torch_extensions" / f"{self.image.short_id}-sm{self._gpu.sm}"
        env = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "TORCH_EXTENSIONS_DIR": str(extensions)}
        return Command.python(self.image.tools.python, module, args, **env)

    def stage_image(self) -> ContainerSpec:
        """The image, with the caches of compiled extensions and timings on the host."""
        caches = (self.cache / "torch_extensions", self.cache / "timing")
        for cache in caches:
            cache.mkdir(parents=True, exist_ok=True)
        return ContainerSpec(image=self.image.id, caches=caches, shm_bytes=SHM_BYTES, ulimits=dict(ULIMITS))

    def gpus(self, request: ReleaseRequest) -> int:
        """One for each rank of the engine."""
        return request.tp_size

    def gpu_ids(self) -> tuple[str, ...]:
        """UUIDs of the GPUs of one model that an engine can be built for, those with the least memory in use first."""
        return tuple(found.uuid for found in gpu.idle_first(gpu.alike(self.list_gpus(), KERNELS), self._own.busy_mib))

    def build_options(self, request: ReleaseRequest) -> dict[str, str]:
        """The options that change an engine's bytes besides checkpoint, image and GPU: part of its key."""
        return engines.build_options(request, self._own)

    def build_args(self, request: ReleaseRequest) -> tuple[str, ...]:
        """The command line of `build_module` besides the checkpoint."""
        cache = engines.timing_cache(self.cache / "timing", self.image.versions.tensorrt, self._gpu.name)
        return engines.build_flags(self.build_options(request), self.image, cache)

    def templates(self) -> Path:
        """Upstream's templates as the image has them, copied out once for each image."""
        copy = self.cache / "templates" / self.image.short_id
        if not copy.is_dir():
            copy.parent.mkdir(parents=True, exist_ok=True)
            self._docker.copy_out(self.image.tools.templates, copy)
        return copy

    def overlay(self) -> Path:
        """The model that adds end tokens, for the models that have several."""
        return Path(__file__).parent / "repository"

    def connect(self, repository: Path) -> None:
        """Lets that model stand between NVIDIA's preprocessing and the engine."""
        templates.connect(repository)

    def repository_values(
        self, request: ReleaseRequest, config: ModelConfig, checkpoint: Path, engine: Path
    ) -> dict[str, dict[str, str]]:
        """The templates' values, for an engine that fits this image, this GPU and the request."""
        tokenizer = checkpoint / "tokenizer"
        engines.check_tokenizer(tokenizer)
        engines.check_ranks(self._check_engine(engine), engine, request.tp_size)
        return templates.values(
            request,
            self._own,
            tokenizer=tokenizer,
            engine=engine,
            templates=self.templates(),
            ends=end_ids(checkpoint),
        )

    def local_path(self, path: str) -> Path:
        """The path itself if it is in the store, which is the same in the container; the rest is the image's."""
        return Path(path) if Path(path).is_relative_to(self._settings.artifacts) else Path("/")

    def server(self, repository: Path, ports: Ports) -> ServerPlan:
        """The server's container; raises `HostError` if another image or GPU model built its engine."""
        named = (path for path in paths(repository) if self.local_path(str(path)) == path)
        engine = read(repository)["tensorrt_llm"].parameters["gpt_model_path"].string_value
        ranks = self._check_engine(Path(engine)).world_size
        return ServerPlan(
            target=self.name,
            repository=repository,
            argv=server_argv(self.image, repository, ports, ranks=ranks),
            env={"HF_HUB_OFFLINE": "1", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"},
            ports=ports,
            gpus=ranks,
            container=ContainerSpec(
                image=self.image.id,
                reads=(repository, *sorted(named)),
                network=self._own.network,
                shm_bytes=SHM_BYTES,
                ulimits=dict(ULIMITS),
            ),
        )

    def wait_for_memory(self, gpus: Collection[str]) -> None:
        """Waits until GPUs whose server was stopped are idle; raises `HostError` if they are not within a minute."""
        if gpus:
            gpu.wait_until_idle(
                self.list_gpus, gpus, kernels=KERNELS, busy_mib=self._own.busy_mib, timeout_s=_MEMORY_BACK_S
            )

    def list_gpus(self) -> list[Gpu]:
        """The GPUs that the image's nvidia-smi lists now; raises `HostError` if it lists none."""
        self.image  # noqa: B018 - the image is there before it is run
        asked = self._docker.run(gpu.NVIDIA_SMI, gpus=True)
        if asked.code != 0:
            raise gpu.smi_failure(asked.output)
        return gpu.parse(asked.output)

    @cached_property
    def image(self) -> ImageFacts:
        """The facts about the image, probed once for each image id."""
        identity = self._docker.ensure()
        path = self.cache / "images" / f"{identity.id.replace(':', '-')}.json"
        if path.is_file():
            return ImageFacts.model_validate_json(path.read_text())
        probed = self._docker.run(probe_argv())
        facts = ImageFacts.parse(probed.output, image=self._own.image, image_id=identity.id, digest=identity.digest)
        write_atomic(path, facts.model_dump_json(indent=1, by_alias=True))
        return facts

    @cached_property
    def _gpu(self) -> Gpu:
        return gpu.alike(self.list_gpus(), KERNELS)[0]

    def _check_engine(self, directory: Path) -> Engine:
        return engines.check_fits(directory, self.image, self._gpu.name)
