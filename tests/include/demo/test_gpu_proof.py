"""The proof record: gathered from a real store, measured against a real HTTP endpoint, written and read back."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from include.artifacts.store import ArtifactStore
from include.demo import gpu_proof
from include.demo.gpu_proof import Answer, Proof, Speed
from include.errors import ToolError
from include.releases.records import ReleaseStore
from include.requests.release import ReleaseRequest
from include.settings import Settings
from tests.support.web import Handler, serving

ENVIRONMENT = {"image": "sha256:feed", "tensorrt_llm": "1.2.1"}
ENGINE_REPORT = {"timings_s": {"trtllm-build": 236.4}, "results": {"build_s": 236}}
CALIBRATION_REPORT = {"timings_s": {"search": 10.5, "export": 4.5}}


class Generate(Handler):
    """Triton's generate endpoint: echoes, one token a word, up to max_tokens.

    ``/together`` answers its first request alone, the others only eight at once.
    """

    first = threading.Semaphore(1)
    together = threading.Barrier(8)

    def do_POST(self) -> None:
        body = json.loads(self.body())
        if self.path == "/together" and not self.first.acquire(blocking=False):
            self.together.wait(timeout=30)
        words = body["text_input"].split()[: body["max_tokens"]]
        assert (body["top_k"], body["return_num_output_tokens"]) == (1, True)
        if self.path == "/broken":
            self.reply({"error": "engine gone"}, 400)
        else:
            self.reply({"text_output": " ".join(words), "num_output_tokens": len(words)})


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with serving(Generate) as server:
        yield f"http://127.0.0.1:{server.server_port}"


def artifact(store: ArtifactStore, kind: str, report: dict[str, object]) -> str:
    inputs = {"hardware": {"gpu": "NVIDIA L40S", "sm": "89"}, "environment": ENVIRONMENT}
    with store.claim(kind, inputs, log=lambda _: None) as claim:
        (claim.partial / "stage.json").write_text(json.dumps(report))
        return claim.commit().name


@pytest.fixture
def deployment(tmp_path: Path) -> Settings:
    store = ArtifactStore(tmp_path)
    chain = {
        "model": f"{gpu_proof.MODEL}@abc",
        "checkpoints": artifact(store, "checkpoints", CALIBRATION_REPORT),
        "engines": artifact(store, "engines", ENGINE_REPORT),
    }
    request = ReleaseRequest.parse({**gpu_proof.REQUEST, "model": gpu_proof.MODEL})
    ReleaseStore(tmp_path / "releases").open(
        request.slug,
        target="tensorrt_llm",
        repository="repo",
        chain=chain,
        request=request.model_dump(mode="json"),
    )
    return Settings.model_validate({"artifacts": tmp_path})


@pytest.fixture
def proof(deployment: Settings) -> Proof:
    return gpu_proof.gather(
        deployment,
        released={"model": "NousResearch--Llama-2-7b-hf", "release": 1},
        stages_s={"calibrate_awq": 61.0, "build_engine": 250.5},
        reused=["pull_model"],
        answers=[Answer(prompt="How?", text="\nLike this.")],
        speeds=[Speed(concurrency=8, requests=32, tokens=4096, seconds=2.0)],
    )


def test_a_record_holds_what_the_manifests_say(proof: Proof) -> None:
    assert (proof.gpu, proof.environment, proof.engine_build_s) == ("NVIDIA L40S", ENVIRONMENT, 236)
    assert proof.parts_s == {"checkpoints": {"search": 10.5, "export": 4.5}, "engines": {"trtllm-build": 236.4}}
    assert proof.model == "NousResearch/Llama-2-7b-hf@abc"
    assert proof.request["target"] == "tensorrt_llm"


def test_both_files_are_named_by_date_and_gpu_and_the_json_is_the_record(proof: Proof, tmp_path: Path) -> None:
    page = proof.write(tmp_path / "docs" / "proof")
    assert page.name == f"{proof.made_at:%Y-%m-%d}-NVIDIA-L40S.md"
    assert Proof.model_validate_json(page.with_suffix(".json").read_text()) == proof


@pytest.mark.parametrize(
    "line",
    [
        "| calibrate_awq | 61.0 |",
        "| checkpoints: search | 10.5 |",
        "| tensorrt_llm | 1.2.1 |",
        "| 8 | 32 | 4096 | 2.00 | 2048.0 |",
        "The engine took 236 s by trtllm-build's own clock.",
        "> How?",
        "Like this.",
    ],
)
def test_the_page_shows_what_was_measured(proof: Proof, line: str) -> None:
    assert line in proof.to_markdown().splitlines()


def test_the_page_names_what_was_not_made_anew(proof: Proof) -> None:
    assert "Taken from the store: pull_model." in proof.to_markdown()


def test_speed_counts_the_tokens_that_were_made(endpoint: str) -> None:
    speed = gpu_proof.measure(endpoint, 1, tokens=3)
    assert (speed.concurrency, speed.requests, speed.tokens) == (1, 4, 12)
    assert speed.tokens_per_s == pytest.approx(12 / speed.seconds)


def test_as_many_requests_are_under_way_as_the_concurrency_says(endpoint: str) -> None:
    assert gpu_proof.measure(f"{endpoint}/together", 8, tokens=1).tokens == 32


def test_an_endpoint_that_fails_is_an_error(endpoint: str) -> None:
    with pytest.raises(ToolError, match="400.*engine gone"):
        gpu_proof.ask(f"{endpoint}/broken", "x", 1)


def test_the_request_is_one_that_the_form_takes() -> None:
    assert ReleaseRequest.parse({**gpu_proof.REQUEST, "model": gpu_proof.MODEL}).target == "tensorrt_llm"
