"""The answer on the terminal: a table that is read in five seconds, a sentence per batch size, the expectations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from string import ascii_lowercase
from typing import TYPE_CHECKING

from rich import box
from rich.cells import cell_len
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from inferbench_contract import sentences
from inferbench_contract.cells import Row
from inferbench_contract.cells import Table as Cells
from inferbench_contract.doubts import explain
from inferbench_contract.summary import Summary
from inferbench_contract.words import FAILED_OUTCOMES, Doubt, Judgement, Outcome, Verdict

if TYPE_CHECKING:
    from rich.console import Console, JustifyMethod

STRATEGY = "Strategy"
ENERGY = "Energy/input"
"""A column that is there where a GPU counted it."""
ACCURACY = "vs\nfp32"
"""A column that is there where something else than fp32 is shown; the others stand closer together then."""
VERDICT = "vs\nbaseline"
"""Of the best strategy and the baseline; how the best stands to the next one is what the sentences say. In two lines,
so that a usual table fits into 80 columns."""
DOUBTS = "Doubts"
"""The first column to give way, before the bracket; in the narrowest tables the only one that wraps by itself."""
COLUMNS = ("Batch", STRATEGY, "Latency", "Inputs/s", ENERGY, "Speedup", VERDICT, ACCURACY, DOUBTS)
NUMBERS = ("Batch", "Latency", "Inputs/s", ENERGY, "Speedup")

STYLES = {Judgement.HOLDS: "green", Judgement.DOES_NOT_HOLD: "red", Judgement.UNDECIDED: "yellow"}

UNSURE = "*"
"""Beside a verdict that would be another one if nothing else had been measured."""

Breaks = tuple[tuple[str, str], ...]
SIDES: Breaks = ((" (", "\n("),)
"""Of the doubts, which are broken first."""
INTERVALS: Breaks = ((" ±", "\n±"), *SIDES, ("top-1 ", "top-1\n"))
STRATEGIES: Breaks = (*INTERVALS, ("/", "/\n"))
EVERYTHING: Breaks = (*STRATEGIES, (" to ", " to\n"), (UNSURE, f"\n{UNSURE}"))
"""Where a cell of the table may go on in its next line."""


@dataclass(frozen=True, slots=True)
class Layout:
    """What a table does to be narrow."""

    breaks: Breaks = ()
    of_doubts: Breaks = SIDES
    wraps_doubts: bool = False

    def broken(self, name: str, text: str) -> str:
        """Begin a new line behind a mark, or before it where that belongs to what follows."""
        for mark, instead in self.of_doubts if name == DOUBTS else self.breaks:
            text = text.replace(mark, instead)
        return text

    def wraps(self, name: str) -> bool:
        """Tell whether a column goes on in the next line where a word ends."""
        return self.wraps_doubts and name == DOUBTS

    def least(self, name: str, texts: Sequence[str]) -> int:
        """Return how wide a column has to be: as its longest line, or, where it wraps, its longest word."""
        parts = (part for text in texts for part in (text.split() if self.wraps(name) else text.splitlines()))
        return max(map(cell_len, parts))


LAYOUTS = (
    Layout(of_doubts=()),
    Layout(),
    Layout(INTERVALS),
    Layout(STRATEGIES),
    Layout(EVERYTHING),
    Layout(EVERYTHING, wraps_doubts=True),
)
"""Ever narrower. The letters of a cell stay together, as do those of the baseline, until nothing else is left to do."""

AMONG_OTHERS = (
    f"{UNSURE} The interval leaves 1x out, which would do for one comparison. All of a batch size are judged together "
    "(Holm), so that chance does not pass for a difference; more rounds can decide it."
)

MAX_REASONS = 5

UNBOUNDED = 10_000
"""Columns of a terminal: more than any table takes."""


def show(console: Console, summary: Summary, *, is_all: bool = False) -> None:
    """Print the whole answer: of each batch size the best strategy, or all of them."""
    rows = _every(summary.table) if is_all else [best.row for _, best in sorted(summary.best.items())]
    if rows:
        which = "All strategies" if is_all else "Best at each batch size"
        _say(console, f"{which}; speedups are over {summary.table.baseline}, intervals are 95 %")
        _print(console, [*_tables(summary, rows, is_all=is_all)])
        if any(map(_is_unsure_among_others, rows)):
            _say(console, AMONG_OTHERS)
    else:
        console.print("Nothing was measured, so nothing can be best.")
    for sentence in sentences.answers(summary):
        _say(console, sentence)
    _say(console, sentences.objective(summary))
    if told := sentences.spent(summary.spent):
        _say(console, told)
    _show_expectations(console, summary)
    _show_failures(console, summary)
    _show_doubts(console, summary, rows)


def _is_unsure_among_others(row: Row) -> bool:
    """Tell whether a speedup alone would have a verdict: its interval leaves 1x out, and Holm does not let it count."""
    if row.verdict is not Verdict.INCONCLUSIVE or row.speedup is None:
        return False
    low, high = row.speedup.low, row.speedup.high
    return low is not None and high is not None and not low <= 1 <= high


def _every(cells: Cells) -> Sequence[Row]:
    """Return every cell that has a latency, those of a batch size the fastest first."""
    measured = [row for row in cells.rows.values() if row.latency is not None]
    return sorted(measured, key=lambda row: (row.cell.batch_size, row.latency.value if row.latency else 0))


def _say(console: Console, sentence: str, style: str = "") -> None:
    """Print a sentence; where no terminal wraps it, it stays one line, which other programs can find."""
    console.print(Text(sentence, style), soft_wrap=not console.is_terminal)


def _print(console: Console, tables: Sequence[Table]) -> None:
    """Print the first table that fits, else the last, which then goes on beyond the edge: nothing is left out."""
    unbounded = console.options.update(width=UNBOUNDED)  # else rich says that all of them fit
    least = [Measurement.get(console, unbounded, table).minimum for table in tables]
    chosen = next((place for place, minimum in enumerate(least) if minimum <= console.width), -1)
    if least[chosen] > console.width:
        tables[chosen].width = least[chosen]
    console.print(tables[chosen], crop=False)


def _tables(summary: Summary, rows: Sequence[Row], *, is_all: bool) -> Iterable[Table]:
    """Lay the table out ever narrower: more and more of a cell in lines of its own, and at last without energy."""
    names = [name for name in COLUMNS if name not in set(_absent(rows))]
    for layout in LAYOUTS:
        yield _table(summary, rows, names, layout, is_all=is_all)
    yield _table(summary, rows, [name for name in names if name != ENERGY], LAYOUTS[-1], is_all=is_all)


def _table(summary: Summary, rows: Sequence[Row], names: Sequence[str], layout: Layout, *, is_all: bool) -> Table:
    marks = _marks(_told(summary.table, rows))
    space = 0 if ACCURACY in names else 1
    table = Table(box=box.SIMPLE, padding=(0, space, 0, 0), pad_edge=False)
    told = [dict(zip(COLUMNS, _cells(summary.table, row, marks), strict=True)) for row in rows]
    for name in names:
        heading = "Best strategy" if name == STRATEGY and not is_all else name
        texts = [heading, *(layout.broken(name, cells[name]) for cells in told)]
        justify: JustifyMethod = "right" if name in NUMBERS else "left"
        table.add_column(heading, justify=justify, no_wrap=not layout.wraps(name), min_width=layout.least(name, texts))
    for place, (row, cells) in enumerate(zip(rows, told, strict=True)):
        if is_all and place and row.cell.batch_size != rows[place - 1].cell.batch_size:
            table.add_section()
        table.add_row(*(layout.broken(name, cells[name]) for name in names))
    return table


def _absent(rows: Sequence[Row]) -> Iterable[str]:
    """Name the columns that would say nothing."""
    if not any(row.energy_joules is not None for row in rows):
        yield ENERGY
    if not any(sentences.tells_accuracy(row) for row in rows):
        yield ACCURACY


def _marks(told: Sequence[Row]) -> Mapping[Doubt, str]:
    """Give each doubt of the table a letter, under which it is explained below."""
    doubts = dict.fromkeys(doubt for row in told for doubt in row.lasting_doubts)
    return dict(zip(doubts, ascii_lowercase, strict=False))


def _told(cells: Cells, rows: Sequence[Row]) -> Sequence[Row]:
    """Return what the table rests on: its cells, and the baseline's where they have a speedup."""
    return [side for row in rows for side in (row, cells.opposite(row)) if side]


def _cells(every: Cells, row: Row, marks: Mapping[Doubt, str]) -> Iterable[str]:
    is_baseline = row.cell.strategy == every.baseline
    yield str(row.cell.batch_size)
    yield str(row.cell.strategy)
    yield sentences.short_latency(row.latency)
    yield sentences.digits(row.throughput.value / 1000) if row.throughput else "-"
    yield sentences.energy(row.energy_joules)
    yield _speedup(row, is_baseline=is_baseline)
    yield _verdict(row, is_baseline=is_baseline)
    yield sentences.accuracy(row)
    yield _doubted(row, every.opposite(row), marks)


def _doubted(row: Row, baseline: Row | None, marks: Mapping[Doubt, str]) -> str:
    """Name the doubts of both sides of a speedup, the baseline's in brackets: `a (b, c)`."""
    own, theirs = (
        ", ".join(sorted(marks[doubt] for doubt in side.lasting_doubts)) if side is not None else ""
        for side in (row, baseline)
    )
    return " ".join(filter(None, [own, f"({theirs})" if theirs else ""])) or "none"


def _verdict(row: Row, *, is_baseline: bool) -> str:
    if row.verdict is not None:
        return f"{row.verdict}{UNSURE if _is_unsure_among_others(row) else ''}"
    return "baseline" if is_baseline else "-" if row.may_rank else str(row.outcome)


def _speedup(row: Row, *, is_baseline: bool) -> str:
    return "1x" if is_baseline and row.speedup is None else sentences.short_ratio(row.speedup)


def _show_expectations(console: Console, summary: Summary) -> None:
    if not summary.judged:
        return
    _say(console, "\nExpectations", "bold")
    for judged in summary.judged:
        _say(console, "  " + sentences.expectation(judged), STYLES[judged.judgement])


def _show_failures(console: Console, summary: Summary) -> None:
    """List what has no number, or one that is not as it should be, the bad news first."""
    rows = [row for row in summary.table.rows.values() if row.outcome not in (Outcome.MEASURED, None)]
    rows.sort(key=lambda row: row.outcome not in {*FAILED_OUTCOMES, Outcome.INACCURATE})
    _show_reasons(console, "Not in the ranking", [row for row in rows if not row.may_rank])
    _show_reasons(console, "Ranked, though inaccurate (onViolation: Report)", [row for row in rows if row.may_rank])
    if counted := sentences.violations(summary):
        _say(console, f"  {counted}")


def _show_reasons(console: Console, title: str, rows: Sequence[Row]) -> None:
    """List equal reasons once."""
    told: dict[str, list[str]] = {}
    for row in rows:
        told.setdefault(f"{row.outcome}: {row.reason}", []).append(str(row.cell))
    if told:
        _say(console, f"\n{title}", "bold")
    for reason, cells in list(told.items())[:MAX_REASONS]:
        _say(console, f"  {', '.join(cells[:4])}{' and more' if len(cells) > 4 else ''}: {reason}")
    if len(told) > MAX_REASONS:
        _say(console, f"  and {len(told) - MAX_REASONS} more reasons, in cells.csv")


def _show_doubts(console: Console, summary: Summary, rows: Sequence[Row]) -> None:
    """Explain the doubts that stand in the table."""
    told = _told(summary.table, rows)
    marks = _marks(told)
    if marks:
        _say(console, "\nDoubts about the numbers in the table (in brackets: about the baseline's)", "bold")
    for doubt, mark in marks.items():
        _say(console, f"  {mark}  {doubt}: {explain(doubt, summary.plan.work.device, told)}")
