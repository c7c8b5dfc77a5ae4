"""The image: where its tools are and which versions they have. Probed in the image itself, never assumed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Self

from pydantic import ConfigDict, Field, ValidationError

from include.errors import HostError, ToolError
from include.frozen import Frozen
from include.targets.tensorrt_llm import probe

CANDIDATES: dict[str, list[str]] = {
    "python": ["python3", "/opt/venv-tritonserver/bin/python3", "/usr/bin/python3"],
    "trtllm_build": ["trtllm-build", "/opt/venv-tritonserver/bin/trtllm-build", "/usr/local/bin/trtllm-build"],
    "tritonserver": ["/opt/tritonserver/bin/tritonserver", "tritonserver"],
    "mpirun": ["mpirun", "/opt/hpcx/ompi/bin/mpirun", "/usr/local/mpi/bin/mpirun"],
    "templates": [
        "/app/all_models/inflight_batcher_llm",
        "/app/triton_backend/all_models/inflight_batcher_llm",
        "/app/tensorrt_llm/triton_backend/all_models/inflight_batcher_llm",
    ],
}
"""Where each tool has been in the images of 2025 and 2026; a name without a slash is looked up on PATH."""

LAST_WITH_ENGINES = (1, 2)
"""TensorRT-LLM 1.3 and later have no trtllm-build and no engines (NVIDIA/TensorRT-LLM #15763, #15918)."""

_OTHER_IMAGE = "use the pinned image: unset HF2TRITON_TRTLLM_IMAGE"


class Tools(Frozen):
    """Absolute paths in the image. ``mpirun`` is for engines of more than one GPU."""

    python: str
    trtllm_build: str
    tritonserver: str
    templates: str
    mpirun: str | None = None


class Versions(Frozen):
    """What makes an engine's bytes. ``modelopt`` and ``transformers`` make the checkpoint's."""

    model_config = ConfigDict(populate_by_name=True)
    tensorrt_llm: str
    tensorrt: str
    modelopt: str = Field(alias="nvidia-modelopt")
    transformers: str
    torch: str
    python: str
    tritonserver: str | None = None


class ImageFacts(Frozen):
    """What one image is. ``id`` is the engine's own, ``digest`` the registry's; a local image has no digest."""

    image: str
    id: str
    digest: str | None
    tools: Tools
    versions: Versions

    @classmethod
    def parse(cls, output: str, *, image: str, image_id: str, digest: str | None) -> Self:
        """The facts in what `probe_argv` printed, whatever banner the image put around it.

        Raises:
            ToolError: the probe did not run to its end.
            HostError: a tool or a package is missing, or the version cannot build engines; the message names it.
        """
        lines = [line for line in output.splitlines() if line.startswith(probe.MARKER)]
        if not lines:
            raise ToolError(f"the image could not be probed: {output[-400:].strip()}", where=image)
        found = json.loads(lines[-1].removeprefix(probe.MARKER))
        try:
            facts = cls(image=image, id=image_id, digest=digest, **found)
        except ValidationError as error:
            raise HostError(_missing(error), where=image, fix=_OTHER_IMAGE) from error
        facts._check_version()
        return facts

    @property
    def short_id(self) -> str:
        """The id's first 12 digits, for names of directories."""
        return self.id.rpartition(":")[2][:12]

    def _check_version(self) -> None:
        major_minor = tuple(int(part) for part in self.versions.tensorrt_llm.split(".")[:2])
        if major_minor > LAST_WITH_ENGINES:
            raise HostError(
                f"TensorRT-LLM {self.versions.tensorrt_llm} cannot build engines; 1.2 is the last that can",
                where=self.image,
                fix=_OTHER_IMAGE,
            )

    def check_digest(self, accepted: frozenset[str]) -> None:
        """Raises `HostError` if the image is not one of those that the deployment accepts; none named accepts any."""
        if accepted and self.digest not in accepted:
            raise HostError(
                f"the image's digest is {self.digest or 'none (built or loaded here)'}, which is not accepted",
                where=f"{self.image}, HF2TRITON_TRTLLM_DIGESTS",
                fix="pull the accepted image by its digest, or accept this one",
            )

    def mpirun(self) -> str:
        """Path of mpirun; raises `HostError` if the image has none."""
        if self.tools.mpirun is None:
            raise HostError(
                f"no mpirun in the image (looked for {', '.join(CANDIDATES['mpirun'])}): tp_size must be 1",
                where=self.image,
                fix=_OTHER_IMAGE,
            )
        return self.tools.mpirun


def probe_argv() -> tuple[str, ...]:
    """What to run in the image, once: prints one marked line of JSON."""
    return ("python3", "-c", Path(probe.__file__).read_text(), json.dumps(CANDIDATES))


def _missing(error: ValidationError) -> str:
    names = [str(e["loc"][-1]) for e in error.errors()]
    looked = [f"{name} ({', '.join(CANDIDATES[name])})" if name in CANDIDATES else name for name in names]
    return f"the image lacks {'; '.join(looked)}"
