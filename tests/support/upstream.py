"""A server that takes a while and says its name: HTTP, server-sent events, gRPC and metrics, as a program.

``python upstream.py NAME STEP_S`` prints its ports as JSON when it listens. It ends when its standard input does.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import web

MODEL = "/v2/models/ensemble"
GENERATE, GENERATE_STREAM, INFER = (f"{MODEL}/{kind}" for kind in ("generate", "generate_stream", "infer"))
METADATA = {"name": "ensemble", "versions": ["1"], "inputs": [{"name": "ensemble"}], "outputs": []}
SERVICE = "inference.GRPCInferenceService"
STEPS = 10


class Handler(web.Handler):
    name = ""
    step_s = 0.0

    def do_GET(self) -> None:
        """Says its name, or is asked about the model, and what came with the request for those who ask with a key."""
        keys = (self.headers.get(name, "") for name in ("authorization", "x-api-key"))
        seen = {"x-saw-client": self.headers.get("x-hf2triton-client", ""), "x-saw-key": "".join(keys)}
        said = json.dumps(METADATA | {"platform": self.name}) if self.path == MODEL else self.name
        self.reply(said, headers=seen)

    def do_POST(self) -> None:
        """Says its name and how long the text was after a while; as a stream in steps, or until nobody reads it."""
        body = self.body()
        if self.path == GENERATE_STREAM:
            self.stream(self.slowly(f"{self.name} {number}" for number in range(STEPS)))
        elif self.path == INFER:
            self.stream(self.slowly(itertools.repeat(self.name)))
        else:
            time.sleep(STEPS * self.step_s)
            self.reply(f"{self.name} {len(json.loads(body)['text_input'])}")

    def slowly(self, events: Iterable[str]) -> Iterator[str]:
        for event in events:
            time.sleep(self.step_s)
            yield event


def serve_http() -> int:
    server = web.Server(Handler)
    server.start()
    return server.server_port


def serve_grpc(name: str, step_s: float) -> int:
    def one(_request: bytes, _context: object) -> bytes:
        time.sleep(STEPS * step_s)
        return name.encode()

    def stream(_request: bytes, _context: object):
        for number in range(STEPS):
            time.sleep(step_s)
            yield f"{name} {number}".encode()

    handlers = {
        "ModelInfer": grpc.unary_unary_rpc_method_handler(one),
        "ModelStreamInfer": grpc.unary_stream_rpc_method_handler(stream),
    }
    server = grpc.server(ThreadPoolExecutor(16), options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    serve_grpc.server = server  # type: ignore[attr-defined]  # else it is collected, and ends
    return port


if __name__ == "__main__":
    Handler.name, Handler.step_s = sys.argv[1], float(sys.argv[2])
    ports = {"http": serve_http(), "grpc": serve_grpc(Handler.name, Handler.step_s), "metrics": serve_http()}
    print(json.dumps(ports), flush=True)
    sys.stdin.read()
