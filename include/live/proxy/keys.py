"""API keys: the file that names clients and their keys, and Envoy's filter that asks for one.

The filter is https://www.envoyproxy.io/docs/envoy/v1.40.0/configuration/http/http_filters/api_key_auth_filter.
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from include.errors import UserError
from include.live.proxy import private

CLIENT_HEADER = "x-hf2triton-client"
"""The request header that tells servers the name of the client whose key it was."""

SETTING = "HF2TRITON_API_KEYS_FILE"
OWN = "hf2triton"
"""The client that is the deployment itself, with a key that it makes for itself."""

_API = "type.googleapis.com/envoy"
_FILTERS = f"{_API}.extensions.filters.http"
_WRAPPED = f"{_API}.extensions.common.matching.v3.ExtensionWithMatcher"
_SKIP = f"{_API}.extensions.filters.common.matcher.action.v3.SkipFilter"
_HEADER = "type.googleapis.com/envoy.type.matcher.v3.HttpRequestHeaderMatchInput"
_NAME = "api_keys"
_SOURCES = ("x-api-key", "authorization")
_OPEN = (
    r"(/v2/health/(live|ready)(\?.*)?)|/grpc\.health\.v1\.Health/Check"
    r"|/inference\.GRPCInferenceService/Server(Live|Ready)"
)
_SAID = "an API key is needed: send a valid one as `Authorization: Bearer <key>` or as `x-api-key: <key>`"

_CLIENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_KEY = re.compile(r"[!-~]{16,512}")
_LINE = "a client's name and its key, with a space between; a key has 16 to 512 printable ASCII characters"


@dataclass(frozen=True)
class Keys:
    """The API keys of a deployment, from the file at ``path``."""

    path: Path
    file: ClassVar[str] = "keys.json"
    dump: ClassVar[str] = "ecds_filters"

    def resource(self, before: dict[str, Any] | None) -> dict[str, Any]:
        """Envoy's filter with the keys that the file has now. The deployment's own key is kept from ``before``.

        Raises:
            PipelineError: the file cannot be used. No message has a key.
        """
        clients = read_keys(self.path)
        own = (own_key(before) if before else None) or secrets.token_urlsafe(32)
        return _resource({**clients, own: OWN})

    def said_of(self, resource: dict[str, Any]) -> str:
        """The line of the log about new keys."""
        clients = sorted({one["client"] for one in _credentials(resource)} - {OWN})
        return f"the proxy has the API keys of {', '.join(clients)}"


def read_keys(path: Path) -> dict[str, str]:
    """The names of clients by their keys. A client may have several keys.

    Raises:
        HostError: the file cannot be read, or may be used by others.
        UserError: a line is malformed, a key comes twice, or there is none. The message has its line's number.
    """
    found: dict[str, str] = {}
    content = private.read(path, SETTING)
    try:
        lines = content.decode("utf-8").splitlines()
    except UnicodeDecodeError:
        raise UserError(f"{path} is no text", where=SETTING, fix=f"write lines such as these: {_LINE}") from None
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        client, key = [*line.split(None, 1), ""][:2]
        key = key.strip()
        if not _CLIENT.fullmatch(client) or not _KEY.fullmatch(key):
            raise UserError(f"line {number} of {path} is malformed", where=SETTING, fix=f"write {_LINE}")
        if client == OWN:
            fix = "choose another name"
            raise UserError(f"line {number} of {path} names {OWN}, the deployment itself", where=SETTING, fix=fix)
        if key in found:
            fix = "remove one of the lines"
            raise UserError(f"line {number} of {path} has a key that is there already", where=SETTING, fix=fix)
        found[key] = client
    if not found:
        fix = f"write lines such as these: {_LINE}; or unset it, which lets everyone ask"
        raise UserError(f"{path} has no key", where=SETTING, fix=fix)
    return found


def own_key(resource: dict[str, Any]) -> str | None:
    """The deployment's own key in what was published."""
    return next((str(one["key"]) for one in _credentials(resource) if one.get("client") == OWN), None)


def filters(source: dict[str, Any]) -> list[dict[str, Any]]:
    """What every request passes first: the filter, read from ``source`` again and again, and one that drops the key.

    Health is answered without a key. A key that is sent along does not reach the server either.
    """
    asks = {"name": _NAME, "config_discovery": {"config_source": source, "type_urls": [_WRAPPED]}}
    drops = {
        "@type": f"{_FILTERS}.header_mutation.v3.HeaderMutation",
        "mutations": {"request_mutations": [{"remove": header} for header in _SOURCES]},
    }
    return [asks, {"name": "drop_api_keys", "typed_config": drops}]


def refusal(name: str) -> dict[str, Any]:
    """The answer to a request without a valid key on a listener."""
    compared = {"op": "EQ", "value": {"default_value": 401, "runtime_key": "none"}}
    mapper = {"filter": {"status_code_filter": {"comparison": compared}}, "body": {"inline_string": _SAID}}
    asks = {"header": {"key": "www-authenticate", "value": "Bearer"}}
    return mapper if name == "grpc" else {**mapper, "headers_to_add": [asks]}


def _resource(clients: dict[str, str]) -> dict[str, Any]:
    auth = {
        "@type": f"{_FILTERS}.api_key_auth.v3.ApiKeyAuth",
        "credentials": [{"key": key, "client": client} for key, client in clients.items()],
        "key_sources": [{"header": header} for header in _SOURCES],
        "forwarding": {"header": CLIENT_HEADER},
    }
    path = {"name": "path", "typed_config": {"@type": _HEADER, "header_name": ":path"}}
    is_open = {"input": path, "value_match": {"safe_regex": {"google_re2": {}, "regex": _OPEN}}}
    skip = {"action": {"name": "skip", "typed_config": {"@type": _SKIP}}}
    matcher = {"matcher_list": {"matchers": [{"predicate": {"single_predicate": is_open}, "on_match": skip}]}}
    return {
        "@type": f"{_API}.config.core.v3.TypedExtensionConfig",
        "name": _NAME,
        "typed_config": {
            "@type": _WRAPPED,
            "extension_config": {"name": _NAME, "typed_config": auth},
            "xds_matcher": matcher,
        },
    }


def _credentials(resource: dict[str, Any]) -> list[dict[str, str]]:
    try:
        return [dict(one) for one in resource["typed_config"]["extension_config"]["typed_config"]["credentials"]]
    except (LookupError, TypeError, ValueError):  # damaged
        return []
