"""The bodies of requests: OpenAI's fields, and what of them is supported.

https://platform.openai.com/docs/api-reference. What would change the answer and is not supported is refused by name;
a value that asks for nothing is accepted, because many clients send it. A field that is null counts as left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from include.live.api.failures import invalid
from include.reading import parse_json

_INT64 = 2**63
_MOST_PROMPTS = 64
_MOST_STOPS = 16

# Field: the value that asks for nothing. Compared with its type, because 1 equals True.
_NEUTRAL: Mapping[str, Any] = {
    "best_of": 1,
    "echo": False,
    "functions": [],
    "function_call": "none",
    "logit_bias": {},
    "logprobs": False,
    "modalities": ["text"],
    "n": 1,
    "parallel_tool_calls": True,
    "response_format": {"type": "text"},
    "suffix": "",
    "top_logprobs": 0,
    "web_search_options": None,
}
# About the account, the bill or the cache: nothing of the answer depends on them.
_IGNORED = frozenset(
    {"metadata", "prompt_cache_key", "prompt_cache_retention", "safety_identifier", "service_tier", "store", "user"}
)
_KINDS = ("str", "int", "bool")
_ECHOED = ("refusal", "annotations", "audio", "function_call")  # of an answer that comes back as a message

Text = Annotated[str, Field(min_length=1)]
TokenId = Annotated[int, Field(ge=0, lt=2**31)]


class _Form(BaseModel):
    """A part of a request; without the fields that are null."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, fields: Any) -> Any:  # noqa: ANN401 - any JSON
        return {name: value for name, value in fields.items() if value is not None} if _is_object(fields) else fields


class Function(_Form):
    """A function that the model may call; ``parameters`` is a JSON schema."""

    name: str = Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: Literal[False] | None = None


class Tool(_Form):
    """A tool: a function, the only kind there is."""

    type: Literal["function"]
    function: Function


class CalledFunction(_Form):
    """A call in an earlier turn; ``arguments`` is JSON in a string."""

    name: str
    arguments: str


class ToolCall(_Form):
    """A tool's call that the model made in an earlier turn."""

    id: str
    type: Literal["function"] = "function"
    function: CalledFunction


class Part(_Form):
    """A part of a message's content."""

    type: Literal["text"]
    text: str


class Message(_Form):
    """One message of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[Part] | None = None
    name: str | None = None
    tool_call_id: str | None = None
    tool_calls: list[ToolCall] | None = None
    reasoning_content: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _of_an_answer(cls, fields: Any) -> Any:  # noqa: ANN401 - any JSON
        """Without what an answer of this API has beside its content."""
        if not _is_object(fields) or fields.get("role") != "assistant":
            return fields
        return {name: value for name, value in fields.items() if value or name not in _ECHOED}

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.content is None and not (self.role == "assistant" and self.tool_calls):
            raise ValueError("content must be given")
        if self.tool_calls and self.role != "assistant":
            raise ValueError("only an assistant's message has tool_calls")
        return self

    @property
    def text(self) -> str:
        """The content's text."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content or ())


class StreamOptions(_Form):
    """What a stream holds besides the answer."""

    include_usage: bool = False
    include_obfuscation: bool = False


class Asked(_Form):
    """What requests of both kinds have; ``top_k`` and ``repetition_penalty`` are not OpenAI's."""

    model: Text
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(default=None, ge=1)
    stop: Text | Annotated[list[Text], Field(max_length=_MOST_STOPS)] | None = None
    temperature: float = Field(default=1.0, ge=0, le=2, allow_inf_nan=False)
    top_p: float = Field(default=1.0, ge=0, le=1, allow_inf_nan=False)
    top_k: int = Field(default=0, ge=-1, lt=2**31)
    presence_penalty: float = Field(default=0.0, ge=-2, le=2, allow_inf_nan=False)
    frequency_penalty: float = Field(default=0.0, ge=-2, le=2, allow_inf_nan=False)
    repetition_penalty: float = Field(default=1.0, gt=0, le=10, allow_inf_nan=False)
    seed: int | None = Field(default=None, ge=-_INT64, lt=_INT64)

    @model_validator(mode="before")
    @classmethod
    def _supported(cls, fields: Any) -> Any:  # noqa: ANN401 - any JSON
        if not _is_object(fields):
            return fields
        for name, neutral in _NEUTRAL.items():
            value = fields.get(name)
            if value is not None and (type(value) is not type(neutral) or value != neutral):
                only = "leave it out" if neutral is None else f"only {neutral!r} is, or leave it out"
                raise invalid(f"{name} {str(value)[:100]!r} is not supported: {only}", name, "unsupported_parameter")
        return {name: value for name, value in fields.items() if name not in _NEUTRAL and name not in _IGNORED}

    @model_validator(mode="after")
    def _options_of_a_stream(self) -> Self:
        if self.stream_options and not self.stream:
            raise invalid("stream_options is only allowed when stream is true", "stream_options")
        return self

    @property
    def stops(self) -> list[str]:
        """The strings that end an answer."""
        return [self.stop] if isinstance(self.stop, str) else self.stop or []

    @property
    def includes_usage(self) -> bool:
        """True if a stream ends with its usage."""
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def most_tokens(self) -> int | None:
        """The most tokens of an answer; None if the request names no limit."""
        return self.max_tokens


class ChatRequest(Asked):
    """The body of POST /v1/chat/completions; ``chat_template_kwargs`` is not OpenAI's: variables of the template."""

    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    tools: list[Tool] | None = None
    tool_choice: Literal["none", "auto"] = "auto"
    chat_template_kwargs: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")], bool | int | str] | None = None

    @property
    def most_tokens(self) -> int | None:
        """The most tokens of an answer; the field's former name counts where the present one is left out."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def offered(self) -> list[Tool]:
        """The tools that the model may call."""
        return (self.tools or []) if self.tool_choice == "auto" else []


class CompletionRequest(Asked):
    """The body of POST /v1/completions: one prompt or several, each a text or token ids."""

    prompt: str | list[TokenId] | list[str] | list[list[TokenId]]

    @property
    def prompts(self) -> list[str | list[int]]:
        """The prompts one by one."""
        prompt: Any = self.prompt
        several = isinstance(prompt, list) and not (prompt and isinstance(prompt[0], int))
        found: list[str | list[int]] = prompt if several else [prompt]
        if not 1 <= len(found) <= _MOST_PROMPTS:
            raise invalid(f"prompt has {len(found)} prompts, it must be 1 to {_MOST_PROMPTS}", "prompt")
        return found


R = TypeVar("R", bound=Asked)


def parse(body: bytes, kind: type[R]) -> R:
    """The request in a body; raises `ApiError` that names the first field at fault."""
    try:
        return kind.model_validate(parse_json(body))
    except ValidationError as error:
        raise _named(error) from error
    except ValueError as error:
        raise invalid(f"the body must be a JSON object: {error}") from error


def _named(error: ValidationError) -> Exception:
    # Of a union every kind has an error of its own: the one that goes deepest is of the kind that was meant.
    first = max(error.errors(include_url=False, include_context=False), key=lambda one: len(_path(one["loc"])))
    path = ".".join(map(str, _path(first["loc"])))
    if first["type"] == "extra_forbidden":
        return invalid(f"{path} is not supported", path, "unsupported_parameter")
    said = first["msg"].removeprefix("Value error, ")
    if path.endswith(".type") and "content" in path:
        said = f"content parts of type {str(first['input'])[:50]!r} are not supported: only text"
    return invalid(f"{path}: {said}" if path else said, path or None)


def _path(location: tuple[int | str, ...]) -> list[int | str]:
    """The place in the body: pydantic adds the kinds of a union, which are no names of fields."""
    return [one for one in location if isinstance(one, int) or (one.isidentifier() and one not in _KINDS)]


def _is_object(fields: object) -> bool:
    return isinstance(fields, dict)
