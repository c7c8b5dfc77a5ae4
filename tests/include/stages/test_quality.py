# ruff: noqa: TID253
from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from include.errors import ToolError, UserError
from include.stages.quality import HeldOut, checkpoint_perplexity, perplexity, token_blocks, topics
from tests.support import tiny_models as tiny


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerBase:
    folder = tmp_path_factory.mktemp("tokenizer")
    tiny.save_tokenizer(folder)
    return AutoTokenizer.from_pretrained(folder)


def test_held_out_documents_are_not_calibrated_on() -> None:
    calibration, held_out = topics()
    assert len(calibration) > len(held_out) > 1
    assert not set(calibration) & set(held_out)


def test_blocks_hold_the_text_and_start_with_bos(tokenizer: PreTrainedTokenizerBase) -> None:
    blocks = token_blocks(tokenizer, ["one", "two", "three"], count=2, length=7)
    assert blocks[:, 0].tolist() == [tokenizer.bos_token_id] * 2
    assert tokenizer.decode(blocks[:, 1:].flatten()) == "one\n\ntwo\n\nth"


def test_blocks_stop_at_the_end_of_the_text(tokenizer: PreTrainedTokenizerBase) -> None:
    assert token_blocks(tokenizer, ["0123456789"], count=5, length=5).shape == (3, 5)
    assert token_blocks(tokenizer, [], count=5, length=5).shape == (0, 5)


def test_no_more_documents_are_read_than_needed(tokenizer: PreTrainedTokenizerBase) -> None:
    documents = iter(["x" * 40, "y" * 40, "z" * 40])
    token_blocks(tokenizer, documents, count=2, length=21)
    assert next(documents) == "y" * 40


def test_held_out_text_is_read_back(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    held_out = HeldOut.builtin(tokenizer, 64)
    held_out.save(tmp_path)
    loaded = HeldOut.load(tmp_path)
    assert loaded.text_sha256 == held_out.text_sha256
    assert torch.equal(loaded.blocks, held_out.blocks)
    assert loaded.blocks.shape == (8, 64)
    assert loaded.scored_tokens == 8 * 63


def test_a_checkpoint_without_held_out_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"held_out\.json"):
        HeldOut.load(tmp_path)


def test_perplexity_of_a_uniform_guess_is_the_vocabulary() -> None:
    blocks = tiny.small_blocks()
    assert perplexity(lambda ids: torch.zeros(ids.shape[1], 320), blocks) == pytest.approx(320)


def test_perplexity_of_a_perfect_guess_is_one() -> None:
    def oracle(ids: torch.Tensor) -> torch.Tensor:
        return 100 * torch.nn.functional.one_hot(ids[0].roll(-1), 320).float()

    assert perplexity(oracle, tiny.small_blocks()) == pytest.approx(1)


def test_no_sample_is_left_out() -> None:
    def broken(ids: torch.Tensor) -> torch.Tensor:
        wrong = float("nan") if torch.equal(ids[0], blocks[2]) else 0.0
        return torch.full((ids.shape[1], 320), wrong)

    blocks = tiny.small_blocks()
    with pytest.raises(ToolError, match="sample 2"):
        perplexity(broken, blocks)


@pytest.mark.parametrize(
    "text", ["{}", '{"quality": {}}', '{"quality": {"after": null}}', '{"quality": {"after": "x"}}']
)
def test_a_reference_without_a_perplexity_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "reference.json").write_text(text)
    with pytest.raises(UserError, match="tells no perplexity"):
        checkpoint_perplexity(tmp_path)
