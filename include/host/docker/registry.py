"""Image registries: their logins, and the failures of a pull."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from include.errors import HostError, PipelineError, TransientError, UserError
from include.host.docker import errors as docker_errors
from include.host.docker.errors import Cause

_SETTING = "HF2TRITON_DOCKER_CONNECTION"
_NGC = "nvcr.io"

_CAUSES = (
    Cause(
        r"manifest unknown|manifest for .* not found|name unknown",
        UserError,
        "the registry has no such image",
        "correct the image's name, tag or digest in the worker's settings, or push the image there",
    ),
    Cause(
        r"unauthorized|authentication required|no basic auth|access (forbidden|denied)|denied|403 forbidden",
        HostError,
        "the registry refuses to give it",
        "{login}",
    ),
    Cause(
        r"HTTP response to HTTPS client",
        HostError,
        "the registry speaks HTTP, and the Docker engine asks by HTTPS",
        "give the registry a certificate, or put {registry} into `insecure-registries` of /etc/docker/daemon.json",
    ),
    Cause(
        r"x509|certificate",
        HostError,
        "the Docker engine does not trust the registry's certificate",
        "put the certificate of its authority into /etc/docker/certs.d/{registry}/ca.crt on this host",
    ),
    Cause(
        r"no such host",
        HostError,
        "the Docker engine does not find the registry's address",
        "name a registry that this host can reach; or on a host that can, `docker pull` and `docker save` the image, "
        "and `docker load` it here",
    ),
    Cause(
        r"dial tcp|timeout|timed out|connection (refused|reset)|TLS handshake|temporary failure|server misbehaving"
        r"|\bEOF\b|toomanyrequests",
        TransientError,
        "the registry cannot be reached",
        "check the host's network and the engine's proxy; or load the image by hand with `docker load`",
    ),
)


@dataclass(frozen=True)
class RegistryLogin:
    """The login of one registry, from the Airflow Connection ``connection``. ``registry`` is a host or a URL.

    The password is sent only to the Docker engine, with a pull.
    """

    connection: str
    registry: str
    user: str
    password: str = field(repr=False)

    def auth_for(self, image: str) -> dict[str, str] | None:
        """The credentials for a pull of ``image``; None if the image is in another registry."""
        if self.host != registry_of(image):
            return None
        return {"username": self.user, "password": self.password}

    @property
    def host(self) -> str:
        """The registry as written in an image's name."""
        from docker.auth import resolve_index_name

        return str(resolve_index_name(self.registry))


FindLogin = Callable[[], RegistryLogin | None]
"""Looks up the deployment's login; called only if an image has to be pulled."""


def no_login() -> None:
    """The `FindLogin` of a deployment without a login: the client uses the one that ``docker login`` stored."""


def registry_of(image: str) -> str:
    """The host and port of the registry at the start of an image's name, else ``docker.io``."""
    from docker.auth import resolve_repository_name
    from docker.utils import parse_repository_tag

    return str(resolve_repository_name(parse_repository_tag(image)[0])[0])


def pull_failure(image: str, message: str, login: RegistryLogin | None) -> PipelineError:
    """The failure that the engine's ``message`` about a pull describes."""
    said = docker_errors.in_one_line(message)
    found = docker_errors.find(_CAUSES, said)
    if found is None:
        return docker_errors.failure(said, where=image)
    registry = registry_of(image)
    return found.failure(
        f"image {image} is not on this host and cannot be pulled: {found.what}",
        where=f"the Docker engine: {said}",
        fix=found.fix.format(registry=registry, login=_login_fix(registry, login)),
    )


def _login_fix(registry: str, login: RegistryLogin | None) -> str:
    hint = " (NGC: user $oauthtoken, password an API key)" if registry == _NGC else ""
    if login and login.host == registry:
        return (
            f"correct login and password of Airflow Connection {login.connection}{hint}, or give user {login.user} "
            f"the right to read the image; then trigger again"
        )
    have = f"Airflow Connection {login.connection} is for {login.host}; " if login else ""
    return (
        f"{have}make an Airflow Connection of type docker with host {registry}, login and password{hint}, and set "
        f"{_SETTING} to its id; or as the worker's user on this host: `docker login {registry}`; then trigger again"
    )
