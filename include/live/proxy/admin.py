"""Envoy's admin interface, on a unix socket."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from include.host.ports import PLAIN_HTTP

_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class Admin:
    """The admin interface of an Envoy; https://www.envoyproxy.io/docs/envoy/v1.40.0/operations/admin."""

    socket: Path

    def is_live(self) -> bool:
        """True if Envoy runs and takes requests."""
        try:
            return self._get("/ready").status_code == httpx.codes.OK
        except httpx.TransportError:
            return False

    def versions(self) -> dict[str, str]:
        """The version of the routing that each of its readers took last; raises `httpx.HTTPError` without an answer."""
        answer = self._get("/stats?format=json&type=TextReadouts&filter=version_text").raise_for_status().json()
        return {one["name"].removesuffix(".version_text"): one["value"] for one in answer["stats"]}

    def active(self) -> dict[str, int]:
        """The number of requests in flight by cluster; raises `httpx.HTTPError` without an answer."""
        answer = self._get("/clusters?format=json").raise_for_status().json()
        return {
            cluster["name"]: sum(_active(host) for host in cluster.get("host_statuses", ()))
            for cluster in answer["cluster_statuses"]
        }

    def versions_of(self, resources: str) -> set[str]:
        """The versions of what Envoy has read from files that change; raises `httpx.HTTPError` without an answer."""
        answer = self._get(f"/config_dump?resource={resources}").raise_for_status().json()
        return {str(one.get("version_info")) for one in answer.get("configs", ())}

    def _get(self, path: str) -> httpx.Response:
        transport = httpx.HTTPTransport(uds=str(self.socket), verify=PLAIN_HTTP)
        with httpx.Client(transport=transport, base_url="http://envoy", timeout=_TIMEOUT_S) as client:
            return client.get(path)


def _active(host: dict[str, Any]) -> int:
    counts = {stat["name"]: int(stat.get("value", 0)) for stat in host["stats"]}
    return counts["rq_active"] + counts["rq_pending_active"]
