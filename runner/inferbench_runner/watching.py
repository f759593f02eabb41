"""Watches the GPU for a sweep, from the supervisor: telemetry beside each cell, a fixed piece of work between cells.

Nothing here can fail a cell: where the driver, NVML or a probe has no answer, there is less to judge by.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, Self

from inferbench_contract.errors import EnvironmentFault
from inferbench_contract.result import CellResult
from inferbench_contract.words import Precision
from inferbench_runner import cuda, gpu, guards, probes
from inferbench_runner.cuda import Driver
from inferbench_runner.gpu import Card, Monitor, Reading, Sampler
from inferbench_runner.guards import BACK_TO_BACK_FROM, Anchor, Roofline, Seen, Window, Work

IDLE_READINGS: Final = 3
IDLE_SECONDS: Final = 0.3
"""Between them. How busy a card was is told for the last second at most, and ours has ended a while ago."""

Hear = Callable[[Mapping[str, Any]], None]
"""Takes what a cell process says while it runs."""

See = Callable[[Reading], None]
"""Takes each reading of the GPU while a cell runs, from the thread that reads."""

Keep = Callable[[Seen], None]
"""Takes what was seen of the GPU around a cell, once it has ended."""

RunProbe = Callable[[Sequence[str]], object]
"""Runs a command line to its end, whatever that is."""


def look_away(_: Reading | Seen) -> None:
    """Stand in where nobody watches, and where nothing is kept."""


class Watcher:
    """Watches one GPU; without a monitor it only runs cells."""

    def __init__(
        self,
        monitor: Monitor | None,
        run_probe: RunProbe,
        cache: Path,
        sleep: Callable[[float], None] = time.sleep,
        see: See = look_away,
    ) -> None:
        self._monitor = monitor
        self._run_probe = run_probe
        self._cache = cache
        self._sleep = sleep
        self._see = see
        self._idle: Sequence[Reading] = ()
        self._roofline: Roofline | None = None
        self._anchor: Anchor | None = None

    def __enter__(self) -> Self:
        """Look at the GPU before anything of ours uses it, then at what it can do."""
        if self._monitor is not None:
            self._idle = [self._look(self._monitor, index) for index in range(IDLE_READINGS)]
            self._roofline = probes.roofline_of(self._monitor.card(), self._cache, self._run_probe)
            self._anchor = self._probe()
        return self

    def __exit__(self, *_: object) -> None:
        if self._monitor is not None:
            self._monitor.close()

    @property
    def counts_energy(self) -> bool:
        """Tell whether the GPU counts what it takes from its supply."""
        return any(reading.energy_millijoules is not None for reading in self._idle)

    def around(
        self,
        run: Callable[[Hear], CellResult],
        precision: Precision,
        work: Work | None,
        keep: Keep = look_away,
    ) -> CellResult:
        """Run a cell and add what was seen of the GPU meanwhile. `run` is given what wants to hear the cell."""
        if self._monitor is None:
            return run(lambda _: None)
        before, said = self._anchor, dict[str, Any]()
        with Sampler(partial(self._show, self._monitor)) as sampler:
            result = run(said.update)
        self._anchor = self._probe()
        seen = Seen(
            readings=sampler.readings,
            window=Window.heard(said),
            back_to_back=Window.heard(said, BACK_TO_BACK_FROM),
            idle=self._idle,
            before=before,
            after=self._anchor,
            work=work,
            roofline=self._roofline,
        )
        keep(seen)
        return guards.judge(result, precision, seen)

    def _look(self, monitor: Monitor, index: int) -> Reading:
        self._sleep(IDLE_SECONDS if index else 0)
        return monitor.read()

    def _show(self, monitor: Monitor) -> Reading:
        reading = monitor.read()
        self._see(reading)
        return reading

    def _probe(self) -> Anchor | None:
        """Do the fixed work. What it took after one cell is what it takes before the next."""
        with TemporaryDirectory(prefix="inferbench-") as folder:
            answer = Path(folder, probes.FILE)
            self._run_probe(probes.anchor_command(answer))
            return probes.read_anchor(answer)


def watcher(
    run_probe: RunProbe,
    cache: Path,
    *,
    is_wanted: bool,
    see: See = look_away,
    ask_driver: Callable[[], Driver] = cuda.require_driver,
) -> Watcher:
    """Return a watcher of the first visible GPU; one that only runs cells where none is wanted, or none is there."""
    return Watcher(_monitor(ask_driver) if is_wanted else None, run_probe, cache, see=see)


def any_driver() -> Driver:
    """Ask the driver whatever CUDA it can run: a card has its name and its settings all the same."""
    return cuda.require_driver(needed=0)


def card(ask_driver: Callable[[], Driver] = any_driver) -> Card | None:
    """Describe the GPU that is measured, the first visible one; None where it or NVML is not there.

    NVML's first card is another one where CUDA_VISIBLE_DEVICES says so, and never a slice of one.
    """
    monitor = _monitor(ask_driver)
    if monitor is None:
        return None
    with monitor:
        return monitor.card()


def _monitor(ask_driver: Callable[[], Driver]) -> Monitor | None:
    """Return NVML's view of the first GPU that CUDA shows to this process."""
    with suppress(EnvironmentFault):
        return gpu.open_monitor(ask_driver().uuid)
    return None
