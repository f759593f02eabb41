"""summary -> charts: latency, throughput, speedup, rounds, spread of calls; of as much as a reader can look at."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

from inferbench_cli import charts
from inferbench_cli.charts import Axis, Caption, Dot, Line, Strip
from inferbench_cli.markup import Html
from inferbench_contract import sentences
from inferbench_contract.cells import Row, pooled_percentiles
from inferbench_contract.evidence import Estimate
from inferbench_contract.summary import UNCERTAIN, Summary
from inferbench_contract.words import Cell, Strategy

Samples = Mapping[tuple[Cell, int], Sequence[int]]
"""Every call of a cell in a round, in nanoseconds."""

MILLI = 1000
"""Throughputs are in thousandths of an input per second."""

LEAST_REACH = 0.02
"""Rounds are shown within ± 2 % at least, so that honest noise does not look like an event."""

NOTHING = sentences.ratio(None)
"""What stands where there is no number."""

FAR_APART = 2
"""Where a round takes more than this many times its strategy's mean, or as many times less, ratios are drawn instead of
percentages: twice as long is as far from the mean as half as long, and nothing is more than 100 % below it."""

BINS = 30
CALLS_SHOWN = (0.01, 0.98)
"""The quantiles of calls that a histogram ends at; what lies beyond is counted in its end bins."""

CALLS_REACH = ((-0.5, -0.02), (0.05, 1.0))
"""How far to the left and to the right of the median a histogram may end."""


@dataclass(frozen=True)
class Drawn:
    """What is drawn of a summary. The place of a strategy is its style in all charts."""

    summary: Summary
    samples: Samples
    strategies: tuple[Strategy, ...]
    sizes: tuple[int, ...]

    def rows(self, batch_size: int) -> Sequence[tuple[int, Row]]:
        """Return style and row of each strategy at a batch size, the quickest first."""
        found = [(i, self.summary.table.rows[Cell(s, batch_size)]) for i, s in enumerate(self.strategies)]
        return sorted(found, key=lambda entry: _nanoseconds(entry[1]))


def select(summary: Summary, samples: Samples, max_strategies: int, max_sizes: int) -> Drawn:
    """Choose what is drawn: the baseline, the winners, the next best; the ends and the middle of the batch sizes."""
    nearness: dict[Strategy, float] = {}
    for size, best in summary.best.items():
        for row in summary.table.at(size):
            share = _nanoseconds(row) / _nanoseconds(best.row)
            nearness[row.cell.strategy] = min(share, nearness.get(row.cell.strategy, share))
    ranked = [strategy for strategy in sorted(nearness, key=nearness.__getitem__) if math.isfinite(nearness[strategy])]
    ranked.sort(key=lambda strategy: strategy != summary.table.baseline)
    planned = dict.fromkeys(cell.strategy for cell in summary.table.rows)
    strategies = tuple(strategy for strategy in planned if strategy in ranked[:max_strategies])
    sizes = [size for size in sorted(summary.best) if any(_ranks(summary, Cell(each, size)) for each in strategies)]
    return Drawn(summary, samples, strategies, evenly(sizes, max_sizes))


def _ranks(summary: Summary, cell: Cell) -> bool:
    row = summary.table.rows[cell]
    return row.may_rank and row.latency is not None


def evenly(items: Sequence[int], count: int) -> tuple[int, ...]:
    """Take so many of the items: both ends, and others evenly between."""
    if len(items) <= count:
        return tuple(items)
    return tuple(items[round(i * (len(items) - 1) / max(1, count - 1))] for i in range(count))


def latency(drawn: Drawn) -> Sequence[Html]:
    """Draw the latencies at each batch size, from zero."""
    return [_latency(drawn, size) for size in drawn.sizes]


def speedup(drawn: Drawn) -> Sequence[Html]:
    """Draw the speedups over the baseline at each batch size, all on one axis."""
    every = [row.speedup for size in drawn.sizes for _, row in drawn.rows(size) if row.speedup is not None]
    if not every:
        return []
    lows, highs = [s.low for s in every if s.low is not None], [s.high for s in every if s.high is not None]
    axis = charts.ratios(lows, [s.value for s in every], highs, f"times as fast as {drawn.summary.table.baseline}")
    return [_speedup(drawn, size, axis) for size in drawn.sizes]


def throughput(drawn: Drawn) -> Sequence[Html]:
    """Draw the throughput over all batch sizes; rows of dots when there is only one."""
    sizes = drawn.summary.table.batch_sizes
    rows = [row for size in sizes for _, row in drawn.rows(size) if row.may_rank and row.throughput]
    estimates = [row.throughput for row in rows if row.throughput]
    if not estimates:
        return []
    highs = [estimate.high for estimate in estimates if estimate.high is not None]
    y = charts.quantity([estimate.value for estimate in estimates], highs, MILLI, "inputs per second")
    if len(sizes) == 1:
        return [_throughput_at(drawn, sizes[0], y)]
    x = charts.places([float(size) for size in sizes], "batch size", is_log=sizes[-1] > 4 * sizes[0])
    told = [f"{row.cell}: {inputs_per_second(row.throughput)}" for row in rows if row.cell.batch_size in drawn.sizes]
    caption = Caption(
        "throughput-all", "All batch sizes", "Throughput over batch size", f"Inputs per second. {'; '.join(told)}."
    )
    return [charts.lines(caption, [_throughput(drawn, i) for i in range(len(drawn.strategies))], x, y)]


def rounds(drawn: Drawn) -> Sequence[Html]:
    """Draw how far each round's median is from the strategy's own mean, at each batch size."""
    return [] if drawn.summary.plan.rounds == 1 else [_rounds(drawn, size) for size in drawn.sizes]


def calls(drawn: Drawn) -> Sequence[Html]:
    """Draw how the calls of all rounds spread around their median, at each batch size that has samples."""
    return [chart for size in drawn.sizes if (chart := _calls(drawn, size)) is not None]


def number_or_reason(row: Row, number: str) -> str:
    """Return the number, or the outcome that is the reason why there is none to compare."""
    return number if row.may_rank else str(row.outcome or "not measured yet")


def _latency(drawn: Drawn, size: int) -> Html:
    rows = drawn.rows(size)
    ranked = [row.latency for _, row in rows if row.may_rank and row.latency]
    values, highs = [e.value for e in ranked], [e.high for e in ranked if e.high is not None]
    name, unit = next(entry for entry in sentences.NS_PER_UNIT if max(values) >= entry[1])
    axis = charts.quantity(values, highs, unit, f"latency in {name}")
    dots = [_dot(style, row, row.latency, sentences.latency(row.latency)) for style, row in rows]
    caption = _caption("latency", size, f"Latency at batch size {size}", dots)
    return charts.dots(caption, dots, axis, None if axis.is_log else 0)


def _speedup(drawn: Drawn, size: int, axis: Axis) -> Html:
    dots = [
        replace(_dot(i, row, row.speedup, sentences.ratio(row.speedup)), is_open=row.verdict in UNCERTAIN)
        for i, row in drawn.rows(size)
        if row.cell.strategy != drawn.summary.table.baseline
    ]
    return charts.dots(_caption("speedup", size, f"Speedup at batch size {size}", dots), dots, axis, 1)


def _throughput(drawn: Drawn, style: int) -> Line:
    strategy = drawn.strategies[style]
    rows = [drawn.summary.table.rows[Cell(strategy, size)] for size in drawn.summary.table.batch_sizes]
    known = [(float(row.cell.batch_size), row.throughput if row.may_rank else None) for row in rows]
    bars = [(size, e.low, e.high) for size, e in known if e and e.low is not None and e.high is not None]
    return Line(style, tuple((size, e.value if e else None) for size, e in known), tuple(bars))


def _throughput_at(drawn: Drawn, size: int, axis: Axis) -> Html:
    dots = [_dot(i, row, row.throughput, inputs_per_second(row.throughput)) for i, row in drawn.rows(size)]
    caption = _caption("throughput", size, f"Throughput at batch size {size}", dots)
    return charts.dots(caption, dots, axis, None if axis.is_log else 0)


def inputs_per_second(throughput: Estimate | None) -> str:
    """Write a throughput with its interval: `812 (790 to 835)`."""
    if throughput is None:
        return NOTHING
    ends = sentences.interval(throughput, MILLI)
    return sentences.digits(throughput.value / MILLI) + (f" ({ends})" if ends else "")


def _rounds(drawn: Drawn, size: int) -> Html:
    rows = [(style, _ratios_by_round(row)) for style, row in drawn.rows(size) if row.may_rank]
    every = [ratio for _, ratios in rows for ratio in ratios.values()]
    is_far = max(every, default=1) > FAR_APART or min(every, default=1) < 1 / FAR_APART
    zero, y = (0, _times(every)) if is_far else (1, _percentages(every))
    numbers = range(drawn.summary.plan.rounds)
    lines = [Line(i, tuple((n + 1.0, r[n] - zero if n in r else None) for n in numbers)) for i, r in rows]
    x = charts.places([number + 1.0 for number in numbers], "round", is_log=False)
    told = [f"{drawn.strategies[style]} {_reach(ratios.values(), is_far=is_far)}" for style, ratios in rows]
    description = f"Each round's median over the strategy's mean, lowest to highest. {'; '.join(told)}."
    caption = Caption(f"rounds-{size}", f"Batch {size}", f"Rounds at batch size {size}", description)
    return charts.lines(caption, lines, x, y, origin=1 - zero)


def _ratios_by_round(row: Row) -> Mapping[int, float]:
    mean = row.latency.value if row.latency else 1
    return {round_: value / mean for round_, value in row.medians.items()}


def _times(every: Sequence[float]) -> Axis:
    return charts.ratios([], every, [], "median over its own mean, logarithmic")


def _percentages(every: Sequence[float]) -> Axis:
    low, high = min(1 - LEAST_REACH, *every) - 1, max(1 + LEAST_REACH, *every) - 1
    return charts.percentages(low, high, "median against its own mean")


def _reach(ratios: Collection[float], *, is_far: bool) -> str:
    low, high = min(ratios), max(ratios)
    if is_far:
        return f"{sentences.digits(low)}x to {sentences.digits(high)}x"
    return f"{100 * (low - 1):+.1f} to {100 * (high - 1):+.1f}%"


def _calls(drawn: Drawn, size: int) -> Html | None:
    """Draw histograms of calls as shares of their median, on one axis, so that their widths can be compared."""
    pooled = {i: (row, calls) for i, row in drawn.rows(size) if row.may_rank and (calls := _pooled(drawn, row))}
    if not pooled:
        return None
    axis = _axis_of_calls([calls for _, calls in pooled.values()])
    strips = [_strip(i, row, calls, axis) for i, (row, calls) in pooled.items()]
    return charts.strips(_caption("calls", size, f"Spread of calls at batch size {size}", strips), strips, axis)


def _pooled(drawn: Drawn, row: Row) -> Sequence[int]:
    kept = (drawn.samples.get((row.cell, round_), ()) for round_ in row.medians)
    return sorted(call for calls in kept for call in calls if call > 0)


def _axis_of_calls(pooled: Sequence[Sequence[int]]) -> Axis:
    (lowest, low), (high, highest) = CALLS_REACH
    ends = [[calls[round(q * (len(calls) - 1))] / median(calls) - 1 for calls in pooled] for q in CALLS_SHOWN]
    return charts.percentages(
        max(lowest, min(low, *ends[0])), min(highest, max(high, *ends[1])), "a call against the median of all calls"
    )


def _strip(style: int, row: Row, calls: Sequence[int], axis: Axis) -> Strip:
    middle = median(calls)
    counts = Counter(min(BINS - 1, int(BINS * axis.share(call / middle - 1))) for call in calls)
    bins = tuple(counts[i] / max(counts.values()) for i in range(BINS))
    p90, p99 = pooled_percentiles([calls])
    told = [sentences.duration(middle), *(f"p{n} {sentences.duration(p)}" for n, p in ((90, p90), (99, p99)) if p)]
    return Strip(style, str(row.cell.strategy), ", ".join(told), bins)


def _dot(style: int, row: Row, estimate: Estimate | None, text: str) -> Dot:
    label, text = str(row.cell.strategy), number_or_reason(row, text)
    if not row.may_rank or estimate is None:
        return Dot(style, label, text, None)
    return Dot(style, label, text, estimate.value, estimate.low, estimate.high)


def _caption(kind: str, size: int, title: str, rows: Iterable[Dot | Strip]) -> Caption:
    told = "; ".join(f"{row.label}: {row.text}" for row in rows)
    return Caption(f"{kind}-{size}", f"Batch {size}", title, f"{told}.")


def _nanoseconds(row: Row) -> float:
    return row.latency.value if row.may_rank and row.latency else math.inf
