"""Images from a real private registry: with the right login, and what is said without it."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from include.errors import HostError, TransientError, UserError
from include.host.docker.containers import Containers
from include.host.docker.oneshot import DockerImage
from include.host.docker.registry import RegistryLogin
from tests.support.engine import client_or_skip
from tests.support.registry import PASSWORD, USER, Registry, running

pytestmark = pytest.mark.docker


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with running(client_or_skip(), tmp_path_factory.mktemp("registry")) as registry:
        yield registry


@pytest.fixture
def image(registry: Registry) -> str:
    """A new image that only the registry has."""
    return registry.push("nvcr/tritonserver")


@pytest.fixture(autouse=True)
def docker_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What ``docker login`` has stored for this user: nothing."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    return tmp_path / "config.json"


def login(registry: Registry, *, host: str = "", password: str = PASSWORD) -> RegistryLogin:
    return RegistryLogin("private", host or registry.host, USER, password)


def containers(found: RegistryLogin | None, log: list[str]) -> Containers:
    return Containers(client_or_skip, log.append, lambda: found)


def test_an_image_named_by_its_digest_is_pulled_with_the_connection_s_login(registry: Registry, image: str) -> None:
    log: list[str] = []
    containers(login(registry), log).ensure_image(image)
    assert registry.has(image)
    assert log[0] == f"pulling {image} with the login of Connection private"
    assert PASSWORD not in "\n".join(log)


def test_one_that_is_on_the_host_needs_neither_registry_nor_login(registry: Registry, image: str) -> None:
    containers(login(registry), []).ensure_image(image)

    def ask() -> RegistryLogin:
        raise AssertionError("no login is needed")

    Containers(client_or_skip, print, ask).ensure_image(image)


def test_a_wrong_password_names_the_connection_and_not_itself(registry: Registry, image: str) -> None:
    with pytest.raises(HostError, match="the registry refuses to give it") as refused:
        containers(login(registry, password="wr0ng-" + PASSWORD), []).ensure_image(image)
    assert "correct login and password of Airflow Connection private" in refused.value.fix
    assert PASSWORD not in str(refused.value)
    assert not registry.has(image)


@pytest.mark.parametrize("host", [None, "registry.example"], ids=["no login", "another registry's"])
def test_without_its_login_the_registry_refuses(registry: Registry, image: str, host: str | None) -> None:
    with pytest.raises(HostError, match="the registry refuses to give it") as refused:
        containers(login(registry, host=host) if host else None, []).ensure_image(image)
    assert f"docker login {registry.host}" in refused.value.fix


def test_what_docker_login_has_stored_will_do(registry: Registry, image: str, docker_config: Path) -> None:
    auth = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    docker_config.write_text(json.dumps({"auths": {registry.host: {"auth": auth}}}))
    containers(None, []).ensure_image(image)
    assert registry.has(image)


@pytest.mark.parametrize("name", ["{}@sha256:" + "0" * 64, "{}:2"], ids=["digest", "tag"])
def test_an_image_that_the_registry_does_not_have(registry: Registry, image: str, name: str) -> None:
    repository = image.partition("@")[0]
    with pytest.raises(UserError, match="the registry has no such image"):
        containers(login(registry), []).ensure_image(name.format(repository))


def test_a_registry_that_is_away_is_worth_another_attempt(tmp_path: Path) -> None:
    with running(client_or_skip(), tmp_path) as gone:
        pass
    with pytest.raises(TransientError, match="cannot be reached"):
        containers(login(gone), []).ensure_image(f"{gone.host}/nvcr/tritonserver:1")


def test_an_image_that_was_removed_is_not_looked_for_by_its_id() -> None:
    with pytest.raises(HostError, match="is gone from this host") as gone:
        containers(None, []).ensure_image("sha256:" + "0" * 64)
    assert "release_awq_engine" in gone.value.fix


def test_the_target_knows_an_image_with_two_digests_by_the_one_that_it_was_asked_by(
    registry: Registry, image: str
) -> None:
    other = registry.push_manifest_again(image)
    found = [DockerImage(name, partial(login, registry)).ensure() for name in (image, other)]
    assert found[0].id == found[1].id
    assert [one.digest for one in found] == [name.partition("@")[2] for name in (image, other)]
