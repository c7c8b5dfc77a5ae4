"""The engine: token ids to token ids, by gRPC through the proxy, so that promotions treat it as any other client."""

from __future__ import annotations

from array import array
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from itertools import accumulate
from pathlib import Path
from typing import Any

import grpc

from include.live.api.failures import ApiError
from include.live.api.models import ENGINE, LiveModel
from include.live.proxy.routes import NAME_HEADER

_OUTPUTS = ("output_ids", "sequence_length")
_DATATYPES = {"i": "INT32", "f": "FP32", "Q": "UINT64", "?": "BOOL"}
_STATUS = {
    grpc.StatusCode.INVALID_ARGUMENT: HTTPStatus.BAD_REQUEST,
    grpc.StatusCode.NOT_FOUND: HTTPStatus.NOT_FOUND,  # it has just gone off the air
    grpc.StatusCode.RESOURCE_EXHAUSTED: HTTPStatus.TOO_MANY_REQUESTS,
    grpc.StatusCode.UNAVAILABLE: HTTPStatus.SERVICE_UNAVAILABLE,
}
# The header that makes Triton end a failed stream with the failure's status.
_STATUS_HEADER = "triton_grpc_error"
_CHANNEL = [
    ("grpc.enable_retries", 0),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
]


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn, in the engine's terms; None: not given to the engine."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    seed: int | None = None

    def inputs(self) -> dict[str, tuple[str, float | int | None]]:
        """The engine's inputs: type and value by name."""
        return {
            "temperature": ("f", self.temperature),
            "runtime_top_p": ("f", self.top_p),
            "runtime_top_k": ("i", self.top_k),
            "presence_penalty": ("f", self.presence_penalty),
            "frequency_penalty": ("f", self.frequency_penalty),
            "repetition_penalty": ("f", self.repetition_penalty),
            "seed": ("Q", self.seed),
        }


@dataclass(frozen=True)
class Job:
    """One prompt, and what ends its answer: a number of tokens, or one of these sequences of tokens."""

    prompt: Sequence[int]
    max_tokens: int
    sampling: Sampling
    ends: Sequence[Sequence[int]] = ()


class Engine:
    """The engines of all live models, behind one socket."""

    def __init__(self, socket: Path) -> None:
        from tritonclient.grpc import service_pb2_grpc

        self._channel = grpc.aio.insecure_channel(f"unix:{socket}", options=_CHANNEL)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)

    async def close(self) -> None:
        """Cuts all answers off."""
        await self._channel.close()

    async def generate(self, model: LiveModel, job: Job) -> AsyncIterator[Sequence[int]]:
        """The answer's tokens as they come; closing the iterator stops the engine's work.

        Raises:
            ApiError: the engine refuses the request, or cannot be reached.
        """
        metadata = ((NAME_HEADER, model.name), (_STATUS_HEADER, "true"))
        call = self._stub.ModelStreamInfer(iter([_request(model, job)]), metadata=metadata)
        try:
            async for response in call:
                if response.error_message:
                    raise ApiError(HTTPStatus.INTERNAL_SERVER_ERROR, response.error_message)
                yield _tokens(response.infer_response)
        except grpc.aio.AioRpcError as error:
            status = _STATUS.get(error.code(), HTTPStatus.INTERNAL_SERVER_ERROR)
            raise ApiError(status, f"the model does not answer: {error.details()}") from error
        finally:
            call.cancel()


def _request(model: LiveModel, job: Job) -> Any:  # noqa: ANN401 - a generated message
    from tritonclient.grpc import service_pb2

    request = service_pb2.ModelInferRequest(model_name=ENGINE)
    for name in _OUTPUTS:
        request.outputs.add(name=name)

    def add(name: str, kind: str, values: Sequence[float], *shape: int) -> None:
        request.inputs.add(name=name, datatype=_DATATYPES[kind], shape=(1, *(shape or (len(values),))))
        request.raw_input_contents.append(array("B" if kind == "?" else kind, values).tobytes())

    add("input_ids", "i", job.prompt)
    add("input_lengths", "i", [len(job.prompt)])
    add("request_output_len", "i", [job.max_tokens])
    end_id, words = _ends(model, job)
    add("end_id", "i", [end_id])
    if words:
        flat = [token for word in words for token in word]
        ends = list(accumulate(map(len, words)))
        add("stop_words_list", "i", [*flat, *ends, *[-1] * (len(flat) - len(ends))], 2, len(flat))
    add("exclude_input_in_output", "?", [1])
    if model.streaming:
        add("streaming", "?", [1])
    for name, (kind, value) in job.sampling.inputs().items():
        if value is not None and name in model.inputs:
            add(name, kind, [value])
    return request


def _ends(model: LiveModel, job: Job) -> tuple[int, list[Sequence[int]]]:
    """The end token that the engine is told, and what else ends the answer, as its stop words.

    With stop words an engine has to decode each token, and text that only looks like an end token ends an answer, too.
    """
    tokens = [end[0] for end in job.ends if len(end) == 1]
    known = [token for token in tokens if token in model.engine_ends]
    end_id = next(iter(known or tokens), -1)
    at_once = {*known, end_id}
    return end_id, [word for word in job.ends if len(word) > 1 or word[0] not in at_once]


def _tokens(response: Any) -> Sequence[int]:  # noqa: ANN401 - a generated message
    found = {out.name: array("i", raw) for out, raw in zip(response.outputs, response.raw_output_contents, strict=True)}
    ids = found.get("output_ids", array("i"))
    length = found.get("sequence_length")
    return ids[: length[0]] if length else ids
