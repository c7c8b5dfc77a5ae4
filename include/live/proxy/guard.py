"""What Envoy lets through to a server: the routes, and the kinds of the options in a JSON body.

All else is answered by Envoy itself. Triton 2.51 parses bodies and nested JSON on its stack, turns 4294967300 into 4
and does not name the field it could not read, so what can be known before it is refused here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from include.settings import Settings

_API = "type.googleapis.com/envoy"
_FILTERS = f"{_API}.extensions.filters.http"
_SWITCHED_OFF = {"@type": f"{_API}.config.route.v3.FilterConfig", "disabled": True}
_BUFFER = "envoy.filters.http.buffer"
_LUA = "envoy.filters.http.lua"
_READER = "envoy.filters.http.json_to_metadata"
# None of these three can have reached a server's model: the request is sent again without doing anything twice.
_RETRY_ON = "connect-failure,refused-stream,reset-before-request"

_MODEL = r"/v2/models/(ensemble|tensorrt_llm|tensorrt_llm_bls)(/versions/[0-9]+)?"
_ABOUT_SERVER = ("/v2", "/v2/health/live", "/v2/health/ready")
_ABOUT_MODEL = r"/v2/models/[A-Za-z0-9_.-]+(/versions/[0-9]+)?(/ready|/config)?"
_GENERATE = rf"{_MODEL}/generate(_stream)?"
_INFER = rf"{_MODEL}/infer"
_SERVICE = "/inference.GRPCInferenceService"
_ASKED = ("ServerLive", "ServerReady", "ServerMetadata", "ModelReady", "ModelMetadata", "ModelConfig")
_HEALTH = "/grpc.health.v1.Health"

_CONNECTION = "x-hf2triton-connection"
_FIELD = "triton_hf2triton_connection"
# A model inside an ensemble is not told that the client of an answer without pieces has gone: it has to know the
# client's connection. Triton 2.51 forwards headers with infer only, so with generate its name goes into the body.
# Models of stored releases refuse an option that they do not know, unless its name begins as Triton's own do.
_INTO_BODY = f"""
function envoy_on_request(handle)
  local text = handle:body():getBytes(0, handle:body():length())
  local start = string.match(text, "^%s*{{()")
  if start then
    local field = '"{_FIELD}":"' .. handle:headers():get("{_CONNECTION}") .. '",'
    handle:body():setBytes("{{" .. field .. string.sub(text, start))
  end
end
"""


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


def routes(name: str) -> list[dict[str, Any]]:
    """The routes of one listener, ``http``, ``grpc`` or ``metrics``; the first that matches is taken."""
    nothing = _reply({"prefix": "/"}, 404, "this address serves nothing at that path, or not by that method")
    return [*_ROUTES[name](), nothing]


def filters(name: str, limits: Limits) -> list[dict[str, Any]]:
    """What a listener's requests pass before they are sent on."""
    passed = [_filter(_BUFFER, "buffer.v3.Buffer", {"max_request_bytes": limits.body_bytes})]
    if name == "http":
        passed += [_headers(), _reader(), _filter(_LUA, "lua.v3.Lua", {"default_source_code": _text(_INTO_BODY)})]
    return passed


def replies(name: str, limits: Limits) -> dict[str, Any]:
    """Envoy's own errors with the limit's name, in Triton's form: a JSON object, or a gRPC status."""
    mappers = [
        _reworded(413, f"the body has more than {limits.body_bytes} bytes (HF2TRITON_MAX_BODY_BYTES)"),
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
    form = {} if name == "grpc" else {"body_format": {"json_format": {"error": "%LOCAL_REPLY_BODY%"}}}
    return {"mappers": mappers, **form}


def _http() -> list[dict[str, Any]]:
    encoded = {"prefix": "/", "headers": [{"name": "content-encoding", "present_match": True}]}
    about = [_path(path, "GET") for path in _ABOUT_SERVER] + [_regex(_ABOUT_MODEL, "GET")]
    return [
        _reply(encoded, 415, "compressed bodies are not taken: send it without content-encoding"),
        *(_to("http", match, priority="HIGH", without=(_READER, _LUA)) for match in about),
        *_refusals(),
        _to("http", _regex(_GENERATE, "POST")),
        _to("http", _regex(_INFER, "POST"), without=(_READER, _LUA)),
    ]


def _grpc() -> list[dict[str, Any]]:
    about = [f"{_HEALTH}/Check", *(f"{_SERVICE}/{method}" for method in _ASKED)]
    return [
        *(_to("grpc", _path(path, "POST"), priority="HIGH") for path in about),
        _to("grpc", _path(f"{_SERVICE}/ModelInfer", "POST")),
        # A stream's body has no end before its client closes it: it cannot be waited for.
        _to("grpc", _path(f"{_SERVICE}/ModelStreamInfer", "POST"), without=(_BUFFER,)),
    ]


def _metrics() -> list[dict[str, Any]]:
    return [_to("metrics", _path("/metrics", "GET"), priority="HIGH")]


_ROUTES = {"http": _http, "grpc": _grpc, "metrics": _metrics}


def _to(
    cluster: str, match: dict[str, Any], *, priority: str = "DEFAULT", without: tuple[str, ...] = ()
) -> dict[str, Any]:
    """A route to the server. Questions about it have a HIGH priority, that is a count of requests of their own."""
    route = {
        "cluster": cluster,
        "priority": priority,
        "timeout": "0s",
        "retry_policy": {"retry_on": _RETRY_ON, "num_retries": 3},
    }
    return {"match": match, "route": route, "typed_per_filter_config": dict.fromkeys(without, _SWITCHED_OFF)}


def _path(path: str, method: str) -> dict[str, Any]:
    return {"path": path, "headers": [{"name": ":method", "string_match": {"exact": method}}]}


def _regex(regex: str, method: str) -> dict[str, Any]:
    return {"safe_regex": {"regex": regex}, "headers": [{"name": ":method", "string_match": {"exact": method}}]}


def _reply(match: dict[str, Any], status: int, said: str) -> dict[str, Any]:
    return {"match": match, "direct_response": {"status": status, "body": _text(said)}}


def _reworded(status: int, said: str) -> dict[str, Any]:
    compared = {"op": "EQ", "value": {"default_value": status, "runtime_key": "none"}}
    return {"filter": {"status_code_filter": {"comparison": compared}}, "body": _text(said)}


def _text(said: str) -> dict[str, str]:
    return {"inline_string": said}


@dataclass(frozen=True)
class _Kind:
    """A kind of option: how an error describes it, and Envoy's matchers of its values, or of all others."""

    described: str
    right: dict[str, Any] | None = None
    wrong: dict[str, Any] | None = None
    whole: bool = False


def _number(least: float, beyond: float) -> dict[str, Any]:
    return {"double_match": {"range": {"start": least, "end": beyond}}}


def _any_of(*matchers: dict[str, Any]) -> dict[str, Any]:
    return {"or_match": {"value_matchers": [*matchers]}}


_FLOAT = 3.4e38  # what TYPE_FP32 holds
_TRUE_OR_FALSE = ({"bool_match": True}, {"bool_match": False})
_NO_TEXT = _any_of(*_TRUE_OR_FALSE, _number(-1e308, 1e308))
_INT32 = _Kind("a whole number from -2147483648 to 2147483647", _number(-(2**31), 2**31), whole=True)
_INT63 = _Kind("a whole number from 0 to 9223372036854775807", _number(0, 2**64), whole=True)
_FP32 = _Kind("a number", _number(-_FLOAT, _FLOAT))
_NOT_NEGATIVE = _Kind("a number that is not negative", _number(0, _FLOAT))
_BOOL = _Kind("true or false", _any_of(*_TRUE_OR_FALSE))
_STRING = _Kind("a string", wrong=_NO_TEXT)
_WORDS = _Kind("a list of strings", wrong=_NO_TEXT)

# The ensemble's inputs that every target has.
_NEEDED = {"text_input": _STRING, "max_tokens": _INT32}
_OPTIONS = {
    **_NEEDED,
    "id": _STRING,
    "bad_words": _WORDS,
    "stop_words": _WORDS,
    **dict.fromkeys(("end_id", "pad_id", "top_k", "min_tokens"), _INT32),
    "seed": _INT63,
    **dict.fromkeys(("temperature", "top_p"), _NOT_NEGATIVE),
    **dict.fromkeys(("repetition_penalty", "presence_penalty", "frequency_penalty"), _FP32),
    **dict.fromkeys(
        ("exclude_input_in_output", "return_num_input_tokens", "return_num_output_tokens", "stream"), _BOOL
    ),
}
_NESTED = "parameters"
_UNREADABLE = "unreadable"
_READABLE = "a JSON object (at most 1000 levels deep, whole numbers below 2**63)"
_PRESENT = {"present_match": True}
# Longer ones may hold a text that the reader takes for missing.
_SHORT = {"name": "content-length", "string_match": {"safe_regex": {"regex": "[1-7]?[0-9]{1,3}"}}}


def _fields() -> Iterator[tuple[tuple[str, ...], _Kind]]:
    """Where an option may stand in a body."""
    for option, kind in _OPTIONS.items():
        yield (option,), kind
        yield (_NESTED, option), kind


def _refusals() -> Iterator[dict[str, Any]]:
    """Routes that answer what Triton would misread."""
    for path, kind in _fields():
        field = ".".join(path)
        wrong = [_metadata(field, kind.wrong)] if kind.wrong else []
        wrong += [_metadata(field, kind.right, invert=True)] if kind.right else []
        if kind.whole:
            digits = {"string_match": {"safe_regex": {"regex": "-?[0-9]+"}}}
            wrong.append(_metadata(_as_text(field), digits, invert=True))
        for one in wrong:
            yield _refusal(f"{path[-1]} must be {kind.described}", _metadata(field, _PRESENT), one)
    yield _refusal(f"{_NESTED} must be an object", _metadata(_NESTED, _PRESENT))
    for option, kind in _NEEDED.items():
        missing = [_metadata(_missing(name), _PRESENT) for name in (option, f"{_NESTED}.{option}")]
        refusal = _refusal(f"{option} must be given, and be {kind.described}", *missing)
        refusal["match"]["headers"].append(_SHORT)
        yield refusal
    yield _refusal(f"the body must be {_READABLE}", _metadata(_UNREADABLE, _PRESENT))


def _refusal(said: str, *metadata: dict[str, Any]) -> dict[str, Any]:
    return _reply({**_regex(_GENERATE, "POST"), "dynamic_metadata": [*metadata]}, 400, said)


def _metadata(field: str, value: dict[str, Any], *, invert: bool = False) -> dict[str, Any]:
    return {"filter": _READER, "path": [{"key": field}], "value": value, "invert": invert}


def _reader() -> dict[str, Any]:
    """Reads the options of a JSON body into the request's metadata, which `_refusals` match.

    What it cannot read is missing there: null, lists, objects and texts of more than 8 KiB. A body with a whole
    number of 2**63 or more is unreadable.
    """
    rules = [_rule((_NESTED,), _NESTED) | {"on_error": _value(_UNREADABLE)}]
    for path, kind in _fields():
        field = ".".join(path)
        rules.append(_rule(path, field))
        if path[-1] in _NEEDED:
            rules[-1]["on_missing"] = _value(_missing(field))
        if kind.whole:
            rules.append(_rule(path, _as_text(field), "STRING"))
    return _filter(_READER, "json_to_metadata.v3.JsonToMetadata", {"request_rules": {"rules": rules}})


def _missing(field: str) -> str:
    return f"{field} is missing"


def _as_text(field: str) -> str:
    return f"{field} as text"


def _rule(path: tuple[str, ...], field: str, kind: str = "PROTOBUF_VALUE") -> dict[str, Any]:
    target = {"metadata_namespace": _READER, "key": field, "type": kind}
    return {"selectors": [{"key": key} for key in path], "on_present": target}


def _value(key: str) -> dict[str, str]:
    return {"metadata_namespace": _READER, "key": key, "value": "yes"}


def _headers() -> dict[str, Any]:
    """Says that a body is JSON, whatever the client said: Triton would take a form apart, curl's default."""
    set_to = {"content-type": "application/json", _CONNECTION: "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS%"}
    mutations = [
        {"append": {"header": {"key": key, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}}
        for key, value in set_to.items()
    ]
    return _filter(
        "envoy.filters.http.header_mutation",
        "header_mutation.v3.HeaderMutation",
        {"mutations": {"request_mutations": mutations}},
    )


def _filter(name: str, kind: str, config: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "typed_config": {"@type": f"{_FILTERS}.{kind}", **config}}
