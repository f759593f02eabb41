"""What the telemetry of a GPU, a fixed piece of work and measured limits say about a cell's numbers. They drop nothing.

`gpu` and `probes` find out what this judges. What each doubt means to people stands in `inferbench_contract.doubts`.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Self

from inferbench_contract.result import THROTTLE_REASONS, CellResult
from inferbench_contract.words import Doubt, Outcome, Precision, ThrottleReason
from inferbench_runner.gpu import Reading

THROTTLED_SHARE: Final = 0.1
"""Of a window's readings. A tenth of the calls, however slow, moves their median by little."""

ANCHOR_DRIFT: Final = 0.015
"""The same work at another time (benchtools.md 4.5); A/A pairs of fresh processes should differ by less, too."""

BUSY_PERCENT: Final = 5
"""Of the time before we began. An idle GPU says 0; a desktop's compositor 1 or 2."""

OWN_PROCESSES: Final = 1
"""While a cell is measured one process of ours computes: its own."""

NANOSECONDS_PER_SECOND: Final = 1_000_000_000

BYTES_PER_MEBIBYTE: Final = 1 << 20

MIN_ENERGY_NS: Final = 5 * NANOSECONDS_PER_SECOND
"""The counter moves about every 100 ms, and the sensor of an A100 sees a quarter of the time (arXiv 2312.02741)."""

MATRIX_MARGIN: Final = 1.25
"""How much faster real work can be than our probe: on an H200 a product of zeros ran 13 % faster than one of random
numbers, for it takes less power; the rest is for kernels that suit a shape better than the probe's."""

WINOGRAD_SAVING: Final = 2.25
"""Multiplications that F(2x2, 3x3) saves (Lavin and Gray, arXiv 1509.09308); larger tiles lose too many digits."""

BANDWIDTH_MARGIN: Final = 1.1
"""A copy, which reads and writes, does not reach what reading alone does."""

WEIGHT_BYTES: Final = {
    Precision.FP32: 4.0,
    Precision.TF32: 4.0,
    Precision.FP16: 2.0,
    Precision.BF16: 2.0,
    Precision.INT8_DYNAMIC: 1.0,
    Precision.INT8_STATIC: 1.0,
    Precision.FP8: 1.0,
}
"""The least that a weight takes. Weights that a strategy leaves in more bytes only make the true limit lower."""

SLOWEST_EVENT_NS: Final = 2_000
"""Events are 0.5 us apart at best, and each is some work for the GPU itself."""

CLOCK_TOLERANCE: Final = 0.02
"""Between the GPU's clock and the host's, which nobody sets by one another."""


MEASURED_FROM: Final = "measuredFrom"
BACK_TO_BACK_FROM: Final = "backToBackFrom"
MEASURED_TO: Final = "measuredTo"
"""In what a cell process says: begin and end of its timed calls, and of those back to back, on the monotonic clock."""


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of time on the monotonic clock."""

    begin_ns: int
    end_ns: int

    @classmethod
    def heard(cls, said: Mapping[str, Any], begin: str = MEASURED_FROM) -> Self | None:
        """Read what a cell process said (`told`); None where it crashed before, or said something else."""
        begin_ns, end_ns = said.get(begin), said.get(MEASURED_TO)
        return cls(begin_ns, end_ns) if isinstance(begin_ns, int) and isinstance(end_ns, int) else None

    def told(self, begin: str = MEASURED_FROM) -> dict[str, int]:
        """Return what a cell process says when its timed calls are over."""
        return {begin: self.begin_ns, MEASURED_TO: self.end_ns}

    def of(self, readings: Iterable[Reading]) -> Sequence[Reading]:
        """Return the readings within it."""
        return [reading for reading in readings if self.begin_ns <= reading.at_ns <= self.end_ns]


@dataclass(frozen=True, slots=True)
class Anchor:
    """How long a fixed piece of work took: one that only computes, and one that only copies."""

    compute_ns: int
    copy_ns: int


@dataclass(frozen=True, slots=True)
class Work:
    """What a model must do at least, whatever runs it."""

    operations_per_input: int
    """Floating-point operations of its convolutions and matrix products: a multiplication and an addition are two."""
    weights: int
    """How many numbers its weights are; each is read in every call."""
    has_convolutions: bool = True


@dataclass(frozen=True, slots=True)
class Roofline:
    """What this very GPU was measured to do."""

    bandwidth_bytes_per_second: int
    """Reading and writing memory, both counted."""
    l2_bytes: int
    """What can stay in the cache from call to call, and need not be read again."""
    operations_per_second: Mapping[str, int]
    """Of matrix products, by the name of the arithmetic: `fp32`, `tf32`, `fp16`, `bf16`, `int8`, `fp8`."""


@dataclass(frozen=True, slots=True)
class Energy:
    """What a stretch of back-to-back work took from the card's supply."""

    millijoules: int
    duration_ns: int

    @property
    def power_milliwatts(self) -> int:
        """Return the mean power."""
        return self.millijoules * NANOSECONDS_PER_SECOND // self.duration_ns


@dataclass(frozen=True, slots=True)
class Seen:
    """What was seen of the GPU around one cell."""

    readings: Sequence[Reading] = ()
    window: Window | None = None
    """When the cell made its timed calls, as it said itself; None when it did not get so far."""
    back_to_back: Window | None = None
    """When it made those of them between which nothing is waited for."""
    idle: Sequence[Reading] = ()
    """From a time when nothing of ours used the GPU."""
    before: Anchor | None = None
    after: Anchor | None = None
    work: Work | None = None
    roofline: Roofline | None = None


def judge(result: CellResult, precision: Precision, seen: Seen) -> CellResult:
    """Add to a cell what was seen of the GPU: doubts, and numbers. Without its own there is nothing to be doubted."""
    if result.outcome not in (Outcome.MEASURED, Outcome.INACCURATE):
        return result
    timed = seen.window.of(seen.readings) if seen.window is not None else ()
    found = {
        Doubt.THROTTLED: bool(throttle_reasons(timed)),
        Doubt.DRIFTED: seen.before is not None and seen.after is not None and have_drifted(seen.before, seen.after),
        Doubt.NOISY_NEIGHBOUR: is_busy(seen.idle) or is_shared(timed),
        Doubt.ABOVE_ROOFLINE: is_above_roofline(result, precision, seen.work, seen.roofline)
        or is_not_waited_for(result),
    }
    doubts = tuple(doubt for doubt in Doubt if doubt in result.doubts or found.get(doubt))
    return replace(
        result,
        doubts=doubts,
        power_milliwatts=power_milliwatts(seen),
        sm_clock_mhz=sm_clock_mhz(timed),
        throttle_bits=throttle_bits(timed),
        gpu_temperature_max_celsius=max(_told(reading.temperature_celsius for reading in timed), default=None),
        gpu_power_median_milliwatts=_median(reading.power_milliwatts for reading in timed),
        gpu_memory_max_mib=memory_max_mib(seen.readings),
    )


def power_milliwatts(seen: Seen) -> int | None:
    """Return the card's mean power while calls followed each other; None where that was not counted for long enough."""
    used = None if seen.back_to_back is None else energy(seen.back_to_back.of(seen.readings))
    return None if used is None else used.power_milliwatts


def throttle_reasons(readings: Sequence[Reading]) -> tuple[ThrottleReason, ...]:
    """Name the reasons for which the clocks were lowered during a share of the readings that matters.

    Idleness and somebody's fixed setting, the other reasons that NVML knows, are none of them.
    """
    counts = {reason: sum(reason in reading.reasons for reading in readings) for reason in ThrottleReason}
    return tuple(reason for reason, count in counts.items() if count > THROTTLED_SHARE * len(readings))


def sm_clock_mhz(timed: Sequence[Reading]) -> int | None:
    """Return the median clock of the card's multiprocessors; None where it was not read."""
    return _median(reading.sm_mhz for reading in timed)


def memory_max_mib(readings: Sequence[Reading]) -> int | None:
    """Return the most memory that was taken of the card, by whomever; None where it was not read."""
    most = max(_told(reading.memory_used_bytes for reading in readings), default=None)
    return None if most is None else most // BYTES_PER_MEBIBYTE


def throttle_bits(timed: Sequence[Reading]) -> int | None:
    """Return the reasons for which clocks were lowered as results carry them; None where nothing was read."""
    reasons = throttle_reasons(timed)
    return sum(1 << THROTTLE_REASONS.index(reason) for reason in reasons) if timed else None


def have_drifted(before: Anchor, after: Anchor) -> bool:
    """Tell whether the same work takes another time than before: heat, clocks, or somebody else on the card."""
    pairs = ((before.compute_ns, after.compute_ns), (before.copy_ns, after.copy_ns))
    return any(abs(last - first) > ANCHOR_DRIFT * min(first, last) for first, last in pairs)


def is_busy(idle: Sequence[Reading]) -> bool:
    """Tell whether the GPU worked for somebody while nothing of ours ran: in most of the readings, one may be old."""
    told = [reading.busy_percent for reading in idle if reading.busy_percent is not None]
    return sum(percent >= BUSY_PERCENT for percent in told) * 2 > len(told)


def is_shared(timed: Sequence[Reading]) -> bool:
    """Tell whether more processes computed on the card than ours. In some containers NVML shows none at all."""
    told = [reading.processes for reading in timed if reading.processes]
    return sum(count > OWN_PROCESSES for count in told) * 2 > len(told)


def is_above_roofline(result: CellResult, precision: Precision, work: Work | None, limits: Roofline | None) -> bool:
    """Tell whether a call took less time than this GPU can do its work in."""
    times = call_times_ns(result)
    if work is None or limits is None or not times:
        return False
    return min(times) < floor_ns(work, result.batch_size, precision, limits)


def call_times_ns(result: CellResult) -> Sequence[float]:
    """Return how long a call took, waited for and back to back."""
    times: list[float] = [] if result.latency_median_ns is None else [result.latency_median_ns]
    if result.throughput_milli_per_second:
        times.append(result.batch_size * 1000 * NANOSECONDS_PER_SECOND / result.throughput_milli_per_second)
    return times


def floor_ns(work: Work, batch_size: int, precision: Precision, limits: Roofline) -> float:
    """Return the time below which no call can be: of its arithmetic or of reading its weights, whichever is longer."""
    rate = operations_per_second(precision, limits)
    saving = WINOGRAD_SAVING if work.has_convolutions else 1.0
    computing = work.operations_per_input * batch_size / (rate * MATRIX_MARGIN * saving) if rate else 0.0
    read_bytes = max(0.0, work.weights * WEIGHT_BYTES[precision] - limits.l2_bytes)
    reading = read_bytes / (limits.bandwidth_bytes_per_second * BANDWIDTH_MARGIN)
    return max(computing, reading) * NANOSECONDS_PER_SECOND


def operations_per_second(precision: Precision, limits: Roofline) -> int | None:
    """Return the fastest arithmetic that a precision may use; None where it was not measured."""
    name = str(precision)
    return limits.operations_per_second.get("int8" if name.startswith("int8") else name)


def is_not_waited_for(result: CellResult) -> bool:
    """Tell whether the GPU needed longer for a call than the host waited for it: then somebody did not wait."""
    if result.device_median_ns is None or result.latency_median_ns is None:
        return False
    return result.latency_median_ns < (1 - CLOCK_TOLERANCE) * result.device_median_ns - SLOWEST_EVENT_NS


def energy(readings: Sequence[Reading]) -> Energy | None:
    """Return what the card took from the first reading to the last; None over less than 5 s, or without a counter."""
    told = [reading for reading in readings if reading.energy_millijoules is not None]
    if len(told) < 2 or told[-1].at_ns - told[0].at_ns < MIN_ENERGY_NS:
        return None
    used = (told[-1].energy_millijoules or 0) - (told[0].energy_millijoules or 0)
    return Energy(used, told[-1].at_ns - told[0].at_ns) if used > 0 else None


def _median(values: Iterable[int | None]) -> int | None:
    """Return the middle one of the values that were told, the higher of two."""
    told = _told(values)
    return statistics.median_high(told) if told else None


def _told(values: Iterable[int | None]) -> Sequence[int]:
    return [value for value in values if value is not None]
