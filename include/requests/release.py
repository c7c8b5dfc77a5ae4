"""The release form: its fields by section, with their limits, the same for the web UI, REST and schedules."""

from __future__ import annotations

import difflib
import hashlib
import posixpath
import re
from collections.abc import Collection
from functools import partial
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails

from include.errors import UserError
from include.model.config import GroupSize
from include.requests.names import LONGEST, NAME_OR_EMPTY_PATTERN, NAME_PATTERN, RESERVED, default_name
from include.stages.formats import DEFAULT, FORMATS
from include.stages.formats.base import Format

# A Hub id: one slash at most, no "..", "--" or leading punctuation (huggingface_hub's own rule), or an absolute path
# without control characters and backslashes.
# Written so that Python's and the browser's engines read them alike; "$" alone would allow a trailing newline.
_END = r"$(?!\n)"
HUB_ID = r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,95}(?:\/[A-Za-z0-9][A-Za-z0-9_.\-]{0,95})?"
PATH = r"\/[^\x00-\x1f\x7f-\x9f\u2028\u2029\\]*"
MODEL_PATTERN = rf"^(?!.*\.\.)(?:{HUB_ID}|{PATH}){_END}"
TASKS_PATTERN = rf"^(?!.*\.\.)(?:builtin|off|{PATH}){_END}"
DATA_PATTERN = rf"^(?!.*\.\.)(?:builtin|{HUB_ID}|{PATH}){_END}"
REVISION_PATTERN = rf"^(?!.*\.\.)[A-Za-z0-9][A-Za-z0-9_.\-\/]{{0,127}}{_END}"
_LONGEST_NAME = 80
SEED_PROMPT = "How do I count to nine in French?"

Section = Literal["Model", "Quantization", "Engine", "Serving", "Gates", "Promotion"]
Share = Annotated[float, Field(ge=0, le=1)]
Prompt = Annotated[str, Field(min_length=1, max_length=4000)]
Clients = Annotated[int, Field(ge=1, le=256)]
Name = Annotated[str, Field(pattern=NAME_PATTERN, max_length=LONGEST)]
Approver = Annotated[str, Field(min_length=1, max_length=200)]


FORMER_SWAPS = {"beside": "blue_green", "stop_first": "recreate"}
"""Names of earlier versions: runs, catalogues and records have them."""


def swap_of(value: object) -> object:
    """The name that a swap has today."""
    return FORMER_SWAPS.get(value, value) if isinstance(value, str) else value


Swap = Annotated[Literal["blue_green", "recreate"], BeforeValidator(swap_of)]


def form_field(section: str, title: str, description: str, default: Any, **limits: Any) -> Any:  # noqa: ANN401
    """A field of a form: its section, title, description and limits."""
    extra = {"section": section, **limits.pop("extra", {})}
    return Field(default, title=title, description=description, json_schema_extra=extra, **limits)


class Form(BaseModel):
    """The params of a DAG."""

    model_config = ConfigDict(frozen=True, extra="forbid", regex_engine="python-re")

    @classmethod
    def parse(cls, params: dict[str, Any]) -> Self:
        """The request out of a run's params.

        Raises:
            UserError: a field is unknown, missing or out of its limits; the message names it.
        """
        try:
            return cls.model_validate(params)
        except ValidationError as error:
            problems = [_problem(e, cls.model_fields) for e in error.errors()]
            raise UserError(
                "; ".join(problems), where="params of the run", fix="correct the field and trigger the DAG again"
            ) from None

    def section(self, *names: Section, ignored: Collection[str] = ()) -> dict[str, Any]:
        """The fields of sections as JSON, all but those that are ``ignored``.

        Keys are made of them: a new field that nobody thought of makes a stage run once more, and never a wrong hit.
        """
        schema = self.model_json_schema()["properties"]
        chosen = {name for name, field in schema.items() if field["section"] in names}
        return self.model_dump(mode="json", include=chosen.difference(ignored))


_model, _quantization, _engine, _serving, _gates, _promotion = (
    partial(form_field, section) for section in get_args(Section)
)


_FOLLOWS_TARGET = {"type": ["integer", "null"], "default": None}
_BY_TARGET = {"openvino": {"calib_size": 32, "calib_seq_len": 128}}
_ON_GPUS = {"calib_size": 128, "calib_seq_len": 512}
"""The values of fields that are left empty: a CPU calibrates with less, because it takes so long."""


class ReleaseRequest(Form):
    """One run of `release_awq_engine`. Lengths are in tokens."""

    model: str = _model(
        "Model",
        "Hugging Face Hub id, e.g. `NousResearch/Llama-2-7b-hf`, or the absolute path of a local model directory "
        "(`config.json`, tokenizer, `*.safetensors`) on the worker. "
        "All settings for common models and GPUs: [presets](hf2triton/presets).",
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        pattern=MODEL_PATTERN,
        max_length=400,
    )
    revision: str = _model(
        "Revision",
        "Branch, tag or commit on the Hub, resolved to a commit once, at the start. Not used for a local directory.",
        "main",
        pattern=REVISION_PATTERN,
    )
    target: Literal["openvino", "tensorrt_llm", "vllm"] = _model(
        "Target",
        "`openvino`: on the CPU. `tensorrt_llm`, `vllm`: on this host's NVIDIA GPU, from Ampere to Hopper, or from "
        "Turing to Blackwell.",
        "openvino",
    )
    quantization: Literal["int4_awq", "fp8"] = _quantization(
        "Format",
        "`int4_awq`: weights of 4 bits, on every target. `fp8`: weights and activations of 8 bits, on NVIDIA GPUs from "
        "Ada on (`tensorrt_llm`, `vllm`): twice the memory for weights, nearer to the original model.",
        DEFAULT,
    )
    dtype: Literal["float16", "bfloat16"] = _quantization(
        "Data type",
        "Type of all that is not quantized: norms, embeddings, what passes between layers. Best is the one the model "
        "was trained in.",
        "float16",
    )
    awq_group_size: GroupSize = _quantization(
        "AWQ group size",
        "Weights that share one scale, in format `int4_awq`. 128 is usual; it must divide the model's dimensions, "
        "SmolLM2-135M needs 64.",
        64,
    )
    calib_size: int = _quantization(
        "Calibration samples",
        "Samples of text that calibration looks at. Empty: 32 on the CPU, 128 on a GPU.",
        32,
        ge=1,
        le=1024,
        extra=_FOLLOWS_TARGET,
    )
    calib_seq_len: int = _quantization(
        "Calibration length",
        "Tokens in each sample. Empty: 128 on the CPU, 512 on a GPU.",
        128,
        ge=16,
        le=8192,
        extra=_FOLLOWS_TARGET,
    )
    calib_data: str = _quantization(
        "Calibration data",
        "`builtin` text, the absolute path of a `.txt` (a document a line) or `.jsonl` (`text` field) file, "
        "or a Hub dataset id.",
        "builtin",
        pattern=DATA_PATTERN,
        max_length=400,
    )
    tp_size: int = _engine("Tensor parallel size", "GPUs that share one copy of the model.", 1, ge=1, le=8)
    max_batch_size: int = _engine("Max batch size", "Requests served at once.", 8, ge=1, le=256)
    max_input_len: int = _engine(
        "Max input length", "Tokens of the longest prompt. Below max sequence length.", 1024, ge=1, le=131072
    )
    max_seq_len: int = _engine(
        "Max sequence length", "Tokens of the longest prompt and answer together.", 2048, ge=2, le=131072
    )
    max_num_tokens: int = _engine(
        "Max batched tokens", "Tokens that one engine step may work on.", 2048, ge=16, le=131072
    )
    precision: Literal["exact", "fast"] = _engine(
        "Precision",
        "Of the arithmetic on the CPU (`openvino`). `exact`: floating point, as calibrated. `fast`: up to twice the "
        "tokens/s, with bfloat16 where the CPU has it and 8-bit activations and KV cache; greedy answers then depend "
        "on what else is asked. The build refuses it if the perplexity changes by more than 0.5 %.",
        "exact",
    )
    kv_cache_memory_fraction: float = _serving(
        "KV cache memory",
        "Share of the free device memory that the KV cache may take (on the CPU: of the host's memory, and never "
        "more than max batch size x max sequence length needs).",
        0.8,
        ge=0.01,
        le=0.95,
    )
    chat_template: Literal["auto", "off"] = _serving(
        "Chat template",
        "`auto`: the endpoint wraps `text_input` in the model's chat template, if it has one and the target can "
        "(`openvino`, `vllm`). `off`, and target `tensorrt_llm`: the model continues the text as it is.",
        "auto",
    )
    streaming: bool = _serving(
        "Streaming",
        "On: `generate_stream` and gRPC streams answer token by token, `generate` in one piece. Triton then refuses "
        "`infer`, by HTTP and by gRPC: off is for clients that use it, and nobody can stream. Target `tensorrt_llm` "
        "streams only models whose tokens keep their spaces, so not Llama 2 or Mistral.",
        True,
    )
    candidate_http_port: int = _serving(
        "Candidate HTTP port", "Port of the candidate server; 0 takes a free one.", 0, ge=0, le=65535
    )
    test_prompts: list[Prompt] = _gates(
        "Test prompts",
        "Prompts that the candidate must answer, one a line.",
        [SEED_PROMPT],
        min_length=1,
        max_length=20,
        extra={"items": {"type": "string", "maxLength": 4000}, "contains": {"pattern": r"\S"}},
    )
    min_agreement: Share = _gates(
        "Minimum agreement",
        "Least share of first tokens in which the endpoint's answers are those of the calibrated checkpoint, over "
        "all prompts. 0: only measured.",
        0.65,
    )
    max_repetition: Share = _gates(
        "Maximum repetition",
        "By how much answers may repeat themselves more than the checkpoint's: the share of sequences of four tokens "
        "that were said before, averaged over the prompts. 1: only measured.",
        0.25,
    )
    max_perplexity_increase: float = _gates(
        "Maximum perplexity increase",
        "By which share quantization may raise the perplexity on held-out text. SmolLM2-135M rises by 0.21, Llama-2-7B "
        "by 0.02 to 0.03: 0.05 is a better limit for it.",
        0.3,
        ge=0,
        le=100,
    )
    max_perplexity_decrease: Share = _gates(
        "Maximum perplexity decrease",
        "By which share the perplexity may fall before it is taken for a mistake in the measurement.",
        0.02,
    )
    task_data: str = _gates(
        "Tasks",
        "Tasks with known answers, which the original model and the candidate are asked: `builtin`, `off`, or the "
        "absolute path of a `.jsonl` file on the worker, each line with `prompt`, `expected` and `judge`.",
        "builtin",
        pattern=TASKS_PATTERN,
        max_length=400,
    )
    max_task_drop: Share = _gates(
        "Tasks: maximum drop",
        "Share of the tasks that quantization may turn from right to wrong, on balance. If the 95 % interval is on one "
        "side of it, the gate passes or fails; else a person decides. With few tasks only a large limit can be "
        "decided: 0.5 suits the 30 that are built in, 0.02 takes about a thousand.",
        0.5,
    )
    max_task_relative_drop: Share = _gates(
        "Tasks: maximum relative drop",
        "The same as a share of the original's right answers, whatever the interval says. 1: not looked at.",
        1,
    )
    task_guard_below: Share = _gates(
        "Tasks: relative drop below",
        "The relative drop counts only where the original's share of right answers is below this. 1: always.",
        1,
    )
    speed_concurrencies: list[Clients] = _gates(
        "Speed: concurrent requests",
        "How many requests at once the speed gate tries: one number a line, one load after the other.",
        [1, 4],
        min_length=1,
        max_length=8,
        # Without a type of items the form shows lines of text, else an editor for JSON.
        extra={"items": {"multipleOf": 1, "minimum": 1, "maximum": 256, "pattern": r"^\s*[0-9]*\s*$"}},
    )
    min_speed_ratio: float = _gates(
        "Speed: minimum ratio",
        "Least tokens/s at each of these, as a share of the live release's, which is put under the same load beside "
        "the candidate. 0: the live release is left alone, the candidate's speed only measured.",
        0.8,
        ge=0,
        le=10,
    )

    served_name: str = _promotion(
        "Served name",
        "Name that clients call the model by, in small letters, digits, `.`, `_` and `-`. Each name has a live release "
        "and a history of its own. Empty: the last part of the model's id. Given, it may be that of another model, "
        "which this one then replaces.",
        "",
        pattern=NAME_OR_EMPTY_PATTERN,
        max_length=LONGEST,
        extra={"type": ["string", "null"]},  # or the form would demand an entry
    )
    aliases: list[Name] = _promotion(
        "Aliases",
        "More names for clients, one a line.",
        [],
        max_length=20,
        extra={
            "type": ["array", "null"],
            "items": {"type": "string", "maxLength": LONGEST, "pattern": NAME_OR_EMPTY_PATTERN},
        },
    )
    require_approval: bool = _promotion(
        "Require approval",
        "Once the gates are passed, a person decides whether the candidate goes live. Off: the gates decide, unless "
        "the deployment requires approval.",
        False,
    )
    approvers: list[Approver] = _promotion(
        "Approvers",
        "Airflow users who may decide, one a line, by the id that the auth manager gives them (its own: the user "
        "name). Empty: those whom the deployment names, or else everyone who may act on the run.",
        [],
        max_length=50,
        extra={"type": ["array", "null"]},  # or the form would demand an entry
    )
    approval_timeout_h: float = _promotion(
        "Approval timeout",
        "Hours until a candidate that nobody has decided on is rejected. It keeps its memory for so long.",
        24,
        ge=0.1,
        le=720,
    )

    swap: Swap = _promotion(
        "Swap",
        "`blue_green`: the candidate runs beside the live server, and no request is lost. `recreate`, where memory "
        "does not hold two servers: the live server stops before the candidate starts, and the address answers 503 "
        "until one of them is live; the release's report says for how long.",
        "blue_green",
        extra={"former": list(FORMER_SWAPS)},
    )

    @model_validator(mode="before")
    @classmethod
    def _follow_the_target(cls, fields: object) -> object:
        if not isinstance(fields, dict):
            return fields
        defaults = _BY_TARGET.get(str(fields.get("target", "openvino")), _ON_GPUS)
        return {**fields, **{name: value for name, value in defaults.items() if fields.get(name) is None}}

    @field_validator("served_name", mode="before")
    @classmethod
    def _or_empty(cls, value: object) -> object:
        return "" if value is None else value

    @field_validator("test_prompts", "approvers", "speed_concurrencies", "aliases", mode="before")
    @classmethod
    def _one_a_line(cls, value: object) -> object:
        """Blank lines are dropped: people end the last line, too."""
        if value is None:
            return []
        lines = value.splitlines() if isinstance(value, str) else value
        if not isinstance(lines, list):
            return value
        texts = [line.strip() if isinstance(line, str) else line for line in lines]
        return [text for text in texts if text != ""]

    @model_validator(mode="after")
    def _lengths_fit(self) -> Self:
        if self.max_input_len >= self.max_seq_len:
            raise ValueError(
                f"max_input_len ({self.max_input_len}) must be below max_seq_len ({self.max_seq_len}): "
                "max_seq_len counts the prompt and the answer"
            )
        return self

    @model_validator(mode="after")
    def _target_has_format(self) -> Self:
        if self.target not in self.format.targets:
            served = " or ".join(name for name, row in FORMATS.items() if self.target in row.targets)
            raise ValueError(
                f"target {self.target} does not serve quantization {self.quantization}: set it to {served}, or choose "
                f"target {' or '.join(self.format.targets)}, on an NVIDIA GPU of SM {self.format.min_sm} or later"
            )
        return self

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = (self.name, *self.aliases)
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"aliases: {', '.join(twice)} is a name of this model already")
        return self

    @model_validator(mode="after")
    def _nobody_waits_for_a_person(self) -> Self:
        if self.swap == "recreate" and self.require_approval:
            raise ValueError(
                "swap recreate cannot be had with require_approval: the live address would be down until a person "
                "has decided; use swap blue_green, or let the gates decide"
            )
        return self

    @property
    def format(self) -> Format:
        """The format of the weights."""
        return FORMATS[self.quantization]

    @property
    def group_size(self) -> int | None:
        """The number of weights that share a scale; None for a format without groups."""
        return self.format.group(self.awq_group_size)

    @property
    def title(self) -> str:
        """What the run makes, in a few words for people."""
        return f"{PurePosixPath(self.model).name} {self.format.short(self.awq_group_size)}"

    @property
    def name(self) -> str:
        """The served name, given or by default."""
        return self.served_name or default_name(self.model)

    @property
    def is_local(self) -> bool:
        """True if ``model`` is a directory of this host, False if it is a Hub id."""
        return self.model.startswith("/")

    @property
    def slug(self) -> str:
        """The model's name in paths, if no history of an earlier version has another one: see `slug_of`."""
        return slug_of(self.model)


def slug_of(model: str) -> str:
    """The name in paths of a Hub id, or of a model's directory: its last name, and a digest of its whole path.

    The path counts as it is named: a link that leads to another version each week is one model.
    """
    former = former_slug_of(model)
    if former is None:
        return model.replace("/", "--")
    named = posixpath.normpath(f"/{model.lstrip('/')}") if model.startswith("/") else model
    return f"{former[:_LONGEST_NAME]}-{hashlib.sha256(named.encode()).hexdigest()[:8]}"


def former_slug_of(model: str) -> str | None:
    """The name in paths that earlier versions gave to a model, if it was not the model's alone."""
    if model.startswith("/"):
        return f"local--{re.sub(r'[^A-Za-z0-9.-]', '_', PurePosixPath(model).name)}"
    return model.replace("/", "--") if model.startswith("local/") else None


_A_NAME = (
    f"a served name: at most {LONGEST} small letters, digits, '.', '_' and '-', a letter or digit first; "
    f"{', '.join(RESERVED)} have a meaning of their own"
)
_FORMS = {
    "model": "a Hub id such as org/name, nor an absolute path",
    "calib_data": "builtin, a Hub dataset id, nor an absolute path",
    "task_data": "builtin, off, nor an absolute path",
    "revision": "a branch, tag or commit",
}


def _problem(error: ErrorDetails, fields: Collection[str]) -> str:
    field, message = ".".join(map(str, error["loc"])), error["msg"]
    if error["type"] == "string_pattern_mismatch":
        is_name = error["ctx"]["pattern"] in {NAME_PATTERN, NAME_OR_EMPTY_PATTERN}
        if form := _A_NAME if is_name else _FORMS.get(field):
            message = f"{error['input']!r} is not {form}"
    elif error["type"] == "extra_forbidden":
        near = difflib.get_close_matches(field, fields, n=1)
        message = f"there is no such field{''.join(f'; did you mean {name}?' for name in near)}"
    return f"{field}: {message}" if field else message.removeprefix("Value error, ")
