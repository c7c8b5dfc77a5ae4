"""Access to the live endpoint: API keys and TLS, both optional.

What the deployment's files have is checked, and then written into files that Envoy watches: it never reads what was
not checked, a broken file leaves the last good one in use, and a change ends no connection.
"""

from __future__ import annotations

import json
import secrets
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from include import reading
from include.errors import PipelineError, UserError
from include.files import Log, remove, write_atomic
from include.host.ports import PLAIN_HTTP
from include.live.proxy import guard, keys, private, tls
from include.live.proxy.keys import Keys
from include.live.proxy.tls import Tls
from include.settings import Settings


@dataclass(frozen=True)
class Access:
    """The access to one proxy; ``directory`` has the files that Envoy reads. Without keys everyone may ask."""

    directory: Path
    keys: Keys | None = None
    tls: Tls | None = None

    @classmethod
    def of(cls, settings: Settings, directory: Path) -> Self:
        """A deployment's own; raises `UserError` if one of the two files for TLS is not named."""
        pair = settings.tls_certificate_file, settings.tls_key_file
        if (pair[0] is None) != (pair[1] is None):
            raise UserError(
                "TLS needs a certificate and its private key, and only one of them is named",
                where=f"settings {tls.CERTIFICATE_SETTING} and {tls.KEY_SETTING}",
                fix="set both, or neither",
            )
        listed = Keys(settings.api_keys_file) if settings.api_keys_file else None
        return cls(directory, listed, Tls(pair[0], pair[1]) if pair[0] and pair[1] else None)

    @property
    def scheme(self) -> str:
        """The scheme of the endpoint's URLs."""
        return "https" if self.tls else "http"

    @property
    def curl(self) -> str:
        """The beginning of a command by which a client on this host asks; users with keys fill in theirs."""
        trust = f" --cacert {shlex.quote(str(self.tls.certificate))}" if self.tls else ""
        return f"curl -s{trust}" + " -H 'Authorization: Bearer <key>'" * (self.keys is not None)

    @property
    def is_open(self) -> bool:
        """True if there are neither keys nor TLS."""
        return not self._parts

    def publish(self, owner: tuple[int, int] | None, log: Log) -> list[PipelineError]:
        """Gives Envoy what the deployment's files have now; returns the errors of those that keep their last good one.

        ``owner`` is the user and group that Envoy has, if they are others than the caller's.

        Raises:
            PipelineError: a file cannot be used, and there is no last good one.
        """
        kept = []
        if self._parts:
            private.make_directory(self.directory, owner)
        for part in self._parts:
            before = self._resource(part)
            try:
                wanted = part.resource(before)
            except PipelineError as error:
                if before is None:
                    raise
                kept.append(error)
                continue
            if wanted != before:
                response = {"version_info": secrets.token_hex(8), "resources": [wanted]}
                write_atomic(self.directory / part.file, json.dumps(response, indent=1), private=True)
                log(part.said_of(wanted))
        for path in self.directory.glob("*.json"):
            if path.name not in {part.file for part in self._parts}:
                remove(path)
        return kept

    def forget(self) -> None:
        """Removes what Envoy reads, with the secrets in it."""
        if self.directory.exists():
            remove(self.directory)

    def versions(self) -> dict[str, str]:
        """The version of each file that Envoy reads, by the name that Envoy's dump of its configuration has for it."""
        read = {part.dump: _read(self.directory / part.file) for part in self._parts}
        return {name: str(response["version_info"]) for name, response in read.items() if response}

    def guarded(self, name: str, manager: dict[str, Any]) -> dict[str, Any]:
        """A listener's HTTP connection manager, which first asks for a key."""
        if self.keys is None:
            return manager
        replies, refusal = manager["local_reply_config"], keys.refusal(name)
        first = [] if name == "grpc" else [guard.in_openai_form(refusal)]
        return {
            **manager,
            "local_reply_config": {**replies, "mappers": [*first, *replies["mappers"], refusal]},
            "http_filters": [*keys.filters(self._source(self.keys)), *manager["http_filters"]],
        }

    def transport(self, name: str, handshake_s: float) -> dict[str, Any]:
        """What TLS adds to a listener's filter chain."""
        return tls.transport(self._source(self.tls), name, handshake_s) if self.tls else {}

    def client_options(self) -> dict[str, Any]:
        """The options of `httpx.Client` for requests of this deployment to its own endpoint."""
        listed = self._resource(self.keys) if self.keys else None
        own = keys.own_key(listed) if listed else None
        options: dict[str, Any] = {"trust_env": False, "verify": PLAIN_HTTP}
        if self.tls:
            pair = self._resource(self.tls)
            options["verify"] = tls.trust(tls.certificate_of(pair) if pair else "")
        return {**options, "headers": {"authorization": f"Bearer {own}"}} if own else options

    @property
    def _parts(self) -> tuple[Keys | Tls, ...]:
        return tuple(part for part in (self.keys, self.tls) if part)

    def _resource(self, part: Keys | Tls) -> dict[str, Any] | None:
        response = _read(self.directory / part.file)
        return response["resources"][0] if response else None

    def _source(self, part: Keys | Tls) -> dict[str, Any]:
        watched = {"path": str(self.directory)}
        path = {"path": str(self.directory / part.file), "watched_directory": watched}
        return {"resource_api_version": "V3", "path_config_source": path}


def _read(path: Path) -> dict[str, Any] | None:
    """What was published last; None if there is nothing, or if it is damaged."""
    try:
        response = reading.read_json(path, reading.Limit.RECORD)
        return response if response["version_info"] and response["resources"][0]["@type"] else None
    except (OSError, ValueError, LookupError, TypeError):
        return None
