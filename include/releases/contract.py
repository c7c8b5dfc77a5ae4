"""The contract of a release with its clients, and the comparison of two contracts.

A change is *breaking* if requests that the live release answers would be refused, or mean something else.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import Field

from include.frozen import Frozen
from include.model.files import TOKENIZER_FILES, read_file
from include.model.tokenizer import TokenizerFacts
from include.requests.names import names_of
from include.requests.release import ReleaseRequest
from include.triton import repository
from include.triton.client import MODEL


class Input(Frozen):
    """A field of requests: Triton's type of it."""

    type: str
    optional: bool = True


class Contract(Frozen):
    """What clients of a release rely on. None stands for what is not known; lengths are in tokens."""

    aliases: tuple[str, ...] | None = None
    streaming: bool | None = None
    max_input_len: int | None = None
    max_seq_len: int | None = None
    max_batch_size: int | None = None
    chat_template: str | None = Field(default=None, description="Its digest; empty if the endpoint applies none.")
    tokenizer: str | None = Field(default=None, description="The digest of its files.")
    end_token: str | None = None
    end_ids: frozenset[int] | None = Field(default=None, description="More tokens that end an answer.")
    inputs: dict[str, Input] | None = None
    outputs: dict[str, str] | None = None

    @classmethod
    def of_request(cls, request: ReleaseRequest, *, applies_chat_template: bool) -> Self:
        """As far as a request says it; ``applies_chat_template``: the target can."""
        applies = applies_chat_template and request.chat_template == "auto"
        limits = {name: getattr(request, name) for name in _LIMITS}
        template = None if applies else ""
        return cls(aliases=tuple(request.aliases), streaming=request.streaming, chat_template=template, **limits)

    @classmethod
    def stored(cls, directory: Path, request: Mapping[str, Any]) -> Self:
        """The contract of a model repository and the ``request`` that it was made for.

        Raises:
            ToolError: a config of the repository cannot be read, or there is none.
            UserError: a file of its tokenizer is damaged.
        """
        models = repository.read(directory)
        streaming = any(model.model_transaction_policy.decoupled for model in models.values())
        limits = {name: request[name] for name in _LIMITS if name in request}
        known = cls(aliases=names_of(request)[1], streaming=streaming, **limits)
        if MODEL not in models or "preprocessing" not in models:
            return known
        texts = [models[name].parameters for name in _TEXTS if name in models]
        parameters = {name: p.string_value for found in texts for name, p in found.items()}
        return known.model_copy(update=_fields(models[MODEL]) | _texts(parameters))


_TEXTS = ("end_tokens", "preprocessing")
"""The models that know the texts; with NVIDIA's preprocessing, the first one has the further end tokens."""

_LIMITS = {
    "max_input_len": "longer prompts",
    "max_seq_len": "longer prompts and answers",
    "max_batch_size": "requests with more prompts",
}
"""Each limit with what is refused beyond it."""


class Change(Frozen):
    """One difference from the live release, as a sentence."""

    field: str
    breaking: bool
    text: str


class Comparison(Frozen):
    """The changes that clients of the live release ``against`` would notice."""

    against: str
    changes: tuple[Change, ...] = ()

    @property
    def breaking(self) -> tuple[Change, ...]:
        """The changes that break clients."""
        return tuple(change for change in self.changes if change.breaking)

    def lines(self) -> list[str]:
        """A line for each change, the breaking ones first."""
        ordered = sorted(self.changes, key=lambda change: not change.breaking)
        return [f"{'breaking: ' * change.breaking}{change.text}" for change in ordered]

    def to_markdown(self) -> str:
        """The changes for people who decide."""
        if not self.changes:
            return f"No changes were found for clients of the live release {self.against}.\n"
        items = "".join(f"- {line.replace('<', '&lt;')}\n" for line in self.lines())
        return f"Changes for clients of the live release {self.against}:\n\n{items}"


def compare(live: Contract, candidate: Contract) -> tuple[Change, ...]:
    """The changes from the live release's contract to a candidate's; what is not known of either is left out."""
    parts = (_aliases, _streaming, _limits, _template, _tokens, _inputs, _outputs)
    return tuple(change for part in parts for change in part(live, candidate))


def _aliases(live: Contract, candidate: Contract) -> Iterator[Change]:
    if live.aliases is None or candidate.aliases is None:
        return
    for name in live.aliases:
        if name not in candidate.aliases:
            text = f"alias {name} is gone: requests to it will be refused"
            yield Change(field="aliases", breaking=True, text=text)
    if new := [name for name in candidate.aliases if name not in live.aliases]:
        yield Change(field="aliases", breaking=False, text=f"new aliases: {', '.join(new)}")


def _streaming(live: Contract, candidate: Contract) -> Iterator[Change]:
    if not _differ(live.streaming, candidate.streaming):
        return
    if candidate.streaming:
        text = "streaming is on, the live release has it off: clients of infer and of gRPC's ModelInfer will be refused"
    else:
        text = (
            "streaming is off, the live release has it on: clients that ask for pieces, of generate_stream and by "
            "gRPC, will be refused"
        )
    yield Change(field="streaming", breaking=True, text=text)


def _limits(live: Contract, candidate: Contract) -> Iterator[Change]:
    for name, beyond in _LIMITS.items():
        before, after = getattr(live, name), getattr(candidate, name)
        if _differ(before, after):
            lower = after < before
            text = f"{name} is {after}, {before} on the live release" + f": {beyond} will be refused" * lower
            yield Change(field=name, breaking=lower, text=text)


def _template(live: Contract, candidate: Contract) -> Iterator[Change]:
    before, after = live.chat_template, candidate.chat_template
    if not _differ(before, after):
        return
    if not after:
        text = "text_input is not put into the model's chat template, on the live release it is: answers will differ"
    elif not before:
        text = (
            "text_input is put into the model's chat template, on the live release it is not: clients that render it "
            "themselves have to send use_raw_prompt"
        )
    else:
        text = "the chat template is another one: the same text_input reaches the model in another form"
    yield Change(field="chat_template", breaking=True, text=text)


def _tokens(live: Contract, candidate: Contract) -> Iterator[Change]:
    if _differ(live.tokenizer, candidate.tokenizer):
        text = "the tokenizer is another one: token ids that clients send or keep stand for other texts"
        yield Change(field="tokenizer", breaking=True, text=text)
    if _differ(live.end_token, candidate.end_token):
        text = f"answers end at {candidate.end_token!r}, on the live release at {live.end_token!r}"
        yield Change(field="end_token", breaking=True, text=text)
    before, after = live.end_ids, candidate.end_ids
    if before and after and before != after:
        now, then = (", ".join(map(str, sorted(ids))) for ids in (after, before))
        text = f"answers end at the tokens {now}, on the live release at {then}"
        yield Change(field="end_ids", breaking=True, text=text)


def _inputs(live: Contract, candidate: Contract) -> Iterator[Change]:
    if live.inputs is None or candidate.inputs is None:
        return
    for name, field in live.inputs.items():
        now = candidate.inputs.get(name)
        if now is None:
            yield Change(field=name, breaking=True, text=f"field {name} is gone: requests with it will be refused")
        elif now.type != field.type:
            text = f"field {name} is {now.type}, {field.type} on the live release: requests with it will be refused"
            yield Change(field=name, breaking=True, text=text)
        elif field.optional and not now.optional:
            text = f"field {name} must be given, on the live release it need not: requests without it will be refused"
            yield Change(field=name, breaking=True, text=text)
    added = sorted(candidate.inputs.keys() - live.inputs.keys())
    for name in (name for name in added if not candidate.inputs[name].optional):
        text = f"field {name} must be given, the live release does not have it: requests without it will be refused"
        yield Change(field=name, breaking=True, text=text)
    if new := [name for name in added if candidate.inputs[name].optional]:
        yield Change(field="inputs", breaking=False, text=f"new fields of requests: {', '.join(new)}")


def _outputs(live: Contract, candidate: Contract) -> Iterator[Change]:
    if live.outputs is None or candidate.outputs is None:
        return
    for name, kind in live.outputs.items():
        now = candidate.outputs.get(name)
        if now is None:
            yield Change(field=name, breaking=True, text=f"answers have no {name}, on the live release they have")
        elif now != kind:
            text = f"{name} in answers is {now}, {kind} on the live release"
            yield Change(field=name, breaking=True, text=text)
    if new := sorted(candidate.outputs.keys() - live.outputs.keys()):
        yield Change(field="outputs", breaking=False, text=f"new fields of answers: {', '.join(new)}")


def _differ(one: object, other: object) -> bool:
    return one is not None and other is not None and one != other


def _fields(ensemble: Any) -> dict[str, object]:  # noqa: ANN401 - tritonclient's generated message class
    from tritonclient.grpc import model_config_pb2

    def kind(tensor: Any) -> str:  # noqa: ANN401 - as above
        return str(model_config_pb2.DataType.Name(tensor.data_type)).removeprefix("TYPE_")

    return {
        "max_batch_size": ensemble.max_batch_size,
        "inputs": {tensor.name: Input(type=kind(tensor), optional=tensor.optional) for tensor in ensemble.input},
        "outputs": {tensor.name: kind(tensor) for tensor in ensemble.output},
    }


def _texts(parameters: Mapping[str, str]) -> dict[str, object]:
    """The tokenizer, its end token and the chat template, by the parameters of model ``preprocessing``."""
    folder = Path(parameters.get("tokenizer_dir", ""))
    if not folder.is_absolute() or not folder.is_dir():
        return {}
    named = TokenizerFacts.read(folder).named
    template = named.get("chat_template") if parameters.get("apply_chat_template") == "true" else None
    files = sorted(TOKENIZER_FILES & {path.name for path in folder.iterdir()})
    return {
        "tokenizer": _digest(*(read_file(folder / name) for name in files)),
        "end_token": named.get("eos_token"),
        # Earlier versions, and models that name none, end answers at the end token alone.
        "end_ids": frozenset(map(int, parameters.get("end_ids", "").split())) or None,
        "chat_template": _digest(json.dumps(template).encode()) if template else "",
    }


def _digest(*parts: bytes) -> str:
    return hashlib.sha256(b"".join(parts)).hexdigest()
