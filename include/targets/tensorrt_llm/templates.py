"""Values for upstream's own templates, ``all_models/inflight_batcher_llm`` of TensorRT-LLM 1.2.1.

Names and meanings: triton-inference-server/tensorrtllm_backend ``docs/model_config.md``. A variable in quotes
that is left empty is "not given" to the backend, which then takes its default; a bare one would not parse.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from include.errors import ToolError
from include.requests.release import ReleaseRequest
from include.targets.tensorrt_llm.server import ENGINE_MODEL
from include.targets.tensorrt_llm.settings import TensorRTLLMSettings
from include.triton.repository import CONFIG_FILE, read

MODELS = ("ensemble", "preprocessing", "tensorrt_llm", "postprocessing")
"""``tensorrt_llm_bls`` is left out: nothing calls it, and one model that does not load fails the server."""

_VARIABLE = re.compile(r'("?)\$\{(\w+)\}')
_MAX_TOKENIZERS = 4


END_TOKENS = "end_tokens"
"""Our own model, for models with several end tokens: NVIDIA's preprocessing sends the engine one."""

_STOP_WORDS, _END_ID, _BOTH = "STOP_WORDS_IDS", "END_ID", "STOP_WORDS_AND_ENDS"


def values(
    request: ReleaseRequest,
    settings: TensorRTLLMSettings,
    *,
    tokenizer: Path,
    engine: Path,
    templates: Path,
    ends: Sequence[int] = (),
) -> dict[str, dict[str, str]]:
    """Model -> variable -> value, for exactly the variables that the templates have.

    Raises:
        ToolError: a template has a bare variable that is not known here.
    """
    known = _values(request, settings, tokenizer, engine)
    filled = {model: _fit(templates / model / CONFIG_FILE, known[model]) for model in MODELS}
    if len(ends) > 1:
        batch = {"triton_max_batch_size": str(request.max_batch_size)}
        filled[END_TOKENS] = {**batch, "end_ids": " ".join(map(str, ends))}
    return filled


def connect(repository: Path) -> None:
    """Puts `END_TOKENS`, if the repository has it, between the ensemble's preprocessing and its engine.

    Raises:
        ToolError: the ensemble gives its engine no stop words or no end token.
    """
    if not (repository / END_TOKENS).is_dir():
        return
    from google.protobuf import text_format

    path = repository / "ensemble" / CONFIG_FILE
    config = read(repository)["ensemble"]
    steps = config.ensemble_scheduling.step
    engine = next((step for step in steps if step.model_name == ENGINE_MODEL), None)
    if engine is None or not {"stop_words_list", "end_id"} <= set(engine.input_map):
        raise ToolError(
            "the ensemble gives its engine no stop_words_list or no end_id: answers would end at one of the model's "
            "end tokens only",
            where=str(path),
            fix="use the pinned image: unset HF2TRITON_TRTLLM_IMAGE",
        )
    added = steps.add(model_name=END_TOKENS, model_version=-1)
    added.input_map[_STOP_WORDS] = engine.input_map["stop_words_list"]
    added.input_map[_END_ID] = engine.input_map["end_id"]
    added.output_map[_BOTH] = engine.input_map["stop_words_list"] = f"_{_BOTH}"
    path.write_text(text_format.MessageToString(config))


def variables(text: str) -> dict[str, bool]:
    """The variables of a template; True for one that stands outside of quotes somewhere."""
    found: dict[str, bool] = {}
    for quote, name in _VARIABLE.findall(text):
        found[name] = found.get(name, False) or not quote
    return found


def _fit(path: Path, known: Mapping[str, str]) -> dict[str, str]:
    try:
        asked = variables(path.read_text())
    except OSError as error:
        raise ToolError(f"the image has no template {path.parent.name}: {error.strerror}", where=str(path)) from error
    unknown = sorted(name for name, bare in asked.items() if bare and name not in known)
    if unknown:
        raise ToolError(
            f"the template needs a value for {', '.join(unknown)}, which TensorRT-LLM 1.2.1 does not have",
            where=str(path),
            fix="use the pinned image: unset HF2TRITON_TRTLLM_IMAGE",
        )
    return {name: known.get(name, "") for name in asked}


def _values(
    request: ReleaseRequest, settings: TensorRTLLMSettings, tokenizer: Path, engine: Path
) -> dict[str, dict[str, str]]:
    batch = {"triton_max_batch_size": str(request.max_batch_size)}
    queue = {"max_queue_delay_microseconds": "0", "max_queue_size": str(settings.max_queue_size)}
    text = {**batch, "tokenizer_dir": str(tokenizer)}
    tokenizers = str(min(request.max_batch_size, _MAX_TOKENIZERS))
    return {
        "ensemble": {**batch, "logits_datatype": "TYPE_FP32"},
        "preprocessing": {
            **text,
            **queue,
            "preprocessing_instance_count": tokenizers,
            "add_special_tokens": "true",
            "engine_dir": str(engine),
        },
        "postprocessing": {
            **text,
            # One instance keeps the pieces of a streamed answer in order.
            "postprocessing_instance_count": "1" if request.streaming else tokenizers,
            "skip_special_tokens": "true",
        },
        "tensorrt_llm": {**batch, **queue, **_engine_values(request, settings), "engine_dir": str(engine)},
    }


def _engine_values(request: ReleaseRequest, settings: TensorRTLLMSettings) -> dict[str, str]:
    limit = settings.max_tokens_in_paged_kv_cache
    return {
        "triton_backend": "tensorrtllm",
        "batching_strategy": "inflight_fused_batching",
        "decoupled_mode": json.dumps(request.streaming),
        "logits_datatype": "TYPE_FP32",
        "encoder_input_features_data_type": "TYPE_FP16",
        "prompt_embedding_table_data_type": "TYPE_FP16",
        "max_beam_width": "1",
        "batch_scheduler_policy": settings.batch_scheduler_policy,
        "kv_cache_free_gpu_mem_fraction": str(request.kv_cache_memory_fraction),
        "max_tokens_in_paged_kv_cache": "" if limit is None else str(limit),
        "enable_kv_cache_reuse": "true",
        # A prompt longer than one step's tokens can only be read in chunks.
        "enable_chunked_context": json.dumps(request.max_input_len > request.max_num_tokens),
        "exclude_input_in_output": "true",
    }
