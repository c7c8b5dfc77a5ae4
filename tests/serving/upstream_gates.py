"""NVIDIA's own Triton models on a stand-in engine, through all gates; their files are not part of this project.

``python -m tests.serving.upstream_gates CHECKOUT`` takes ``all_models/inflight_batcher_llm`` out of a checkout of
NVIDIA/TensorRT-LLM v1.2.1 (or of a directory copied out of the image), calibrates a model for target `tensorrt_llm`
without a GPU, and serves it as that target would, but for the engine: OpenVINO's, which follows the rules of NVIDIA's.
See docs/gpu-host.md.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from google.protobuf import text_format

from include.errors import UserError
from include.gates import Client, Endpoint, Report, Trial, gates_for, read_reference, validate
from include.model.generation import end_ids
from include.requests.release import ReleaseRequest
from include.runners.job import Command, inherited
from include.settings import PROJECT, Settings
from include.stages.common import REPORT_FILE
from include.targets import pytriton
from include.targets.openvino import HERE as OPENVINO
from include.targets.openvino import NO_TELEMETRY
from include.targets.tensorrt_llm import TensorRTLLMTarget, engines, templates
from include.targets.tensorrt_llm.settings import TensorRTLLMSettings
from include.triton import repository, servers

PLACES = (
    ".",
    "inflight_batcher_llm",
    "all_models/inflight_batcher_llm",
    "triton_backend/all_models/inflight_batcher_llm",
)
# NVIDIA's engine compares stop words token by token, and knows no end token but the one that it is told.
RULES = "\nStopWords.of = classmethod(lambda cls, words, decoder: cls(tuple(map(tuple, words))))\n"
TIMEOUT_S = 300


def find_templates(checkout: Path) -> Path:
    """The folder of NVIDIA's models in a checkout; raises `UserError` if there is none."""
    for place in PLACES:
        if all((checkout / place / model / "config.pbtxt").is_file() for model in templates.MODELS):
            return checkout / place
    raise UserError(f"{checkout} has no all_models/inflight_batcher_llm", fix="name a checkout of TensorRT-LLM v1.2.1")


def make(model: Path, root: Path, group_size: int) -> tuple[Path, Path]:
    """A checkpoint of target `tensorrt_llm`, and the stand-in's engine out of it; those that are whole are kept."""
    checkpoint, engine = root / "checkpoint", root / "engine"
    if not (checkpoint / REPORT_FILE).exists():
        _run("calibrate", checkpoint, "--model", str(model), "--group-size", str(group_size), "--calib-data", "builtin")
    if not (engine / REPORT_FILE).exists():
        _run("build_openvino", engine, "--checkpoint", str(checkpoint))
    return checkpoint, engine


def assemble(upstream: Path, checkpoint: Path, engine: Path, request: ReleaseRequest, out: Path) -> None:
    """The repository as the target makes it, with the stand-in in the engine's place."""
    target = TensorRTLLMTarget(Settings())
    tokenizer = checkpoint / "tokenizer"
    engines.check_tokenizer(tokenizer)
    target.check_tokenizer(request, tokenizer)
    filled = templates.values(
        request,
        TensorRTLLMSettings(),
        tokenizer=tokenizer,
        engine=engine,
        templates=upstream,
        ends=end_ids(checkpoint),
    )
    repository.assemble(upstream, filled, out, target.overlay())
    target.connect(out)
    _put_stand_in(out / "tensorrt_llm", tokenizer, request)
    repository.check(out)


def _put_stand_in(model: Path, tokenizer: Path, request: ReleaseRequest) -> None:
    path = model / "config.pbtxt"
    config = repository.read(model.parent)["tensorrt_llm"]
    config.backend = "python"
    values = {
        "tokenizer_dir": str(tokenizer),
        "skip_special_tokens": "true",
        "end_ids": "",
        "max_seq_len": str(request.max_seq_len),
        "max_queue_size": "1024",
        "max_num_sequences": str(request.max_batch_size),
        "max_num_tokens": str(request.max_num_tokens),
        "kv_cache_bytes": str(1 << 30),
    }
    config.parameters.pop("executor_worker_path", None)  # NVIDIA's engine has a program of its own
    for name, value in values.items():
        config.parameters[name].string_value = value
    path.write_text(text_format.MessageToString(config))
    code = model / "1"
    shutil.rmtree(code)
    shutil.copytree(OPENVINO / "repository" / "tensorrt_llm" / "1", code, ignore=shutil.ignore_patterns("__pycache__"))
    (code / "model.py").write_text((code / "model.py").read_text() + RULES)


def judge(served: Path, checkpoint: Path, request: ReleaseRequest, root: Path) -> Report:
    """What the gates say to the server of a repository."""
    python = Settings().openvino_python
    pytriton.prepare(python)
    plan = pytriton.server("openvino", pytriton.ask(python), served, servers.some_ports(), NO_TELEMETRY)
    record = servers.launch(plan, root / "server.json", timeout_s=TIMEOUT_S)
    try:
        with Client.open(Endpoint(host="127.0.0.1", http_port=plan.ports.http, grpc_port=plan.ports.grpc)) as client:
            trial = Trial(
                client,
                tuple(request.test_prompts),
                streaming=request.streaming,
                reference=read_reference(checkpoint),
                repository=served,
                tokenizer=checkpoint / "tokenizer",
                max_input_len=request.max_input_len,
                max_seq_len=request.max_seq_len,
            )
            return validate(trial, gates_for(request))
    finally:
        servers.stop(record, root / "server.json")


def _run(stage: str, out: Path, *args: str) -> None:
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    command = Command.python(
        str(Settings().openvino_python), f"include.stages.{stage}", ("--out", str(out), *args), **NO_TELEMETRY
    )
    subprocess.run(command.argv, env={**inherited(), **command.env}, cwd=PROJECT, check=True)


def main() -> int:
    """The program; 0 if all gates pass."""
    parser = argparse.ArgumentParser(prog="tests.serving.upstream_gates", description=__doc__)
    parser.add_argument("checkout", type=Path, help="of NVIDIA/TensorRT-LLM v1.2.1, or its inflight_batcher_llm")
    parser.add_argument("--model", type=Path, required=True, help="directory of a small Hugging Face model")
    parser.add_argument("--group-size", type=int, default=64)
    parser.add_argument("--no-streaming", dest="streaming", action="store_false")
    parser.add_argument("--packages", type=Path, help="folder with what NVIDIA's models import: pillow and requests")
    parser.add_argument("--work", type=Path, help="folder that keeps checkpoint and engine for the next time")
    options = parser.parse_args()
    fields = {"model": str(options.model.resolve()), "awq_group_size": options.group_size, "max_batch_size": 8}
    request = ReleaseRequest.parse({"target": "tensorrt_llm", "streaming": options.streaming, **fields})
    upstream = find_templates(options.checkout.resolve())
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        made = options.work.resolve() if options.work else root
        made.mkdir(parents=True, exist_ok=True)
        checkpoint, engine = make(options.model.resolve(), made, options.group_size)
        assemble(upstream, checkpoint, engine, request, root / "repository")
        if options.packages:  # Triton looks for a model's imports beside it
            shutil.copytree(options.packages, root / "repository" / "preprocessing" / "1", dirs_exist_ok=True)
        report = judge(root / "repository", checkpoint, request, root)
    print(report.to_markdown())
    print(json.dumps({verdict.gate: verdict.outcome for verdict in report.verdicts}))
    return 0 if report.passed else 1


if __name__ == "__main__":
    sys.exit(main())
