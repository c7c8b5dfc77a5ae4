from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import openvino_genai as genai
import pytest
from engine import Engine, EngineFailure, Task
from options import Options
from pipeline import Capacity, EngineConfig, load_pipeline, load_tokenizer
from text import Decoder
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast  # noqa: TID253

TIMEOUT_S = 60
PROMPT = (17, 305, 42)


class Collector:
    """A listener that keeps what it hears."""

    def __init__(self, *, stop_after: int = 1 << 30, leave_after: int = 1 << 30) -> None:
        self.ids: list[int] = []
        self.error: EngineFailure | None = None
        self._stop_after, self._leave_after = stop_after, leave_after
        self._over = threading.Event()
        self.begun = threading.Event()

    def cancelled(self) -> bool:
        return len(self.ids) >= self._leave_after

    def tokens(self, token_ids: Sequence[int]) -> bool:
        self.ids += token_ids
        if self.ids:
            self.begun.set()
        return len(self.ids) >= self._stop_after

    def show(self) -> None:
        pass

    def end(self) -> None:
        self._over.set()

    def fail(self, error: EngineFailure) -> None:
        self.error = error
        self._over.set()

    def wait(self) -> Collector:
        assert self._over.wait(TIMEOUT_S)
        return self


@pytest.fixture(scope="module")
def tokenizer(tokenizer_dir: Path) -> genai.Tokenizer:
    return load_tokenizer(tokenizer_dir)


def _pipeline(engine_dir: Path, tokenizer: genai.Tokenizer | None, blocks: int = 0) -> genai.ContinuousBatchingPipeline:
    capacity = Capacity(max_num_sequences=4, max_num_tokens=64, kv_cache_bytes=1, reuse_kv_cache=True)
    if not blocks:
        engine_config = EngineConfig(1000, {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f16"})
        return load_pipeline(engine_dir, tokenizer, engine_config, capacity)
    config = capacity.scheduler_config()
    config.cache_size, config.num_kv_blocks = 0, blocks
    return genai.ContinuousBatchingPipeline(str(engine_dir), tokenizer, config, "CPU")


@pytest.fixture(scope="module")
def engine(engine_dir: Path, tokenizer: genai.Tokenizer) -> Iterator[Engine]:
    failed = threading.Event()
    engine = Engine(_pipeline(engine_dir, tokenizer), max_queue_size=64, on_failure=failed.set)
    yield engine
    engine.close()
    assert not failed.is_set()


def _config(max_tokens: int = 12, end_id: int = -1, **options: float) -> genai.GenerationConfig:
    return Options(max_tokens=max_tokens, end_id=end_id, **options).generation_config()


def _ask(engine: Engine, config: genai.GenerationConfig, listener: Collector | None = None) -> list[int]:
    listener = listener or Collector()
    engine.submit([Task(PROMPT, config, listener)])
    listener.wait()
    assert listener.error is None
    return listener.ids


def test_answers_are_the_same_alone_and_together(engine: Engine) -> None:
    alone = _ask(engine, _config())
    listeners = [Collector() for _ in range(10)]
    engine.submit([Task(PROMPT, _config(), listener) for listener in listeners])
    assert [listener.wait().ids for listener in listeners] == [alone] * 10
    assert len(alone) == 12


def test_end_token_ends_the_answer_and_is_no_part_of_it(engine: Engine) -> None:
    whole = _ask(engine, _config())
    assert _ask(engine, _config(end_id=whole[5])) == whole[: whole.index(whole[5])]


def test_each_of_the_models_end_tokens_ends_the_answer(engine: Engine) -> None:
    whole = _ask(engine, _config())
    for first, other in ((whole[5], 0), (0, whole[5])):
        config = Options(max_tokens=12, end_id=first).generation_config(end_ids=frozenset({first, other}))
        assert _ask(engine, config) == whole[: whole.index(whole[5])]


def test_an_end_token_of_the_models_own_ends_an_answer_without_bad_words(engine: Engine) -> None:
    config = Options(max_tokens=60, end_id=0).generation_config({"e"})
    whole = _ask(engine, config)
    ends = frozenset({0, whole[5]})
    config = Options(max_tokens=60, end_id=0).generation_config({"e"}, end_ids=ends)
    assert _ask(engine, config) == whole[: whole.index(whole[5])]


def test_min_tokens_keeps_the_answer_from_ending(engine: Engine) -> None:
    whole = _ask(engine, _config())
    assert len(_ask(engine, _config(end_id=whole[0], min_tokens=6))) >= 6


def test_listener_may_end_the_answer(engine: Engine) -> None:
    assert _ask(engine, _config(), Collector(stop_after=5)) == _ask(engine, _config())[:5]


def test_seed_alone_decides_what_is_drawn(engine: Engine) -> None:
    drawn = [_ask(engine, _config(top_p=1.0, seed=seed)) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


@pytest.mark.parametrize(
    "words",
    [{"e"}, {"te", "etba"}, {"the", "he"}, {"\n", '"', "\\", "é"}],
    ids=["letter", "overlap", "nested", "escapes"],
)
def test_bad_words_never_come(engine: Engine, tokenizer_dir: Path, words: set[str]) -> None:
    decoder = Decoder(tokenizer_dir, skip_special_tokens=True)
    texts = []
    for seed in range(5):
        config = Options(max_tokens=60, end_id=0, top_p=1.0, seed=seed).generation_config(words)
        texts.append(decoder.text(_ask(engine, config)))
    assert "".join(texts)
    assert not [text for text in texts for word in words if word in text]


def test_tokenizer_that_openvino_cannot_express_only_costs_bad_words(engine_dir: Path, tmp_path: Path) -> None:
    strange = Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
    strange.pre_tokenizer = pre_tokenizers.CharDelimiterSplit("-")
    PreTrainedTokenizerFast(tokenizer_object=strange, eos_token="a").save_pretrained(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer is None
    engine = Engine(_pipeline(engine_dir, tokenizer), max_queue_size=8, on_failure=lambda: None)
    assert len(_ask(engine, _config())) == 12
    engine.close()


def test_listener_that_leaves_frees_the_engine(engine: Engine) -> None:
    leaving = Collector(leave_after=3)
    engine.submit([Task(PROMPT, _config(max_tokens=100_000), leaving)])
    assert "cancelled" in str(leaving.wait().error)
    assert len(leaving.ids) < 1000


def test_full_engine_refuses_at_once(engine_dir: Path, tokenizer: genai.Tokenizer) -> None:
    engine = Engine(_pipeline(engine_dir, tokenizer), max_queue_size=2, on_failure=lambda: None)
    listeners = [Collector(), Collector()]
    engine.submit([Task(PROMPT, _config(max_tokens=100_000), listener) for listener in listeners])
    with pytest.raises(EngineFailure, match="full: 2"):
        engine.submit([Task(PROMPT, _config(), Collector())])
    engine.close()
    assert all("shutting down" in str(listener.wait().error) for listener in listeners)
    with pytest.raises(EngineFailure, match="shutting down"):
        engine.submit([Task(PROMPT, _config(), Collector())])


def test_request_that_outgrows_the_cache_fails_alone(engine_dir: Path, tokenizer: genai.Tokenizer) -> None:
    engine = Engine(_pipeline(engine_dir, tokenizer, blocks=4), max_queue_size=8, on_failure=lambda: None)
    greedy = Collector()
    engine.submit([Task(PROMPT, _config(max_tokens=10_000), greedy)])
    assert "KV cache" in str(greedy.wait().error)
    assert len(_ask(engine, _config())) == 12
    engine.close()


def test_broken_engine_fails_all_in_flight_and_says_so(engine_dir: Path, tokenizer: genai.Tokenizer) -> None:
    failed = threading.Event()
    engine = Engine(_pipeline(engine_dir, tokenizer), max_queue_size=8, on_failure=failed.set)
    innocent = Collector()
    engine.submit([Task(PROMPT, _config(max_tokens=100_000), innocent)])
    assert innocent.begun.wait(TIMEOUT_S)
    poison = _config()
    poison.structured_output_config = genai.StructuredOutputConfig(grammar="root :")
    guilty = Collector()
    engine.submit([Task(PROMPT, poison, guilty)])
    for listener in (innocent, guilty):
        assert "the engine failed" in str(listener.wait().error)
    assert failed.wait(TIMEOUT_S)
    with pytest.raises(EngineFailure, match="the engine failed"):
        engine.submit([Task(PROMPT, _config(), Collector())])
    engine.close()


def test_engine_config_is_read_from_the_engine(tmp_path: Path) -> None:
    fields = {"vocab_size": 7, "plugin_config": {"KV_CACHE_PRECISION": "f16"}, "more": 1}
    (tmp_path / "config.json").write_text(json.dumps(fields))
    assert EngineConfig.read(tmp_path) == EngineConfig(7, {"KV_CACHE_PRECISION": "f16"})


@pytest.mark.parametrize(
    ("asked", "capabilities", "used"),
    [("bf16", ["BF16", "FP32"], "bf16"), ("bf16", ["FP32"], "f32"), ("f32", ["BF16", "FP32"], "f32")],
)
def test_bfloat16_is_used_where_the_cpu_has_it(asked: str, capabilities: list[str], used: str) -> None:
    config = EngineConfig(7, {"INFERENCE_PRECISION_HINT": asked, "KV_CACHE_PRECISION": "u8"})
    assert config.properties(capabilities) == {"INFERENCE_PRECISION_HINT": used, "KV_CACHE_PRECISION": "u8"}


@pytest.mark.parametrize(("asked", "gib"), [(1, 1), (1 << 30, 1), ((1 << 30) + 1, 2)])
def test_cache_is_counted_in_whole_gib(asked: int, gib: int) -> None:
    capacity = Capacity(max_num_sequences=3, max_num_tokens=64, kv_cache_bytes=asked, reuse_kv_cache=True)
    config = capacity.scheduler_config()
    assert (config.cache_size, config.max_num_seqs, config.max_num_batched_tokens) == (gib, 3, 64)
    assert config.enable_prefix_caching
