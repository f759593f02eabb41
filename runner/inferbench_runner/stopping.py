"""When a cell is warm, and when it has been measured for long enough. Questions to call times; they keep no state.

Neither answer is evidence: that comes from rounds. Stopping early only saves time where calls are steady, and going on
to the limit only spends it where they are not. Only the two limits depend on the benchmark's `measurement`.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import chain
from typing import Self

from inferbench_runner import stats

SECOND_NS = 1_000_000_000

WINDOW_NS = SECOND_NS // 4
"""Warm-up is judged in windows of 250 ms: clocks and caches settle over seconds, not over calls (benchtools.md 4.2)."""
WINDOW_CALLS = 5
"""Where a call takes longer than 50 ms the window grows with it: one odd call, or two, cannot be the median of five."""
WINDOWS = 4
SETTLED_SPAN = 0.006
"""Four windows within 0.6 % of each other: half of the 1 % within which strategies tie, and a little."""
SETTLED_SDS = 2.0
WARMUP_MIN_NS = SECOND_NS // 2
WARMUP_MIN_CALLS = 3

MIN_NS = SECOND_NS * 6 // 10
"""A shorter look sees one state of the machine (benchtools.md 4.3)."""
MIN_CALLS = 30
"""With fewer calls a round carries the doubt `FewSamples`."""
FLOOR_CALLS = 5
"""Made even when the time is long up: one odd call, or two, cannot be the median of five."""

TIGHT_HALF_WIDTH = 0.005
"""Steady enough: half of the 1 % within which strategies tie."""
T_975_23 = 2.069
"""Student's t for 24 blocks: NIST/SEMATECH e-Handbook of Statistical Methods, 1.3.6.7.2."""
MAX_AUTOCORRELATION = 0.9
"""Where the estimate is nearly 1, 24 blocks cannot tell it from 1, which would make every interval infinite."""

CHECK_GROWTH = 1.25
"""The next look at all calls comes when a quarter more time has gone: all looks together cost five at the end."""

LATENCY_SHARE = 0.8
"""Of a cell's seconds; the rest is for back-to-back throughput."""

LATENCY_LEAST_NS = SECOND_NS * 24 // 10
"""What the energy counter leaves to single calls: no less than they have of the 3 s that a cell gets by default."""

ENERGY_NS = SECOND_NS * 56 // 10
"""Back to back for the energy counter. The first and the last reading within must lie 5 s apart (`guards`); readings
come every 0.2 s and a little, so that up to as much is lost at each end."""


class Settling(StrEnum):
    """What showed that the warm-up could end."""

    STEADY = "Steady"
    """The last four windows agree within 0.6 %."""
    NOT_FALLING = "NotFalling"
    """They scatter more than that, but the last two are not faster than the two before by more than the scatter."""


class StopReason(StrEnum):
    """Why a round's timed calls ended."""

    STEADY = "Steady"
    """The medians of 24 blocks agree so well that more calls would change little."""
    TIME_IS_UP = "TimeIsUp"
    """`maxSecondsPerCell` has gone."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How long a cell may take in one round. Not counted: loading, the first call, and calls that never come back."""

    max_ns: int
    """All timed calls: those for latency and those for throughput."""
    warmup_max_ns: int
    energy_ns: int = 0
    """Back-to-back calls go on for at least this long, so that an energy counter tells what they took."""

    @classmethod
    def of_seconds(cls, max_seconds_per_cell: int, warmup_max_seconds: int, *, counts_energy: bool = False) -> Self:
        """Make them from `measurement.maxSecondsPerCell` and `measurement.warmupMaxSeconds`.

        Where the GPU counts its energy and the cell has the time (from 8 s on), a part of it is for that.
        """
        max_ns = max_seconds_per_cell * SECOND_NS
        has_time = max_ns - ENERGY_NS >= LATENCY_LEAST_NS
        energy_ns = ENERGY_NS if counts_energy and has_time else 0
        return cls(max_ns, warmup_max_seconds * SECOND_NS, energy_ns)

    @property
    def latency_max_ns(self) -> int:
        """The time for single synced calls."""
        return min(round(self.max_ns * LATENCY_SHARE), self.max_ns - self.energy_ns)

    @property
    def back_to_back_ns(self) -> int:
        """The time for throughput, in one go."""
        return self.max_ns - round(self.max_ns * LATENCY_SHARE)


def settling(windows: Sequence[Sequence[int]]) -> Settling | None:
    """Say what shows that the last four windows of calls are warm; None when they are not, or not yet four."""
    if len(windows) < WINDOWS:
        return None
    last = windows[-WINDOWS:]
    medians = [stats.median(window) for window in last]
    if max(medians) - min(medians) <= SETTLED_SPAN * min(medians):
        return Settling.STEADY
    before, after = list(chain(*last[:2])), list(chain(*last[2:]))
    scatter = stats.robust_sd(after) / math.sqrt(len(after))
    fall = stats.median(before) - stats.median(after)
    return Settling.NOT_FALLING if fall <= SETTLED_SDS * scatter else None


def window_is_full(calls: int, elapsed_ns: int) -> bool:
    """Tell whether a warm-up window has its 250 ms and its five calls."""
    return calls >= WINDOW_CALLS and elapsed_ns >= WINDOW_NS


def warmup_time_is_up(calls: int, elapsed_ns: int, limits: Limits) -> bool:
    """Tell whether the warm-up must end, warm or not. Three calls and half a second come first."""
    return calls >= WARMUP_MIN_CALLS and elapsed_ns >= max(WARMUP_MIN_NS, limits.warmup_max_ns)


def stop_reason(latencies_ns: Sequence[int], elapsed_ns: int, limits: Limits) -> StopReason | None:
    """Say why the timed calls are enough; None when they are not.

    At least 0.6 s and 30 calls, then until the block medians are tight, at most the limit; the limit wins over 30 calls
    but not over five. Costs a sort of all calls once past 0.6 s and 30: ask again only after `next_check_ns`.
    """
    calls = len(latencies_ns)
    if calls >= FLOOR_CALLS and elapsed_ns >= limits.latency_max_ns:
        return StopReason.TIME_IS_UP
    if calls < MIN_CALLS or elapsed_ns < MIN_NS:
        return None
    return StopReason.STEADY if half_width(stats.block_medians(latencies_ns)) <= TIGHT_HALF_WIDTH else None


def next_check_ns(elapsed_ns: int, limits: Limits) -> int:
    """Say at how much elapsed time the stop is worth asking about again."""
    if elapsed_ns < MIN_NS:
        return min(MIN_NS, limits.latency_max_ns)
    return min(round(elapsed_ns * CHECK_GROWTH), limits.latency_max_ns)


def half_width(medians: Sequence[int]) -> float:
    """Return the half-width of the mean of block medians over that mean, widened by their autocorrelation.

    With lag-1 autocorrelation r the mean of n values knows as much as n (1 - r) / (1 + r) independent ones.
    """
    mean = statistics.fmean(medians)
    r = min(max(stats.lag1_autocorrelation(medians), 0.0), MAX_AUTOCORRELATION)
    error = statistics.stdev(medians) / math.sqrt(len(medians)) * math.sqrt((1 + r) / (1 - r))
    return T_975_23 * error / mean if mean else 0.0
