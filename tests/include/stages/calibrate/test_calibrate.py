# ruff: noqa: TID253
"""The calibrate program as the runners start it, but in this process."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoTokenizer

from include.model.generation import end_ids
from include.stages.calibrate.__main__ import main
from include.stages.checkpoint import Checkpoint
from include.stages.quality import HeldOut, perplexity
from tests.support import tiny_models as tiny

Run = Callable[..., tuple[int, Path]]
FLAGS = {
    "--group-size": "16",
    "--calib-size": "4",
    "--calib-seq-len": "32",
    "--calib-data": "builtin",
    "--tp-size": "1",
    "--dtype": "float16",
}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    def calibrate(model: Path, **changes: str) -> tuple[int, Path]:
        out = tmp_path / "out"
        out.mkdir()
        flags = FLAGS | {f"--{name.replace('_', '-')}": value for name, value in changes.items()}
        argv = ["calibrate", "--model", str(model), "--out", str(out)]
        monkeypatch.setattr(sys, "argv", argv + [word for pair in flags.items() for word in pair])
        return main(), out

    return calibrate


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def test_writes_checkpoint_tokenizer_and_reference(llama: Path, run: Run) -> None:
    code, out = run(llama)
    assert code == 0
    names = {path.name for path in out.iterdir()}
    assert names == {
        "config.json",
        "source_config.json",
        "rank0.safetensors",
        "tokenizer",
        "reference.json",
        "held_out.json",
        "generation_config.json",
        "stage.json",
    }
    prompt = "How do I count to nine in French?"
    original, copy = AutoTokenizer.from_pretrained(llama), AutoTokenizer.from_pretrained(out / "tokenizer")
    assert original(prompt)["input_ids"] == copy(prompt)["input_ids"]
    _check_reference(_json(out / "reference.json"), out, prompt)
    _check_report(_json(out / "stage.json"))


def _check_reference(reference: dict[str, Any], out: Path, prompt: str) -> None:
    held_out, model = HeldOut.load(out), Checkpoint(out).model(torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(out / "tokenizer")
    with torch.no_grad():
        score = perplexity(lambda ids: model(ids).logits[0], held_out.blocks)
    quality = reference["quality"]
    assert quality["after"] == pytest.approx(score, rel=0.02)
    assert quality["before"] != quality["after"]
    assert (quality["samples"], quality["tokens"]) == (8, 8 * 255)
    raw, chat = (next(c for c in reference["continuations"] if c["chat"] is form) for form in (False, True))
    assert raw["prompt"] == chat["prompt"] == prompt
    assert raw["prompt_ids"] != chat["prompt_ids"]
    # The template's BOS token is not doubled.
    assert chat["prompt_ids"].count(256) == 1
    for continuation in reference["continuations"]:
        assert 257 not in continuation["after_ids"]
        assert len(continuation["before_ids"]) > 0
    cut = [c for c in reference["continuations"] if not c["after_ended"]]
    assert {len(c["after_ids"]) for c in cut} <= {32, 256 - len(chat["prompt_ids"])}
    *contexts, turn = [c["prompt"] for c in reference["continuations"] if not c["chat"]][3:]
    samples = [tokenizer.decode(block, skip_special_tokens=True) for block in held_out.blocks[:4]]
    # The question's turn as a text, to which the tokenizer adds the BOS token.
    assert turn == f"[{prompt}]"
    assert [sample.startswith(context) for context, sample in zip(contexts, samples, strict=True)] == [True] * 4


def _check_report(report: dict[str, Any]) -> None:
    assert set(report["timings_s"]) >= {"check", "load", "measure before", "search", "export", "measure after"}
    assert report["versions"]["modelopt"].startswith("0.37")
    assert report["results"]["calibration_tokens"] == 4 * 32
    assert report["results"]["batch_size"] == 4
    assert len(report["results"]["calibration_data_sha256"]) == 64


def test_greedy_answers_are_those_of_one_prompt_alone(llama: Path, run: Run) -> None:
    out = run(llama, dtype="float32")[1]
    model = Checkpoint(out).model(torch.float32)
    for continuation in _json(out / "reference.json")["continuations"]:
        ids = torch.tensor([continuation["prompt_ids"]])
        length = len(continuation["after_ids"]) + continuation["after_ended"]
        answer = model.generate(ids, max_new_tokens=length, do_sample=False, eos_token_id=257, pad_token_id=257)
        expected = [token for token in answer[0, ids.shape[1] :].tolist() if token != 257]
        assert continuation["after_ids"] == expected


def test_no_token_but_the_models_own_ends_an_answer(llama: Path, run: Run) -> None:
    """Token 2 ends an answer where transformers' own defaults for Llama do; in many vocabularies it is a mark."""
    tensors = tiny.weights(llama)
    head = tensors["lm_head.weight"]
    says = head[2].clone()
    head[:] = 0
    head[2], head[3] = says, -says
    save_file(tensors, llama / "model.safetensors", metadata={"format": "pt"})
    continuations = _json(run(llama)[1] / "reference.json")["continuations"]
    assert 2 in {token for continuation in continuations for token in continuation["after_ids"]}
    assert not any(continuation["after_ended"] for continuation in continuations)


def test_each_end_token_of_the_generation_config_ends_an_answer(llama: Path, run: Run) -> None:
    """Llama 3 and Qwen 2.5 list several; the tokenizer's own is one of them, another one, or none."""
    tensors = tiny.weights(llama)
    head = tensors["lm_head.weight"]
    says = head[2].clone()
    head[:] = 0
    head[2], head[3] = says, -says
    save_file(tensors, llama / "model.safetensors", metadata={"format": "pt"})
    (llama / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 300]}))
    out = run(llama)[1]
    continuations = _json(out / "reference.json")["continuations"]
    assert any(continuation["after_ended"] for continuation in continuations)
    assert 2 not in {token for continuation in continuations for token in continuation["after_ids"]}
    assert end_ids(out) == (2, 257, 300)


@pytest.mark.parametrize("chat", [False, True], ids=["raw", "chat"])
def test_in_each_form_an_answer_that_should_end_is_long_enough_to(llama: Path, run: Run, chat: bool) -> None:
    """An endpoint is asked in one form only. This model never ends an answer."""
    tensors = tiny.weights(llama)
    tensors["lm_head.weight"][257] = 0
    save_file(tensors, llama / "model.safetensors", metadata={"format": "pt"})
    continuations = [c for c in _json(run(llama)[1] / "reference.json")["continuations"] if c["chat"] is chat]
    lengths = [len(one["after_ids"]) for one in continuations]
    assert sorted(lengths)[:-1] == [32] * (len(lengths) - 1)
    assert max(lengths) == 256 - len(continuations[lengths.index(max(lengths))]["prompt_ids"])


def test_a_tokenizer_without_an_end_token_gets_the_checkpoints(llama: Path, run: Run) -> None:
    """NVIDIA's preprocessing does not load without one."""
    path = llama / "tokenizer_config.json"
    fields = _json(path)
    del fields["eos_token"]
    path.write_text(json.dumps(fields))
    (llama / "special_tokens_map.json").unlink(missing_ok=True)
    out = run(llama)[1]
    assert end_ids(out) == (257,)
    assert AutoTokenizer.from_pretrained(out / "tokenizer").eos_token_id == 257


def _no_safetensors(model: Path) -> None:
    (model / "model.safetensors").unlink()


def _cut_safetensors(model: Path) -> None:
    path = model / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def _other_architecture(model: Path) -> None:
    tiny.change_config(model, architectures=["FalconForCausalLM"])


def _small_vocabulary(model: Path) -> None:
    tiny.change_config(model, vocab_size=64)


def _nothing(_: Path) -> None: ...


@pytest.mark.parametrize(
    ("damage", "flags", "where"),
    [
        pytest.param(_other_architecture, {}, "field model", id="architecture"),
        pytest.param(_no_safetensors, {}, "field model", id="no safetensors"),
        pytest.param(_cut_safetensors, {}, "model.safetensors", id="cut safetensors"),
        pytest.param(_small_vocabulary, {}, "field model", id="tokenizer of another model"),
        pytest.param(shutil.rmtree, {}, "field model", id="no model"),
        pytest.param(_nothing, {"group_size": "64"}, "field awq_group_size", id="group size"),
        pytest.param(_nothing, {"group_size": "32", "tp_size": "2"}, "field awq_group_size", id="ranks"),
        pytest.param(_nothing, {"tp_size": "3"}, "field tp_size", id="heads"),
        pytest.param(_nothing, {"calib_seq_len": "512"}, "field calib_seq_len", id="sequence length"),
        pytest.param(_nothing, {"calib_data": "/nowhere.txt"}, "field calib_data", id="no data"),
        pytest.param(_nothing, {"calib_size": "100000"}, "field calib_data", id="too little data"),
    ],
)
def test_a_refusal_names_the_field_and_leaves_nothing_else(
    llama: Path, run: Run, damage: Callable[[Path], None], flags: dict[str, str], where: str
) -> None:
    damage(llama)
    code, out = run(llama, **flags)
    assert code == 64
    assert [path.name for path in out.iterdir()] == ["failure.json"]
    failure = _json(out / "failure.json")
    assert failure["class"] == "UserError"
    assert where in failure["where"]


def test_out_of_memory_after_the_search_is_a_host_error(llama: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 96.00 MiB")

    monkeypatch.setattr("include.stages.calibrate.stage.export", fail)
    code, out = run(llama)
    assert code == 69
    failure = _json(out / "failure.json")
    assert failure["class"] == "HostError"
    assert "Tried to allocate 96.00 MiB" in failure["what"]
