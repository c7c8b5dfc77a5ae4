"""The values of the project's own ensemble, which targets `openvino` and `vllm` serve with engines of their own."""

from __future__ import annotations

from pathlib import Path

from include.model.generation import end_ids
from include.requests.release import ReleaseRequest


def values(
    request: ReleaseRequest, checkpoint: Path, engine: Path, *, kv_cache_bytes: int, gpu_memory_fraction: float = 0
) -> dict[str, dict[str, str]]:
    """The variables of the templates, by model. An engine may take this memory, and this share of a GPU's."""
    batch = {"triton_max_batch_size": str(request.max_batch_size)}
    tokenizer = {**batch, "tokenizer_dir": str(checkpoint / "tokenizer")}
    ends = {"end_ids": " ".join(map(str, end_ids(checkpoint)))}
    return {
        "ensemble": batch,
        "preprocessing": {
            **tokenizer,
            **ends,
            "apply_chat_template": str(request.chat_template == "auto").lower(),
            "max_input_len": str(request.max_input_len),
            "max_seq_len": str(request.max_seq_len),
        },
        "postprocessing": tokenizer,
        "tensorrt_llm": {
            **tokenizer,
            **ends,
            "engine_dir": str(engine),
            "decoupled_mode": str(request.streaming).lower(),
            "max_seq_len": str(request.max_seq_len),
            "max_num_tokens": str(request.max_num_tokens),
            "kv_cache_bytes": str(kv_cache_bytes),
            "kv_cache_free_gpu_mem_fraction": str(gpu_memory_fraction),
        },
    }
