"""A server that takes a while and says its name: HTTP, server-sent events, gRPC and metrics, as a program.

``python upstream.py NAME`` prints its ports as JSON when it listens. It ends when its standard input does.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import grpc

STEPS = 10
STEP_S = 0.1


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    name = ""

    def do_GET(self) -> None:
        self._send(self.name.encode())

    def do_POST(self) -> None:
        """Says its name and how long the body was after a while; as a stream in steps, or until nobody reads it."""
        length = int(self.headers["content-length"])
        self.rfile.read(length)
        if self.path == "/stream":
            self._stream([f"{self.name} {number}" for number in range(STEPS)])
        elif self.path == "/open-end":
            self._stream(itertools.repeat(self.name))
        else:
            time.sleep(STEPS * STEP_S)
            self._send(f"{self.name} {length}".encode())

    def handle(self) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):  # nobody reads the stream any more
            super().handle()

    def _stream(self, events: Iterable[str]) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for text in events:
            time.sleep(STEP_S)
            event = f"data: {text}\n\n".encode()
            self.wfile.write(b"%x\r\n%s\r\n" % (len(event), event))
        self.wfile.write(b"0\r\n\r\n")

    def _send(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


class HTTPServer(ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = True


def serve_http() -> int:
    server = HTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    return server.server_address[1]


def serve_grpc(name: str) -> int:
    def one(_request: bytes, _context: object) -> bytes:
        time.sleep(STEPS * STEP_S)
        return name.encode()

    def stream(_request: bytes, _context: object):
        for number in range(STEPS):
            time.sleep(STEP_S)
            yield f"{name} {number}".encode()

    handlers = {
        "One": grpc.unary_unary_rpc_method_handler(one),
        "Stream": grpc.unary_stream_rpc_method_handler(stream),
    }
    server = grpc.server(ThreadPoolExecutor(16), options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    serve_grpc.server = server  # type: ignore[attr-defined]  # else it is collected, and ends
    return port


if __name__ == "__main__":
    Handler.name = sys.argv[1]
    print(json.dumps({"http": serve_http(), "grpc": serve_grpc(sys.argv[1]), "metrics": serve_http()}), flush=True)
    sys.stdin.read()
