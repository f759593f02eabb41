"""What a sweep does just now: told by the sweep, read by whoever looks at the pod while it runs.

It lives in the supervisor. What it knows of a cell is what the cell's process reports anyway, twice a second at most;
what it knows of the GPU is what its guard reads anyway. So looking on costs the measurement nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Self

from inferbench_contract.plan import Sweep
from inferbench_contract.result import LARGEST, SweepResult
from inferbench_contract.words import Outcome
from inferbench_runner.gpu import Reading
from inferbench_runner.measure import Stage

BOUNDS_NS: Final = (*(base * 10**exponent for exponent in range(5, 10) for base in (1, 3)), 10**10)
"""100 us, 300 us, 1 ms, ... 3 s, 10 s: eleven buckets and the one above them, evenly spaced for a logarithm."""

MAX_STAGE_CHARS: Final = 60
"""Stages are a few words of ours; but it is a process with a stranger's model in it that says them."""

STARTING: Final = "starting"
"""A cell whose process has said nothing yet."""


@dataclass(frozen=True, slots=True)
class Calls:
    """A histogram of timed calls by what they took."""

    counts: tuple[int, ...] = (0,) * (len(BOUNDS_NS) + 1)
    """Calls up to each bound and above the one before; the last: above all."""
    total_ns: int = 0

    def plus(self, calls: int, latency_ns: int) -> Self:
        """Add calls that took so long each."""
        bucket = sum(latency_ns > bound for bound in BOUNDS_NS)
        counts = (*self.counts[:bucket], self.counts[bucket] + calls, *self.counts[bucket + 1 :])
        return replace(self, counts=counts, total_ns=self.total_ns + calls * latency_ns)


@dataclass(frozen=True, slots=True)
class Moment:
    """What a sweep is busy with, as it said it."""

    stage: str = ""
    batch_size: int | None = None
    """None: with something that all its cells need."""
    calls: int = 0
    """Made in this stage so far."""
    latency_ns: int = 0
    """Median of the last of them."""

    @classmethod
    def heard(cls, said: Mapping[str, Any]) -> Self:
        """Read a report; of what is none of its kind, nothing is kept."""
        size = said.get("batchSize")
        return cls(
            stage=printable(said.get("stage"))[:MAX_STAGE_CHARS],
            batch_size=size if type(size) is int else None,
            calls=_whole(said.get("calls")),
            latency_ns=_whole(said.get("latencyNanoseconds")),
        )


class Live:
    """The latest of everything. Each field is replaced as a whole: the sweep writes, scrapes read in their threads."""

    def __init__(self, sweep: Sweep, result: SweepResult) -> None:
        self.sweep = sweep
        self.result = result
        self.moment = Moment()
        self.calls: Mapping[int, Calls] = {}
        """By batch size."""
        self.gpu: Reading | None = None
        """The last look at the GPU while a cell ran; None between cells."""
        self._counted = 0

    @property
    def progress(self) -> float:
        """Return the share of the cells that have an outcome."""
        return len(self.result.cells) / len(self.sweep.batch_sizes)

    @property
    def outcomes(self) -> Mapping[Outcome, int]:
        """Count the cells by outcome."""
        counted = Counter(cell.outcome for cell in self.result.cells)
        return {outcome: counted[outcome] for outcome in Outcome}

    def hear(self, said: Mapping[str, Any]) -> None:
        """Take a report of progress."""
        self.moment = moment = Moment.heard(said)
        if moment.stage == Stage.MEASURING:
            self._count(moment.batch_size, moment.calls, moment.latency_ns)

    def see(self, reading: Reading) -> None:
        """Take a look at the GPU."""
        self.gpu = reading

    def deliver(self, result: SweepResult) -> None:
        """Take the result so far. A cell that has ended adds the calls that it had not reported."""
        for cell in result.cells[len(self.result.cells) :]:
            self._count(cell.batch_size, cell.samples or 0, cell.latency_median_ns or 0)
            self._counted = 0
        self.result, self.gpu = result, None
        self.moment = Moment() if result.in_flight is None else Moment(STARTING, result.in_flight)

    def _count(self, batch_size: int | None, calls: int, latency_ns: int) -> None:
        """Add the calls since the last report; `calls` are all that the cell has made."""
        fresh = calls - self._counted
        if batch_size is None or fresh <= 0 or latency_ns <= 0:
            return
        self._counted = calls
        self.calls = {**self.calls, batch_size: self.calls.get(batch_size, Calls()).plus(fresh, latency_ns)}


def printable(said: object) -> str:
    """Make one line of text of what a process said, which any terminal and file can take."""
    text = " ".join(said.split()) if isinstance(said, str) else ""
    return "".join(letter for letter in text if letter.isprintable())


def _whole(value: object) -> int:
    return value if type(value) is int and 0 <= value <= LARGEST else 0
