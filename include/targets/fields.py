"""The fields of the form by the targets that go by them: what a target would ignore is refused."""

from __future__ import annotations

from include.errors import UserError
from include.requests.release import ReleaseRequest, Section

SECTIONS: tuple[Section, ...] = ("Quantization", "Engine", "Serving")
_GPU = ("tensorrt_llm", "vllm")
_EVERY = ("openvino", *_GPU)

TARGETS: dict[str, tuple[str, ...]] = {
    "dtype": _EVERY,
    "awq_group_size": _EVERY,
    "calib_size": _EVERY,
    "calib_seq_len": _EVERY,
    "calib_data": _EVERY,
    "tp_size": _GPU,
    "max_batch_size": _EVERY,
    "max_input_len": _EVERY,
    "max_seq_len": _EVERY,
    "max_num_tokens": _EVERY,
    "precision": ("openvino",),
    "kv_cache_memory_fraction": _EVERY,
    "chat_template": _EVERY,  # tensorrt_llm continues the text, as with "off"; check_request says so
    "streaming": _EVERY,
    "candidate_http_port": _EVERY,
}
"""Each field of these sections; one that is not here has to keep its default on every target."""


def check_fields(request: ReleaseRequest) -> None:
    """Raises `UserError` if a field asks for something that the request's target would ignore."""
    defaults = ReleaseRequest().section(*SECTIONS)
    for name, value in request.section(*SECTIONS).items():
        targets = TARGETS.get(name, ())
        if request.target in targets or value == defaults[name]:
            continue
        others = f", or choose target {' or '.join(targets)}" if targets else ""
        raise UserError(
            f"{name} is {value}, which has no effect with target {request.target}",
            where=f"field {name}",
            fix=f"leave {name} at {defaults[name]}{others}",
        )
