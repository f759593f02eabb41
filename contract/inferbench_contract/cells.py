"""results -> one row per cell: its outcome over all rounds, its numbers, and its speedup over the baseline.

The order of results does not matter; of repeated ones a measured one counts, then the one that finished first.
"""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from inferbench_contract import evidence
from inferbench_contract.accuracy import MIN_EXAMPLES_FOR_TOP1
from inferbench_contract.evidence import Estimate
from inferbench_contract.plan import Plan
from inferbench_contract.result import CellResult, SweepResult
from inferbench_contract.words import Cell, Doubt, Outcome, Strategy, ThrottleReason, Verdict

WORST_FIRST = (
    Outcome.INACCURATE,
    Outcome.CRASHED,
    Outcome.OUT_OF_MEMORY,
    Outcome.TIMED_OUT,
    Outcome.FAILED,
    Outcome.FELL_BACK,
    Outcome.UNSUPPORTED,
    Outcome.MEASURED,
)
"""A cell is what its worst round was: nobody should ship what crashes in one process of four."""


Candidate = tuple[SweepResult, CellResult]
"""What one sweep says of a cell."""


@dataclass(frozen=True)
class Row:
    """A cell over all its rounds. `outcome` is None while no round has given one."""

    cell: Cell
    outcome: Outcome | None
    reason: str
    rounds: Mapping[int, CellResult]
    """What each round gave, whatever it was, rounds ascending."""
    medians: Mapping[int, float]
    """Median latency in nanoseconds of each round that has one, rounds ascending."""
    may_rank: bool
    """Whether it may be called best: measured, and accurate or allowed to be inaccurate."""
    speedup: Estimate | None = None
    """Baseline's latency over this one's, paired by round; None for the baseline itself."""
    verdict: Verdict | None = None
    is_trained: bool = True
    """Whether its first choices mean anything: those of random weights do not."""
    has_own_limit: bool = False
    """Whether the benchmark itself limits its top-1 agreement (`accuracy.minTop1Agreement`)."""

    @cached_property
    def latency(self) -> Estimate | None:
        """Geometric mean of the round medians, in nanoseconds."""
        return evidence.geometric_mean(list(self.medians.values()))

    @cached_property
    def throughput(self) -> Estimate | None:
        """Geometric mean over rounds of the back-to-back throughput, in thousandths of an input per second.

        A round that had less than half a thousandth says 0, which has no logarithm: it is left out.
        """
        return evidence.geometric_mean([float(value) for value in self.values("throughput_milli_per_second") if value])

    @cached_property
    def energy_joules(self) -> float | None:
        """Energy of the whole GPU for one input, back to back; None where no round counted it.

        A watt over an input per second is a joule an input. In every round calls follow each other for the same time,
        so the sum of powers over the sum of throughputs is all joules over all inputs.
        """
        counted = [
            (result.power_milliwatts, result.throughput_milli_per_second)
            for result in self.rounds.values()
            if result.power_milliwatts and result.throughput_milli_per_second
        ]
        return sum(power for power, _ in counted) / sum(rate for _, rate in counted) if counted else None

    @cached_property
    def compared(self) -> CellResult | None:
        """The round whose answers tell how near it stays to fp32: of those that decide, the one that compared most.

        The first round looks at all examples and the others at a few. None where nothing was compared.
        """
        deciding = [result for result in self.rounds.values() if result.outcome is self.outcome]
        known = [result for result in deciding if result.relative_l2_parts_per_billion is not None]
        return max(known, key=lambda result: result.compared_examples or 0, default=None)

    @property
    def agreement_basis_points(self) -> int | None:
        """Share of the images for which its first choice is that of fp32; None where that is not judged."""
        compared = self.compared
        if compared is None or not self.is_trained or (compared.compared_examples or 0) < MIN_EXAMPLES_FOR_TOP1:
            return None
        return compared.top1_agreement_basis_points

    @cached_property
    def throttle_reasons(self) -> Mapping[ThrottleReason, int]:
        """Each reason for which the GPU lowered its clocks with the number of rounds that had it."""
        counts = Counter(reason for result in self.rounds.values() for reason in result.throttle_reasons)
        return {reason: counts[reason] for reason in ThrottleReason if counts[reason]}

    @cached_property
    def doubts(self) -> Mapping[Doubt, int]:
        """Each doubt with the number of rounds that had it."""
        counts = Counter(doubt for result in self.rounds.values() for doubt in result.doubts)
        return {doubt: counts[doubt] for doubt in Doubt if counts[doubt]}

    @property
    def lasting_doubts(self) -> tuple[Doubt, ...]:
        """The doubts of at least half of its measured rounds: the ones worth a reader's time."""
        return tuple(doubt for doubt, count in self.doubts.items() if 2 * count >= len(self.medians))

    @property
    def samples(self) -> int:
        """Timed calls of all rounds."""
        return sum(self.values("samples"))

    def values(self, field: str) -> tuple[int, ...]:
        """Return one field of every round that has it."""
        found = (getattr(result, field) for result in self.rounds.values())
        return tuple(value for value in found if value is not None)

    def middle(self, field: str) -> int | None:
        """Return the median of a field over the rounds that have it."""
        values = self.values(field)
        return round(statistics.median(values)) if values else None


@dataclass(frozen=True)
class Table:
    """All rows of a benchmark in the plan's order, and the strategy that they are compared with."""

    rows: Mapping[Cell, Row]
    baseline: Strategy

    def at(self, batch_size: int) -> tuple[Row, ...]:
        """Rows of one batch size."""
        return self._by_batch_size.get(batch_size, ())

    @cached_property
    def batch_sizes(self) -> tuple[int, ...]:
        """All batch sizes, ascending."""
        return tuple(sorted(self._by_batch_size))

    @cached_property
    def _by_batch_size(self) -> Mapping[int, tuple[Row, ...]]:
        gathered: dict[int, list[Row]] = defaultdict(list)
        for row in self.rows.values():
            gathered[row.cell.batch_size].append(row)
        return {size: tuple(rows) for size, rows in gathered.items()}

    def opposite(self, row: Row) -> Row | None:
        """Return the row on the other side of a row's speedup; None where it has no speedup."""
        return None if row.speedup is None else self.rows.get(Cell(self.baseline, row.cell.batch_size))

    def medians(self, cell: Cell) -> Mapping[int, float]:
        """Round medians of a cell in nanoseconds; empty when it has none or did not end as `Measured`."""
        row = self.rows.get(cell)
        return row.medians if row is not None and row.may_rank else {}


def tabulate(plan: Plan, results: Iterable[SweepResult], baseline: Strategy, *, rank_inaccurate: bool = False) -> Table:
    """Gather results into rows and compare each with the baseline at its batch size.

    `rank_inaccurate` is `onViolation: Report`: inaccurate cells compete, and say what they are.
    """
    found = _by_cell(plan, results)
    is_trained = not plan.work.model.has_random_weights
    limited = plan.work.accuracy.min_top1_agreement
    rows = {
        cell: replace(
            _row(cell, found.get(cell, {}), rank_inaccurate=rank_inaccurate),
            is_trained=is_trained,
            has_own_limit=cell.strategy.precision in limited,
        )
        for cell in plan.measurable_cells
    }
    rows |= {cell: _unsupported(cell, reason) for cell, reason in plan.unsupported_cells.items()}
    compared = dict(_compared(Table(rows, baseline)))
    return Table({cell: compared[cell] for cell in rows}, baseline)


def worst(outcomes: Iterable[Outcome]) -> Outcome | None:
    """Return the outcome that decides for a cell; None of no outcomes."""
    return min(outcomes, key=WORST_FIRST.index, default=None)


def _by_cell(plan: Plan, results: Iterable[SweepResult]) -> Mapping[Cell, Mapping[int, CellResult]]:
    """Return what counts of each cell, by round, rounds ascending."""
    candidates: dict[Cell, dict[int, list[Candidate]]] = defaultdict(lambda: defaultdict(list))
    for result in results:
        sweep = plan.sweeps[result.sweep]
        for given in result.cells:
            candidates[Cell(sweep.strategy, given.batch_size)][sweep.round].append((result, given))
    return {
        cell: {round_: _preferred(repeated) for round_, repeated in sorted(rounds.items())}
        for cell, rounds in candidates.items()
    }


def _preferred(repeated: Sequence[Candidate]) -> CellResult:
    return repeated[0][1] if len(repeated) == 1 else min(repeated, key=_preference)[1]


def _preference(candidate: Candidate) -> tuple[bool, int, str]:
    result, cell = candidate
    return cell.outcome is not Outcome.MEASURED, result.finished_ms or 0, repr(cell)


def _row(cell: Cell, rounds: Mapping[int, CellResult], *, rank_inaccurate: bool) -> Row:
    outcome = worst(result.outcome for result in rounds.values())
    deciding = [result for result in rounds.values() if result.outcome is outcome]
    reason = deciding[0].reason if deciding else ""
    if reason and len(deciding) < len(rounds):
        reason = f"{reason} (in {len(deciding)} of {len(rounds)} rounds)"
    may_rank = outcome is Outcome.MEASURED or (rank_inaccurate and outcome is Outcome.INACCURATE)
    medians = {place: float(result.latency_median_ns) for place, result in rounds.items() if result.latency_median_ns}
    return Row(cell, outcome, reason, rounds, medians, may_rank)


def _unsupported(cell: Cell, reason: str) -> Row:
    return Row(cell, Outcome.UNSUPPORTED, reason, {}, {}, may_rank=False)


def _compared(table: Table) -> Iterator[tuple[Cell, Row]]:
    for batch_size in table.batch_sizes:
        rows = table.at(batch_size)
        against = table.medians(Cell(table.baseline, batch_size))
        others = [row for row in rows if row.may_rank and row.cell.strategy != table.baseline]
        speedups = [evidence.paired_ratio(against, row.medians) for row in others]
        judged = zip(others, speedups, evidence.family_verdicts(speedups), strict=True)
        yield from ((row.cell, row) for row in rows)
        yield from ((row.cell, replace(row, speedup=s, verdict=v if s else None)) for row, s, v in judged)


def pooled_percentiles(rounds: Iterable[Sequence[int]]) -> tuple[int | None, int | None]:
    """Return p90 and p99 (nearest rank) of all rounds' calls together, each only with enough calls."""
    pooled = sorted(value for samples in rounds for value in samples)
    p90, p99 = (
        pooled[-(-len(pooled) * percent // 100) - 1] if len(pooled) >= calls else None for percent, calls in MIN_CALLS
    )
    return p90, p99


MIN_CALLS = ((90, 64), (99, 662))
"""Calls that a percentile needs, so that with 99 % confidence it is not exceeded more often: MLPerf loadgen's early
stopping (loadgen/early_stopping.cc). The runner derives both numbers; a test holds the two together."""
