"""The live models as this process has them loaded, and the work that a request means for one of them."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Sequence
from dataclasses import replace
from http import HTTPStatus
from pathlib import Path
from typing import Any

from include.errors import PipelineError
from include.files import Log
from include.live.api.answers import Answer
from include.live.api.engine import Job, Sampling
from include.live.api.failures import ApiError, invalid
from include.live.api.models import LiveModel, published
from include.live.api.requests import Asked, ChatRequest, CompletionRequest, Message
from include.live.api.template import ChatTemplate
from include.live.api.tools import ToolForm, form_of
from include.live.api.vocabulary import Vocabulary
from include.model.tokenizer import DEFAULT_TEMPLATE, TokenizerFacts

# No text has more characters a token; to count the tokens of one that has takes long.
_CHARACTERS_A_TOKEN = 16
_UNTRUSTED = ("user", "tool")


class Served:
    """One live model with its tokenizer and its chat template."""

    def __init__(self, model: LiveModel) -> None:
        """Loads the tokenizer; raises `PipelineError` if it is damaged."""
        self.model = model
        facts = TokenizerFacts.read(model.tokenizer)
        self._sources = facts.templates
        self._templates = {name: ChatTemplate(source) for name, source in self._sources.items()}
        self._special = facts.special
        self._vocabulary = Vocabulary(model.tokenizer, facts, "".join(self._sources.values()))
        own = self._vocabulary.end_id
        self._ends = tuple(dict.fromkeys([*([] if own is None else [own]), *model.end_ids]))

    async def chat(self, request: ChatRequest) -> list[Answer]:
        """The answer that a conversation asks for; raises `ApiError` if it cannot be given."""
        template = self._template(request)
        form = self._form(template, request)
        self._check_size(sum(len(message.text) for message in request.messages), "messages")
        text = await template.render(self._variables(request, template))
        self._check_size(len(text), "messages")
        ids = await asyncio.to_thread(self._vocabulary.encode_rendered, text)
        return [self._answer(0, ids, request, "messages", form)]

    async def completion(self, request: CompletionRequest) -> list[Answer]:
        """The answers, one for each prompt; raises `ApiError` if they cannot be given."""
        return [
            self._answer(index, await self._prompt(prompt), request, "prompt")
            for index, prompt in enumerate(request.prompts)
        ]

    async def _prompt(self, prompt: str | list[int]) -> list[int]:
        if isinstance(prompt, list):
            self._check_ids(prompt)
            return prompt
        self._check_size(len(prompt), "prompt")
        return await asyncio.to_thread(self._vocabulary.encode_prompt, prompt)

    def _check_ids(self, prompt: list[int]) -> None:
        wrong = self._vocabulary.first_unknown(prompt)
        if wrong is not None:
            raise invalid(
                f"prompt: {wrong} is no token of model {self.model.name}, whose vocabulary has "
                f"{self._vocabulary.size} tokens",
                "prompt",
            )

    def _template(self, request: ChatRequest) -> ChatTemplate:
        wanted = "tool_use" if request.offered and "tool_use" in self._templates else DEFAULT_TEMPLATE
        if template := self._templates.get(wanted):
            return template
        raise invalid(f"model {self.model.name} has no chat template: use /v1/completions", "messages")

    def _form(self, template: ChatTemplate, request: ChatRequest) -> ToolForm | None:
        if not request.offered:
            return None
        if form := form_of(template.source):
            return form
        raise invalid(f"the chat template of model {self.model.name} has no tools", "tools", "unsupported_parameter")

    def _variables(self, request: ChatRequest, template: ChatTemplate) -> dict[str, Any]:
        own = {**self._special, "add_generation_prompt": True}
        given = request.chat_template_kwargs or {}
        if taken := sorted(given.keys() & {*own, "messages", "tools", "documents"}):
            raise invalid(f"chat_template_kwargs must not name {taken[0]}", "chat_template_kwargs")
        tools = [tool.model_dump(exclude_none=True) for tool in request.offered]
        return {
            **self._vocabulary.marked(given, trusted=True),
            **own,
            "messages": [self._message(one, template) for one in request.messages],
            "tools": self._vocabulary.marked(tools, trusted=True) or None,
        }

    def _message(self, message: Message, template: ChatTemplate) -> dict[str, Any]:
        fields = message.model_dump(exclude_none=True, exclude={"content", "role"})
        for call in fields.get("tool_calls", ()):
            call["function"]["arguments"] = _arguments(call["function"]["arguments"])
        # A template that does not know the newer name of the role knows the older.
        role = "system" if message.role == "developer" and "developer" not in template.source else message.role
        trusted = message.role not in _UNTRUSTED
        return {"role": role, **self._vocabulary.marked({"content": message.text, **fields}, trusted=trusted)}

    def _check_size(self, characters: int, field: str) -> None:
        most = _CHARACTERS_A_TOKEN * self.model.max_input_len
        if characters > most:
            raise _too_long(
                f"the {field} have {characters} characters, more than the {most} of a prompt that this model takes",
                field,
            )

    def _answer(
        self, index: int, prompt: Sequence[int], request: Asked, field: str, form: ToolForm | None = None
    ) -> Answer:
        if not prompt:
            raise invalid(f"{field} has no tokens", field)
        job = Job(prompt, self._most(len(prompt), request, field), _sampling(request), self._words(request))
        # Only a continuation depends on what stands before it.
        decoder = self._vocabulary.decoder(prompt if field == "prompt" else ())
        return Answer(index, job, decoder, frozenset(self._ends), request.stops, form)

    def _most(self, prompt: int, request: Asked, field: str) -> int:
        """The most tokens of an answer: what was asked for, else what fits."""
        model = self.model
        if prompt > model.max_input_len:
            raise _too_long(f"the {field} have {prompt} tokens, this model takes {model.max_input_len}", field)
        room = model.max_seq_len - prompt
        if request.most_tokens is not None and request.most_tokens > room:
            raise _too_long(
                f"This model's maximum context length is {model.max_seq_len} tokens. However, you requested "
                f"{prompt + request.most_tokens} tokens ({prompt} in the {field}, "
                f"{request.most_tokens} in the completion)",
                field,
            )
        return request.most_tokens or room

    def _words(self, request: Asked) -> tuple[tuple[int, ...], ...]:
        """What ends an answer in the engine: the end tokens, and the stop strings if nobody reads along."""
        ends = [(end,) for end in self._ends]
        stops = [] if self.model.streaming else [tuple(self._vocabulary.encode_word(stop)) for stop in request.stops]
        return tuple(dict.fromkeys([*ends, *(stop for stop in stops if stop)]))


class Models:
    """The live models, read again when their list has changed. A request goes on with what it began with."""

    def __init__(self, path: Path, log: Log = print) -> None:
        self._path = path
        self._log = log
        self._lock = asyncio.Lock()
        self._seen: tuple[int, ...] | None = None
        self._models: tuple[LiveModel, ...] = ()
        self._served: dict[LiveModel, Served] = {}

    def all(self) -> tuple[LiveModel, ...]:
        """The live models, the default one first."""
        seen = self._look()
        if seen != self._seen:
            try:
                self._models = published(self._path)
                self._seen = seen
            except PipelineError as error:  # the last list that could be read is the best that there is
                self._log(str(error))
        return self._models

    def find(self, name: str) -> LiveModel:
        """The live model with a name or an alias; raises `ApiError` if there is none."""
        found = next((model for model in self.all() if name == model.name or name in model.aliases), None)
        if found:
            return found
        known = ", ".join(model.name for model in self._models) or "none"
        raise ApiError(
            HTTPStatus.NOT_FOUND,
            f"The model `{name[:200]}` does not exist; live are: {known}",
            param="model",
            code="model_not_found",
        )

    async def served(self, name: str) -> Served:
        """A live model, loaded; raises `ApiError` if there is none, or if its tokenizer cannot be loaded."""
        model = self.find(name)
        async with self._lock:
            if model not in self._served:
                try:
                    loaded = await asyncio.to_thread(Served, model)
                except PipelineError as error:
                    self._log(str(error))
                    raise ApiError(HTTPStatus.INTERNAL_SERVER_ERROR, f"{model.name}: {error.what}") from error
                self._served = {one: old for one, old in self._served.items() if one in self._models} | {model: loaded}
            return self._served[model]

    def _look(self) -> tuple[int, ...]:
        try:
            found = self._path.stat()
        except OSError:
            return ()
        return found.st_ino, found.st_mtime_ns, found.st_size


def _sampling(request: Asked) -> Sampling:
    penalized = Sampling(
        presence_penalty=request.presence_penalty or None,
        frequency_penalty=request.frequency_penalty or None,
        repetition_penalty=None if request.repetition_penalty == 1 else request.repetition_penalty,
    )
    if request.temperature == 0 or request.top_p == 0 or request.top_k == 1:
        return replace(penalized, top_k=1)
    # The engine draws only if it is given a top_p or a top_k, and takes the same seed for all requests without one.
    seed = secrets.randbits(63) if request.seed is None else request.seed % 2**63
    top_k = request.top_k if request.top_k > 0 else None
    return replace(penalized, temperature=request.temperature, top_p=request.top_p, top_k=top_k, seed=seed)


def _arguments(written: str) -> Any:  # noqa: ANN401 - any JSON
    """A call's arguments as a template takes them."""
    try:
        return json.loads(written)
    except ValueError:
        return written


def _too_long(message: str, field: str) -> ApiError:
    return invalid(message, field, "context_length_exceeded")
