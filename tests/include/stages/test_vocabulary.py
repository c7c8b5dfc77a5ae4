# ruff: noqa: TID253
"""Models with weights for more ids than there are tokens, calibrated and built."""

from __future__ import annotations

import json
from pathlib import Path

import openvino as ov
import openvino_genai as genai
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer

from include.model.generation import suppressed_ids
from include.stages.build_openvino.proof import PLUGIN_CONFIGS, Proof
from include.stages.build_openvino.stage import build
from include.stages.calibrate.loading import load_model
from include.stages.calibrate.parser import Options
from include.stages.calibrate.source import SourceModel
from include.stages.calibrate.stage import calibrate
from include.stages.checkpoint import Checkpoint
from include.stages.common import StageReport
from include.stages.vocabulary import Vocabulary, silenced
from tests.support import tiny_models as tiny

GAP = (255, *range(258, 310))
"""The ids without a token below the last one, once a byte's token has moved to 310."""


def _calibrated(model: Path, out: Path, tp_size: int = 1) -> Path:
    out.mkdir()
    calibrate(Options(model, out, group_size=16, calib_size=4, calib_seq_len=32, tp_size=tp_size), StageReport())
    return out


@pytest.fixture(scope="module")
def gap(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a model whose tokenizer has ids without a token between the others, and beyond."""
    folder = tmp_path_factory.mktemp("gap")
    path = tiny.save_model(folder / "model") / "tokenizer.json"
    fields = json.loads(path.read_text())
    byte = next(token for token, number in fields["model"]["vocab"].items() if number == 255)
    fields["model"]["vocab"][byte] = 310
    path.write_text(json.dumps(fields))
    return _calibrated(folder / "model", folder / "checkpoint")


@pytest.mark.parametrize("tp_size", [1, 2])
def test_a_checkpoint_has_no_weights_beyond_the_last_token(llama: Path, tmp_path: Path, tp_size: int) -> None:
    """TensorRT-LLM takes all ids below vocab_size for tokens, and wants the rows that a rank has of them."""
    out = _calibrated(llama, tmp_path / "out", tp_size)
    assert Checkpoint(out).config["vocab_size"] == 258
    for rank in range(tp_size):
        tensors = load_file(out / f"rank{rank}.safetensors")
        rows = {len(tensors[f"{name}.weight"]) for name in ("transformer.vocab_embedding", "lm_head")}
        assert rows == {258 // tp_size}
    assert suppressed_ids(out) == ()
    assert Checkpoint(out).model(torch.float32)(torch.tensor([[1, 2]])).logits.shape[-1] == 258


def test_an_odd_number_of_tokens_is_shared_by_ranks(llama: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(llama)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<pad>"]})
    tokenizer.save_pretrained(llama)
    out = _calibrated(llama, tmp_path / "out", 2)
    assert Checkpoint(out).config["vocab_size"] == 259
    assert {len(load_file(out / f"rank{rank}.safetensors")["lm_head.weight"]) for rank in (0, 1)} == {130}
    assert Checkpoint(out).model(torch.float32)(torch.tensor([[1, 2]])).logits.shape[-1] == 259


def test_a_checkpoint_names_the_ids_without_a_token(gap: Path) -> None:
    assert Checkpoint(gap).config["vocab_size"] == 311
    assert suppressed_ids(gap) == GAP


def test_no_answer_of_the_reference_has_an_id_without_a_token(gap: Path) -> None:
    continuations = json.loads((gap / "reference.json").read_text())["continuations"]
    said = {token for one in continuations for token in one["before_ids"] + one["after_ids"]}
    assert said
    assert said.isdisjoint(GAP)


def test_the_engine_draws_no_id_without_a_token(gap: Path, tmp_path: Path) -> None:
    build(gap, tmp_path, "exact", StageReport())
    proof = Proof(**json.loads((tmp_path / "config.json").read_text())["proof"])
    assert proof.engine_perplexity == pytest.approx(proof.torch_perplexity, rel=0.005)
    pipeline = genai.ContinuousBatchingPipeline(str(tmp_path), genai.SchedulerConfig(), "CPU", PLUGIN_CONFIGS["exact"])
    config = genai.GenerationConfig(max_new_tokens=100, do_sample=True, temperature=5.0, ignore_eos=True)
    prompts = [ov.Tensor(torch.tensor([[number]]).numpy()) for number in range(20)]
    drawn = [token for found in pipeline.generate(prompts, [config] * 20) for token in found.m_generation_ids[0]]
    assert len(drawn) == 2000
    assert set(drawn).isdisjoint(GAP)
    # With so high a temperature all others are drawn about as often: nothing but the mask keeps these away.
    assert len(set(drawn)) > 200


def test_a_silenced_model_is_itself_again_afterwards(llama: Path) -> None:
    model, ids = load_model(SourceModel.read(llama), "cpu", torch.float32), torch.tensor([[5, 6, 7]])
    before = model(ids).logits
    with silenced(model, [3]):
        assert model(ids).logits.softmax(-1)[..., 3].max() == 0
    assert torch.equal(model(ids).logits, before)
    assert {name for name, _ in model.named_parameters()} & {"lm_head.bias"} == set()


def test_an_end_token_that_the_tokenizer_does_not_know_stays(llama: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(llama)
    assert Vocabulary.of(tokenizer, 320, [300]) == Vocabulary(301, tuple(range(258, 300)))
    assert Vocabulary.of(tokenizer, 320, [400]) == Vocabulary(258)


@pytest.mark.parametrize("tied", [False, True], ids=["two matrices", "one matrix"])
def test_the_weights_of_the_tokens_stay_as_they_are(tmp_path: Path, tied: bool) -> None:
    source = SourceModel.read(tiny.save_model(tmp_path / "model", tie_word_embeddings=tied))
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        expected = load_model(source, "cpu", torch.float32)(ids).logits[..., :258]
        cut = Vocabulary(258).cut(load_model(source, "cpu", torch.float32))
        torch.testing.assert_close(cut(ids).logits, expected)
    assert (cut.get_output_embeddings().weight is cut.get_input_embeddings().weight) is tied
    assert cut.config.vocab_size == 258
