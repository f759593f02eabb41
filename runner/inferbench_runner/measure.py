"""Measures one session in one process: the first call, warm-up, single synced calls, back-to-back throughput.

The loops are the only code between two clock readings; everything else happens while nothing is timed. What is asked of
the numbers (enough? warm? to be doubted?) stands in `stopping`, `stats` and `doubts`.
"""

from __future__ import annotations

import gc
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from itertools import repeat
from typing import cast

from inferbench_runner import stats, stopping
from inferbench_runner.backends import Session

PROGRESS_NS = stopping.SECOND_NS // 2
"""A person sees no more than two numbers a second, and each report disturbs the machine that is measured."""

PROGRESS_CALLS = 64
"""A report gives the median of so many last calls, and costs the same at the end as at the beginning."""

MIN_BACK_TO_BACK_CALLS = 2
"""One call is not back to back with anything."""


class Stage(StrEnum):
    """What a cell process is busy with, in words for people."""

    WARMING_UP = "warming up"
    MEASURING = "measuring"


@dataclass(frozen=True, slots=True)
class Progress:
    """A look at a measurement under way."""

    stage: Stage
    calls: int
    latency_ns: int
    """Median of the last calls."""


OnProgress = Callable[[Progress], None]


def ignore_progress(_: Progress) -> None:
    """Stand in where nobody watches."""


@dataclass(frozen=True, slots=True)
class WarmUp:
    """How the session got warm. The first call is not part of it."""

    calls: int
    elapsed_ns: int
    settling: stopping.Settling | None
    """None: the time was up before the calls had settled."""


@dataclass(frozen=True, slots=True)
class TimedCalls:
    """Single calls, each waited for, in the order they were made; little more than a clock is read between two."""

    latencies_ns: Sequence[int]
    """Host time from the start of a call until its result is there."""
    enqueue_ns: Sequence[int] | None
    """Host time to start the same calls; None where the device has no events."""
    device_ns: Sequence[int] | None
    """Device event time of the same calls; None where the device has no events."""
    elapsed_ns: int
    """Host time for all of them and what lay between."""
    stop_reason: stopping.StopReason


@dataclass(frozen=True, slots=True)
class BackToBack:
    """Calls of which only the last of a long row is waited for."""

    calls: int
    elapsed_ns: int

    def inputs_milli_per_second(self, batch_size: int) -> int:
        """Return the throughput in thousandths of an input per second."""
        return self.calls * batch_size * 1000 * stopping.SECOND_NS // max(1, self.elapsed_ns)


@dataclass(frozen=True, slots=True)
class Measurement:
    """Everything that was timed of one cell in one round."""

    first_call_ns: int
    """The first call that was measured: with `torch.compile` it compiles, elsewhere it allocates."""
    warm_up: WarmUp
    timed: TimedCalls
    back_to_back: BackToBack

    @property
    def latency_median_ns(self) -> int:
        """The number that stands for this round."""
        return stats.median(self.timed.latencies_ns)

    @property
    def enqueue_median_ns(self) -> int | None:
        """Median host time to start a call."""
        return stats.median(self.timed.enqueue_ns) if self.timed.enqueue_ns is not None else None

    @property
    def device_median_ns(self) -> int | None:
        """Median device time of a call."""
        return stats.median(self.timed.device_ns) if self.timed.device_ns is not None else None

    @property
    def block_medians_ns(self) -> tuple[int, ...]:
        """Medians of consecutive stretches of the timed calls: how the round went."""
        return stats.block_medians(self.timed.latencies_ns)


def measure(session: Session, limits: stopping.Limits, on_progress: OnProgress = ignore_progress) -> Measurement:
    """Measure a loaded session. Make no call before it whose absence would show in `first_call_ns`."""
    with _no_garbage_collection():
        first_call_ns = _first_call(session)
        warm_up = _warm_up(session, limits, on_progress)
        timed = time_calls(session, limits, on_progress)
        back_to_back = _back_to_back(session, timed, limits)
    return Measurement(first_call_ns, warm_up, timed, back_to_back)


def time_calls(session: Session, limits: stopping.Limits, on_progress: OnProgress = ignore_progress) -> TimedCalls:
    """Time single calls of a warm session until `stopping` finds a reason to stop."""
    clock, loop = session.clock, _Loop(session)
    reporter = _Reporter(on_progress, Stage.MEASURING)
    begin = clock()
    elapsed_ns = check_ns = 0
    reason = None
    while reason is None:
        check_ns = stopping.next_check_ns(elapsed_ns, limits) if elapsed_ns >= check_ns else check_ns
        loop.run(until=begin + min(check_ns, reporter.due_ns))
        elapsed_ns = clock() - begin
        reporter.report(elapsed_ns, len(loop.latencies_ns), loop.latencies_ns)
        if elapsed_ns >= check_ns:
            reason = stopping.stop_reason(loop.latencies_ns, elapsed_ns, limits)
    return TimedCalls(loop.latencies_ns, loop.enqueue_ns, loop.device_ns, elapsed_ns, reason)


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Collect what is there, then let no collection fall into a timed call."""
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _first_call(session: Session) -> int:
    begin = session.clock()
    session.enqueue()
    session.synchronize()
    return session.clock() - begin


def _warm_up(session: Session, limits: stopping.Limits, on_progress: OnProgress) -> WarmUp:
    """Call until the last windows have settled or the time is up. Only full windows are judged."""
    clock = session.clock
    reporter = _Reporter(on_progress, Stage.WARMING_UP)
    begin = clock()
    windows: list[Sequence[int]] = []
    calls = elapsed_ns = 0
    settling, is_up = None, False
    while settling is None and not is_up:
        loop, window_ns, full = _Loop(session), elapsed_ns, False
        while not full and not is_up:
            loop.run(until=begin + min(window_ns + stopping.WINDOW_NS, limits.warmup_max_ns))
            elapsed_ns = clock() - begin
            reporter.report(elapsed_ns, calls + len(loop.latencies_ns), loop.latencies_ns)
            full = stopping.window_is_full(len(loop.latencies_ns), elapsed_ns - window_ns)
            is_up = stopping.warmup_time_is_up(calls + len(loop.latencies_ns), elapsed_ns, limits)
        calls += len(loop.latencies_ns)
        if full:
            windows = [*windows[1 - stopping.WINDOWS :], loop.latencies_ns]
            settling = stopping.settling(windows)
    return WarmUp(calls, elapsed_ns, settling)


def _back_to_back(session: Session, timed: TimedCalls, limits: stopping.Limits) -> BackToBack:
    """Start calls without waiting between them, and wait once: what the device does when it never runs dry.

    A synced call takes at least as long as one of many in a row, so this many of them end within their time. For an
    energy counter it is done again, at the pace seen so far, until it has lasted long enough: nobody can start seconds
    of work at once and know when it ends. Waiting once a second or so lets the device run dry for some microseconds.
    """
    clock, enqueue = session.clock, session.enqueue
    calls = elapsed_ns = 0
    row = max(MIN_BACK_TO_BACK_CALLS, limits.back_to_back_ns // max(1, stats.median(timed.latencies_ns)))
    begin = clock()
    while calls == 0 or elapsed_ns < limits.energy_ns:
        for _ in repeat(None, row):
            enqueue()
        session.synchronize()
        calls, elapsed_ns = calls + row, clock() - begin
        row = min(row, 1 + (limits.energy_ns - elapsed_ns) * calls // max(1, elapsed_ns))
    return BackToBack(calls, elapsed_ns)


class _Loop:
    """The timed calls of a session. Arrays of machine integers: appending makes nothing for the collector to visit."""

    def __init__(self, session: Session) -> None:
        self._session = session
        has_events = session.device_time_ns() is not None
        self.latencies_ns = array("q")
        self.enqueue_ns = array("q") if has_events else None
        self.device_ns = array("q") if has_events else None

    def run(self, until: int) -> None:
        """Time calls, at least one, until the clock has reached `until`."""
        if self.enqueue_ns is None or self.device_ns is None:
            self._run_on_host(until)
        else:
            self._run_on_device(until, self.enqueue_ns, self.device_ns)

    def _run_on_host(self, until: int) -> None:
        clock, enqueue, synchronize = self._session.clock, self._session.enqueue, self._session.synchronize
        keep = self.latencies_ns.append
        while True:
            begin = clock()
            enqueue()
            synchronize()
            end = clock()
            keep(end - begin)
            if end >= until:
                return

    def _run_on_device(self, until: int, enqueue_ns: array[int], device_ns: array[int]) -> None:
        clock, enqueue, synchronize = self._session.clock, self._session.enqueue, self._session.synchronize
        keep, keep_enqueue, keep_device = self.latencies_ns.append, enqueue_ns.append, device_ns.append
        device_time_ns = cast("Callable[[], int]", self._session.device_time_ns)
        while True:
            begin = clock()
            enqueue()
            enqueued = clock()
            synchronize()
            end = clock()
            keep(end - begin)
            keep_enqueue(enqueued - begin)
            keep_device(device_time_ns())
            if end >= until:
                return


class _Reporter:
    """Tells somebody how it goes, seldom enough not to disturb."""

    def __init__(self, on_progress: OnProgress, stage: Stage) -> None:
        self._on_progress = on_progress
        self._stage = stage
        self.due_ns = PROGRESS_NS

    def report(self, elapsed_ns: int, calls: int, latencies_ns: Sequence[int]) -> None:
        """Report if it is time to."""
        if elapsed_ns < self.due_ns:
            return
        latency_ns = stats.median(latencies_ns[-PROGRESS_CALLS:])
        self._on_progress(Progress(self._stage, calls, latency_ns))
        self.due_ns = elapsed_ns + PROGRESS_NS
