"""The answer on the terminal: a table that is read in five seconds, a sentence per batch size, the expectations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from string import ascii_lowercase
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table
from rich.text import Text

from inferbench_contract import sentences
from inferbench_contract.cells import Row
from inferbench_contract.doubts import explain
from inferbench_contract.summary import Best, Summary
from inferbench_contract.words import FAILED_OUTCOMES, Doubt, Judgement, Outcome

if TYPE_CHECKING:
    from rich.console import Console

ENERGY = "Energy/input"
"""A column that is there where a GPU counted it."""
COLUMNS = ("Batch", "Best strategy", "Latency", "Inputs/s", ENERGY, "Speedup", "Verdict", "Doubts")
UNBROKEN = ("Batch", "Best strategy", "Inputs/s", ENERGY, "Verdict")
NUMBERS = ("Batch", "Latency", "Inputs/s", ENERGY, "Speedup")

STYLES = {Judgement.HOLDS: "green", Judgement.DOES_NOT_HOLD: "red", Judgement.UNDECIDED: "yellow"}

MAX_REASONS = 5


def show(console: Console, summary: Summary) -> None:
    """Print the whole answer."""
    if summary.best:
        console.print(_table(summary))
    else:
        console.print("Nothing was measured, so nothing can be best.")
    for sentence in sentences.answers(summary):
        _say(console, sentence)
    _say(console, sentences.objective(summary))
    _show_expectations(console, summary)
    _show_failures(console, summary)
    _show_doubts(console, summary)


def _say(console: Console, sentence: str, style: str = "") -> None:
    """Print a sentence; where no terminal wraps it, it stays one line, which other programs can find."""
    console.print(Text(sentence, style), soft_wrap=not console.is_terminal)


def _table(summary: Summary) -> Table:
    marks = _marks(summary)
    title = f"Best at each batch size; speedups are over {summary.table.baseline}, intervals are 95 %"
    table = Table(title=title, title_justify="left", box=box.SIMPLE, padding=(0, 1, 0, 0), pad_edge=False)
    names = [name for name in COLUMNS if name != ENERGY or _has_energy(summary)]
    for name in names:
        table.add_column(name, justify="right" if name in NUMBERS else "left", no_wrap=name in UNBROKEN)
    for _, best in sorted(summary.best.items()):
        told = _cells(best, marks, is_baseline=best.row.cell.strategy == summary.table.baseline)
        by_name = dict(zip(COLUMNS, told, strict=True))
        table.add_row(*(by_name[name] for name in names))
    return table


def _has_energy(summary: Summary) -> bool:
    return any(best.row.energy_joules is not None for best in summary.best.values())


def _marks(summary: Summary) -> Mapping[Doubt, str]:
    """Give each doubt of the table a letter, under which it is explained below."""
    doubts = dict.fromkeys(doubt for best in summary.best.values() for doubt in best.row.lasting_doubts)
    return dict(zip(doubts, ascii_lowercase, strict=False))


def _cells(best: Best, marks: Mapping[Doubt, str], *, is_baseline: bool) -> Iterable[str]:
    row = best.row
    yield str(row.cell.batch_size)
    yield str(row.cell.strategy)
    yield f"{sentences.duration(row.latency.value if row.latency else None)} {sentences.spread(row.latency)}"
    yield sentences.digits(row.throughput.value / 1000) if row.throughput else "-"
    yield sentences.energy(row.energy_joules)
    yield _speedup(row, is_baseline=is_baseline)
    yield str(row.verdict or ("baseline" if is_baseline else "-"))
    yield ", ".join(marks[doubt] for doubt in row.lasting_doubts) or "none"


def _speedup(row: Row, *, is_baseline: bool) -> str:
    if row.speedup is None:
        return "1x" if is_baseline else "-"
    return f"{sentences.digits(row.speedup.value)}x {sentences.spread(row.speedup)}"


def _show_expectations(console: Console, summary: Summary) -> None:
    if not summary.judged:
        return
    _say(console, "\nExpectations", "bold")
    for judged in summary.judged:
        _say(console, "  " + sentences.expectation(judged), STYLES[judged.judgement])


def _show_failures(console: Console, summary: Summary) -> None:
    """List what has no number, the bad news first, equal reasons once."""
    told: dict[str, list[str]] = {}
    rows = [row for row in summary.table.rows.values() if row.outcome not in (Outcome.MEASURED, None)]
    rows.sort(key=lambda row: row.outcome not in {*FAILED_OUTCOMES, Outcome.INACCURATE})
    for row in rows:
        told.setdefault(f"{row.outcome}: {row.reason}", []).append(str(row.cell))
    if told:
        _say(console, "\nNot in the ranking", "bold")
    for reason, cells in list(told.items())[:MAX_REASONS]:
        _say(console, f"  {', '.join(cells[:4])}{' and more' if len(cells) > 4 else ''}: {reason}")
    if len(told) > MAX_REASONS:
        _say(console, f"  and {len(told) - MAX_REASONS} more reasons, in cells.csv")


def _show_doubts(console: Console, summary: Summary) -> None:
    """Explain the doubts that stand in the table."""
    marks = _marks(summary)
    if marks:
        _say(console, "\nDoubts about the numbers in the table", "bold")
    for doubt, mark in marks.items():
        _say(console, f"  {mark}  {doubt}: {explain(doubt)}")
