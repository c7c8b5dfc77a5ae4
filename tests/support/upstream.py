"""A server that takes a while and says its name: HTTP, server-sent events, gRPC and metrics, as a program.

``python upstream.py NAME`` prints its ports as JSON when it listens. It ends when its standard input does.
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

GENERATE, GENERATE_STREAM, INFER = (f"/v2/models/ensemble/{kind}" for kind in ("generate", "generate_stream", "infer"))
SERVICE = "inference.GRPCInferenceService"
STEPS = 10
STEP_S = 0.1


class Handler(web.Handler):
    name = ""

    def do_GET(self) -> None:
        """Says its name, and what came with the request for those who ask with or without a key."""
        keys = (self.headers.get(name, "") for name in ("authorization", "x-api-key"))
        seen = {"x-saw-client": self.headers.get("x-hf2triton-client", ""), "x-saw-key": "".join(keys)}
        self.reply(self.name, headers=seen)

    def do_POST(self) -> None:
        """Says its name and how long the text was after a while; as a stream in steps, or until nobody reads it."""
        body = self.body()
        if self.path == GENERATE_STREAM:
            self.stream(slowly(f"{self.name} {number}" for number in range(STEPS)))
        elif self.path == INFER:
            self.stream(slowly(itertools.repeat(self.name)))
        else:
            time.sleep(STEPS * STEP_S)
            self.reply(f"{self.name} {len(json.loads(body)['text_input'])}")


def slowly(events: Iterable[str]) -> Iterator[str]:
    for event in events:
        time.sleep(STEP_S)
        yield event


def serve_http() -> int:
    server = web.Server(Handler)
    server.start()
    return server.server_port


def serve_grpc(name: str) -> int:
    def one(_request: bytes, _context: object) -> bytes:
        time.sleep(STEPS * STEP_S)
        return name.encode()

    def stream(_request: bytes, _context: object):
        for number in range(STEPS):
            time.sleep(STEP_S)
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
    Handler.name = sys.argv[1]
    print(json.dumps({"http": serve_http(), "grpc": serve_grpc(sys.argv[1]), "metrics": serve_http()}), flush=True)
    sys.stdin.read()
