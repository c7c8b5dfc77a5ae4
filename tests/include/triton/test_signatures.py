"""Signatures of model repositories, by real keys and real files."""

from __future__ import annotations

import stat
import subprocess
import sys
from pathlib import Path

import pytest

from include.artifacts.kind import Kind
from include.artifacts.store import ArtifactStore
from include.errors import HostError
from include.triton.signatures import Signatures

CONFIG = """name: "engine"
backend: "python"
parameters { key: "engine_dir" value { string_value: "%s" } }
parameters { key: "tokenizer_dir" value { string_value: "%s/tokenizer" } }
"""


def make(store: ArtifactStore, kind: Kind, files: dict[str, str], signatures: Signatures | None = None) -> Path:
    with store.claim(kind, {"files": files}, log=lambda _: None) as claim:
        for name, text in files.items():
            (claim.partial / name).parent.mkdir(parents=True, exist_ok=True)
            (claim.partial / name).write_text(text)
        if signatures:
            signatures.sign(claim.name, claim.partial)
        return claim.commit().path


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "store")


@pytest.fixture
def signatures(store: ArtifactStore, tmp_path: Path) -> Signatures:
    return Signatures(store.root, tmp_path / "keys" / "signing.pem")


@pytest.fixture
def engine(store: ArtifactStore) -> Path:
    return make(store, Kind.ENGINE, {"model.xml": "<net/>", "model.bin": "weights"})


@pytest.fixture
def checkpoint(store: ArtifactStore) -> Path:
    return make(store, Kind.CHECKPOINT, {"rank0.safetensors": "int4", "tokenizer/tokenizer.json": "{}"})


@pytest.fixture
def repository(store: ArtifactStore, engine: Path, checkpoint: Path, signatures: Signatures) -> Path:
    files = {"engine/config.pbtxt": CONFIG % (engine, checkpoint), "engine/1/model.py": "pass", ".git/hook": "x"}
    return make(store, Kind.REPOSITORY, files, signatures)


def test_an_unchanged_repository_is_as_it_was_signed(repository: Path, signatures: Signatures) -> None:
    assert signatures.verify(repository)
    assert signatures.verify(repository)


CHANGED = [
    ("repository", "engine/1/model.py"),
    ("repository", "engine/config.pbtxt"),
    ("repository", ".git/hook"),
    ("engine", "model.bin"),
    ("checkpoint", "tokenizer/tokenizer.json"),
]


@pytest.mark.parametrize(("artifact", "name"), CHANGED)
def test_a_changed_byte_is_refused_by_the_files_name(
    artifact: str, name: str, repository: Path, signatures: Signatures, request: pytest.FixtureRequest
) -> None:
    file = request.getfixturevalue(artifact) / name
    data = bytearray(file.read_bytes())
    data[0] ^= 1
    file.write_bytes(data)
    with pytest.raises(HostError, match=file.name):
        signatures.verify(repository)


def test_a_file_that_was_added_or_removed_is_refused_by_its_name(
    repository: Path, engine: Path, signatures: Signatures
) -> None:
    added = repository / "engine" / "1" / "sitecustomize.py"
    added.touch()
    with pytest.raises(HostError, match=r"Extra files.*sitecustomize\.py"):
        signatures.verify(repository)
    added.unlink()
    (engine / "model.xml").unlink()
    with pytest.raises(HostError, match=r"Missing files.*model\.xml"):
        signatures.verify(repository)


def test_bytecode_is_never_taken_for_a_source(repository: Path, signatures: Signatures, tmp_path: Path) -> None:
    cache = repository / "engine" / "1" / "__pycache__"
    cache.mkdir()
    (cache / "model.cpython-311.pyc").write_bytes(b"planted")
    assert signatures.verify(repository)
    assert not cache.exists()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "kept").touch()
    cache.symlink_to(elsewhere)
    with pytest.raises(HostError, match="not as it was signed"):
        signatures.verify(repository)
    assert (elsewhere / "kept").exists()


def test_bytecode_that_another_server_writes_meanwhile_is_no_change(
    repository: Path, signatures: Signatures, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, calls = Signatures._read, list[Path]()
    cache = repository / "engine" / "1" / "__pycache__"

    def beside_a_server_that_starts(self: Signatures, directory: Path) -> None:
        if not calls:
            cache.mkdir()
            (cache / "model.cpython-311.pyc").write_bytes(b"its own")
        calls.append(directory)
        read(self, directory)

    monkeypatch.setattr(Signatures, "_read", beside_a_server_that_starts)
    assert signatures.verify(repository)
    assert len(calls) == 2
    assert not cache.exists()


def test_an_engine_that_was_changed_before_the_signature_is_not_signed(
    store: ArtifactStore, engine: Path, checkpoint: Path, signatures: Signatures
) -> None:
    (engine / "model.bin").write_text("WEIGHTS")
    with pytest.raises(HostError, match=r"not as it was made: model\.bin"):
        make(store, Kind.REPOSITORY, {"engine/config.pbtxt": CONFIG % (engine, checkpoint)}, signatures)
    assert store.all(Kind.REPOSITORY) == []
    assert list((store.root / "signatures").iterdir()) == []


def test_a_repository_of_an_earlier_version_is_not_signed(
    store: ArtifactStore, engine: Path, checkpoint: Path, signatures: Signatures
) -> None:
    repository = make(store, Kind.REPOSITORY, {"engine/config.pbtxt": CONFIG % (engine, checkpoint)})
    assert signatures.verify(repository) is False
    assert not signatures.key.exists()


def test_the_key_is_made_once_for_its_user_alone(repository: Path, signatures: Signatures) -> None:
    before = signatures.key.read_bytes()
    assert stat.S_IMODE(signatures.key.stat().st_mode) == 0o600
    assert stat.S_IMODE(signatures.key.parent.stat().st_mode) == 0o700
    signatures.sign(repository.name, repository)
    assert signatures.key.read_bytes() == before
    assert sorted(path.name for path in signatures.key.parent.iterdir()) == ["signing.pem", "signing.pub"]


def test_another_key_is_refused(repository: Path, signatures: Signatures, tmp_path: Path) -> None:
    other = Signatures(signatures.artifacts, tmp_path / "other" / "signing.pem")
    other._make_key()
    with pytest.raises(HostError, match="Key mismatch"):
        other.verify(repository)


def test_the_public_half_is_enough_to_check(repository: Path, signatures: Signatures) -> None:
    signatures.key.unlink()
    assert signatures.verify(repository)
    signatures.key.with_suffix(".pub").unlink()
    with pytest.raises(HostError, match="has no key"):
        signatures.verify(repository)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"dsseEnvelope": 3}'])
def test_a_broken_signature_is_refused(text: str, repository: Path, signatures: Signatures) -> None:
    next((signatures.artifacts / "signatures" / repository.name).glob("engines--*.sig")).write_text(text)
    with pytest.raises(HostError, match="not as it was signed"):
        signatures.verify(repository)


def test_a_signature_that_was_taken_away_is_refused(repository: Path, signatures: Signatures) -> None:
    next((signatures.artifacts / "signatures" / repository.name).glob("engines--*.sig")).unlink()
    with pytest.raises(HostError, match="not as it was signed"):
        signatures.verify(repository)


def test_a_broken_key_is_named(repository: Path, signatures: Signatures) -> None:
    signatures.key.write_text("no key")
    with pytest.raises(HostError, match="signing key cannot be read"):
        signatures.verify(repository)


def test_the_tool_of_the_standard_checks_it_too(repository: Path, signatures: Signatures) -> None:
    signature = signatures.artifacts / "signatures" / repository.name / "repository.sig"
    argv = [sys.executable, "-m", "model_signing", "verify", "key", "--signature", signature, "--no-ignore-git-paths"]
    done = subprocess.run(
        [*argv, "--public_key", signatures.key.with_suffix(".pub"), repository], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
