"""Constant requests to the live address, from a process of its own; says at its end what was counted.

Each client has a connection of its own that it keeps, and sends the next request a moment after it has the answer to
the last: what goes on meanwhile needs the host, too.
The requests of the first have what the second argument adds; the third is the moment, in seconds. Ends when its
standard input does.
"""

from __future__ import annotations

import json
import sys
import threading
from collections import Counter
from itertools import repeat

import httpx

CLIENTS = 4
REQUEST = {"text_input": "x", "max_tokens": 8, "top_k": 1}


def ask(
    url: str,
    body: dict[str, object],
    pause_s: float,
    done: threading.Event,
    answered: threading.Semaphore,
    counts: Counter[str],
) -> None:
    with httpx.Client(timeout=60, trust_env=False) as client:
        while not done.is_set():
            try:
                response = client.post(url, json=body)
                said = response.json().get("text_output", f"failed: {response.text}")
            except (httpx.HTTPError, ValueError) as error:
                said = f"failed: {type(error).__name__} {error}"
            counts[said] += 1
            answered.release()
            done.wait(pause_s)


def main() -> None:
    done, answered = threading.Event(), threading.Semaphore(0)
    counts = [Counter[str]() for _ in range(CLIENTS)]
    bodies = [REQUEST | json.loads(sys.argv[2]), *[REQUEST] * (CLIENTS - 1)]
    clients = [
        threading.Thread(target=ask, args=(sys.argv[1], *one))
        for one in zip(bodies, repeat(float(sys.argv[3])), repeat(done), repeat(answered), counts)
    ]
    for client in clients:
        client.start()
    answered.acquire()  # else all could begin after what they are to be there for
    print("asking", flush=True)
    sys.stdin.read()
    done.set()
    for client in clients:
        client.join()
    print(json.dumps(sum(counts, Counter[str]())))


main()
