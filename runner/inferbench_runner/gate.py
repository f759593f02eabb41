"""The accuracy gate: feeds the evaluation inputs through the very session that was timed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from inferbench_runner import accuracy, artifacts, exact
from inferbench_runner.accuracy import Accuracy, Differences, Excess
from inferbench_runner.backends import Arrays, Session
from inferbench_runner.clocks import HOST_CLOCK, Clock
from inferbench_runner.inputs import Input, takes_images
from inferbench_runner.task import CellTask

if TYPE_CHECKING:
    from numpy.typing import NDArray

MIN_EXAMPLES: Final = 8
"""Of a short check, as every round but the first makes it: its session is the first round's, made again."""

LIMIT_NS: Final = 30 * 10**9
"""A full check of a slow model stops here: 256 examples of ResNet-50 take 17 s on two cores, one by one."""


@dataclass(frozen=True, slots=True)
class Examples:
    """The evaluation inputs and the reference's answers, in batches that begin anew after the last example."""

    inputs: Path
    reference: Path
    batch_size: int
    total: int
    exact: Arrays = field(default_factory=dict)
    """What fp64 answers to the first of them."""

    def rows(self, start: int) -> NDArray[np.intp]:
        """Return the numbers of the examples in the batch that begins at `start`."""
        return (start + np.arange(self.batch_size)) % self.total

    def starts(self, *, full: bool) -> Sequence[int]:
        """Say where batches begin so that all examples, or the fewest of a short check, are among them.

        The first is not the batch that was timed, so that a session which answers from memory is found out.
        """
        first = self.batch_size if self.batch_size % self.total else 1
        wanted = self.total if full else min(self.total, MIN_EXAMPLES)
        return range(first, first + wanted, self.batch_size)


@dataclass(frozen=True, slots=True)
class Compared:
    """A batch against the reference, and both against fp64."""

    differences: Mapping[str, Differences]
    excess: Mapping[str, Excess]
    stood_still: bool | None
    """Whether all outputs were those of the batch before; None where the reference's were, too."""


def first_batch(task: CellTask) -> Arrays:
    """Return the batch that is timed: the first examples, again and again if the batch is larger than their number."""
    folder = _required(task.artifacts.inputs)
    return artifacts.read_rows(folder, np.arange(task.batch_size) % artifacts.example_count(folder))


def check(session: Session, task: CellTask, *, full: bool, clock: Clock = HOST_CLOCK) -> Accuracy:
    """Compare with the reference: all examples as far as the time goes (`full`), or a batch or more, of at least 8.

    Also finds a session that changes its inputs, or that answers without reading them (as a replayed CUDA graph does
    whose buffers are not the bound ones). The session must hold `first_batch`, as it was timed.
    """
    inputs = _required(task.artifacts.inputs)
    reference = _required(task.artifacts.reference)
    examples = Examples(inputs, reference, task.batch_size, artifacts.example_count(inputs), exact.read(reference))
    deadline, found = clock() + LIMIT_NS, list[Compared]()

    def seen(batches: int) -> int:
        return min(examples.total, batches * task.batch_size)

    _run(session)
    for previous, start in pairwise((0, *examples.starts(full=full))):
        compared = _compare(session, examples, previous, start)
        if isinstance(compared, str):
            return Accuracy(examples=seen(len(found) + 1), fault=compared)
        found.append(compared)
        if clock() > deadline and len(found) * task.batch_size >= MIN_EXAMPLES:
            break
    if _answers_from_memory(found):
        return Accuracy(examples=seen(len(found)), fault="the outputs stayed the same when the inputs changed")
    ratio = accuracy.error_ratio([compared.excess for compared in found])
    judged = accuracy.judge([compared.differences for compared in found])
    return replace(judged, error_ratio=ratio, are_crops=_are_images(inputs))


def _are_images(folder: Path) -> bool:
    """Tell whether the examples are crops of photographs, as they are where a model takes images."""
    first = artifacts.read_rows(folder, np.arange(1))
    return takes_images([Input(name, array.shape[1:], array.dtype.name) for name, array in first.items()])


def _compare(session: Session, examples: Examples, previous: int, start: int) -> Compared | str:
    """Run one batch. A text is what is wrong with it before any number counts."""
    stale = session.outputs()
    session.load_batch(artifacts.read_rows(examples.inputs, examples.rows(start)))
    held = session.inputs()
    _run(session)
    outputs, reference = session.outputs(), artifacts.read_rows(examples.reference, examples.rows(start))
    fault = accuracy.mismatch(outputs, reference)
    if fault is not None:
        return fault
    if not _same(held, session.inputs()):
        return "the call changed its inputs"
    rows = examples.rows(start)
    excess = accuracy.excess(outputs, reference, examples.exact, rows)
    was_expected = artifacts.read_rows(examples.reference, examples.rows(previous))
    stood_still = None if _same(was_expected, reference) else _same(stale, outputs)
    return Compared(accuracy.differences(outputs, reference, rows), excess, stood_still)


def _answers_from_memory(found: Sequence[Compared]) -> bool:
    """Tell whether the outputs never changed, though others were expected.

    Once is nothing: where two examples are told apart by the last digits of fp32 (bags of the same words, say), fewer
    bits answer both alike.
    """
    told = [compared.stood_still for compared in found if compared.stood_still is not None]
    return bool(told) and all(told)


def _run(session: Session) -> None:
    session.enqueue()
    session.synchronize()


def _same(ours: Arrays, theirs: Arrays) -> bool:
    return all(np.array_equal(ours[name], theirs[name], equal_nan=ours[name].dtype.kind == "f") for name in theirs)


def _required(folder: Path | None) -> Path:
    if folder is None:
        raise ValueError("The task names no inputs or no reference: prepare them first.")
    return folder
