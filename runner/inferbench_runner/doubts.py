"""Reasons to trust a measurement less, from what was timed and what else went on. Doubts flag; they never drop data.

What each means, and what helps, is told in `inferbench_contract.doubts`.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

from inferbench_contract.words import Doubt
from inferbench_runner import stopping
from inferbench_runner.circumstances import Disturbance
from inferbench_runner.measure import Measurement

DRIFT = 0.02
"""Smaller changes within a round are what interleaved rounds take care of."""
DRIFT_SDS = 5.0
"""Calls of a steady machine are autocorrelated (0.4 to 0.6 was measured), so its ends differ by more than the scatter
within them says. Five keeps false alarms below 2 % at 0.5, even where a block is one call (simulated in the test)."""

SLOWER_BACK_TO_BACK = 1.5
"""Not waiting between calls saves time and costs none, so calls back to back that take longer than single ones met
another machine. Half as long again is beyond what the scatter of calls makes of a mean and a median."""

NEIGHBOUR_SHARE = 0.05
"""Of the machine's CPU time. A quiet virtual machine shows up to 0.05 CPUs of others per CPU (backends.md 7)."""

LAUNCH_BOUND_SHARE = 0.8
"""trtexec warns from here on (TensorRT, samples/common/sampleReporting.cpp)."""

GENERIC_RESOURCE: Final = "builder_resource_ptx"
"""In the name of the library that TensorRT builds from where it has none for an architecture of its own (`_sm90`)."""


def find(
    measurement: Measurement, disturbance: Disturbance, notes: Mapping[str, Any] = MappingProxyType({})
) -> tuple[Doubt, ...]:
    """Name the doubts of one cell in one round, in the order in which `Doubt` lists them.

    `notes` are what the session says of how it was made.
    """
    found = {
        Doubt.UNSETTLED: measurement.warm_up.settling is None,
        Doubt.THROTTLED: is_throttled(disturbance),
        Doubt.DRIFTED: has_drifted(measurement) or is_slower_back_to_back(measurement),
        Doubt.NOISY_NEIGHBOUR: has_noisy_neighbour(disturbance),
        Doubt.LAUNCH_BOUND: is_launch_bound(measurement),
        Doubt.FEW_SAMPLES: len(measurement.timed.latencies_ns) < stopping.MIN_CALLS,
        Doubt.GENERIC_KERNELS: has_generic_kernels(notes),
    }
    return tuple(doubt for doubt in Doubt if found.get(doubt))


def has_generic_kernels(notes: Mapping[str, Any]) -> bool:
    """Tell whether TensorRT's builder had its PTX alone to build from, and nothing for this kind of GPU."""
    resources = str(notes.get("builderResource", "")).split(",")
    return all(GENERIC_RESOURCE in resource for resource in resources)


def is_throttled(disturbance: Disturbance) -> bool:
    """Tell whether a CPU quota stopped us. What slowed a GPU down, `guards` tells."""
    return disturbance.throttled_periods > 0 or disturbance.throttled_us > 0


def has_noisy_neighbour(disturbance: Disturbance) -> bool:
    """Tell whether others, in this machine or beside it on the host, took a share of its CPU time that matters."""
    return disturbance.taken_ticks > NEIGHBOUR_SHARE * disturbance.total_ticks


def others_percent(disturbance: Disturbance) -> int | None:
    """Return the share that others took of the machine's CPU time; None where no time was counted."""
    total = disturbance.total_ticks
    return min(100, round(100 * disturbance.taken_ticks / total)) if total else None


def is_launch_bound(measurement: Measurement) -> bool:
    """Tell whether the host was busy starting work for most of the time the device needed for it."""
    enqueue_ns, device_ns = measurement.enqueue_median_ns, measurement.device_median_ns
    return enqueue_ns is not None and device_ns is not None and enqueue_ns > LAUNCH_BOUND_SHARE * device_ns


def has_drifted(measurement: Measurement) -> bool:
    """Tell whether the round ended at another speed than it began. With few samples nothing can be told."""
    if len(measurement.timed.latencies_ns) < stopping.MIN_CALLS:
        return False
    medians = measurement.block_medians_ns
    third = len(medians) // 3
    return differ(medians[:third], medians[-third:])


def is_slower_back_to_back(measurement: Measurement) -> bool:
    """Tell whether latency and throughput contradict each other: a call in a row took much longer than a single one."""
    row = measurement.back_to_back
    return row.elapsed_ns > SLOWER_BACK_TO_BACK * measurement.latency_median_ns * row.calls


def differ(first: Sequence[int], last: Sequence[int]) -> bool:
    """Tell whether two ends of a round differ by more than 2 % and by more than their own scatter explains."""
    before, after = statistics.fmean(first), statistics.fmean(last)
    change = abs(after - before)
    error = math.sqrt(statistics.variance(first) / len(first) + statistics.variance(last) / len(last))
    return change > DRIFT * min(before, after) and change > DRIFT_SDS * error
