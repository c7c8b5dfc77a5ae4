"""The slot's engine around a stand-in of vLLM's AsyncLLM."""

from __future__ import annotations

import asyncio
import importlib.util
import math
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from tests.support.wait import wait_for

SLOT = Path(__file__).parents[5] / "include" / "targets" / "vllm" / "repository" / "tensorrt_llm" / "1"


def load(name: str) -> ModuleType:
    """A module of the slot, under a name that no other target's has."""
    spec = importlib.util.spec_from_file_location(f"vllm_slot_{name}", SLOT / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


engine = load("engine")
options = load("options")


@dataclass
class PlayedLLM:
    """Answers with the prompt's ids, one at a time, then the end token 2; 99 makes it wait for ever."""

    aborted: list[str] = field(default_factory=list)
    dead: bool = False
    down: bool = False

    async def generate(self, prompt: dict[str, Any], params: Any, request_id: str) -> AsyncIterator[Any]:
        try:
            for token_id in prompt["prompt_token_ids"]:
                if token_id == 99:
                    await asyncio.Event().wait()
                if token_id == 98:
                    raise ValueError("played")
                yield self._output([token_id], None)
            yield self._output([2], "stop")
        except (asyncio.CancelledError, GeneratorExit):
            self.aborted.append(request_id)
            raise

    def _output(self, ids: list[int], reason: str | None) -> Any:
        answer = SimpleNamespace(token_ids=ids, finish_reason=reason)
        return SimpleNamespace(outputs=[answer], finished=reason is not None)

    async def check_health(self) -> None:
        if self.dead:
            raise RuntimeError("EngineCore encountered an issue")

    def shutdown(self) -> None:
        self.down = True


class Collector:
    """A listener that keeps what it hears."""

    def __init__(self, stop_after: int = 1 << 30) -> None:
        self.ids: list[int] = []
        self.error: Exception | None = None
        self.gone = False
        self.streams = True
        self.pieces: list[list[int]] = []
        self.over = threading.Event()
        self._stop_after = stop_after

    def cancelled(self) -> bool:
        return self.gone

    def tokens(self, token_ids: Sequence[int]) -> bool:
        self.ids += token_ids
        return len(self.ids) >= self._stop_after

    def show(self) -> None:
        shown = sum(map(len, self.pieces))
        if self.ids[shown:]:
            self.pieces.append(self.ids[shown:])

    def end(self) -> None:
        self.over.set()

    def fail(self, error: Exception) -> None:
        self.error = error
        self.over.set()


@pytest.fixture
def llm() -> PlayedLLM:
    return PlayedLLM()


@pytest.fixture
def failed() -> threading.Event:
    return threading.Event()


@pytest.fixture
def ask(llm: PlayedLLM, failed: threading.Event) -> Iterator[Callable[..., Collector]]:
    running = engine.Engine(lambda: llm, max_queue_size=2, on_failure=failed.set)

    def submit(*ids: int, stop_after: int = 1 << 30) -> Collector:
        listener = Collector(stop_after)
        running.submit([engine.Task(ids, None, listener)])
        return listener

    yield submit
    running.close()
    assert llm.down


def test_an_answer_comes_whole_and_without_its_end_token(ask: Callable[..., Collector]) -> None:
    answer = ask(5, 6, 7)
    assert answer.over.wait(30)
    assert (answer.ids, answer.error) == ([5, 6, 7], None)


def test_the_first_token_is_shown_at_once_and_the_end_waits_for_no_piece(
    ask: Callable[..., Collector], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "_PIECES_PER_S", 1 / 3600)
    listener = ask(5, 6, 7)
    assert listener.over.wait(60)
    assert listener.pieces[0] == [5]
    assert listener.ids == [5, 6, 7]


def test_a_stop_word_ends_the_answer_and_vllms_work(ask: Callable[..., Collector], llm: PlayedLLM) -> None:
    answer = ask(5, 6, 7, stop_after=2)
    assert answer.over.wait(30)
    assert answer.ids == [5, 6]
    assert len(llm.aborted) == 1


def test_a_client_that_has_gone_stops_vllms_work_even_between_tokens(
    ask: Callable[..., Collector], llm: PlayedLLM
) -> None:
    answer = ask(5, 99)
    wait_for(lambda: answer.ids == [5])
    answer.gone = True
    assert answer.over.wait(30)
    assert len(llm.aborted) == 1


def test_more_prompts_than_the_queue_holds_are_refused(ask: Callable[..., Collector]) -> None:
    held = [ask(99), ask(99)]
    with pytest.raises(engine.EngineFailure, match="2 prompts in flight"):
        ask(5)
    held[0].gone = True
    assert held[0].over.wait(30)
    wait_for(lambda: not isinstance(_try(ask), Exception))


def _try(ask: Callable[..., Collector]) -> Collector | Exception:
    try:
        return ask(5)
    except engine.EngineFailure as error:
        return error


def test_a_failed_answer_leaves_the_others_alone(ask: Callable[..., Collector]) -> None:
    bad, good = ask(5, 98), ask(6)
    assert bad.over.wait(30)
    assert good.over.wait(30)
    assert "played" in str(bad.error)
    assert good.ids == [6]


def test_a_dead_core_fails_what_is_in_flight_and_ends_the_server(
    ask: Callable[..., Collector], llm: PlayedLLM, failed: threading.Event
) -> None:
    waiting = ask(99)
    llm.dead = True
    assert failed.wait(30)
    assert waiting.over.wait(30)
    assert "EngineCore" in str(waiting.error)
    with pytest.raises(engine.EngineFailure, match="the engine failed"):
        ask(5)


class Params:
    """SamplingParams as far as they are looked at."""

    def __init__(self, **given: Any) -> None:
        if given.get("top_p", 1) > 1:
            raise ValueError("top_p must be in (0, 1]")
        self.given = given


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    package, sampling = ModuleType("vllm"), ModuleType("vllm.sampling_params")
    package.SamplingParams = Params  # type: ignore[attr-defined]
    sampling.RequestOutputKind = SimpleNamespace(DELTA="delta")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm", package)
    monkeypatch.setitem(sys.modules, "vllm.sampling_params", sampling)


def given(**asked: Any) -> dict[str, Any]:
    return options.Options(max_tokens=8, **asked).generation_config(end_ids=frozenset({9, 7})).given


@pytest.mark.usefixtures("vllm")
def test_without_top_k_and_top_p_decoding_is_greedy() -> None:
    assert given(temperature=0.7)["temperature"] == 0
    assert given(top_k=1, temperature=0.7)["temperature"] == 0
    sampled = given(top_p=0.9, temperature=0.7, seed=3)
    assert (sampled["temperature"], sampled["top_p"], sampled["seed"]) == (0.7, 0.9, 3)


@pytest.mark.usefixtures("vllm")
@pytest.mark.parametrize(("end_id", "stops"), [(2, [2]), (9, [7, 9]), (None, [7, 9]), (-1, []), (-7, [])])
def test_the_models_end_tokens_end_an_answer_unless_the_request_names_another(
    end_id: int | None, stops: list[int]
) -> None:
    lengths = given(end_id=end_id)
    assert (lengths["stop_token_ids"], lengths["ignore_eos"]) == (stops, True)


@pytest.mark.usefixtures("vllm")
def test_no_answer_has_an_id_without_a_token() -> None:
    config = options.Options(max_tokens=8).generation_config(missing=frozenset({300}))
    assert config.given["logit_bias"] == {300: -1e4}
    assert given()["logit_bias"] is None


@pytest.mark.usefixtures("vllm")
@pytest.mark.parametrize(
    "asked",
    [{"top_p": 1.5}, {"top_k": -1}, {"min_tokens": -1}, {"temperature": math.nan}, {"presence_penalty": math.inf}],
    ids=str,
)
def test_values_outside_the_limits_are_the_clients_fault(asked: dict[str, Any]) -> None:
    with pytest.raises(options.InvalidRequest):
        given(**asked)
