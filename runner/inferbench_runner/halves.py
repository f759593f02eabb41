"""Graphs in fp16 and bf16, made from fp32 ones: numbers become halves, except where an operator takes none.

What ONNX has no half for (the scales of Resize, say) stays fp32, as does every operator that the caller wants kept,
between two casts. Inputs and outputs of the graph are halves too: PyTorch's strategies are timed on inputs that are
converted already, so a cast inside the graph would be time that only these strategies pay. Pure; needs no runtime.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, defs, helper, numpy_helper

from inferbench_contract.words import Precision
from inferbench_runner import graphs
from inferbench_runner.backends import Unsupported

if TYPE_CHECKING:
    from numpy.typing import NDArray

FLOAT: Final = TensorProto.FLOAT

LARGEST_FLOAT: Final = float(np.finfo(np.float32).max)
"""Masks write "never" as this number, negated; in halves it becomes their own largest."""

QUANTISERS: Final = frozenset({"QuantizeLinear", "DequantizeLinear"})

TYPED_BY_ATTRIBUTE: Final = frozenset({"dtype", "output_datatype"})
"""Operators with such an attribute make numbers of nothing (EyeLike, RandomNormal, windows): they stay as they are."""


@dataclass(frozen=True, slots=True)
class Half:
    """A floating type of 16 bits."""

    name: str
    element: int
    """As ONNX numbers types."""
    dtype: Any
    """As NumPy calls it."""
    min_opset: int
    """From this one on convolutions and pools take it; 0: from any."""

    @property
    def text(self) -> str:
        """As operators' schemas write it."""
        return f"tensor({self.name})"


HALVES: Final[Mapping[Precision, Half]] = {
    Precision.FP16: Half("float16", TensorProto.FLOAT16, np.float16, 0),
    Precision.BF16: Half("bfloat16", TensorProto.BFLOAT16, ml_dtypes.bfloat16, 22),
}


def convert(model: Any, precision: Precision, kept: frozenset[str] = frozenset()) -> Any:
    """Return an fp32 model as halves; operators of the types in `kept` go on computing in fp32.

    Raises Unsupported where a weight is larger than the largest half, or the graph cannot be converted soundly.
    """
    half = HALVES[precision]
    return _Conversion(graphs.tidy(model, half.min_opset), half, kept).result()


class _Conversion:
    """One graph on its way. Each fp32 tensor becomes a half of the same name, with an fp32 twin where that is read."""

    def __init__(self, model: Any, half: Half, kept: frozenset[str]) -> None:
        self._model, self._graph, self._half, self._kept = model, model.graph, half, kept
        types = graphs.types(model)
        self._floats = {name for name, element in types.items() if element == FLOAT}
        self._weights = {tensor.name for tensor in model.graph.initializer}
        self._names = set(types)
        self._twins: dict[str, str] = {}
        self._scales = {node.input[1] for node in self._graph.node if node.op_type in QUANTISERS}
        self._read = self._all_reads()

    def result(self) -> Any:
        """Convert it all; the model is used up."""
        inputs = [cast for value in self._graph.input for cast in self._casts(value.name, self._half.element)]
        nodes = [each for node in self._graph.node for each in self._converted(node)]
        weights = [each for tensor in self._graph.initializer for each in self._converted_weight(tensor)]
        for field, content in ((self._graph.node, [*inputs, *nodes]), (self._graph.initializer, weights)):
            del field[:]
            field.extend(content)
        for value in (*self._graph.input, *self._graph.output):
            if value.name in self._floats:
                value.type.tensor_type.elem_type = self._half.element
        del self._graph.value_info[:]
        return self._model

    def _all_reads(self) -> set[tuple[str, int]]:
        """Return each fp32 tensor with each type in which it is read."""
        reads = {
            (name, self._reads(node, place))
            for node in self._graph.node
            for place, name in enumerate(node.input)
            if name in self._floats
        }
        return reads | {(value.name, self._half.element) for value in self._graph.output if value.name in self._floats}

    def _reads(self, node: Any, place: int) -> int:
        """Return the type in which a node reads its fp32 input."""
        return self._type_of(node, self._schema(node).inputs, place)

    def _writes(self, node: Any, place: int) -> int:
        """Return the type in which a node writes its fp32 output."""
        schema = self._schema(node)
        if TYPED_BY_ATTRIBUTE & set(schema.attributes):
            return int(FLOAT)
        return self._type_of(node, schema.outputs, place)

    def _type_of(self, node: Any, parameters: Sequence[Any], place: int) -> int:
        parameter = parameters[min(place, len(parameters) - 1)]  # the last one may stand for many
        admits = node.op_type not in self._kept and self._half.text in parameter.types
        return self._half.element if admits else int(FLOAT)

    def _schema(self, node: Any) -> Any:
        try:
            return defs.get_schema(node.op_type, graphs.opset(self._model, node.domain), node.domain)
        except defs.SchemaError as error:
            raise Unsupported(
                f"UnknownOperator: ONNX does not know {graphs.described(node)}, so it cannot be converted."
            ) from error

    def _converted(self, node: Any) -> Iterator[Any]:
        """Yield a node that reads and writes what it should, and the casts of what it writes."""
        written = {name: self._writes(node, place) for place, name in enumerate(node.output) if name in self._floats}
        for place, name in enumerate(node.input):
            if name in self._floats:
                node.input[place] = self._named(name, self._reads(node, place))
        for place, name in enumerate(node.output):
            if name in written:
                node.output[place] = self._named(name, written[name])
        if self._half.element in written.values():
            self._set_written_type(node)
        yield node
        for name, element in written.items():
            yield from self._casts(name, element)

    def _set_written_type(self, node: Any) -> None:
        """Tell the operators whose output's type stands in an attribute."""
        if node.op_type == "Cast":
            _set(node, helper.make_attribute("to", self._half.element))
        elif node.op_type == "ConstantOfShape":  # without a value it makes fp32 zeros
            values = [numpy_helper.to_array(each.t) for each in node.attribute if each.name == "value"]
            number = self._halved(values[0] if values else np.zeros(1, np.float32), node.output[0])
            _set(node, helper.make_attribute("value", numpy_helper.from_array(number)))

    def _casts(self, name: str, element: int) -> Iterator[Any]:
        """Yield the cast to the other type of a tensor that is there in one, if anybody reads the other."""
        other = FLOAT if element == self._half.element else self._half.element
        if (name, other) in self._read and name not in self._weights:
            source, target = self._named(name, element), self._named(name, other)
            yield helper.make_node("Cast", [source], [target], name=f"{target}/cast", to=other)

    def _converted_weight(self, tensor: Any) -> Iterator[Any]:
        """Yield a weight in each type in which it is read; what is no fp32 stays as it is."""
        if tensor.name not in self._floats:
            yield tensor
            return
        if (tensor.name, FLOAT) in self._read:
            yield numpy_helper.from_array(numpy_helper.to_array(tensor), self._named(tensor.name, FLOAT))
        if (tensor.name, self._half.element) in self._read:
            array = self._halved(numpy_helper.to_array(tensor), tensor.name)
            if tensor.name in self._scales:  # one that became zero would leave nothing of what it scales
                array = np.asarray(np.maximum(array, _smallest(self._half)))
            yield numpy_helper.from_array(array, tensor.name)

    def _halved(self, array: NDArray[Any], name: str) -> NDArray[Any]:
        """Round to the nearest halves; infinities stay. Raises Unsupported where a number is too large."""
        largest = float(ml_dtypes.finfo(self._half.dtype).max)
        never = np.abs(array) == LARGEST_FLOAT
        with np.errstate(over="ignore"):
            halved = np.where(never, np.copysign(largest, array), array).astype(self._half.dtype)
        lost = np.isfinite(array) & ~np.isfinite(halved.astype(np.float32))
        if lost.any():
            raise Unsupported(
                f"OutOfRange: {name} holds {np.abs(array[lost]).max():.3g}, and the largest {self._half.name} is "
                f"{largest:.6g}. Use {'bf16' if self._half.name == 'float16' else 'fp32'}."
            )
        return np.asarray(halved)

    def _named(self, name: str, element: int) -> str:
        """Return the name of a tensor in one of the two types."""
        if element == self._half.element:
            return name
        if name not in self._twins:
            self._twins[name] = graphs.free_name(f"{name}/fp32", self._names)
        return self._twins[name]


def _smallest(half: Half) -> Any:
    """Return the smallest positive number, a subnormal one."""
    return half.dtype(ml_dtypes.finfo(half.dtype).smallest_subnormal)


def _set(node: Any, attribute: Any) -> None:
    """Replace an attribute of a node, or give it the attribute."""
    others = [onnx.AttributeProto.FromString(each.SerializeToString()) for each in node.attribute]
    del node.attribute[:]
    node.attribute.extend([*(each for each in others if each.name != attribute.name), attribute])
