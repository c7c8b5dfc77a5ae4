"""The reference that engines are judged by: the model's answers and perplexity before and after quantization."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch  # noqa: TID253 - runs only in a target's environment

from include.stages.common import log, read_json, tell
from include.stages.quality import REFERENCE_FILE, HeldOut, perplexity

BEFORE_FILE = "before.json"
NEW_TOKENS = 32
LONG_ANSWER = 256
"""Tokens in which an instruction-tuned model has answered the question, and ended."""
QUESTION = "How do I count to nine in French?"
COMPLETIONS = ("The capital of France is", "Once upon a time,")
# Starts of held-out samples: a wrong rotary base shows only at some distance.
CONTEXTS = 4
CONTEXT_TOKENS = 128


@dataclass(frozen=True)
class Answer:
    """Token ids up to the end token. ``ended`` is True if there was one; otherwise the answer was cut off."""

    ids: list[int]
    ended: bool


@dataclass(frozen=True)
class Measurement:
    """One model: its perplexity on the held-out text and its greedy answer to each prompt."""

    perplexity: float
    answers: list[Answer]

    def save(self, folder: Path) -> None:
        """Writes ``before.json`` into ``folder``."""
        (folder / BEFORE_FILE).write_text(json.dumps(asdict(self)))

    @classmethod
    def load(cls, folder: Path) -> Measurement:
        """Reads the file of `save`."""
        fields = read_json(folder / BEFORE_FILE)
        return cls(fields["perplexity"], [Answer(**answer) for answer in fields["answers"]])


@dataclass(frozen=True)
class Prompt:
    """A user's text, and the token ids that the model is fed: of the text, or of the text in the chat template.

    ``turn``: what the model is fed is a turn in its template, whose answer ends.
    """

    text: str
    chat: bool
    ids: list[int]
    turn: bool = False


def prompts(tokenizer: Any, held_out: HeldOut) -> list[Prompt]:  # noqa: ANN401
    """The question and texts to go on with as they are, and again in the model's chat template if it has one.

    For endpoints that apply no template there is also the question's turn as a text.
    """
    texts = (QUESTION, *COMPLETIONS, *_contexts(tokenizer, held_out))
    raw = [as_prompt(tokenizer, text, chat=False) for text in texts]
    if not tokenizer.chat_template:
        return raw
    try:
        turn = _turn(tokenizer, QUESTION)
        chat = [as_prompt(tokenizer, text, chat=True) for text in texts]
        if not all(prompt.ids for prompt in chat):
            raise ValueError("it makes an empty prompt")
    except Exception as error:  # a template is a program: a request that uses such a one has been refused before
        log.info("the chat template is left out of the reference: %s", error)
        return raw
    return [*raw, Prompt(turn, False, tokenizer(turn)["input_ids"], turn=True), *chat]


def as_prompt(tokenizer: Any, text: str, *, chat: bool) -> Prompt:  # noqa: ANN401
    """A user's text as the model is fed it."""
    return Prompt(text, chat, _chat_ids(tokenizer, text) if chat else tokenizer(text)["input_ids"], turn=chat)


def _contexts(tokenizer: Any, held_out: HeldOut) -> list[str]:  # noqa: ANN401
    """At most half a sample each, so that an answer fits the positions of a model with few."""
    length = min(CONTEXT_TOKENS, held_out.blocks.shape[1] // 2)
    starts = held_out.blocks[:CONTEXTS, :length].tolist()
    return [tokenizer.decode(ids, skip_special_tokens=True) for ids in starts]


def _chat_ids(tokenizer: Any, text: str) -> list[int]:  # noqa: ANN401
    ids: list[int] = tokenizer.apply_chat_template(
        _messages(text), tokenize=True, add_generation_prompt=True, return_dict=False
    )
    return ids


def _turn(tokenizer: Any, text: str) -> str:  # noqa: ANN401
    """The text in the template, without the BOS token that the tokenizer itself begins a text with."""
    turn: str = tokenizer.apply_chat_template(_messages(text), tokenize=False, add_generation_prompt=True)
    bos = tokenizer.bos_token
    return turn.removeprefix(bos) if bos and tokenizer.bos_token_id in tokenizer("")["input_ids"] else turn


def _messages(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def measure(model: Any, tokenizer: Any, held_out: HeldOut) -> Measurement:  # noqa: ANN401
    """Perplexity and greedy answers of ``model``, which stays on its device."""
    device = model.get_input_embeddings().weight.device
    with torch.no_grad():
        score = perplexity(lambda ids: model(ids.to(device), use_cache=False).logits[0], held_out.blocks, 0.5)
        asked = prompts(tokenizer, held_out)
        answers = greedy(model, tokenizer, asked, NEW_TOKENS, (0.5, 0.9))
        for place in _without_an_end(asked, answers):
            limit = min(LONG_ANSWER, model.config.max_position_embeddings - len(asked[place].ids))
            if limit > NEW_TOKENS:
                answers[place] = greedy(model, tokenizer, [asked[place]], limit, (0.9, 1))[0]
        return Measurement(score, answers)


def _without_an_end(asked: list[Prompt], answers: list[Answer]) -> list[int]:
    """The place of the first turn in each form, chat or raw, in which no answer has ended.

    An endpoint is asked in one of the forms; without an answer that ends, nothing would show one that does not stop.
    """
    ended = {prompt.chat for prompt, answer in zip(asked, answers, strict=True) if answer.ended}
    turns = {prompt.chat: place for place, prompt in reversed(list(enumerate(asked))) if prompt.turn}
    return [place for chat, place in turns.items() if chat not in ended]


def greedy(
    model: Any,  # noqa: ANN401
    tokenizer: Any,  # noqa: ANN401
    asked: list[Prompt],
    new_tokens: int,
    shares: tuple[float, float] = (0, 1),
) -> list[Answer]:
    """The answers of at most ``new_tokens``, all prompts in one batch. ``shares``: of the part before and after."""
    encoded = [prompt.ids for prompt in asked]
    width = max(map(len, encoded))
    device = model.get_input_embeddings().weight.device
    ids = torch.tensor([[0] * (width - len(row)) + row for row in encoded], device=device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in encoded], device=device)
    stops = end_ids(model, tokenizer)

    def never(so_far: torch.Tensor, _: object) -> torch.Tensor:
        count = so_far.shape[1] - width
        tell(f"greedy answers, token {count} of {new_tokens}", shares[0] + (shares[1] - shares[0]) * count / new_tokens)
        return torch.zeros(len(so_far), dtype=torch.bool, device=so_far.device)

    output = model.generate(
        ids,
        stopping_criteria=[never],
        attention_mask=mask,
        do_sample=False,
        num_beams=1,
        max_new_tokens=new_tokens,
        eos_token_id=stops or None,
        pad_token_id=stops[0] if stops else 0,
    )
    return [_until(row, stops) for row in output[:, width:].tolist()]


def end_ids(model: Any, tokenizer: Any) -> list[int]:  # noqa: ANN401
    """The tokens that end an answer, by the model's generation config and by its tokenizer."""
    configured = model.generation_config.eos_token_id
    ids = configured if isinstance(configured, list) else [configured]
    return sorted({i for i in [*ids, tokenizer.eos_token_id] if i is not None})


def _until(ids: list[int], stops: list[int]) -> Answer:
    end = next((position for position, token in enumerate(ids) if token in stops), len(ids))
    return Answer(ids[:end], ended=end < len(ids))


def write_reference(
    out: Path,
    tokenizer: Any,  # noqa: ANN401
    held_out: HeldOut,
    before: Measurement,
    after: Measurement,
) -> None:
    """Writes ``reference.json``; ``tokens`` counts the predicted ones."""
    continuations = [
        {
            "prompt": prompt.text,
            "chat": prompt.chat,
            "prompt_ids": prompt.ids,
            "before_ids": first.ids,
            "before_ended": first.ended,
            "before_text": tokenizer.decode(first.ids, skip_special_tokens=True),
            "after_ids": second.ids,
            "after_ended": second.ended,
            "after_text": tokenizer.decode(second.ids, skip_special_tokens=True),
        }
        for prompt, first, second in zip(prompts(tokenizer, held_out), before.answers, after.answers, strict=True)
    ]
    quality = {
        "metric": "perplexity",
        "text_sha256": held_out.text_sha256,
        "samples": len(held_out.blocks),
        "tokens": held_out.scored_tokens,
        "before": round(before.perplexity, 4),
        "after": round(after.perplexity, 4),
    }
    fields = {"schema": 2, "quality": quality, "continuations": continuations}
    (out / REFERENCE_FILE).write_text(json.dumps(fields, indent=1, ensure_ascii=False))
