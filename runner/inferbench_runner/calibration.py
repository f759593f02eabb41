"""What quantisers are told of a model: the ranges of its tensors over examples that no evaluation sees.

There are three methods. `minmax` covers every value that was seen. `percentile` leaves out the outermost ones at both
ends, for models with outliers. `entropy` cuts where the distribution of values, told in 128 steps, loses least of its
information (Kullback and Leibler's), as TensorRT's calibrators of old did. All are our own: ONNX Runtime's `Entropy`
has 128 bins in its histogram for 128 steps, so that its search has one candidate and finds what minmax finds.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np

from inferbench_contract.spec import Calibration
from inferbench_runner import artifacts, circumstances, inputs, models, photographs
from inferbench_runner.backends import Arrays
from inferbench_runner.inputs import Colours, Input

if TYPE_CHECKING:
    from numpy.typing import NDArray

EXAMPLES: Final = 64
"""Eight crops of each photograph. With half as many, int8 ResNet-50 was 4 % farther from its reference."""

AT_A_TIME: Final = 2
"""Runs that are under way at the same time. Each has all tensors of the model in memory that are looked at."""

COLOUR_TOLERANCE: Final = 1e-3
"""How far an example may be from what its colours say, in units of the model's input; rounding makes 1e-6."""


CUT: Final = 5e-5
"""Share of the values that `percentile` cuts at each end; the usual one is 99.99, both ends together."""

BINS: Final = 2048
"""Of the histogram of sizes: 16 for each step of 8 bits, as the method is usually told. A power of two."""

STEPS: Final = 128
"""The sizes that a signed 8-bit number has."""

CANDIDATE_BINS: Final = 8
"""Distance between two thresholds that are tried: 0.4 % of the largest value."""

IMPOSSIBLE_SHARE: Final = 1e-9
"""What a size is given that occurs and has no step: its logarithm has to be finite."""


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
    found: dict[str, Observer] = {}
    for arrays, parts in _runs(model, names, batch):
        for name in names:
            values = arrays[name].ravel()
            found.setdefault(name, observer(method, values.size * parts)).add(values)
    return {name: found[name].range() for name in names}


class Observer(Protocol):
    """Sees all values of one tensor, part by part, and tells the range to be covered."""

    def add(self, values: NDArray[Any]) -> None:
        """Look at some values."""

    def range(self) -> tuple[float, float]:
        """Return the range, 0 included: a quantiser has to have that number."""


def observer(method: Calibration, total: int) -> Observer:
    """Return what finds a range by this method; `total` is how many values it is going to see."""
    match method:
        case Calibration.MINMAX:
            return _Extremes()
        case Calibration.PERCENTILE:
            return _Tails(CUT, total)
        case Calibration.ENTROPY:
            return _Histogram()


class _Extremes:
    """The smallest and the largest value."""

    def __init__(self) -> None:
        self._low = self._high = 0.0

    def add(self, values: NDArray[Any]) -> None:
        """Look at these values."""
        self._low, self._high = min(self._low, float(values.min())), max(self._high, float(values.max()))

    def range(self) -> tuple[float, float]:
        """Return both, with 0 between them."""
        return self._low, self._high


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
        """Return the innermost values that were kept, with 0 between them."""
        return min(0.0, float(self._low.max())), max(0.0, float(self._high.min()))


class _Histogram:
    """How often each size occurs. Its bins double their width whenever a value arrives that is too large for them."""

    def __init__(self) -> None:
        self._counts = np.zeros(BINS, np.int64)
        self._width = 0.0
        self._low = self._high = 0.0

    def add(self, values: NDArray[Any]) -> None:
        """Count these values."""
        self._low, self._high = min(self._low, float(values.min())), max(self._high, float(values.max()))
        self._make_room()
        if self._width:
            bins = (np.abs(values) / np.float32(self._width)).astype(np.int64)
            self._counts += np.bincount(np.minimum(bins, BINS - 1), minlength=BINS)

    def range(self) -> tuple[float, float]:
        """Return what of the values lies below the threshold that loses least."""
        threshold = _threshold(self._counts) * self._width
        return max(self._low, -threshold), min(self._high, threshold)

    def _make_room(self) -> None:
        largest = max(-self._low, self._high)
        self._width = self._width or largest / BINS
        while self._width * BINS < largest:
            self._counts = np.concatenate([self._counts.reshape(-1, 2).sum(axis=1), np.zeros(BINS // 2, np.int64)])
            self._width *= 2


def _threshold(counts: NDArray[np.int64]) -> int:
    """Return the number of bins that 8 bits had best cover. Zeros say nothing: every quantiser has them exactly."""
    sizes = np.array(counts, np.float64)
    sizes[0] = 0
    used = int(np.flatnonzero(sizes).max(initial=0)) + 1
    candidates: list[int] = [*range(STEPS, used, CANDIDATE_BINS), max(used, STEPS)]
    return min(candidates, key=lambda bins: _divergence(sizes, bins))


def _divergence(sizes: NDArray[np.float64], bins: int) -> float:
    """Return how much is lost of a distribution that is cut off here and told in steps, after Kullback and Leibler."""
    inside = sizes[:bins]
    edges = np.arange(STEPS) * bins // STEPS
    per_step, occupied = np.add.reduceat(inside, edges), np.add.reduceat(inside > 0, edges)
    even = np.repeat(per_step / np.maximum(occupied, 1), np.diff([*edges, bins])) * (inside > 0)
    clipped = inside.copy()
    clipped[-1] += sizes[bins:].sum()
    some = clipped > 0
    was, told = clipped[some] / clipped.sum(), even[some] / max(even.sum(), 1)
    return float(np.sum(was * np.log(was / np.maximum(told, IMPOSSIBLE_SHARE))))


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
    """Run a model on the examples, one by one if it takes that; yield its tensors, and how many runs there are.

    Several runs are under way at a time, which need not wait for each other as the threads of one run do: they take
    three quarters of the time, and on a busy machine a small part of it.
    """
    session = _session(model, names)
    wanted = [output.name for output in session.get_outputs() if output.name in set(names)]
    total, size = len(next(iter(batch.values()))), session.get_inputs()[0].shape[0]
    size = size if isinstance(size, int) else 1
    starts = range(0, total, size)

    def run(start: int) -> Arrays:
        rows = (start + np.arange(size)) % total
        fed = {each.name: np.ascontiguousarray(batch[each.name][rows]) for each in session.get_inputs()}
        answers = session.run(wanted, fed) if wanted else ()  # asked for none it gives all
        return fed | dict(zip(wanted, answers, strict=True))

    with ThreadPoolExecutor(AT_A_TIME) as pool:
        pending: deque[Future[Arrays]] = deque()
        for start in starts:
            pending.append(pool.submit(run, start))
            if len(pending) == AT_A_TIME:
                yield pending.popleft().result(), len(starts)
        while pending:
            yield pending.popleft().result(), len(starts)


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
    options.intra_op_num_threads = max(1, circumstances.threads_default() // AT_A_TIME)
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
