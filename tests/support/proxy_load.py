"""Constant load on a proxy, as a program: ``python proxy_load.py HTTP_PORT GRPC_PORT [NAME]``.

It lasts until its standard input ends. With a name the requests are for the model that is served under it.
It prints JSON lines: one whenever a kind of request is answered by another server than before, or fails, and at its
end the counts of each kind. An answer counts only if it is whole and from one server.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable
from threading import Event, Thread

import grpc
import httpx
from upstream import MODEL, SERVICE, STEPS

TIMEOUT_S = 20
PROMPT = {"text_input": "x" * 512 * 1024, "max_tokens": 1}


def whole(events: list[str]) -> str:
    """The one server that all steps of a stream came from."""
    names = {event.split()[0] for event in events}
    if len(names) != 1 or [event.split()[1] for event in events] != [str(n) for n in range(STEPS)]:
        raise ValueError(f"not one whole stream: {events}")
    return names.pop()


def post(client: httpx.Client, model: str) -> str:
    name, length = client.post(f"{model}/generate", json=PROMPT).raise_for_status().text.split()
    if int(length) != len(PROMPT["text_input"]):
        raise ValueError(f"{length} characters arrived")
    return name


def stream(client: httpx.Client, model: str) -> str:
    with client.stream("POST", f"{model}/generate_stream", json=PROMPT) as answer:
        answer.raise_for_status()
        return whole([line.removeprefix("data: ") for line in answer.iter_lines() if line])


def kinds(http: str, address: str, name: str | None) -> dict[str, Callable[[], str]]:
    """Each kind of request; what it returns is the name of the server that answered."""
    kept, streaming = (httpx.Client(base_url=http, timeout=TIMEOUT_S, trust_env=False) for _ in range(2))
    model, chosen = f"/v2/models/{name}" if name else MODEL, {"x-gateway-model-name": name} if name else {}
    metadata = tuple(chosen.items())
    channel = grpc.insecure_channel(address)
    one, many = channel.unary_unary(f"/{SERVICE}/ModelInfer"), channel.unary_stream(f"/{SERVICE}/ModelStreamInfer")

    def on_a_new_connection() -> str:
        with httpx.Client(base_url=http, timeout=TIMEOUT_S, trust_env=False) as client:
            return client.get("/v2/health/ready", headers=chosen).raise_for_status().text

    return {
        "post, connection kept": lambda: post(kept, model),
        "get, connection kept": lambda: kept.get("/v2/health/ready", headers=chosen).raise_for_status().text,
        "get, new connection": on_a_new_connection,
        "server-sent events": lambda: stream(streaming, model),
        "grpc": lambda: one(b"", timeout=TIMEOUT_S, metadata=metadata).decode(),
        "grpc stream": lambda: whole([said.decode() for said in many(b"", timeout=TIMEOUT_S, metadata=metadata)]),
    }


class Sender(Thread):
    """Sends one kind of request, one after the other."""

    def __init__(self, kind: str, send: Callable[[], str], end: Event) -> None:
        super().__init__()
        self.kind, self.send, self.end = kind, send, end
        self.sent = 0
        self.answered_by: Counter[str] = Counter()

    def run(self) -> None:
        while not self.end.is_set():
            self.sent += 1
            try:
                name = self.send()
            except Exception as error:  # whatever goes wrong is a lost request
                say(kind=self.kind, failure=repr(error))
            else:
                if name not in self.answered_by:
                    say(kind=self.kind, by=name)
                self.answered_by[name] += 1


def say(**what: object) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    http_port, grpc_port, *named = sys.argv[1:]
    end = Event()
    sends = kinds(f"http://127.0.0.1:{http_port}", f"127.0.0.1:{grpc_port}", *named or [None])
    senders = [Sender(kind, send, end) for kind, send in sends.items()]
    for sender in senders:
        sender.start()
    sys.stdin.read()
    end.set()
    for sender in senders:
        sender.join()
    say(counts={one.kind: {"sent": one.sent, "by": one.answered_by} for one in senders})
