"""Envoy's configuration: the bootstrap, which never changes while it runs, and the routing of requests.

`include.live.proxy.routes` says which request goes where, and `include.live.proxy.guard` what it may be.

The routing is a directory behind a link: the clusters, one for each port of each server, and the routes to them of each
listener. Envoy reads the files again when the link is renamed, so one rename moves all. Each file takes one of
the few inotify instances that a user may have, so clusters have no files of their own.
Field names are those of https://www.envoyproxy.io/docs/envoy/v1.40.0/api-v3/api.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from contextlib import suppress
from pathlib import Path
from typing import Any

from include import reading
from include.files import Damaged, disk_errors, find_record, remove, replace, write_atomic
from include.host.ports import http_url
from include.live.proxy import guard, routes
from include.live.proxy.access import Access
from include.live.proxy.guard import Limits
from include.live.proxy.routes import API
from include.live.proxy.routing import Cluster, Model, Routing, Served, Upstream
from include.reading import Limit
from include.triton.servers import Ports

__all__ = ["Files", "Model", "Routing", "Served", "Upstream"]

_API = "type.googleapis.com/envoy"
_HCM = f"{_API}.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
_ROUTER = f"{_API}.extensions.filters.http.router.v3.Router"
_HTTP_OPTIONS = f"{_API}.extensions.upstreams.http.v3.HttpProtocolOptions"
_CLUSTER = f"{_API}.config.cluster.v3.Cluster"

_CONNECTIONS = f"{_API}.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig"

_NO_LIMIT = 2**32 - 1
# Routes match the names by regular expressions, which Envoy limits for those who let others write them.
_EXPRESSIONS = ("re2.max_program_size.error_level", "re2.max_program_size.warn_level")
_IDLE_CONNECTIONS = 1000  # kept by clients between their requests, besides those that have one in flight
_STATE, _CLUSTERS = "routing.json", "clusters.json"

READERS = ("cluster_manager.cds", *(f"http.{listener}.rds.{listener}" for listener in Ports.model_fields))
"""What in Envoy reads the routing, by the prefix of its statistics."""


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
        self.targets = root.parent / "prometheus" / "live.json"


def bootstrap(files: Files, address: str, ports: Ports, limits: Limits, access: Access) -> str:
    """The bootstrap: a listener for each of the server's ports, where the routing stands, and what the API needs."""
    guarded = [_listener(name, files, address, port, limits, access) for name, port in ports.model_dump().items()]
    chain = _chain(_http("grpc", files, limits))
    internal = {"name": "internal", "address": _pipe(files.grpc), "filter_chains": [chain]}
    config = {
        "node": {"id": "hf2triton", "cluster": "hf2triton", "metadata": {"routing": _digest(limits)}},
        "admin": {
            "address": _pipe(files.admin),
            "ignore_global_conn_limit": True,
        },
        "overload_manager": {"resource_monitors": [_most_connections(limits)]},
        "layered_runtime": {
            "layers": [{"name": "expressions", "static_layer": dict.fromkeys(_EXPRESSIONS, _NO_LIMIT)}]
        },
        "dynamic_resources": {"cds_config": _source(files, _CLUSTERS)},
        "static_resources": {
            "listeners": [*guarded, internal],
            "clusters": [_api_cluster(files, limits)],
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


def publish(files: Files, routing: Routing, limits: Limits) -> str:
    """Replaces the routing atomically: even after a crash, Envoy reads either the previous or the new one.

    Returns its version, which Envoy names once it goes by it.
    """
    version = secrets.token_hex(4)
    directory = files.config / f"routing.{version}"
    for name, resources in _resources(routing, limits).items():
        write_atomic(directory / name, json.dumps({"version_info": version, "resources": resources}, indent=1))
    write_atomic(directory / _STATE, routing.model_dump_json(indent=1))
    link = files.config / f".{directory.name}"
    with disk_errors(files.routing):
        link.symlink_to(directory.name)
        replace(link, files.routing)
    for old in files.config.glob("routing.*"):
        if old != directory:
            remove(old)
    return version


def published(files: Files) -> Routing | None:
    """The routing that was published last; None if there is none, or if it is damaged."""
    try:
        return find_record(files.routing / _STATE, Routing)
    except Damaged:
        return None


def list_targets(files: Files, routing: Routing, scheme: str, address: str, port: int) -> None:
    """Writes the list of what Prometheus can scrape, in the format of its ``file_sd_configs``, if it has changed.

    It is each live server, and the service of the OpenAI API, whose metrics say the model and the release themselves.
    """
    target = http_url(address, port).removeprefix("http://")

    def group(path: str, labels: dict[str, str]) -> dict[str, Any]:
        return {"targets": [target], "labels": {"__scheme__": scheme, "__metrics_path__": path, **labels}}

    served = routing.served()
    targets = [group(f"/metrics/{name}", {"model": name, "release": one.release}) for name, one in served.items()]
    if targets:
        targets.append(group(routes.API_METRICS, {"job": "openai_api"}))
    text = json.dumps(targets, indent=1)
    with suppress(OSError, ValueError):
        if reading.read_text(files.targets, Limit.RECORD) == text:
            return
    write_atomic(files.targets, text)


def _digest(limits: Limits) -> str:
    """The digest of an example's routing: an Envoy that goes by another one was started by another version of this."""
    served = Served(upstream=Upstream(ports=Ports(http=1, grpc=2, metrics=3)), release="a/1", aliases=("b",))
    example = Routing(models={"a": Model(served=served)}, default="a")
    return hashlib.sha256(json.dumps(_resources(example, limits)).encode()).hexdigest()


def _resources(routing: Routing, limits: Limits) -> dict[str, list[dict[str, Any]]]:
    """What Envoy reads, by the name of its file."""
    return {
        _CLUSTERS: [_cluster(cluster, limits) for cluster in routing.clusters()],
        **{_routes(listener): [routes.of(listener, routing)] for listener in Ports.model_fields},
    }


def _routes(listener: str) -> str:
    return f"routes.{listener}.json"


def _source(files: Files, name: str) -> dict[str, Any]:
    """A file of the routing, which Envoy reads again when the routing's link is renamed."""
    source = {"path": str(files.routing / name), "watched_directory": {"path": str(files.config)}}
    return {"resource_api_version": "V3", "path_config_source": source}


def _most_connections(limits: Limits) -> dict[str, Any]:
    most = {"@type": _CONNECTIONS, "max_active_downstream_connections": limits.requests + _IDLE_CONNECTIONS}
    return {"name": "envoy.resource_monitors.global_downstream_max_connections", "typed_config": most}


def _listener(name: str, files: Files, address: str, port: int, limits: Limits, access: Access) -> dict[str, Any]:
    http = access.guarded(name, _http(name, files, limits))
    return {
        "name": name,
        "address": _socket_address(address, port),
        # Otherwise a second proxy could listen on the same port, and take some of its connections.
        "enable_reuse_port": False,
        # Streams have no timeout, so a vanished client has to be detected by TCP keepalive.
        "tcp_keepalive": {"keepalive_time": 60, "keepalive_interval": 20, "keepalive_probes": 3},
        "filter_chains": [{**_chain(http), **access.transport(name, limits.header_s)}],
    }


def _chain(http: dict[str, Any]) -> dict[str, Any]:
    return {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": http}]}


def _http(name: str, files: Files, limits: Limits) -> dict[str, Any]:
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
        "rds": {"route_config_name": name, "config_source": _source(files, _routes(name))},
        "http_filters": [*guard.filters(name, limits), router],
    }


def _cluster(cluster: Cluster, limits: Limits) -> dict[str, Any]:
    # A long error of Triton, as of a long name in a request, ends the connection: it must not be that of others.
    one_at_a_time = {"http2_protocol_options": {"max_concurrent_streams": 1}}
    protocol = one_at_a_time if cluster.listener == "grpc" else {"http_protocol_options": {}}
    server = _socket_address(cluster.upstream.address, cluster.port)
    return {
        "@type": _CLUSTER,
        **_static(str(cluster), server),
        **_upstream(limits, {"explicit_http_config": protocol}),
    }


def _api_cluster(files: Files, limits: Limits) -> dict[str, Any]:
    options: dict[str, Any] = {"explicit_http_config": {"http_protocol_options": {}}}
    server = {"pipe": {"path": str(files.api)}}
    return {
        **_static(API, server),
        **_upstream(limits, {**options, "common_http_protocol_options": {"idle_timeout": "60s"}}),
    }


def _static(name: str, address: dict[str, Any]) -> dict[str, Any]:
    endpoints = [{"lb_endpoints": [{"endpoint": {"address": address}}]}]
    return {"name": name, "type": "STATIC", "load_assignment": {"cluster_name": name, "endpoints": endpoints}}


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
