# ruff: noqa: TID253
"""The model before quantization, measured once for many calibrations."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from include.stages.calibrate import __main__, original
from include.stages.calibrate.reference import as_prompt
from include.stages.calibrate.stage import Subject
from tests.support import tiny_models as tiny

TASKS = (
    {"prompt": "How many days has a week?", "expected": "7", "max_tokens": 3},
    {"prompt": "Hi", "expected": "a|b", "judge": "regex", "max_tokens": 9},
    {"prompt": "x" * 400, "expected": "x"},
)
SMALL = {"--group-size": "16", "--calib-size": "4", "--calib-seq-len": "32"}


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    def program(main: Callable[[], int], model: Path, out: Path, **flags: object) -> int:
        out.mkdir()
        words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
        monkeypatch.setattr(sys, "argv", ["program", "--model", str(model), "--out", str(out), *words])
        return main()

    return program


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    path = tmp_path / "tasks.jsonl"
    path.write_text("\n".join(map(json.dumps, TASKS)))
    return path


def _json(path: Path) -> Any:
    return json.loads(path.read_text())


@pytest.mark.parametrize("chat", ["auto", "off"])
def test_each_task_has_the_models_own_greedy_answer(
    llama: Path, run: Callable[..., int], tmp_path: Path, tasks: Path, chat: str
) -> None:
    assert run(original.main, llama, tmp_path / "out", tasks=tasks, chat=chat) == 0
    answered = _json(tmp_path / "out" / "tasks.json")["tasks"]
    assert [one["prompt"] for one in answered] == [task["prompt"] for task in TASKS]
    assert [one["judge"] for one in answered] == ["contains", "regex", "contains"]
    assert answered[2]["original"] is None, "it is longer than the model's 256 positions"
    subject = Subject.read(llama, "cpu")
    tokenizer, model = subject.tokenizer, subject.load("cpu", torch.float32)
    never = {"suppress_tokens": list(subject.vocabulary.missing) or None}
    for one, task in zip(answered[:2], TASKS, strict=False):
        messages = [{"role": "user", "content": task["prompt"]}]
        ids = (
            tokenizer.apply_chat_template(messages, add_generation_prompt=True)
            if chat == "auto"
            else tokenizer(task["prompt"])["input_ids"]
        )
        length = int(task["max_tokens"])
        answer = model.generate(
            torch.tensor([ids]), max_new_tokens=length, do_sample=False, eos_token_id=257, pad_token_id=257, **never
        )
        assert (one["prompt_tokens"], one["chat"]) == (len(ids), chat == "auto")
        assert one["original"] == tokenizer.decode(answer[0, len(ids) :], skip_special_tokens=True)


def test_a_calibration_takes_the_measurement_instead_of_making_it(
    llama: Path, run: Callable[..., int], tmp_path: Path
) -> None:
    assert run(original.main, llama, tmp_path / "original") == 0
    assert _json(tmp_path / "original" / "tasks.json") == {"tasks": []}
    before = tmp_path / "original" / "before.json"
    known = _json(before)
    before.write_text(json.dumps(known | {"perplexity": 4321.0}))
    flags = {name.removeprefix("--"): value for name, value in SMALL.items()}
    assert run(__main__.main, llama, tmp_path / "out", **flags, original=tmp_path / "original") == 0
    reference = _json(tmp_path / "out" / "reference.json")
    assert reference["quality"]["before"] == 4321
    assert [one["before_ids"] for one in reference["continuations"]] == [one["ids"] for one in known["answers"]]


@pytest.mark.parametrize(
    ("content", "what"),
    [("{", "no task"), ('{"prompt": "p"}', "field expected"), ("", "has no task")],
    ids=["no JSON", "no answer", "empty"],
)
def test_tasks_that_cannot_be_read_are_refused_and_leave_nothing_else(
    llama: Path, run: Callable[..., int], tmp_path: Path, tasks: Path, content: str, what: str
) -> None:
    tasks.write_text(content)
    assert run(original.main, llama, tmp_path / "out", tasks=tasks) == 64
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["failure.json"]
    assert what in _json(tmp_path / "out" / "failure.json")["what"]


def test_a_tokenizer_of_another_model_is_refused_before_any_weight_is_loaded(
    llama: Path, run: Callable[..., int], tmp_path: Path
) -> None:
    tiny.change_config(llama, vocab_size=64)
    assert run(original.main, llama, tmp_path / "out") == 64
    assert "field model" in _json(tmp_path / "out" / "failure.json")["where"]
    assert AutoTokenizer.from_pretrained(llama)


@pytest.mark.parametrize(
    "program",
    [
        ("include.stages.calibrate", "--group-size", "32", "--calib-seq-len", "64"),
        ("include.stages.calibrate.original",),
    ],
)
def test_a_targets_own_folder_of_packages_comes_before_its_environment(
    program: tuple[str, ...], llama: Path, tmp_path: Path
) -> None:
    """Both sides of a comparison are computed by the same versions."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "transformers.py").write_text("raise SystemExit('those of the folder')")
    (tmp_path / "out").mkdir()
    words = (sys.executable, "-m", *program, "--model", llama, "--out", tmp_path / "out")
    done = subprocess.run(words, env={**os.environ, "HF2TRITON_SITE": str(site)}, capture_output=True, text=True)
    assert "those of the folder" in done.stderr, done.stderr


def test_a_chat_prompt_is_a_list_of_ids_by_transformers_5_too() -> None:
    class Tokenizer:
        def apply_chat_template(self, _: object, *, return_dict: bool = True, **__: object) -> object:
            return {"input_ids": [1, 2]} if return_dict else [1, 2]

    assert as_prompt(Tokenizer(), "Hi", chat=True).ids == [1, 2]


@pytest.mark.parametrize(
    ("lengths", "batches"),
    [
        ([], []),
        ([(9, 1), (5, 1)], [[1, 0]]),
        ([(8, 1), *[(4, 1)] * 40], [[*range(1, 33)], [*range(33, 41), 0]]),
        ([(3000, 9), (3000, 9), (2000, 9), (3000, 9)], [[2, 0], [1, 3]]),
        ([(9000, 5), (10, 5), (20, 5)], [[1, 2], [0]]),
        ([(3500, 10), (10, 1000), (20, 10)], [[1, 2], [0]]),
        ([(10, 4000), (20, 10), (30, 10)], [[0, 1], [2]]),
    ],
    ids=[
        "none",
        "shortest first",
        "many",
        "long",
        "too long for company",
        "a long answer beside a long prompt",
        "a long answer in company",
    ],
)
def test_tasks_are_asked_in_batches_that_a_device_can_hold(
    lengths: list[tuple[int, int]], batches: list[list[int]]
) -> None:
    assert list(original._batches(lengths)) == batches
