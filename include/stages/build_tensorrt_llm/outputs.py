"""The configs of a checkpoint and of an engine, and the checks of a build."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from include.errors import ToolError, UserError
from include.model.files import CONFIG_FILE
from include.stages.common import read_json
from include.stages.formats import of_algorithm

_TOTAL_TIME = re.compile(r"Total time of building all engines: (\d+):(\d{2}):(\d{2})")


def algorithm_of_checkpoint(checkpoint: Path) -> str:
    """The ``quant_algo`` of a TensorRT-LLM checkpoint; UserError for a format that is not supported."""
    path = checkpoint / CONFIG_FILE
    return of_algorithm(read_json(path).get("quantization", {}).get("quant_algo"), str(path)).algorithm


@dataclass(frozen=True)
class Engine:
    """An engine's ``config.json``: the TensorRT-LLM version that built it, and its ranks."""

    version: str
    tp_size: int
    pp_size: int
    quantization: str | None

    @property
    def world_size(self) -> int:
        """Ranks, which is GPUs: TP x PP."""
        return self.tp_size * self.pp_size


def world_size_of_checkpoint(checkpoint: Path) -> int:
    """TP x PP of a TensorRT-LLM checkpoint; raises `UserError` unless there is a file for every rank."""
    config = read_json(checkpoint / CONFIG_FILE)
    size = _mapping(config)["world_size"]
    missing = [
        name for name in (f"rank{rank}.safetensors" for rank in range(size)) if not (checkpoint / name).is_file()
    ]
    if missing:
        raise UserError(
            f"the checkpoint is for {size} GPUs, but has no {', '.join(missing)}",
            where=str(checkpoint),
            fix="calibrate again",
        )
    return size


def read_engine(directory: Path) -> Engine:
    """The facts in ``config.json`` of an engine; raises `ToolError` if it cannot be read or has no such fields."""
    path = directory / CONFIG_FILE
    config = read_json(path, ToolError)
    try:
        pretrained = config["pretrained_config"]
        mapping = _mapping(pretrained)
        return Engine(
            version=config["version"],
            tp_size=mapping["tp_size"],
            pp_size=mapping["pp_size"],
            quantization=pretrained.get("quantization", {}).get("quant_algo"),
        )
    except KeyError as error:
        raise ToolError(f"the engine's config has no field {error}", where=str(path), fix="build it again") from error


def check_engine(directory: Path, *, version: str, world_size: int, algorithm: str) -> Engine:
    """Raises `ToolError` if an engine is not what was asked for: version, ranks, quantization, files."""
    engine = read_engine(directory)
    ranks = sorted(path.name for path in directory.glob("rank*.engine"))
    wanted = sorted(f"rank{rank}.engine" for rank in range(world_size))
    found = {
        f"TensorRT-LLM {engine.version}, but the image has {version}": engine.version != version,
        f"TP x PP is {engine.world_size}, but the checkpoint's is {world_size}": engine.world_size != world_size,
        f"quantization is {engine.quantization}, not {algorithm}": engine.quantization != algorithm,
        f"engine files are {ranks}, not {wanted}": ranks != wanted,
    }
    wrong = [what for what, is_wrong in found.items() if is_wrong]
    if wrong:
        raise ToolError(f"the engine is not what was asked for: {'; '.join(wrong)}", where=str(directory))
    return engine


def seconds_of_build(line: str) -> int | None:
    """The build time if this is trtllm-build's last line. Upstream prints hours modulo 24."""
    match = _TOTAL_TIME.search(line)
    if match is None:
        return None
    hours, minutes, seconds = map(int, match.groups())
    return hours * 3600 + minutes * 60 + seconds


def _mapping(config: dict[str, Any]) -> dict[str, int]:
    """ModelOpt and TensorRT-LLM leave a size out when it is 1."""
    given = config.get("mapping", {})
    tp, pp = given.get("tp_size", 1), given.get("pp_size", 1)
    return {"tp_size": tp, "pp_size": pp, "world_size": given.get("world_size", tp * pp)}
