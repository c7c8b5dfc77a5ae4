"""Target ``openvino``: real AWQ weights, a real engine and a real Triton on a CPU. It is not TensorRT-LLM."""

from __future__ import annotations

import json
import logging
import platform
import subprocess
from collections.abc import Collection
from functools import cached_property
from pathlib import Path

import psutil

from include.errors import HostError
from include.files import sha256_of
from include.host.docker.containers import Containers, ContainerSpec
from include.host.docker.engine import local_engine
from include.host.docker.images import ImageId
from include.host.docker.registry import FindLogin, no_login
from include.model.config import ModelConfig
from include.requests.release import ReleaseRequest
from include.runners.job import Command, inherited
from include.settings import Settings
from include.stages.common import has_native_bfloat16
from include.targets import ensemble, estimates, pytriton
from include.targets.base import Target, pinned
from include.targets.openvino import image
from include.triton.repository import paths
from include.triton.servers import Ports, ServerPlan

log = logging.getLogger(__name__)

HERE = Path(__file__).parent
LOCK = HERE / "requirements.txt"
TORCH_LOCK = HERE / "requirements-torch.txt"

_LIST_VERSIONS = """
import importlib.metadata as m, json, platform
print(json.dumps({"python": platform.python_version()} | {d.name: d.version for d in m.distributions()}))
"""
_TOOLS = (
    "python",
    "torch",
    "transformers",
    "nvidia-modelopt",
    "openvino",
    "openvino-genai",
    "optimum-intel",
    "nvidia-pytriton",
)

NO_TELEMETRY = {"CI": "true"}
"""Importing openvino would report to Google Analytics, and so would each conversion. openvino_telemetry 2025.2 has no
variable of its own to stop that, but keeps silent where it takes itself to be in a CI job."""

SHM_BYTES = 1 << 30
"""Upper limit of the tensors between Triton and its models' stubs; only what is in use takes memory."""

IN_IMAGE = pytriton.Environment(
    python="3.11",
    site_packages=Path("/opt/venv/lib/python3.11/site-packages"),
    scripts=Path("/opt/venv/bin"),
    library="libpython3.11.so.1.0",
    library_dir=Path("/usr/lib"),
    pytriton=Path("/opt/venv/lib/python3.11/site-packages/pytriton"),
    numpy="1",
)
"""The target's image, as its Dockerfile makes it: the stub is in place."""

_LIMITS = ("tp_size", "max_batch_size", "max_input_len", "max_seq_len", "max_num_tokens")


class OpenVinoTarget(Target):
    """Calibrates with ModelOpt on the CPU, builds an OpenVINO IR, serves it with nvidia-pytriton's Triton."""

    name = "openvino"
    build_module = "include.stages.build_openvino"
    device = "cpu"
    applies_chat_template = True

    def __init__(self, settings: Settings, find_login: FindLogin = no_login) -> None:
        self._settings = settings
        self._find_login = find_login
        self._python = settings.openvino_python

    def check_host(self, request: ReleaseRequest, shared: Collection[str] = ()) -> None:
        """Raises `HostError` for a part that the host lacks."""
        if self._in_containers:
            self.image_id()
        elif not self._python.exists():
            raise HostError(
                f"target openvino is not available: {self._python} does not exist",
                where="field target",
                fix="run `make setup`, or set HF2TRITON_OPENVINO_PYTHON",
            )
        else:
            pytriton.prepare(self._python)

    def serve_bytes(self, request: ReleaseRequest, config: ModelConfig) -> int:
        """The host memory that a server needs at least: the KV cache grows up to its limit as it is used."""
        return estimates.host_serve_bytes(config, request)

    def environment(self) -> dict[str, str]:
        """Versions of the tools as installed, and the digest of the lock they came from; or the image, whose tag is."""
        if self._in_containers:
            return {"image": image.image()}
        versions = {tool: self._installed.get(tool, "missing") for tool in _TOOLS}
        compute = "bfloat16" if has_native_bfloat16() else "float32"
        return {**versions, "lock": sha256_of(LOCK), "compute": compute}

    def host_versions(self) -> dict[str, str]:
        """The kernel's version: all others are in `environment`."""
        return {"kernel": platform.release()}

    def packages(self) -> dict[str, str]:
        """The installed packages, or those that the image was built from."""
        if self._in_containers:
            return pinned(LOCK.read_text() + TORCH_LOCK.read_text())
        return {name: version for name, version in self._installed.items() if name != "python"}

    def image_id(self) -> ImageId | None:
        """The image of this deployment's containers."""
        if not self._in_containers:
            return None
        wanted = self.stage_image()
        return Containers(local_engine, log.info, self._find_login).ensure_image(wanted.image, wanted.build)

    def hardware(self) -> dict[str, str]:
        """The device: an IR runs on any CPU."""
        return {"device": "cpu"}

    def command(self, module: str, args: tuple[str, ...]) -> Command:
        """The stage program in the target's environment."""
        python = "python" if self._in_containers else str(self._python)
        return Command.python(python, module, args, **NO_TELEMETRY)

    def build_options(self, request: ReleaseRequest) -> dict[str, str]:
        """The precision: lengths and batch are limits of the server, not of an IR."""
        return request.section("Engine", ignored=_LIMITS)

    def build_args(self, request: ReleaseRequest) -> tuple[str, ...]:
        """The build program's arguments besides the checkpoint."""
        return ("--precision", request.precision)

    def stage_image(self) -> ContainerSpec:
        """Debian's Python with the same locked requirements: built on this host, or from the deployment's registry."""
        if self._settings.openvino_image:
            return ContainerSpec(image=image.image(self._settings.openvino_image))
        return ContainerSpec(image=image.image(), build=image.BUILD_COMMAND)

    def templates(self) -> Path:
        """Our own ensemble, with upstream's input and output names."""
        return HERE / "repository"

    def repository_values(
        self, request: ReleaseRequest, config: ModelConfig, checkpoint: Path, engine: Path
    ) -> dict[str, dict[str, str]]:
        """The values that the templates ask for; the KV cache is as large as the limits need, capped by memory."""
        needed = request.max_batch_size * request.max_seq_len * estimates.kv_cache_bytes_per_token(config)
        allowed = int(psutil.virtual_memory().total * request.kv_cache_memory_fraction)
        return ensemble.values(request, checkpoint, engine, kv_cache_bytes=min(needed, allowed))

    def server(self, repository: Path, ports: Ports) -> ServerPlan:
        """Triton out of the nvidia-pytriton wheel, of the local environment or of the image."""
        if self._in_containers:
            return self._server_in_container(repository, ports)
        return pytriton.server(self.name, pytriton.ask(self._python), repository, ports, NO_TELEMETRY)

    def _server_in_container(self, repository: Path, ports: Ports) -> ServerPlan:
        """The same in the target's image, where the models' files are where they are here."""
        image = self.stage_image()
        container = ContainerSpec(
            image=image.image,
            build=image.build,
            reads=(repository, *sorted(paths(repository))),
            network="bridge",
            shm_bytes=SHM_BYTES,
        )
        plan = pytriton.server(self.name, IN_IMAGE, repository, ports, NO_TELEMETRY)
        return plan.model_copy(update={"shared_memory": "", "container": container})

    @property
    def _in_containers(self) -> bool:
        return self._settings.runner == "docker"

    @cached_property
    def _installed(self) -> dict[str, str]:
        asked = subprocess.run(
            [str(self._python), "-c", _LIST_VERSIONS], env=inherited(), capture_output=True, text=True, check=True
        )
        versions: dict[str, str] = json.loads(asked.stdout)
        return versions
