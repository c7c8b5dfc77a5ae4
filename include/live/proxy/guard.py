"""What a request that Envoy lets through may be: its limits and, in ``guard.lua``, the kinds of values in JSON bodies.

Triton 2.51 parses bodies and nested JSON on its stack, and has an interface that
changes the server beside the one that users need.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from include.settings import Settings

_API = "type.googleapis.com/envoy"
_FILTERS = f"{_API}.extensions.filters.http"
_BUFFER = "envoy.filters.http.buffer"
_LUA = "envoy.filters.http.lua"
_SIZE = "envoy.filters.http.body_size_limit"
_SWITCH = f"{_API}.config.route.v3.FilterConfig"
_OPENAI = "/v1/"

# A model inside an ensemble is not told that the client of an answer without pieces has gone: it has to know the
# client's connection. Triton 2.51 forwards headers with infer only, so guard.lua puts its name into bodies to generate.
# Models of stored releases refuse an option that they do not know, unless its name begins as Triton's own do.
_CONNECTION = "x-hf2triton-connection"
_CODE, _METADATA = (Path(__file__).with_name(name) for name in ("guard.lua", "metadata.lua"))
_BODIES_OF_A_STREAM = 16
_RESOURCE_EXHAUSTED = "8"

CHECKED = {_LUA: {"@type": _SWITCH, "config": {}}}
"""The filters of a route whose JSON bodies are checked."""

# A stream's body has no end before its client closes it: it is counted, and not waited for.
ENDLESS = {_BUFFER: {"@type": _SWITCH, "disabled": True}}
"""The filters of a route of gRPC streams."""


@dataclass(frozen=True)
class Limits:
    """How much one request may take, and how many there may be."""

    body_bytes: int
    requests: int
    header_s: float
    request_s: float

    @classmethod
    def of(cls, settings: Settings) -> Limits:
        """A deployment's own."""
        return cls(
            settings.max_body_bytes,
            settings.max_requests_in_flight,
            settings.header_timeout_s,
            settings.request_timeout_s,
        )


def described(name: str, release: str, *, renamed: bool = False) -> dict[str, Any]:
    """The filters of a route to a model's metadata, which tell the served name and the release among ``parameters``.

    If ``renamed``, the model is also called by its served name.
    """
    about = json.dumps({"model": name, "release": release}, separators=(",", ":"))
    context = {"parameters": about, **({"name": json.dumps(name)} if renamed else {})}
    chosen = {"@type": f"{_FILTERS}.lua.v3.LuaPerRoute", "name": _METADATA.name, "filter_context": context}
    return {_LUA: {"@type": _SWITCH, "config": chosen}}


def filters(name: str, limits: Limits) -> list[dict[str, Any]]:
    """What a listener's requests pass before they are sent on."""
    passed = [_filter(_BUFFER, "buffer.v3.Buffer", {"max_request_bytes": limits.body_bytes})]
    if name == "grpc":
        passed.append(_filter(_SIZE, "body_size_limit.v3.BodySizeLimit", {"max_request_bytes": _stream_bytes(limits)}))
    if name == "http":
        other = {_METADATA.name: _text(_METADATA.read_text())}
        code = _filter(_LUA, "lua.v3.Lua", {"default_source_code": _text(_CODE.read_text()), "source_codes": other})
        passed += [_headers(), {**code, "disabled": True}]
    return passed


def replies(name: str, limits: Limits) -> dict[str, Any]:
    """Envoy's own errors with the limit's name, in Triton's form: a JSON object, or a gRPC status."""
    longest = f"the body has more than {limits.body_bytes} bytes (HF2TRITON_MAX_BODY_BYTES)"
    too_long = _reworded(413, longest)
    if name == "grpc":
        too_long = _reworded(413, f"{longest}, or those of one stream more than {_stream_bytes(limits)}")
        too_long["headers_to_add"] = [set_header("grpc-status", _RESOURCE_EXHAUSTED)]
    mappers = [
        too_long,
        _reworded(
            408,
            f"the request did not arrive in time: its headers within {limits.header_s:g} s "
            f"(HF2TRITON_HEADER_TIMEOUT_S), all of it within {limits.request_s:g} s "
            "(HF2TRITON_REQUEST_TIMEOUT_S)",
        ),
        {
            "filter": {"response_flag_filter": {"flags": ["UO"]}},
            "status_code": 429,
            "body": _text(f"{limits.requests} requests are in flight already (HF2TRITON_MAX_REQUESTS_IN_FLIGHT)"),
        },
    ]
    if name == "grpc":
        return {"mappers": mappers}
    return {
        "mappers": [*map(in_openai_form, mappers), *_openai_errors(), *mappers],
        "body_format": {"json_format": {"error": "%LOCAL_REPLY_BODY%"}},
    }


def _openai_errors() -> list[dict[str, Any]]:
    """The form of all other errors at OpenAI's paths."""
    asked, failed = _status("LE", 499), _status("GE", 500)
    return [in_openai_form({"filter": asked}), in_openai_form({"filter": failed}, "server_error")]


def in_openai_form(mapper: dict[str, Any], kind: str = "invalid_request_error") -> dict[str, Any]:
    """The same for requests to OpenAI's paths only."""
    here = {"header_filter": {"header": {"name": ":path", "string_match": {"prefix": _OPENAI}}}}
    kind = "rate_limit_error" if mapper.get("status_code") == 429 else kind
    error = {"message": "%LOCAL_REPLY_BODY%", "type": kind, "param": None, "code": None}
    return {
        **mapper,
        "filter": {"and_filter": {"filters": [mapper["filter"], here]}},
        "body_format_override": {"json_format": {"error": error}},
    }


def _stream_bytes(limits: Limits) -> int:
    return _BODIES_OF_A_STREAM * limits.body_bytes


def _reworded(status: int, said: str) -> dict[str, Any]:
    return {"filter": _status("EQ", status), "body": _text(said)}


def _status(compared: str, status: int) -> dict[str, Any]:
    comparison = {"op": compared, "value": {"default_value": status, "runtime_key": "none"}}
    return {"status_code_filter": {"comparison": comparison}}


def _text(said: str) -> dict[str, str]:
    return {"inline_string": said}


def set_header(key: str, value: str) -> dict[str, Any]:
    """A header that is set to a value, whether it is there or not."""
    return {"header": {"key": key, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}


def _headers() -> dict[str, Any]:
    """Says that a body is JSON, whatever the client said: Triton would take a form apart, curl's default."""
    connection = "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS%"
    set_to = {"content-type": "application/json", _CONNECTION: connection}
    mutations = [{"append": set_header(key, value)} for key, value in set_to.items()]
    return _filter(
        "envoy.filters.http.header_mutation",
        "header_mutation.v3.HeaderMutation",
        {"mutations": {"request_mutations": mutations}},
    )


def _filter(name: str, kind: str, config: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "typed_config": {"@type": f"{_FILTERS}.{kind}", **config}}
