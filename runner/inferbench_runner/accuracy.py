"""How far a session's outputs are from the fp32 reference, and whether that is too far.

Everything is summed in double precision, example by example, so that neither the number of examples nor the size of an
output changes what a number means.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np

from inferbench_contract.accuracy import MIN_EXAMPLES_FOR_TOP1, AccuracyLimits
from inferbench_runner import photographs
from inferbench_runner.backends import Arrays

if TYPE_CHECKING:
    from numpy.typing import NDArray

LARGEST_PARTS_PER_BILLION: Final = 10**15
"""Stands for everything beyond it, infinity too: an error of a million times the signal is all the same garbage."""


@dataclass(frozen=True, slots=True)
class Differences:
    """The sums over the elements of one output, an item for each example."""

    rows: NDArray[np.intp]
    """Which examples."""
    error: NDArray[np.float64]
    """Sum of squared differences."""
    ours: NDArray[np.float64]
    """Sum of squares of the output."""
    theirs: NDArray[np.float64]
    """Sum of squares of the reference."""
    product: NDArray[np.float64]
    """Sum of output times reference."""
    choices: NDArray[np.intp] | None
    """The class with the highest score, ours and the reference's; None where the output is not one score for each."""

    @classmethod
    def join(cls, parts: Sequence[Self]) -> Self:
        """Put examples of the same output together."""
        fields = ("rows", "error", "ours", "theirs", "product")
        sums = {field: np.concatenate([getattr(part, field) for part in parts]) for field in fields}
        choices = [part.choices for part in parts if part.choices is not None]
        return cls(**sums, choices=np.concatenate(choices) if choices else None)

    def relative_l2(self) -> float:
        """Return the norm of all errors over the norm of all references."""
        return _relative(float(self.error.sum()), float(self.theirs.sum()))

    def top1_agreement(self) -> float | None:
        """Return the share of the examples with the same first choice; None where the reference has only one."""
        if self.choices is None:
            return None
        ours, theirs = self.choices.T
        # A network that answers the same to everything agrees with whatever else does.
        return float((ours == theirs).mean()) if (theirs != theirs[0]).any() else None

    def each_relative_l2(self) -> list[float]:
        """Return the relative L2 of each example."""
        return [_relative(*sums) for sums in zip(self.error.tolist(), self.theirs.tolist(), strict=True)]

    def each_cosine(self) -> list[float]:
        """Return the cosine of each example."""
        sums = (self.product.tolist(), self.ours.tolist(), self.theirs.tolist())
        return [_cosine(*each) for each in zip(*sums, strict=True)]


@dataclass(frozen=True, slots=True)
class Excess:
    """How far one output is from fp64's answer: sums of squared differences."""

    ours: float
    theirs: float
    """Of the fp32 reference."""


@dataclass(frozen=True, slots=True)
class Accuracy:
    """What the gate found. Of several outputs, each number is the worst one's."""

    examples: int
    relative_l2: float = 0.0
    worst_relative_l2: float = 0.0
    """Of the worst example."""
    worst_cosine: float = 1.0
    worst_example: int = 0
    """The one with the largest relative L2, counted from 0."""
    lowest_cosine_example: int = 0
    """The one with the lowest cosine, which can be another."""
    are_crops: bool = False
    """Whether the examples are crops of photographs, which have names."""
    top1_agreement: float | None = None
    """Share of the examples whose highest score is the same class; None where no output is one score for each class, or
    the reference chooses the same class for all of them."""
    error_ratio: float | None = None
    """The norm of the error against fp64 over that of the fp32 reference: 1 is as exact as fp32 eager is. None where
    there is no fp64 answer, or the reference is as exact as fp64."""
    fault: str | None = None
    """What is wrong before any number counts: shapes, types, NaN, a changed input, a stale output."""

    @property
    def relative_l2_parts_per_billion(self) -> int:
        """The relative L2 as results carry it."""
        return round(min(self.relative_l2 * 1e9, LARGEST_PARTS_PER_BILLION))

    @property
    def worst_cosine_parts_per_million(self) -> int:
        """The cosine of the worst example as results carry it; what points elsewhere than fp32 is all the same."""
        return max(0, round(self.worst_cosine * 1e6))

    def called(self, example: int) -> str:
        """Name an example for people."""
        return photographs.crop_called(example) if self.are_crops else f"example {example}"

    @property
    def error_ratio_milli(self) -> int | None:
        """The ratio as results carry it, in thousandths."""
        return None if self.error_ratio is None else round(min(self.error_ratio * 1e3, LARGEST_PARTS_PER_BILLION))

    @property
    def top1_agreement_basis_points(self) -> int | None:
        """The agreement as results carry it, rounded down: 99.999 % is not all of them."""
        return None if self.top1_agreement is None else math.floor(self.top1_agreement * 10_000)


def mismatch(outputs: Arrays, reference: Arrays) -> str | None:
    """Say what makes outputs incomparable with the reference, or wrong whatever their numbers are."""
    if set(outputs) != set(reference):
        return f"the outputs are {_list(outputs)} and should be {_list(reference)}"
    return next(filter(None, (_mismatch(name, outputs[name], reference[name]) for name in reference)), None)


def differences(outputs: Arrays, reference: Arrays, rows: NDArray[np.intp]) -> Mapping[str, Differences]:
    """Compare outputs that are comparable with the reference; `rows` says which examples they answer."""
    return {name: _differences(outputs[name], reference[name], rows) for name in reference}


def excess(outputs: Arrays, reference: Arrays, exact: Arrays, rows: NDArray[np.intp]) -> Mapping[str, Excess]:
    """Compare outputs and reference with what fp64 answers, as far as these are examples that it answered."""
    found: dict[str, Excess] = {}
    for name, answers in exact.items():
        known = np.flatnonzero(rows < len(answers))
        truth = answers[rows[known]]
        found[name] = Excess(*(_squares(array[name][known], truth) for array in (outputs, reference)))
    return found


def error_ratio(batches: Sequence[Mapping[str, Excess]]) -> float | None:
    """Return the largest ratio of the outputs, over all batches together; None where nothing can be said."""
    names = {name for batch in batches for name in batch}
    sums = [(sum(b[name].ours for b in batches), sum(b[name].theirs for b in batches)) for name in names]
    return max((math.sqrt(ours / theirs) for ours, theirs in sums if theirs > 0), default=None)


def judge(batches: Sequence[Mapping[str, Differences]]) -> Accuracy:
    """Put the batches together: over all examples, and the worst example of each output."""
    outputs = [Differences.join([batch[name] for batch in batches]) for name in batches[0]]
    farthest = max(_by_example(outputs, Differences.each_relative_l2), key=itemgetter(0))
    lowest = min(_by_example(outputs, Differences.each_cosine), key=itemgetter(0))
    agreements = [each for output in outputs if (each := output.top1_agreement()) is not None]
    return Accuracy(
        examples=len(np.unique(outputs[0].rows)),
        relative_l2=max(output.relative_l2() for output in outputs),
        worst_relative_l2=farthest[0],
        worst_cosine=lowest[0],
        worst_example=farthest[1],
        lowest_cosine_example=lowest[1],
        top1_agreement=min(agreements, default=None),
    )


def _by_example(
    outputs: Sequence[Differences], measure: Callable[[Differences], Sequence[float]]
) -> Iterator[tuple[float, int]]:
    """Yield what is measured of each example of each output, with the example's number."""
    return (each for output in outputs for each in zip(measure(output), output.rows.tolist(), strict=True))


def violation(accuracy: Accuracy, limits: AccuracyLimits, *, gate_top1: bool) -> str | None:
    """Say which limit is broken, with the numbers; None where none is."""
    if accuracy.fault is not None:
        return f"Wrong outputs: {accuracy.fault}."
    return next(_violations(accuracy, limits, gate_top1=gate_top1), None)


def _violations(accuracy: Accuracy, limits: AccuracyLimits, *, gate_top1: bool) -> Iterator[str]:
    where = f"over {accuracy.examples} examples, the worst is"
    if accuracy.relative_l2 > limits.max_relative_l2:
        worst = accuracy.called(accuracy.worst_example)
        yield f"Relative L2 error {accuracy.relative_l2:.2g} exceeds {limits.max_relative_l2:.2g} ({where} {worst})."
    if accuracy.worst_cosine < limits.min_cosine:
        worst = accuracy.called(accuracy.lowest_cosine_example)
        yield f"Cosine {accuracy.worst_cosine:.6f} is below {limits.min_cosine:.6f} ({where} {worst})."
    if not gate_top1 or accuracy.top1_agreement is None or accuracy.examples < MIN_EXAMPLES_FOR_TOP1:
        return
    if accuracy.top1_agreement < limits.min_top1_agreement:
        yield (
            f"Top-1 agreement {accuracy.top1_agreement:.2%} is below {float(limits.min_top1_agreement):.2%} "
            f"(over {accuracy.examples} examples)."
        )


def _mismatch(name: str, ours: NDArray[Any], theirs: NDArray[Any]) -> str | None:
    if ours.shape != theirs.shape:
        return f"output {name} has the shape {_shape(ours)} and should have {_shape(theirs)}"
    if ours.dtype != theirs.dtype:
        return f"output {name} is {ours.dtype} and should be {theirs.dtype}"
    broken = np.flatnonzero([not np.isfinite(example).all() for example in ours])
    if broken.size:
        return f"output {name} has NaN or infinity in {broken.size} of {len(ours)} examples"
    return None


def _differences(ours: NDArray[Any], theirs: NDArray[Any], rows: NDArray[np.intp]) -> Differences:
    sums = np.array([_sums(a, b) for a, b in zip(ours, theirs, strict=True)], np.float64)
    error, norm, reference_norm, product = sums.T
    return Differences(rows, error, norm, reference_norm, product, _choices(ours, theirs))


def _sums(ours: NDArray[Any], theirs: NDArray[Any]) -> tuple[float, float, float, float]:
    a, b = (np.asarray(array, np.float64).ravel() for array in (ours, theirs))
    error = a - b
    return float(error @ error), float(a @ a), float(b @ b), float(a @ b)


def _squares(found: NDArray[Any], truth: NDArray[Any]) -> float:
    error = np.asarray(found, np.float64).ravel() - truth.ravel()
    return float(error @ error)


def _choices(ours: NDArray[Any], theirs: NDArray[Any]) -> NDArray[np.intp] | None:
    if ours.ndim != 2 or ours.shape[1] < 2 or ours.dtype.kind != "f":
        return None
    return np.stack([ours.argmax(axis=1), theirs.argmax(axis=1)], axis=1)


def _relative(error: float, theirs: float) -> float:
    """Return the relative norm. Nothing is infinitely far from anything, and not at all from nothing."""
    if theirs == 0:
        return 0.0 if error == 0 else math.inf
    return math.sqrt(error / theirs)


def _cosine(product: float, ours: float, theirs: float) -> float:
    if ours == 0 or theirs == 0:
        return 1.0 if ours == theirs else 0.0
    return product / (math.sqrt(ours) * math.sqrt(theirs))


def _shape(array: NDArray[Any]) -> str:
    return " x ".join(map(str, array.shape))


def _list(arrays: Arrays) -> str:
    return ", ".join(sorted(arrays))
