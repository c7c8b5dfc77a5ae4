# ruff: noqa: TID253
"""Tokenizers without a tokenizer.json, and those that transformers converts anew although there is one."""

from __future__ import annotations

import base64
import importlib.util
import json
import shutil
import sys
from pathlib import Path
from pydoc_data.topics import topics
from types import ModuleType
from typing import Any

import pytest
import sentencepiece
import tiktoken
from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from include.errors import UserError
from include.stages.calibrate.loading import load_tokenizer
from include.stages.calibrate.reference import prompts
from include.stages.quality import HeldOut

TEXTS = ("How do I count to nine in French?", "a\n  b\t c", "naïve café 日本語 😀 — “quoted”", " two  spaces", "x")
MERGED = ("th", "the", " t", " th", " the", "in", "ing", " c", "co", "ou", "un", "unt", " co", "er", "é")
RANKS = {token: rank for rank, token in enumerate([bytes([b]) for b in range(256)] + [m.encode() for m in MERGED])}
SPECIAL = ("<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>")
# That of Llama 3, which transformers takes for all lists of tokens.
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
NAMED = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
LLAMA = {"tokenizer_class": "LlamaTokenizer", **NAMED}
FORMS: dict[str, dict[str, Any]] = {
    "Llama 2": {**LLAMA, "legacy": False, "add_bos_token": True},
    "Yi": {**LLAMA, "legacy": True, "add_bos_token": False, "add_prefix_space": True},
    "Mistral": {**LLAMA, "tokenizer_class": "LlamaTokenizerFast", "legacy": False, "add_prefix_space": True},
    "without a space": {**LLAMA, "legacy": False, "add_prefix_space": False},
    "no settings": {},
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sentencepiece")
    (folder / "text.txt").write_text("\n".join("\n".join(topics.values()).splitlines()[:1000]))
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "text.txt"),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=600,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    return folder / "tokenizer.model"


def write(folder: Path, settings: dict[str, Any]) -> Path:
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}))
    return folder


@pytest.fixture(params=FORMS.values(), ids=FORMS)
def model(request: pytest.FixtureRequest, trained: Path, tmp_path: Path) -> Path:
    shutil.copy(trained, tmp_path / "tokenizer.model")
    return write(tmp_path, request.param)


def list_of_tokens(folder: Path, tokenizer_class: str | None = "PreTrainedTokenizerFast", **more: Any) -> Path:
    lines = (base64.b64encode(token) + b" %d\n" % rank for token, rank in RANKS.items())
    (folder / "tokenizer.model").write_bytes(b"".join(lines))
    added = {str(len(RANKS) + i): {"content": name, "special": True} for i, name in enumerate(SPECIAL)}
    named = {"bos_token": SPECIAL[0], "eos_token": SPECIAL[2], "tokenizer_class": tokenizer_class}
    return write(folder, {**named, "added_tokens_decoder": added, **more})


def test_sentencepiece_alone_gives_the_tokens_of_transformers(model: Path, tmp_path: Path) -> None:
    own, ours = AutoTokenizer.from_pretrained(model), load_tokenizer(model)
    assert type(ours) is PreTrainedTokenizerFast
    for text in TEXTS:
        assert ours(text)["input_ids"] == own(text)["input_ids"]
        assert ours(text, add_special_tokens=False)["input_ids"] == own(text, add_special_tokens=False)["input_ids"]
    assert (ours.bos_token_id, ours.eos_token_id) == (1, 2)


def test_sentencepiece_alone_gives_the_tokens_of_sentencepiece(trained: Path, tmp_path: Path) -> None:
    shutil.copy(trained, tmp_path / "tokenizer.model")
    ours = load_tokenizer(write(tmp_path, FORMS["Yi"]))
    theirs = sentencepiece.SentencePieceProcessor(str(trained))
    for text in TEXTS:
        assert ours(text)["input_ids"] == theirs.encode(text)
        assert ours.decode(theirs.encode(text)) == text


@pytest.mark.parametrize("tokenizer_class", ["PreTrainedTokenizerFast", "LlamaTokenizer"])
def test_a_list_of_tokens_alone_gives_the_tokens_of_tiktoken(
    tmp_path: Path, tokenizer_class: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", "")
    ours = load_tokenizer(list_of_tokens(tmp_path, tokenizer_class))
    theirs = tiktoken.Encoding("theirs", pat_str=PATTERN, mergeable_ranks=RANKS, special_tokens={})
    for text in TEXTS:
        assert ours(text, add_special_tokens=False)["input_ids"] == theirs.encode(text)
        assert ours.decode(theirs.encode(text)) == text
    assert ours.convert_tokens_to_ids(list(SPECIAL)) == [len(RANKS), len(RANKS) + 1, len(RANKS) + 2]
    assert ours.eos_token_id == len(RANKS) + 2


def test_a_token_with_another_id_than_the_model_learned_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", "")
    folder = list_of_tokens(tmp_path)
    path = folder / "tokenizer_config.json"
    path.write_text(path.read_text().replace(f'"{len(RANKS)}"', f'"{len(RANKS) + 100}"'))
    with pytest.raises(UserError, match="begin_of_text.*gets the id .*by tokenizer_config.json it has 371"):
        load_tokenizer(folder)


def test_a_class_that_nobody_knows_is_read_by_its_tokenizer_json(model: Path, tmp_path: Path) -> None:
    saved = tmp_path / "saved"
    load_tokenizer(model).save_pretrained(saved)
    write(saved, {"tokenizer_class": "MyTokenizer", "auto_map": {"AutoTokenizer": ["my.My", None]}, **NAMED})
    for text in TEXTS:
        assert load_tokenizer(saved)(text)["input_ids"] == load_tokenizer(model)(text)["input_ids"]


def test_what_serves_needs_nothing_but_the_tokenizer_json(model: Path, tmp_path: Path) -> None:
    ours, saved = load_tokenizer(model), tmp_path / "saved"
    ours.save_pretrained(saved)
    assert not (saved / "tokenizer.model").exists()
    for served in (AutoTokenizer.from_pretrained(saved), AutoTokenizer.from_pretrained(saved, legacy=False)):
        assert type(served) is PreTrainedTokenizerFast
        decoder = Tokenizer.from_file(str(saved / "tokenizer.json"))
        for text in TEXTS:
            ids = ours(text)["input_ids"]
            assert served(text)["input_ids"] == ids
            assert decoder.decode(ids, skip_special_tokens=True) == ours.decode(ids, skip_special_tokens=True)


def test_reference_and_endpoint_ask_and_answer_in_the_same_tokens(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Preprocessing and postprocessing of target openvino, by what the calibrate program saves."""
    ours, saved = load_tokenizer(model), tmp_path / "saved"
    ours.chat_template = "{% for m in messages %}[{{ m.content }}]{% endfor %}"
    ours.save_pretrained(saved)
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", ModuleType("triton_python_backend_utils"))
    asks, answers = (_loaded(name, saved, monkeypatch) for name in ("preprocessing", "postprocessing"))
    for prompt in prompts(ours, HeldOut.builtin(ours, 256)):
        asked = asks._prompt(prompt.text, raw=False) if prompt.chat else asks._encode(prompt.text, special=True)
        assert asked == prompt.ids
        assert answers._decode(prompt.ids) == ours.decode(prompt.ids, skip_special_tokens=True)


def _loaded(name: str, tokenizer: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    values = {
        "tokenizer_dir": str(tokenizer),
        "add_special_tokens": "true",
        "skip_special_tokens": "true",
        "apply_chat_template": "true",
        "max_input_len": "256",
        "max_seq_len": "512",
        "end_ids": "2",
    }
    file = Path(__file__).parents[4] / "include/targets/openvino/repository" / name / "1" / "model.py"
    spec = importlib.util.spec_from_file_location(f"served_{name}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    loaded = module.TritonPythonModel()
    parameters = {key: {"string_value": value} for key, value in values.items()}
    loaded.initialize({"model_config": json.dumps({"parameters": parameters})})
    return loaded
