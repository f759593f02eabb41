"""Order statistics of call times in whole nanoseconds. Robust ones, because call times have a long right tail.

What rounds allow to say about a cell stands in `inferbench_contract.evidence`; nothing here is an interval for people.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise

BLOCKS = 24
"""A round is cut into this many stretches of consecutive calls: enough to see a trend, few enough that each stays long
(benchtools.md 4.3 simulated the stopping rule with 24)."""

NORMAL_SD_PER_MAD = 1.4826
"""1 / Φ⁻¹(3/4): what makes the median absolute deviation of a normal distribution its standard deviation."""

PERCENTILE_CONFIDENCE = 0.99
"""MLPerf loadgen's confidence for early stopping (loadgen/results.cc, `double confidence = 0.99`)."""


def median(values: Sequence[int]) -> int:
    """Return the middle value; of two middle ones the mean, rounded down. Raises ValueError when there is none."""
    if not values:
        raise ValueError("a median needs at least one value")
    return math.floor(statistics.median(values))


def percentile(values: Sequence[int], percent: int) -> int | None:
    """Return the smallest value that at least `percent` % of all values do not exceed (nearest rank).

    None when there are too few values for it: a p99 of 20 samples is only another word for their maximum.
    """
    if len(values) < samples_needed(percent):
        return None
    return sorted(values)[-(-len(values) * percent // 100) - 1]


@lru_cache
def samples_needed(percent: int) -> int:
    """Count the samples that a percentile takes: p50 11, p90 64, p95 130, p99 662.

    MLPerf loadgen's early stopping (loadgen/early_stopping.cc, results.cc): the slowest sample may stand for the true
    percentile p once so many are there that one or none of them above p would be a surprise at 99 % confidence. Of n
    independent samples each lies above p with probability q = 1 - p, so that

        P(at most one above) = p^n + n q p^(n-1) <= 1 %

    and the answer is the smallest such n. Calls are not quite independent, so this is a floor, not a promise.
    """
    if not 1 <= percent <= 99:
        raise ValueError(f"{percent} is no percentile from 1 to 99")
    p, n = percent / 100, 2
    while p ** (n - 1) * (p + n * (1 - p)) > 1 - PERCENTILE_CONFIDENCE:
        n += 1
    return n


def robust_sd(values: Sequence[int]) -> float:
    """Estimate the standard deviation from the median absolute deviation: half of the values may be wild."""
    middle = statistics.median(values)
    return NORMAL_SD_PER_MAD * statistics.median([abs(value - middle) for value in values])


def lag1_autocorrelation(values: Sequence[float]) -> float:
    """Correlate each value with the one before it; 0 where nothing varies or fewer than three values are there."""
    if len(values) < 3:
        return 0.0
    mean = math.fsum(values) / len(values)
    deviations = [value - mean for value in values]
    spread = math.fsum(d * d for d in deviations)
    if spread == 0:
        return 0.0
    return math.fsum(a * b for a, b in pairwise(deviations)) / spread


def block_medians(values: Sequence[int], blocks: int = BLOCKS) -> tuple[int, ...]:
    """Return the medians of equal stretches of the values, in the order they came; fewer where fewer came."""
    blocks = min(blocks, len(values))
    edges = [len(values) * block // blocks for block in range(blocks + 1)] if blocks else [0]
    return tuple(median(values[start:end]) for start, end in pairwise(edges))
