"""What engine and registry say about a pull that fails, and what there is to do then."""

from __future__ import annotations

import pytest

from include.errors import HostError, PipelineError, TransientError, UserError
from include.host.docker.registry import RegistryLogin, pull_failure, registry_of

IMAGE = "registry.example:5000/nvcr/tritonserver:26.07"
HAVE = RegistryLogin("ngc", "registry.example:5000", "puller", "s3cret")
OTHER = RegistryLogin("hub", "https://index.docker.io/v1/", "me", "s3cret")


@pytest.mark.parametrize(
    ("said", "kind", "words"),
    [
        ("manifest for x:1 not found: manifest unknown: manifest unknown", UserError, "no such image"),
        ("pull access denied for x, repository does not exist or may require 'docker login'", HostError, "refuses"),
        (
            'Get "https://registry.example:5000/v2/": http: server gave HTTP response to HTTPS client',
            HostError,
            "put registry.example:5000 into `insecure-registries`",
        ),
        (
            'Get "https://registry.example:5000/v2/": x509: certificate signed by unknown authority',
            HostError,
            "/etc/docker/certs.d/registry.example:5000/ca.crt",
        ),
        ("dial tcp: lookup registry.example on 10.0.0.53:53: no such host", HostError, "docker load"),
        ("dial tcp 10.0.0.1:443: connect: connection refused", TransientError, "cannot be reached"),
        ("lookup registry.example: Temporary failure in name resolution", TransientError, "cannot be reached"),
        ("write /var/lib/docker/tmp/GetImageBlob1: no space left on device", HostError, "Docker's disk is full"),
    ],
    ids=["no tag", "denied", "no TLS", "unknown authority", "no such host", "down", "no name server", "disk"],
)
def test_the_cause_is_named_with_what_to_do(said: str, kind: type[PipelineError], words: str) -> None:
    found = pull_failure(IMAGE, said, None)
    assert (type(found), IMAGE in str(found), words in str(found)) == (kind, True, True), found


@pytest.mark.parametrize(
    ("image", "login", "words"),
    [
        (IMAGE, HAVE, "correct login and password of Airflow Connection ngc, or give user puller the right"),
        (IMAGE, OTHER, "Airflow Connection hub is for docker.io; make an Airflow Connection of type docker with host"),
        (IMAGE, None, "`docker login registry.example:5000`"),
        ("nvcr.io/nvidia/tritonserver:1", None, "user $oauthtoken"),
    ],
    ids=["its own", "another registry's", "none", "none for NGC"],
)
def test_a_refusal_says_which_login_to_correct(image: str, login: RegistryLogin | None, words: str) -> None:
    found = pull_failure(image, "unauthorized: authentication required", login)
    assert isinstance(found, HostError)
    assert words in found.fix


@pytest.mark.parametrize(
    ("image", "registry"),
    [
        ("debian:bookworm-slim", "docker.io"),
        ("nvidia/cuda", "docker.io"),
        ("nvcr.io/nvidia/tritonserver:1", "nvcr.io"),
        ("127.0.0.1:5000/a/b@sha256:" + "0" * 64, "127.0.0.1:5000"),
    ],
)
def test_an_image_s_name_begins_with_its_registry(image: str, registry: str) -> None:
    assert registry_of(image) == registry


@pytest.mark.parametrize(
    ("host", "image", "sent"),
    [
        ("registry.example:5000", IMAGE, True),
        ("https://registry.example:5000/", IMAGE, True),
        ("registry.example", IMAGE, False),
        ("https://index.docker.io/v1/", "debian:12", True),
        ("registry.example:5000", "debian:12", False),
        ("registry.example:5000", "registry.example:5000.evil.example/x:1", False),
    ],
)
def test_a_login_is_for_its_own_registry_alone(host: str, image: str, sent: bool) -> None:
    login = RegistryLogin("private", host, "puller", "s3cret")
    assert login.auth_for(image) == ({"username": "puller", "password": "s3cret"} if sent else None)


def test_the_password_is_not_shown() -> None:
    assert "s3cret" not in repr(HAVE)
