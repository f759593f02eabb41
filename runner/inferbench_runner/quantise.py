"""Eight-bit graphs from fp32 ones. CPUs and TensorRT want different files, so there is one function for each.

* `for_cpu`: unsigned activations with a zero point, signed weights with a scale for each channel, int32 biases: what
  ONNX Runtime's CPU provider, and OpenVINO, turn into integer convolutions.
* `explicit`: both signed and symmetric, at the inputs of convolutions and matrix products and at the residual operands
  of sums only, biases left alone: the one form that TensorRT accepts (it rejects zero points and int32 biases) and
  fuses, in int8 or in fp8.
* `dynamic`: scales are found at every call. ONNX Runtime's CPU provider only.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import ml_dtypes
import numpy as np
from onnx import TensorProto, helper, numpy_helper

from inferbench_runner import graphs, onnx_models, residuals, work
from inferbench_runner.backends import Unsupported

if TYPE_CHECKING:
    from numpy.typing import NDArray

Ranges = Mapping[str, tuple[float, float]]
"""The smallest and the largest value to be represented, by the name of the tensor; 0 lies between them."""

PRODUCTS: Final = ("MatMul", "Gemm")
WEIGHTED: Final = ("Conv", *PRODUCTS)
"""Where nearly all the arithmetic is. The second input holds the weights."""

CPU_OPERATORS: Final = ("Conv", "Relu", "Clip", "MaxPool", *PRODUCTS)
"""Convolutions and what passes their 8-bit answers on. ONNX Runtime's own list is longer and no faster, and the sums of
residual networks lose by it: a trained ResNet-50 chooses as its fp32 self in 91 % of 256 crops this way, in 80 % with
that list, both in 0.30 of fp32's time; a vision transformer is 3.1 % off instead of 28 %."""

MATRIX_RANK: Final = 2

MIN_OPSET: Final = 20
"""From 19 on scales may be halves, and 8-bit floats exist; 20 is what our own exports have."""

PREPARED: Final = {"onnx.quant.pre_process": "onnxruntime.quant"}
"""How ONNX Runtime notes that a model is ready to be quantised."""

ERRORS_ONLY: Final = 3
"""ONNX Runtime warns that an optimised model should run on this machine only, which is true of higher levels."""


@dataclass(frozen=True, slots=True)
class Grid:
    """The numbers that an 8-bit type can hold, symmetric about zero."""

    dtype: Any
    """As NumPy calls it."""
    largest: float
    per_channel: bool
    """Whether weights have a scale for each channel."""


INT8: Final = Grid(np.int8, 127, per_channel=True)
"""-128 is left out, as symmetric means."""

E4M3: Final = Grid(ml_dtypes.float8_e4m3fn, 448, per_channel=False)
"""Its own exponent does what scales for each channel do for integers; TensorRT takes one scale for a tensor."""


# ---- TensorRT ------------------------------------------------------------------------------------


def explicit_tensors(model: Any) -> Sequence[str]:
    """Return the tensors whose ranges `explicit` needs to know."""
    readers = _readers(model, _weighted_nodes(model))
    found = (node.input[readers[node.output[0]]] for node in model.graph.node if node.output[0] in readers)
    return tuple(dict.fromkeys(found))


def explicit(model: Any, ranges: Ranges, grid: Grid) -> Any:
    """Return a model with quantisers before what multiplies by weights, and with 8-bit weights. It must be tidy.

    The residual operands of sums have quantisers too: without them TensorRT 10.6 added in kernels of their own, in
    halves, and quantised each sum in a third one, and ResNet-50 was slower in int8 than in fp16 (seen on an H100).
    Products of two activations are left alone: TensorRT fuses attention as a whole, and it is little of the work.
    """
    return _Explicit(model, ranges, grid).result()


def _weighted_nodes(model: Any) -> Sequence[Any]:
    """Return the nodes that multiply fp32 activations by fp32 weights. Raises Unsupported if there are none."""
    types = graphs.types(model)
    weights = {tensor.name: tensor for tensor in model.graph.initializer}

    def has_weights(node: Any) -> bool:
        data, factor = node.input[:2]
        both_float = types[data] == types[factor] == TensorProto.FLOAT
        return both_float and data not in weights and factor in weights and len(weights[factor].dims) > 1

    found = [node for node in model.graph.node if node.op_type in WEIGHTED and has_weights(node)]
    if not found:
        raise Unsupported(f"NothingToQuantise: the graph has no {', '.join(WEIGHTED)} with constant weights.")
    return found


def _readers(model: Any, weighted: Sequence[Any]) -> Mapping[str, int]:
    """Return which of its inputs each node reads in 8 bits besides weights, by the name of what it makes."""
    first = dict.fromkeys((node.output[0] for node in weighted), 0)
    return first | residuals.of(model, first)


class _Explicit:
    """One graph on its way. A tensor that several nodes read has one quantiser, and a weight one set of scales."""

    def __init__(self, model: Any, ranges: Ranges, grid: Grid) -> None:
        self._ranges, self._grid = ranges, grid
        self._model = type(model)()
        self._model.CopyFrom(model)
        self._graph = self._model.graph
        weighted = _weighted_nodes(self._model)
        self._chosen = {node.output[0] for node in weighted}
        self._readers = _readers(self._model, weighted)
        self._weights = {tensor.name: tensor for tensor in self._graph.initializer}
        self._made: dict[str, Any] = {}
        self._quantised: dict[str, str] = {}

    def result(self) -> Any:
        """Quantise it all."""
        nodes = [each for node in self._graph.node for each in self._quantised_node(node)]
        read = {name for node in nodes for name in node.input} | {value.name for value in self._graph.output}
        kept = [tensor for tensor in self._graph.initializer if tensor.name in read]
        for field, content in ((self._graph.node, nodes), (self._graph.initializer, [*kept, *self._made.values()])):
            del field[:]
            field.extend(content)
        return self._model

    def _quantised_node(self, node: Any) -> Iterator[Any]:
        """Yield a node with what has to stand before it."""
        if node.output[0] in self._readers:
            yield from self._activation(node, self._readers[node.output[0]])
        if node.output[0] in self._chosen:
            axis = _channel_axis(node, self._weights[node.input[1]])
            yield from self._weight(node.input[1], axis)
            node.input[1] = self._quantised[_with_axis(node.input[1], axis)]
        yield node

    def _activation(self, node: Any, place: int) -> Iterator[Any]:
        """Let a node read a tensor in 8 bits, and yield the two quantisers of it, the first time."""
        name = node.input[place]
        if name not in self._quantised:
            yield from self._quantisers(name)
        node.input[place] = self._quantised[name]

    def _quantisers(self, name: str) -> Iterator[Any]:
        """Yield the two quantisers of a tensor."""
        scale = _scales(np.abs(np.asarray(self._ranges[name], np.float32)).max(), self._grid)
        parameters = self._add(f"{name}/scale", scale), self._add(f"{name}/zero", self._zeros(()))
        held, self._quantised[name] = f"{name}/quantised", f"{name}/dequantised"
        yield helper.make_node("QuantizeLinear", [name, *parameters], [held], name=held)
        yield helper.make_node("DequantizeLinear", [held, *parameters], [self._quantised[name]], name=f"{held}/read")

    def _weight(self, name: str, axis: int) -> Iterator[Any]:
        """Replace a weight by its 8-bit numbers and yield what reads them, the first time."""
        key = _with_axis(name, axis)
        if key in self._quantised:
            return
        array = numpy_helper.to_array(self._weights[name])
        along = axis if self._grid.per_channel else None
        others = tuple(place for place in range(array.ndim) if place != along)
        scale = _scales(np.abs(array).max(axis=others, keepdims=True), self._grid)
        flat = scale.reshape(() if along is None else -1)
        parameters = [
            self._add(f"{key}/quantised", _rounded(array / scale, self._grid)),
            self._add(f"{key}/scale", flat),
            self._add(f"{key}/zero", self._zeros(flat.shape)),
        ]
        self._quantised[key] = f"{key}/dequantised"
        attributes = {} if along is None else {"axis": axis}
        yield helper.make_node(
            "DequantizeLinear", parameters, [self._quantised[key]], name=f"{key}/quantised/read", **attributes
        )

    def _zeros(self, shape: tuple[int, ...]) -> NDArray[Any]:
        return np.zeros(shape, self._grid.dtype)

    def _add(self, name: str, array: NDArray[Any]) -> str:
        self._made[name] = numpy_helper.from_array(array, name)
        return name


def _with_axis(name: str, axis: int) -> str:
    """Name a weight and the axis of its channels: two products may read the same one, transposed and not."""
    return f"{name}/{axis}"


def _channel_axis(node: Any, weight: Any) -> int:
    """Return the axis of a node's weight along which its outputs lie."""
    if node.op_type == "Conv":
        return 0
    transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
    return len(weight.dims) - (2 if transposed else 1)


def _scales(largest: Any, grid: Grid) -> NDArray[np.float32]:
    """Return the steps between numbers, rounded up to what fp16 holds, so that a graph in halves has the same."""
    exact = np.asarray(largest, np.float32) / np.float32(grid.largest)
    with np.errstate(over="ignore"):
        half = exact.astype(np.float16)
    up = np.where(half < exact, np.nextafter(half, np.float16(np.inf)), half)
    up = np.maximum(up, np.finfo(np.float16).smallest_subnormal)
    return np.where(np.isfinite(up), up.astype(np.float32), exact).astype(np.float32)


def _rounded(array: NDArray[np.float32], grid: Grid) -> NDArray[Any]:
    """Return the nearest numbers of the grid."""
    inside = np.clip(array, -grid.largest, grid.largest)
    return np.asarray((np.rint(inside) if grid.dtype is np.int8 else inside).astype(grid.dtype))


# ---- ONNX Runtime's CPU provider -----------------------------------------------------------------


def cpu_tensors(model: Any) -> Sequence[str]:
    """Return the tensors whose ranges `for_cpu` needs to know: every fp32 one that depends on the inputs."""
    types = graphs.types(model)
    names = [name for node in model.graph.node for name in node.output]
    values = [value.name for value in model.graph.input]
    return tuple(name for name in (*values, *names) if types.get(name) == TensorProto.FLOAT)


def for_cpu(model: Any, ranges: Ranges) -> Any:
    """Return a fused model whose convolutions and products are 8-bit ones."""
    from onnxruntime.quantization import QuantFormat, QuantType, calibrate, quantize_static

    _weighted_nodes(model)
    marked = _marked(model)
    _set_biases_apart(marked)
    known = {name: calibrate.TensorData(lowest=_of(low), highest=_of(high)) for name, (low, high) in ranges.items()}
    with tempfile.TemporaryDirectory(prefix="inferbench-") as folder:
        cache, target = Path(folder, "ranges.json"), Path(folder, "model.onnx")
        calibrate.save_tensors_data(calibrate.TensorsData(calibrate.CalibrationMethod.MinMax, known), cache)
        quantize_static(
            marked,
            target,
            calibration_cache_path=cache,
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(CPU_OPERATORS),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            extra_options={"OpTypesToExcludeOutputQuantization": list(PRODUCTS)},
        )
        return _noted(_read(target))


def _set_biases_apart(model: Any) -> None:
    """Let ONNX Runtime leave products of three dimensions and more apart from their biases.

    Where sizes are fixed it writes a product and the sum with a bias of one dimension as a Gemm, before it looks for
    8 bits, and computes a Gemm whose bias is a float in floats. With a bias of as many dimensions it does not.
    """
    weights, taken = {tensor.name: tensor for tensor in model.graph.initializer}, graphs.names(model.graph)
    for node, place, rank in list(_biases(model, weights)):
        bias = numpy_helper.to_array(weights[node.input[place]])
        node.input[place] = graphs.free_name(f"{node.input[place]}/apart", taken)
        apart = bias.reshape((1,) * (rank - 1) + (-1,))
        model.graph.initializer.append(numpy_helper.from_array(apart, node.input[place]))


def _biases(model: Any, weights: Mapping[str, Any]) -> Iterator[tuple[Any, int, int]]:
    """Yield each sum of such a product and its bias, the bias's place, and how many dimensions the product has."""
    shapes = graphs.inferred_shapes(model)
    ranks = {node.output[0]: len(shapes.get(node.output[0], ())) for node in _of_kind(model, "MatMul")}
    for node in _of_kind(model, "Add"):
        rank = max(ranks.get(name, 0) for name in node.input)
        for place, name in enumerate(node.input):
            if rank > MATRIX_RANK and name in weights and len(weights[name].dims) == 1:
                yield node, place, rank


def _of_kind(model: Any, operator: str) -> Sequence[Any]:
    return [node for node in model.graph.node if node.op_type == operator]


def _noted(model: Any) -> Any:
    """Let an 8-bit graph tell how many of its layers read something that is not in 8 bits."""
    eight_bits = {node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    heavy = [node for node in model.graph.node if node.op_type in work.COUNTED]
    floats = sum(not eight_bits.issuperset(node.input[:2]) for node in heavy)
    helper.set_model_props(model, {onnx_models.LAYERS_IN_FLOATS: str(floats)})
    return model


def dynamic(model: Any) -> Any:
    """Return a fused model that quantises its activations at every call.

    Of the CPU provider's kernels the one for products is quick with signed weights (0.34 of fp32's time in a vision
    transformer, 0.63 with unsigned ones), the one for convolutions with unsigned ones (0.95 in ResNet-50, else 5.3).
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    products = partial(quantize_dynamic, op_types_to_quantize=list(PRODUCTS), per_channel=True)
    convolutions = partial(quantize_dynamic, op_types_to_quantize=["Conv"])
    steps = [partial(products, weight_type=QuantType.QInt8), partial(convolutions, weight_type=QuantType.QUInt8)]
    if _numbers(model, ("Conv",)) > _numbers(model, PRODUCTS):
        steps.reverse()  # the second step reads and writes a graph that is small already
    with tempfile.TemporaryDirectory(prefix="inferbench-") as folder:
        half_done, target = Path(folder, "half-done.onnx"), Path(folder, "model.onnx")
        steps[0](_marked(model), half_done)
        steps[1](half_done, target)
        return _noted(_read(target))


def _numbers(model: Any, operators: Sequence[str]) -> int:
    """Count the weights of operators. Raises Unsupported if no operator has any."""
    sizes = {tensor.name: math.prod(tensor.dims) for tensor in model.graph.initializer}
    return sum(sizes[node.input[1]] for node in _weighted_nodes(model) if node.op_type in operators)


def fused(model: Any) -> Any:
    """Return a model as ONNX Runtime's first level of optimisation leaves it: batch norms folded, constants computed.

    It is plain ONNX still, and tidy; what quantisers and calibration see is then what will run.
    """
    import onnx
    import onnxruntime

    with tempfile.TemporaryDirectory(prefix="inferbench-") as folder:
        target = Path(folder, "fused.onnx")
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(target)
        options.log_severity_level = ERRORS_ONLY
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        found = onnx.load(target)
    used = {node.domain or "" for node in found.graph.node} | {""}
    _keep(found.opset_import, [each for each in found.opset_import if each.domain in used])
    return graphs.tidy(found)


def _of(value: float) -> NDArray[np.float32]:
    return np.asarray(value, np.float32)


def _marked(model: Any) -> Any:
    """Return a copy that says it was prepared, as it was, so that ONNX Runtime does not warn that it is not."""
    copy = type(model)()
    copy.CopyFrom(model)
    helper.set_model_props(copy, PREPARED)
    return copy


def _read(file: Path) -> Any:
    """Read what ONNX Runtime wrote, without the marks that it leaves."""
    import onnx

    model = onnx.load(file)
    _keep(model.metadata_props, [])
    model.producer_name, model.producer_version = graphs.PRODUCER, ""
    return model


def _keep(field: Any, content: Sequence[Any]) -> None:
    """Replace the content of a repeated field by some of it."""
    copies = [type(each).FromString(each.SerializeToString()) for each in content]
    del field[:]
    field.extend(copies)
