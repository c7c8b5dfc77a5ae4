"""Signatures of model repositories: OpenSSF model signatures, made with the deployment's key and checked offline.

``signatures/<repository>/`` in the store has one signature for the repository, and one for each directory of the store
that its models read: the engine, the tokenizer. They are files of the package model-signing, whose command line checks
them, too. A repository of an earlier version has none.
"""

from __future__ import annotations

import base64
import json
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from typing import Any

from include.artifacts.kind import Kind
from include.artifacts.store import MANIFEST_FILE, ArtifactStore
from include.errors import HostError, ToolError
from include.files import sync
from include.triton import repository

REPOSITORY = "repository"
_HASHES = re.compile(r": Expected '.*?', Actual '.*?'")
_AGAIN = "if nobody has changed it on purpose, remove the artifact's directory and run release_awq_engine again"


_BYTECODE = "__pycache__"
_TRIES = 5
_Stamps = frozenset[tuple[str, int, int, int]]
_verified: dict[Path, _Stamps | None] = {}
"""The repositories that this process has found to be as they were signed, with the stamps of all files then."""


@dataclass(frozen=True)
class Signatures:
    """The signatures below the store ``artifacts``. ``key`` is a private key as PEM, made when it is first needed.

    A host that only checks needs only the public half, in a file with the suffix ``.pub`` beside it.
    """

    artifacts: Path
    key: Path

    def sign(self, name: str, directory: Path) -> None:
        """Signs the repository ``name``, as it is in ``directory``, with what its models read.

        Raises:
            HostError: no key can be made or read, or a file is not as its artifact's manifest says.
        """
        from model_signing import signing

        self._make_key()
        draft = self._of(name).with_name(f".{name}.{secrets.token_hex(4)}")
        draft.mkdir(parents=True)
        try:
            for label, part in self._parts(directory):
                signature = draft / f"{label}.sig"
                with _failures(f"{part} cannot be signed", f"signing key {self.key}"):
                    signer = signing.Config().use_elliptic_key_signer(private_key=self.key)
                    signer.set_hashing_config(_hashing()).sign(part, signature)
                if label != REPOSITORY:
                    self._check_as_made(part, _signed(signature))
                sync(signature)
            shutil.rmtree(self._of(name), ignore_errors=True)  # of an attempt that was cut off
            draft.rename(self._of(name))
        finally:
            shutil.rmtree(draft, ignore_errors=True)

    def verify(self, directory: Path) -> bool:
        """True if the repository, and all that its models read, is as it was signed; False if it is not signed.

        It reads every file: about 1.7 s a GB on one core. A process that has read them before does not read them again
        as long as the kernel says that nobody has touched them. Bytecode that Python has left there is removed first.

        Raises:
            HostError: a file was changed, added or removed, which the message names; or another key signed it.
        """
        if not self.is_signed(directory.name):
            return False
        for left in reversed(range(_TRIES)):
            before = self._stamps(directory)
            if before is not None and _verified.get(directory) == before:
                break
            try:
                self._read(directory)
            except HostError as error:
                if left and _BYTECODE in error.what:  # of another server of this repository, which starts just now
                    continue
                raise
            _verified[directory] = before
            break
        return True

    def _stamps(self, directory: Path) -> _Stamps | None:
        """The stamps of all that a check reads, without bytecode; None if that cannot be told by stamps."""
        try:
            parts = [part for _, part in self._parts(directory)]
        except ToolError:
            return None
        for part in parts:
            _drop_bytecode(part)
        return _stamps(self._of(directory.name), self.key, self.key.with_suffix(".pub"), *parts)

    def _read(self, directory: Path) -> None:
        from model_signing import verifying

        with self._public_key() as public:
            for label, part in self._parts(directory):
                signature = self._of(directory.name) / f"{label}.sig"
                with _failures(f"{part.relative_to(self.artifacts)} is not as it was signed", str(part)):
                    verifier = verifying.Config().use_elliptic_key_verifier(public_key=public)
                    verifier.set_hashing_config(_hashing()).verify(part, signature)

    def is_signed(self, name: str) -> bool:
        """True if there is a signature of the repository."""
        return self._of(name).is_dir()

    def _of(self, name: str) -> Path:
        return self.artifacts / "signatures" / name

    def _parts(self, directory: Path) -> Iterator[tuple[str, Path]]:
        """The directories to sign, by the names of their signatures. The repository is first: it names the others."""
        yield REPOSITORY, directory
        for path in sorted(repository.paths(directory)):
            if path.is_relative_to(self.artifacts):
                yield str(path.relative_to(self.artifacts)).replace("/", "--"), path

    def _check_as_made(self, part: Path, signed: dict[str, str]) -> None:
        """Raises `HostError` if files were changed between their making and their signature."""
        kind, name, *below = part.relative_to(self.artifacts).parts
        prefix = "".join(f"{folder}/" for folder in below)
        outputs = ArtifactStore(self.artifacts).get(Kind(kind), name).manifest.outputs
        made = {one.path.removeprefix(prefix): one.sha256 for one in outputs if one.path.startswith(prefix)}
        changed = sorted(path for path in made.keys() | signed.keys() if made.get(path) != signed.get(path))
        if changed:
            what = f"{kind}/{name} is not as it was made: {', '.join(changed[:4])}"
            raise HostError(what, where=str(part), fix=_AGAIN)

    def _make_key(self) -> None:
        """Makes the key pair unless it is there, readable for this user alone."""
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

        if self.key.exists():
            return
        private = ec.generate_private_key(ec.SECP256R1())
        with _failures("the signing key cannot be made", str(self.key)):
            self.key.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            draft = self.key.with_name(f".{self.key.name}.{secrets.token_hex(4)}")
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
            sync(draft)
            try:
                self.key.hardlink_to(draft)
            except FileExistsError:
                return  # another task has made it
            finally:
                draft.unlink()
            self.key.with_suffix(".pub").write_bytes(_public_half(self.key))

    @contextmanager
    def _public_key(self) -> Iterator[Path]:
        """A file with the public half; that of the private key if this host has it."""
        public = self.key.with_suffix(".pub")
        if not self.key.exists():
            if not public.exists():
                fix = "give this host the key that signs, or its public half as a file with the suffix .pub"
                raise HostError("the repository is signed, and this host has no key", where=str(self.key), fix=fix)
            yield public
            return
        with tempfile.TemporaryDirectory() as scratch:
            public = Path(scratch) / "key.pub"
            with _failures("the signing key cannot be read", str(self.key)):
                public.write_bytes(_public_half(self.key))
            yield public


def _public_half(key: Path) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

    public = load_pem_private_key(key.read_bytes(), None).public_key()
    return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _stamps(*roots: Path) -> _Stamps | None:
    """The inode, size and time of change of each file: unlike its other times, nobody can set that one.

    None if there is something else than files and directories, such as a link, whose target has stamps of its own.
    """
    paths = [path for root in roots if os.path.lexists(root) for path in (root, *root.rglob("*"))]
    stats = {str(path): path.lstat() for path in paths}
    if not all(S_ISREG(stat.st_mode) or S_ISDIR(stat.st_mode) for stat in stats.values()):
        return None
    files = {path: stat for path, stat in stats.items() if S_ISREG(stat.st_mode)}
    return frozenset((path, stat.st_ino, stat.st_size, stat.st_ctime_ns) for path, stat in files.items())


def _drop_bytecode(directory: Path) -> None:
    """Triton's python backend writes it, and Python would take it, whoever wrote it, in place of a source."""
    for cache in directory.rglob(_BYTECODE):
        shutil.rmtree(cache, ignore_errors=True)


def _hashing() -> Any:  # noqa: ANN401 - a class of model_signing, which is imported late
    """All files but the manifest, which is written after the signature."""
    from model_signing import hashing

    return hashing.Config().set_ignored_paths(paths=[MANIFEST_FILE], ignore_git_paths=False)


def _signed(signature: Path) -> dict[str, str]:
    """The paths in a signature with their sha256."""
    payload = base64.b64decode(json.loads(signature.read_text())["dsseEnvelope"]["payload"])
    return {one["name"]: one["digest"] for one in json.loads(payload)["predicate"]["resources"]}


@contextmanager
def _failures(what: str, where: str) -> Iterator[None]:
    """Turns the errors of model_signing and cryptography, which have no class in common, into `HostError`."""
    try:
        yield
    except HostError:
        raise
    except Exception as error:
        said = _HASHES.sub("", str(error).removeprefix("Signature mismatch: ")) or type(error).__name__
        raise HostError(f"{what}: {said[:600]}", where=where, fix=_AGAIN) from error
