"""The addresses of a served name."""

from __future__ import annotations


def urls(address: str, name: str) -> dict[str, str]:
    """The addresses of a served name by what they are for."""
    model = f"{address}/v2/models/{name}"
    return {
        "chat": f"{address}/v1/chat/completions",
        "generate": f"{model}/generate",
        "stream": f"{model}/generate_stream",
        "infer": f"{model}/infer",
        "ready": f"{model}/ready",
    }
