"""Envoy's configuration: the bootstrap, which never changes while it runs, and the routing of requests.

`include.live.proxy.guard` says which requests are let through.

The routing is a directory with one endpoint file for each cluster, behind a link. Envoy reads the files again
when the link is renamed, so one rename moves all clusters.
Field names are those of https://www.envoyproxy.io/docs/envoy/v1.40.0/api-v3/api.
"""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import field_validator

from include import reading
from include.files import Damaged, disk_errors, find_record, remove, replace, write_atomic
from include.frozen import Frozen
from include.host.ports import reachable
from include.live.proxy import guard
from include.live.proxy.guard import Limits
from include.reading import Limit
from include.triton.servers import Ports

Health = Literal["HEALTHY", "DRAINING"]

_API = "type.googleapis.com/envoy"
_HCM = f"{_API}.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
_ROUTER = f"{_API}.extensions.filters.http.router.v3.Router"
_HTTP_OPTIONS = f"{_API}.extensions.upstreams.http.v3.HttpProtocolOptions"
_ENDPOINTS = f"{_API}.config.endpoint.v3.ClusterLoadAssignment"

_CONNECTIONS = f"{_API}.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig"

_NO_LIMIT = 2**32 - 1
_IDLE_CONNECTIONS = 1000  # kept by clients between their requests, besides those that have one in flight
_STATE = "routing.json"


class Files:
    """The files of a proxy.

    ``record`` is the record of Envoy's process or container, ``log`` its output, by default beside it. Envoy only
    reads ``config``: the ``bootstrap`` that it is started with and ``routing``, the link to the routing's directory. It
    writes to ``run``, the directory of unix sockets: ``admin`` for its admin interface, ``grpc`` for gRPC from the
    programs of this deployment. In the same directory is ``api``, the socket of the OpenAI API's service.
    """

    def __init__(self, root: Path, log: Path | None = None) -> None:
        self.root = root
        self.record, self.log = root.with_suffix(".json"), log or root.with_suffix(".log")
        self.config, self.run = root / "config", root / "run"
        self.bootstrap, self.routing = self.config / "bootstrap.json", self.config / "routing"
        self.admin, self.grpc, self.api = (self.run / f"{name}.sock" for name in ("admin", "grpc", "api"))


class Upstream(Frozen):
    """A server that requests can go to."""

    ports: Ports
    address: str = "127.0.0.1"

    @field_validator("address")
    @classmethod
    def _reachable(cls, address: str) -> str:
        return reachable(address)

    def __str__(self) -> str:
        return f"{self.address}, HTTP port {self.ports.http}"


class Routing(Frozen):
    """The routing: new requests go to ``current``; requests in flight to ``draining`` finish there."""

    current: Upstream | None = None
    draining: tuple[Upstream, ...] = ()

    def moved_to(self, upstream: Upstream | None) -> Routing:
        """The routing with another current upstream; the previous one is draining."""
        before = dict.fromkeys((self.current, *self.draining))
        return Routing(current=upstream, draining=tuple(one for one in before if one and one != upstream))

    def without(self, drained: tuple[Upstream, ...]) -> Routing:
        """The routing without these drained upstreams."""
        return Routing(current=self.current, draining=tuple(one for one in self.draining if one not in drained))

    def endpoints(self) -> dict[Endpoint, Health]:
        """The endpoints of all upstreams, with their health for Envoy."""
        known: dict[Upstream, Health] = dict.fromkeys(self.draining, "DRAINING")
        if self.current:
            known[self.current] = "HEALTHY"
        return {
            Endpoint(cluster, upstream.address, port): health
            for upstream, health in known.items()
            for cluster, port in upstream.ports.model_dump().items()
        }


@dataclass(frozen=True)
class Endpoint:
    """One port of an upstream; ``cluster`` is the name of the listener whose requests it takes."""

    cluster: str
    address: str
    port: int


def bootstrap(files: Files, address: str, ports: Ports, limits: Limits) -> str:
    """The bootstrap: a listener and a cluster for each of the server's ports, and those of the API."""
    listeners = ports.model_dump()
    internal = {"name": "internal", "address": _pipe(files.grpc), "filter_chains": [_chain("grpc", limits)]}
    config = {
        "node": {"id": "hf2triton", "cluster": "hf2triton"},
        "admin": {
            "address": _pipe(files.admin),
            "ignore_global_conn_limit": True,
        },
        "overload_manager": {"resource_monitors": [_most_connections(limits)]},
        "static_resources": {
            "listeners": [*(_listener(name, address, port, limits) for name, port in listeners.items()), internal],
            "clusters": [*(_cluster(name, files, limits) for name in listeners), _api_cluster(files, limits)],
        },
    }
    return json.dumps(config, indent=1)


def listening(files: Files) -> set[int]:
    """The ports in the bootstrap that was used last."""
    try:
        listeners = reading.read_json(files.bootstrap, Limit.RECORD)["static_resources"]["listeners"]
        addresses = [one["address"] for one in listeners]
        return {one["socket_address"]["port_value"] for one in addresses if "socket_address" in one}
    except (OSError, ValueError, LookupError, TypeError):  # damaged: no port is known to be its own
        return set()


def publish(files: Files, routing: Routing) -> None:
    """Replaces the routing atomically: even after a crash, Envoy reads either the previous or the new one."""
    directory = files.config / f"routing.{secrets.token_hex(4)}"
    for cluster in Ports.model_fields:
        write_atomic(directory / f"{cluster}.json", _endpoints(cluster, routing))
    write_atomic(directory / _STATE, routing.model_dump_json(indent=1))
    link = files.config / f".{directory.name}"
    with disk_errors(files.routing):
        link.symlink_to(directory.name)
        replace(link, files.routing)
    for old in files.config.glob("routing.*"):
        if old != directory:
            remove(old)


def published(files: Files) -> Routing | None:
    """The routing that was published last; None if there is none, or if it is damaged."""
    try:
        return find_record(files.routing / _STATE, Routing)
    except Damaged:
        return None


def _endpoints(cluster: str, routing: Routing) -> str:
    endpoints = [
        {"endpoint": {"address": _socket_address(one.address, one.port)}, "health_status": health}
        for one, health in routing.endpoints().items()
        if one.cluster == cluster
    ]
    resource = {"@type": _ENDPOINTS, "cluster_name": cluster, "endpoints": [{"lb_endpoints": endpoints}]}
    return json.dumps({"resources": [resource]}, indent=1)


def _most_connections(limits: Limits) -> dict[str, Any]:
    most = {"@type": _CONNECTIONS, "max_active_downstream_connections": limits.requests + _IDLE_CONNECTIONS}
    return {"name": "envoy.resource_monitors.global_downstream_max_connections", "typed_config": most}


def _listener(name: str, address: str, port: int, limits: Limits) -> dict[str, Any]:
    return {
        "name": name,
        "address": _socket_address(address, port),
        # Otherwise a second proxy could listen on the same port, and take some of its connections.
        "enable_reuse_port": False,
        # Streams have no timeout, so a vanished client has to be detected by TCP keepalive.
        "tcp_keepalive": {"keepalive_time": 60, "keepalive_interval": 20, "keepalive_probes": 3},
        "filter_chains": [_chain(name, limits)],
    }


def _chain(name: str, limits: Limits) -> dict[str, Any]:
    manager = {"name": "envoy.filters.network.http_connection_manager", "typed_config": _http(name, limits)}
    return {"filters": [manager]}


def _http(name: str, limits: Limits) -> dict[str, Any]:
    """How requests of one listener are treated: those that are let through take as long as they take."""
    router = {
        "name": "envoy.filters.http.router",
        "typed_config": {"@type": _ROUTER, "suppress_envoy_headers": True},
    }
    return {
        "@type": _HCM,
        "stat_prefix": name,
        "codec_type": "HTTP2" if name == "grpc" else "HTTP1",
        "http_protocol_options": {"accept_http_10": True},  # health checks of older load balancers
        "request_headers_timeout": f"{limits.header_s:g}s",
        # A gRPC stream may be opened long before its first request.
        **({} if name == "grpc" else {"request_timeout": f"{limits.request_s:g}s"}),
        "stream_idle_timeout": "3600s",
        "common_http_protocol_options": {"idle_timeout": "120s"},
        "normalize_path": True,
        "merge_slashes": True,
        "path_with_escaped_slashes_action": "REJECT_REQUEST",
        # Clients cannot control Envoy by its own headers.
        "use_remote_address": True,
        "skip_xff_append": True,
        "generate_request_id": False,
        "server_header_transformation": "PASS_THROUGH",
        "local_reply_config": guard.replies(name, limits),
        "route_config": {"virtual_hosts": [{"name": name, "domains": ["*"], "routes": guard.routes(name)}]},
        "http_filters": [*guard.filters(name, limits), router],
    }


def _cluster(name: str, files: Files, limits: Limits) -> dict[str, Any]:
    # A long error of Triton, as of a long name in a request, ends the connection: it must not be that of others.
    protocol = (
        {"http2_protocol_options": {"max_concurrent_streams": 1}} if name == "grpc" else {"http_protocol_options": {}}
    )
    source = {"path": str(files.routing / f"{name}.json"), "watched_directory": {"path": str(files.config)}}
    return {
        "name": name,
        "type": "EDS",
        "eds_cluster_config": {"eds_config": {"resource_api_version": "V3", "path_config_source": source}},
        # A draining endpoint gets no new request, even if there is no other.
        "common_lb_config": {"healthy_panic_threshold": {"value": 0}},
        **_upstream(limits, {"explicit_http_config": protocol}),
    }


def _api_cluster(files: Files, limits: Limits) -> dict[str, Any]:
    endpoint = {"endpoint": {"address": {"pipe": {"path": str(files.api)}}}}
    options: dict[str, Any] = {"explicit_http_config": {"http_protocol_options": {}}}
    return {
        "name": "api",
        "type": "STATIC",
        "load_assignment": {"cluster_name": "api", "endpoints": [{"lb_endpoints": [endpoint]}]},
        **_upstream(limits, {**options, "common_http_protocol_options": {"idle_timeout": "60s"}}),
    }


def _upstream(limits: Limits, options: dict[str, Any]) -> dict[str, Any]:
    """What all clusters have: no limit but that of requests, and how they speak HTTP."""
    counts = dict.fromkeys(("max_connections", "max_pending_requests", "max_retries"), _NO_LIMIT)
    thresholds = [{"priority": one, **counts, "max_requests": limits.requests} for one in ("DEFAULT", "HIGH")]
    return {
        "connect_timeout": "5s",
        "circuit_breakers": {"thresholds": thresholds},
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {"@type": _HTTP_OPTIONS, **options}
        },
    }


def _pipe(path: Path) -> dict[str, Any]:
    return {"pipe": {"path": str(path), "mode": 0o600}}


def _socket_address(address: str, port: int) -> dict[str, Any]:
    everywhere = {"ipv4_compat": True} if address == "::" else {}
    return {"socket_address": {"address": address, "port_value": port, **everywhere}}
