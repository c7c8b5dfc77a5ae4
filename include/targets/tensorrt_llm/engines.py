"""The engine on this side of the image: the build program's options, and the fit of an engine to image and GPU."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from include.artifacts.store import MANIFEST_FILE, Manifest
from include.errors import HostError, ToolError, UserError
from include.model.config import ModelConfig
from include.model.files import TOKENIZER_FILE
from include.model.generation import end_ids
from include.model.tokenizer import TokenizerFacts
from include.model.vocabulary import read_tokenizer
from include.requests.release import ReleaseRequest
from include.stages.build_tensorrt_llm.outputs import Engine, read_engine
from include.targets.tensorrt_llm.image import ImageFacts
from include.targets.tensorrt_llm.settings import TensorRTLLMSettings

GROUP_SIZES = (128, 64)
"""Upstream's groupwise kernels have no others ("Only group size 64 and 128 supported for fine grained kernels")."""

_LEAST_MULTIPLE = 64
_PIECES = "One, two and three."

MODULE = "include.stages.build_tensorrt_llm"


def check_request(request: ReleaseRequest) -> None:
    """Raises `UserError` for a field that TensorRT-LLM's engines do not take."""
    if request.group_size not in (None, *GROUP_SIZES):
        raise UserError(
            f"awq_group_size is {request.group_size}; TensorRT-LLM's int4 kernels take 64 and 128 only",
            where="field awq_group_size",
            fix="use 128, or 64 if 128 does not divide the model's dimensions",
        )


def check_dimensions(request: ReleaseRequest, config: ModelConfig) -> None:
    """Raises `UserError`, with sizes that fit, unless upstream's int4 layers hold the checkpoint's weights unpadded.

    A format without groups has no such layers.
    Each layer is padded to a multiple of the group (64 at least) times the ranks, in its inputs and its outputs, and
    then does not load weights that are not.
    """
    wrong = request.group_size and _unfit(config, request.group_size, request.tp_size)
    if not wrong:
        return
    sizes = ((group, tp) for tp in range(request.tp_size, 0, -1) for group in GROUP_SIZES)
    fits = next((size for size in sizes if config.heads % size[1] == 0 and not _unfit(config, *size)), None)
    raise UserError(
        f"TensorRT-LLM cannot share groups of {request.awq_group_size} among {request.tp_size} ranks: "
        f"{', '.join(wrong)}",
        where="fields awq_group_size and tp_size",
        fix=f"use awq_group_size {fits[0]} with tp_size {fits[1]}" if fits else "choose target vllm or openvino",
    )


def _unfit(config: ModelConfig, group: int, tp: int) -> list[str]:
    multiple = max(_LEAST_MULTIPLE, group) * tp
    widths = {
        "hidden size": config.hidden_size,
        "query, key and value": (config.heads + 2 * config.kv_heads) * config.head_dim,
        "attention output": config.heads * config.head_dim,
        "MLP": config.intermediate_size,
    }
    return [f"{name} {width} is no multiple of {multiple}" for name, width in widths.items() if width % multiple]


def build_options(request: ReleaseRequest, settings: TensorRTLLMSettings) -> dict[str, str]:
    """The build program's options that change an engine's bytes, besides the checkpoint, whose key has ``tp_size``."""
    fields = request.section("Engine", ignored=("tp_size", "precision"))
    return {
        **{name.replace("_", "-"): str(value) for name, value in fields.items()},
        "gemm-plugin": settings.gemm_plugin,
        "gpt-attention-plugin": settings.gpt_attention_plugin,
    }


def build_flags(options: Mapping[str, str], image: ImageFacts, timing_cache: Path) -> tuple[str, ...]:
    """The build program's command line for `build_options`, with the paths of this host."""
    places = {"trtllm-build": image.tools.trtllm_build, "timing-cache": str(timing_cache)}
    return tuple(word for name, value in {**options, **places}.items() for word in (f"--{name}", value))


def timing_cache(directory: Path, tensorrt: str, gpu: str) -> Path:
    """The timing cache's file: measurements of one TensorRT version on one GPU model are wrong for any other."""
    return directory / f"{tensorrt}-{re.sub(r'[^A-Za-z0-9.]+', '_', gpu)}.cache"


def check_fits(directory: Path, image: ImageFacts, gpu: str) -> Engine:
    """The engine's description, if this image and this host's GPU can run it.

    Raises:
        ToolError: it is no engine.
        HostError: another TensorRT-LLM or another GPU model built it; the message names both sides.
    """
    engine = read_engine(directory)
    if engine.version != image.versions.tensorrt_llm:
        raise HostError(
            f"the engine was built by TensorRT-LLM {engine.version}, the image has {image.versions.tensorrt_llm}",
            where=f"{directory} and {image.image}",
            fix="trigger the DAG again: the engine is built anew for this image",
        )
    built_on = _gpu_of(directory)
    if built_on != gpu:
        raise HostError(
            f"the engine was built on {built_on}, this host has {gpu}",
            where=str(directory),
            fix="trigger the DAG again: the engine is built anew for this GPU; or use a host like the other",
        )
    return engine


def check_ranks(engine: Engine, directory: Path, tp_size: int) -> None:
    """Raises `ToolError` unless an engine is for as many GPUs as the request says."""
    if engine.world_size != tp_size:
        raise ToolError(
            f"the engine is for {engine.world_size} GPUs (TP {engine.tp_size} x PP {engine.pp_size}), "
            f"the request says tp_size {tp_size}",
            where=str(directory),
        )


def check_tokenizer(directory: Path) -> None:
    """Raises `UserError` for a tokenizer that brings code: upstream's models load it with trust_remote_code."""
    code = sorted(path.name for path in directory.glob("*.py"))
    if code:
        raise UserError(
            f"the tokenizer brings its own code ({', '.join(code)}), which Triton would run",
            where=str(directory),
            fix="use a model whose tokenizer is part of transformers",
        )


def check_vocabulary(directory: Path) -> None:
    """Raises `UserError` if ids below the last token, of the tokenizer or at the end of an answer, stand for none.

    TensorRT-LLM takes all ids below ``vocab_size`` for tokens: those beyond the last are no part of a checkpoint, but
    nothing keeps an engine from drawing one in between.
    """
    path = directory / TOKENIZER_FILE
    if not path.is_file():
        return
    ids = {*read_tokenizer(directory).get_vocab().values(), *end_ids(directory)}
    gaps = [one for one in range(max(ids, default=0)) if one not in ids]
    if gaps:
        raise UserError(
            f"{len(gaps)} ids of the vocabulary stand for no token, {gaps[0]} for instance: TensorRT-LLM's engines "
            "would draw them",
            where="field target",
            fix="choose target vllm or openvino, which keep them out of answers",
        )


def check_end(directory: Path) -> None:
    """Raises `UserError` for a model without a token that ends a text: NVIDIA's preprocessing does not load then."""
    if not TokenizerFacts.read(directory).named.get("eos_token") and not end_ids(directory):
        raise UserError(
            "the model names no token that ends a text, and NVIDIA's preprocessing needs one",
            where="field model",
            fix="set eos_token in the model's tokenizer_config.json; or choose target openvino or vllm",
        )


def check_pieces(directory: Path) -> None:
    """Raises `UserError` if the tokens of a text, each decoded alone, are not the text.

    Upstream's postprocessing decodes each piece of a streamed answer alone. The decoder of SentencePiece's tokenizers
    drops the first space of all that it decodes, so such pieces would join without spaces.
    """
    path = directory / TOKENIZER_FILE
    if not path.is_file():
        return  # gate streaming finds it out
    tokenizer = read_tokenizer(directory)
    ids = tokenizer.encode(_PIECES, add_special_tokens=False).ids
    if "".join(tokenizer.decode([one]) for one in ids) != tokenizer.decode(ids):
        raise UserError(
            "the pieces of a streamed answer would lose the spaces between them: NVIDIA's postprocessing decodes each "
            "alone, and this tokenizer drops a text's first space",
            where="field streaming",
            fix="set streaming to false; target openvino streams this model",
        )


def _gpu_of(directory: Path) -> str:
    path = directory / MANIFEST_FILE
    try:
        manifest = Manifest.model_validate_json(path.read_text())
    except (OSError, ValueError) as error:
        raise ToolError(f"the engine's manifest cannot be read: {error}", where=str(path)) from error
    return str(manifest.inputs.get("hardware", {}).get("gpu", "an unknown GPU"))
