"""Images by digest: those that the deployment accepts."""

from __future__ import annotations

import pytest

from include.errors import HostError
from include.host.docker.containers import Containers, ContainerSpec
from include.host.docker.images import ImageId
from include.settings import settings

DIGEST = f"sha256:{'d' * 64}"


class Engine:
    """An engine with one image."""

    def __init__(self, *digests: str) -> None:
        self.digests = digests

    def inspect_image(self, image: str) -> dict[str, object]:
        return {"Id": f"sha256:{'1' * 64}", "RepoDigests": [f"registry.example/image@{one}" for one in self.digests]}


@pytest.fixture
def accepted(monkeypatch):
    monkeypatch.setenv("HF2TRITON_IMAGE_DIGESTS", f'["{DIGEST}"]')
    settings.cache_clear()
    yield
    settings.cache_clear()


def ensure(*digests: str, image: str = "registry.example/image:1", build: str = "") -> ImageId:
    return Containers(lambda: Engine(*digests), print).ensure_image(image, build)  # type: ignore[arg-type,return-value]


@pytest.mark.parametrize("image", ["registry.example/image:1", f"sha256:{'1' * 64}"])
@pytest.mark.usefixtures("accepted")
def test_an_accepted_digest_is_taken_and_recorded(image):
    found = ensure(f"sha256:{'e' * 64}", DIGEST, image=image)
    assert found.digest
    assert str(found).startswith(f"{image}@sha256:")


@pytest.mark.parametrize("digests", [(), (f"sha256:{'e' * 64}",)])
@pytest.mark.usefixtures("accepted")
def test_another_digest_or_none_is_refused(digests):
    with pytest.raises(HostError, match="which is not accepted") as refused:
        ensure(*digests)
    assert refused.value.where == "HF2TRITON_IMAGE_DIGESTS"


@pytest.mark.usefixtures("accepted")
def test_an_image_that_was_built_on_the_host_has_no_digest_and_needs_none():
    assert ensure(build="make images").digest is None


def test_without_the_setting_any_digest_is_taken():
    assert ensure(f"sha256:{'e' * 64}").digest == f"sha256:{'e' * 64}"


def test_a_container_gets_no_proxy_of_the_docker_client(monkeypatch, tmp_path):
    """Its configuration may hold proxies with passwords, which docker-py would put into each container."""
    from docker import APIClient

    (tmp_path / "config.json").write_text('{"proxies": {"default": {"httpProxy": "http://user:secret@proxy:3128"}}}')
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    client = APIClient("unix:///nowhere", version="1.44")
    sent = []
    monkeypatch.setattr(client, "inspect_image", Engine(DIGEST).inspect_image)
    monkeypatch.setattr(client, "create_container_from_config", lambda config, *_: sent.append(config) or {"Id": "1"})
    Containers(lambda: client, print).create(ContainerSpec(image="image", env={"OWN": "1"}))
    assert sorted(sent[0]["Env"]) == ["HOME=/tmp", "OWN=1", "USER=hf2triton"]
