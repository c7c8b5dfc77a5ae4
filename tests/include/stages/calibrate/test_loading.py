# ruff: noqa: TID253
from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from include.errors import HostError, UserError
from include.stages.calibrate.loading import compute_dtype, load_model, load_tokenizer
from include.stages.calibrate.source import SourceModel
from tests.support import tiny_models as tiny


def test_a_config_of_transformers_5_keeps_its_rotary_base(llama: Path) -> None:
    before = load_model(SourceModel.read(llama), "cpu", torch.float32).model.rotary_emb.inv_freq
    parameters = {"rope_theta": 50000.0, "rope_type": "default"}
    tiny.change_config(llama, rope_theta=None, rope_parameters=parameters)
    after = load_model(SourceModel.read(llama), "cpu", torch.float32).model.rotary_emb.inv_freq
    assert torch.equal(before, after)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this host has a GPU")
def test_says_that_there_is_no_gpu(llama: Path) -> None:
    with pytest.raises(HostError, match="no GPU"):
        load_model(SourceModel.read(llama), "cuda", torch.float16)


@pytest.mark.parametrize("damage", ["missing", "cut off"])
def test_refuses_a_directory_without_a_tokenizer(llama: Path, damage: str) -> None:
    for path in llama.glob("*token*"):
        path.unlink() if damage == "missing" else path.write_text("{")
    with pytest.raises(UserError, match="tokenizer cannot be read"):
        load_tokenizer(llama)


def test_the_tokenizer_decodes_as_servers_do(llama: Path, tmp_path: Path) -> None:
    """Llama 3's repositories ask for a clean-up, which would make "a ?" of an answer "a?"."""
    path = llama / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"clean_up_tokenization_spaces": True}))
    text, tokenizer = "Is it so ? 'tis n't , no .", load_tokenizer(llama)
    tokenizer.save_pretrained(tmp_path / "saved")
    for one in (tokenizer, AutoTokenizer.from_pretrained(tmp_path / "saved")):
        assert one.decode(one(text)["input_ids"], skip_special_tokens=True) == text


@pytest.mark.parametrize(
    ("device", "dtype", "expected"),
    [
        ("cuda", "float16", {torch.float16}),
        ("cuda", "bfloat16", {torch.bfloat16}),
        ("cpu", "float32", {torch.float32}),
        ("cpu", "float16", {torch.bfloat16, torch.float32}),
    ],
)
def test_compute_dtype(device: str, dtype: str, expected: set[torch.dtype]) -> None:
    assert compute_dtype(device, dtype) in expected


def test_old_rotary_scaling_is_read_under_its_new_name(llama: Path) -> None:
    tiny.change_config(llama, rope_scaling={"type": "linear", "factor": 2.0})
    source = SourceModel.read(llama)
    assert source.config.rope_scaling == {"rope_type": "linear", "factor": 2.0}
    assert load_model(source, "cpu", torch.float32).model.rotary_emb.rope_type == "linear"


@pytest.mark.parametrize(
    "changes",
    [
        {"tokenizer_class": "TokenizersBackend", "backend": "tokenizers"},
        {"extra_special_tokens": ["<one>", "<two>"]},
        {"tokenizer_class": "TokenizersBackend", "eos_token": {"content": "</s>", "special": True}},
    ],
    ids=["class", "extra special tokens", "token as an object"],
)
def test_a_tokenizer_of_transformers_5_is_read(llama: Path, changes: dict[str, object]) -> None:
    text = "a text with <s> tokens </s>"
    before = load_tokenizer(llama)
    path = llama / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    after = load_tokenizer(llama)
    assert after(text)["input_ids"] == before(text)["input_ids"]
    assert (after.bos_token_id, after.eos_token_id) == (256, 257)
    assert after.chat_template == before.chat_template


@pytest.mark.parametrize(
    ("name", "content"),
    [
        pytest.param("tokenizer.json", b"{}", id="no fields"),
        pytest.param("tokenizer.json", b'{"model": {"type": "BPE", "vocab": {"a": -1}, "merges": []}}', id="token -1"),
        pytest.param("tokenizer_config.json", b"[]", id="a list"),
        pytest.param("tokenizer_config.json", b'{"eos_token": 5}', id="number for a token"),
        pytest.param("tokenizer_config.json", b'{"added_tokens_decoder": [1]}', id="list for added tokens"),
        pytest.param("tokenizer_config.json", b'{"padding_side": "up"}', id="padding upwards"),
        pytest.param("tokenizer_config.json", b'{"a":' * 100_000, id="deep"),
    ],
)
def test_a_hostile_tokenizer_is_the_users_matter(llama: Path, name: str, content: bytes) -> None:
    (llama / name).write_bytes(content)
    with pytest.raises(UserError, match="tokenizer cannot be read"):
        load_tokenizer(llama)


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"hidden_act": "evil"}, id="unknown activation"),
        pytest.param({"pad_token_id": 10**6}, id="padding beyond the vocabulary"),
    ],
)
def test_what_only_transformers_reads_is_the_users_matter(llama: Path, fields: dict[str, object]) -> None:
    tiny.change_config(llama, **fields)
    with pytest.raises(UserError, match="transformers cannot load the model"):
        load_model(SourceModel.read(llama), "cpu", torch.float32)
