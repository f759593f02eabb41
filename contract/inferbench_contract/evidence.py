"""What rounds allow to say: geometric means, ratios paired by round, their intervals, p-values and verdicts.

Rounds are fresh processes, so their medians are independent once the drift that they share is taken out by pairing.
Calls inside a round are not independent (lag-1 autocorrelation of 0.4 to 0.6 was measured): no interval is made
of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from inferbench_contract.words import Judgement, Verdict

T_975 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
    2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
    2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip
"""Student's t at 0.975 for 1 to 30 degrees of freedom: NIST/SEMATECH e-Handbook of Statistical Methods, 1.3.6.7.2."""

SIGNIFICANCE = 0.05
"""Two-sided; belongs to the 95 % intervals that are shown."""

TIE_WITHIN = 0.01
"""Two strategies whose whole interval lies within 1 % are the same to anybody who has to keep one of them running."""

MIN_ROUNDS = 2
"""A spread needs two values."""

MAX_LOG = 300.0
"""Of an estimate or an end of its interval: e^300 is beyond all that can be measured. Much farther out exp overflows,
or gives a 0 that nothing can be divided by."""

MAX_WHOLE = 2**53 - 1
"""The largest whole number that every reader of JSON keeps exact (RFC 7493, 2.2). Two rounds that differ a lot have an
interval that goes beyond it, and beyond the 64 bits of the API server."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A positive quantity known from rounds: the geometric mean, and the 95 % t-interval of the logs.

    `low` and `high` are None with fewer than two rounds.
    """

    value: float
    low: float | None
    high: float | None
    rounds: int
    error: float = 0.0
    """Standard error of the mean of the logs."""

    @property
    def p(self) -> float:
        """Two-sided p-value of "it is 1", for ratios."""
        return self.p_against(1.0)

    def p_against(self, value: float) -> float:
        """Two-sided p-value of "it is `value`"; 1 with fewer than two rounds."""
        if self.low is None:
            return 1.0
        distance = math.log(self.value / value)
        if self.error == 0:
            return 1.0 if distance == 0 else 0.0
        return two_sided_p(distance / self.error, self.rounds - 1)


def from_logs(logs: Sequence[float]) -> Estimate | None:
    """Estimate exp(mean) from one logarithm per round. None when there is none."""
    rounds = len(logs)
    if rounds == 0:
        return None
    mean = math.fsum(logs) / rounds
    if rounds < MIN_ROUNDS:
        return Estimate(_exp(mean), None, None, rounds)
    error = math.sqrt(math.fsum((log - mean) ** 2 for log in logs) / (rounds - 1) / rounds)
    half_width = t_975(rounds - 1) * error
    return Estimate(_exp(mean), _exp(mean - half_width), _exp(mean + half_width), rounds, error)


def _exp(log: float) -> float:
    return math.exp(min(max(log, -MAX_LOG), MAX_LOG))


def geometric_mean(values: Sequence[float]) -> Estimate | None:
    """Estimate a cell's latency from its round medians."""
    return from_logs([math.log(value) for value in values])


def paired_ratio(numerator: Mapping[int, float], denominator: Mapping[int, float]) -> Estimate | None:
    """Estimate numerator / denominator from values by round; rounds that lack either side are left out."""
    return from_logs(_log_ratios(numerator, denominator))


def mean_log_ratio(numerator: Mapping[int, float], denominator: Mapping[int, float]) -> float | None:
    """Return the logarithm of that estimate's value alone, to put many in order; None without a round of both."""
    logs = _log_ratios(numerator, denominator)
    return math.fsum(logs) / len(logs) if logs else None


def _log_ratios(numerator: Mapping[int, float], denominator: Mapping[int, float]) -> Sequence[float]:
    return [math.log(numerator[r] / denominator[r]) for r in numerator if r in denominator]


def whole(value: float | None) -> int | None:
    """Write a number as documents hold it: whole, and at most `MAX_WHOLE`."""
    return None if value is None else min(round(value), MAX_WHOLE)


def milli(value: float | None) -> int | None:
    """Write a ratio in thousandths."""
    return whole(None if value is None else 1000 * value)


def t_975(degrees_of_freedom: int) -> float:
    """Look up Student's t; beyond the table its last row, which is a little too wide and never too narrow."""
    return T_975[min(degrees_of_freedom, len(T_975)) - 1]


def two_sided_p(t: float, degrees_of_freedom: int) -> float:
    """Return the probability of a |t| at least this large; exact (Abramowitz and Stegun 26.7.3 and 26.7.4)."""
    angle = math.atan2(abs(t), math.sqrt(degrees_of_freedom))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = degrees_of_freedom % 2
    term = cosine if odd else 1.0
    total = 0.0
    for k in range(odd, degrees_of_freedom - 1, 2):
        total += term
        term *= cosine * cosine * (k + 1) / (k + 2)
    inside = 2 / math.pi * (angle + sine * total) if odd else sine * total
    return min(1.0, max(0.0, 1 - inside))


def holm(p_values: Sequence[float]) -> tuple[bool, ...]:
    """Tell which of a family of comparisons are significant together (Holm 1979: the family errs in at most 5 %)."""
    significant = [False] * len(p_values)
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        if p_values[index] > SIGNIFICANCE / (len(p_values) - rank):
            break
        significant[index] = True
    return tuple(significant)


def verdict(speedup: Estimate | None, *, significant: bool) -> Verdict:
    """Say what a speedup means: `Tie` if its whole interval is within 1 %, a direction only if it is significant."""
    if speedup is None or speedup.low is None or speedup.high is None:
        return Verdict.INCONCLUSIVE
    if speedup.low >= 1 / (1 + TIE_WITHIN) and speedup.high <= 1 + TIE_WITHIN:
        return Verdict.TIE
    if significant and speedup.low > 1:
        return Verdict.FASTER
    if significant and speedup.high < 1:
        return Verdict.SLOWER
    return Verdict.INCONCLUSIVE


def family_verdicts(speedups: Sequence[Estimate | None]) -> tuple[Verdict, ...]:
    """Judge the speedups of one table together: Holm decides which directions may be told."""
    significant = iter(holm([s.p for s in speedups if s is not None]))
    return tuple(verdict(s, significant=s is not None and next(significant)) for s in speedups)


def exceeds(ratio: Estimate | None, threshold: Fraction, claims: int = 1) -> Judgement:
    """Judge "the ratio is above the threshold" by where the whole interval lies.

    Of several claims that must all hold, any one that fails brings the statement down, so each failure has to be sure
    enough for all of them together (`claims`, Bonferroni); for holding no such care is needed.
    """
    if ratio is None or ratio.low is None or ratio.high is None:
        return Judgement.UNDECIDED
    if ratio.low > threshold:
        return Judgement.HOLDS
    return _failed(ratio, float(threshold), claims) if ratio.high <= threshold else Judgement.UNDECIDED


def lies_within(ratio: Estimate | None, tolerance: Fraction, claims: int = 1) -> Judgement:
    """Judge "the two are equal to within the tolerance" by where the whole interval lies; `claims` as in `exceeds`."""
    if ratio is None or ratio.low is None or ratio.high is None:
        return Judgement.UNDECIDED
    lowest, highest = 1 / (1 + tolerance), 1 + tolerance
    if lowest <= ratio.low and ratio.high <= highest:
        return Judgement.HOLDS
    if ratio.high < lowest or ratio.low > highest:
        return _failed(ratio, float(lowest if ratio.high < lowest else highest), claims)
    return Judgement.UNDECIDED


def _failed(ratio: Estimate, threshold: float, claims: int) -> Judgement:
    is_sure = claims == 1 or ratio.error == 0 or ratio.p_against(threshold) * claims <= SIGNIFICANCE
    return Judgement.DOES_NOT_HOLD if is_sure else Judgement.UNDECIDED
