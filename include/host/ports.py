"""Ports of this host, and the URLs of servers that listen on them."""

from __future__ import annotations

import ipaddress
import random
import socket
import ssl
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

import psutil

from include.errors import HostError

PLAIN_HTTP = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""For requests to http:// of this host: httpx would load all certificates for each of them, which takes 20 ms."""

_CHOSEN_FROM = range(10_000, 60_000)
# The kernel gives these to outgoing connections: one may take a port between its choice and its server's start.
_EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")


def reachable(address: str) -> str:
    """The address at which this host reaches a server that listens on ``address``; `ValueError` if it is no IP."""
    parsed = ipaddress.ip_address(address)
    if parsed.is_unspecified:
        return "127.0.0.1" if parsed.version == 4 else "::1"
    return str(parsed)


def http_url(address: str, port: int, scheme: str = "http") -> str:
    """The HTTP URL of a server that listens on ``address``, an IP address or a host's name."""
    try:
        host = reachable(address)
    except ValueError:
        host = address
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def free_ports(count: int) -> list[int]:
    """Different ports that no process listens on now and that no outgoing connection is given."""
    candidates = _outside_ephemeral()
    random.SystemRandom().shuffle(candidates)
    free: list[int] = []
    with ExitStack() as stack:
        for port in candidates:
            if len(free) == count:
                return free
            if _binds(stack.enter_context(socket.socket()), port):
                free.append(port)
    raise HostError(f"this host has no {count} free ports", fix="stop servers that are not needed")


def _outside_ephemeral() -> list[int]:
    try:
        low, high = (int(port) for port in _EPHEMERAL.read_text().split())
    except (OSError, ValueError):
        return list(_CHOSEN_FROM)
    # A host may give away all of them.
    return [port for port in _CHOSEN_FROM if not low <= port <= high] or list(_CHOSEN_FROM)


def _binds(probe: socket.socket, port: int) -> bool:
    try:
        probe.bind(("", port))
    except OSError:
        return False
    return True


def check_port_free(port: int) -> None:
    """Raises `HostError` if a port of this host is taken; the message names the process if it is known."""
    with socket.socket() as probe:
        # As servers do: a port with connections in TIME_WAIT only is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError as error:
            raise HostError(
                f"port {port} is taken by {_holder(port)}", fix="stop it, or choose another port"
            ) from error


def are_free(ports: Iterable[int]) -> bool:
    """True if all of these ports are free."""
    try:
        for port in ports:
            check_port_free(port)
    except HostError:
        return False
    return True


def listening(process: psutil.Process) -> set[int]:
    """The TCP ports that a process listens on; empty if it is gone or belongs to another user."""
    try:
        connections = process.net_connections(kind="tcp")
    except psutil.Error:
        return set()
    return {c.laddr.port for c in connections if c.status == psutil.CONN_LISTEN}


def _holder(port: int) -> str:
    for process in psutil.process_iter(["pid", "name"]):
        if port in listening(process):
            if process.info["name"] == "docker-proxy":
                return "a container (`docker ps` names it)"
            return f"{process.info['name']}, pid {process.info['pid']}"
    return "a process of another user"
