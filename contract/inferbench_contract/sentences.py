"""The answer in words and units, the same on the terminal, in the report and in the status."""

from __future__ import annotations

from collections.abc import Sequence

from inferbench_contract.accuracy import MIN_EXAMPLES_FOR_TOP1
from inferbench_contract.cells import Row
from inferbench_contract.evidence import Estimate
from inferbench_contract.expectations import Judged
from inferbench_contract.result import CellResult
from inferbench_contract.spec import Metric, OnViolation
from inferbench_contract.status import Seconds
from inferbench_contract.summary import UNCERTAIN, Best, Summary
from inferbench_contract.words import Judgement, Precision, Strategy, Verdict

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
    """Write a number with three digits, and all digits before the point: 0.12, 4.56, 45.1, 812, 12,345.

    What is too small for them is no zero.
    """
    if 0 < value < 0.005:
        return "<0.01"
    if value >= 99.95:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"


def counted(number: int, name: str, plural: str = "s") -> str:
    """Write `1 round`, `4 rounds`."""
    return f"{number} {name}" if number == 1 else f"{number} {name}{plural}"


MAX_REACH = 1000
"""Times the value, or as many times less: where an interval ends farther away says nothing but that it is far away."""


def interval(estimate: Estimate, unit: float) -> str:
    """Write both ends in the unit of the value that stands before them: `44.0 to 46.2`; empty without an interval."""
    if estimate.low is None or estimate.high is None:
        return ""
    if _reach(estimate) > MAX_REACH:
        return f"±>{MAX_REACH}x"
    return f"{digits(estimate.low / unit)} to {digits(estimate.high / unit)}"


def _reach(estimate: Estimate) -> float:
    """Return how many times larger or smaller than the value the farther end of the interval is; 1 without one."""
    if estimate.low is None or estimate.high is None:
        return 1.0
    return max(estimate.high / estimate.value, estimate.value / estimate.low)


def latency(estimate: Estimate | None) -> str:
    """Write a latency with its interval: `45.1 ms (44.0 to 46.2)`."""
    if estimate is None:
        return "-"
    ends = interval(estimate, _unit(estimate.value)[1])
    return f"{duration(estimate.value)} ({ends})" if ends else duration(estimate.value)


def ratio(estimate: Estimate | None) -> str:
    """Write a ratio with its interval: `1.31x (1.22 to 1.41)`."""
    if estimate is None:
        return "-"
    ends = interval(estimate, 1.0)
    return f"{digits(estimate.value)}x ({ends})" if ends else f"{digits(estimate.value)}x"


def spread(estimate: Estimate | None) -> str:
    """Write how far the interval reaches on its longer side: `±2.1%`; empty without an interval."""
    return "" if estimate is None or estimate.low is None else f"±{percent(_reach(estimate) - 1)}"


MAX_SPREAD = 0.5
"""Beyond this a ± misleads: the interval is one of factors, so ±60% is from 0.63 to 1.6 and not from 0.4."""


def short_latency(estimate: Estimate | None) -> str:
    """Write a latency as tables have it: `45.1 ms ±2.1%`; a wide interval by its ends."""
    return latency(estimate) if _is_wide(estimate) else f"{duration(_value(estimate))} {spread(estimate)}"


def short_ratio(estimate: Estimate | None) -> str:
    """Write a ratio as tables have it: `1.31x ±7.5%`; a wide interval by its ends."""
    if estimate is None or _is_wide(estimate):
        return ratio(estimate)
    return f"{digits(estimate.value)}x {spread(estimate)}"


def _is_wide(estimate: Estimate | None) -> bool:
    return estimate is not None and _reach(estimate) - 1 > MAX_SPREAD


def percent(share: float) -> str:
    """Write a share as a percentage with two digits: `14%`, `0.6%`; beyond tenfold nothing finer is worth telling."""
    value = 100 * share
    if value >= 1000:
        return ">1000%"
    return f"{value:.0f}%" if value >= 9.95 else f"{value:.1f}%"


def spent(found: Seconds) -> str:
    """Say where the time went, most of it first; empty where nobody knows.

    Without the time between sweeps: in a run that was interrupted it is somebody's night.
    """
    parts = {
        "measuring": found.measuring,
        "warming up": found.warming_up,
        "loading, converting and compiling": found.preparing,
        "starting, checking and ending processes": found.other,
    }
    if (whole := sum(parts.values())) == 0:
        return ""
    largest_first = sorted(parts.items(), key=lambda part: -part[1])
    told = (f"{percent(seconds / whole)} {name}" for name, seconds in largest_first if seconds)
    return f"Took {minutes(whole)}: {', '.join(told)}."


def minutes(seconds: int) -> str:
    """Write a time of seconds or hours in its two largest units: `2 min 48 s`."""
    whole_minutes, rest = divmod(seconds, 60)
    hours, of_an_hour = divmod(whole_minutes, 60)
    parts = [f"{number} {unit}" for number, unit in ((hours, "h"), (of_an_hour, "min"), (rest, "s")) if number]
    return " ".join(parts[:2]) or "0 s"


def objective(summary: Summary) -> str:
    """Say what the objective asks for, and which cell it chooses."""
    limit = summary.objective.max_latency_microseconds
    if summary.objective.metric is Metric.LATENCY:
        size = summary.objective.batch_size or summary.table.batch_sizes[0]
        asked = f"lowest latency at batch {size}"
    else:
        asked = "highest throughput" + (f" within {duration(limit * 1000)} a batch" if limit else "")
    best = summary.answer
    chosen = "nothing that was measured qualifies" if best is None else f"{best.row.cell}{_reservation(best)}"
    return f"Objective ({asked}): {chosen}."


def _reservation(best: Best) -> str:
    """Say what the answer at this batch size says of the winner, where that is not that it is the fastest."""
    if best.runner_up is None or best.margin is None or best.margin.low is None or best.verdict not in UNCERTAIN:
        return ""
    other = best.runner_up.cell.strategy
    same = f", the same as {other}" if best.verdict is Verdict.TIE else f", not distinguishable from {other}"
    taken = recommended(best)
    return same if taken in (None, best.row.cell.strategy) else f"{same}; take {taken}, which is simpler"


def answers(summary: Summary) -> tuple[str, ...]:
    """Say the answer at each batch size, one sentence each."""
    return tuple(f"Batch {size}: {answer(best)}" for size, best in sorted(summary.best.items()))


def answer(best: Best) -> str:
    """Say who is best, by how much and how sure, and what it lost; that it cannot be told is an answer too."""
    return f"{_best(best)}{_disagreement(best.row)}"


def _best(best: Best) -> str:
    winner = str(best.row.cell.strategy)
    if best.runner_up is None:
        return f"only {winner} was measured, at {duration(_value(best.row.latency))}."
    other = str(best.runner_up.cell.strategy)
    if best.margin is None:
        return f"{winner} and {other} were not measured in the same round yet, which is Inconclusive."
    if best.margin.low is None:
        return f"{winner} was fastest in the only round that has both, which is Inconclusive: measure at least 2."
    if best.verdict is Verdict.FASTER:
        return f"{winner} is fastest, {ratio(best.margin)} as fast as {other}, the next.".replace("x (", " times (", 1)
    apart = best.at_most_apart or 0.0
    if apart > MAX_ADVISED_COST:
        longer = f"one may take {_up_to(1 + apart)} times as long as the other"
        return f"{winner} and {other} cannot be told apart by these rounds: {longer}. {MEASURE_MORE}"
    same = "the same" if best.verdict is Verdict.TIE else "not distinguishable on this machine"
    return f"{winner} and {other} are {same}: at most {percent(apart)} apart.{_advice(best)}"


def _disagreement(row: Row) -> str:
    """Say how often the winner chooses as fp32 does, where that is not always, or that this was not judged."""
    agreed, compared = row.agreement_basis_points, row.compared
    if compared is None or agreed == ALL_AGREE:
        return ""
    if agreed is None:
        return _unjudged(row, compared)
    images = f"{compared.compared_examples} images"
    return f" {row.cell.strategy} agrees with the fp32 reference on {_agreement(agreed)} of {images}."


def _unjudged(row: Row, compared: CellResult) -> str:
    """Say so where first choices mean something and were too few, or where the benchmark has a limit for them."""
    chooses = row.is_trained and compared.top1_agreement_basis_points is not None
    is_exact = row.cell.strategy.precision is Precision.FP32
    if compared.compared_examples is None or not (row.has_own_limit or (chooses and not is_exact)):
        return ""
    why = f"{MIN_EXAMPLES_FOR_TOP1} are needed to judge its top-1 agreement"
    if not chooses:
        why = f"accuracy.minTop1Agreement was not judged, because {_without_choice(row)}"
    return f" {row.cell.strategy} was compared with fp32 on {compared.compared_examples} examples; {why}."


def _without_choice(row: Row) -> str:
    """Say why first choices mean nothing."""
    if not row.is_trained:
        return "the first choices of random weights mean nothing"
    return "fp32 itself chooses one class for all of them, or none"


def violations(summary: Summary) -> str:
    """Say that inaccurate cells count as failed, which bears on the exit status; empty where none does."""
    counts, allowed = summary.counts, summary.max_failed_cells
    if summary.on_violation is not OnViolation.FAIL or not counts.inaccurate:
        return ""
    count = "is Inaccurate and onViolation is Fail: it counts"
    if counts.inaccurate > 1:
        count = "are Inaccurate and onViolation is Fail: they count"
    beside = f" beside {counted(counts.failed, 'other')}" if counts.failed else ""
    return f"{counted(counts.inaccurate, 'cell')} {count} as failed{beside}; maxFailedCells is {allowed}."


def tells_accuracy(row: Row) -> bool:
    """Tell whether a cell's accuracy is worth a column: what is fp32 anyway has nothing to lose."""
    return row.compared is not None and row.cell.strategy.precision is not Precision.FP32


def accuracy(row: Row) -> str:
    """Write how near to fp32 a cell stays: `top-1 99.2%` where its first choices were judged, else `L2 0.3%`."""
    compared, agreed = row.compared, row.agreement_basis_points
    if compared is None:
        return "-"
    return _relative_l2(compared) if agreed is None else f"top-1 {_agreement(agreed)}"


def full_accuracy(row: Row) -> str:
    """Write it with all that was compared: `top-1 99.2% (L2 3.1%, lowest cosine 0.9981)`."""
    compared = row.compared
    if compared is None:
        return "-"
    cosine = compared.worst_cosine_parts_per_million
    also = [
        _relative_l2(compared) if row.agreement_basis_points is not None else "",
        "" if cosine is None else f"lowest cosine {cosine // 100 / 10_000:.4f}",
    ]
    details = ", ".join(filter(None, also))
    return f"{accuracy(row)} ({details})" if details else accuracy(row)


ALL_AGREE = 10_000
"""Basis points."""

LEAST_L2 = 0.0005
"""Less is written as `<0.1%`: what is left of an fp32 that sums in another order says nothing."""


def _agreement(basis_points: int) -> str:
    """Write an agreement rounded down: 99.99 % is not all of them."""
    return "100%" if basis_points == ALL_AGREE else f"{basis_points // 10 / 10:.1f}%"


def _relative_l2(compared: CellResult) -> str:
    share = (compared.relative_l2_parts_per_billion or 0) / 1e9
    return f"L2 {percent(share) if share >= LEAST_L2 else '<0.1%'}"


MAX_ADVISED_COST = 0.25
"""An interval this wide tells too little to choose by; what is simple may then be several times slower. Two that are
25 % apart are told apart by four rounds of a machine with 5 % from process to process (README.md)."""

MEASURE_MORE = "Measure more rounds, or on a quieter machine."


def recommended(best: Best) -> Strategy | None:
    """Return the simplest contender, where choosing it is known to cost little; None where nothing is advised."""
    if best.simplest is None or (best.at_most_apart or 0.0) > MAX_ADVISED_COST or _cost(best) > MAX_ADVISED_COST:
        return None
    return best.simplest


def _cost(best: Best) -> float:
    """Return how much longer than the winner the simplest contender may take, as a share."""
    margin = best.simplest_margin
    return 0.0 if margin is None or margin.high is None else max(0.0, margin.high - 1)


def _advice(best: Best) -> str:
    """Name the simplest contender, and what choosing it may cost: that can be more than the runner-up would."""
    if best.simplest is None:
        return ""
    if recommended(best) is None:
        return f" {best.simplest} is simpler, and may take {_up_to(1 + _cost(best))} times as long. {MEASURE_MORE}"
    if best.simplest_margin is None:
        return f" Take {best.simplest}: it is the simpler one too."
    longer = f"it takes at most {percent(_cost(best))} longer"
    return f" Take {best.simplest}, the simplest that cannot be told from the best: {longer}."


def _up_to(factor: float) -> str:
    return f"over {MAX_REACH}" if factor > MAX_REACH else f"up to {digits(factor)}"


def expectation(judged: Judged) -> str:
    """Say what became of an expectation, and the ratio that decided."""
    if judged.missing:
        cells = ", ".join(map(str, judged.missing))
        return f"{judged.name}: undecided, there is no number for {cells}. ({judged.statement})"
    words = {Judgement.HOLDS: "holds", Judgement.DOES_NOT_HOLD: "does not hold", Judgement.UNDECIDED: "undecided"}
    what = f"{words[judged.judgement]}, the ratio at {judged.place} is {ratio(judged.ratio)}"
    if judged.one_of > 1:
        what += f", which by itself would fail it; as one of {judged.one_of} ratios it has to be surer"
    return f"{judged.name}: {what}. ({judged.statement})"


def _unit(value: float, units: Sequence[tuple[str, float]] = NS_PER_UNIT) -> tuple[str, float]:
    """Choose the unit by the value as it will be written: 999,999 ns are 1.00 ms, not 1,000 µs."""
    return next((unit for unit in units if value >= 0.9995 * unit[1]), units[-1])


def _value(estimate: Estimate | None) -> float | None:
    return None if estimate is None else estimate.value
