"""The report: one HTML file that needs nothing else, for people who were not there.

Pure: strings from values. `figures` chooses what is drawn, `charts` draws, `markup` escapes, `report.css` is the look.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import resources
from typing import Any

from inferbench_cli import charts, figures, method
from inferbench_cli.figures import NOTHING, Drawn
from inferbench_cli.markup import Html, join, table, tag
from inferbench_contract import doubts, sentences
from inferbench_contract.cells import WORST_FIRST, Row
from inferbench_contract.expectations import Judged
from inferbench_contract.result import cut_in_the_middle
from inferbench_contract.spec import BenchmarkSpec, InferenceBenchmark, Metric
from inferbench_contract.summary import UNCERTAIN, Best, Summary
from inferbench_contract.words import Cell, Doubt, Judgement, Outcome, Strategy, Verdict

MAX_BYTES = 100_000
"""What a mail takes without a thought, and a phone without a wait."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How much of everything a page shows."""

    strategies: int
    panels: int
    rows: int
    items: int
    chars: int


LEVELS = (
    Limits(strategies=8, panels=6, rows=1_000, items=64, chars=600),
    Limits(strategies=8, panels=4, rows=1_000, items=64, chars=300),
    Limits(strategies=6, panels=3, rows=1_000, items=40, chars=200),
    Limits(strategies=4, panels=2, rows=1_000, items=30, chars=160),
    Limits(strategies=3, panels=2, rows=220, items=20, chars=120),
    Limits(strategies=4, panels=2, rows=120, items=20, chars=100),
    Limits(strategies=3, panels=1, rows=30, items=10, chars=80),
)
"""Tried in this order until a page fits. The last always does: a character takes at most six bytes."""

JUDGEMENTS = {Judgement.HOLDS: "Holds", Judgement.DOES_NOT_HOLD: "Does not hold", Judgement.UNDECIDED: "Undecided"}

ACCURACY = "vs fp32"
"""Heads the column of distances, as on the terminal."""

CLOCK = "SM clock"
"""Heads the median clock of a GPU during the timed calls, in the middle one of the rounds."""

VERDICT = "vs baseline"
"""Heads the column of verdicts on strategies, as on the terminal; it says of whom they are."""

GAPS_IN_ORDER = (*WORST_FIRST, None)

MAX_LISTED = 6
MAX_WORD = 60
"""Of a reason in the table of all cells: its first word, which the failures above explain."""

READING = (
    (
        "A latency is the time of one synchronised call on a whole batch, as the geometric mean of the rounds' "
        "medians; the interval behind it comes from the spread of rounds, each a fresh process, never of calls."
    ),
    (
        "A speedup is the baseline's latency over the strategy's, paired round by round, so that what slows the "
        "machine for both does not count: do not compare two latency intervals by eye, the verdict does that."
    ),
    (
        "Faster and Slower hold at the 95% level for all strategies of a batch size together (Holm); a Tie is "
        "within 1% for sure; Inconclusive is neither, and more rounds or a quieter machine can decide it. A single "
        "round decides nothing."
    ),
)

READING_ENERGY = (
    "The energy of an input is that of the whole GPU, what it takes when idle included, over the inputs of the same "
    "seconds, with calls back to back; what else ran on the GPU is in it too."
)

READING_ACCURACY = (
    "Under vs fp32 stands how near the answers stay to those of the fp32 reference: for how many of the images the "
    "first choice is the same (top-1), where the weights are trained; the norm of the difference over that of the "
    "reference (L2), over all examples; and the cosine of the example where it is lowest."
)

OPEN_ROWS = 60
OPEN_SIZES = 10
"""A longer table of cells is folded, and so are the sentences on more batch sizes."""


@dataclass(frozen=True)
class View:
    """All that a page is made of."""

    benchmark: InferenceBenchmark
    summary: Summary
    environment: Mapping[str, Any]
    samples: figures.Samples
    limits: Limits

    @property
    def spec(self) -> BenchmarkSpec:
        """What was asked."""
        return self.benchmark.spec

    @cached_property
    def drawn(self) -> Drawn:
        """What the charts show."""
        return figures.select(self.summary, self.samples, self.limits.strategies, self.limits.panels)

    @cached_property
    def has_energy(self) -> bool:
        """Whether a GPU counted the energy of some cell; without it nothing is said of energy."""
        return any(row.energy_joules is not None for row in self.summary.table.rows.values())

    @cached_property
    def has_accuracy(self) -> bool:
        """Whether something else than fp32 was compared with it; without that its accuracy is no question."""
        return any(sentences.tells_accuracy(row) for row in self.summary.table.rows.values())

    @cached_property
    def has_clock(self) -> bool:
        """Whether the clock of a GPU was read meanwhile."""
        return any(row.middle("sm_clock_mhz") is not None for row in self.summary.table.rows.values())

    @property
    def told_sizes(self) -> tuple[int, ...]:
        """The batch sizes that the answer names."""
        return figures.evenly(sorted(self.summary.best), self.limits.items)

    def cut(self, text: object) -> str:
        """Shorten a text from outside; its head and its end stay."""
        return cut_in_the_middle(str(text), self.limits.chars)


def render(
    benchmark: InferenceBenchmark, summary: Summary, environment: Mapping[str, Any], samples: figures.Samples | None
) -> str:
    """Return the page, with as much in it as fits into 100 kB."""
    *larger, smallest = (View(benchmark, summary, environment, samples or {}, limits) for limits in LEVELS)
    pages = (_page(view) for view in larger)
    return next((page for page in pages if len(page.encode()) <= MAX_BYTES), None) or _page(smallest)


def _page(view: View) -> str:
    sections = [section for section in _sections(view) if section.content]
    skip = tag("a", "Skip to the answer", href="#answer", class_="skip")
    main = tag("main", *map(_section, sections))
    body = tag("body", skip, charts.shapes(), _header(view), _navigation(sections), main, _footer(view))
    return f"<!doctype html>\n{tag('html', _head(view), body, lang='en')}\n"


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the page; without content it is left out."""

    id: str
    heading: str
    content: Sequence[Html]


def _sections(view: View) -> Iterable[Section]:
    yield Section("answer", "Answer", _answer(view))
    yield Section("expectations", "Expectations", _expectations(view))
    yield Section("reading", "How to read this", [tag("ul", *(tag("li", sentence) for sentence in _reading(view)))])
    yield Section("latency", "Latency", _latency(view))
    yield Section("throughput", "Throughput", _throughput(view))
    yield Section("speedup", "Speedup", _speedup(view))
    yield Section("rounds", "Rounds and drift", _rounds(view))
    yield Section("calls", "Spread of calls", _calls(view))
    yield Section("doubts", "Doubts", _doubts(view))
    yield Section("gaps", "Failures and gaps", _gaps(view))
    yield Section("cells", "All cells", _cells(view))
    yield Section("method", "How it was measured", method.told(view.spec, view.summary))
    yield Section("environment", "Environment", _environment(view))


def _reading(view: View) -> Sequence[str]:
    more = [(view.has_energy, READING_ENERGY), (view.has_accuracy, READING_ACCURACY)]
    return [*READING, *(sentence for applies, sentence in more if applies)]


def _head(view: View) -> Html:
    return tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", f"{view.benchmark.name}: inferbench report"),
        tag("style", Html(_style())),
    )


@cache
def _style() -> str:
    """Read the style sheet, without its comments and indents."""
    text = resources.files("inferbench_cli").joinpath("report.css").read_text(encoding="utf-8")
    return re.sub(r"\s*\n\s*", "\n", re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)).strip()


def _header(view: View) -> Html:
    summary, spec = view.summary, view.spec
    facts = {
        "Model": view.cut(_model(spec)),
        "Device": spec.device.upper(),
        "Hardware": view.cut("; ".join(summary.hardware)) or "unknown",
        "Baseline": str(summary.table.baseline),
        "Cells": _counted(summary),
        "Plan": tag("code", summary.plan.short_hash),
    }
    listed = tag(
        "dl", *(tag("div", tag("dt", name), tag("dd", value)) for name, value in facts.items()), class_="facts"
    )
    notes = (tag("p", note, class_="note") for note in _notes(summary))
    return tag("header", tag("p", "inferbench report", class_="over"), tag("h1", view.benchmark.name), listed, *notes)


def _model(spec: BenchmarkSpec) -> str:
    model = spec.model
    if model.torchvision is not None:
        weights = model.torchvision.weights
        return f"{model.torchvision.name}, weights {weights if isinstance(weights, str) else weights.path}"
    return str(model.onnx.path if model.onnx is not None else model.python.factory if model.python is not None else "")


def _counted(summary: Summary) -> str:
    counts = summary.counts
    named = ("measured", "unsupported", "inaccurate", "failed", "missing")
    told = [f"{count} {name}" for name in named if (count := getattr(counts, name))]
    return f"{counts.planned}: {', '.join(told)}"


def _notes(summary: Summary) -> Iterable[str]:
    """Say first what changes how everything below is to be read."""
    sweeps = len(summary.plan.sweeps)
    if not summary.is_complete:
        yield f"Not complete: {summary.sweeps_finished} of {sweeps} sweeps are finished. This is what is there so far."
    if summary.environments > 1:
        yield f"The results come from {summary.environments} different environments: their numbers are not comparable."
    if summary.plan.rounds == 1:
        yield "There was one round, so nothing has an interval and all is Inconclusive: a look, not a measurement."


def _navigation(sections: Iterable[Section]) -> Html:
    links = (tag("li", tag("a", section.heading, href=f"#{section.id}")) for section in sections)
    return tag("nav", tag("ul", *links), aria_label="Sections")


def _section(section: Section) -> Html:
    heading = tag("h2", section.heading, id=f"{section.id}-heading")
    return tag("section", heading, *section.content, id=section.id, aria_labelledby=f"{section.id}-heading")


def _footer(view: View) -> Html:
    return tag("footer", tag("p", "Plan ", tag("code", view.summary.plan.hash), ". Made by inferbench."))


# ---- the answer ----------------------------------------------------------------------------------


def _answer(view: View) -> Sequence[Html]:
    best = view.summary.best
    if not best:
        return [tag("p", "Nothing was measured, so nothing can be best.", class_="lead")]
    told = tag("ul", *(tag("li", _bold_size(size, best[size])) for size in view.told_sizes), class_="answers")
    if len(view.told_sizes) > OPEN_SIZES:
        told = tag("details", tag("summary", "In words, for each batch size"), told)
    more = _more(len(best) - len(view.told_sizes), "batch sizes are", "cells.csv")
    return [tag("p", _lead(view), class_="lead"), told, _best_table(view), *more]


def _bold_size(size: int, best: Best) -> Html:
    return join([tag("b", f"Batch {size}: "), sentences.answer(best)])


def _lead(view: View) -> Html:
    """Name the objective's choice; when it cannot be told from the next one, in the same breath."""
    best, objective = view.summary.answer, view.spec.objective
    limit = objective.max_latency_microseconds
    bound = f" with batches of at most {sentences.duration(limit * 1000)}" if limit is not None else ""
    size = f" at batch size {objective.batch_size or min(view.spec.batch_sizes)}"
    goal = f"Lowest latency{size}" if objective.metric is Metric.LATENCY else f"Highest throughput{bound}"
    if best is None:
        return join([f"{goal}: nothing qualifies."])
    row = best.row
    by_latency = objective.metric is Metric.LATENCY
    number = sentences.latency(row.latency) if by_latency else f"{figures.inputs_per_second(row.throughput)} inputs/s"
    where = "" if by_latency else f" at batch size {row.cell.batch_size}"
    return join([f"{goal}: ", tag("strong", row.cell.strategy), f"{where}, ", number, _but(best), "."])


def _but(best: Best) -> Html:
    if best.runner_up is None or best.margin is None or best.verdict not in UNCERTAIN:
        return Html("")
    if best.margin.low is None:
        return join([" in a single round, which is Inconclusive"])
    taken = sentences.recommended(best)
    simpler = taken not in (None, best.row.cell.strategy)
    advice = ["; take ", tag("span", taken, class_="name"), ", which is simpler"] if simpler else []
    same = ", the same as " if best.verdict is Verdict.TIE else ", not distinguishable from "
    return join([same, _name(best.runner_up.cell), *advice])


def _name(cell: Cell) -> Html:
    """Write a strategy in one piece."""
    return tag("span", cell.strategy, class_="name")


def _best_table(view: View) -> Html:
    baseline = view.summary.table.baseline
    headings = ("Batch", "Best strategy", *_number_headings(view), VERDICT, "Over the next", "Doubts")
    rows = [_best_row(view, view.summary.best[size]) for size in view.told_sizes]
    caption = f"Best at each batch size. Speedups are over {baseline}, the baseline; intervals are 95%."
    return table("best", caption, headings, rows)


def _best_row(view: View, best: Best) -> Sequence[object]:
    row = best.row
    following = [] if best.runner_up is None else [" ", _name(best.runner_up.cell)]
    return (
        row.cell.batch_size,
        tag("b", row.cell.strategy),
        *_numbers(view, row, sentences.accuracy),
        _badge(_verdict(view, row)),
        join([_quiet(sentences.ratio(best.margin)), *following]),
        _doubted(row, view.summary.table.opposite(row)),
    )


def _doubted(row: Row, baseline: Row | None) -> str:
    """Name the doubts of both sides of a speedup, and whose they are."""
    theirs = ", ".join(baseline.lasting_doubts) if baseline is not None else ""
    return "; ".join(filter(None, [", ".join(row.lasting_doubts), f"baseline: {theirs}" if theirs else ""])) or "none"


def _number_headings(view: View) -> Sequence[str]:
    energy, accuracy = (["Energy/input"] if view.has_energy else []), ([ACCURACY] if view.has_accuracy else [])
    return ("Latency", "Inputs/s", *energy, "Speedup", *accuracy)


def _numbers(view: View, row: Row, accuracy: Callable[[Row], str]) -> Sequence[Html]:
    """Write what `_number_headings` names."""
    is_baseline = row.may_rank and row.cell.strategy == view.summary.table.baseline
    return (
        _quiet(sentences.latency(row.latency)),
        _quiet(figures.inputs_per_second(row.throughput)),
        *([join([sentences.energy(row.energy_joules)])] if view.has_energy else []),
        Html("1x") if is_baseline else _quiet(sentences.ratio(row.speedup)),
        *([_quiet(accuracy(row))] if view.has_accuracy else []),
    )


def _quiet(text: str) -> Html:
    """Set the interval behind a number smaller."""
    number, opening, interval = text.partition(" (")
    return join([number, tag("small", opening, interval)]) if opening else join([number])


def _verdict(view: View, row: Row) -> str:
    if row.cell.strategy == view.summary.table.baseline:
        return "baseline"
    return NOTHING if row.verdict is None else str(row.verdict)


def _badge(word: str) -> Html:
    return tag("span", word, class_=f"badge {word.lower().replace(' ', '-')}")


# ---- the charts ----------------------------------------------------------------------------------


def _panels(view: View, saying: str, drawn: Sequence[Html], *, with_legend: bool = False) -> Sequence[Html]:
    if not drawn:
        return []
    keys = [charts.legend([str(strategy) for strategy in view.drawn.strategies])] if with_legend else []
    return [tag("p", saying), *keys, tag("div", *drawn, class_="panels")]


def _left_out(view: View) -> Sequence[Html]:
    """Say what is not drawn, so that nobody takes the charts for everything."""
    measured = {row.cell.strategy for row in view.summary.table.rows.values() if row.may_rank}
    parts = []
    if len(view.drawn.strategies) < len(measured):
        parts.append(f"{len(view.drawn.strategies)} of {len(measured)} strategies (the baseline and the quickest)")
    if len(view.drawn.sizes) < len(view.summary.best):
        parts.append(f"but for throughput {len(view.drawn.sizes)} of {len(view.summary.best)} batch sizes")
    return [tag("p", f"The charts show {' and '.join(parts)}.")] if parts else []


def _latency(view: View) -> Sequence[Html]:
    saying = (
        "Time of one batch, the quickest first. A mark is the mean of the rounds, the bar across it its 95% interval."
    )
    drawn = _panels(view, saying, figures.latency(view.drawn))
    return [*_left_out(view), *drawn] if drawn else []


def _throughput(view: View) -> Sequence[Html]:
    saying = "Inputs per second with calls back to back; the bars are 95% intervals."
    several = len(view.summary.table.batch_sizes) > 1
    drawn = figures.throughput(view.drawn)
    return _panels(view, saying, [*drawn, _peaks(view)] if drawn else [], with_legend=several)


def _peaks(view: View) -> Html:
    """Tell the highest throughput of each strategy that is drawn."""
    ranked = [row for row in view.summary.table.rows.values() if row.may_rank and row.throughput]
    ranked.sort(key=lambda row: row.throughput.value if row.throughput else 0, reverse=True)
    first = {row.cell.strategy: row for row in reversed(ranked)}
    rows = [row for row in ranked if first[row.cell.strategy] is row and row.cell.strategy in view.drawn.strategies]
    told = [(row.cell.strategy, _quiet(figures.inputs_per_second(row.throughput)), row.cell.batch_size) for row in rows]
    return table(
        "peaks", "The highest throughput of each strategy in the chart.", ("Strategy", "Inputs/s", "At batch"), told
    )


def _speedup(view: View) -> Sequence[Html]:
    baseline = view.summary.table.baseline
    if drawn := figures.speedup(view.drawn):
        saying = (
            f"The latency of {baseline} over that of each strategy, paired by round, with its 95% interval. Faster is "
            "to the right of 1x. A mark is hollow where this run cannot tell a strategy from the baseline."
        )
        return _panels(view, saying, drawn)
    return [tag("p", f"There is nothing to compare with {baseline}, the baseline.")] if view.summary.best else []


def _rounds(view: View) -> Sequence[Html]:
    saying = (
        "Each round's median against the mean of its strategy. Lines that move together are drift of the machine, "
        "which pairing takes out of speedups; a line that moves alone is what makes intervals wide."
    )
    return _panels(view, saying, figures.rounds(view.drawn), with_legend=True)


def _calls(view: View) -> Sequence[Html]:
    saying = "All timed calls of all rounds, as shares of their median. The end bins hold what lies beyond them."
    return _panels(view, saying, figures.calls(view.drawn))


# ---- expectations, doubts, failures, all cells ---------------------------------------------------


def _expectations(view: View) -> Sequence[Html]:
    judged = view.summary.judged[: view.limits.items]
    if not judged:
        return []
    rows = [(_badge(JUDGEMENTS[e.judgement]), e.statement, *_decided(e), e.name) for e in judged]
    caption = "What was expected, judged by intervals. Of several ratios the one that is nearest to failing decides."
    more = _more(len(view.summary.judged) - len(rows), "expectations are", "summary.json")
    return [table("expected", caption, ("Verdict", "Statement", "Decided at", "Ratio", "Name"), rows), *more]


def _decided(judged: Judged) -> tuple[str, Html]:
    if judged.missing:
        return f"no number for {_listed(judged.missing)}", Html(NOTHING)
    return judged.place, _quiet(sentences.ratio(judged.ratio))


def _doubts(view: View) -> Sequence[Html]:
    counts = Counter(doubt for row in view.summary.table.rows.values() for doubt in row.doubts)
    if not counts:
        return []
    saying = (
        "Reasons to trust a number less. They flag numbers and drop none; the table of all cells has them by round."
    )
    return [
        tag("p", saying),
        tag("dl", *(_doubt(view, doubt, counts[doubt]) for doubt in Doubt if counts[doubt]), class_="doubts"),
    ]


def _doubt(view: View, doubt: Doubt, count: int) -> Html:
    rows = view.summary.table.rows.values()
    return tag(
        "div",
        tag("dt", f"{doubt} ", tag("small", sentences.counted(count, "cell"))),
        tag("dd", doubts.explain(doubt, view.summary.plan.work.device, rows)),
    )


def _gaps(view: View) -> Sequence[Html]:
    """Group what is not simply measured by its reason, the bad news first."""
    rows = [row for row in view.summary.table.rows.values() if row.outcome is not Outcome.MEASURED]
    grouped: dict[tuple[str, str], list[Cell]] = {}
    for row in sorted(rows, key=lambda row: GAPS_IN_ORDER.index(row.outcome)):
        grouped.setdefault((_outcome(row), view.cut(row.reason)), []).append(row.cell)
    if not grouped:
        return []
    told = [(tag("b", outcome), reason, _listed(cells)) for (outcome, reason), cells in grouped.items()]
    caption = "What was not measured, or not as it should be, and why."
    more = _more(len(told) - view.limits.items, "reasons are", "cells.csv")
    counted = [tag("p", sentence) for sentence in [sentences.violations(view.summary)] if sentence]
    return [table("gaps", caption, ("Outcome", "Reason", "Cells"), told[: view.limits.items]), *more, *counted]


def _outcome(row: Row) -> str:
    return str(row.outcome) if row.outcome is not None else "Not measured yet"


def _listed(cells: Sequence[Cell]) -> str:
    """Name cells, each strategy once."""
    sizes: dict[Strategy, list[int]] = {}
    for cell in cells:
        sizes.setdefault(cell.strategy, []).append(cell.batch_size)
    named = [f"{strategy} at batch {_few(map(str, sorted(found)))}" for strategy, found in sizes.items()]
    return _few(named, "; ")


def _few(names: Iterable[str], separator: str = ", ") -> str:
    names = list(names)
    rest = len(names) - MAX_LISTED
    return separator.join(names[:MAX_LISTED]) + (f" and {rest} more" if rest > 0 else "")


def _cells(view: View) -> Sequence[Html]:
    every = view.summary.table
    each = max(1, view.limits.rows // len(every.batch_sizes))
    shown = [row for size in every.batch_sizes for row in sorted(every.at(size), key=_rank)[:each]]
    clock = [CLOCK] if view.has_clock else []
    headings = ("Strategy", "Batch", "Outcome", *_number_headings(view), VERDICT, *clock, "Doubts and reasons")
    caption = f"By batch size, the quickest first. Speedups are over {every.baseline}; 1/4: in one of four rounds."
    body = table("every", caption, headings, [_cell(view, row) for row in shown])
    more = _more(len(every.rows) - len(shown), "cells are", "cells.csv")
    folded = tag("summary", f"{len(shown)} of {len(every.rows)} cells" if more else f"All {len(shown)} cells")
    return [tag("details", folded, body, *more, open="" if len(shown) <= OPEN_ROWS else None)]


def _rank(row: Row) -> tuple[bool, float]:
    return not row.may_rank, row.latency.value if row.latency else math.inf


def _cell(view: View, row: Row) -> Sequence[object]:
    every = len(row.rounds)
    doubted = [str(doubt) if count == every else f"{doubt} {count}/{every}" for doubt, count in row.doubts.items()]
    reason = cut_in_the_middle(row.reason.partition(":")[0], MAX_WORD)
    remarks = ", ".join(filter(None, [reason, *doubted]))
    clock = [_clock(row)] if view.has_clock else []
    place = (row.cell.strategy, row.cell.batch_size, _outcome(row))
    return *place, *_numbers(view, row, sentences.full_accuracy), _verdict(view, row), *clock, remarks


def _clock(row: Row) -> str:
    megahertz = row.middle("sm_clock_mhz")
    return NOTHING if megahertz is None else f"{megahertz:,} MHz"


def _environment(view: View) -> Sequence[Html]:
    rows = [(name, view.cut(value)) for name, value in method.environment(view.environment)]
    if not rows:
        return []
    caption = "The machine and what was installed on it."
    more = _more(len(rows) - view.limits.items, "entries are", "environment.json")
    return [table("machine", caption, ("What", "Value"), rows[: view.limits.items]), *more]


def _more(count: int, what: str, file: str) -> Sequence[Html]:
    return [tag("p", f"{count:,} more {what} in {file}.")] if count > 0 else []
