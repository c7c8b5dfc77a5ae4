"""A client of Triton servers that sends the same requests as users do."""

from __future__ import annotations

import json
import queue
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from include.frozen import Frozen
from include.host.ports import http_url

MODEL = "ensemble"
TIMEOUT_S = 300.0
PROBE_TOKENS = 48

_SHOWN = 160


class Endpoint(Frozen):
    """The address of a Triton server."""

    host: str
    http_port: int
    grpc_port: int

    @property
    def url(self) -> str:
        """The HTTP address."""
        return http_url(self.host, self.http_port)


class NoAnswer(Exception):
    """An error of the endpoint, or a missing answer. ``refused`` is True if the request is at fault."""

    def __init__(self, message: str, *, refused: bool = False) -> None:
        super().__init__(message)
        self.refused = refused


@dataclass(frozen=True)
class Client:
    """A client of one endpoint. Its methods raise `NoAnswer`."""

    endpoint: Endpoint
    http: httpx.Client
    model: str = MODEL

    @classmethod
    @contextmanager
    def open(cls, endpoint: Endpoint, model: str = MODEL) -> Iterator[Client]:
        """Opens a client of a model, and closes its connections at the end of the block."""
        with httpx.Client(base_url=endpoint.url, timeout=TIMEOUT_S, trust_env=False) as http:
            yield cls(endpoint, http, model)

    def get(self, path: str) -> httpx.Response:
        """The server's response at ``path``, whatever its status."""
        return self._request("GET", path)

    def server(self) -> dict[str, str]:
        """The name and version that the server reports."""
        said = self.get("/v2").json()
        return {str(said["name"]): str(said["version"])}

    def generate(self, body: dict[str, Any]) -> dict[str, Any]:
        """The JSON answer of the generate endpoint."""
        response = self._request("POST", path_of("generate", self.model), body)
        return read_answer(response.text, response.status_code)

    def text(self, prompt: str, **options: Any) -> str:  # noqa: ANN401 - the endpoint's own options
        """The most probable answer to ``prompt``."""
        return str(self.generate(_greedy(prompt) | options)["text_output"])

    def stream(self, prompt: str, **options: Any) -> list[str]:  # noqa: ANN401 - the endpoint's own options
        """The pieces of the most probable answer, from the streaming endpoint."""
        body = _greedy(prompt) | {"stream": True} | options
        response = self._request("POST", path_of("generate_stream", self.model), body)
        return [str(read_answer(event, response.status_code)["text_output"]) for event in events(response.text)]

    def grpc_text(self, prompt: str, max_tokens: int = PROBE_TOKENS) -> str:
        """The answer through gRPC; tritonclient's stream call works with every kind of repository."""
        import numpy as np
        import tritonclient.grpc as triton

        text = triton.InferInput("text_input", [1, 1], "BYTES")
        text.set_data_from_numpy(np.array([[prompt.encode()]], dtype=np.object_))
        tokens = triton.InferInput("max_tokens", [1, 1], "INT32")
        tokens.set_data_from_numpy(np.array([[max_tokens]], dtype=np.int32))
        answers: queue.SimpleQueue[tuple[Any, Any]] = queue.SimpleQueue()
        with self._grpc() as client:
            client.start_stream(lambda result, error: answers.put((result, error)))
            client.async_stream_infer(MODEL, [text, tokens])
            result, error = answers.get(timeout=TIMEOUT_S)
        if error is not None:
            raise NoAnswer(f"gRPC: {error}")
        return str(result.as_numpy("text_output").flat[0].decode())

    def models(self) -> set[str]:
        """The models that the server has in its repository, ready or not."""
        with self._grpc() as client:
            return {model.name for model in client.get_model_repository_index().models}

    def model_config(self, name: str) -> Any:  # noqa: ANN401 - tritonclient's generated message class
        """A served model's ``ModelConfig``."""
        with self._grpc() as client:
            return client.get_model_config(name).config

    def _request(self, method: str, path: str, body: dict[str, Any] | None = None) -> httpx.Response:
        try:
            return self.http.request(method, path, json=body)
        except httpx.TransportError as error:
            raise NoAnswer(f"{type(error).__name__}: {error}") from error

    @contextmanager
    def _grpc(self) -> Iterator[Any]:
        import tritonclient.grpc as triton
        from tritonclient.utils import InferenceServerException

        address = http_url(self.endpoint.host, self.endpoint.grpc_port).removeprefix("http://")
        with triton.InferenceServerClient(address) as client:
            try:
                yield client
            except (InferenceServerException, queue.Empty) as error:
                raise NoAnswer(f"gRPC: {error or 'no answer'}") from error


def path_of(kind: str, model: str = MODEL) -> str:
    """The path of a model's endpoint; ``kind`` is ``generate``, ``generate_stream`` or ``config``."""
    return f"/v2/models/{model}/{kind}"


def _greedy(prompt: str) -> dict[str, Any]:
    return {"text_input": prompt, "max_tokens": PROBE_TOKENS, "top_k": 1}


def events(stream: str) -> list[str]:
    """The data of server-sent events. Only a line feed ends a line: JSON allows U+2028 in an answer."""
    return [line.removeprefix("data:") for line in stream.split("\n") if line.startswith("data:")]


def read_answer(text: str, status: int) -> dict[str, Any]:
    """The fields of an answer; raises `NoAnswer` for an error, which a stream sends with status 200."""
    try:
        fields = json.loads(text)
    except json.JSONDecodeError as error:
        raise NoAnswer(f"HTTP {status}, not JSON: {text[:_SHOWN]}") from error
    if status != httpx.codes.OK or "error" in fields:
        raise NoAnswer(f"HTTP {status}: {fields.get('error', text)}", refused=status == httpx.codes.BAD_REQUEST)
    return dict(fields)
