"""A private registry of images on a port of this host: Debian's, which `tests/e2e/docker_engine.sh` unpacks."""

from __future__ import annotations

import io
import json
import os
import re
import secrets
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.support.engine import lacking

USER = "puller"
PASSWORD = "kf83-Quail-lantern-0417"
# Of that password, by bcrypt, the only kind that the registry reads.
_HTPASSWD = f"{USER}:$2y$05$Nq9w6ZyJ3cHk8mR1tUvXeuWkZEvovnOkegfBdBOpGGm3MxIHDQ0jK\n"
_UNPACKED = Path(os.environ.get("HF2TRITON_ENGINE_DIR", "/tmp/docker-engine")) / "registry" / "usr" / "bin"
_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
_LISTENING = re.compile(r"listening on (127\.0\.0\.1:\d+)")


@dataclass(frozen=True)
class Registry:
    """A running registry: ``host`` is what the names of its images begin with."""

    host: str
    client: Any

    def push(self, name: str) -> str:
        """Pushes a new image of one small file and removes it here; returns its name by digest."""
        repository = f"{self.host}/{name}"
        imported = json.loads(self.client.import_image_from_data(_layer(), repository=repository, tag="1"))
        try:
            auth = {"username": USER, "password": PASSWORD}
            steps = list(self.client.push(repository, tag="1", stream=True, decode=True, auth_config=auth))
        finally:
            self.client.remove_image(imported["status"], force=True)
        digests = [step["aux"]["Digest"] for step in steps if "aux" in step]
        assert digests, steps
        return f"{repository}@{digests[0]}"

    def push_manifest_again(self, image: str) -> str:
        """The same image by another digest: its manifest, written with other spaces."""
        repository, _, digest = image.partition("@")
        url = f"http://{self.host}/v2{repository.removeprefix(self.host)}/manifests"
        with httpx.Client(auth=(USER, PASSWORD), headers={"Accept": _MANIFEST}, trust_env=False) as http:
            manifest = json.dumps(http.get(f"{url}/{digest}").json(), indent=1)
            put = http.put(f"{url}/2", content=manifest, headers={"Content-Type": _MANIFEST}).raise_for_status()
        return f"{repository}@{put.headers['Docker-Content-Digest']}"

    def remove_pulled(self) -> None:
        """Removes all that the engine has of this registry."""
        for image in self.client.images(all=True):
            names = [*(image["RepoDigests"] or ()), *(image["RepoTags"] or ())]
            if any(name.startswith(f"{self.host}/") for name in names):
                self.client.remove_image(image["Id"], force=True)

    def connection(self, password: str = PASSWORD) -> str:
        """An Airflow Connection to it, as an environment variable holds one."""
        return json.dumps({"conn_type": "docker", "host": self.host, "login": USER, "password": password})

    def has(self, image: str) -> bool:
        """Whether the engine has the image."""
        return bool(self.client.images(name=image))


@contextmanager
def running(client: Any, home: Path) -> Iterator[Registry]:
    """A registry that asks for a password; the test is skipped where the program is not there.

    Of what the engine has pulled from it nothing is left at the end.
    """
    program = shutil.which("docker-registry", path=f"{_UNPACKED}:{os.environ['PATH']}")
    if program is None:
        lacking("no docker-registry: `tests/e2e/docker_engine.sh start` unpacks Debian's")
    (home / "htpasswd").write_text(_HTPASSWD)
    (home / "config.yml").write_text(_config(home))
    with (home / "log").open("w") as log:
        process = subprocess.Popen([program, "serve", str(home / "config.yml")], stdout=subprocess.DEVNULL, stderr=log)
    try:
        registry = Registry(_address(process, home / "log"), client)
        try:
            yield registry
        finally:
            registry.remove_pulled()
    finally:
        process.terminate()
        process.wait()


def _config(home: Path) -> str:
    return json.dumps(  # which is YAML, too
        {
            "version": 0.1,
            "log": {"level": "info"},
            "storage": {"filesystem": {"rootdirectory": str(home / "data")}},
            "http": {"addr": "127.0.0.1:0", "secret": secrets.token_hex(8)},
            "auth": {"htpasswd": {"realm": "tests", "path": str(home / "htpasswd")}},
        }
    )


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    while not (found := _LISTENING.search(log.read_text())):
        assert process.poll() is None, log.read_text()
    return found[1]


def _layer() -> bytes:
    buffer = io.BytesIO()
    content = secrets.token_bytes(16)
    member = tarfile.TarInfo("hello")
    member.size = len(content)
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()
