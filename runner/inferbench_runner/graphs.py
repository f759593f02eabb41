"""What every conversion of an ONNX graph begins with: weights in one place, types of all tensors, the opset it needs.

Pure: a model comes in and stays as it is, another one goes out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from inferbench_runner.backends import Unsupported

PRODUCER: Final = "inferbench"

OPSET_IR: Final = 10
"""The format that opset 21 came with; nothing that we write needs a later one."""

WEIGHTS_APART_IR: Final = 4
"""The format from which on weights need not be listed among the inputs."""

ONNX_DOMAIN: Final = "ai.onnx"
"""Another name of the domain without a name, which not every tool knows."""

MOST_SHAPE_NUMBERS: Final = 256
"""A tensor that says something of shapes (axes, sizes, pads) has a few numbers; with more it holds weights."""

Shapes = Mapping[str, tuple[int | str, ...]]
"""Of tensors by their names: numbers, and names of dimensions that are free."""


def tidy(model: Any, min_opset: int = 0) -> Any:
    """Return a copy whose weights are initializers and nothing else, without functions, with a type for each tensor.

    Raises Unsupported where the graph branches or loops, or cannot be lifted to `min_opset`.
    """
    import onnx
    from onnx import inliner

    copy = onnx.ModelProto()
    copy.CopyFrom(inliner.inline_local_functions(model) if model.functions else model)
    for each in (*copy.opset_import, *copy.graph.node):
        each.domain = "" if each.domain == ONNX_DOMAIN else each.domain
    _refuse_subgraphs(copy)
    copy = _lifted(copy, min_opset)
    _move_constants(copy.graph)
    weights = {tensor.name for tensor in copy.graph.initializer}
    for values in (copy.graph.input, copy.graph.value_info):
        _drop(values, weights)
    copy.ir_version = max(copy.ir_version, WEIGHTS_APART_IR)
    _add_types(copy)
    copy.producer_name, copy.producer_version = PRODUCER, ""
    return copy


def _add_types(model: Any) -> None:
    """Write down the type and the shape of each tensor."""
    from onnx import shape_inference

    graph, found = model.graph, shape_inference.infer_shapes(_light(model)).graph
    for field, typed in ((graph.output, found.output), (graph.value_info, found.value_info)):
        del field[:]
        field.extend(typed)


def _light(model: Any) -> Any:
    """Return a copy without the numbers of weights, for tools that look at operators and shapes only."""
    graph = model.graph
    light = type(graph)(
        name=graph.name,
        node=graph.node,
        input=graph.input,
        output=graph.output,
        value_info=graph.value_info,
        initializer=[without_numbers(tensor) for tensor in graph.initializer],
        sparse_initializer=graph.sparse_initializer,
    )
    return type(model)(ir_version=model.ir_version, opset_import=model.opset_import, graph=light)


def without_numbers(tensor: Any) -> Any:
    """Return a weight as its name, type and shape: ONNX's tools copy all of a graph several times."""
    if math.prod(tensor.dims) <= MOST_SHAPE_NUMBERS:
        return tensor
    return type(tensor)(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)


def opset(model: Any, domain: str = "") -> int:
    """Return which version of a domain's operators a model uses, ONNX's own by default."""
    return next((int(each.version) for each in model.opset_import if each.domain == domain), 1)


def types(model: Any) -> dict[str, int]:
    """Return the element type of every tensor by its name. Raises Unsupported if a node's output has none."""
    graph = model.graph
    values = (*graph.input, *graph.value_info, *graph.output)
    known = {value.name: value.type.tensor_type.elem_type for value in values}
    known |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    unknown = [node for node in graph.node if any(name and name not in known for name in node.output)]
    if unknown:
        raise Unsupported(f"UnknownOperator: ONNX cannot tell what type {described(unknown[0])} answers with.")
    return known


def shapes(graph: Any) -> Shapes:
    """Return the shapes of the tensors of which every dimension has a number or a name; weights have none here."""
    found = {}
    for value in (*graph.input, *graph.value_info, *graph.output):
        shape = tuple(each.dim_param or each.dim_value for each in value.type.tensor_type.shape.dim)
        if shape and all(shape):
            found[value.name] = shape
    return found


def inferred_shapes(model: Any) -> Shapes:
    """Return the shapes that follow from those of the inputs, whatever is written down of other tensors."""
    from onnx import shape_inference

    light = _light(model)
    del light.graph.value_info[:]
    for value in light.graph.output:
        value.type.tensor_type.ClearField("shape")
    return shapes(shape_inference.infer_shapes(light).graph)


def names(graph: Any) -> set[str]:
    """Return the names of all tensors."""
    values = (*graph.input, *graph.value_info, *graph.output, *graph.initializer)
    return {value.name for value in values} | {name for node in graph.node for name in (*node.input, *node.output)}


def free_name(name: str, taken: set[str]) -> str:
    """Return a name that no tensor has, and take it."""
    while name in taken:
        name += "_"
    taken.add(name)
    return name


def described(node: Any) -> str:
    """Name a node for a message."""
    domain = f" of {node.domain}" if node.domain else ""
    return f"{node.op_type}{domain} ({node.name or node.output[0]})"


def _refuse_subgraphs(model: Any) -> None:
    from onnx import AttributeProto

    kinds = {AttributeProto.GRAPH, AttributeProto.GRAPHS}
    for node in model.graph.node:
        if any(attribute.type in kinds for attribute in node.attribute):
            raise Unsupported(f"ControlFlow: {described(node)} holds a graph of its own; plain graphs are converted.")


def _lifted(model: Any, min_opset: int) -> Any:
    """Return a model at an opset that is at least this."""
    from onnx import version_converter

    if opset(model) >= min_opset:
        return model
    try:
        lifted = version_converter.convert_version(_light(model), min_opset)
    except Exception as error:
        raise Unsupported(
            f"Opset: the graph has opset {opset(model)}, {min_opset} is needed, and ONNX cannot lift it: {error}"
        ) from error
    lifted.ir_version = max(lifted.ir_version, OPSET_IR)
    for field, said in (  # ONNX writes down what it infers by the rules of the older opset, which the newer ones mend
        (lifted.graph.value_info, model.graph.value_info),
        (lifted.graph.output, model.graph.output),
    ):
        del field[:]
        field.extend(said)
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    held = [weights.get(tensor.name) or _copy(tensor) for tensor in lifted.graph.initializer]
    del lifted.graph.initializer[:]
    lifted.graph.initializer.extend(held)
    return lifted


def _move_constants(graph: Any) -> None:
    """Make initializers of what Constant nodes hold, so that weights are found in one place."""
    held = [(node, _held_by(node)) for node in graph.node]
    graph.initializer.extend(tensor for _, tensor in held if tensor is not None)
    kept = [_copy(node) for node, tensor in held if tensor is None]
    del graph.node[:]
    graph.node.extend(kept)


def _held_by(node: Any) -> Any | None:
    """Return what a Constant node holds as a tensor with the name of its output; None for anything else."""
    import numpy as np
    from onnx import helper, numpy_helper

    if node.op_type != "Constant" or node.domain:
        return None
    attribute = node.attribute[0]
    value = helper.get_attribute_value(attribute)
    match attribute.name:
        case "value":
            array = numpy_helper.to_array(value)
        case "value_float" | "value_floats":
            array = np.asarray(value, np.float32)
        case "value_int" | "value_ints":
            array = np.asarray(value, np.int64)
        case _:
            return None
    return numpy_helper.from_array(array, node.output[0])


def _copy(message: Any) -> Any:
    copy = type(message)()
    copy.CopyFrom(message)
    return copy


def _drop(values: Any, weights: set[str]) -> None:
    """Drop what is said of weights elsewhere: it would stay as it is when they change."""
    kept = [_copy(value) for value in values if value.name not in weights]
    del values[:]
    values.extend(kept)
