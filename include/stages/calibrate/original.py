"""``python -m include.stages.calibrate.original``: the model before quantization, measured once.

Nothing here depends on the group size or on the format, so calibrations with other settings share it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from include.stages.calibrate.environment import prepare
from include.stages.calibrate.parser import Options, model_parser
from include.stages.calibrate.tasks import BUILTIN_FILE, Task, read_tasks
from include.stages.common import StageReport, log, run_stage

TASKS_FILE = "tasks.json"
BUILTIN = "builtin"
_PROMPTS, _TOKENS = 32, 8192
"""The limits of a batch: a step costs a CPU little more for many prompts, and long ones take a GPU's memory."""


@dataclass(frozen=True)
class OriginalOptions:
    """One measurement. Without ``tasks`` no task is asked, by `BUILTIN` those of this folder, which travel with it.

    ``chat``: they are asked in the model's chat template, if it has one.
    """

    model: Path
    out: Path
    device: str = Options.device
    dtype: str = Options.dtype
    tasks: str | None = None
    chat: str = "off"


def parse(argv: Sequence[str] | None = None) -> OriginalOptions:
    """The options out of the command line; exits with 2 and a usage line on a bad one."""
    parser = model_parser("include.stages.calibrate.original", __doc__)
    add = parser.add_argument
    add("--tasks", help=f"{BUILTIN}, or a file of JSON lines: see docs/gates.md")
    add("--chat", choices=("auto", "off"), default=OriginalOptions.chat, help="tasks in the chat template")
    return OriginalOptions(**vars(parser.parse_args(argv)))


def measure_original(options: OriginalOptions, report: StageReport) -> None:
    """Writes the measurement that calibrations begin with, and the answers to the tasks, into ``options.out``.

    Raises:
        UserError: a mistake in the model or the tasks, before any weight is loaded.
        HostError: there is no GPU, or too little memory.
    """
    import torch

    from include.stages.calibrate import memory
    from include.stages.calibrate.loading import compute_dtype
    from include.stages.calibrate.stage import Subject, describe, within_memory
    from include.stages.vocabulary import silenced

    with report.part("check"):
        tasks = _read(options.tasks) if options.tasks else ()
        subject = Subject.read(options.model, options.device)
        if options.device == "cpu":
            memory.check_model_fits(subject.source, torch.float32.itemsize)
    with within_memory(options.device):
        with report.part("load"):
            model = subject.load(options.device, compute_dtype(options.device, options.dtype))
        with report.part("measure"):
            before = subject.measure(model)
        before.save(options.out)
        with report.part("tasks"), torch.no_grad(), silenced(model, subject.vocabulary.missing):
            answers = _answers(model, subject.tokenizer, tasks, options.chat)
    (options.out / TASKS_FILE).write_text(json.dumps({"tasks": answers}, indent=1, ensure_ascii=False))
    describe(options.device, report)
    report.results |= {"perplexity": before.perplexity, "tasks": len(tasks)}


def _read(tasks: str) -> tuple[Task, ...]:
    return tuple(read_tasks(BUILTIN_FILE if tasks == BUILTIN else Path(tasks)).values())


def _answers(model: Any, tokenizer: Any, tasks: Sequence[Task], chat: str) -> list[dict[str, Any]]:  # noqa: ANN401
    """Each task with the model's greedy answer to it; None where prompt and answer exceed the model's positions."""
    from include.stages.calibrate.reference import as_prompt, greedy

    in_chat = chat == "auto" and bool(tokenizer.chat_template)
    asked = [as_prompt(tokenizer, task.prompt, chat=in_chat) for task in tasks]
    texts: dict[int, str] = {}
    for batch in _batches([(len(prompt.ids), task.max_tokens) for prompt, task in zip(asked, tasks, strict=True)]):
        positions = model.config.max_position_embeddings
        fitting = [place for place in batch if len(asked[place].ids) + tasks[place].max_tokens <= positions]
        if fitting:
            limit = max(tasks[place].max_tokens for place in fitting)
            given = greedy(model, tokenizer, [asked[place] for place in fitting], limit)
            for place, answer in zip(fitting, given, strict=True):
                ids = answer.ids[: tasks[place].max_tokens]
                texts[place] = tokenizer.decode(ids, skip_special_tokens=True)
        log.info("%d of %d tasks answered", len(texts), len(tasks))
    return [
        task.model_dump(mode="json") | {"chat": in_chat, "prompt_tokens": len(prompt.ids), "original": texts.get(place)}
        for place, (task, prompt) in enumerate(zip(tasks, asked, strict=True))
    ]


def _batches(lengths: Sequence[tuple[int, int]]) -> Iterator[list[int]]:
    """Places of prompts, by the tokens of each and of its answer, in batches of about one length, the shortest first.

    A batch is as wide as its longest prompt and its longest answer.
    """
    batch: list[int] = []
    for place in sorted(range(len(lengths)), key=lengths.__getitem__):
        wide = lengths[place][0] + max(lengths[one][1] for one in [*batch, place])
        if batch and (len(batch) == _PROMPTS or (len(batch) + 1) * wide > _TOKENS):
            yield batch
            batch = []
        batch.append(place)
    if batch:
        yield batch


def main() -> int:
    """The program; returns the exit code."""
    options = parse()
    prepare()
    return run_stage(lambda report: measure_original(options, report), options.out)


if __name__ == "__main__":
    sys.exit(main())
