"""Loads an engine into an OpenVINO GenAI pipeline."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import openvino as ov  # noqa: TID253 - runs in the target's environment only
import openvino_genai as genai
from compiler import GrammarCompiler
from openvino.exceptions import OVTypeError  # noqa: TID253 - runs in the target's environment only
from openvino_tokenizers import convert_tokenizer
from transformers import AutoTokenizer  # noqa: TID253 - runs in the target's environment only

log = logging.getLogger(__name__)  # its warnings are in the server's log

_GIB = 1 << 30
_PRECISION = "INFERENCE_PRECISION_HINT"
# A thread that is bound to a core waits while Triton or another model has it, and all others wait for that thread.
_UNBOUND = {"ENABLE_CPU_PINNING": False}


@dataclass(frozen=True)
class EngineConfig:
    """The engine's own limits, from its config.json."""

    vocab_size: int
    plugin_config: dict[str, Any]

    @classmethod
    def read(cls, engine_dir: Path) -> EngineConfig:
        """Reads ``engine_dir``/config.json."""
        fields = json.loads((engine_dir / "config.json").read_text())
        return cls(fields["vocab_size"], fields.get("plugin_config", {}))

    def properties(self, capabilities: Collection[str]) -> dict[str, Any]:
        """The properties on a CPU with these capabilities: without bfloat16, float32 does better, and is exact."""
        if self.plugin_config.get(_PRECISION) == "bf16" and "BF16" not in capabilities:
            log.warning("this CPU has no bfloat16: the engine computes in float32")
            return {**self.plugin_config, _PRECISION: "f32"}
        return self.plugin_config


@dataclass(frozen=True)
class Capacity:
    """How much is worked on at once: sequences and tokens a step, bytes of KV cache."""

    max_num_sequences: int
    max_num_tokens: int
    kv_cache_bytes: int
    reuse_kv_cache: bool

    @classmethod
    def of(cls, values: Mapping[str, str]) -> Capacity:
        """Reads the model's parameters."""
        return cls(
            max_num_sequences=int(values["max_num_sequences"]),
            max_num_tokens=int(values["max_num_tokens"]),
            kv_cache_bytes=int(values["kv_cache_bytes"]),
            reuse_kv_cache=values["enable_kv_cache_reuse"] == "true",
        )

    def scheduler_config(self) -> genai.SchedulerConfig:
        """GenAI's form, which counts the cache in whole GiB, taken from the host as it fills."""
        config = genai.SchedulerConfig()
        config.max_num_seqs = self.max_num_sequences
        config.max_num_batched_tokens = self.max_num_tokens
        config.cache_size = max(1, math.ceil(self.kv_cache_bytes / _GIB))
        config.enable_prefix_caching = self.reuse_kv_cache
        config.dynamic_split_fuse = True
        return config


def load_tokenizer(tokenizer_dir: Path) -> genai.Tokenizer | None:
    """GenAI's tokenizer, by which it knows what text a token stands for when words are banned.

    None if OpenVINO cannot express the model's tokenizer; nothing else needs it.
    """
    tokenizer = AutoTokenizer.from_pretrained(str(tokenizer_dir))
    try:
        encoder, decoder = convert_tokenizer(tokenizer, with_detokenizer=True)
    except OVTypeError:
        return None
    with TemporaryDirectory() as folder:
        ov.save_model(encoder, f"{folder}/openvino_tokenizer.xml")
        ov.save_model(decoder, f"{folder}/openvino_detokenizer.xml")
        return genai.Tokenizer(folder)


def load_compiler(tokenizer: genai.Tokenizer | None, vocab_size: int) -> GrammarCompiler | None:
    """The compiler of grammars, by which words are banned; without a tokenizer none can be."""
    return GrammarCompiler(tokenizer, vocab_size) if tokenizer else None


def load_pipeline(
    engine_dir: Path, tokenizer: genai.Tokenizer | None, config: EngineConfig, capacity: Capacity
) -> genai.ContinuousBatchingPipeline:
    """Compiles the engine's model for this CPU."""
    scheduler = capacity.scheduler_config()
    properties = _UNBOUND | config.properties(ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"))
    if tokenizer is None:
        return genai.ContinuousBatchingPipeline(str(engine_dir), scheduler, "CPU", properties)
    return genai.ContinuousBatchingPipeline(str(engine_dir), tokenizer, scheduler, "CPU", **properties)
