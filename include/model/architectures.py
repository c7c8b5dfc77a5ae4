"""The supported architectures: a row each, with the facts that reading a model and its checkpoint needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from include.errors import UserError


@dataclass(frozen=True)
class TensorMap:
    """Hugging Face's module names to those of a TensorRT-LLM checkpoint; those of a layer are relative to it.

    ``column_parallel`` layers are split by output over the ranks, ``row_parallel`` ones by input. ``qkv`` is the
    one layer that a checkpoint makes of the three in ``attention``.
    """

    column_parallel: Mapping[str, str]
    row_parallel: Mapping[str, str]
    attention: tuple[str, str, str]
    qkv: str
    norms: Mapping[str, str]
    embedding: tuple[str, str]
    final_norm: tuple[str, str]


LLAMA_TENSORS = TensorMap(
    column_parallel={"mlp.gate_proj": "mlp.fc", "mlp.up_proj": "mlp.gate"},
    row_parallel={"self_attn.o_proj": "attention.dense", "mlp.down_proj": "mlp.proj"},
    attention=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    qkv="attention.qkv",
    norms={"input_layernorm": "input_layernorm", "post_attention_layernorm": "post_layernorm"},
    embedding=("model.embed_tokens", "transformer.vocab_embedding"),
    final_norm=("model.norm", "transformer.ln_f"),
)


@dataclass(frozen=True)
class Architecture:
    """A decoder class of transformers.

    Attributes:
        name: the class's name, as ``config.json`` has it.
        qkv_bias: query, key and value have a bias even if ``attention_bias`` is not set.
        default_window: the sliding window of a ``config.json`` that leaves it out; an architecture without one
            has a window only where ``use_sliding_window`` is set.
        decoder_type: the name in ModelOpt's export. "qwen" would need tensorrt_llm to be installed.
        checkpoint_fields: the fields that TensorRT-LLM's own config class adds to a checkpoint's ``config.json``.
    """

    name: str
    qkv_bias: bool = False
    default_window: int | None = None
    decoder_type: str = "llama"
    checkpoint_fields: Mapping[str, str] = field(default_factory=dict)
    tensors: TensorMap = LLAMA_TENSORS


_ROWS = (
    Architecture("LlamaForCausalLM"),
    Architecture("MistralForCausalLM", default_window=4096),
    Architecture("Qwen2ForCausalLM", qkv_bias=True, checkpoint_fields={"qwen_type": "qwen2"}),
)
ARCHITECTURES: Mapping[str, Architecture] = {row.name: row for row in _ROWS}


def find_architecture(names: Sequence[str], owner: str, where: str) -> Architecture:
    """The first supported one of the ``names`` that the ``config.json`` of ``owner`` gives; UserError for none."""
    for name in names:
        if name in ARCHITECTURES:
            return ARCHITECTURES[name]
    raise UserError(
        f"{owner}: the architecture {' '.join(names) or 'that config.json leaves out'} is not supported",
        where=where,
        fix=f"use a model of one of these: {', '.join(ARCHITECTURES)}",
    )
