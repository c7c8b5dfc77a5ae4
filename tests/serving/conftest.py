"""Real Triton servers on a tiny random Llama."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from filelock import FileLock
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing

from include.settings import PROJECT, Settings
from include.targets import pytriton
from include.triton import repository, servers
from include.triton.servers import ServerRecord
from tests.support.echo import free

PYTHON = Settings().openvino_python
TEMPLATES = PROJECT / "include" / "targets" / "openvino" / "repository"
BOS = "<|endoftext|>"
MAX_INPUT_LEN, MAX_SEQ_LEN = 256, 30_000


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the tests of this folder first: their servers take long, and a process that had them last would be alone."""
    items.sort(key=lambda item: Path(__file__).parent not in item.path.parents)


@pytest.fixture(scope="session")
def tiny(request: pytest.FixtureRequest) -> Path:
    """A folder with ``engine`` and ``tokenizer``, kept between runs: making it takes most of a run's time."""
    maker = PROJECT / "tests" / "support" / "tiny_models.py"
    path = request.config.cache.mkdir("tiny") / hashlib.sha256(maker.read_bytes()).hexdigest()[:16]
    with FileLock(f"{path}.lock"):  # tests run in several processes
        if not path.exists():
            subprocess.run([PYTHON, "-m", "tests.support.tiny_models", "served", path], cwd=PROJECT, check=True)
    return path


@dataclass(frozen=True)
class Endpoint:
    """A running server, as its users see it."""

    record: ServerRecord

    def post(self, body: dict[str, Any], *, model: str = "ensemble", kind: str = "generate") -> httpx.Response:
        """One request."""
        return httpx.post(f"{self.record.url}/v2/models/{model}/{kind}", json=body, timeout=60)

    def text(self, prompt: str, max_tokens: int = 20, **options: Any) -> str:
        """The answer to a prompt."""
        response = self.post({"text_input": prompt, "max_tokens": max_tokens} | options)
        assert response.status_code == httpx.codes.OK, response.text
        return str(response.json()["text_output"])


Serve = Callable[..., Endpoint]


@pytest.fixture(scope="session")
def serve(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> Iterator[Serve]:
    """Starts a server on the tiny engine; all are stopped at the end."""
    started: list[tuple[ServerRecord, Path]] = []

    def start(
        *, streaming: bool, chat: bool = False, preprocessing: str = "", bos: bool = False, end_ids: str = "0"
    ) -> Endpoint:
        # The shell of Triton's python backend, and the stub's Python without a locale, have to take such a path.
        root = tmp_path_factory.mktemp("server") / ("störe (a) [b]: c" if streaming else "store")
        root.mkdir()
        (root / "model").symlink_to(tiny)
        repository.assemble(TEMPLATES, values(root / "model", streaming, chat, end_ids), root / "repository")
        if bos:
            _begin_texts(tiny / "tokenizer", root / "tokenizer")
            for config in (root / "repository").glob("*/config.pbtxt"):
                config.write_text(
                    config.read_text().replace(str(root / "model" / "tokenizer"), str(root / "tokenizer"))
                )
        if preprocessing:
            (root / "repository" / "preprocessing" / "1" / "model.py").write_text(preprocessing)
        repository.check(root / "repository")
        pytriton.prepare(PYTHON)
        plan = pytriton.server("openvino", pytriton.ask(PYTHON), root / "repository", free())
        record = servers.launch(plan, root / "server.json", timeout_s=120)
        started.append((record, root / "server.json"))
        return Endpoint(record)

    yield start
    for record, path in started:
        servers.stop(record, path, grace_s=20)


def _begin_texts(source: Path, folder: Path) -> None:
    """A copy of a tokenizer that starts every text with a special token."""
    shutil.copytree(source, folder)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    special = [(BOS, tokenizer.token_to_id(BOS))]
    tokenizer.post_processor = TemplateProcessing(single=f"{BOS} $A", special_tokens=special)
    tokenizer.save(str(folder / "tokenizer.json"))


def values(tiny: Path, streaming: bool, chat: bool, end_ids: str = "0") -> dict[str, dict[str, str]]:
    """What the templates ask for."""
    batch = {"triton_max_batch_size": "8"}
    tokenizer = {**batch, "tokenizer_dir": str(tiny / "tokenizer")}
    length = {"max_seq_len": str(MAX_SEQ_LEN)}
    return {
        "ensemble": batch,
        "preprocessing": {
            **tokenizer,
            **length,
            "end_ids": end_ids,
            "max_input_len": str(MAX_INPUT_LEN),
            "apply_chat_template": str(chat).lower(),
        },
        "tensorrt_llm": {
            **tokenizer,
            **length,
            "end_ids": end_ids,
            "engine_dir": str(tiny / "engine"),
            "decoupled_mode": str(streaming).lower(),
            "max_num_tokens": "512",
            "kv_cache_bytes": str(1 << 30),
            "kv_cache_free_gpu_mem_fraction": "0",
        },
        "postprocessing": tokenizer,
    }


@pytest.fixture(scope="session")
def plain(serve: Serve) -> Endpoint:
    """A server that answers each request at once, with the chat template."""
    return serve(streaming=False, chat=True)


@pytest.fixture(scope="session")
def streaming(serve: Serve) -> Endpoint:
    """A server that can stream, without the chat template."""
    return serve(streaming=True)
