"""The OpenVINO graph of a checkpoint: exported once from the dequantized model, then given the int4 weights back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov  # noqa: TID253 - runs only in a target's environment
import torch  # noqa: TID253
from openvino import opset13 as op  # noqa: TID253

from include.errors import ToolError, UserError
from include.stages.checkpoint import Checkpoint
from include.stages.formats.int4_awq import Int4Awq, QuantizedLinear

IR_FILE = "openvino_model.xml"
_F16 = np.finfo(np.float16)


def export_graph(model: Any, folder: Path) -> ov.Model:  # noqa: ANN401
    """The stateful decoder graph of a `transformers` model, its weights in files under ``folder``.

    The pipeline that serves knows fused attention only. Scores are not capped in it: the proof says if that matters.
    """
    from optimum.exporters.openvino.convert import export_from_model
    from optimum.intel import OVConfig

    model.set_attn_implementation("sdpa")
    export_from_model(
        model,
        output=folder,
        task="text-generation-with-past",
        stateful=True,
        ov_config=OVConfig(dtype="fp32"),
        # Otherwise it asks the Hub for a tokenizer, minutes long where that cannot be reached.
        preprocessors=[],
    )
    return ov.Core().read_model(folder / IR_FILE)


def insert_int4(graph: ov.Model, checkpoint: Checkpoint) -> int:
    """Replaces the weight of each quantized layer by its ints and scales; returns how many there are.

    Raises:
        ToolError: a layer of the checkpoint is not in the graph.
    """
    matmuls = (node for node in graph.get_ordered_ops() if node.get_type_name() == "MatMul")
    layers = {node.input_value(1).get_node().get_friendly_name(): node for node in matmuls}
    scaled: dict[tuple[str, int, bytes], ov.Output] = {}
    count = 0
    for name, linear in int4_linears(checkpoint):
        node = layers.get(constant_name(name))
        if node is None:
            raise ToolError(f"the exported graph has no layer {name}", fix="use optimum-intel 2.2")
        node.input(1).replace_source_output(int4_weight(name, linear))
        if linear.pre_quant_scale is not None:
            source = _scaled(node.input_value(0), linear.pre_quant_scale, scaled)
            node.input(0).replace_source_output(source)
        count += 1
    return count


def constant_name(name: str) -> str:
    """The name that the PyTorch frontend gives to the weight of module ``name``."""
    return f"self.{name}.weight"


def int4_linears(checkpoint: Checkpoint) -> Iterator[tuple[str, QuantizedLinear]]:
    """The quantized layers of a checkpoint; UserError for one of another format, which an IR here does not hold."""
    for name, linear in checkpoint.linears():
        if not isinstance(linear, QuantizedLinear):
            raise UserError(
                f"the checkpoint is {checkpoint.format.title}, which target openvino does not serve",
                where="field quantization",
                fix=f"set quantization to {Int4Awq.name}",
            )
        yield name, linear


def int4_weight(name: str, linear: QuantizedLinear) -> ov.Output:
    """Weight [out, in] as the CPU plugin keeps it compressed: i4 [out, groups, group] times a scale a group.

    Scales are float16, which TensorRT-LLM's kernel uses too, unless one of them is too small for it.
    """
    rows, columns = linear.ints.shape
    grouped = linear.ints.numpy().reshape(rows, -1, linear.group_size)
    values = linear.scales.numpy()[..., None]
    exact = bool(values.min() < _F16.tiny or values.max() > _F16.max)
    scales = values.astype(np.float32 if exact else np.float16)
    # An ov.Tensor over a temporary array would be left with a dangling pointer; the array itself is copied.
    constant = op.constant(grouped, dtype=ov.Type.i4)
    constant.set_friendly_name(constant_name(name))
    weight = op.multiply(op.convert(constant, "f32" if exact else "f16"), op.constant(scales))
    flat = op.reshape(weight, op.constant(np.array([rows, columns], dtype=np.int64)), special_zero=False)
    return (flat if exact else op.convert(flat, "f32")).output(0)


def _scaled(source: ov.Output, scale: torch.Tensor, known: dict[tuple[str, int, bytes], ov.Output]) -> ov.Output:
    """``source`` times ``scale``, computed once for q, k and v, which share it."""
    values = scale.float().numpy()
    key = (source.get_node().get_friendly_name(), source.get_index(), values.tobytes())
    if key not in known:
        known[key] = op.multiply(source, op.constant(values.reshape(1, 1, -1))).output(0)
    return known[key]


def verify_ints(path: Path, checkpoint: Checkpoint) -> None:
    """Raises `ToolError` unless the saved IR holds exactly the checkpoint's ints in every quantized layer."""
    constants = int4_constants(ov.Core().read_model(path))
    for name, linear in int4_linears(checkpoint):
        constant = constants.pop(constant_name(name), None)
        if constant is None or not np.array_equal(read_int4(constant), linear.ints.numpy()):
            raise ToolError(f"the ints of layer {name} differ from the checkpoint's", where=str(path))
    if constants:
        raise ToolError(f"{len(constants)} int4 constants belong to no layer", where=str(path))


def int4_constants(graph: ov.Model) -> dict[str, ov.Node]:
    """The int4 constants of a graph by name."""
    constants = (node for node in graph.get_ops() if node.get_type_name() == "Constant")
    return {node.get_friendly_name(): node for node in constants if node.get_element_type() == ov.Type.i4}


def read_int4(constant: ov.Node) -> Any:  # noqa: ANN401 - numpy.ndarray, untyped here
    """An i4 constant [out, groups, group] as int8 [out, in]; OpenVINO keeps the first of two in the low nibble."""
    rows, groups, size = constant.shape
    packed = np.asarray(constant.data).view(np.int8).ravel()
    values = np.empty(2 * packed.size, dtype=np.int8)
    values[0::2] = (packed << 4) >> 4
    values[1::2] = packed >> 4
    return values.reshape(rows, groups * size)
