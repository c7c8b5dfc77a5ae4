"""The engine of a model repository without Triton, in the target's environment; started by benchmarks/gateway.py.

It is loaded by the repository's own code, with the same limits and properties. Each line of standard input is a burst
of requests as JSON, each line of standard output its seconds and times.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import openvino as ov  # noqa: TID253 - runs only in the target's environment
import openvino_genai as genai
from tokenizers import Tokenizer


@dataclass(frozen=True)
class Running:
    """An answer on its way, and when each of its tokens came."""

    handle: genai.GenerationHandle
    began: float
    times: list[float] = field(default_factory=list)

    def read(self) -> None:
        """Notes the tokens that have come."""
        while self.handle.can_read():
            tokens = sum(len(output.generated_ids) for output in self.handle.read().values())
            self.times.extend([perf_counter()] * tokens)


class Bare:
    """A pipeline, and its prompts' tokenizer."""

    def __init__(self, code: Path, values: dict[str, str]) -> None:
        sys.path.insert(0, str(code))
        from options import Options
        from pipeline import Capacity, EngineConfig, load_pipeline

        self._options = Options
        engine, tokenizer = Path(values["gpt_model_path"]), Path(values["tokenizer_dir"])
        capacity = Capacity(
            max_num_sequences=int(values["max_num_sequences"]),
            max_num_tokens=int(values["max_num_tokens"]),
            kv_cache_bytes=int(values["kv_cache_bytes"]),
            reuse_kv_cache=values["enable_kv_cache_reuse"] == "true",
        )
        self._tokenizer = Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
        self._pipeline = load_pipeline(engine, None, EngineConfig.read(engine), capacity)
        self._numbers = itertools.count()

    def burst(self, texts: list[str], max_tokens: int, concurrency: int) -> dict[str, Any]:
        """Answers all texts, ``concurrency`` of them at a time; times are (first token, last token)."""
        waiting, timings = iter(texts), []
        start = perf_counter()
        running = [self._begin(text, max_tokens) for text in itertools.islice(waiting, concurrency)]
        while running:
            self._pipeline.step()
            for one in running:
                one.read()
            ended = [one for one in running if len(one.times) >= max_tokens]
            timings += [(one.times[0] - one.began, one.times[-1] - one.began) for one in ended]
            running = [one for one in running if len(one.times) < max_tokens]
            running += [self._begin(text, max_tokens) for text in itertools.islice(waiting, len(ended))]
        return {"seconds": perf_counter() - start, "tokens": max_tokens, "timings": timings}

    def _begin(self, text: str, max_tokens: int) -> Running:
        began = perf_counter()
        options = self._options(max_tokens=max_tokens, top_k=1)  # and without an end token
        ids = ov.Tensor(np.array([self._tokenizer.encode(text).ids], np.int64))
        return Running(self._pipeline.add_request(next(self._numbers), ids, options.generation_config()), began)


def _lines() -> Iterator[dict[str, Any]]:
    return (json.loads(line) for line in sys.stdin)


if __name__ == "__main__":
    bare = Bare(Path(sys.argv[1]), json.loads(sys.argv[2]))
    print("ready", flush=True)
    for asked in _lines():
        print(json.dumps(bare.burst(**asked)), flush=True)
