"""The options of a build, and the command line of ``trtllm-build``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

# ``auto`` is the checkpoint's own data type.
GEMM_PLUGINS = ("auto", "float16", "float32", "bfloat16", "disable")
ATTENTION_PLUGINS = ("auto", "float16", "float32", "bfloat16")
_FIXED = {"context_fmha": "enable", "remove_input_padding": "enable", "kv_cache_type": "paged"}
_LIMITS = ("max_batch_size", "max_input_len", "max_seq_len", "max_num_tokens")


@dataclass(frozen=True)
class BuildOptions:
    """The command line of this program. Lengths are in tokens.

    ``tool`` is the path of ``trtllm-build``; ``timing_cache`` is a file for one TensorRT version and one GPU
    model, which need not exist yet.
    """

    checkpoint: Path
    out: Path
    max_batch_size: int
    max_input_len: int
    max_seq_len: int
    max_num_tokens: int
    tool: str = "trtllm-build"
    timing_cache: Path | None = None
    gemm_plugin: str = "auto"
    gpt_attention_plugin: str = "auto"


def parse(arguments: Sequence[str]) -> BuildOptions:
    """The options of a command line; argparse's own exit on a wrong one."""
    parser = argparse.ArgumentParser(prog="include.stages.build_tensorrt_llm", allow_abbrev=False)
    parser.add_argument("--checkpoint", type=Path, required=True, help="TensorRT-LLM checkpoint directory")
    parser.add_argument("--out", type=Path, required=True, help="existing, empty directory for the engine")
    for limit in _LIMITS:
        parser.add_argument(f"--{limit.replace('_', '-')}", type=int, required=True)
    parser.add_argument("--trtllm-build", dest="tool", default=BuildOptions.tool, help="its path in the image")
    parser.add_argument("--timing-cache", type=Path, help="file; read if it exists, written after the build")
    parser.add_argument("--gemm-plugin", choices=GEMM_PLUGINS, default=BuildOptions.gemm_plugin)
    parser.add_argument("--gpt-attention-plugin", choices=ATTENTION_PLUGINS, default=BuildOptions.gpt_attention_plugin)
    return BuildOptions(**vars(parser.parse_args(arguments)))


def trtllm_build(options: BuildOptions, *, workers: int, new_timing_cache: Path) -> list[str]:
    """The argument list of ``trtllm-build``; ``workers`` is the checkpoint's TP x PP.

    ``new_timing_cache`` is absolute: upstream's default is ``model.cache`` in the working directory.
    """
    flags = {
        "checkpoint_dir": options.checkpoint,
        "output_dir": options.out,
        **{name: getattr(options, name) for name in (*_LIMITS, "gemm_plugin", "gpt_attention_plugin")},
        **_FIXED,
        "workers": workers,
        "output_timing_cache": new_timing_cache,
    }
    if options.timing_cache is not None and options.timing_cache.is_file():
        flags["input_timing_cache"] = options.timing_cache
    return [options.tool, *(word for flag, value in flags.items() for word in (f"--{flag}", str(value)))]
