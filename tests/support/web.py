"""The HTTP server that all stand-ins are made of: of the standard library alone, so that programs start at once."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any


class Handler(BaseHTTPRequestHandler):
    """Logs nothing, keeps its connections, and has short forms for what handlers do."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def handle(self) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):  # nobody reads the answer any more
            super().handle()

    def body(self) -> bytes:
        """The request's body."""
        return self.rfile.read(int(self.headers["Content-Length"]))

    def reply(
        self, body: bytes | str | dict[str, Any] = b"", status: int = 200, headers: Mapping[str, str] | None = None
    ) -> None:
        """Sends a whole answer; a dictionary goes as JSON."""
        content = json.dumps(body) if isinstance(body, dict) else body
        data = content.encode() if isinstance(content, str) else content
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def stream(self, events: Iterable[str]) -> None:
        """Sends server-sent events, each as soon as it is there."""
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for text in events:
            event = f"data: {text}\n\n".encode()
            self.wfile.write(b"%x\r\n%s\r\n" % (len(event), event))
        self.wfile.write(b"0\r\n\r\n")

    def log_message(self, *_: object) -> None:
        """Silent."""


class Server(ThreadingHTTPServer):
    """A server on loopback whose queue holds a burst of connections."""

    request_queue_size = 128

    def __init__(self, handler: type[Handler], port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), handler)

    def start(self) -> Thread:
        """Serves in a thread."""
        thread = Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        return thread


@contextmanager
def serving(handler: type[Handler], port: int = 0) -> Iterator[Server]:
    """A server that is closed at the end of the block."""
    with Server(handler, port) as server:
        thread = server.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
