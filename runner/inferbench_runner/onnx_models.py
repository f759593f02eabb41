"""ONNX files: checked, given a free batch dimension where that works, and run by ONNX Runtime as their own reference.

The reference is ONNX Runtime on the CPU with every optimisation off: optimisers were seen to make garbage of graphs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from inferbench_contract.errors import InferbenchError
from inferbench_contract.spec import ModelSpec
from inferbench_runner import artifacts, graphs, inputs, models
from inferbench_runner.backends import Arrays, Unsupported
from inferbench_runner.inputs import Input

FILE: Final = "model.onnx"
BATCH: Final = "batch"
"""Name of the batch dimension in every graph that we write, so that a session can be told its size."""

LAYERS_IN_FLOATS: Final = "inferbench.layersInFloats"
"""What an 8-bit graph for a CPU says of itself, in its metadata: how many layers are meant to be computed in floats."""

MAX_PROTOBUF_BYTES: Final = 2_000_000_000
"""A protobuf message holds 2 GiB; a larger graph keeps its tensors in a file beside it."""

FREE_BATCH_TOLERANCE: Final = 1e-4
"""How far a graph may be from itself at another batch size: fp32 sums in another order, nothing more."""


def write(model: ModelSpec, folder: Path, target: Path) -> None:
    """Check an ONNX file and write it as the artifact `target`/model.onnx."""
    if model.onnx is None:
        raise ValueError("this model is no ONNX file")
    file = models.existing(folder, model.onnx.path, "onnx.path")
    graph = read(file)
    tensors = tensors_in(graph, model)
    if all(isinstance(size, str) for size in _batch_sizes(graph)):
        _name_batch(graph)
        save(graph, target)
        return
    save(graph, target)
    if free_batch(graph):
        _keep_if_sound(graph, tensors, target, fixed=read(file))


def save(graph: Any, target: Path) -> None:
    """Write a graph into a folder, in one file if it fits."""
    import onnx

    tensors = target / f"{FILE}.data"
    tensors.unlink(missing_ok=True)
    large = graph.ByteSize() > MAX_PROTOBUF_BYTES
    onnx.save_model(graph, target / FILE, save_as_external_data=large, location=tensors.name)


def tensors_of(file: Path, model: ModelSpec) -> Sequence[Input]:
    """Return the inputs of a graph that was written here, the shapes it leaves open as the benchmark says."""
    import onnx

    return tensors_in(onnx.load(file, load_external_data=False), model)


def function(file: Path, tensors: Sequence[Input]) -> Callable[[Arrays], Arrays]:
    """Return the function that a graph computes, for any number of examples."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    size = session.get_inputs()[0].shape[0]
    return lambda batch: _in_batches(session, tensors, batch, size if isinstance(size, int) else _length(batch))


def _in_batches(session: Any, tensors: Sequence[Input], batch: Arrays, size: int) -> Arrays:
    """Run examples in batches of one size, the last one filled up with the first examples."""
    count = _length(batch)
    names = [output.name for output in session.get_outputs()]
    parts = []
    for start in range(0, count, size):
        rows = (start + np.arange(size)) % count
        parts.append(session.run(names, {each.name: batch[each.name][rows].astype(each.dtype) for each in tensors}))
    joined = {
        name: np.concatenate(arrays)[:count] for name, arrays in zip(names, zip(*parts, strict=True), strict=True)
    }
    return {name: array.astype(np.float32) if array.dtype.kind == "f" else array for name, array in joined.items()}


def _length(batch: Arrays) -> int:
    return len(next(iter(batch.values())))


def read(file: Path, *, with_weights: bool = True) -> Any:
    """Read and check a file; without the numbers of its weights, wherever they lie, where nobody computes with them."""
    import onnx

    try:
        onnx.checker.check_model(str(file))
        graph = onnx.load(file, load_external_data=with_weights)
        return graph if with_weights else _without_numbers(graph)
    except Exception as error:
        raise InferbenchError(_why_unreadable(file, error)) from error


def _why_unreadable(file: Path, error: Exception) -> str:
    if missing := models.missing_tensor_files(file):
        names = ", ".join(each.name for each in missing)
        return f"{file} keeps its weights in {names}, and {file.parent} has no such file. Put both into one folder."
    found = f"{file} is not an ONNX model: found {artifacts.beginning(file)} ({str(error)[:200]})."
    return f"{found} Export the model again, or name another file."


def _without_numbers(graph: Any) -> Any:
    """Leave nothing of weights but name, type and shape."""
    light = [graphs.without_numbers(tensor) for tensor in graph.graph.initializer]
    del graph.graph.initializer[:]
    graph.graph.initializer.extend(light)
    return graph


def tensors_in(graph: Any, model: ModelSpec) -> Sequence[Input]:
    """Return the inputs of a graph as the benchmark completes them. Raises where the two do not fit."""
    given = {each.name: each.shape for each in model.inputs}
    found = [_tensor(value, given) for value in _inputs(graph)]
    if not found:
        raise Unsupported("InputType: the graph has no input, so there is no batch to measure.")
    strange = sorted(set(given) - {each.name for each in found})
    if strange:
        known = ", ".join(each.name for each in found)
        raise InferbenchError(f"spec.model.inputs names {', '.join(strange)}; the inputs of the graph are {known}.")
    return found


def _tensor(value: Any, given: dict[str, tuple[int, ...]]) -> Input:
    """Read one input of a graph."""
    import onnx

    kind = value.type.tensor_type
    dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type) if kind.elem_type else np.dtype(object)
    dims = kind.shape.dim
    if dtype.kind not in "fiub" or not dims:
        raise Unsupported(f"InputType: input {value.name} is no tensor of numbers with a batch dimension first.")
    shape = given.get(value.name) or tuple(dim.dim_value for dim in dims[1:])
    if len(shape) != len(dims) - 1 or not all(shape):
        open_shape = [dim.dim_value or dim.dim_param or "?" for dim in dims]
        raise InferbenchError(
            f"Input {value.name} has the shape {open_shape} in the graph. Say under spec.model.inputs which shape to "
            f"use: {{name: {value.name}, shape: [...], dtype: {dtype.name}}}, without the batch dimension.",
        )
    return Input(value.name, shape, dtype.name)


def _inputs(graph: Any) -> Sequence[Any]:
    """Return a graph's inputs; older files list its weights among them."""
    weights = {tensor.name for tensor in graph.graph.initializer}
    return [value for value in graph.graph.input if value.name not in weights]


def _batch_sizes(graph: Any) -> set[int | str]:
    """Return the first dimensions of all inputs: numbers where they are fixed, names where they are free."""
    return {first.dim_value or first.dim_param for first in _firsts(graph).values()}


def fixed_batches(graph: Any) -> dict[str, int]:
    """Return the first dimensions that are fixed, by input."""
    return {name: first.dim_value for name, first in _firsts(graph).items() if first.dim_value}


def _firsts(graph: Any) -> dict[str, Any]:
    return {value.name: value.type.tensor_type.shape.dim[0] for value in _inputs(graph)}


def _name_batch(graph: Any) -> None:
    """Call the free first dimension of the inputs `batch`, wherever its name stands."""
    names = _batch_sizes(graph) - {""}
    for value in (*graph.graph.input, *graph.graph.output, *graph.graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in names:
                dim.dim_param = BATCH


def free_batch(graph: Any) -> bool:
    """Make the first dimension of every input and output free, if all of them are fixed at the same size."""
    values = [*_inputs(graph), *graph.graph.output]
    firsts = [value.type.tensor_type.shape.dim[0] for value in values if value.type.tensor_type.shape.dim]
    if len(firsts) < len(values) or len({first.dim_value for first in firsts}) != 1:
        return False
    for first in firsts:
        first.dim_param = BATCH
    del graph.graph.value_info[:]
    return True


def _keep_if_sound(graph: Any, tensors: Sequence[Input], target: Path, fixed: Any) -> None:
    """Replace a graph of fixed batch size by one of free size, if that computes the same with another size."""
    size = fixed.graph.input[0].type.tensor_type.shape.dim[0].dim_value
    batch = inputs.random_tensors(tensors, 2 * size, models.SEED)
    expected = function(target / FILE, tensors)(batch)
    save(graph, target)
    try:
        found = function(target / FILE, tensors)(batch)
        sound = all(
            np.allclose(found[name], expected[name], FREE_BATCH_TOLERANCE, FREE_BATCH_TOLERANCE) for name in expected
        )
    except Exception:  # noqa: BLE001 (whatever ONNX Runtime says, the graph needs its batch size)
        sound = False
    if not sound:
        save(fixed, target)
