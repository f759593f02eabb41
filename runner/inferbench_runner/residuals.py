"""The sums of residual networks, seen from the convolution that could take one in: which operand is the other one.

A kernel that convolves in 8 bits can add a second tensor before it writes, if that one has 8 bits too. TensorRT
quantises nothing by itself, so a graph has to say it of this operand, and of this one only: quantised as well, what the
convolution makes would be read by a kernel of its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any, Final

from inferbench_runner import graphs

CONVOLUTION: Final = "Conv"
"""And no product: what transformers add up spans too much for 8 bits (ViT-B/16 would be 11.3 % off, and is 4.2 %)."""

FOLDED: Final = "BatchNormalization"
"""What may stand behind a convolution, and becomes part of it."""


def of(model: Any, chosen: Collection[str]) -> dict[str, int]:
    """Return where sums read their residual operand (0 or 1), by the name of the sum, in the order of the graph.

    Sums of what a convolution among the chosen ones makes for nobody else, and of another tensor of the same shape.
    Where both operands are made so, the convolution with the longer way to it takes the sum in: the shorter one is the
    branch that only fits the shape.
    """
    graph = model.graph
    made, shapes, lengths = _made(graph, chosen), graphs.shapes(graph), _lengths(graph)
    found = {}
    for node in graph.node:
        if node.op_type != "Add" or not _is_alike(node.input, shapes):
            continue
        if ends := [place for place, name in enumerate(node.input) if name in made]:
            longest = max(ends, key=lambda place: lengths[node.input[place]])
            found[node.output[0]] = 1 - longest
    return found


def _made(graph: Any, chosen: Collection[str]) -> set[str]:
    """Return what the chosen convolutions make, with batch norms as part of them, where one node alone reads it."""
    reads = Counter(name for node in graph.node for name in node.input)
    reads.update(value.name for value in graph.output)
    made: set[str] = set()
    for node in graph.node:
        name = node.output[0]
        is_convolved = node.op_type == CONVOLUTION and name in chosen
        is_folded = node.op_type == FOLDED and node.input[0] in made
        if (is_convolved or is_folded) and reads[name] == 1:
            made.add(name)
    return made


def _lengths(graph: Any) -> Mapping[str, int]:
    """Return how many convolutions are on the longest way to each tensor. Nodes stand in the order of their data."""
    lengths: dict[str, int] = {}
    for node in graph.node:
        before = max((lengths.get(name, 0) for name in node.input), default=0)
        lengths.update(dict.fromkeys(node.output, before + (node.op_type == CONVOLUTION)))
    return lengths


def _is_alike(names: Collection[str], shapes: graphs.Shapes) -> bool:
    """Tell whether tensors have one shape, as far as is known."""
    found = {shapes.get(name) for name in names}
    return len(found) == 1 and None not in found
