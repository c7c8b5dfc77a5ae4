"""The gates that a candidate passes before it goes live, through the endpoint that users will call.

A gate is a function of a `Trial`; it looks at answers and gives a `Verdict` with its evidence. `GATES` names them all.
"""

from __future__ import annotations

import json
import queue
import re
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

import httpx
from pydantic import BaseModel, ConfigDict, Field

from include.request import SEED_PROMPT

MODEL = "ensemble"
REFERENCE_FILE = "reference.json"
MIN_AGREEMENT = 0.5

_TIMEOUT_S = 300.0
_CONCURRENCY = 4
_PROBE_TOKENS = 48
_SHOWN = 160
_WORD = re.compile(r"[A-Za-z]{3,}")


class Endpoint(BaseModel):
    """Where a Triton server answers."""

    model_config = ConfigDict(frozen=True)
    host: str
    http_port: int
    grpc_port: int


class Continuation(BaseModel):
    """A prompt as users send it, and what the model made of it, greedily, before and after quantization.

    ``chat``: whether the prompt was put into the model's chat template. Ids end before the end token.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")
    prompt: str
    chat: bool = False
    after_ids: tuple[int, ...]
    after_text: str


class Reference(BaseModel):
    """What calibration measured on the checkpoint that the engine was built from."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    continuations: tuple[Continuation, ...]

    @property
    def has_chat(self) -> bool:
        """Whether the model has a chat template, so that calibration measured prompts in it, too."""
        return any(c.chat for c in self.continuations)

    def of(self, prompt: str, chat: bool) -> Continuation | None:
        """The continuation of ``prompt``, if calibration measured it in that form."""
        return next((c for c in self.continuations if c.prompt == prompt and c.chat == chat), None)


class Verdict(BaseModel):
    """What one gate found. ``skip``: it could not be tried here, which is no failure."""

    model_config = ConfigDict(frozen=True)
    gate: str
    outcome: Literal["pass", "fail", "skip"]
    threshold: str = Field(description="What it takes to pass.")
    evidence: tuple[str, ...]


class Report(BaseModel):
    """The verdicts on one endpoint."""

    model_config = ConfigDict(frozen=True)
    schema_version: int = 1
    endpoint: Endpoint
    verdicts: tuple[Verdict, ...]

    @property
    def passed(self) -> bool:
        """Whether no gate failed."""
        return all(verdict.outcome != "fail" for verdict in self.verdicts)

    def failures(self) -> str:
        """The failed gates and their evidence, a line each."""
        failed = [verdict for verdict in self.verdicts if verdict.outcome == "fail"]
        return "\n".join(f"gate {v.gate} failed ({v.threshold}): {'; '.join(v.evidence)}" for v in failed)

    def to_markdown(self) -> str:
        """A table of the verdicts."""
        rows = [
            f"| {v.gate} | {v.outcome} | {_cell(v.threshold)} | {'<br>'.join(map(_cell, v.evidence))} |"
            for v in self.verdicts
        ]
        return "\n".join(["| gate | verdict | threshold | evidence |", "|---|---|---|---|", *rows, ""])


class NoAnswer(Exception):
    """The endpoint answered with an error, or not at all."""

    def __init__(self, message: str, *, refused: bool = False) -> None:
        super().__init__(message)
        self.refused = refused


@dataclass(frozen=True)
class Client:
    """Asks an endpoint the way its users do. Raises `NoAnswer`."""

    endpoint: Endpoint
    http: httpx.Client

    def generate(self, body: dict[str, Any]) -> dict[str, Any]:
        """The JSON answer of the generate endpoint."""
        try:
            response = self.http.post(self._url("generate"), json=body)
        except httpx.TransportError as error:
            raise NoAnswer(f"{type(error).__name__}: {error}") from error
        return _answer(response.text, response.status_code)

    def text(self, prompt: str, **options: Any) -> str:  # noqa: ANN401 - the endpoint's own options
        """The most probable answer to ``prompt``."""
        return str(
            self.generate({"text_input": prompt, "max_tokens": _PROBE_TOKENS, "top_k": 1} | options)["text_output"]
        )

    def stream(self, prompt: str, **options: Any) -> list[str]:  # noqa: ANN401 - the endpoint's own options
        """The pieces of the most probable answer, from the streaming endpoint."""
        body = {"text_input": prompt, "max_tokens": _PROBE_TOKENS, "top_k": 1, "stream": True} | options
        try:
            with self.http.stream("POST", self._url("generate_stream"), json=body) as response:
                events = [line.removeprefix("data:") for line in response.iter_lines() if line.startswith("data:")]
        except httpx.TransportError as error:
            raise NoAnswer(f"{type(error).__name__}: {error}") from error
        return [str(_answer(event, response.status_code)["text_output"]) for event in events]

    def grpc_text(self, prompt: str, max_tokens: int) -> str:
        """The answer through tritonclient; its stream call serves every kind of repository."""
        import numpy as np
        import tritonclient.grpc as triton
        from tritonclient.utils import InferenceServerException

        text = triton.InferInput("text_input", [1, 1], "BYTES")
        text.set_data_from_numpy(np.array([[prompt.encode()]], dtype=np.object_))
        tokens = triton.InferInput("max_tokens", [1, 1], "INT32")
        tokens.set_data_from_numpy(np.array([[max_tokens]], dtype=np.int32))
        answers: queue.SimpleQueue[tuple[Any, Any]] = queue.SimpleQueue()
        with triton.InferenceServerClient(f"{self.endpoint.host}:{self.endpoint.grpc_port}") as client:
            try:
                client.start_stream(lambda result, error: answers.put((result, error)))
                client.async_stream_infer(MODEL, [text, tokens])
                result, error = answers.get(timeout=_TIMEOUT_S)
            except (InferenceServerException, queue.Empty) as failure:
                raise NoAnswer(f"gRPC: {failure or 'no answer'}") from failure
        if error is not None:
            raise NoAnswer(f"gRPC: {error}")
        return str(result.as_numpy("text_output").flat[0].decode())

    def _url(self, kind: str) -> str:
        return f"http://{self.endpoint.host}:{self.endpoint.http_port}/v2/models/{MODEL}/{kind}"


@dataclass(frozen=True)
class Trial:
    """What the gates judge: an endpoint, and what is known about what it should say.

    ``chat``: whether the endpoint puts prompts into the model's chat template.
    """

    client: Client
    reference: Reference | None
    prompts: tuple[str, ...]
    streaming: bool
    chat: bool

    def may_be_empty(self, prompt: str) -> bool:
        """Whether the model itself has nothing to say to ``prompt``."""
        known = self.reference.of(prompt, self.chat) if self.reference else None
        return known is not None and not known.after_text.strip()

    @cached_property
    def comparable(self) -> tuple[Continuation, ...]:
        """What calibration measured in the form that the endpoint uses."""
        known = self.reference.continuations if self.reference else ()
        return tuple(c for c in known if c.chat == self.chat)

    @cached_property
    def wordy(self) -> tuple[str, str, re.Match[str]] | None:
        """A prompt, its answer, and a word in it, the first that is not at its start."""
        for prompt in (*self.prompts, *(c.prompt for c in self.comparable)):
            answer = self.client.text(prompt)
            for word in _WORD.finditer(answer):
                if answer[: word.start()].strip() and word[0] not in answer[: word.start()]:
                    return prompt, answer, word
        return None

    @property
    def talking_point(self) -> str:
        """A prompt that gets an answer, if there is one."""
        return self.wordy[0] if self.wordy else SEED_PROMPT


Outcome = tuple[Literal["pass", "fail", "skip"], Sequence[str]]
Gate = Callable[[Trial], Outcome]


def validate(
    endpoint: Endpoint,
    reference: Reference | None,
    *,
    prompts: Sequence[str],
    streaming: bool,
    chat: bool = False,
) -> Report:
    """Tries every gate; a gate that fails does not keep the others from being tried."""
    with httpx.Client(timeout=_TIMEOUT_S, trust_env=False) as http:
        trial = Trial(Client(endpoint, http), reference, tuple(prompts), streaming, chat)
        verdicts = tuple(_judge(name, threshold, gate, trial) for name, threshold, gate in GATES)
    return Report(endpoint=endpoint, verdicts=verdicts)


def read_reference(checkpoint: Path) -> Reference:
    """The reference that calibration left beside the checkpoint."""
    return Reference.model_validate_json((checkpoint / REFERENCE_FILE).read_text())


def seed_request(trial: Trial) -> Outcome:
    """The request that this pipeline exists to answer, letter by letter."""
    body = {"text_input": SEED_PROMPT, "parameters": {"max_tokens": 100, "bad_words": [""], "stop_words": [""]}}
    return _none_empty(trial, [(SEED_PROMPT, str(trial.client.generate(body)["text_output"]))])


def test_prompts(trial: Trial) -> Outcome:
    """The user's own prompts."""
    return _none_empty(trial, [(prompt, trial.client.text(prompt)) for prompt in trial.prompts])


def same_over_grpc(trial: Trial) -> Outcome:
    """The same answer through tritonclient."""
    http = trial.client.text(trial.talking_point)
    grpc = trial.client.grpc_text(trial.talking_point, _PROBE_TOKENS)
    return _passes(http == grpc), [f"HTTP {_shown(http)}, gRPC {_shown(grpc)}"]


def max_tokens_kept(trial: Trial) -> Outcome:
    """No answer is longer than asked for."""
    counts = {}
    for limit in (1, 8):
        body = {"text_input": trial.talking_point, "max_tokens": limit, "return_num_output_tokens": True}
        counts[limit] = int(trial.client.generate(body)["num_output_tokens"])
    kept = all(count <= limit for limit, count in counts.items())
    return _passes(kept), [f"{count} tokens for max_tokens {limit}" for limit, count in counts.items()]


def stop_word_honoured(trial: Trial) -> Outcome:
    """An answer ends with (as upstream's do) or before a stop word taken from it."""
    if trial.wordy is None:
        return "skip", ["no answer holds a word to stop at"]
    prompt, whole, word = trial.wordy
    stopped = trial.client.text(prompt, stop_words=_both_forms(word[0]))
    allowed = {whole[: word.start()].rstrip(), whole[: word.end()]}
    evidence = [f"without: {_shown(whole)}", f"stop word {word[0]!r}: {_shown(stopped)}"]
    return _passes(stopped.rstrip() in allowed), evidence


def bad_word_honoured(trial: Trial) -> Outcome:
    """A word of an answer does not come again once it is banned."""
    if trial.wordy is None:
        return "skip", ["no answer holds a word to ban"]
    prompt, whole, word = trial.wordy
    try:
        without = trial.client.text(prompt, bad_words=_both_forms(word[0]))
    except NoAnswer as error:
        if error.refused:
            return "skip", [f"the endpoint refuses bad words: {error}"]
        raise
    kept = re.search(rf"\b{word[0]}\b", without) is None
    return _passes(kept), [f"without: {_shown(whole)}", f"bad word {word[0]!r}: {_shown(without)}"]


def deterministic(trial: Trial) -> Outcome:
    """The same answer each time, alone and beside others."""
    prompt = trial.talking_point
    alone = [trial.client.text(prompt) for _ in range(2)]
    with ThreadPoolExecutor(_CONCURRENCY) as pool:
        together = list(pool.map(lambda _: trial.client.text(prompt), range(_CONCURRENCY)))
    answers = sorted({*alone, *together})
    evidence = [f"{len(answers)} different in {len(alone)} alone and {len(together)} at once", *map(_shown, answers)]
    return _passes(len(answers) == 1), evidence


def agrees_with_reference(trial: Trial) -> Outcome:
    """The endpoint continues prompts as the checkpoint did when it was made."""
    if not trial.comparable:
        return "skip", ["no reference in the form that the endpoint uses"]
    shares, evidence = [], []
    for known in trial.comparable:
        text = trial.client.text(known.prompt, max_tokens=max(1, len(known.after_ids)))
        shares.append(_equal_share(text, known.after_text))
        evidence.append(
            f"{shares[-1]:.2f} {_shown(known.prompt)}: {_shown(text)}, reference {_shown(known.after_text)}"
        )
    mean = fmean(shares)
    return _passes(mean >= MIN_AGREEMENT), [f"mean {mean:.2f} of {len(shares)} prompts", *evidence]


def streaming_equal(trial: Trial) -> Outcome:
    """The streamed pieces, joined, are the answer."""
    if not trial.streaming:
        return "skip", ["the release does not stream"]
    prompt = trial.talking_point
    pieces, whole = trial.client.stream(prompt), trial.client.text(prompt)
    evidence = [f"{len(pieces)} pieces: {_shown(''.join(pieces))}", f"in one: {_shown(whole)}"]
    return _passes("".join(pieces) == whole and (len(pieces) > 1 or not whole)), evidence


GATES: tuple[tuple[str, str, Gate], ...] = (
    ("seed_request", "the answer is not empty", seed_request),
    ("test_prompts", "no answer is empty", test_prompts),
    ("same_over_grpc", "tritonclient gets the same answer", same_over_grpc),
    ("max_tokens", "no answer is longer than max_tokens", max_tokens_kept),
    ("stop_word", "the answer ends at the stop word", stop_word_honoured),
    ("bad_word", "the answer does not hold the bad word", bad_word_honoured),
    ("deterministic", "one answer at top_k 1, alone and 4 at once", deterministic),
    ("agreement", f"mean share of equal text with the checkpoint's own >= {MIN_AGREEMENT}", agrees_with_reference),
    ("streaming", "the pieces, joined, are the answer", streaming_equal),
)


def _judge(name: str, threshold: str, gate: Gate, trial: Trial) -> Verdict:
    try:
        outcome, evidence = gate(trial)
    except NoAnswer as error:
        outcome, evidence = "fail", [str(error)]
    return Verdict(gate=name, outcome=outcome, threshold=threshold, evidence=tuple(evidence))


def _answer(text: str, status: int) -> dict[str, Any]:
    """The fields of an answer; a stream's error comes inside a 200."""
    try:
        fields = json.loads(text)
    except json.JSONDecodeError as error:
        raise NoAnswer(f"HTTP {status}, not JSON: {text[:_SHOWN]}") from error
    if status != httpx.codes.OK or "error" in fields:
        raise NoAnswer(f"HTTP {status}: {fields.get('error', text)}", refused=status == httpx.codes.BAD_REQUEST)
    return dict(fields)


def _none_empty(trial: Trial, answers: Iterable[tuple[str, str]]) -> Outcome:
    good, evidence = True, []
    for prompt, answer in answers:
        note = ""
        if not answer.strip():
            expected = trial.may_be_empty(prompt)
            good = good and expected
            note = " (the checkpoint itself ends at once here)" if expected else ""
        evidence.append(f"{_shown(prompt)}: {_shown(answer)}{note}")
    return _passes(good), evidence


def _passes(good: bool) -> Literal["pass", "fail"]:
    return "pass" if good else "fail"


def _both_forms(word: str) -> list[str]:
    """With and without the space before it: upstream compares tokens, where these differ."""
    return [word, f" {word}"]


def _equal_share(text: str, known: str) -> float:
    """Characters from the start that are equal, as a share of the longer text; decoders differ in the first space."""
    text, known = text.strip(), known.strip()
    longest = max(len(text), len(known))
    equal = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(text, known, strict=False)))
    return equal / longest if longest else 1.0


def _shown(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}...")


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")
