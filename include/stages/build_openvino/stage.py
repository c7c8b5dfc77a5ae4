"""The build stage of target openvino from start to end."""

from __future__ import annotations

import json
import platform
import shutil
import tempfile
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import openvino as ov  # noqa: TID253 - runs only in a target's environment
import torch  # noqa: TID253

from include.errors import UserError
from include.model.files import CONFIG_FILE, GENERATION_FILE
from include.model.generation import suppressed_ids
from include.stages.build_openvino.graph import IR_FILE, export_graph, insert_int4, verify_ints
from include.stages.build_openvino.proof import Proof, engine_perplexity, plugin_config
from include.stages.checkpoint import Checkpoint
from include.stages.common import StageReport, log
from include.stages.quality import HeldOut, checkpoint_perplexity
from include.stages.vocabulary import silenced

TARGET = "openvino"


def build(checkpoint_dir: Path, out: Path, precision: str, report: StageReport) -> None:
    """Writes the IR, ``config.json`` and the generation config into ``out``.

    Raises:
        UserError: the checkpoint is not one that can be built, or loses too much with this precision.
        ToolError: the engine does not hold the checkpoint's ints, or does not score like PyTorch.
    """
    checkpoint = Checkpoint(checkpoint_dir)
    held_out, expected = HeldOut.load(checkpoint_dir), checkpoint_perplexity(checkpoint_dir)
    if not (checkpoint_dir / GENERATION_FILE).is_file():
        raise UserError(f"the checkpoint has no {GENERATION_FILE}", where=str(checkpoint_dir))
    with report.part("dequantize"):
        model = checkpoint.model(torch.float32)
    missing = suppressed_ids(checkpoint_dir)
    with tempfile.TemporaryDirectory(prefix=".graph-", dir=out) as scratch:
        with report.part("export graph"), silenced(model, missing):
            graph = export_graph(model, Path(scratch))
        del model
        with report.part("insert int4"):
            count = insert_int4(graph, checkpoint)
            ov.save_model(graph, out / IR_FILE, compress_to_fp16=True)
        del graph
    # Without it OpenVINO GenAI takes -1 for the end of an answer and refuses every request.
    shutil.copyfile(checkpoint_dir / GENERATION_FILE, out / GENERATION_FILE)
    properties = plugin_config(precision)
    with report.part("verify"):
        verify_ints(out / IR_FILE, checkpoint)
        proof = Proof(expected, engine_perplexity(out, held_out.blocks, properties))
        proof.check(precision, checkpoint.architecture.caps_scores)
    _write_config(out, checkpoint, proof, properties)
    _describe(report, proof, int4_layers=count, precision=precision, plugin_config=properties)
    log.info("precision %s: %s", precision, ", ".join(f"{name} {value}" for name, value in properties.items()))
    log.info("perplexity %.4f in PyTorch, %.4f in the engine", proof.torch_perplexity, proof.engine_perplexity)


def _write_config(out: Path, checkpoint: Checkpoint, proof: Proof, properties: dict[str, str]) -> None:
    """``plugin_config`` holds the properties to serve with; without them the engine is less exact."""
    fields = {
        "target": TARGET,
        "openvino": ov.__version__,
        "checkpoint": checkpoint.config,
        "vocab_size": checkpoint.config["vocab_size"],
        "max_position_embeddings": checkpoint.config["max_position_embeddings"],
        "plugin_config": properties,
        "proof": asdict(proof),
    }
    (out / CONFIG_FILE).write_text(json.dumps(fields, indent=1))


def _describe(report: StageReport, proof: Proof, **results: Any) -> None:  # noqa: ANN401 - any JSON
    tools = ("torch", "transformers", "openvino", "optimum-intel")
    report.versions |= {"python": platform.python_version(), **{tool: version(tool) for tool in tools}}
    report.results |= {**results, **asdict(proof)}
