"""The answer in words and units, the same on the terminal, in the report and in the status."""

from __future__ import annotations

from collections.abc import Sequence

from inferbench_contract.evidence import Estimate
from inferbench_contract.expectations import Judged
from inferbench_contract.spec import Metric
from inferbench_contract.summary import Best, Summary
from inferbench_contract.words import Judgement, Verdict

NS_PER_UNIT = (("s", 1e9), ("ms", 1e6), ("µs", 1e3), ("ns", 1.0))
J_PER_UNIT = (("J", 1.0), ("mJ", 1e-3), ("µJ", 1e-6), ("nJ", 1e-9))


def duration(nanoseconds: float | None) -> str:
    """Write a duration with three digits: `45.1 ms`."""
    if nanoseconds is None:
        return "-"
    unit, size = _unit(nanoseconds)
    return f"{digits(nanoseconds / size)} {unit}"


def energy(joules: float | None) -> str:
    """Write an energy with three digits: `71.2 mJ`."""
    if joules is None:
        return "-"
    unit, size = _unit(joules, J_PER_UNIT)
    return f"{digits(joules / size)} {unit}"


def digits(value: float) -> str:
    """Write a number with three digits, and all digits before the point: 0.12, 4.56, 45.1, 812, 12,345."""
    if value >= 99.95:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"


def interval(low: float | None, high: float | None, unit_ns: float) -> str:
    """Write both ends in the unit of the value that stands before them; empty without an interval."""
    return "" if low is None or high is None else f"{digits(low / unit_ns)} to {digits(high / unit_ns)}"


def latency(estimate: Estimate | None) -> str:
    """Write a latency with its interval: `45.1 ms (44.0 to 46.2)`."""
    if estimate is None:
        return "-"
    ends = interval(estimate.low, estimate.high, _unit(estimate.value)[1])
    return f"{duration(estimate.value)} ({ends})" if ends else duration(estimate.value)


def ratio(estimate: Estimate | None) -> str:
    """Write a ratio with its interval: `1.31x (1.22 to 1.41)`."""
    if estimate is None:
        return "-"
    ends = interval(estimate.low, estimate.high, 1.0)
    return f"{digits(estimate.value)}x ({ends})" if ends else f"{digits(estimate.value)}x"


def spread(estimate: Estimate | None) -> str:
    """Write how far the interval reaches on its longer side: `±2.1%`; empty without an interval."""
    if estimate is None or estimate.low is None or estimate.high is None:
        return ""
    return f"±{percent(max(estimate.high / estimate.value, estimate.value / estimate.low) - 1)}"


def percent(share: float) -> str:
    """Write a share as a percentage with two digits: `14%`, `0.6%`; beyond tenfold nothing finer is worth telling."""
    value = 100 * share
    if value >= 1000:
        return ">1000%"
    return f"{value:.0f}%" if value >= 9.95 else f"{value:.1f}%"


def objective(summary: Summary) -> str:
    """Say what the objective asks for, and which cell it chooses."""
    limit = summary.objective.max_latency_microseconds
    if summary.objective.metric is Metric.LATENCY:
        size = summary.objective.batch_size or summary.table.batch_sizes[0]
        asked = f"lowest latency at batch {size}"
    else:
        asked = "highest throughput" + (f" within {duration(limit * 1000)} a batch" if limit else "")
    chosen = "nothing that was measured qualifies" if summary.answer is None else str(summary.answer.row.cell)
    return f"Objective ({asked}): {chosen}."


def answers(summary: Summary) -> tuple[str, ...]:
    """Say the answer at each batch size, one sentence each."""
    return tuple(f"Batch {size}: {answer(best)}" for size, best in sorted(summary.best.items()))


def answer(best: Best) -> str:
    """Say who is best, by how much and how sure; that it cannot be told is an answer too."""
    winner = str(best.row.cell.strategy)
    if best.runner_up is None:
        return f"only {winner} was measured, at {duration(_value(best.row.latency))}."
    other = str(best.runner_up.cell.strategy)
    if best.margin is None:
        return f"{winner} and {other} were not measured in the same round yet, which gives no verdict."
    if best.margin.low is None:
        return (
            f"{winner} was fastest in {_rounds(best.margin.rounds)}, which gives no verdict: measure at least 2 rounds."
        )
    if best.verdict is Verdict.FASTER:
        return f"{winner} is fastest, {ratio(best.margin)} as fast as {other}, the next.".replace("x (", " times (", 1)
    apart = percent(best.at_most_apart or 0)
    advice = _advice(best)
    if best.verdict is Verdict.TIE:
        return f"{winner} and {other} are the same: at most {apart} apart.{advice}"
    return f"{winner} and {other} are not distinguishable on this machine: at most {apart} apart.{advice}"


MAX_ADVISED_COST = 0.25
"""An interval this wide tells too little to choose by; what is simple may then be several times slower."""


def _advice(best: Best) -> str:
    """Name the simplest contender, and what choosing it may cost: that can be more than the runner-up would."""
    if best.simplest is None:
        return ""
    if best.simplest_margin is None or best.simplest_margin.high is None:
        return f" Take {best.simplest}: it is the simpler one too."
    cost = max(0.0, best.simplest_margin.high - 1)
    if cost > MAX_ADVISED_COST:
        return " That is too little to choose by: measure more rounds, or on a quieter machine."
    longer = f"it takes at most {percent(cost)} longer"
    return f" Take {best.simplest}, the simplest that cannot be told from the best: {longer}."


def expectation(judged: Judged) -> str:
    """Say what became of an expectation, and the ratio that decided."""
    if judged.missing:
        cells = ", ".join(map(str, judged.missing))
        return f"{judged.name}: undecided, there is no number for {cells}. ({judged.statement})"
    words = {Judgement.HOLDS: "holds", Judgement.DOES_NOT_HOLD: "does not hold", Judgement.UNDECIDED: "undecided"}
    what = f"{words[judged.judgement]}, the ratio at {judged.place} is {ratio(judged.ratio)}"
    return f"{judged.name}: {what}. ({judged.statement})"


def _unit(value: float, units: Sequence[tuple[str, float]] = NS_PER_UNIT) -> tuple[str, float]:
    """Choose the unit by the value as it will be written: 999,999 ns are 1.00 ms, not 1,000 µs."""
    return next((unit for unit in units if value >= 0.9995 * unit[1]), units[-1])


def _value(estimate: Estimate | None) -> float | None:
    return None if estimate is None else estimate.value


def _rounds(count: int) -> str:
    return "the only round" if count == 1 else f"{count} rounds"
