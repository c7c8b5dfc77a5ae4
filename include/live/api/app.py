"""The service's routes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable
from contextlib import aclosing, asynccontextmanager
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException

from include.files import Log
from include.live.api.answers import Piece, together
from include.live.api.engine import Engine
from include.live.api.failures import ApiError
from include.live.api.metrics import CONTENT_TYPE, Metrics, Stopwatch
from include.live.api.replies import DONE, Reply, described, event
from include.live.api.requests import Asked, ChatRequest, CompletionRequest, parse
from include.live.api.served import Models
from include.live.proxy.routes import RELEASE_HEADER

_HUNG_UP = 499  # as nginx logs it; nobody gets it

T = TypeVar("T")


class _HungUp(Exception):
    """The client has closed its connection."""


def app(models: Path, socket: Path, log: Log = print) -> FastAPI:
    """The service for the live models in a file, whose engines are behind a socket."""
    live = Models(models, log)
    metrics = Metrics()
    engines: list[Engine] = []

    @asynccontextmanager
    async def running(_: FastAPI) -> AsyncIterator[None]:
        engines.append(Engine(socket))
        yield
        await engines.pop().close()

    service = FastAPI(lifespan=running, openapi_url=None, redirect_slashes=False)
    service.exception_handlers |= {ApiError: partial(_failed, metrics), HTTPException: _unknown, _HungUp: _gone}

    @service.get("/metrics")
    async def show_metrics() -> Response:
        return Response(metrics.text(), media_type=CONTENT_TYPE)

    @service.get("/v1/models")
    async def list_models() -> dict[str, Any]:
        return {"object": "list", "data": [described(model) for model in live.all()]}

    @service.get("/v1/models/{name}")
    async def show_model(name: str) -> dict[str, Any]:
        return described(live.find(name))

    @service.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        watch = Stopwatch(metrics)
        asked = parse(await request.body(), ChatRequest)
        served = await live.served(asked.model)
        answers = await _while_connected(request, served.chat(asked))
        reply = Reply("chat", served.model, sum(len(answer.job.prompt) for answer in answers))
        return await _answer(request, asked, reply, together(answers, engines[0], served.model), watch)

    @service.post("/v1/completions")
    async def completion(request: Request) -> Response:
        watch = Stopwatch(metrics)
        asked = parse(await request.body(), CompletionRequest)
        served = await live.served(asked.model)
        answers = await _while_connected(request, served.completion(asked))
        reply = Reply("completion", served.model, sum(len(answer.job.prompt) for answer in answers))
        return await _answer(request, asked, reply, together(answers, engines[0], served.model), watch)

    return service


async def _answer(
    request: Request, asked: Asked, reply: Reply, pieces: AsyncGenerator[Piece, None], watch: Stopwatch
) -> Response:
    headers = {RELEASE_HEADER: reply.model.release}
    if not asked.stream:
        found = await _while_connected(request, _all(pieces))
        watch.end(reply, found)
        return JSONResponse(reply.whole(found), headers=headers)
    # With the first piece the engine has accepted the request: before that it can still be refused by a status.
    first = await _while_connected(request, anext(pieces))
    watch.first_token(reply)
    events = _events(reply, first, pieces, asked, watch)
    return StreamingResponse(events, media_type="text/event-stream", headers=headers | {"cache-control": "no-cache"})


async def _all(pieces: AsyncGenerator[Piece, None]) -> list[Piece]:
    async with aclosing(pieces):
        return [piece async for piece in pieces]


async def _events(
    reply: Reply, first: Piece, pieces: AsyncGenerator[Piece, None], asked: Asked, watch: Stopwatch
) -> AsyncGenerator[str, None]:
    last: dict[int, Piece] = {}
    extra: dict[str, Any] = {"usage": None} if asked.includes_usage else {}
    async with aclosing(pieces):
        try:
            if reply.kind == "chat":
                yield event(reply.begin() | extra)
            async for piece in _after(first, pieces):
                last[piece.index] = piece
                if piece.text or piece.finish:
                    yield event(reply.chunk(piece) | extra)
            if asked.includes_usage:
                yield event(reply.usage(last.values()))
            yield DONE
        except ApiError as error:
            watch.failed(error)
            yield event(error.body())
        finally:
            watch.end(reply, last.values())


async def _after(first: Piece, pieces: AsyncGenerator[Piece, None]) -> AsyncIterator[Piece]:
    yield first
    async for piece in pieces:
        yield piece


async def _while_connected(request: Request, work: Awaitable[T]) -> T:
    """The work's result; ends the work if the client hangs up before."""
    working = asyncio.ensure_future(work)
    waiting = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({working, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise _HungUp
    finally:
        for task in (working, waiting):
            task.cancel()
        await asyncio.gather(working, waiting, return_exceptions=True)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _failed(metrics: Metrics, _: Request, error: Exception) -> Response:
    if not isinstance(error, ApiError):
        raise error
    metrics.failed(error.status)
    return JSONResponse(error.body(), error.status)


async def _unknown(_: Request, error: Exception) -> Response:
    status = HTTPStatus(getattr(error, "status_code", HTTPStatus.INTERNAL_SERVER_ERROR))
    return JSONResponse(ApiError(status, f"{status.phrase.lower()}: see docs/endpoint.md").body(), status)


async def _gone(_: Request, error: Exception) -> Response:
    return Response(status_code=_HUNG_UP)
