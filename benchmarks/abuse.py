"""Hostile requests against a deployment on this host, one kind after the other, while another client asks.

``python benchmarks/abuse.py [http://127.0.0.1:8000 [8001]]`` prints a line for each kind: how it was answered, whether
the server is alive after it, and the slowest answer of the other client meanwhile. The number is the gRPC port. Every
kind is bounded in count and time. Use a deployment that may be lost: a kind that is not mended ends the server.
"""

from __future__ import annotations

import gzip
import json
import socket
import statistics
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from urllib.parse import urlsplit

import grpc
import httpx

GENERATE = "/v2/models/ensemble/generate"
# Kinds that are not refused, or that take their time.
SLOW = ("5 bad words", "1,000 MB", "500 half-sent", "6 clients", "600 requests")
INFER = "/v2/models/ensemble/infer"
ASKED = {"text_input": "How do I count to nine?", "max_tokens": 8}
LONG_NAME = b"\x0a\xa0\xf7\x36" + b"m" * 900_000  # ModelInferRequest.model_name, in protobuf's form
LIMIT_S = 30.0
USUAL_S = 10.0


class Other(threading.Thread):
    """Another client, which asks all the time."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self._url = url
        self.took: list[float] = []
        self.failed = 0

    def run(self) -> None:
        """One request after the other."""
        with httpx.Client(base_url=self._url, timeout=LIMIT_S * 2, trust_env=False) as client:
            while True:
                begun = time.monotonic()
                try:
                    self.failed += client.post(GENERATE, json=ASKED).status_code != httpx.codes.OK
                except httpx.HTTPError:
                    self.failed += 1
                    time.sleep(0.1)
                self.took.append(time.monotonic() - begun)

    def slowest_since(self, count: int) -> float:
        """The slowest answer after the first ``count``; the one that is awaited counts once it is there."""
        deadline = time.monotonic() + LIMIT_S
        while len(self.took) <= count and time.monotonic() < deadline:
            time.sleep(0.05)
        return max(self.took[count:], default=LIMIT_S)


class Attacker:
    """Sends what no user would."""

    def __init__(self, url: str, grpc_port: int) -> None:
        self._url = url
        self._grpc = f"{urlsplit(url).hostname}:{grpc_port}"
        self._address = (urlsplit(url).hostname or "127.0.0.1", urlsplit(url).port or 80)

    def send(self, content: str | bytes, path: str = GENERATE, **headers: str) -> str:
        """One request; returns its status, or how it failed."""
        try:
            answer = httpx.post(f"{self._url}{path}", content=content, headers=headers, timeout=LIMIT_S)
        except httpx.HTTPError as error:
            return type(error).__name__
        return str(answer.status_code)

    def ask(self, **options: object) -> str:
        """One request to generate with other options."""
        return self.send(json.dumps(ASKED | options))

    def ask_stream(self, **options: object) -> str:
        """One request to generate_stream with other options."""
        return self.send(json.dumps(ASKED | {"stream": True} | options), f"{GENERATE}_stream")

    def tensor(self, name: str, datatype: str, data: object) -> str:
        """One request to infer with one tensor."""
        return self.send(
            json.dumps({"inputs": [{"name": name, "datatype": datatype, "shape": [1], "data": data}]}), INFER
        )

    def call(self, method: str, *messages: bytes) -> str:
        """One gRPC call, of a stream if the method is one; returns its status."""
        with grpc.insecure_channel(self._grpc) as channel:
            call = channel.stream_stream(f"/inference.GRPCInferenceService/{method}")
            try:
                list(call(iter(messages), timeout=LIMIT_S))
            except grpc.RpcError as error:
                return str(error.code().name)
        return "OK"

    def half_sent(self, count: int) -> str:
        """Headers without an end, until they are answered."""
        clients = [socket.create_connection(self._address, timeout=LIMIT_S) for _ in range(count)]
        for client in clients:
            client.sendall(f"POST {GENERATE} HTTP/1.1\r\nHost: x\r\n".encode())
        answers = Counter(client.recv(64).partition(b"\r\n")[0].decode() or "closed" for client in clients)
        for client in clients:
            client.close()
        return ", ".join(f"{number} x {answer}" for answer, number in answers.items())

    def hang_up(self, count: int) -> str:
        """Long answers that nobody waits for."""
        body = json.dumps(ASKED | {"max_tokens": 400, "end_id": -1}).encode()
        for _ in range(count):
            with socket.create_connection(self._address, timeout=LIMIT_S) as client:
                head = f"POST {GENERATE} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
                client.sendall(head.encode() + body)
                time.sleep(0.2)
        return "hung up"

    def at_once(self, count: int) -> str:
        """Many requests together."""
        answers: list[str] = []
        senders = [threading.Thread(target=lambda: answers.append(self.ask())) for _ in range(count)]
        for sender in senders:
            sender.start()
        for sender in senders:
            sender.join(LIMIT_S)
        return ", ".join(f"{number} x {answer}" for answer, number in Counter(answers).items())


def kinds(attacker: Attacker) -> dict[str, Callable[[], str]]:
    """Each hostile request by its name."""
    nested = '{"a":' + "[" * 200_000 + "]" * 200_000 + "}"
    long = json.dumps(ASKED | {"text_input": "A" * 9_000_000})
    words = [f"word{number:02d}abcdefg" for number in range(200)]
    send, ask = attacker.send, attacker.ask
    return {
        "body of 9 MB to generate": lambda: send(long),
        "body of 9 MB to infer": lambda: send(long, INFER),
        "body of 9 MB to health": lambda: send(long, "/v2/health/ready"),
        "nested JSON to generate": lambda: send(nested),
        "nested JSON to infer": lambda: send(nested, INFER),
        "opened JSON of 900 KB to infer": lambda: send("[" * 900_000, INFER),
        "nested JSON, gzip, to infer": lambda: send(
            gzip.compress(nested.encode()), INFER, **{"content-encoding": "gzip"}
        ),
        "form": lambda: send("a=b&" * 50_000, INFER, **{"content-type": "application/x-www-form-urlencoded"}),
        "text of 900 KB": lambda: ask(text_input="word " * 180_000),
        "50 bad words": lambda: ask(bad_words=words[:50]),
        "200 bad words": lambda: ask(bad_words=words),
        "bad word of 5,000 letters": lambda: ask(bad_words=["x" * 5000]),
        "5 bad words": lambda: ask(bad_words=["while", "never", "maybe", "quite", "rather"]),
        "5,000 words, 1 letter": lambda: ask(stop_words=["a"] * 5000),
        "80,000 names to generate": lambda: send(json.dumps(ASKED | dict.fromkeys(map(str, range(80_000)), 1))),
        "80,000 names to infer": lambda: send(
            json.dumps({"parameters": dict.fromkeys(map(str, range(80_000)), 1)}), INFER
        ),
        "200,000 values": lambda: ask(bad_words=[1] * 200_000),
        "max_tokens as text": lambda: ask(max_tokens="8"),
        "max_tokens 4294967300": lambda: ask(max_tokens=4294967300),
        "temperature -1": lambda: ask(temperature=-1),
        "temperature null": lambda: ask(temperature=None),
        "top_k as an object": lambda: ask(top_k={"a": 1}),
        "bad_words with a number": lambda: ask(bad_words=["a", 1]),
        "stream to generate": lambda: ask(stream=True),
        "refused stream": lambda: attacker.ask_stream(max_tokens=10**6),
        "INT32 4294967300 to infer": lambda: attacker.tensor("max_tokens", "INT32", [4294967300]),
        "INT32 null to infer": lambda: attacker.tensor("max_tokens", "INT32", [None]),
        "shared memory by gRPC": lambda: attacker.call("SystemSharedMemoryStatus", b""),
        "log settings by gRPC": lambda: attacker.call("LogSettings", b""),
        "message of 9 MB by gRPC": lambda: attacker.call("ModelInfer", b"x" * 9_000_000),
        "message of 100 MB in a gRPC stream": lambda: attacker.call("ModelStreamInfer", b"x" * 100_000_000),
        "1,000 MB in a gRPC stream": lambda: attacker.call("ModelStreamInfer", *[b"x" * 1_000_000] * 1000),
        "model with a long name by gRPC": lambda: attacker.call("ModelInfer", LONG_NAME),
        "shared memory": lambda: send(
            '{"key":"/x","offset":0,"byte_size":64}', "/v2/systemsharedmemory/region/x/register"
        ),
        "logging": lambda: send('{"log_verbose_level":0}', "/v2/logging"),
        "unload": lambda: send("{}", "/v2/repository/models/ensemble/unload"),
        "500 half-sent requests": lambda: attacker.half_sent(500),
        "6 clients that hang up": lambda: attacker.hang_up(6),
        "600 requests at once": lambda: attacker.at_once(600),
    }


def main() -> int:
    """Returns how many kinds ended the server, or kept the other client waiting beyond the goal."""
    url = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000"
    if urlsplit(url).hostname not in ("127.0.0.1", "localhost"):
        sys.exit("only a deployment on this host")
    other = Other(url)
    other.start()
    time.sleep(USUAL_S)
    usual = statistics.quantiles(other.took, n=100)[98]
    goal = 2 * usual + 1
    print(f"usual p99 {usual:.2f} s, goal {goal:.2f} s\n")
    print(f"{'request':34} {'answered':44} {'alive':6} slowest other")
    missed = 0
    for name, attack in kinds(Attacker(url, int(sys.argv[2]) if len(sys.argv) > 2 else 8001)).items():
        before = len(other.took)
        answered = attack()
        slowest = other.slowest_since(before)
        alive = httpx.get(f"{url}/v2/health/ready", timeout=LIMIT_S).status_code == httpx.codes.OK
        missed += not alive or slowest > goal
        print(f"{name:34} {answered:44} {'yes' if alive else 'NO':6} {slowest:.2f} s{'' if slowest <= goal else ' !'}")
    print(f"\n{other.failed} of the other client's {len(other.took)} requests failed")
    return missed


if __name__ == "__main__":
    sys.exit(main())
