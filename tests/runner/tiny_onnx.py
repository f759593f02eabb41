"""An ONNX file of our own for the tests: one layer, built with onnx.helper."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from inferbench_contract.spec import ModelSpec

FEATURES, CLASSES = 6, 4


def a_file(
    folder: Path,
    batch: int | str = "N",
    *,
    reshape: tuple[int, ...] = (),
    less_the_mean_of_the_batch: bool = False,
    **saving,
) -> ModelSpec:
    """Write a linear layer; behind it a constant shape, or something that makes examples depend on each other."""
    random = np.random.default_rng(0)
    constants = {
        "weight": random.standard_normal((FEATURES, CLASSES)).astype(np.float32),
        "bias": random.standard_normal(CLASSES).astype(np.float32),
        "shape": np.array(reshape, np.int64),
        "first": np.array([0], np.int64),
    }
    nodes = [helper.make_node("Gemm", ["features", "weight", "bias"], ["linear"])]
    if reshape:
        nodes.append(helper.make_node("Reshape", ["linear", "shape"], ["scores"]))
    elif less_the_mean_of_the_batch:
        nodes.append(helper.make_node("ReduceMean", ["linear", "first"], ["mean"]))
        nodes.append(helper.make_node("Sub", ["linear", "mean"], ["scores"]))
    else:
        nodes.append(helper.make_node("Relu", ["linear"], ["scores"]))
    inputs = [helper.make_tensor_value_info("features", TensorProto.FLOAT, [batch, FEATURES])]
    outputs = [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [batch, CLASSES])]
    weights = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save_model(model, folder / "tiny.onnx", **saving)
    return ModelSpec.model_validate({"onnx": {"path": "tiny.onnx"}})
