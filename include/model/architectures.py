"""The supported architectures: a row each, with the facts that reading a model and its checkpoint needs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from include.errors import UserError

Fields = Mapping[str, Any]

TARGETS = ("openvino", "tensorrt_llm", "vllm")
NO_WINDOW = frozenset({"tensorrt_llm"})
"""The targets whose engines attend to all tokens, whatever the model's sliding window."""


@dataclass(frozen=True)
class TensorMap:
    """Hugging Face's module names to those of a TensorRT-LLM checkpoint; those of a layer are relative to it.

    ``column_parallel`` layers are split by output over the ranks, ``row_parallel`` ones by input. ``qkv`` is the
    one layer that a checkpoint makes of the three in ``attention``. ``before_attention`` and ``before_mlp`` are the
    norms whose output these read; None where they read the residual stream itself.
    """

    column_parallel: Mapping[str, str]
    row_parallel: Mapping[str, str]
    attention: tuple[str, str, str]
    qkv: str
    norms: Mapping[str, str]
    embedding: tuple[str, str]
    final_norm: tuple[str, str]
    before_attention: str | None = "input_layernorm"
    before_mlp: str | None = "post_attention_layernorm"


LLAMA_TENSORS = TensorMap(
    column_parallel={"mlp.gate_proj": "mlp.fc", "mlp.up_proj": "mlp.gate"},
    row_parallel={"self_attn.o_proj": "attention.dense", "mlp.down_proj": "mlp.proj"},
    attention=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    qkv="attention.qkv",
    norms={"input_layernorm": "input_layernorm", "post_attention_layernorm": "post_layernorm"},
    embedding=("model.embed_tokens", "transformer.vocab_embedding"),
    final_norm=("model.norm", "transformer.ln_f"),
)
_QK_NORMS = {"self_attn.q_norm": "attention.q_layernorm", "self_attn.k_norm": "attention.k_layernorm"}


@dataclass(frozen=True)
class Architecture:
    """A decoder class of transformers.

    Attributes:
        name: the class's name, as ``config.json`` has it.
        qkv_bias: query, key and value have a bias even if ``attention_bias`` is not set.
        defaults: the fields of ``config.json`` whose defaults are not Llama's; transformers may leave them out.
        biases: the fields of ``config.json`` that give its layers biases; it looks at no other.
        activation: the field of its activation, and the one that engines for GPUs compute.
        window_is_switched: a sliding window counts only where ``use_sliding_window`` is set.
        decoder_type: the name in ModelOpt's export. "qwen" would need tensorrt_llm to be installed.
        checkpoint_fields: what TensorRT-LLM's own config class adds to a checkpoint's ``config.json``, by the
            fields of Hugging Face's.
        fused: the layers in the model's files that are several in ``tensors``, with the names of these.
        exported_as: the class without fused layers that computes the same, which is calibrated and served instead.
        has_local_rotary_base: layers with a window have a rotary base of their own.
        norm_offset: what is added to the weight of each norm: Gemma's are about 0.
        needs_bfloat16: its activations are beyond float16.
        caps_scores: its attention scores are capped, which PyTorch's fused attention leaves out.
        qk_norm_of_all_heads: the norms of queries and keys are of all heads together, not of each head.
        refused: the targets that cannot serve it, and why.
        models: known ones of it.
        ran: what was run of it on each target, in words; docs/architectures.md shows them.
    """

    name: str
    qkv_bias: bool = False
    defaults: Fields = field(default_factory=dict)
    biases: frozenset[str] = frozenset({"attention_bias"})
    activation: tuple[str, str] = ("hidden_act", "silu")
    window_is_switched: bool = True
    decoder_type: str = "llama"
    checkpoint_fields: Callable[[Fields], Fields] = lambda _: {}
    tensors: TensorMap = LLAMA_TENSORS
    fused: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    exported_as: str = ""
    has_local_rotary_base: bool = False
    norm_offset: int = 0
    needs_bfloat16: bool = False
    caps_scores: bool = False
    qk_norm_of_all_heads: bool = False
    refused: Mapping[str, str] = field(default_factory=dict)
    models: str = ""
    ran: Mapping[str, str] = field(default_factory=dict)

    def standing(self, target: str) -> str:
        """What was run on ``target``, or why it is refused there."""
        refusal = self.refused.get(target)
        return f"refused: {refusal}" if refusal else self.ran.get(target, _BY_TESTS[target])


_BY_TESTS = {
    "openvino": "a tiny random model: calibrated, built, scored and answered as PyTorch does, in CI",
    "tensorrt_llm": "a tiny checkpoint's names, shapes and fields compared with upstream's source; engine not run",
    "vllm": "a tiny checkpoint in vLLM's layout, read and computed with by transformers, in CI; vLLM not run",
}

_SERVED = {"openvino": f"{_BY_TESTS['openvino']}; served in Triton once, all gates passed"}
_NAMES_READ = {**_SERVED, "vllm": f"{_BY_TESTS['vllm']}, names compared with its source"}


def _granite_multipliers(hf: Fields) -> Fields:
    """Granite's, as ``LLaMAConfig`` names and counts them: it divides scores by the square root of the head's size."""
    return {
        "embedding_multiplier": hf["embedding_multiplier"],
        "attention_multiplier": hf["attention_multiplier"] * math.sqrt(hf["head_dim"]),
        "residual_multiplier": hf["residual_multiplier"],
        "output_multiplier_scale": 1 / hf["logits_scaling"],
    }


def _gemma_fields(hf: Fields) -> Fields:
    """Those of the group ``Gemma2ConfigGroup``."""
    names = ("query_pre_attn_scalar", "final_logit_softcapping", "attn_logit_softcapping")
    return {"inter_layernorms": True, "hidden_act": hf["hidden_activation"], **{name: hf[name] for name in names}}


# ModelOpt takes the first norm that it sees for the input's, so those after attention and MLP get these names.
_OLMO2_TENSORS = replace(
    LLAMA_TENSORS,
    norms={
        "post_attention_layernorm": "input_layernorm",
        "post_feedforward_layernorm": "post_layernorm",
        **_QK_NORMS,
    },
    before_attention=None,
    before_mlp=None,
)
_GEMMA_TENSORS = replace(
    LLAMA_TENSORS,
    norms={
        **LLAMA_TENSORS.norms,
        "pre_feedforward_layernorm": "pre_feedforward_layernorm",
        "post_feedforward_layernorm": "post_feedforward_layernorm",
    },
    before_mlp="pre_feedforward_layernorm",
)
_EVERY_BIAS = frozenset({"attention_bias", "mlp_bias"})
_GEMMA_ACTIVATION = ("hidden_activation", "gelu_pytorch_tanh")
_NOT_IN_TENSORRT_LLM = {"tensorrt_llm": "TensorRT-LLM 1.2 has no engine for this architecture"}

_ROWS = (
    Architecture(
        "LlamaForCausalLM",
        models="Llama 2 and 3, TinyLlama, SmolLM2",
        biases=_EVERY_BIAS,
        ran={
            "openvino": "SmolLM2-135M: whole runs to a promoted release, in CI",
            "vllm": "SmolLM2-135M: a whole run to a promoted release, on an H200",
        },
    ),
    Architecture(
        "MistralForCausalLM",
        defaults={"sliding_window": 4096},
        biases=frozenset(),
        window_is_switched=False,
        models="Mistral 7B, Mistral NeMo",
        ran=_SERVED,
    ),
    Architecture(
        "Qwen2ForCausalLM",
        qkv_bias=True,
        biases=frozenset(),
        defaults={"max_window_layers": 28},
        checkpoint_fields=lambda _: {"qwen_type": "qwen2"},
        models="Qwen 2 and 2.5",
    ),
    Architecture(
        "Qwen3ForCausalLM",
        models="Qwen3, dense",
        ran=_SERVED,
        defaults={"head_dim": 128, "max_window_layers": 28},
        checkpoint_fields=lambda _: {"qwen_type": "qwen3"},
        tensors=replace(LLAMA_TENSORS, norms={**LLAMA_TENSORS.norms, **_QK_NORMS}),
    ),
    Architecture(
        "GraniteForCausalLM",
        checkpoint_fields=_granite_multipliers,
        biases=_EVERY_BIAS,
        models="Granite 3, dense",
        ran=_SERVED,
    ),
    Architecture(
        "SmolLM3ForCausalLM",
        models="SmolLM3",
        ran=_SERVED,
        biases=_EVERY_BIAS,
        defaults={"tie_word_embeddings": True, "rope_theta": 2e6},
        refused=_NOT_IN_TENSORRT_LLM,
    ),
    Architecture(
        "Olmo2ForCausalLM",
        models="OLMo 2",
        ran=_NAMES_READ,
        tensors=_OLMO2_TENSORS,
        qk_norm_of_all_heads=True,
        refused=_NOT_IN_TENSORRT_LLM,
    ),
    # A Mistral but for the fused layers. TensorRT-LLM's class of this name splits and scales them in its own way.
    Architecture(
        "Phi3ForCausalLM",
        models="Phi-3 with 4k positions, Phi-4 14B",
        ran=_SERVED,
        biases=frozenset(),
        window_is_switched=False,
        fused={"self_attn.qkv_proj": LLAMA_TENSORS.attention, "mlp.gate_up_proj": tuple(LLAMA_TENSORS.column_parallel)},
        exported_as="MistralForCausalLM",
    ),
    Architecture(
        "Gemma2ForCausalLM",
        models="Gemma 2",
        ran=_NAMES_READ,
        defaults={"tie_word_embeddings": True, "head_dim": 256, "sliding_window": 4096},
        window_is_switched=False,
        decoder_type="gemma",
        checkpoint_fields=_gemma_fields,
        tensors=_GEMMA_TENSORS,
        activation=_GEMMA_ACTIVATION,
        norm_offset=1,
        needs_bfloat16=True,
        caps_scores=True,
    ),
    Architecture(
        "Gemma3ForCausalLM",
        models="Gemma 3 270M and 1B",
        ran=_NAMES_READ,
        defaults={"tie_word_embeddings": True, "head_dim": 256, "sliding_window": 4096, "rope_theta": 1e6},
        window_is_switched=False,
        decoder_type="gemma",
        checkpoint_fields=_gemma_fields,
        activation=_GEMMA_ACTIVATION,
        tensors=replace(_GEMMA_TENSORS, norms={**_GEMMA_TENSORS.norms, **_QK_NORMS}),
        has_local_rotary_base=True,
        norm_offset=1,
        needs_bfloat16=True,
        refused={"tensorrt_llm": "TensorRT-LLM takes the windows of its layers at serving, and this target sets none"},
    ),
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
