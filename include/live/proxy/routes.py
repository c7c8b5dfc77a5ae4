"""Which request goes to which model, by the name in its path or its header; a request that names none, to the default.

`include.live.proxy.guard` says what of it is let through; all else is answered by Envoy itself. Each server calls its
models alike, so the served name in a path is rewritten to the server's own ``ensemble``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from include.live.proxy import guard
from include.live.proxy.routing import Cluster, Routing, Served
from include.requests.names import RESERVED

NAME_HEADER = "x-gateway-model-name"
"""The request header that names a model: that of the Gateway API's inference extension, and of KServe."""

RELEASE_HEADER, MODEL_HEADER = "x-hf2triton-release", "x-hf2triton-model"
"""The response headers with the release and with the served name."""

ENTRY = "ensemble"
OWN = (ENTRY, "tensorrt_llm", "tensorrt_llm_bls")
"""What each server calls the models that users ask."""

PARTS = RESERVED
"""What each server calls its models: no served name is reached by a path with one of these."""

API = "api"
"""The cluster of the OpenAI API's service."""

API_METRICS = "/api/metrics"
"""The path of the service's metrics; those of a server have its name after theirs."""

_ABOUT_API = r"/v1/models(/[A-Za-z0-9_.-]+)?"
_ASK_API = "/v1/(chat/)?completions"
_ABOUT_SERVER = "/v2(/health/(live|ready))?"
_ASK = "/(generate|generate_stream|infer)"
_ANY = "[^/]+"
_NO_NAME = "/"  # which no part of a path, and no name, can be
_SERVICE = r"/inference\.GRPCInferenceService"
_CALLS = "(ServerLive|ServerReady|ServerMetadata|ModelReady|ModelMetadata|ModelConfig)"
_ABOUT_BY_GRPC = rf"{_SERVICE}/{_CALLS}|/grpc\.health\.v1\.Health/Check"

# None of these three can have reached a server's model: the request is sent again without doing anything twice.
_RETRIED = {"retry_policy": {"retry_on": "connect-failure,refused-stream,reset-before-request", "num_retries": 3}}
_TABLE = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
_NOTHING = "this address serves nothing at that path, or not by that method"
_LONGEST_REPLY = 65536
_MOST_NAMES = 40  # in an error: a gRPC client takes no more than 8 KiB of it
_NOT_FOUND = "5"

_NAMED = {"name": NAME_HEADER, "present_match": True}
_NAMELESS = {"name": NAME_HEADER, "present_match": False}


@dataclass(frozen=True)
class _Target:
    """A served name as the aim of routes; ``labels`` is all that it is called."""

    name: str
    labels: tuple[str, ...]
    served: Served

    @property
    def by_header(self) -> dict[str, Any]:
        """The header that chooses it."""
        return {"name": NAME_HEADER, "string_match": {"safe_regex": {"regex": any_of(self.labels)}}}

    def to(
        self,
        listener: str,
        match: dict[str, Any],
        *,
        about: bool = False,
        filters: dict[str, Any] | None = None,
        own_path: tuple[str, str] | None = None,
    ) -> dict[str, Any]:
        """A route to the server; ``own_path`` is the beginning of a path and what replaces it.

        Questions ``about`` the server have a HIGH priority, that is a count of requests of their own.
        """
        said = {RELEASE_HEADER: self.served.release, MODEL_HEADER: self.name}
        headers = {"response_headers_to_add": [guard.set_header(key, value) for key, value in said.items()]}
        if self.served.upstream is None:
            return {**_reply(match, 503, f"model {self.name} has no server now"), **headers}
        route = {
            "cluster": str(Cluster(listener, self.name, self.served.upstream)),
            "priority": "HIGH" if about else "DEFAULT",
            "timeout": "0s",
            **_RETRIED,
        }
        if own_path:
            route["regex_rewrite"] = {"pattern": {"regex": f"^{own_path[0]}"}, "substitution": own_path[1]}
        return {"match": match, "route": route, **headers, "typed_per_filter_config": filters or {}}


def of(listener: str, routing: Routing) -> dict[str, Any]:
    """Envoy's table of routes for one listener, ``http``, ``grpc`` or ``metrics``; the first that matches is taken."""
    served = routing.served()
    targets = [_Target(name, labels, served[name]) for name, labels in routing.labels().items()]
    default = next((one for one in targets if one.name == routing.default), None)
    routes = [*_TABLES[listener](targets, default), _reply({"prefix": "/"}, 404, _NOTHING)]
    return {
        "@type": _TABLE,
        "name": listener,
        "max_direct_response_body_size_bytes": _LONGEST_REPLY,
        "virtual_hosts": [{"name": listener, "domains": ["*"], "routes": routes}],
    }


def any_of(names: Iterable[str]) -> str:
    """The regular expression that matches these names and nothing else."""
    return f"({'|'.join(re.escape(name) for name in names) or _NO_NAME})"


def _http(targets: list[_Target], default: _Target | None) -> Iterator[dict[str, Any]]:
    encoded = {"prefix": "/", "headers": [{"name": "content-encoding", "present_match": True}]}
    yield _reply(encoded, 415, "compressed bodies are not taken: send it without content-encoding")
    yield from _openai()
    for one in targets:
        yield from _by_path(one)
        yield from _alike(one, one.by_header)
    alike = {"safe_regex": {"regex": rf"{_ABOUT_SERVER}|{_model(any_of(PARTS))}(/.*)?"}}
    yield _unknown(alike, targets, by_header=True)
    if default:
        yield from _alike(default, _NAMELESS)
    else:
        yield _no_default(_regex(rf"{_ABOUT_SERVER}|{_model(any_of(PARTS))}(/ready|/config)?", "GET", _NAMELESS))
        yield _no_default(_regex(_model(any_of(OWN)) + _ASK, "POST", _NAMELESS))
    known = any_of([*PARTS, *(label for one in targets for label in one.labels)])
    yield _reply({"safe_regex": {"regex": rf"/v2/models/{known}(/.*)?"}}, 404, _NOTHING)
    yield _unknown({"prefix": "/v2/models/"}, targets)


def _openai() -> Iterator[dict[str, Any]]:
    """Requests for the service of the OpenAI API, which names the model to this proxy."""
    for match, priority in ((_regex(_ABOUT_API, "GET"), "HIGH"), (_regex(_ASK_API, "POST"), "DEFAULT")):
        yield {"match": match, "route": {"cluster": API, "priority": priority, "timeout": "0s", **_RETRIED}}


def _by_path(one: _Target) -> Iterator[dict[str, Any]]:
    """Requests with the served name in their path."""
    model, own = (
        _model(any_of(label for label in one.labels if label not in PARTS)),
        (f"/v2/models/{_ANY}", f"/v2/models/{ENTRY}"),
    )
    metadata = guard.described(one.name, one.served.release, renamed=True)
    yield one.to("http", _regex(model, "GET"), about=True, filters=metadata, own_path=own)
    yield one.to("http", _regex(rf"{model}(/ready|/config)", "GET"), about=True, own_path=own)
    yield one.to("http", _regex(model + _ASK, "POST"), filters=guard.CHECKED, own_path=own)


def _alike(one: _Target, chosen: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Requests that call models as every server does; what is ``chosen`` about their header makes them this name's."""
    metadata = guard.described(one.name, one.served.release)
    parts = _model(any_of(PARTS))
    yield one.to("http", _regex(_model(ENTRY), "GET", chosen), about=True, filters=metadata)
    yield one.to("http", _regex(rf"{_ABOUT_SERVER}|{parts}(/ready|/config)?", "GET", chosen), about=True)
    yield one.to("http", _regex(_model(any_of(OWN)) + _ASK, "POST", chosen), filters=guard.CHECKED)


def _grpc(targets: list[_Target], default: _Target | None) -> Iterator[dict[str, Any]]:
    for one in targets:
        yield from _calls(one, one.by_header)
    status = {"response_headers_to_add": [guard.set_header("grpc-status", _NOT_FOUND)]}
    yield {**_unknown({"prefix": "/"}, targets, by_header=True), **status}
    if default:
        yield from _calls(default, _NAMELESS)
    else:
        asked = rf"{_ABOUT_BY_GRPC}|{_SERVICE}/(ModelInfer|ModelStreamInfer)"
        yield _no_default(_regex(asked, "POST", _NAMELESS))


def _calls(one: _Target, chosen: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield one.to("grpc", _regex(_ABOUT_BY_GRPC, "POST", chosen), about=True)
    yield one.to("grpc", _regex(rf"{_SERVICE}/ModelInfer", "POST", chosen))
    yield one.to("grpc", _regex(rf"{_SERVICE}/ModelStreamInfer", "POST", chosen), filters=guard.ENDLESS)


def _metrics(targets: list[_Target], default: _Target | None) -> Iterator[dict[str, Any]]:
    for one in targets:
        own = (f"/metrics/{_ANY}", "/metrics")
        yield one.to("metrics", _regex(f"/metrics/{any_of(one.labels)}", "GET"), about=True, own_path=own)
    bare = _regex("/metrics", "GET")
    yield default.to("metrics", bare, about=True) if default else _no_default(bare)
    yield _unknown({"prefix": "/metrics/"}, targets)
    route = {"cluster": API, "prefix_rewrite": "/metrics", "priority": "HIGH", "timeout": "0s", **_RETRIED}
    yield {"match": _regex(API_METRICS, "GET"), "route": route}


_TABLES = {"http": _http, "grpc": _grpc, "metrics": _metrics}


def _model(name: str) -> str:
    return rf"/v2/models/{name}(/versions/[0-9]+)?"


def _regex(regex: str, method: str, *headers: dict[str, Any]) -> dict[str, Any]:
    """Requests whose whole path matches, with this method and these headers."""
    by_method = {"name": ":method", "string_match": {"exact": method}}
    return {"safe_regex": {"regex": regex}, "headers": [by_method, *headers]}


def _unknown(match: dict[str, Any], targets: list[_Target], *, by_header: bool = False) -> dict[str, Any]:
    """The answer to a name that is not served; it names those that are."""
    labels = [label for one in targets for label in one.labels]
    if by_header:
        other = {"name": NAME_HEADER, "string_match": {"safe_regex": {"regex": any_of(labels)}}, "invert_match": True}
        match = {**match, "headers": [_NAMED, other]}
    more = f" and {len(labels) - _MOST_NAMES} more" if len(labels) > _MOST_NAMES else ""
    served = f"served are: {', '.join(labels[:_MOST_NAMES])}{more}" if labels else "none is served now"
    return _reply(match, 404, f"no model is served under that name; {served}")


def _no_default(match: dict[str, Any]) -> dict[str, Any]:
    return _reply(match, 503, f"no model is the default: name one in the path, or in the header {NAME_HEADER}")


def _reply(match: dict[str, Any], status: int, said: str) -> dict[str, Any]:
    return {"match": match, "direct_response": {"status": status, "body": {"inline_string": said}}}
