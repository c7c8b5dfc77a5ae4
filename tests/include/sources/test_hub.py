from __future__ import annotations

import errno
import json
import logging
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub import constants  # noqa: TID253

from include.errors import HostError, PipelineError, ToolError, TransientError, UserError
from include.files import disk_errors
from include.sources import ModelSource, fetch, resolve
from include.sources.hub_session import Repo as Target
from tests.support import tiny_files as tiny
from tests.support.hub_server import Corrupt, Drop, Fault, Html, HubServer, Repo, Stall, Status, Truncate

NAME = "org/tiny"
WEIGHTS = "model.safetensors"
TOKEN = "hf_very_secret_token"
NEEDED = sorted(tiny.model())
NOT_NEEDED = {
    "README.md": b"#",
    "LICENSE": b"text",
    "pytorch_model.bin": b"pickle",
    "model.fp16.safetensors": b"variant",
    "consolidated.safetensors": b"duplicate",
    "original/consolidated.00.pth": b"duplicate",
    "onnx/model.onnx": b"duplicate",
    "tiny-q4.gguf": b"quantized",
    "evil.py": b"code",
}


def add_model(hub: HubServer, **changes: object) -> Repo:
    return hub.add(Repo(**({"name": NAME, "files": tiny.model()} | changes)))  # type: ignore[arg-type]


def ask(hub: HubServer, model: str = NAME, revision: str = "main", token: str | None = None) -> ModelSource:
    return resolve(model, revision, token=token, endpoint=hub.endpoint)


def get(hub: HubServer, source: ModelSource, into: Path, token: str | None = None) -> list[str]:
    """Fetches; returns the log."""
    lines: list[str] = []
    fetch(source, into, token=token, endpoint=hub.endpoint, log=lines.append)
    return lines


def content_of(directory: Path) -> dict[str, bytes]:
    paths = [path for path in directory.rglob("*") if path.is_file()]
    return {str(path.relative_to(directory)): path.read_bytes() for path in paths}


class TestResolve:
    @pytest.mark.parametrize("revision", ["main", "dev", "v1.0", "commit"])
    def test_any_revision_becomes_the_commit(self, hub: HubServer, revision: str) -> None:
        repo = add_model(hub, branches=("main", "dev"), tags=("v1.0",))
        asked = repo.commit if revision == "commit" else revision
        source = ask(hub, revision=asked)
        assert (source.id, source.revision, source.commit) == (NAME, asked, repo.commit)

    def test_describes_the_files(self, hub: HubServer) -> None:
        repo = add_model(hub)
        source = ask(hub)
        assert source.total_bytes == sum(map(len, repo.files.values()))
        assert source.license == "apache-2.0"
        assert json.loads(source.config) == tiny.CONFIG
        assert {file.path: file.digest.partition(":")[0] for file in source.files} == {
            name: "sha256" if name == WEIGHTS else "git-sha1" for name in NEEDED
        }

    def test_survives_json(self, hub: HubServer) -> None:
        add_model(hub)
        source = ask(hub)
        assert ModelSource.model_validate_json(source.model_dump_json()) == source
        assert json.loads(source.model_dump_json())["total_bytes"] == source.total_bytes

    def test_reads_no_weights(self, hub: HubServer) -> None:
        add_model(hub)
        ask(hub)
        assert hub.asked("GET", WEIGHTS) == []

    def test_chooses_only_the_needed_files(self, hub: HubServer) -> None:
        add_model(hub, files=tiny.model() | NOT_NEEDED)
        assert [file.path for file in ask(hub).files] == NEEDED

    def test_follows_the_index_to_the_shards(self, hub: HubServer) -> None:
        add_model(hub, files=tiny.sharded_model() | NOT_NEEDED)
        assert [file.path for file in ask(hub).files] == sorted(tiny.sharded_model())

    def test_takes_the_name_that_a_moved_model_has_now(self, hub: HubServer) -> None:
        add_model(hub)
        hub.moved["tiny"] = NAME
        assert ask(hub, model="tiny").id == NAME

    def test_sends_no_token_that_the_machine_has_stored(self, hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        add_model(hub)
        ask(hub)
        assert {request.token for request in hub.requests} == {None}


def without(*names: str, **more: bytes) -> dict[str, bytes]:
    return {name: content for name, content in (tiny.model() | more).items() if name not in names}


INDEX_ONLY = {name: text for name, text in tiny.sharded_model().items() if "00002-of" not in name}

REFUSED = [
    pytest.param({"name": "org/other"}, None, "no model org/tiny, or it is private and there is no", id="unknown"),
    pytest.param({"name": "org/other", "allowed": {TOKEN}}, TOKEN, "may not read it", id="unknown-token"),
    pytest.param({"private": True}, None, "private and there is no Hub token", id="private"),
    pytest.param({"private": True}, "other", "the Hub token may not read it", id="private-other-token"),
    pytest.param({"gated": True}, None, "is gated, and there is no Hub token", id="gated"),
    pytest.param({"gated": True}, "other", "the account of the Hub token has no access", id="gated-other-token"),
    pytest.param({}, "hf_revoked", "does not accept the token", id="invalid-token"),
    pytest.param({"files": without("config.json")}, None, "has no config.json", id="no-config"),
    pytest.param(
        {"files": without("config.json", **{"adapter_config.json": b"{}"})}, None, "PEFT adapter", id="adapter"
    ),
    pytest.param({"files": without("config.json", **{"a.gguf": b"x"})}, None, "GGUF", id="gguf"),
    pytest.param({"files": without(WEIGHTS)}, None, "has no safetensors", id="no-weights"),
    pytest.param({"files": without(WEIGHTS, **{"pytorch_model.bin": b"x"})}, None, "safe_serialization", id="pickled"),
    pytest.param({"files": without("tokenizer.json")}, None, "has no tokenizer", id="no-tokenizer"),
    pytest.param({"files": INDEX_ONLY}, None, "model-00002-of-00002.safetensors", id="missing-shard"),
    pytest.param(
        {"files": INDEX_ONLY | {"model.safetensors.index.json": b"[]"}}, None, "cannot be read", id="bad-index"
    ),
    pytest.param({"files": without(**{"config.json": b"\xff"})}, None, "not UTF-8", id="not-utf-8"),
    pytest.param({"declare_blobs": False}, None, "declares no size and hash", id="mirror-without-hashes"),
]


class TestRefusedByResolve:
    @pytest.mark.parametrize(("repo", "token", "words"), REFUSED)
    def test_says_what_and_how_to_mend_it(
        self, hub: HubServer, repo: dict[str, object], token: str | None, words: str
    ) -> None:
        add_model(hub, **repo)
        hub.tokens.add("other")
        with pytest.raises(UserError) as caught:
            ask(hub, token=token)
        assert words in str(caught.value)
        assert caught.value.where.startswith("field model: ")
        assert caught.value.fix

    @pytest.mark.parametrize(
        ("revision", "hint"),
        [
            pytest.param("mian", "did you mean main?", id="typo"),
            pytest.param("v1.1", "did you mean v1.0?", id="close-tag"),
            pytest.param("release", "it has main, v1.0", id="nothing-close"),
            pytest.param("0" * 40, "it has main, v1.0", id="unknown-commit"),
            pytest.param("../../x?y", "it has main, v1.0", id="strange"),
        ],
    )
    def test_suggests_a_revision(self, hub: HubServer, revision: str, hint: str) -> None:
        add_model(hub, tags=("v1.0",))
        with pytest.raises(UserError, match="has no revision") as caught:
            ask(hub, revision=revision)
        assert caught.value.where == f"field revision: {hub.endpoint}/{NAME}"
        assert hint in caught.value.fix

    def test_names_the_revision_where_the_refs_cannot_be_listed(self, hub: HubServer) -> None:
        add_model(hub)
        hub.fail("refs", Status(500))
        with pytest.raises(UserError, match="has no revision 'x'"):
            ask(hub, revision="x")

    @pytest.mark.parametrize(
        ("model", "hint"),
        [
            pytest.param("https://huggingface.co/org/tiny/tree/main", "did you mean org/tiny?", id="url"),
            pytest.param("org/../tiny", "org/name", id="dots"),
            pytest.param("org/tiny; rm -rf /", "org/name", id="shell"),
            pytest.param("a/b/c", "org/name", id="three-parts"),
            pytest.param("./tiny", "whole path from /", id="relative-path"),
        ],
    )
    def test_refuses_what_is_no_id_without_a_request(self, hub: HubServer, model: str, hint: str) -> None:
        with pytest.raises(UserError) as caught:
            ask(hub, model=model)
        assert hint in caught.value.fix
        assert hub.requests == []

    @pytest.mark.parametrize("endpoint", ["hub.example.org", "ftp://hub.example.org", "https://"])
    def test_refuses_an_endpoint_that_is_no_address(self, endpoint: str) -> None:
        with pytest.raises(UserError, match="not an http or https address"):
            resolve(NAME, "main", token=None, endpoint=endpoint)


class TestHubAway:
    @pytest.mark.parametrize(
        ("fault", "kind", "words"),
        [
            pytest.param(Status(429), TransientError, "HTTP 429", id="throttled"),
            pytest.param(Status(500), TransientError, "HTTP 500", id="500"),
            pytest.param(Status(503, "down for\nrepair"), TransientError, "HTTP 503", id="503"),
            pytest.param(Status(403, "policy"), UserError, "HTTP 403", id="forbidden"),
            pytest.param(Status(418), ToolError, "HTTP 418", id="odd-status"),
            pytest.param(Html(), ToolError, "does not answer like a Hub", id="login-page"),
            pytest.param(Status(200, "{}"), ToolError, "does not answer like a Hub", id="other-json"),
            pytest.param(Status(200, "[]"), ToolError, "does not answer like a Hub", id="json-list"),
            pytest.param(Stall(), TransientError, "cannot be reached", id="silent"),
        ],
    )
    def test_tells_the_causes_apart(
        self,
        hub: HubServer,
        monkeypatch: pytest.MonkeyPatch,
        fault: Fault,
        kind: type[PipelineError],
        words: str,
    ) -> None:
        if isinstance(fault, Stall):
            monkeypatch.setattr("include.sources.hub_session.REQUEST_TIMEOUT_S", 0.2)
        add_model(hub)
        hub.fail("revision", fault)
        with pytest.raises(kind) as caught:
            ask(hub)
        assert words in caught.value.what

    def test_a_listing_that_never_comes_ends_in_a_timeout(
        self, hub: HubServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("include.sources.hub_session.REQUEST_TIMEOUT_S", 0.1)
        add_model(hub)
        hub.fail("tree", *[Stall()] * 20)
        with pytest.raises(TransientError, match="timed out"):
            ask(hub)

    def test_a_refused_connection_may_pass(self, hub: HubServer) -> None:
        hub.close()
        with pytest.raises(TransientError, match="cannot be reached: .*refused"):
            ask(hub)

    def test_an_unknown_host_may_pass(self) -> None:
        with pytest.raises(TransientError, match="cannot be reached"):
            resolve(NAME, "main", token=None, endpoint="http://hub.invalid")

    def test_offline_mode_is_named(self, hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        with pytest.raises(HostError, match="offline mode") as caught:
            ask(hub)
        assert "HF_HUB_OFFLINE" in caught.value.fix


def same_wrong_bytes(repo: Repo) -> None:
    repo.stale[WEIGHTS] = repo.files[WEIGHTS][:-1] + b"?"


class TestFetch:
    @pytest.mark.parametrize("files", [tiny.model(), tiny.sharded_model()], ids=["one-file", "shards"])
    def test_brings_the_needed_files_and_nothing_else(
        self, hub: HubServer, tmp_path: Path, files: dict[str, bytes]
    ) -> None:
        add_model(hub, files=files | NOT_NEEDED)
        log = get(hub, ask(hub), tmp_path)
        assert content_of(tmp_path) == files
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted(files)
        assert not [request for request in hub.requests if request.path.endswith(tuple(NOT_NEEDED))]
        assert log[-1].startswith(f"verified {len(files)} files, 0.2 MB, after ")

    @pytest.mark.parametrize(
        ("method", "fault"),
        [
            pytest.param("GET", Drop(after=20_000), id="dropped"),
            pytest.param("GET", Drop(after=20_000, reset=True), id="reset"),
            pytest.param("GET", Truncate(by=7), id="truncated"),
            pytest.param("GET", Corrupt(), id="corrupt"),
            pytest.param("GET", Status(503), id="storage-503"),
            pytest.param("GET", Status(429, headers={"Retry-After": "0"}), id="storage-throttled"),
            pytest.param("HEAD", Status(503), id="head-503"),
        ],
    )
    def test_gets_over_a_fault_that_passes(self, hub: HubServer, tmp_path: Path, method: str, fault: Fault) -> None:
        repo = add_model(hub)
        source = ask(hub)
        hub.fail(WEIGHTS, fault, method=method)
        get(hub, source, tmp_path)
        assert content_of(tmp_path) == repo.files
        assert hub.fault_for(WEIGHTS, method) is None

    def test_resumes_a_dropped_connection_where_it_broke(
        self, hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)
        add_model(hub)
        source = ask(hub)
        hub.fail(WEIGHTS, Drop(after=20_000))
        log = get(hub, source, tmp_path)
        first, second = hub.asked("GET", f"/-/{WEIGHTS}")
        assert (first.range, second.range) == (None, "bytes=20000-")
        assert any("Trying to resume" in line for line in log)

    def test_downloads_a_damaged_file_again_and_no_other(self, hub: HubServer, tmp_path: Path) -> None:
        add_model(hub)
        source = ask(hub)
        hub.fail(WEIGHTS, Corrupt())
        log = get(hub, source, tmp_path)
        assert len(hub.asked("GET", f"/-/{WEIGHTS}")) == 2
        assert len(hub.asked("GET", "/tokenizer.json")) == 1
        assert any(line.startswith(f"{WEIGHTS}: expected sha256:") for line in log)

    def test_checks_small_files_too(self, hub: HubServer, tmp_path: Path) -> None:
        repo = add_model(hub)
        source = ask(hub)
        hub.fail("tokenizer.json", Corrupt())
        get(hub, source, tmp_path)
        assert content_of(tmp_path) == repo.files

    def test_keeps_what_an_earlier_attempt_left(self, hub: HubServer, tmp_path: Path) -> None:
        repo = add_model(hub)
        left = {WEIGHTS: repo.files[WEIGHTS], "tokenizer.json": b"damaged"}
        tiny.write(left | {".cache/huggingface/download/x.incomplete": b"half"}, tmp_path)
        get(hub, ask(hub), tmp_path)
        assert content_of(tmp_path) == repo.files
        assert hub.asked("GET", f"/-/{WEIGHTS}") == []

    def test_does_without_xet_where_a_mirror_only_passes_on_its_headers(self, hub: HubServer, tmp_path: Path) -> None:
        repo = add_model(hub, xet=True)
        get(hub, ask(hub), tmp_path)
        assert content_of(tmp_path) == repo.files
        assert constants.HF_HUB_DISABLE_XET is False

    @pytest.mark.parametrize(
        ("break_it", "kind", "words"),
        [
            pytest.param(same_wrong_bytes, ToolError, "expected sha256:.*, got sha256:", id="same-wrong-hash"),
            pytest.param(
                lambda repo: repo.stale.update({WEIGHTS: b"short"}), ToolError, "got 5 bytes", id="other-size"
            ),
            pytest.param(lambda repo: setattr(repo, "gated", True), UserError, "is gated", id="gated-meanwhile"),
            pytest.param(
                lambda repo: setattr(repo, "private", True), UserError, "it is private", id="private-meanwhile"
            ),
        ],
    )
    def test_gives_up_after_the_second_time(
        self,
        hub: HubServer,
        tmp_path: Path,
        break_it: Callable[[Repo], None],
        kind: type[PipelineError],
        words: str,
    ) -> None:
        repo = add_model(hub)
        source = ask(hub)
        break_it(repo)
        with pytest.raises(kind, match=words):
            get(hub, source, tmp_path)
        assert not (tmp_path / WEIGHTS).exists()
        assert not (tmp_path / ".cache").exists()

    @pytest.mark.parametrize(
        ("fault", "words"),
        [
            pytest.param(Truncate(by=7), "arrived incomplete", id="truncated"),
            pytest.param(Corrupt(varying=True), f"{WEIGHTS} is not what the Hub declares", id="random-bytes"),
            pytest.param(Status(503), "HTTP 503", id="503"),
            pytest.param(Drop(after=0), "cannot be reached", id="dropped"),
        ],
    )
    def test_what_keeps_failing_may_pass_later(self, hub: HubServer, tmp_path: Path, fault: Fault, words: str) -> None:
        add_model(hub)
        source = ask(hub)
        hub.fail(WEIGHTS, *[fault] * 20)
        with pytest.raises(TransientError, match=words):
            get(hub, source, tmp_path)

    def test_a_hub_that_goes_away_may_come_back(self, hub: HubServer, tmp_path: Path) -> None:
        add_model(hub)
        source = ask(hub)
        hub.close()
        with pytest.raises(TransientError, match="cannot be reached"):
            get(hub, source, tmp_path)

    def test_a_client_that_another_thread_has_closed_is_a_lost_connection(
        self, hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        add_model(hub)
        source = ask(hub)

        def closed(*_: object, **__: object) -> None:
            raise AttributeError("'NoneType' object has no attribute 'request'")

        monkeypatch.setattr("huggingface_hub.snapshot_download", closed)
        with pytest.raises(TransientError, match="cannot be reached: its connection was lost"):
            get(hub, source, tmp_path)

    def test_refuses_weights_that_are_broken_at_their_source(self, hub: HubServer, tmp_path: Path) -> None:
        weights = tiny.model()[WEIGHTS]
        add_model(hub, files=tiny.model() | {WEIGHTS: weights[:-4]})
        with pytest.raises(UserError, match="not a valid safetensors file"):
            get(hub, ask(hub), tmp_path)

    def test_asks_for_the_disk_first(self, hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        add_model(hub)
        source = ask(hub)
        monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000})())
        with pytest.raises(HostError, match="not enough disk"):
            get(hub, source, tmp_path)
        assert hub.asked("GET", f"/-/{WEIGHTS}") == []

    def test_a_disk_that_fills_up_is_the_hosts_matter(self) -> None:
        with pytest.raises(HostError, match="No space left") as caught, disk_errors(Path("/artifacts")):
            raise OSError(errno.ENOSPC, "No space left on device")
        assert caught.value.where == "/artifacts"

    def test_a_directory_that_cannot_be_made_is_the_hosts_matter(self, hub: HubServer, tmp_path: Path) -> None:
        add_model(hub)
        (tmp_path / "into").write_text("a file is in the way")
        with pytest.raises(HostError, match="cannot be used: File exists") as caught:
            get(hub, ask(hub), tmp_path / "into")
        assert caught.value.where == str(tmp_path / "into")


class TestToken:
    def test_opens_a_gated_model(self, hub: HubServer, tmp_path: Path) -> None:
        repo = add_model(hub, gated=True, private=True, allowed=frozenset({TOKEN}))
        get(hub, ask(hub, token=TOKEN), tmp_path, token=TOKEN)
        assert content_of(tmp_path) == repo.files

    @pytest.mark.parametrize("xet", [False, True], ids=["plain", "xet"])
    def test_does_not_reach_the_storage(self, hub: HubServer, tmp_path: Path, xet: bool) -> None:
        add_model(hub, xet=xet, allowed=frozenset({TOKEN}))
        get(hub, ask(hub, token=TOKEN), tmp_path, token=TOKEN)
        stored = hub.asked("GET", f"/-/{WEIGHTS}")
        assert [request.token for request in stored] == [None]

    def test_is_in_no_log_and_no_result(self, hub: HubServer, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        add_model(hub, gated=True, allowed=frozenset({TOKEN}))
        with caplog.at_level(logging.DEBUG):
            source = ask(hub, token=TOKEN)
            hub.fail(WEIGHTS, Drop(after=20_000), Corrupt())
            log = get(hub, source, tmp_path, token=TOKEN)
        said = [*log, caplog.text, source.model_dump_json(), repr(source)]
        said.append(repr(Target("model", NAME, "main", TOKEN, None)))
        assert not [text for text in said if TOKEN in text or "storage-secret" in text]

    @pytest.mark.parametrize("around", ["{}\n", "\n{}", " {}\r\n"])
    def test_a_token_with_white_space_around_it_is_sent_without(self, hub: HubServer, around: str) -> None:
        add_model(hub, private=True, allowed=frozenset({TOKEN}))
        ask(hub, token=around.format(TOKEN))
        assert {request.token for request in hub.requests} == {TOKEN}

    @pytest.mark.parametrize(
        "token", ["hf_very secret", "hf_very\nsecret", "hf_\u2026secret", "hf_\x00secret", "hf_\x7fsecret"]
    )
    def test_a_token_that_cannot_be_sent_is_refused_at_once_and_not_shown(self, hub: HubServer, token: str) -> None:
        with pytest.raises(UserError, match="character that no token has") as refused:
            ask(hub, token=token)
        assert "secret" not in "".join(traceback.format_exception(refused.value))
        assert hub.requests == []

    @pytest.mark.parametrize("user", ["user:endpoint-secret@", "endpoint-secret@"])
    def test_a_password_in_the_endpoint_does_not_replace_the_token(
        self, hub: HubServer, tmp_path: Path, user: str
    ) -> None:
        add_model(hub, private=True, allowed=frozenset({TOKEN}))
        endpoint = hub.endpoint.replace("://", f"://{user}")
        source = resolve(NAME, "main", token=TOKEN, endpoint=endpoint)
        fetch(source, tmp_path, token=TOKEN, endpoint=endpoint, log=lambda _: None)
        assert {request.token for request in hub.requests if "storage" not in request.path} == {TOKEN}

    @pytest.mark.parametrize("token", [None, TOKEN])
    def test_no_error_shows_the_password_of_the_endpoint(self, token: str | None) -> None:
        endpoint = "http://user:endpoint-secret@127.0.0.1:9"
        with pytest.raises(PipelineError) as failed:
            resolve(NAME, "main", token=token, endpoint=endpoint)
        assert "endpoint-secret" not in "".join(traceback.format_exception(failed.value))

    @pytest.mark.parametrize("status", [403, 418, 503])
    def test_is_in_no_failure_even_if_the_server_repeats_it(self, hub: HubServer, status: int) -> None:
        add_model(hub, allowed=frozenset({TOKEN}))
        hub.fail("revision", Status(status, json.dumps({"error": f"who is {TOKEN}?"})))
        with pytest.raises(PipelineError, match="who is") as caught:
            ask(hub, token=TOKEN)
        assert TOKEN not in "".join(traceback.format_exception(caught.value))

    def test_credentials_in_the_endpoint_are_in_no_log_and_no_failure(self, hub: HubServer, tmp_path: Path) -> None:
        add_model(hub)
        endpoint = hub.endpoint.replace("://", "://user:password@")
        source = resolve(NAME, "main", token=None, endpoint=endpoint)
        hub.fail("tokenizer.json", Drop(after=5), *[Truncate(by=1)] * 2)
        said: list[str] = []
        with pytest.raises(TransientError) as caught:
            fetch(source, tmp_path, token=None, endpoint=endpoint, log=said.append)
        assert any("Error while downloading" in line for line in said)
        assert not [text for text in (*said, str(caught.value)) if "password" in text]

    def test_credentials_in_the_endpoint_are_not_in_its_page(self) -> None:
        target = Target("model", NAME, "main", None, "https://user:password@mirror.example:8443/hub/")
        assert target.url == "https://mirror.example:8443/hub/org/tiny"
