"""An operator that is odd in one way: `python odd_operator.py clock FILE`, `python odd_operator.py planner`.

clock: its wall clock is off by the seconds that stand in FILE, which may change while it runs.
planner: it plans the sweeps of every benchmark the other way round, as one of another version may.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path

from inferbench_contract import plan as plans
from inferbench_contract.plan import SweepRow
from inferbench_operator import app, logs
from inferbench_operator.controller import utc_now
from inferbench_operator.settings import Settings

THIS_FILE = str(Path(__file__).resolve())


def with_clock(file: Path) -> tuple[str, ...]:
    """Return the program of an operator whose clock is off by what stands in a file."""
    return THIS_FILE, "clock", str(file)


def turn(file: Path, hours: float) -> None:
    """Set the clock of such an operator so far ahead; a reader sees the old number or the new one."""
    new = file.with_suffix(".new")
    new.write_text(str(3600 * hours), encoding="utf-8")
    new.replace(file)


def with_other_plans() -> tuple[str, ...]:
    """Return the program of an operator that plans otherwise."""
    return THIS_FILE, "planner"


def _clock(file: Path) -> Callable[[], datetime]:
    return lambda: utc_now() + timedelta(seconds=float(file.read_text(encoding="utf-8")))


def _plan_otherwise() -> None:
    rows = plans._rows

    def backwards(strategies: int, batch_sizes: int, rounds: int) -> Iterator[SweepRow]:
        return reversed(list(rows(strategies, batch_sizes, rounds)))

    plans._rows = backwards  # in this process alone, which does nothing else


def main() -> int:
    """Serve until it is stopped."""
    kind, *rest = sys.argv[1:]
    if kind == "planner":
        _plan_otherwise()
    settings = Settings.from_environment(os.environ)
    logs.set_up(settings.log_level, settings.log_format)
    asyncio.run(app.run(settings, _clock(Path(rest[0])) if kind == "clock" else utc_now))
    return 0


if __name__ == "__main__":
    sys.exit(main())
