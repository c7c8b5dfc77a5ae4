"""Plants a fault into an OpenVINO IR: ``plant_in_ir.py {rope,scales} ENGINE OUT``. Runs in the target's environment."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import openvino as ov  # noqa: TID253 - runs in the target's environment only
from openvino import opset13 as op  # noqa: TID253 - runs in the target's environment only

WRONG_ROTARY_BASE = 10_000.0  # what engines fall back to; SmolLM2's is 100 000


def change_rotary_base(graph: ov.Model, checkpoint: dict[str, float]) -> int:
    """Replaces the rotary embedding's inverse frequencies; returns how many constants were changed."""
    exponents = np.arange(0, checkpoint["head_size"], 2) / checkpoint["head_size"]
    right, wrong = (base**-exponents for base in (checkpoint["rotary_base"], WRONG_ROTARY_BASE))
    found = [c for c in _constants(graph, ov.Type.f32) if c.data.size == right.size and _close(c, right)]
    for constant in found:
        _replace(constant, wrong.astype(np.float32))
    return len(found)


def shuffle_scales(graph: ov.Model, _: dict[str, float]) -> int:
    """Gives the weights of each int4 layer the scales of others; returns how many constants were changed."""
    random = np.random.default_rng(0)
    ints = _constants(graph, ov.Type.i4)
    for constant in ints:
        multiply = _user(_user(constant))
        scales = next(i.get_node() for i in multiply.input_values() if i.get_node().get_type_name() == "Constant")
        _replace(scales, random.permutation(scales.data.ravel()))
    return len(ints)


FAULTS: dict[str, Callable[[ov.Model, dict[str, float]], int]] = {
    "rope": change_rotary_base,
    "scales": shuffle_scales,
}


def _constants(graph: ov.Model, kind: ov.Type) -> list[ov.Node]:
    nodes = (node for node in graph.get_ordered_ops() if node.get_type_name() == "Constant")
    return [node for node in nodes if node.get_element_type() == kind]


def _close(constant: ov.Node, values: np.ndarray) -> bool:
    return bool(np.allclose(constant.data.ravel(), values, rtol=1e-3))


def _user(node: ov.Node) -> ov.Node:
    return next(iter(node.output(0).get_target_inputs())).get_node()


def _replace(constant: ov.Node, values: np.ndarray) -> None:
    new = op.constant(values.reshape(list(constant.shape)).astype(constant.data.dtype))
    for user in constant.output(0).get_target_inputs():
        user.replace_source_output(new.output(0))


def main(fault: str, engine: Path, out: Path) -> None:
    shutil.copytree(engine, out, ignore=shutil.ignore_patterns("openvino_model.*"))
    graph = ov.Core().read_model(engine / "openvino_model.xml")
    if not FAULTS[fault](graph, json.loads((engine / "config.json").read_text())["checkpoint"]):
        sys.exit(f"the graph has nothing to change for {fault}")
    ov.save_model(graph, out / "openvino_model.xml", compress_to_fp16=False)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
