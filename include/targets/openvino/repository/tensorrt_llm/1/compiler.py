"""Compiles grammars beside the engine, so that no other request waits for it.

OpenVINO GenAI compiles a request's grammar in the step that begins its answer, and holds Python meanwhile: seconds, in
which nobody else gets a token. It keeps what it compiled with the tokenizer, and pipelines may share a tokenizer. So a
second pipeline, whose model is next to nothing, answers one token under the grammar before the engine sees it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from queue import Full, Queue
from tempfile import TemporaryDirectory

import numpy as np
import openvino as ov  # noqa: TID253 - runs in the target's environment only
import openvino_genai as genai
from engine import EngineFailure
from openvino import opset13 as ops  # noqa: TID253 - runs in the target's environment only

_WIDTH = 16
_WAITING = 16
_STATE_COST_S = 1.1e-6  # a state's compilation for each token of the vocabulary, on two cores
_LONGEST_S = 10.0
_MOST_STATES = 400


def max_states(vocab_size: int) -> int:
    """States of a grammar that compiles in about ten seconds, and not more than 400."""
    return min(_MOST_STATES, int(_LONGEST_S / (_STATE_COST_S * vocab_size)))


class Busy(EngineFailure):
    """Too many grammars wait to be compiled."""


class GrammarCompiler:
    """A thread and a pipeline, which shares the engine's tokenizer, and with it all compiled grammars."""

    def __init__(self, tokenizer: genai.Tokenizer, vocab_size: int) -> None:
        config = genai.SchedulerConfig()
        config.num_kv_blocks = 4
        config.enable_prefix_caching = False
        with TemporaryDirectory() as folder:
            ov.save_model(_next_to_nothing(vocab_size), f"{folder}/openvino_model.xml")
            self._pipeline = genai.ContinuousBatchingPipeline(folder, tokenizer, config, "CPU")
        self._compiled: set[str] = set()
        self._jobs: Queue[_Job | None] = Queue(_WAITING)
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="grammars", daemon=True)
        self._thread.start()

    def compile(
        self,
        configs: Iterable[genai.GenerationConfig],
        done: Callable[[], None],
        failed: Callable[[str], None],
        gone: Callable[[], bool],
    ) -> None:
        """Calls ``done`` when the grammars of ``configs`` are compiled, at once if they are; nothing if ``gone``.

        Raises:
            Busy: there are 16 others before it.
        """
        asked = (config.structured_output_config for config in configs)
        missing = tuple(one.grammar for one in asked if one and one.grammar not in self._compiled)
        if not missing:
            done()
            return
        try:
            self._jobs.put_nowait(_Job(missing, done, failed, gone))
        except Full:
            raise Busy(f"{_WAITING} other requests wait for their bad_words to be compiled") from None

    def close(self) -> None:
        """Ends the thread when the grammar that it works on is compiled; those that wait are not answered."""
        self._closing = True
        with suppress(Full):
            self._jobs.put_nowait(None)
        self._thread.join()

    def _run(self) -> None:
        while (job := self._jobs.get()) and not self._closing:
            if job.gone():
                continue
            try:
                for grammar in job.grammars:
                    self._compile(grammar)
            except RuntimeError as error:  # GenAI's C++ exceptions
                job.failed(str(error))
            else:
                job.done()

    def _compile(self, grammar: str) -> None:
        if grammar in self._compiled:
            return
        config = genai.GenerationConfig(max_new_tokens=1, ignore_eos=True)
        config.structured_output_config = genai.StructuredOutputConfig(grammar=grammar)
        self._pipeline.generate([ov.Tensor(np.zeros((1, 1), np.int64))], [config])
        self._compiled.add(grammar)


@dataclass(frozen=True)
class _Job:
    """Grammars that a request waits for."""

    grammars: tuple[str, ...]
    done: Callable[[], None]
    failed: Callable[[str], None]
    gone: Callable[[], bool]


def _next_to_nothing(vocab_size: int) -> ov.Model:
    """A language model of one attention head whose weights are 0."""
    ids, mask, positions = (
        _parameter(name, [-1, -1], ov.Type.i64) for name in ("input_ids", "attention_mask", "position_ids")
    )
    beams = _parameter("beam_idx", [-1], ov.Type.i32)
    embedded = ops.gather(np.zeros((vocab_size, _WIDTH), np.float32), ops.convert(ids, "i32"), 0)
    hidden = ops.add(embedded, ops.convert(ops.unsqueeze(positions, -1), "f32"))
    head = ops.transpose(ops.reshape(hidden, [0, 0, 1, _WIDTH], special_zero=True), [0, 2, 1, 3])
    batch = ops.gather(ops.shape_of(ids), [0], 0)
    empty = ops.broadcast(np.float32(0), ops.concat([batch, np.array([1, 0, _WIDTH])], 0))
    cached, kept = zip(*(_cached(name, head, empty, beams) for name in ("key", "value")), strict=True)
    allowed = ops.unsqueeze(ops.unsqueeze(ops.convert(mask, "boolean"), 1), 1)
    attended = ops.scaled_dot_product_attention(head, *cached, allowed)
    merged = ops.reshape(ops.transpose(attended, [0, 2, 1, 3]), [0, 0, _WIDTH], special_zero=True)
    logits = ops.matmul(merged, np.zeros((_WIDTH, vocab_size), np.float32), False, False)
    logits.output(0).set_names({"logits"})
    return ov.Model([ops.result(logits)], list(kept), [ids, mask, positions, beams])


def _parameter(name: str, shape: list[int], kind: ov.Type) -> ov.Node:
    parameter = ops.parameter(shape, kind)
    parameter.set_friendly_name(name)
    parameter.output(0).set_names({name})
    return parameter


def _cached(name: str, new: ov.Node, empty: ov.Node, beams: ov.Node) -> tuple[ov.Node, ov.Node]:
    """All keys, or values, so far, and the node that keeps them."""
    past = ops.read_value(empty, name, ov.Type.f32, [-1, 1, -1, _WIDTH])
    together = ops.concat([ops.gather(past, beams, 0), new], -2)
    return together, ops.assign(together, name)
