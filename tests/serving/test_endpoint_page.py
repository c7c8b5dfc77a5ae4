"""The examples of docs/endpoint.md, as they stand there, against the addresses of a running server."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

from include.settings import PROJECT

from .conftest import TEMPLATES, Endpoint

PAGE = (PROJECT / "docs" / "endpoint.md").read_text()
GENERATE, GENERATE_STREAM = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
GRPC, INFER, _ = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
PROMPT = "How do I count to nine in French?"


def run(endpoint: Endpoint, example: str) -> str:
    """What the example prints."""
    ports = endpoint.record.ports
    text = example.replace("localhost:8000", f"127.0.0.1:{ports.http}").replace(
        "localhost:8001", f"127.0.0.1:{ports.grpc}"
    )
    program = [sys.executable, "-c"] if "import" in text else ["bash", "-c"]
    return subprocess.run([*program, text], capture_output=True, text=True, check=True, timeout=60).stdout


def test_curl_asks_for_the_whole_and_for_pieces(streaming: Endpoint) -> None:
    whole = json.loads(run(streaming, GENERATE))["text_output"]
    assert whole == streaming.text(PROMPT, 32)
    events = [line.removeprefix("data:") for line in run(streaming, GENERATE_STREAM).splitlines() if line]
    assert "".join(json.loads(event)["text_output"] for event in events) == whole
    assert len(events) > 1


def test_tritonclient_gets_the_same(streaming: Endpoint, plain: Endpoint) -> None:
    assert run(streaming, GRPC) == streaming.text(PROMPT, 32)
    assert run(plain, INFER) == plain.text(PROMPT, 32) + "\n"


def test_every_field_of_the_ensemble_is_on_the_page() -> None:
    config = (Path(TEMPLATES) / "ensemble" / "config.pbtxt").read_text()
    inputs = re.findall(r'name: "(\w+)"', config.partition("input [")[2].partition("output [")[0])
    rows = "".join(line.split("|")[1] for line in PAGE.splitlines() if line.startswith("| `"))
    assert [name for name in inputs if f"`{name}`" not in rows] == []
