"""The build stage of target vllm from start to end."""

from __future__ import annotations

import json
import platform
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch  # noqa: TID253 - runs only in a target's environment

from include.errors import UserError
from include.model.files import GENERATION_FILE
from include.stages.build_vllm.proof import Proof, engine_perplexity
from include.stages.build_vllm.weights import write_weights
from include.stages.checkpoint import Checkpoint
from include.stages.common import StageReport, log
from include.stages.quality import HeldOut, checkpoint_perplexity

ENGINE_FILE = "engine.json"
"""The engine's own description: vLLM's arguments to serve it with, and its proof."""

Score = Callable[[Path, Mapping[str, Any], list[list[int]]], float]


def build(
    checkpoint_dir: Path,
    out: Path,
    limits: Mapping[str, int],
    attention_backend: str | None,
    report: StageReport,
    score: Score = engine_perplexity,
) -> None:
    """Writes a model directory that vLLM serves, and vLLM's cache for this GPU, into ``out``.

    Raises:
        UserError: the checkpoint is not one that can be built.
        ToolError: the engine does not score like PyTorch did on the checkpoint.
    """
    checkpoint = Checkpoint(checkpoint_dir)
    held_out, expected = HeldOut.load(checkpoint_dir), checkpoint_perplexity(checkpoint_dir)
    if not (checkpoint_dir / GENERATION_FILE).is_file():
        raise UserError(f"the checkpoint has no {GENERATION_FILE}", where=str(checkpoint_dir))
    with report.part("convert"):
        count = write_weights(checkpoint, out)
        _copy_texts(checkpoint_dir, out)
    arguments = engine_arguments(checkpoint.config["dtype"], limits, attention_backend)
    blocks = [block[: arguments["max_model_len"] - 1] for block in held_out.blocks.tolist()]
    whole = len(blocks[0]) == held_out.blocks.shape[1]
    with report.part("score"):
        found = score(out, arguments, blocks)
    proof = Proof(expected, found)
    if whole:
        proof.check()
    else:
        log.info("max_seq_len is below the held-out samples' length: the score is of their beginnings, and not judged")
    fields = {"target": "vllm", "vllm": _version("vllm"), "arguments": arguments, "proof": asdict(proof)}
    (out / ENGINE_FILE).write_text(json.dumps(fields, indent=1))
    _describe(report, count, proof)
    log.info("perplexity %.4f in PyTorch, %.4f in vLLM", proof.torch_perplexity, proof.engine_perplexity)


def engine_arguments(dtype: str, limits: Mapping[str, int], attention_backend: str | None) -> dict[str, Any]:
    """vLLM's ``AsyncEngineArgs``; its compile cache is only found with the very same ones."""
    arguments: dict[str, Any] = {
        "model": ".",
        "dtype": dtype,
        "max_model_len": limits["max_seq_len"],
        "max_num_seqs": limits["max_batch_size"],
        "max_num_batched_tokens": max(limits["max_num_tokens"], limits["max_batch_size"]),
        "tensor_parallel_size": limits["tp_size"],
        "enable_prefix_caching": True,
        "disable_log_stats": True,
    }
    if attention_backend:
        arguments["attention_config"] = {"backend": attention_backend}
    return arguments


def _copy_texts(checkpoint: Path, out: Path) -> None:
    """The tokenizer, by which vLLM bans words, and the tokens that end an answer."""
    for path in sorted((checkpoint / "tokenizer").iterdir()):
        if path.is_file():
            shutil.copyfile(path, out / path.name)
    shutil.copyfile(checkpoint / GENERATION_FILE, out / GENERATION_FILE)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "missing"


def _describe(report: StageReport, count: int, proof: Proof) -> None:
    tools = ("torch", "vllm", "transformers", "compressed-tensors")
    report.versions |= {"python": platform.python_version(), **{tool: _version(tool) for tool in tools}}
    report.results |= {"quantized_layers": count, **asdict(proof)}
    if torch.cuda.is_available():
        report.gpu = torch.cuda.get_device_name(0)
