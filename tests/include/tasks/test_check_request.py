"""What bad input gets: a refusal that names the field, before anything has started, with the store untouched."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from include.context import Context
from include.errors import HostError, PipelineError, UserError
from include.model.architectures import ARCHITECTURES
from include.settings import Settings
from include.stages.calibrate.source import SourceModel
from include.tasks import Checked, check_request, room
from include.triton import servers
from include.triton.servers import Ports, ServerPlan, ServerRecord
from tests.include.model.configs import BAD_CONFIGS
from tests.support import tiny_files as tiny
from tests.support.hub_server import HubServer, Repo

SMALL = {"awq_group_size": 64, "calib_seq_len": 64, "max_input_len": 128, "max_seq_len": 256}
Spoil = Callable[[Path], Any]


def check(context: Context, model: Path | str, **params: Any) -> Checked:
    return check_request.run(context, {"model": str(model), **SMALL, **params})


def change(**fields: Any) -> Spoil:
    return lambda model: (model / "config.json").write_text(json.dumps({**tiny.CONFIG, **fields}))


def cut_weights(model: Path) -> None:
    path = model / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])


def test_a_good_request_comes_back_with_what_was_found_out(context: Context, model: Path) -> None:
    checked = check(context, model)
    assert checked.config.architecture == "LlamaForCausalLM"
    assert checked.source.origin == "local"
    assert Checked.model_validate(checked.model_dump(mode="json")) == checked


def test_an_architecture_that_the_target_cannot_serve_is_refused(
    context: Context, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = replace(ARCHITECTURES["LlamaForCausalLM"], refused={"openvino": "it is too large a bird"})
    monkeypatch.setattr("include.model.config.ARCHITECTURES", {row.name: row})
    with pytest.raises(UserError, match="openvino cannot serve LlamaForCausalLM: it is too large a bird") as caught:
        check(context, model)
    assert caught.value.fix == "choose target tensorrt_llm or vllm"


@pytest.mark.parametrize(
    ("spoil", "params", "field", "fix"),
    [
        pytest.param(change(), {"model": "org/name;id"}, "model", "", id="shell characters"),
        pytest.param(change(), {"model": "/srv/../etc"}, "model", "", id="dots"),
        pytest.param(change(), {"model": "https://host/org/name"}, "model", "", id="a URL"),
        pytest.param(change(), {"model": "/nowhere/at/all"}, "model", "", id="no such directory"),
        pytest.param(
            change(architectures=["FalconForCausalLM"]), {}, "architecture", "LlamaForCausalLM", id="architecture"
        ),
        pytest.param(change(), {"awq_group_size": 128}, "awq_group_size", "64", id="group size"),
        pytest.param(change(), {"max_seq_len": 1024}, "max_seq_len", "512", id="longer than the model"),
        pytest.param(change(), {"max_input_len": 256}, "max_input_len", "", id="no room for an answer"),
        pytest.param(change(), {"calib_seq_len": 513}, "calib_seq_len", "512", id="calibration too long"),
        pytest.param(change(), {"tp_size": 2}, "tp_size", "1", id="tensor parallel on a CPU"),
        pytest.param(
            change(), {"target": "vllm", "precision": "fast"}, "precision", "openvino", id="another target's precision"
        ),
        pytest.param(cut_weights, {}, "model.safetensors", "", id="corrupted safetensors"),
    ],
)
def test_a_request_that_cannot_be_met_is_refused(
    context: Context, model: Path, spoil: Spoil, params: dict[str, Any], field: str, fix: str
) -> None:
    spoil(model)
    with pytest.raises(UserError) as refusal:
        check(context, **{"model": str(model), **params})
    assert field in str(refusal.value)
    assert fix in str(refusal.value)
    assert not list(context.settings.artifacts.rglob("*"))


@pytest.mark.parametrize("fields", BAD_CONFIGS.values(), ids=BAD_CONFIGS)
def test_calibrate_refuses_by_the_config_what_is_refused_here(
    context: Context, model: Path, fields: dict[str, Any]
) -> None:
    change(**fields)(model)
    with pytest.raises(UserError) as here:
        check(context, model)
    with pytest.raises(UserError) as there:
        SourceModel.read(model).config.check_calibration(64, 64, 1)
    assert here.value.to_dict() == there.value.to_dict()
    assert not list(context.settings.artifacts.rglob("*"))


def test_a_target_that_needs_containers_is_refused_by_a_deployment_without(context: Context, model: Path) -> None:
    with pytest.raises(HostError, match="tensorrt_llm runs in containers(.|\n)*field target"):
        check(context, model, target="tensorrt_llm")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        pytest.param(b"", "is empty", id="empty"),
        pytest.param(b" \n\n", "is empty", id="blank"),
        pytest.param("Grüße".encode("latin-1"), "is not UTF-8", id="latin-1"),
        pytest.param("ends in the middle of ü".encode()[:-1], "is not UTF-8", id="cut"),
    ],
)
def test_a_calibration_file_without_text_is_refused(
    context: Context, model: Path, tmp_path: Path, content: bytes, problem: str
) -> None:
    (tmp_path / "calib.txt").write_bytes(content)
    with pytest.raises(UserError, match=f"{problem}(.|\n)*field calib_data"):
        check(context, model, calib_data=str(tmp_path / "calib.txt"))


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        pytest.param("a.txt", "A line.\n" * 20, "gives 2 samples of 64 tokens, 32 are asked for", id="too short"),
        pytest.param("a.jsonl", '{"text": "a"}\n{"text"\n', "entry 2 is not a JSON object", id="no JSON"),
        pytest.param("a.jsonl", '{"body": "a"}\n', "entry 1 is not a JSON object with a text field", id="no text"),
        pytest.param("a.jsonl", '{"text": 5}\n', "the text field of entry 1 is no string", id="a number"),
    ],
)
def test_calibration_text_is_read_as_calibrate_reads_it(
    context: Context, model: Path, tmp_path: Path, name: str, content: str, problem: str
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=f"{problem}(.|\n)*field calib_data"):
        check(context, model, calib_data=str(tmp_path / name))


@pytest.mark.parametrize("name", ["missing.txt", "table.xlsx"])
def test_a_calibration_file_that_is_no_text_file_is_refused(
    context: Context, model: Path, tmp_path: Path, name: str
) -> None:
    (tmp_path / "table.xlsx").write_bytes(b"PK")
    with pytest.raises(UserError, match="field calib_data"):
        check(context, model, calib_data=str(tmp_path / name))


def test_a_live_port_that_is_another_programs_is_named(context: Context, model: Path) -> None:
    port = context.settings.live_http_port
    with socket.create_server(("127.0.0.1", port)), pytest.raises(HostError, match=f"port {port} is taken"):
        check(context, model)


def test_a_taken_candidate_port_is_named(context: Context, model: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(HostError, match=f"port {port} is taken"):
            check(context, model, candidate_http_port=port)


def test_a_disk_that_is_too_small_is_told_before_the_download(
    context: Context, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(total=10, used=10, free=1000))
    with pytest.raises(HostError, match="disk"):
        check(context, model)


def test_a_target_that_the_host_does_not_have_is_refused(context: Context, model: Path, tmp_path: Path) -> None:
    settings = Settings(openvino_python=tmp_path / "no-python", artifacts=tmp_path / "artifacts")
    with pytest.raises(HostError, match="target openvino is not available(.|\n)*make setup"):
        check(Context(settings=settings, log=print, dag_id="d", run_id="r"), model)


@pytest.mark.parametrize(
    ("model_id", "revision", "problem"),
    [
        pytest.param("org/unknown", "main", "model", id="unknown model"),
        pytest.param("org/name", "no-such-branch", "revision", id="unknown revision"),
        pytest.param("org/gated", "main", "gated", id="gated, no token"),
    ],
)
def test_what_the_hub_refuses_is_told_apart(
    context: Context, hub: HubServer, monkeypatch: pytest.MonkeyPatch, model_id: str, revision: str, problem: str
) -> None:
    hub.add(Repo("org/name", tiny.model()))
    hub.add(Repo("org/gated", tiny.model(), gated=True))
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
    with pytest.raises(PipelineError, match=problem) as refusal:
        check(replace(context, settings=Settings()), model_id, revision=revision)
    assert not refusal.value.retry


@pytest.mark.parametrize(
    ("settings", "params", "problem"),
    [
        ({"require_approval": True}, {"swap": "recreate"}, "swap recreate cannot be had in this deployment"),
        ({"approvers": ("ann",)}, {"swap": "recreate"}, "swap recreate cannot be had in this deployment"),
        ({"approvers": ("ann",)}, {"approvers": ["bob"]}, "bob may not approve releases in this deployment"),
        ({"approvers": ("eve",)}, {}, "there is no user eve"),
        ({}, {"require_approval": True, "approvers": ["eve"]}, "there is no user eve"),
    ],
)
def test_an_approval_that_cannot_be_had_is_refused_at_once(
    context: Context, model: Path, settings: dict[str, Any], params: dict[str, Any], problem: str
) -> None:
    known = replace(
        context,
        settings=context.settings.model_copy(update=settings),
        find_users=lambda: frozenset({"ann", "bob"}),
    )
    with pytest.raises(UserError, match=problem):
        check(known, model, **params)


def live(context: Context, model: str, **request: Any) -> None:
    releases = context.releases
    release = releases.open(model, target="openvino", repository="r", chain={}, request=request)
    releases.make_live(release)
    releases.record_promotion(release.served_name)


def test_a_name_that_another_live_model_has_is_refused(context: Context, model: Path) -> None:
    live(context, "org--chat", aliases=["chatty"])
    with pytest.raises(UserError, match="chat, the served name of local--chat-.* by default, is that of release"):
        check(context, model.rename(model.with_name("chat")))
    with pytest.raises(UserError, match="chatty is a name of the live model chat") as refused:
        check(context, model.with_name("chat"), served_name="chatty")
    assert "retire_model" in refused.value.fix
    assert check(context, model.with_name("chat"), served_name="chat").request.name == "chat"


@pytest.fixture
def beside(context: Context, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Model ``name`` is live and holds 3 GiB; so much is free, in GiB."""

    def set_free(free: int) -> None:
        plan = ServerPlan(target="t", repository=Path("/r"), argv=("x",), ports=Ports(http=1, grpc=2, metrics=3))
        record = ServerRecord(plan=plan, log=Path("/log"), gpus=("GPU-1",))
        monkeypatch.setattr(Context, "live_servers", lambda self: {"name": record})
        monkeypatch.setattr(servers, "memory", lambda record: 3 << 30)
        monkeypatch.setattr(room.psutil, "virtual_memory", lambda: SimpleNamespace(available=free << 30))

    return set_free


def test_what_is_live_is_said_with_its_memory(context: Context, model: Path, beside: Callable[[int], None]) -> None:
    said: list[str] = []
    beside(8)
    check(replace(context, log=said.append), model)
    assert "live: name, whose server holds 3.0 GiB of host memory, and GPU GPU-1" in said
    assert any("needs at least 0.3 GiB of memory, 8.0 GiB are free" in line for line in said)


def test_a_server_that_does_not_fit_beside_the_others_is_refused(
    context: Context, model: Path, beside: Callable[[int], None]
) -> None:
    beside(0)
    with pytest.raises(HostError, match=r"needs at least 0.3 GiB of memory, 0.0 GiB are free") as refused:
        check(context, model)
    assert "name (3.0 GiB)" in refused.value.where
    assert "retire_model" in refused.value.fix
    with pytest.raises(HostError):
        check(context, model, swap="recreate")
    assert check(context, model, swap="recreate", served_name="name"), "its own server makes room"
    with pytest.raises(HostError) as refused:
        check(context, model, served_name="name")
    assert "use swap recreate" in refused.value.fix
