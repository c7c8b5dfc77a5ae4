"""A small Hugging Face Hub on 127.0.0.1: enough of its API for huggingface_hub, and faults on demand.

Stand-alone, it serves a directory as one repository:
    python -m tests.support.hub_server --id org/name --directory DIR [--port 0] [--token SECRET] [--gated] [--private]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import signal
import socket
import struct
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

from tests.support.web import Handler, Server

LFS_SUFFIXES = (".safetensors", ".bin", ".parquet", ".gguf", ".model")
_CHUNK = 1 << 16


@dataclass(frozen=True)
class Status:
    """Answers with an HTTP error."""

    code: int
    body: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Drop:
    """Sends ``after`` bytes of the body, then closes the connection; ``reset`` closes it with a TCP RST."""

    after: int
    reset: bool = False


@dataclass(frozen=True)
class Truncate:
    """Serves a body that is ``by`` bytes short, with a Content-Length to match."""

    by: int


@dataclass(frozen=True)
class Corrupt:
    """Serves bytes of the right number that are not those declared; ``varying`` gives others each time."""

    varying: bool = False


@dataclass(frozen=True)
class Stall:
    """Does not answer until the server is closed."""


@dataclass(frozen=True)
class Html:
    """Answers 200 with a page, like a proxy's login."""


@dataclass(frozen=True)
class Endless:
    """Answers 200 with a body that ends when the client hangs up."""

    chunk: bytes = b" " * _CHUNK
    headers: Mapping[str, str] = field(default_factory=dict)


Fault = Status | Drop | Truncate | Corrupt | Stall | Html | Endless


@dataclass
class Repo:
    """One repository with one commit. ``allowed`` are the tokens that may read a private or gated one.

    ``stale`` is what a bad mirror serves in place of the files that it declares.
    """

    name: str
    files: dict[str, bytes]
    kind: Literal["model", "dataset"] = "model"
    branches: tuple[str, ...] = ("main",)
    tags: tuple[str, ...] = ()
    private: bool = False
    gated: bool = False
    allowed: frozenset[str] = frozenset()
    license: str | None = "apache-2.0"
    card: dict[str, Any] = field(default_factory=dict)
    declare_blobs: bool = True
    xet: bool = False
    stale: dict[str, bytes] = field(default_factory=dict)

    def served(self, path: str) -> bytes:
        return self.stale.get(path, self.files[path])

    @property
    def commit(self) -> str:
        listing = "".join(f"{path} {git_sha1(self.files[path])}\n" for path in sorted(self.files))
        return hashlib.sha1(f"{self.name}\n{listing}".encode()).hexdigest()

    def has(self, revision: str) -> bool:
        return revision in {self.commit, *self.branches, *self.tags}


@dataclass(frozen=True)
class Request:
    """What the server was asked. ``token`` is what came with it, ``origin`` the Host header."""

    method: str
    path: str
    origin: str
    range: str | None
    token: str | None


class HubServer:
    """The Hub. Each fault meets one request, and is then gone."""

    def __init__(self, port: int = 0, tokens: frozenset[str] = frozenset()) -> None:
        self.repos: dict[tuple[str, str], Repo] = {}
        self.moved: dict[str, str] = {}
        self.requests: list[Request] = []
        self.tokens = set(tokens)
        self.closing = threading.Event()
        self._faults: dict[tuple[str, str], list[Fault]] = {}
        self._lock = threading.Lock()
        self._http = Server(type("Handler", (_Handler,), {"hub": self}), port)
        self._thread = self._http.start()

    @property
    def port(self) -> int:
        return self._http.server_port

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def storage(self) -> str:
        """Where large files are redirected to: another origin, as the Hub's storage is."""
        return f"http://localhost:{self.port}/storage"

    def add(self, repo: Repo) -> Repo:
        self.repos[repo.kind, repo.name] = repo
        self.tokens |= repo.allowed
        return repo

    def fail(self, where: str, *faults: Fault, method: str = "GET") -> None:
        """The next requests for ``where``, a file or revision, tree or refs, meet ``faults``, one each."""
        self._faults.setdefault((method, where), []).extend(faults)

    def heal(self) -> None:
        """Forgets the faults that no request has met yet."""
        with self._lock:
            self._faults.clear()

    def fault_for(self, where: str, method: str) -> Fault | None:
        with self._lock:
            faults = self._faults.get((method, where))
            return faults.pop(0) if faults else None

    def find(self, kind: str, name: str) -> Repo | None:
        return self.repos.get((kind, name))

    def asked(self, method: str, path: str) -> list[Request]:
        """The requests so far of ``method`` whose path ends with ``path``."""
        return [request for request in self.requests if request.method == method and request.path.endswith(path)]

    def close(self) -> None:
        self.closing.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


class _Handler(Handler):
    hub: HubServer

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        scheme, _, credential = (self.headers.get("Authorization") or "").partition(" ")
        token = credential if scheme == "Bearer" else None
        origin = self.headers.get("Host", "")
        self.hub.requests.append(Request(self.command, path, origin, self.headers.get("Range"), token))
        if token is not None and token not in self.hub.tokens:
            return self._error(401, "", "Invalid credentials in Authorization header")
        for pattern, serve in (
            (r"/api/(model|dataset)s/(.+?)/(revision|tree|refs)(?:/(.+))?", self._api),
            (r"/()(datasets/)?(.+?)/resolve/([^/]+)/(.+)", self._resolve),
            (r"/storage/(model|dataset)/(.+)/-/(.+)", self._storage),
        ):
            if match := re.fullmatch(pattern, path):
                return serve(token, *match.groups())
        return self._error(404, "", "no such route")

    def _api(self, token: str | None, kind: str, name: str, what: str, revision: str | None) -> None:
        if self._met(self.hub.fault_for(what, self.command)):
            return None
        if name in self.hub.moved:
            return self._redirect(self.path.replace(name, self.hub.moved[name], 1), {}, 307)
        repo = self._readable(token, kind, name)
        if repo is None:
            return None
        if what == "refs":
            return self._json(_refs(repo))
        if not repo.has(revision or ""):
            return self._error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return self._json(info(repo) if what == "revision" else _tree(repo))

    def _resolve(self, token: str | None, _: str, dataset: str | None, name: str, revision: str, path: str) -> None:
        kind = "dataset" if dataset else "model"
        repo = self._readable(token, kind, name)
        if repo is None:
            return None
        if repo.gated and token not in repo.allowed:
            return self._error(403 if token else 401, "GatedRepo", "Access to this model is restricted")
        if not repo.has(revision):
            return self._error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        if path not in repo.files:
            return self._error(404, "EntryNotFound", "Entry not found")
        headers = _file_headers(repo, path)
        if _is_lfs(path):
            if self.command == "HEAD" and self._met(self.hub.fault_for(path, "HEAD")):
                return None
            return self._redirect(f"{self.hub.storage}/{kind}/{name}/-/{path}?signature=storage-secret", headers)
        return self._content(path, repo.served(path), headers)

    def _storage(self, _: str | None, kind: str, name: str, path: str) -> None:
        repo = self.hub.find(kind, name)
        assert repo is not None
        self._content(path, repo.served(path), {"ETag": '"of-the-storage"'})

    def _readable(self, token: str | None, kind: str, name: str) -> Repo | None:
        repo = self.hub.find(kind, name)
        if repo is None or (repo.private and token not in repo.allowed):
            self._error(404 if token else 401, "RepoNotFound", "Repository not found")
            return None
        return repo

    def _content(self, path: str, content: bytes, headers: Mapping[str, str]) -> None:
        fault = self.hub.fault_for(path, self.command)
        if self._met(fault):
            return
        if isinstance(fault, Truncate):
            content = content[: -fault.by]
        if isinstance(fault, Corrupt):
            flip = 1 + (len(self.hub.requests) % 250 if fault.varying else 0)
            content = content[:-1] + bytes([(content[-1] + flip) % 256])
        self._body(content, headers, fault if isinstance(fault, Drop) else None)

    def _body(self, content: bytes, headers: Mapping[str, str], drop: Drop | None) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "bytes=0-")
        assert asked is not None
        first, whole = int(asked[1]), len(content)
        content = content[: int(asked[2]) + 1] if asked[2] else content
        self.send_response(206 if self.headers.get("Range") else 200)
        if self.headers.get("Range"):
            self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{whole}")
        self._headers({**headers, "Content-Length": str(len(content) - first), "Accept-Ranges": "bytes"})
        if self.command == "HEAD":
            return
        rest = content[first : drop.after if drop else None]
        with suppress(ConnectionError):
            for start in range(0, len(rest), _CHUNK):
                self.wfile.write(rest[start : start + _CHUNK])
        if drop:
            self._hang_up(reset=drop.reset)

    def _hang_up(self, *, reset: bool) -> None:
        self.wfile.flush()
        self.close_connection = True
        if reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()

    def _met(self, fault: Fault | None) -> bool:
        """Plays the faults that replace the whole answer."""
        if isinstance(fault, Stall):
            self.hub.closing.wait()
            self.close_connection = True
        elif isinstance(fault, Status):
            self._send(fault.code, fault.body.encode(), dict(fault.headers))
        elif isinstance(fault, Endless):
            self._stream(fault)
        elif isinstance(fault, Html):
            self._send(200, b"<html>please log in</html>", {"Content-Type": "text/html"})
        else:
            return False
        return True

    def _stream(self, fault: Endless) -> None:
        self.close_connection = True
        self.send_response(200)
        self._headers(fault.headers)
        with suppress(ConnectionError):
            while not self.hub.closing.is_set():
                self.wfile.write(fault.chunk)

    def _error(self, code: int, error_code: str, message: str) -> None:
        headers = {"X-Error-Message": message} | ({"X-Error-Code": error_code} if error_code else {})
        self._send(code, json.dumps({"error": message}).encode(), headers)

    def _json(self, answer: object) -> None:
        self._send(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})

    def _redirect(self, location: str, headers: Mapping[str, str], code: int = 302) -> None:
        self._send(code, b"", {**headers, "Location": location})

    def _send(self, code: int, body: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(code)
        self._headers({**headers, "Content-Length": str(len(body))})
        if self.command == "GET":
            self.wfile.write(body)

    def _headers(self, headers: Mapping[str, str]) -> None:
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()


@cache
def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@cache
def git_sha1(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _is_lfs(path: str) -> bool:
    return path.endswith(LFS_SUFFIXES)


def _pointer(content: bytes) -> bytes:
    oid = sha256(content)
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {len(content)}\n".encode()


def _file_headers(repo: Repo, path: str) -> dict[str, str]:
    content = repo.served(path)
    etag = sha256(content) if _is_lfs(path) else git_sha1(content)
    headers = {"X-Repo-Commit": repo.commit, "ETag": f'"{etag}"'}
    if _is_lfs(path):
        headers |= {"X-Linked-Etag": f'"{etag}"', "X-Linked-Size": str(len(content))}
    if repo.xet and _is_lfs(path):
        headers |= {"X-Xet-Hash": etag, "X-Xet-Refresh-Route": "https://huggingface.co/api/no-such-route"}
    return headers


def info(repo: Repo) -> dict[str, Any]:
    return {
        "id": repo.name,
        "sha": repo.commit,
        "private": repo.private,
        "gated": "manual" if repo.gated else False,
        "tags": [f"license:{repo.license}"] if repo.license else [],
        "cardData": repo.card,
        "siblings": [_sibling(repo, path) for path in sorted(repo.files)],
    }


def _sibling(repo: Repo, path: str) -> dict[str, Any]:
    content = repo.files[path]
    if not repo.declare_blobs:
        return {"rfilename": path}
    if not _is_lfs(path):
        return {"rfilename": path, "size": len(content), "blobId": git_sha1(content)}
    pointer = _pointer(content)
    lfs = {"sha256": sha256(content), "size": len(content), "pointerSize": len(pointer)}
    return {"rfilename": path, "size": len(content), "blobId": git_sha1(pointer), "lfs": lfs}


def _tree(repo: Repo) -> list[dict[str, Any]]:
    return [_tree_entry(repo, path) for path in sorted(repo.files)]


def _tree_entry(repo: Repo, path: str) -> dict[str, Any]:
    content = repo.files[path]
    if not _is_lfs(path):
        return {"type": "file", "path": path, "size": len(content), "oid": git_sha1(content)}
    pointer, oid = _pointer(content), sha256(content)
    lfs = {"oid": oid, "size": len(content), "pointerSize": len(pointer)}
    entry = {"type": "file", "path": path, "size": len(content), "oid": git_sha1(pointer), "lfs": lfs}
    return entry | ({"xetHash": oid} if repo.xet else {})


def _refs(repo: Repo) -> dict[str, Any]:
    def ref(kind: str, name: str) -> dict[str, str]:
        return {"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": repo.commit}

    return {
        "branches": [ref("heads", name) for name in repo.branches],
        "tags": [ref("tags", name) for name in repo.tags],
        "converts": [],
    }


@contextmanager
def running(port: int = 0) -> Iterator[HubServer]:
    """A server that is closed at the end of the block."""
    server = HubServer(port)
    try:
        yield server
    finally:
        server.close()


def main() -> None:
    """Serves a directory until SIGINT or SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--id", required=True)
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--token", action="append", default=[])
    parser.add_argument("--gated", action="store_true")
    parser.add_argument("--private", action="store_true")
    options = parser.parse_args()
    paths = [path for path in options.directory.rglob("*") if path.is_file()]
    files = {str(path.relative_to(options.directory)): path.read_bytes() for path in paths}
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    with running(options.port) as server:
        allowed = frozenset(options.token)
        server.add(Repo(options.id, files, gated=options.gated, private=options.private, allowed=allowed))
        print(server.endpoint, flush=True)
        stop.wait()


if __name__ == "__main__":
    main()
