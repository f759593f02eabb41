"""What a person sees while it measures: one live line on a terminal, plain lines elsewhere, or nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from threading import Timer
from typing import TYPE_CHECKING, Any, Protocol

from rich.text import Text

from inferbench_contract import sentences
from inferbench_contract.plan import Plan, Sweep
from inferbench_contract.result import CellResult, SweepResult, cut_in_the_middle
from inferbench_contract.words import Backend, Outcome

if TYPE_CHECKING:
    from rich.console import Console
    from rich.status import Status


MAX_REASON_CHARS = 300
"""Of a reason in a line: what went wrong stands at its head, and the root cause at its end."""


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


COMPILING = frozenset({
    Backend.TORCH_COMPILE, Backend.TORCH_COMPILE_MAX_AUTOTUNE, Backend.TORCH_AOT_INDUCTOR, Backend.TENSORRT,
    Backend.OPENVINO,
})  # fmt: skip
"""Where loading may take minutes, because it compiles."""

PLAIN_SECONDS = 5.0
"""Where no live line can be painted, what goes on this long after the last line is told; what is quick is not."""


class Later(Protocol):
    """A call that is yet to come, as `threading.Timer` has it."""

    def start(self) -> None:
        """Begin to wait."""

    def cancel(self) -> None:
        """Do not call."""


class Spoken:
    """A line per finished sweep, and what is measured just now: on a terminal a live line, with the time left.

    Elsewhere a plain line for each cell that goes on for longer than `PLAIN_SECONDS`, and for what comes before cells.
    """

    def __init__(
        self,
        console: Console,
        plan: Plan,
        done: int,
        later: Callable[[float, Callable[[], None]], Later] = Timer,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin after `done` sweeps that an earlier run has finished."""
        self._console = console
        self._plan = plan
        self._left = len(plan.sweeps) - done
        self._clock = clock
        self._begin = self._turn = clock()
        """When the run began, and when the running sweep did: as the one before it ended."""
        self._finished = 0
        self._reasons: set[str] = set()
        self._plain = _Plain(console, later)
        self._status: Status | None = None
        if console.is_terminal:
            self._status = console.status("", refresh_per_second=2)
            self._status.start()

    def started(self, sweep: Sweep) -> None:
        """Name the sweep."""
        self._say(sweep, "starting", None)

    def heard(self, sweep: Sweep, said: Mapping[str, Any]) -> None:
        """Show the stage, and the median of the last calls."""
        stage, latency = str(said.get("stage", "")), said.get("latencyNanoseconds")
        if stage == "loading" and sweep.strategy.backend in COMPILING:
            stage = "loading and compiling"
        batch = f"batch {said['batchSize']}: " if said.get("batchSize") else ""
        median = f", {sentences.duration(latency)} so far" if isinstance(latency, int) else ""
        if said.get("event") == "progress":
            self._say(sweep, f"{batch}{stage}{median}", batch or stage)

    def finished(self, sweep: Sweep, result: SweepResult | None) -> None:
        """Print what the sweep found."""
        self._finished += 1
        self._left -= 1
        self._turn = self._clock()
        self._plain.forget()
        cells = "; ".join(f"{_cell(cell)}{self._reason(cell)}" for cell in result.cells) if result else ""
        self._console.print(f"{self._place(sweep)}: {cells or 'no result'}", soft_wrap=not self._console.is_terminal)

    def closed(self) -> None:
        """Take the live line away."""
        self._plain.forget()
        if self._status is not None:
            self._status.stop()

    def _say(self, sweep: Sweep, what: str, doing: str | None) -> None:
        """Show what goes on; `doing` stays the same where a plain line would only tell it again."""
        if self._status is not None:
            left = time_left(self._turn - self._begin, self._finished, self._clock() - self._turn, self._left)
            self._status.update(Text(f"{self._place(sweep)}: {what}{left}"))
        elif doing is not None:
            self._plain.hear((sweep.index, doing), f"  {self._place(sweep)}: {what}")

    def _reason(self, cell: CellResult) -> str:
        """Return the reason of a cell that has one, when it is met for the first time."""
        if not cell.reason or cell.reason in self._reasons:
            return ""
        self._reasons.add(cell.reason)
        return f" ({cut_in_the_middle(cell.reason, MAX_REASON_CHARS)})"

    def _place(self, sweep: Sweep) -> str:
        number, of = sweep.index + 1, len(self._plan.sweeps)
        return f"sweep {number} of {of}, {sweep.strategy}, round {sweep.round + 1} of {self._plan.rounds}"


class _Plain:
    """Plain lines of what goes on, the latest of it, a while after the line before."""

    def __init__(self, console: Console, later: Callable[[float, Callable[[], None]], Later]) -> None:
        self._console = console
        self._later = later
        self._waiting: Later | None = None
        self._told: tuple[int, str] | None = None
        self._latest: tuple[tuple[int, str], str] | None = None

    def hear(self, doing: tuple[int, str], line: str) -> None:
        """Keep a line, to be printed unless something newer comes; none is printed twice for the same doing."""
        if doing == self._told:
            return
        self._latest = doing, line
        if self._waiting is None:
            self._waiting = self._later(PLAIN_SECONDS, self._print)
            self._waiting.start()

    def forget(self) -> None:
        """Print nothing of what was heard so far."""
        if self._waiting is not None:
            self._waiting.cancel()
        self._waiting = self._latest = None

    def _print(self) -> None:
        latest, self._waiting = self._latest, None
        if latest is not None:
            self._told, line = latest
            self._console.print(line, soft_wrap=True)


def time_left(seconds: float, finished: int, running: float, left: int) -> str:
    """Guess from the sweeps of this run, which took `seconds`, how long those that are `left` take.

    One of these has been running for a while: what it took so far is not to come again, and nobody knows how long one
    takes that is over its time. Before the first has finished nothing is known, nor when the last is over its time.
    """
    if not finished:
        return ""
    usual = seconds / finished
    guess = round(usual * (left - 1) + max(0, usual - running))
    if not guess:
        return ""
    return f" (about {guess / 60:.0f} min left)" if guess >= 90 else f" (about {guess} s left)"


def _cell(cell: CellResult) -> str:
    is_measured = cell.outcome is Outcome.MEASURED
    return f"batch {cell.batch_size} {sentences.duration(cell.latency_median_ns) if is_measured else cell.outcome}"
