"""A stand-in for Triton, quick to start: ready at once, answers every prompt with its repository's ``answer.txt``.

``takes_s`` in a request says how long its answer takes. It ends at once when it is asked to, whatever it is doing. A
file ``broken`` in the repository makes it end as it starts; ``mute`` makes it refuse to generate.
"""

from __future__ import annotations

import json
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

DELAY_S = 0.02


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    answer = ""
    repository = Path()

    def do_GET(self) -> None:
        self._reply(200, b"")

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        time.sleep(asked.get("takes_s", DELAY_S))
        if (self.repository / "mute").exists():
            self._reply(500, b'{"error": "no engine"}')
        else:
            self._reply(200, json.dumps({"text_output": self.answer}).encode())

    def log_message(self, *_: object) -> None:
        pass

    def _reply(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def main() -> None:
    repository, port = Path(sys.argv[1]), int(sys.argv[2])
    if (repository / "broken").exists():
        sys.exit("error: no such engine")
    Handler.repository = repository
    Handler.answer = (repository / "answer.txt").read_text()
    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.serve_forever()


main()
