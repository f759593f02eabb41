"""rows -> the answer: the best strategy at each batch size, by how much, how sure, and what the expectations came to.

Its document is what local mode writes as summary.json and the operator as `status.summary`, byte for byte: at most
8 kB, integers with their unit in the name.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from inferbench_contract import cells, evidence, expectations
from inferbench_contract.cells import Row, Table
from inferbench_contract.evidence import Estimate, milli, whole
from inferbench_contract.expectations import Judged
from inferbench_contract.plan import Plan
from inferbench_contract.result import SweepResult, cut_in_the_middle
from inferbench_contract.spec import BenchmarkSpec, InferenceBenchmark, Metric, Objective, OnViolation
from inferbench_contract.status import CellCounts, Seconds
from inferbench_contract.words import FAILED_OUTCOMES, Judgement, Outcome, Strategy, Verdict

SCHEMA_VERSION = 1

MAX_BYTES = 7_000
"""The status may have 8 kB; conditions and counters need about one."""

MAX_FAILURES = 5
MAX_REASON_BYTES = 200
MAX_HARDWARE = 4
MAX_HARDWARE_BYTES = 100

UNCERTAIN = frozenset({Verdict.TIE, Verdict.INCONCLUSIVE})


@dataclass(frozen=True)
class Best:
    """The winner at one batch size. `margin` is the runner-up's latency over the winner's."""

    row: Row
    runner_up: Row | None
    margin: Estimate | None
    verdict: Verdict | None
    """Of the winner against the runner-up; None without a runner-up."""
    simplest: Strategy | None
    """Named when the winner cannot be told from the runner-up: the simplest of those that it cannot be told from."""
    simplest_margin: Estimate | None = None
    """Its latency over the winner's; None when it is the winner itself."""

    @property
    def at_most_apart(self) -> float | None:
        """How far apart the winner and the runner-up can be, as a share; None without an interval."""
        if self.margin is None or self.margin.low is None or self.margin.high is None:
            return None
        return max(self.margin.high, 1 / self.margin.low) - 1


@dataclass(frozen=True)
class Summary:
    """The answer, with all that the terminal, the report and the status show of it."""

    plan: Plan
    table: Table
    best: Mapping[int, Best]
    """By batch size; a batch size at which nothing was measured is not there."""
    objective: Objective
    answer: Best | None
    """The objective's choice; None when nothing qualifies."""
    judged: tuple[Judged, ...]
    counts: CellCounts
    sweeps_finished: int
    hardware: tuple[str, ...]
    environments: int
    """How many different environments the results come from: more than one, and numbers are not comparable."""
    spent: Seconds
    on_violation: OnViolation
    max_failed_cells: int

    @property
    def is_complete(self) -> bool:
        """Tell whether every cell has an outcome in every round."""
        return self.sweeps_finished == len(self.plan.sweeps)

    @property
    def has_measurements(self) -> bool:
        """Tell whether any cell has a latency, were it an inaccurate one's."""
        return any(row.medians for row in self.table.rows.values())

    def document(self) -> dict[str, Any]:
        """Return the bounded JSON document, keys in a fixed order."""
        return _fitted(self)

    def dump(self) -> str:
        """Write the document as JSON, indented, with a final newline."""
        return json.dumps(self.document(), indent=1, ensure_ascii=True) + "\n"


def summarize(benchmark: InferenceBenchmark, plan: Plan, results: Iterable[SweepResult]) -> Summary:
    """Summarise what is there so far; more results only add to it, and their order does not matter."""
    spec = benchmark.spec
    results = _distinct(results)
    reports = spec.accuracy.on_violation is OnViolation.REPORT
    table = cells.tabulate(plan, results, spec.baseline_strategy, rank_inaccurate=reports)
    best = {size: found for size in table.batch_sizes if (found := _best(table.at(size))) is not None}
    return Summary(
        plan=plan,
        table=table,
        best=best,
        objective=spec.objective,
        answer=_answer(spec, best, table),
        judged=tuple(expectations.judge(expectation, table) for expectation in spec.expectations),
        counts=_counts(table),
        sweeps_finished=_finished(plan, results),
        hardware=tuple(sorted({result.hardware for result in results if result.hardware})),
        environments=len({result.fingerprint for result in results if result.fingerprint}),
        spent=_spent(results),
        on_violation=spec.accuracy.on_violation,
        max_failed_cells=spec.max_failed_cells,
    )


def _distinct(results: Iterable[SweepResult]) -> tuple[SweepResult, ...]:
    """Leave out what is there twice. Hashing every number of every cell is spared where no sweep is there twice."""
    given = tuple(results)
    return given if len({result.sweep for result in given}) == len(given) else tuple(dict.fromkeys(given))


def failed_cells(summary: Summary, spec: BenchmarkSpec) -> int:
    """Count the cells that weigh against `maxFailedCells`."""
    fails = spec.accuracy.on_violation is OnViolation.FAIL
    return summary.counts.failed + (summary.counts.inaccurate if fails else 0)


def _best(rows: Sequence[Row]) -> Best | None:
    ranked = _ranked([row for row in rows if row.may_rank and row.medians])
    if not ranked:
        return None
    winner, others = ranked[0], ranked[1:]
    margins = [evidence.paired_ratio(row.medians, winner.medians) for row in others]
    verdicts = evidence.family_verdicts(margins)
    if not others:
        return Best(winner, None, None, None, None)
    contenders = [row for row, m, v in zip(others, margins, verdicts, strict=True) if m and m.low and v in UNCERTAIN]
    simplest = _simplest(winner, contenders, margins[0], verdicts[0])
    to_simplest = next((m for row, m in zip(others, margins, strict=True) if row.cell.strategy == simplest), None)
    return Best(winner, others[0], margins[0], verdicts[0], simplest, to_simplest)


def _ranked(rows: Sequence[Row]) -> Sequence[Row]:
    """Order rows by latency, the lowest first; equal latencies go to the simpler strategy.

    Rounds have a drift of their own, so a row that lacks some is placed by the rounds that it shares with the row that
    has most. Where no round is missing this is the order of the latencies.
    """
    yardstick = max(rows, key=lambda row: len(row.medians), default=None)

    def place(row: Row) -> tuple[float, tuple[int, int]]:
        ratio = None if yardstick is None else evidence.mean_log_ratio(row.medians, yardstick.medians)
        return float("inf") if ratio is None else ratio, row.cell.strategy.simplicity

    return sorted(rows, key=place)


def _simplest(winner: Row, contenders: Sequence[Row], margin: Estimate | None, verdict: Verdict) -> Strategy | None:
    """Name nothing after one round: there is no verdict, so everything would be a contender."""
    if verdict not in UNCERTAIN or margin is None or margin.low is None:
        return None
    return min((row.cell.strategy for row in (winner, *contenders)), key=lambda strategy: strategy.simplicity)


def _answer(spec: BenchmarkSpec, best: Mapping[int, Best], table: Table) -> Best | None:
    """Choose by the objective: the winner at its batch size, or the highest throughput that is quick enough."""
    if spec.objective.metric is Metric.LATENCY:
        return best.get(spec.objective.batch_size or min(spec.batch_sizes))
    limit = spec.objective.max_latency_microseconds
    fast_enough = [
        row
        for row in table.rows.values()
        if row.may_rank and row.latency and row.throughput and (limit is None or row.latency.value <= limit * 1000)
    ]
    if not fast_enough:
        return None
    winner = max(
        fast_enough,
        key=lambda row: (row.throughput.value if row.throughput else 0, [-s for s in row.cell.strategy.simplicity]),
    )
    at_size = best[winner.cell.batch_size]
    return at_size if at_size.row is winner else Best(winner, None, None, None, None)


def _counts(table: Table) -> CellCounts:
    outcomes = Counter(row.outcome for row in table.rows.values())
    return CellCounts(
        planned=len(table.rows),
        measured=outcomes[Outcome.MEASURED],
        unsupported=outcomes[Outcome.UNSUPPORTED],
        inaccurate=outcomes[Outcome.INACCURATE],
        failed=sum(outcomes[outcome] for outcome in FAILED_OUTCOMES),
        missing=outcomes[None],
    )


def _finished(plan: Plan, results: Sequence[SweepResult]) -> int:
    measured = {(result.sweep, cell.batch_size) for result in results for cell in result.cells}
    return sum(all((sweep.index, size) in measured for size in sweep.batch_sizes) for sweep in plan.sweeps)


def _spent(results: Sequence[SweepResult]) -> Seconds:
    timed = [r for r in results if r.started_ms is not None and r.finished_ms is not None]
    wall = max((r.finished_ms or 0 for r in timed), default=0) - min((r.started_ms or 0 for r in timed), default=0)
    parts = [sum(part) for part in zip((0, 0, 0, 0), *map(_parts_ms, timed), strict=True)]
    told = (round(max(0, ms) / 1000) for ms in (*parts, wall - sum(parts)))
    return Seconds(**dict(zip(("preparing", "warming_up", "measuring", "other", "idle"), told, strict=True)))


def _parts_ms(result: SweepResult) -> tuple[int, int, int, int]:
    """Return how long a sweep prepared, warmed up, measured, and did anything else.

    Calls that take longer than the sweep lasted are a script's (the backend `fake`), and nobody waited for them.
    """
    inside = (result.finished_ms or 0) - (result.started_ms or 0)
    preparing = (result.prepare_ms or 0) + sum(cell.prepare_ms or 0 for cell in result.cells)
    warming_up = sum(cell.warmup_ms or 0 for cell in result.cells)
    measuring = sum(cell.measure_ms or 0 for cell in result.cells)
    if warming_up + measuring > inside:
        return 0, 0, 0, inside
    return preparing, warming_up, measuring, inside - preparing - warming_up - measuring


def _fitted(summary: Summary) -> dict[str, Any]:
    """Shorten what matters least until the document fits: entries become brief, then the last of them go."""
    sizes = _most_telling_first(summary)
    judged = list(summary.judged)
    full, brief, told = len(sizes), len(sizes), len(judged)
    while (
        len(json.dumps(document := _document(summary, sizes[:full], sizes[:brief], judged[:told]), indent=1))
        > MAX_BYTES
    ):
        if full > 1:
            full -= 1
        elif brief > 1 and brief >= told // 2:
            brief -= 1
        elif told:
            told -= 1
        else:
            break
    return document


def _most_telling_first(summary: Summary) -> list[int]:
    """Order batch sizes by what a reader wants to keep: the answer's, the ends, then evenly inwards."""
    sizes = sorted(summary.best)
    chosen = [summary.answer.row.cell.batch_size] if summary.answer else []
    step = len(sizes)
    while step >= 1:
        chosen += [*sizes[::step], *sizes[-1:]]
        step //= 2
    return list(dict.fromkeys(size for size in chosen if size in summary.best))


def _document(summary: Summary, full: Sequence[int], told: Sequence[int], judged: Sequence[Judged]) -> dict[str, Any]:
    plan = summary.plan
    return {
        "schemaVersion": SCHEMA_VERSION,
        "plan": plan.short_hash,
        "rounds": plan.rounds,
        "sweeps": {"planned": len(plan.sweeps), "finished": summary.sweeps_finished},
        "cells": summary.counts.model_dump(by_alias=True),
        "baseline": str(summary.table.baseline),
        "answer": None if summary.answer is None else str(summary.answer.row.cell),
        "best": [_entry(summary.best[size], brief=size not in full) for size in sorted(told)],
        "bestOmitted": len(summary.best) - len(told),
        "expectations": [expectations.document(entry) for entry in judged],
        "expectationsOmitted": len(summary.judged) - len(judged),
        "expectationsUndecided": sum(entry.judgement is Judgement.UNDECIDED for entry in summary.judged),
        "expectationsNotHolding": sum(entry.judgement is Judgement.DOES_NOT_HOLD for entry in summary.judged),
        "firstFailures": _first_failures(summary.table),
        "hardware": [_cut_as_json(name, MAX_HARDWARE_BYTES) for name in summary.hardware[:MAX_HARDWARE]],
        "environments": summary.environments,
        "seconds": summary.spent.model_dump(by_alias=True),
    }


def _entry(best: Best, *, brief: bool) -> dict[str, Any]:
    row = best.row
    short = {
        "batchSize": row.cell.batch_size,
        "strategy": str(row.cell.strategy),
        **_interval("speedup", row.speedup, milli),
    }
    if brief:
        return {key: value for key, value in short.items() if key in {"batchSize", "strategy", "speedupMilli"}}
    entry = {
        **short,
        "speedupVerdict": row.verdict,
        "latencyNanoseconds": whole(row.latency.value if row.latency else None),
        "latencyLowNanoseconds": whole(row.latency.low if row.latency else None),
        "latencyHighNanoseconds": whole(row.latency.high if row.latency else None),
        "throughputMilliPerSecond": whole(row.throughput.value if row.throughput else None),
        "runnerUp": None if best.runner_up is None else str(best.runner_up.cell.strategy),
        **_interval("margin", best.margin, milli),
        "marginVerdict": best.verdict,
        "simplest": None if best.simplest is None else str(best.simplest),
        "simplestHighMilli": milli(best.simplest_margin.high if best.simplest_margin else None),
        "rounds": len(row.medians),
        "doubts": list(row.lasting_doubts),
    }
    return {key: value for key, value in entry.items() if value is not None and value != []}


def _interval(
    name: str, estimate: Estimate | None, unit: Callable[[float | None], int | None]
) -> dict[str, int | None]:
    if estimate is None:
        return {}
    values = (estimate.value, estimate.low, estimate.high)
    return {f"{name}{part}Milli": unit(value) for part, value in zip(("", "Low", "High"), values, strict=True)}


def _first_failures(table: Table) -> list[dict[str, str]]:
    bad = (*FAILED_OUTCOMES, Outcome.INACCURATE)
    failures = [row for row in table.rows.values() if row.outcome in bad]
    return [
        {"cell": str(row.cell), "outcome": str(row.outcome), "reason": _cut_as_json(row.reason, MAX_REASON_BYTES)}
        for row in failures[:MAX_FAILURES]
    ]


def _cut_as_json(text: str, limit: int) -> str:
    """Cut a text in the middle until it takes no more than `limit` bytes as JSON, where many a letter takes six."""
    chars = limit
    while len(json.dumps(cut := cut_in_the_middle(text, chars))) > limit:
        chars = chars * 7 // 8
    return cut
