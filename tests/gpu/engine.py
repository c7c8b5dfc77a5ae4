"""A Docker engine of a bare GPU host: started for a visit, with images whose programs are the host's own."""

from __future__ import annotations

import io
import json
import os
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from tests.gpu.layout import DATA, DOCKER, PYTRITON, ROOT, SITE, TRITON, TRTLLM, TRTLLM_IMAGE, VLLM, VLLM_IMAGE
from tests.support.wait import wait_for

SOCKET = f"unix://{DATA}/docker.sock"
TEMPLATES = Path(__file__).parents[1] / "fixtures" / "tensorrt_llm" / "templates"
IN_IMAGE = "app/all_models/inflight_batcher_llm"
_DRIVER = "/usr/local/nvidia"
_PATH = f"{ROOT}/bin:{_DRIVER}/bin:/usr/local/cuda/bin:/usr/local/bin:/usr/bin"
_FOLDERS = ("proc", "sys", "dev", "etc", "usr", "opt", "root", "run", "var", "home")
_USERS = {"etc/passwd": "root:x:0:0::/root:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n", "etc/group": "root:x:0:\n"}


@contextmanager
def running() -> Iterator[Any]:
    """An engine with both images; gives a client. One that a visit left which was cut off is used, else one started.

    The started one is stopped at the end.
    """
    with ExitStack() as started:
        client = _client()
        if client is None:
            engine = started.enter_context(_started())
            client = wait_for(partial(_client, engine), f"the engine, see {DATA}/dockerd.log", every_s=0.2)
        for image, python, extra in ((VLLM_IMAGE, ROOT / VLLM, ()), (TRTLLM_IMAGE, TRTLLM, ENTRYPOINT)):
            # Another import would be another image, for which everything is made anew.
            if not client.images(name=image):
                add_image(client, image, [*variables(python), *extra])
        yield client


@contextmanager
def _started() -> Iterator[subprocess.Popen[bytes]]:
    """The engine's process."""
    DATA.mkdir(parents=True, exist_ok=True)
    (DATA / "daemon.json").write_text(json.dumps(configuration(), indent=1))
    own = ROOT / DOCKER
    env = {**os.environ, "PATH": f"{own}/bin:{os.environ['PATH']}", "LD_LIBRARY_PATH": str(own / "lib")}
    with (DATA / "dockerd.log").open("ab") as log:
        engine = subprocess.Popen(
            [own / "bin" / "dockerd", "--config-file", DATA / "daemon.json"],
            env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    try:
        yield engine
    finally:
        engine.terminate()
        engine.wait(30)


def add_image(client: Any, image: str, changes: list[str]) -> None:
    """An image of empty folders."""
    repository, tag = image.split(":")
    client.import_image_from_data(root_file_system(), repository=repository, tag=tag, changes=changes)


def configuration() -> dict[str, Any]:
    """The engine's ``daemon.json``: no bridge, because a bare host may lack what it takes."""
    return {
        "hosts": [SOCKET],
        "data-root": str(DATA / "docker"),
        "exec-root": str(DATA / "exec"),
        "pidfile": str(DATA / "docker.pid"),
        "bridge": "none",
        "iptables": False,
        "ip6tables": False,
        "runtimes": {"bare": {"path": str(ROOT / DOCKER / "bin" / "bare-runtime")}},
        "default-runtime": "bare",
    }


ENTRYPOINT = (f'ENTRYPOINT ["{TRTLLM}/bin/entrypoint"]',)


def variables(python: Path) -> list[str]:
    """The image's variables: its interpreter first on the path, and its packages for Triton's stub."""
    return [
        f"ENV PATH={python}/bin:{_PATH}:{os.environ['PATH']}",
        f"ENV PYTHONPATH={python / SITE}",
        f"ENV LD_LIBRARY_PATH={_DRIVER}/lib64:{_DRIVER}/lib:{os.environ.get('LD_LIBRARY_PATH', '')}",
        "ENV PYTHONDONTWRITEBYTECODE=1",
    ]


def root_file_system() -> bytes:
    """A tar of empty folders, for what the runtime mounts, and of NVIDIA's templates."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in _FOLDERS:
            tar.addfile(_entry(name, tarfile.DIRTYPE))
        for name in ("tmp", "var/tmp"):
            tar.addfile(_entry(name, tarfile.DIRTYPE, 0o1777))
        links = {name: f"usr/{name}" for name in ("bin", "sbin", "lib", "lib64")}
        for name, place in {**links, str(TRITON)[1:]: str(PYTRITON)}.items():
            link = _entry(name, tarfile.SYMTYPE)
            link.linkname = place
            tar.addfile(link)
        for name, text in _USERS.items():
            entry = _entry(name, tarfile.REGTYPE, 0o644)
            entry.size = len(text)
            tar.addfile(entry, io.BytesIO(text.encode()))
        tar.add(TEMPLATES, IN_IMAGE)
    return buffer.getvalue()


def _entry(name: str, kind: bytes, mode: int = 0o755) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode = kind, mode
    return entry


def _client(engine: subprocess.Popen[bytes] | None = None) -> Any:
    """A client, if an engine answers; fails if ``engine`` has ended."""
    import docker

    assert engine is None or engine.poll() is None, f"dockerd has ended: see {DATA}/dockerd.log"
    try:
        client = docker.APIClient(SOCKET, version="auto", timeout=300)
        client.ping()
    except docker.errors.DockerException:
        return None
    return client
