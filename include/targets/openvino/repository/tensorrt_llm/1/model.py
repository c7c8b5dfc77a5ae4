"""Triton model `tensorrt_llm`: token ids in, token ids out. Its `engine`, `options` and `pipeline` are the target's."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import neutral
import numpy.typing as npt
import triton_python_backend_utils as pb_utils
from engine import SENDERS, Engine, EngineFailure, Task
from hangups import Connections, Hangups, connection_of
from options import InvalidRequest, Options
from pipeline import Capacity, EngineConfig, load_compiler, load_pipeline, load_tokenizer
from replies import Outbox, Reply, Wishes
from text import Decoder, StopWords, Transcript, near

_OPTION_INPUTS = {
    "end_id": "end_id",
    "top_k": "runtime_top_k",
    "top_p": "runtime_top_p",
    "temperature": "temperature",
    "repetition_penalty": "repetition_penalty",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
    "min_tokens": "min_tokens",
}


@dataclass(frozen=True)
class Inputs:
    """A request's tensors, row by row; options that it left out are None."""

    request: pb_utils.InferenceRequest
    size: int

    @classmethod
    def of(cls, request: pb_utils.InferenceRequest) -> Inputs:
        """Reads how many rows ``request`` has."""
        return cls(request, len(_required(request, "input_lengths")))

    def value(self, name: str, row: int) -> Any:  # noqa: ANN401 - bool, int or float, as the input is declared
        """The row's single value as a Python number."""
        array = _array(self.request, name)
        return None if array is None else array.reshape(self.size, -1)[row, 0].item()

    def flag(self, name: str, default: bool) -> bool:
        """A choice for the whole request."""
        value = self.value(name, 0)
        return default if value is None else bool(value)

    def prompt(self, row: int) -> list[int]:
        """The row's token ids without padding."""
        ids: list[int] = _required(self.request, "input_ids")[row, : self.value("input_lengths", row)].tolist()
        return ids

    def words(self, name: str, row: int) -> list[list[int]]:
        """The row's words: ids one after another, and where each ends, -1 for none (upstream's form)."""
        array = _array(self.request, name)
        if array is None:
            return []
        flat, ends = array[row].tolist()
        ends = [end for end in ends if end > 0]
        return [flat[start:end] for start, end in zip([0, *ends], ends, strict=False)]

    def options(self, row: int) -> Options:
        """The row's options."""
        given = {field: self.value(name, row) for field, name in _OPTION_INPUTS.items()}
        return Options(max_tokens=self.value("request_output_len", row), seed=self._seed(row), **given)

    def check_neutral(self) -> None:
        """Raises `InvalidRequest` for a field of upstream's that asks for what this engine does not have."""
        for name in neutral.FIELDS:
            if (array := _array(self.request, name)) is not None:
                neutral.check(name, array.ravel().tolist())

    def _seed(self, row: int) -> int | None:
        """The seed by its name of today, or by that of clients from before May 2025."""
        seed, former = self.value("seed", row), self.value("random_seed", row)
        if None not in (seed, former) and seed != former:
            raise InvalidRequest(f"seed is {seed} and random_seed is {former}: give one of them")
        given: int | None = former if seed is None else seed
        return given


class TritonPythonModel:
    """What Triton's python backend loads and calls."""

    def initialize(self, args: dict[str, str]) -> None:
        """Loads the engine; ``args["model_config"]`` is the filled config.pbtxt as JSON."""
        config = json.loads(args["model_config"])
        values = {key: field["string_value"] for key, field in config["parameters"].items()}
        self._decoupled = bool(config["model_transaction_policy"]["decoupled"])
        self._exclude_input = _flag(values["exclude_input_in_output"])
        self._max_seq_len = int(values["max_seq_len"])
        self._hangups = Hangups()
        self._connections = Connections()
        self._outbox = Outbox(SENDERS, on_failure=_stop_server)
        tokenizer_dir = near(values["tokenizer_dir"])
        self._decoder = Decoder(tokenizer_dir, _flag(values["skip_special_tokens"]))
        tokenizer = load_tokenizer(tokenizer_dir)
        self._end_ids = frozenset(map(int, values["end_ids"].split()))
        # What ends a text with banned words; without the tokens' texts none can be banned.
        self._eos_id = tokenizer.get_eos_token_id() if tokenizer and tokenizer.get_vocab() else None
        engine_dir = near(values["gpt_model_path"])
        engine_config = EngineConfig.read(engine_dir)
        self._vocab_size = engine_config.vocab_size
        # Those of its ids that stand for no token.
        self._missing = frozenset(_suppressed(engine_dir))
        self._compiler = load_compiler(tokenizer, self._vocab_size)
        pipeline = load_pipeline(engine_dir, tokenizer, engine_config, Capacity.of(values))
        self._engine = Engine(pipeline, int(values["max_queue_size"]), on_failure=_stop_server)

    def execute(self, requests: list[pb_utils.InferenceRequest]) -> None:
        """Hands the requests to the engine, which answers later."""
        for request in requests:
            inputs = Inputs.of(request)
            hangups = self._hangups if self._streams(inputs) else None
            gone = partial(self._connections.lacks, connection_of(request.parameters()))
            gone()  # a first look, while the client most likely waits: only what was seen is missed
            sender = request.get_response_sender()
            reply = Reply(sender, self._outbox.lane(), _wishes(inputs, self._decoupled), gone, hangups)
            try:
                inputs.check_neutral()
                self._begin([self._task(inputs, row, reply) for row in range(inputs.size)], reply)
            except InvalidRequest as error:
                reply.failed(str(error), pb_utils.TritonError.INVALID_ARG)
            except EngineFailure as error:
                reply.failed(str(error), pb_utils.TritonError.UNAVAILABLE)

    def finalize(self) -> None:
        """Ends the engine's threads."""
        if self._compiler:
            self._compiler.close()
        self._engine.close()
        self._outbox.close()

    def _begin(self, tasks: list[Task], reply: Reply) -> None:
        """Hands the tasks to the engine as soon as their bad words are compiled, if its kind compiles them."""
        submit = partial(self._submit, tasks, reply)
        if self._compiler:
            invalid = partial(reply.failed, code=pb_utils.TritonError.INVALID_ARG)
            self._compiler.compile([task.config for task in tasks], submit, invalid, reply.gone)
        else:
            submit()

    def _submit(self, tasks: list[Task], reply: Reply) -> None:
        try:
            self._engine.submit(tasks)
        except EngineFailure as error:
            reply.failed(str(error), pb_utils.TritonError.UNAVAILABLE)

    def _streams(self, inputs: Inputs) -> bool:
        return self._decoupled and inputs.flag("streaming", default=False)

    def _task(self, inputs: Inputs, row: int, reply: Reply) -> Task:
        prompt, options = inputs.prompt(row), inputs.options(row)
        self._check(inputs, prompt, options)
        stop = StopWords.of(inputs.words("stop_words_list", row), self._decoder)
        # Upstream's streamed answers never begin with the prompt.
        excluded = self._streams(inputs) or inputs.flag("exclude_input_in_output", self._exclude_input)
        shown = () if excluded else prompt
        words = self._bad_words(inputs, row, options)
        config = options.generation_config(words, self._vocab_size, self._end_ids, self._missing)
        answer = reply.answer(len(prompt), Transcript(self._decoder, stop, shown))
        return Task(prompt, config, answer)

    def _check(self, inputs: Inputs, prompt: list[int], options: Options) -> None:
        """Refuses what would make the pipeline fail or answer from garbage."""
        if inputs.flag("streaming", default=False) and not self._decoupled:
            raise InvalidRequest("streaming needs a repository with decoupled_mode true")
        if not prompt:
            raise InvalidRequest("input_ids has no tokens")
        wrong = next((one for one in prompt if not 0 <= one < self._vocab_size or one in self._missing), None)
        if wrong is not None:
            raise InvalidRequest(
                f"input_ids: {wrong} is no token of this model, whose vocabulary has the ids 0 to "
                f"{self._vocab_size - 1}{f', {len(self._missing)} of which are no tokens' if self._missing else ''}"
            )
        if len(prompt) + options.max_tokens > self._max_seq_len:
            raise InvalidRequest(
                f"{len(prompt)} prompt tokens and {options.max_tokens} new ones exceed max_seq_len {self._max_seq_len}"
            )

    def _bad_words(self, inputs: Inputs, row: int, options: Options) -> list[str]:
        words = [self._decoder.word(ids) for ids in inputs.words("bad_words_list", row)]
        words = [word for word in words if word]
        if words and self._eos_id is None:
            raise InvalidRequest("bad_words are not supported with this model's tokenizer")
        if words and options.end_id not in {None, self._eos_id, *self._end_ids}:
            raise InvalidRequest(f"bad_words need end_id {self._eos_id}, the tokenizer's own")
        return words


def _suppressed(engine_dir: Path) -> list[int]:
    """The ids that no answer may have, and that no prompt should; releases of earlier versions name none."""
    path = engine_dir / "generation_config.json"
    named: list[int] | None = json.loads(path.read_text()).get("suppress_tokens") if path.is_file() else None
    return named or []


def _wishes(inputs: Inputs, decoupled: bool) -> Wishes:
    counts = ("num_input_tokens", "num_output_tokens")
    unwanted = {name for name in counts if not inputs.flag(f"return_{name}", default=False)}
    outputs = frozenset(inputs.request.requested_output_names()) - unwanted
    return Wishes(one_each=decoupled, outputs=outputs, pad_id=inputs.value("pad_id", 0) or 0)


def _stop_server() -> None:
    """Ends the Triton server, whose health would go on to say ready with an engine that cannot answer."""
    os.kill(os.getppid(), signal.SIGTERM)


def _flag(value: str) -> bool:
    return {"true": True, "false": False}[value.lower()]


def _array(request: pb_utils.InferenceRequest, name: str) -> npt.NDArray[Any] | None:
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    return None if tensor is None else tensor.as_numpy()


def _required(request: pb_utils.InferenceRequest, name: str) -> npt.NDArray[Any]:
    return pb_utils.get_input_tensor_by_name(request, name).as_numpy()
