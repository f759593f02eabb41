"""How much a model must compute for one example, whatever runs it: the floor that a measured time is held against.

Only convolutions and matrix products are counted, so the count is never too high. A multiplication and an addition are
two operations.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from inferbench_runner.guards import Work

FILE: Final = "work.json"
"""In the folder of the reference, which is made with the model at hand."""

CONVOLUTIONS: Final = frozenset({"Conv", "ConvTranspose"})
PRODUCTS: Final = frozenset({"Gemm", "MatMul"})
COUNTED: Final = CONVOLUTIONS | PRODUCTS
"""ONNX's operators that do nearly all of a model's arithmetic, in floats."""

SHAPE_TYPES: Final = frozenset({6, 7, 9})
"""TensorProto.INT32, INT64 and BOOL: shapes, axes and masks, not weights."""


def of_module(module: Any, run: Callable[[], object]) -> Work:
    """Count what PyTorch does while `run` runs a module on one example."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        run()
    weights = sum(parameter.numel() for parameter in module.parameters())
    has_convolutions = any(isinstance(each, torch.nn.modules.conv._ConvNd) for each in module.modules())  # noqa: SLF001 (what all convolutions are)
    return Work(int(counter.get_total_flops()), weights, has_convolutions)


def of_graph(file: Path, batch_axis: str) -> Work:
    """Count what an ONNX graph says that it does for one example; what has no known shape counts nothing."""
    import onnx

    graph = onnx.load(file)
    _set_axis(graph, batch_axis, 1)
    graph = onnx.shape_inference.infer_shapes(graph, data_prop=True).graph
    shapes = _shapes(graph)
    operations = sum(_operations(node, shapes) for node in graph.node) // _batch_size(graph)
    weights = sum(math.prod(tensor.dims) for tensor in graph.initializer if tensor.data_type not in SHAPE_TYPES)
    return Work(operations, weights, any(node.op_type in CONVOLUTIONS for node in graph.node))


def write(folder: Path, work: Work) -> None:
    """Write it beside the reference."""
    told = {"operations": work.operations_per_input, "weights": work.weights, "convolutions": work.has_convolutions}
    (folder / FILE).write_text(json.dumps(told))


def read(folder: Path | None) -> Work | None:
    """Read what stands beside a reference; None where it was never counted."""
    try:
        told = json.loads(((folder or Path()) / FILE).read_bytes())
        return Work(int(told["operations"]), int(told["weights"]), bool(told["convolutions"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _set_axis(graph: Any, name: str, size: int) -> None:
    for value in graph.graph.input:
        for axis in value.type.tensor_type.shape.dim:
            if axis.dim_param == name:
                axis.dim_value = size


def _batch_size(graph: Any) -> int:
    """Return the batch size that the graph is fixed at; 1 where it was free."""
    axes = graph.input[0].type.tensor_type.shape.dim if graph.input else ()
    return max(1, int(axes[0].dim_value)) if axes else 1


def _shapes(graph: Any) -> Mapping[str, Sequence[int]]:
    """Return the shapes that are known; 0 stands for a size that is not."""
    values = [*graph.input, *graph.output, *graph.value_info]
    known = {value.name: [axis.dim_value for axis in value.type.tensor_type.shape.dim] for value in values}
    return known | {tensor.name: list(tensor.dims) for tensor in graph.initializer}


def _operations(node: Any, shapes: Mapping[str, Sequence[int]]) -> int:
    """Count the operations of a node: for each number that comes out, twice the numbers that go into it."""
    if node.op_type not in CONVOLUTIONS | PRODUCTS:
        return 0
    left, right, output = (shapes.get(name, ()) for name in (node.input[0], node.input[1], node.output[0]))
    if not left or not right or not output:
        return 0
    match node.op_type:
        case "Conv":  # weights: outputs, inputs per group, sizes of the kernel
            return 2 * math.prod(output) * math.prod(right[1:])
        case "ConvTranspose":  # weights: inputs, outputs per group, sizes of the kernel
            return 2 * math.prod(left) * math.prod(right[1:])
        case "Gemm":
            return 2 * math.prod(output) * left[0 if _is_transposed(node) else 1]
    return 2 * math.prod(output) * left[-1]


def _is_transposed(node: Any) -> bool:
    return any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
