"""What Envoy lets through to a server: routes, limits and, in ``guard.lua``, the kinds of values in JSON bodies.

All else is answered by Envoy itself. Triton 2.51 parses bodies and nested JSON on its stack, and has an interface that
changes the server beside the one that users need.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from include.settings import Settings

_API = "type.googleapis.com/envoy"
_FILTERS = f"{_API}.extensions.filters.http"
_SWITCHED_OFF = {"@type": f"{_API}.config.route.v3.FilterConfig", "disabled": True}
_SWITCHED_ON = {"@type": f"{_API}.config.route.v3.FilterConfig", "config": {}}
_BUFFER = "envoy.filters.http.buffer"
_LUA = "envoy.filters.http.lua"
_SIZE = "envoy.filters.http.body_size_limit"
# None of these three can have reached a server's model: the request is sent again without doing anything twice.
_RETRY_ON = "connect-failure,refused-stream,reset-before-request"

_MODEL = r"/v2/models/(ensemble|tensorrt_llm|tensorrt_llm_bls)(/versions/[0-9]+)?"
_ABOUT_SERVER = ("/v2", "/v2/health/live", "/v2/health/ready")
_ABOUT_MODEL = r"/v2/models/[A-Za-z0-9_.-]+(/versions/[0-9]+)?(/ready|/config)?"
_ASK = rf"{_MODEL}/(generate|generate_stream|infer)"
_API_PATHS = ("/v1/chat/completions", "/v1/completions")
_ABOUT_API = r"/v1/models(/[A-Za-z0-9_.-]+)?"
_OPENAI = "/v1/"
_SERVICE = "/inference.GRPCInferenceService"
_ASKED = ("ServerLive", "ServerReady", "ServerMetadata", "ModelReady", "ModelMetadata", "ModelConfig")
_HEALTH = "/grpc.health.v1.Health"

# A model inside an ensemble is not told that the client of an answer without pieces has gone: it has to know the
# client's connection. Triton 2.51 forwards headers with infer only, so guard.lua puts its name into bodies to generate.
# Models of stored releases refuse an option that they do not know, unless its name begins as Triton's own do.
_CONNECTION = "x-hf2triton-connection"
_CODE = Path(__file__).with_name("guard.lua")
_BODIES_OF_A_STREAM = 16
_RESOURCE_EXHAUSTED = "8"


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
    if name == "grpc":
        passed.append(_filter(_SIZE, "body_size_limit.v3.BodySizeLimit", {"max_request_bytes": _stream_bytes(limits)}))
    if name == "http":
        code = _filter(_LUA, "lua.v3.Lua", {"default_source_code": _text(_CODE.read_text())})
        passed += [_headers(), {**code, "disabled": True}]
    return passed


def replies(name: str, limits: Limits) -> dict[str, Any]:
    """Envoy's own errors with the limit's name, in Triton's form: a JSON object, or a gRPC status."""
    longest = f"the body has more than {limits.body_bytes} bytes (HF2TRITON_MAX_BODY_BYTES)"
    too_long = _reworded(413, longest)
    if name == "grpc":
        too_long = _reworded(413, f"{longest}, or those of one stream more than {_stream_bytes(limits)}")
        too_long["headers_to_add"] = [_set_header("grpc-status", _RESOURCE_EXHAUSTED)]
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
        "mappers": [*map(_in_openai_form, mappers), *_openai_errors(), *mappers],
        "body_format": {"json_format": {"error": "%LOCAL_REPLY_BODY%"}},
    }


def _openai_errors() -> list[dict[str, Any]]:
    """The form of all other errors at OpenAI's paths."""
    asked, failed = _status("LE", 499), _status("GE", 500)
    return [_in_openai_form({"filter": asked}), _in_openai_form({"filter": failed}, "server_error")]


def _in_openai_form(mapper: dict[str, Any], kind: str = "invalid_request_error") -> dict[str, Any]:
    """The same for requests to OpenAI's paths only."""
    here = {"header_filter": {"header": {"name": ":path", "string_match": {"prefix": _OPENAI}}}}
    kind = "rate_limit_error" if mapper.get("status_code") == 429 else kind
    error = {"message": "%LOCAL_REPLY_BODY%", "type": kind, "param": None, "code": None}
    return {
        **mapper,
        "filter": {"and_filter": {"filters": [mapper["filter"], here]}},
        "body_format_override": {"json_format": {"error": error}},
    }


def _http() -> list[dict[str, Any]]:
    encoded = {"prefix": "/", "headers": [{"name": "content-encoding", "present_match": True}]}
    about = [_path(path, "GET") for path in _ABOUT_SERVER] + [_regex(_ABOUT_MODEL, "GET")]
    return [
        _reply(encoded, 415, "compressed bodies are not taken: send it without content-encoding"),
        *(_to("http", match, priority="HIGH") for match in about),
        _to("http", _regex(_ASK, "POST"), filters={_LUA: _SWITCHED_ON}),
        _to("api", _regex(_ABOUT_API, "GET"), priority="HIGH"),
        *(_to("api", _path(path, "POST")) for path in _API_PATHS),
    ]


def _grpc() -> list[dict[str, Any]]:
    about = [f"{_HEALTH}/Check", *(f"{_SERVICE}/{method}" for method in _ASKED)]
    return [
        *(_to("grpc", _path(path, "POST"), priority="HIGH") for path in about),
        _to("grpc", _path(f"{_SERVICE}/ModelInfer", "POST")),
        # A stream's body has no end before its client closes it: it is counted, and not waited for.
        _to("grpc", _path(f"{_SERVICE}/ModelStreamInfer", "POST"), filters={_BUFFER: _SWITCHED_OFF}),
    ]


def _metrics() -> list[dict[str, Any]]:
    return [_to("metrics", _path("/metrics", "GET"), priority="HIGH")]


_ROUTES = {"http": _http, "grpc": _grpc, "metrics": _metrics}


def _to(
    cluster: str, match: dict[str, Any], *, priority: str = "DEFAULT", filters: dict[str, Any] | None = None
) -> dict[str, Any]:
    """A route to the server. Questions about it have a HIGH priority, that is a count of requests of their own."""
    route = {
        "cluster": cluster,
        "priority": priority,
        "timeout": "0s",
        "retry_policy": {"retry_on": _RETRY_ON, "num_retries": 3},
    }
    return {"match": match, "route": route, "typed_per_filter_config": filters or {}}


def _path(path: str, method: str) -> dict[str, Any]:
    return {"path": path, "headers": [{"name": ":method", "string_match": {"exact": method}}]}


def _regex(regex: str, method: str) -> dict[str, Any]:
    return {"safe_regex": {"regex": regex}, "headers": [{"name": ":method", "string_match": {"exact": method}}]}


def _reply(match: dict[str, Any], status: int, said: str) -> dict[str, Any]:
    return {"match": match, "direct_response": {"status": status, "body": _text(said)}}


def _stream_bytes(limits: Limits) -> int:
    return _BODIES_OF_A_STREAM * limits.body_bytes


def _reworded(status: int, said: str) -> dict[str, Any]:
    return {"filter": _status("EQ", status), "body": _text(said)}


def _status(compared: str, status: int) -> dict[str, Any]:
    comparison = {"op": compared, "value": {"default_value": status, "runtime_key": "none"}}
    return {"status_code_filter": {"comparison": comparison}}


def _text(said: str) -> dict[str, str]:
    return {"inline_string": said}


def _set_header(key: str, value: str) -> dict[str, Any]:
    return {"header": {"key": key, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}


def _headers() -> dict[str, Any]:
    """Says that a body is JSON, whatever the client said: Triton would take a form apart, curl's default."""
    connection = "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS%"
    set_to = {"content-type": "application/json", _CONNECTION: connection}
    mutations = [{"append": _set_header(key, value)} for key, value in set_to.items()]
    return _filter(
        "envoy.filters.http.header_mutation",
        "header_mutation.v3.HeaderMutation",
        {"mutations": {"request_mutations": mutations}},
    )


def _filter(name: str, kind: str, config: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "typed_config": {"@type": f"{_FILTERS}.{kind}", **config}}
