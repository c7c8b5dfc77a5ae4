# ruff: noqa: TID253
from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from include.errors import HostError, UserError
from include.stages.calibrate.loading import compute_dtype, load_model, load_tokenizer
from include.stages.calibrate.reference import as_prompt, end_ids, greedy, prompts
from include.stages.calibrate.source import SourceModel
from include.stages.calibrate.stage import Subject
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


def test_what_only_transformers_reads_is_the_users_matter(llama: Path) -> None:
    tiny.change_config(llama, hidden_act="evil")
    with pytest.raises(UserError, match="transformers cannot load the model"):
        load_model(SourceModel.read(llama), "cpu", torch.float32)


def test_weights_that_transformers_does_not_find_are_not_made_up(llama: Path) -> None:
    source = SourceModel.read(llama)
    tensors = tiny.weights(llama)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, llama / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="finds no weights for model.layers.1.mlp.up_proj.weight"):
        load_model(source, "cpu", torch.float32)


def greedy_of(folder: Path) -> list[int]:
    subject = Subject.read(folder, "cpu")
    model = subject.load("cpu", torch.float32)
    assert end_ids(model, subject.tokenizer) == [257]
    return greedy(model, subject.tokenizer, [as_prompt(subject.tokenizer, "Hello", chat=False)], 12)[0].ids


@pytest.mark.parametrize(
    ("generation", "changes"),
    [
        # Qwen 2.5's has a penalty; engines are asked without one.
        pytest.param({"eos_token_id": 257, "repetition_penalty": 9.0, "no_repeat_ngram_size": 1}, {}, id="penalties"),
        pytest.param({"eos_token_id": 257, "bad_words_ids": [[47]], "forced_eos_token_id": 3}, {}, id="bans"),
        pytest.param({"eos_token_id": [257], "num_beams": 4, "num_return_sequences": 2}, {}, id="beams"),
        pytest.param({"eos_token_id": 257, "stop_strings": ["a"], "cache_implementation": "none"}, {}, id="unusable"),
        pytest.param({}, {"eos_token_id": 257}, id="an end token in config.json"),
        pytest.param({"eos_token_id": 257}, {"pad_token_id": 10**6}, id="padding beyond the vocabulary"),
        pytest.param({"eos_token_id": 257}, {"pad_token_id": 310}, id="padding that is no token"),
    ],
)
def test_greedy_answers_are_of_the_weights_and_the_end_tokens_alone(
    llama: Path, generation: dict[str, object], changes: dict[str, object]
) -> None:
    expected = greedy_of(llama)
    assert len(expected) == 12
    (llama / "generation_config.json").write_text(json.dumps(generation))
    tiny.change_config(llama, **changes)
    assert greedy_of(llama) == expected


def with_token(folder: Path, token: str, **named: object) -> None:
    """Adds a token to the tokenizer of a model that has weights for the tokens before."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_special_tokens([*(f"<|{n}|>" for n in range(258, 320)), token])
    tokenizer.save(str(folder / "tokenizer.json"))
    path = folder / "tokenizer_config.json"
    fields = json.loads(path.read_text())
    fields["added_tokens_decoder"]["320"] = {"content": token, "special": True}
    path.write_text(json.dumps(fields | named))


@pytest.mark.parametrize("named", [{"pad_token": "[PAD]"}, {"additional_special_tokens": ["[PAD]"]}], ids=str)
def test_a_token_that_the_model_has_no_weights_for_is_text(llama: Path, named: dict[str, object]) -> None:
    before = Subject.read(llama, "cpu").tokenizer("a[PAD]b")["input_ids"]
    with_token(llama, "[PAD]", **named)
    tokenizer = Subject.read(llama, "cpu").tokenizer
    tokenizer.save_pretrained(llama / "saved")
    for read in (tokenizer, AutoTokenizer.from_pretrained(llama / "saved")):
        assert read("a[PAD]b")["input_ids"] == before
        assert max(read.get_vocab().values()) == 319


@pytest.mark.parametrize(
    "named",
    [{"eos_token": "<|im_end|>"}, {"chat_template": "{{ messages[0].content }}<|im_end|>"}],
    ids=["end", "chat"],
)
def test_one_that_prompts_or_answers_need_is_refused(llama: Path, named: dict[str, object]) -> None:
    (llama / "chat_template.jinja").unlink(missing_ok=True)
    with_token(llama, "<|im_end|>", **named)
    with pytest.raises(UserError, match=r"'<\|im_end\|>' of the tokenizer has the id 320, the model has 320") as caught:
        SourceModel.read(llama)
    assert "resize_token_embeddings" in caught.value.fix


@pytest.mark.parametrize(
    "named",
    [{"pad_token": "<p>"}, {"unk_token": "<p>"}, {"bos_token": "<p>"}, {"additional_special_tokens": ["<p>"]}],
    ids=str,
)
def test_a_token_that_only_a_setting_names_is_none(llama: Path, named: dict[str, object]) -> None:
    path = llama / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | named))
    subject = Subject.read(llama, "cpu")
    assert subject.vocabulary.size == 258
    assert "<p>" not in subject.tokenizer.get_vocab()


def test_a_template_that_makes_nothing_leaves_the_texts(llama: Path) -> None:
    (llama / "chat_template.jinja").write_text("{# nothing #}")
    subject = Subject.read(llama, "cpu")
    assert not any(prompt.chat for prompt in prompts(subject.tokenizer, subject.held_out))


@pytest.mark.parametrize("name", ["LlamaTokenizer", "LlamaTokenizerFast", "GemmaTokenizerFast"])
def test_no_prompt_ends_with_the_end_token(llama: Path, name: str) -> None:
    path = llama / "tokenizer_config.json"
    fields = {"tokenizer_class": name, "add_bos_token": True, "add_eos_token": True}
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    assert AutoTokenizer.from_pretrained(llama)("Hello")["input_ids"][-1] == 257
    ids = load_tokenizer(llama)("Hello")["input_ids"]
    assert (ids[0], ids[-1] == 257) == (256, False)
