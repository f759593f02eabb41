"""Max pools written as maxima, for readers that have no kernel of the operator at the opset that a graph needs.

A window of an image is a window of rows, then one of columns: the largest number of each is that of the rows' largest
ones. `Gather` takes the first of each window, the second, and so on; `Max` compares them. Nothing is rounded, so of
finite numbers comes out what the pool made, bit for bit. Pure; needs no runtime.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import onnx
from onnx import helper, numpy_helper

from inferbench_runner import graphs

if TYPE_CHECKING:
    from numpy.typing import NDArray

POOL: Final = "MaxPool"

FIRST_AXIS: Final = 2
"""Of those that are pooled: an example's number and its channel come before."""

SAME: Final[Mapping[bytes, Callable[[int], int]]] = {
    b"SAME_UPPER": lambda padding: padding // 2,
    b"SAME_LOWER": lambda padding: (padding + 1) // 2,
}
"""How much of the padding stands at the beginning, where a pool only says of what kind it is."""


@dataclass(frozen=True, slots=True)
class Windows:
    """Where a pool looks along one axis."""

    kernel: int
    stride: int
    dilation: int
    before: int
    """How many places the first window begins before the first number."""

    def places(self, length: int, count: int) -> NDArray[np.int64] | None:
        """Return where the numbers of each window are, [kernel, count]; None where a window is empty.

        A place outside is no number of the window: it is replaced by one that is, which changes no maximum.
        """
        starts = self.stride * np.arange(count) - self.before
        places = starts + self.dilation * np.arange(self.kernel)[:, np.newaxis]
        is_inside = (places >= 0) & (places < length)
        if not is_inside.any(axis=0).all():
            return None
        some = places[is_inside.argmax(axis=0), np.arange(count)]
        return np.where(is_inside, places, some)

    def padding(self, length: int, count: int) -> int:
        """Return how many places beside the numbers these windows cover, at both ends together."""
        return max(0, (count - 1) * self.stride + self.dilation * (self.kernel - 1) + 1 - length)


def as_maxima(model: Any) -> Any:
    """Return a tidy model in which max pools are maxima; the model itself where it has none.

    Those stay that tell where their maxima are (a second output), and those of images whose size is not written down.
    Sizes are inferred anew from the inputs' own, by the rules of the model's opset: below 22 those of ONNX are wrong
    for some windows at the edge (`ceil_mode`).
    """
    if not any(_is_pool(node) for node in model.graph.node):
        return model
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph, shapes, taken = copy.graph, graphs.inferred_shapes(model), graphs.names(copy.graph)
    nodes = [each for node in graph.node for each in _written(node, shapes, graph.initializer, taken)]
    del graph.node[:]
    graph.node.extend(nodes)
    return copy


def _is_pool(node: Any) -> bool:
    """Tell whether a node is a max pool that says nothing but the maxima."""
    return node.op_type == POOL and not node.domain and not any(node.output[1:])


def _written(node: Any, shapes: graphs.Shapes, weights: Any, taken: set[str]) -> Iterator[Any]:
    """Yield what stands for a node: itself, or maxima along each axis, whose places are put among the weights."""
    places = _places(node, shapes)
    if places is None:
        yield node
        return
    last, name = len(places) - 1, node.input[0]
    for axis, each in enumerate(places):
        answer = node.output[0] if axis == last else graphs.free_name(f"{node.output[0]}/axis{axis}", taken)
        yield from _maximum(name, answer, FIRST_AXIS + axis, each, weights, taken)
        name = answer


def _maximum(
    name: str, answer: str, axis: int, places: NDArray[np.int64], weights: Any, taken: set[str]
) -> Iterator[Any]:
    """Yield the nodes that find the largest number of each window along an axis."""
    parts = [graphs.free_name(f"{answer}/place{number}", taken) for number in range(len(places))]
    for part, indices in zip(parts, places, strict=True):
        held = graphs.free_name(f"{part}/indices", taken)
        weights.append(numpy_helper.from_array(indices, held))
        yield helper.make_node("Gather", [name, held], [part], name=part, axis=axis)
    yield helper.make_node("Max", parts, [answer], name=f"{answer}/max")


def _places(node: Any, shapes: graphs.Shapes) -> Sequence[NDArray[np.int64]] | None:
    """Return where a pool looks along each axis; None for another operator, or where that is not known."""
    if not _is_pool(node):
        return None
    lengths, counts = (_sizes(shapes.get(name, ())) for name in (node.input[0], node.output[0]))
    if not lengths or not counts:
        return None
    windows = _windows(node, lengths, counts)
    found = [each.places(length, count) for each, length, count in zip(windows, lengths, counts, strict=True)]
    known = [each for each in found if each is not None]
    return known if len(known) == len(found) else None


def _sizes(shape: Sequence[int | str]) -> Sequence[int]:
    """Return the lengths of the axes that are pooled; none where one is free."""
    pooled = shape[FIRST_AXIS:]
    sizes = [each for each in pooled if isinstance(each, int)]
    return sizes if len(sizes) == len(pooled) else ()


def _windows(node: Any, lengths: Sequence[int], counts: Sequence[int]) -> Sequence[Windows]:
    """Read how a pool looks along each axis (ONNX's definition of MaxPool)."""
    told = {each.name: helper.get_attribute_value(each) for each in node.attribute}
    kernels, ones = told["kernel_shape"], [1] * len(lengths)
    strides, dilations = told.get("strides", ones), told.get("dilations", ones)
    before = list(told.get("pads", [0] * len(lengths)))[: len(lengths)]
    windows = [Windows(*each) for each in zip(kernels, strides, dilations, before, strict=True)]
    if rounded := SAME.get(told.get("auto_pad", b"NOTSET")):
        sized = zip(windows, lengths, counts, strict=True)
        return [replace(each, before=rounded(each.padding(length, count))) for each, length, count in sized]
    return windows
