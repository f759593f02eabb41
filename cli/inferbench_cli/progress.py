"""What a person sees while it measures: one live line on a terminal, plain lines elsewhere, or nothing."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from rich.text import Text

from inferbench_contract import sentences
from inferbench_contract.plan import Plan, Sweep
from inferbench_contract.result import CellResult, SweepResult
from inferbench_contract.words import Outcome

if TYPE_CHECKING:
    from rich.console import Console
    from rich.status import Status


class Progress(Protocol):
    """Hears how the run goes on."""

    def started(self, sweep: Sweep) -> None:
        """Hear that a sweep begins."""

    def heard(self, sweep: Sweep, said: Mapping[str, Any]) -> None:
        """Hear how far the runner is."""

    def finished(self, sweep: Sweep, result: SweepResult | None) -> None:
        """Hear that a sweep has ended."""

    def closed(self) -> None:
        """Hear that nothing more comes."""


class Silent:
    """Says nothing (`--quiet`, `--json`)."""

    def started(self, sweep: Sweep) -> None:
        """Say nothing."""

    def heard(self, sweep: Sweep, said: Mapping[str, Any]) -> None:
        """Say nothing."""

    def finished(self, sweep: Sweep, result: SweepResult | None) -> None:
        """Say nothing."""

    def closed(self) -> None:
        """Say nothing."""


class Spoken:
    """A line per finished sweep; on a terminal also a live line of what is measured just now, and the time left."""

    def __init__(self, console: Console, plan: Plan, done: int) -> None:
        """Begin after `done` sweeps that an earlier run has finished."""
        self._console = console
        self._plan = plan
        self._left = len(plan.sweeps) - done
        self._begin = time.monotonic()
        self._finished = 0
        self._status: Status | None = None
        if console.is_terminal:
            self._status = console.status("", refresh_per_second=2)
            self._status.start()

    def started(self, sweep: Sweep) -> None:
        """Name the sweep."""
        self._say(sweep, "starting")

    def heard(self, sweep: Sweep, said: Mapping[str, Any]) -> None:
        """Show the stage, and the median of the last calls."""
        stage, latency = str(said.get("stage", "")), said.get("latencyNanoseconds")
        batch = f"batch {said['batchSize']}: " if said.get("batchSize") else ""
        median = f", {sentences.duration(latency)} so far" if isinstance(latency, int) else ""
        if said.get("event") == "progress":
            self._say(sweep, f"{batch}{stage}{median}")

    def finished(self, sweep: Sweep, result: SweepResult | None) -> None:
        """Print what the sweep found."""
        self._finished += 1
        self._left -= 1
        cells = "; ".join(_cell(cell) for cell in result.cells) if result else ""
        self._console.print(f"{self._place(sweep)}: {cells or 'no result'}", soft_wrap=not self._console.is_terminal)

    def closed(self) -> None:
        """Take the live line away."""
        if self._status is not None:
            self._status.stop()

    def _say(self, sweep: Sweep, what: str) -> None:
        if self._status is not None:
            left = time_left(time.monotonic() - self._begin, self._finished, self._left)
            self._status.update(Text(f"{self._place(sweep)}: {what}{left}"))

    def _place(self, sweep: Sweep) -> str:
        number, of = sweep.index + 1, len(self._plan.sweeps)
        return f"sweep {number} of {of}, {sweep.strategy}, round {sweep.round + 1} of {self._plan.rounds}"


def time_left(seconds: float, finished: int, left: int) -> str:
    """Guess from the sweeps of this run how long the others take; before the first has finished nothing is known."""
    if not finished:
        return ""
    guess = seconds / finished * left
    return f" (about {guess / 60:.0f} min left)" if guess >= 90 else f" (about {guess:.0f} s left)"


def _cell(cell: CellResult) -> str:
    is_measured = cell.outcome is Outcome.MEASURED
    return f"batch {cell.batch_size} {sentences.duration(cell.latency_median_ns) if is_measured else cell.outcome}"
