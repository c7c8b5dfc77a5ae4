"""The room on this host for one more live model: what the live servers hold, and what is left beside them."""

from __future__ import annotations

import psutil

from include.context import Context
from include.errors import HostError
from include.model.config import ModelConfig
from include.requests.release import ReleaseRequest
from include.targets.base import Target
from include.targets.estimates import GIB
from include.triton import servers


def check_room(context: Context, target: Target, request: ReleaseRequest, config: ModelConfig) -> None:
    """Says what is live with the memory that it holds, and raises `HostError` if the new server does not fit beside it.

    With swap ``recreate`` the memory of the live server of the same name counts as free. Where GPU memory decides, the
    target has checked it already.
    """
    held = _held(context)
    needed = target.serve_bytes(request, config)
    if needed is None or _is_live(context, request):
        return
    freed = held.get(request.name) or 0 if request.swap == "recreate" else 0
    free = psutil.virtual_memory().available + freed
    context.log(f"the new server needs at least {_gib(needed)} of memory, {_gib(free)} are free for it")
    if needed <= free:
        return
    others = ", ".join(f"{name} ({_gib(size)})" for name, size in held.items() if size) or "no model"
    raise HostError(
        f"the server of {request.name} needs at least {_gib(needed)} of memory, {_gib(free)} are free for it",
        where=f"this host, beside what is live: {others}",
        fix="take a model off the air (DAG retire_model), lower max_seq_len, or choose a smaller model"
        + ("" if request.swap == "recreate" or request.name not in held else "; or use swap recreate"),
    )


def _held(context: Context) -> dict[str, int | None]:
    """The host memory that each live server holds, by served name."""
    held = {}
    for name, record in context.live_servers().items():
        held[name] = servers.memory(record)
        known, gpus = held[name], ", ".join(record.gpus)
        size = "an unknown amount" if known is None else _gib(known)
        context.log(f"live: {name}, whose server holds {size} of host memory" + (f", and GPU {gpus}" if gpus else ""))
    return held


def _is_live(context: Context, request: ReleaseRequest) -> bool:
    """True if the live release of the name was made by the same request: then no server is started, most likely."""
    live = context.releases.live(request.name)
    return live is not None and live.asks_the_same(request.model_dump(mode="json"))


def _gib(size: int) -> str:
    return f"{size / GIB:.1f} GiB"
