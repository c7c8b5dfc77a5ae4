"""A stand-in for Triton, quick to start: ready at once, answers every prompt with its repository's ``answer.txt``.

``takes_s`` in a request says how long its answer takes. It ends at once when it is asked to, whatever it is doing. A
file ``broken`` in the repository makes it end as it starts; ``mute`` makes it refuse to generate, ``unready`` makes it
say that it is not ready.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

import web

DELAY_S = 0.02


class Handler(web.Handler):
    answer = ""
    repository = Path()

    def do_GET(self) -> None:
        self.reply({}, 503 if (self.repository / "unready").exists() else 200)

    def do_POST(self) -> None:
        asked = json.loads(self.body())
        time.sleep(asked.get("takes_s", DELAY_S))
        if (self.repository / "mute").exists():
            self.reply({"error": "no engine"}, 500)
        else:
            self.reply({"text_output": self.answer})


def main() -> None:
    if os.getpid() == 1:  # a container's first program is only asked to end if it listens; others end by default
        signal.signal(signal.SIGTERM, lambda *_: os._exit(128 + signal.SIGTERM))
    repository, port = Path(sys.argv[1]), int(sys.argv[2])
    if (repository / "broken").exists():
        sys.exit("error: no such engine")
    Handler.repository = repository
    Handler.answer = (repository / "answer.txt").read_text()
    web.Server(Handler, port).serve_forever()


main()
