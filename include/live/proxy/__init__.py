"""The stable address: an Envoy proxy in front of the live servers, which tells them apart by name.

Clients talk to three ports that never change (HTTP, gRPC, metrics). `Proxy.point_to` moves a name to another server on
all three in one step: new requests go there, requests in flight finish where they began, no connection is closed.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Container
from contextlib import suppress
from typing import Any

import httpx
from filelock import FileLock

from include.errors import HostError, PipelineError, ToolError, UserError
from include.files import Log, write_atomic
from include.host.ports import check_port_free, http_url, reachable
from include.live.proxy import config
from include.live.proxy.access import Access
from include.live.proxy.admin import Admin
from include.live.proxy.config import Files, Model, Routing, Served, Upstream
from include.live.proxy.envoy import Envoy
from include.live.proxy.guard import Limits
from include.settings import Settings
from include.triton.servers import Ports

__all__ = ["Proxy", "Served", "Upstream", "files_of", "proxy_of"]

_POLL_S = 0.1
_START_S = 20.0
_ANSWER_S = 5.0
_SWITCH_S = 10.0
# Envoy's workers learn of a new routing a moment after its main thread: no request may be seen for this long.
_QUIET_S = 1.5
_MOST_WORKERS = 4
_LONGEST_SOCKET = 107  # sun_path of unix(7), without the terminating null byte


class Proxy:
    """One Envoy and its files. All methods can be called from any process of the host, also concurrently.

    Without an upstream, and while the upstream is gone, HTTP requests for a name get 503 with an error in Triton's
    format, and gRPC calls get UNAVAILABLE. `include.live.proxy.routes` says which request is for which name, and
    `include.live.proxy.guard` what it may be. The duration of an answer is not limited.
    """

    def __init__(
        self,
        files: Files,
        *,
        address: str,
        ports: Ports,
        limits: Limits,
        access: Access,
        envoy: Envoy,
        log: Log = print,
    ) -> None:
        """Creates the proxy for clients that connect to ``address`` and ``ports``.

        Raises:
            UserError: the address is no IP address.
            HostError: the path of its files is too long for a unix socket.
        """
        self._files = files
        self._address = address
        self.ports = ports
        self._limits = limits
        self._access = access
        self._envoy = envoy
        self._admin = Admin(self._files.admin)
        self._log = log
        self._check()

    @property
    def url(self) -> str:
        """The URL of the HTTP endpoint on this host."""
        return http_url(self._address, self.ports.http, self._access.scheme)

    @property
    def curl(self) -> str:
        """The beginning of a command that asks it, see `Access.curl`."""
        return self._access.curl

    def client(self, timeout_s: float) -> httpx.Client:
        """A client of the HTTP endpoint on this host."""
        return httpx.Client(timeout=timeout_s, **self.client_options())

    def client_options(self) -> dict[str, Any]:
        """The options of such a client, also of an asynchronous one: with the deployment's own key, if there are keys.

        Over TLS it trusts the endpoint's own certificate alone: no other program gets the key.
        """
        return {"base_url": self.url, **self._access.client_options()}

    def refresh_access(self) -> list[PipelineError]:
        """Takes API keys and certificates that have changed, without cutting off anything.

        Returns the errors of those that cannot be used: the last good ones stay.

        Raises:
            PipelineError: there are no last good ones; or Envoy does not take the new ones within 10 s.
        """
        if self._access.is_open:
            return []
        with self._lock():
            kept = self._publish_access()
            if self._envoy.find() == _digest(self._bootstrap()):
                self._await_access()
            return kept

    def ensure_running(self) -> None:
        """Starts Envoy if it does not run as configured; it keeps its routing.

        An Envoy that was started with another configuration (ports, address, an older version of this project) is
        stopped first, once the other ports are known to be free; that cuts its connections.

        Raises:
            HostError: a port is taken; the message names it and the process.
            ToolError: Envoy ended, or took no requests within 20 s; the message holds its last lines.
        """
        wanted = self._bootstrap()
        digest = _digest(wanted)
        with self._lock():
            for problem in self._publish_access():
                self._log(f"{problem}\nthe last good one stays in use")
            found = self._envoy.find()
            if found != digest or not self._answers_soon():
                self._check_ports(config.listening(self._files) if found else ())
                if found:
                    self._log("the proxy runs with another configuration, or does not answer: it is started anew")
                    self._envoy.stop()
                self._start(wanted, digest)
            self._await_access()
            self._list_targets(self._routing())
            self._envoy.keep_across_restarts()

    def is_running(self) -> bool:
        """True if Envoy runs and takes requests."""
        return self._envoy.find() is not None and self._admin.is_live()

    def answers(self) -> bool:
        """True if an Envoy takes requests; changes nothing, and needs no lock."""
        return self._admin.is_live()

    def obituary(self) -> str | None:
        """The way in which Envoy ended, with its last lines; None if it runs, or was stopped."""
        return self._envoy.obituary()

    def served(self) -> dict[str, Served]:
        """What is served, by name; kept when Envoy ends, forgotten by `stop`."""
        return self._routing().served()

    def default(self) -> str | None:
        """The name of the model that answers requests that name none, whether it is served now or not."""
        return self._routing().default

    def point_to(self, name: str, served: Served | None) -> None:
        """Serves something else under a name, on all ports at once; returns when Envoy goes by it.

        The previous upstream keeps its requests in flight: `drain` waits for them. Without an upstream in ``served``,
        requests are refused; with None the name is taken off the routing. Other names are not touched.

        Raises:
            ToolError: Envoy does not run, or did not switch within 10 s: the previous routing is kept.
        """
        with self._lock():
            before = self._routing()
            if served and served.upstream:
                ready = before.prepared(name, served.upstream)
                if ready != before:
                    self._change(before, ready)
            self._change(before, before.moved(name, served))
        self._log(f"the proxy serves {name!r}: {served or 'no more'}")

    def set_default(self, name: str | None) -> None:
        """Chooses the model that answers requests that name none; while it is not served, they are refused.

        Raises:
            ToolError: Envoy does not run, or did not switch within 10 s: the previous routing is kept.
        """
        with self._lock():
            before = self._routing()
            self._change(before, Routing(models=before.models, default=name))
        self._log(f"the proxy's default is {name!r}" if name else "the proxy has no default")

    def drain(self, limit_s: float, name: str | None = None) -> int:
        """Waits until no request is in flight to an upstream that is not served any more; returns how many still are.

        With 0, those servers can be stopped without losing a request. Otherwise ``limit_s`` is over; the rest are long
        generations, and gRPC streams, which count as long as their client keeps them open. With a ``name``, only its
        upstreams count.

        Raises:
            ToolError: Envoy does not answer.
        """
        left = self._routing().leaving(name)
        deadline = time.monotonic() + limit_s
        quiet_since = time.monotonic()
        while left.models and (now := time.monotonic()) - quiet_since < _QUIET_S:
            if active := self._active(left):
                quiet_since = now
                if now > deadline:
                    return active
            time.sleep(_POLL_S)
        with self._lock():
            self._publish(self._routing().without(left))
        return 0

    def stop(self) -> None:
        """Ends Envoy at once, with all connections, and forgets what it served."""
        with self._lock():
            self._envoy.stop()
            self._access.forget()
            if self._files.config.exists():
                self._write(Routing())

    def _bootstrap(self) -> str:
        return config.bootstrap(self._files, self._address, self.ports, self._limits, self._access)

    def _publish_access(self) -> list[PipelineError]:
        return self._access.publish(self._envoy.user, self._log)

    def _await_access(self) -> None:
        if wanted := self._access.versions():
            self._await(lambda: self._has_taken(wanted), _SWITCH_S, "did not take its API keys or its certificate")

    def _has_taken(self, wanted: dict[str, str]) -> bool:
        with suppress(httpx.HTTPError):
            return all(self._admin.versions_of(name) == {version} for name, version in wanted.items())
        return False

    def _start(self, bootstrap: str, digest: str) -> None:
        self._files.run.mkdir(parents=True, exist_ok=True)
        write_atomic(self._files.bootstrap, bootstrap)
        kept = self._routing()
        models = {name: Model(served=served) for name, served in kept.served().items()}
        routing = Routing(models=models, default=kept.default)
        version = self._write(routing)
        try:
            self._envoy.start(("--config-path", str(self._files.bootstrap), *_options(self._access)), digest)
            self._await(self._admin.is_live, _START_S, "took no requests")
            self._await_version(version)
        except BaseException:
            self._envoy.stop()
            raise
        self._log(f"the proxy listens on {self._address}, ports {', '.join(map(str, self.ports.all))}")

    def _answers_soon(self) -> bool:
        """True if Envoy takes requests; waits a moment, because it may have just started."""
        with suppress(ToolError):
            self._await(self._admin.is_live, _ANSWER_S, "did not answer")
            return True
        return False

    def _check_ports(self, its_own: Container[int]) -> None:
        for port in self.ports.all:
            if port not in its_own:
                check_port_free(port)

    def _change(self, before: Routing, wanted: Routing) -> None:
        """Replaces the routing; the one ``before`` comes back if Envoy does not take it."""
        try:
            self._publish(wanted)
        except PipelineError:
            self._write(before)
            raise

    def _publish(self, routing: Routing) -> None:
        """Replaces the routing and waits until Envoy uses it."""
        self._await_version(self._write(routing))

    def _await_version(self, version: str) -> None:
        wanted = dict.fromkeys(config.READERS, version)
        self._await(lambda: self._goes_by(wanted), _SWITCH_S, "did not take its new routing")

    def _write(self, routing: Routing) -> str:
        version = config.publish(self._files, routing, self._limits)
        self._list_targets(routing)
        return version

    def _list_targets(self, routing: Routing) -> None:
        config.list_targets(self._files, routing, self._access.scheme, self._address, self.ports.metrics)

    def _goes_by(self, versions: dict[str, str]) -> bool:
        with suppress(httpx.HTTPError):
            return versions.items() <= self._admin.versions().items()
        return False

    def _active(self, upstreams: Routing) -> int:
        theirs = {str(cluster) for cluster in upstreams.clusters()}
        try:
            return sum(active for cluster, active in self._admin.active().items() if cluster in theirs)
        except httpx.HTTPError as error:
            raise self._silent() from error

    def _await(self, condition: Callable[[], bool], limit_s: float, failure: str) -> None:
        deadline = time.monotonic() + limit_s
        while not condition():
            if self._envoy.find() is None:
                raise self._silent()
            if time.monotonic() > deadline:
                raise ToolError(f"the proxy {failure} within {limit_s:g} s\n{self._envoy.last_lines()}")
            time.sleep(_POLL_S / 5)

    def _silent(self) -> ToolError:
        said = self._envoy.last_lines()
        return ToolError(f"the proxy does not run\n{said}", where=self.url, fix="its last lines name the cause")

    def _routing(self) -> Routing:
        return config.published(self._files) or Routing()

    def _lock(self) -> FileLock:
        self._files.root.mkdir(parents=True, exist_ok=True)
        return FileLock(self._files.root / "lock")

    def _check(self) -> None:
        try:
            reachable(self._address)
        except ValueError as error:
            raise UserError(
                f"the proxy cannot listen on {self._address!r}: it is no IP address",
                where="setting HF2TRITON_BIND_ADDRESS",
                fix="127.0.0.1 for this host only, 0.0.0.0 for all its addresses",
            ) from error
        if len(os.fsencode(self._files.admin)) > _LONGEST_SOCKET:
            raise HostError(
                f"the path of the proxy's admin socket has more than {_LONGEST_SOCKET} bytes",
                where=str(self._files.admin),
                fix="choose a shorter HF2TRITON_ARTIFACTS",
            )


def _digest(bootstrap: str) -> str:
    return hashlib.sha256(bootstrap.encode()).hexdigest()


def _options(access: Access) -> tuple[str, ...]:
    workers = min(_MOST_WORKERS, os.cpu_count() or 1)
    # Component main only warns that connections have no limit; it reports its failures as errors.
    quiet = ["main:error"]
    if not access.is_open:
        # Warnings about files that Envoy refuses show what is in them: keys. `Proxy` finds out by itself.
        quiet += ["config:error", "misc:error"]
    levels = ("--log-level", "warning", "--component-log-level", ",".join(quiet))
    return ("--concurrency", str(workers), "--disable-hot-restart", *levels)


def files_of(settings: Settings) -> Files:
    """The files of the deployment's proxy."""
    return Files(settings.artifacts / "servers" / "proxy", settings.log_directory / "proxy.log")


def proxy_of(settings: Settings, log: Log = print, image: str | None = None, build: str = "") -> Proxy:
    """The deployment's proxy: in a container if there is an ``image``, else a process of this host; see `Envoy`.

    Its record is ``<artifacts>/servers/proxy.json``.
    """
    files = files_of(settings)
    ports = Ports(http=settings.live_http_port, grpc=settings.live_grpc_port, metrics=settings.live_metrics_port)
    envoy = Envoy(files, log, image, build)
    limits = Limits.of(settings)
    access = Access.of(settings, files.config / "access")
    address = settings.bind_address
    return Proxy(files, address=address, ports=ports, limits=limits, access=access, envoy=envoy, log=log)
