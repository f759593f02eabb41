"""What quantisers are told of a model: the ranges of its tensors over examples that no evaluation sees.

There are two methods. `minmax` covers every value that was seen. `percentile` leaves out the outermost ones at both
ends, for models with outliers. There is no `entropy`: ONNX Runtime's has 128 bins in its histogram for 128 steps, so
that its search has one candidate and finds what minmax finds. An option that changes nothing would be a lie.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from inferbench_runner import artifacts, circumstances, inputs, models, photographs
from inferbench_runner.backends import Arrays
from inferbench_runner.inputs import Colours, Input

if TYPE_CHECKING:
    from numpy.typing import NDArray

EXAMPLES: Final = 64
"""Eight crops of each photograph. With half as many, int8 ResNet-50 was 4 % farther from its reference."""

COLOUR_TOLERANCE: Final = 1e-3
"""How far an example may be from what its colours say, in units of the model's input; rounding makes 1e-6."""


class Calibration(StrEnum):
    """How the range of a tensor is chosen."""

    MINMAX = "minmax"
    PERCENTILE = "percentile"


CUT: Final = {Calibration.MINMAX: 0.0, Calibration.PERCENTILE: 5e-5}
"""Share of the values that is cut at each end; the usual percentile is 99.99, both ends together."""


def examples(evaluation: Path, count: int = EXAMPLES) -> Arrays:
    """Make examples like those of an evaluation, from other photographs or, where it has none, from another seed.

    Sizes, types and colours are read off the evaluation's own examples, so that both are always of one kind.
    """
    first = artifacts.read_rows(evaluation, np.arange(1))
    tensors = [Input(name, array.shape[1:], array.dtype.name) for name, array in first.items()]
    if not inputs.takes_images(tensors):
        return inputs.random_tensors(tensors, count, models.SEED + 1)
    colours = _colours(np.asarray(first[tensors[0].name][0], np.float32))
    return models.examples(tensors, colours, photographs.CALIBRATION, count)


def ranges(model: Any, names: Sequence[str], batch: Arrays, method: Calibration) -> Mapping[str, tuple[float, float]]:
    """Return the range of each tensor of a tidy model over a batch of examples, 0 included."""
    tails: dict[str, _Tails] = {}
    for arrays, parts in _runs(model, names, batch):
        for name in names:
            values = arrays[name].ravel()
            tails.setdefault(name, _Tails(CUT[method], values.size * parts)).add(values)
    return {name: tails[name].range() for name in names}


class _Tails:
    """The values at the two ends of everything that a tensor was: as many as are cut, and one more at each end."""

    def __init__(self, cut: float, total: int) -> None:
        self._count = math.floor(cut * total) + 1
        self._low = np.empty(0, np.float32)
        self._high = np.empty(0, np.float32)

    def add(self, values: NDArray[Any]) -> None:
        """Keep of these values, and of those before them, the outermost."""
        self._low = _smallest(self._low, values, self._count)
        self._high = _largest(self._high, values, self._count)

    def range(self) -> tuple[float, float]:
        """Return the innermost values that were kept, with 0 between them: a quantiser has to have that number."""
        return min(0.0, float(self._low.max())), max(0.0, float(self._high.min()))


def _largest(kept: NDArray[Any], values: NDArray[Any], count: int) -> NDArray[Any]:
    """Return the `count` largest of both; looks twice only at values that are larger than one that was kept."""
    if kept.size == count:
        values = values[values > kept.min()] if values.max() > kept.min() else values[:0]
    both = np.concatenate([kept, values])
    return np.partition(both, -count)[-count:] if both.size > count else both


def _smallest(kept: NDArray[Any], values: NDArray[Any], count: int) -> NDArray[Any]:
    """Return the `count` smallest of both."""
    if kept.size == count and values.min() >= kept.max():
        return kept
    return -_largest(-kept, -values, count)


def _runs(model: Any, names: Sequence[str], batch: Arrays) -> Iterator[tuple[Arrays, int]]:
    """Run a model on the examples, one by one if it takes that; yield its tensors, and how many runs there are."""
    session = _session(model, names)
    wanted = [output.name for output in session.get_outputs() if output.name in set(names)]
    total, size = len(next(iter(batch.values()))), session.get_inputs()[0].shape[0]
    size = size if isinstance(size, int) else 1
    starts = range(0, total, size)
    for start in starts:
        rows = (start + np.arange(size)) % total
        fed = {each.name: np.ascontiguousarray(batch[each.name][rows]) for each in session.get_inputs()}
        yield fed | dict(zip(wanted, session.run(wanted, fed), strict=True)), len(starts)


def _session(model: Any, names: Sequence[str]) -> Any:
    """Load a model with these tensors among its outputs."""
    import onnx
    import onnxruntime

    told = onnx.ModelProto()
    told.CopyFrom(model)
    shown = {value.name for value in (*told.graph.input, *told.graph.output)}
    told.graph.output.extend(value for value in model.graph.value_info if value.name in set(names) - shown)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.intra_op_num_threads = circumstances.threads_default()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(told.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _colours(example: NDArray[np.float32]) -> Colours:
    """Find how pixels became the first evaluation example, a crop of the first photograph."""
    _, height, width = example.shape
    photograph = photographs.read(photographs.EVALUATION[:1])
    pixels = inputs.crops(photograph, 1, height, width, models.SEED)
    shades = (pixels[0] / 255).reshape(-1, len(example))
    numbers = example.reshape(len(example), -1)
    std = np.ptp(shades, axis=0) / np.ptp(numbers, axis=1)
    mean = shades.min(axis=0) - numbers.min(axis=1) * std
    colours = Colours(tuple(map(float, mean)), tuple(map(float, std)))
    if not np.allclose(inputs.normalise(pixels, colours)[0], example, atol=COLOUR_TOLERANCE):
        raise ValueError("These evaluation inputs were not made by this version: calibration cannot follow them.")
    return colours
