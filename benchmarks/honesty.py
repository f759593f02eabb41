"""Whether an interval that says 95 % covers the truth in 95 of 100 runs, and what other ways of comparing say instead.

    python benchmarks/honesty.py [--experiments 2000]

Simulated experiments with fixed seeds, through the statistics that the program uses (inferbench_contract.evidence). Two
strategies are measured in rounds. Every round has a drift that both share, every process an effect of its own that all
its calls share, and calls have noise that is correlated with the call before: what was seen on real machines
(docs/measuring.md). The truth is known here, so it can be counted how often each way of comparing is right.
"""

from __future__ import annotations

import argparse
import math
import platform
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

import inferbench_contract
from inferbench_contract import evidence
from inferbench_contract.evidence import Estimate
from inferbench_contract.words import Judgement, Verdict

Array = np.ndarray[Any, np.dtype[np.float64]]

EXPERIMENTS = 2_000
"""The count of right ones of so many has a standard deviation of half a percent where 95 % are."""

SEED = 20_260
PROCESS_SDS = (0.005, 0.02, 0.05)
"""A quiet GPU, a machine of one's own, a shared CPU."""

ROUNDS = 4
DIFFERENCE = 1.05
APART = 0.01
"""Figures without an interval say "different" when they are farther apart than what we call a tie."""

LOW, VALUE, HIGH = range(3)


@dataclass(frozen=True, slots=True)
class World:
    """Standard deviations of logarithms, from the slowest effect to the fastest."""

    process_sd: float
    drift_sd: float = 0.05
    call_sd: float = 0.02
    autocorrelation: float = 0.5
    calls: int = 100

    def latencies(self, experiments: int, rounds: int, truths: Sequence[float], seed: int) -> Array:
        """Simulate latencies by experiment, round, strategy and call; `truths` are the strategies' true latencies."""
        random = np.random.default_rng(seed)
        shape = (experiments, rounds, len(truths))
        level = random.normal(0, self.process_sd, shape) + random.normal(0, self.drift_sd, (experiments, rounds, 1))
        noise = random.normal(0, 1, (self.calls, *shape))
        fresh = math.sqrt(1 - self.autocorrelation**2)
        for call in range(1, self.calls):
            noise[call] = self.autocorrelation * noise[call - 1] + fresh * noise[call]
        return np.asarray(np.moveaxis(np.exp(np.log(truths) + level + self.call_sd * noise), 0, -1))


# ---- ways of comparing: latencies by experiment, round, strategy and call -> low, ratio and high by experiment -------


def ours(medians: Array, numerator: int = 0, denominator: int = 1) -> Estimate:
    """Estimate a ratio as the program does; `medians` are of one experiment by round and strategy."""
    by_round = [dict(enumerate(medians[:, side].tolist())) for side in (numerator, denominator)]
    found = evidence.paired_ratio(*by_round)
    assert found is not None
    return found


def paired(latencies: Array) -> Array:
    """Return the intervals of the program."""
    medians = np.median(latencies, axis=-1)
    return np.array([(e.low, e.value, e.high) for e in map(ours, medians)])


def unpaired(latencies: Array) -> Array:
    """Return Welch's interval of the logarithms of round medians, as if rounds shared nothing."""
    return _welch(np.log(np.median(latencies, axis=-1)))


def over_calls(latencies: Array) -> Array:
    """Return Welch's interval of the logarithms of the calls of one process each."""
    return _welch(np.log(np.moveaxis(latencies[:, 0], 1, -1)))


def minimum(latencies: Array) -> Array:
    """Return the ratio of the smallest calls of one process each."""
    return _figures(latencies[:, 0].min(axis=-1))


def mean_of_20(latencies: Array) -> Array:
    """Return the ratio of the mean of 20 calls of one process each."""
    return _figures(latencies[:, 0, :, :20].mean(axis=-1))


def _welch(logs: Array) -> Array:
    """Compare two samples, by experiment, value and side, with Welch's t-interval."""
    count = logs.shape[1]
    difference = logs[..., 0].mean(axis=1) - logs[..., 1].mean(axis=1)
    variances = logs.var(axis=1, ddof=1) / count
    freedom = variances.sum(axis=1) ** 2 / (variances**2 / (count - 1)).sum(axis=1)
    t = np.array([evidence.t_975(max(1, math.floor(f))) for f in freedom])
    half_width = t * np.sqrt(variances.sum(axis=1))
    return np.exp(np.stack([difference - half_width, difference, difference + half_width], axis=1))


def _figures(figures: Array) -> Array:
    ratio = figures[:, 0] / figures[:, 1]
    return np.stack([np.full_like(ratio, np.nan), ratio, np.full_like(ratio, np.nan)], axis=1)


WAYS: tuple[tuple[str, Callable[[Array], Array]], ...] = (
    ("minimum of 100 calls, one process each", minimum),
    ("mean of 20 calls, one process each", mean_of_20),
    ("95 % interval over 100 calls, one process each", over_calls),
    (f"95 % interval over {ROUNDS} processes, unpaired", unpaired),
    (f"inferbench: {ROUNDS} rounds, paired", paired),
)

# ---- what is counted -------------------------------------------------------------------------------------------------


def share(those: Array) -> float:
    """Return the share of true ones."""
    return float(np.mean(those))


def coverage(intervals: Array, truth: float) -> float:
    """Return how often the truth lies inside; not a number where there are no intervals."""
    if np.isnan(intervals[:, LOW]).all():
        return math.nan
    return share((intervals[:, LOW] <= truth) & (truth <= intervals[:, HIGH]))


def says_different(intervals: Array) -> float:
    """Return how often the two are called different: 1 is outside, or figures are more than 1 % apart."""
    if np.isnan(intervals[:, LOW]).all():
        return share(np.abs(np.log(intervals[:, VALUE])) > math.log(1 + APART))
    within = (intervals[:, LOW] >= 1 / (1 + APART)) & (intervals[:, HIGH] <= 1 + APART)
    return share(~within & ((intervals[:, LOW] > 1) | (intervals[:, HIGH] < 1)))


def says_slower(intervals: Array) -> float:
    """Return how often the first is called slower than the second, which it is in truth."""
    low = intervals[:, VALUE] / (1 + APART) if np.isnan(intervals[:, LOW]).all() else intervals[:, LOW]
    return share(low > 1)


def error(intervals: Array, truth: float) -> float:
    """Return by how much the ratio is wrong in the worst of twenty runs."""
    return float(np.exp(np.quantile(np.abs(np.log(intervals[:, VALUE] / truth)), 0.95)) - 1)


def smallest_found(intervals: Array) -> float:
    """Return the difference that four of five runs would find, from the intervals of two that are the same."""
    return float(np.exp(np.quantile(-np.log(intervals[:, LOW]), 0.8)) - 1)


# ---- tables ----------------------------------------------------------------------------------------------------------


def compare_ways(experiments: int) -> None:
    """Print what each way of comparing says about two that are the same, and two that are 5 % apart."""
    title(
        "Two strategies, one comparison",
        f"A/A: both are the same. A/B: the first takes {DIFFERENCE - 1:.0%} longer. Figures without an interval say "
        f'"different" when they are more than {APART:.0%} apart; most tools take the lower one whatever the distance. '
        "All of them measure the two within one round, so that they share its drift.",
    )
    header(
        "process sd",
        "way of comparing",
        "covers",
        'A/A: "different"',
        "A/B: found",
        "1 run in 20 is wrong by more than",
    )
    for place, process_sd in enumerate(PROCESS_SDS):
        world = World(process_sd)
        same = world.latencies(experiments, ROUNDS, (1, 1), SEED + place)
        apart = world.latencies(experiments, ROUNDS, (DIFFERENCE, 1), SEED + 100 + place)
        for name, way in WAYS:
            a_a, a_b = way(same), way(apart)
            numbers = (coverage(a_b, DIFFERENCE), says_different(a_a), says_slower(a_b), error(a_b, DIFFERENCE))
            row(f"{process_sd:.1%}", name, *map(percent, numbers))


def compare_rounds(experiments: int) -> None:
    """Print what more rounds find, paired and not."""
    title("How many rounds", f"How often a true {DIFFERENCE - 1:.0%} is found, and what 4 of 5 runs would find.")
    header("process sd", "rounds", "paired covers", "paired finds 5 %", "unpaired finds 5 %", "paired finds in 4 of 5")
    for place, process_sd in enumerate(PROCESS_SDS):
        for rounds in (2, 4, 5, 6, 8, 16):
            latencies = World(process_sd).latencies(experiments, rounds, (DIFFERENCE, 1), SEED + 200 + place)
            intervals = paired(latencies)
            numbers = (coverage(intervals, DIFFERENCE), says_slower(intervals), says_slower(unpaired(latencies)))
            row(f"{process_sd:.1%}", str(rounds), *map(percent, (*numbers, smallest_found(intervals / DIFFERENCE))))


def compare_many(experiments: int) -> None:
    """Print what choosing the best of several does to verdicts and intervals."""
    title(
        "The best of several that are all the same (process sd 2 %)",
        "A winner: the best is called Faster than the next. Told apart: it is called Faster than any of the others. "
        "The last two columns are of the best one's speedup over the baseline, where it is not the baseline itself.",
    )
    header("rounds", "strategies", "a winner", "told apart", "without Holm", "speedup covers", 'speedup: "Faster"')
    for rounds in (4, 8):
        for strategies in (2, 3, 5, 10):
            world = World(0.02, calls=20)
            latencies = world.latencies(experiments, rounds, (1.0,) * strategies, SEED + 300 + strategies)
            counted = np.nanmean([_best_of(medians) for medians in np.median(latencies, axis=-1)], axis=0)
            row(str(rounds), str(strategies), *map(percent, counted))


def _best_of(medians: Array) -> tuple[float, ...]:
    """Choose the best of one experiment as the summary does; the first strategy is the baseline."""
    winner, *others = np.argsort(np.log(medians).mean(axis=0)).tolist()
    margins = [ours(medians, other, winner) for other in others]
    verdicts = evidence.family_verdicts(margins)
    alone = [evidence.verdict(margin, significant=True) for margin in margins]
    told = verdicts[0] is Verdict.FASTER, Verdict.FASTER in verdicts, Verdict.FASTER in alone
    if winner == 0:
        return (*told, math.nan, math.nan)
    speedups = [ours(medians, 0, strategy) for strategy in range(1, medians.shape[1])]
    speedup, verdict = speedups[winner - 1], evidence.family_verdicts(speedups)[winner - 1]
    covers = (speedup.low or 0) <= 1 <= (speedup.high or math.inf)
    return (*told, covers, verdict is Verdict.FASTER)


def compare_expectations(experiments: int) -> None:
    """Print how often a statement about several batch sizes is judged wrongly at its very edge."""
    title(
        'Expectations: "A is faster than B by 1.1x" at several batch sizes (process sd 2 %)',
        "At its edge: the ratio is a hair above 1.1 everywhere, so DoesNotHold is wrong. False: it is 1.1 at one batch "
        "size and 1.5 at the others, so Holds is wrong. A 95 % interval allows 2.5 % on each side.",
    )
    header("batch sizes", "at its edge: DoesNotHold", "true with 1.12: DoesNotHold", "false: Holds")
    for sizes in (1, 4, 10):
        numbers = (
            _judged(experiments, [1.1] * sizes)[Judgement.DOES_NOT_HOLD],
            _judged(experiments, [1.12] * sizes)[Judgement.DOES_NOT_HOLD],
            _judged(experiments, [1.1] + [1.5] * (sizes - 1))[Judgement.HOLDS],
        )
        row(str(sizes), *map(percent, numbers))


def _judged(experiments: int, ratios: Sequence[float]) -> dict[Judgement, float]:
    """Return the share of experiments in which all ratios exceed 1.1, one does not, or neither is sure."""
    truths = [latency for ratio in ratios for latency in (ratio, 1.0)]
    latencies = World(0.02, calls=20).latencies(experiments, ROUNDS, truths, SEED + 400 + len(ratios))
    counts = dict.fromkeys(Judgement, 0)
    threshold = Fraction(11, 10)
    for medians in np.median(latencies, axis=-1):
        claims = len(ratios)
        judged = {evidence.exceeds(ours(medians, 2 * i, 2 * i + 1), threshold, claims) for i in range(claims)}
        order = (Judgement.DOES_NOT_HOLD, Judgement.UNDECIDED, Judgement.HOLDS)
        counts[min(judged, key=order.index)] += 1
    return {judgement: count / experiments for judgement, count in counts.items()}


def compare_worlds(experiments: int) -> None:
    """Print the coverage where the simulation is less kind than t assumes."""
    title(
        "Processes that Student's t was not made for",
        "Two strategies whose mean logarithms are the same, paired by round.",
    )
    header("process effects", "4 rounds cover", '4 rounds: "different"', "8 rounds cover", '8 rounds: "different"')
    for place, (name, effects) in enumerate(UNKIND):
        numbers = []
        for rounds in (4, 8):
            random = np.random.default_rng(SEED + 500 + 10 * place + rounds)
            logs = effects(random, (experiments, rounds, 2)) + random.normal(0, 0.05, (experiments, rounds, 1))
            intervals = paired(np.exp(logs)[..., np.newaxis])
            numbers += [coverage(intervals, 1), says_different(intervals)]
        row(name, *map(percent, numbers))


Shape = tuple[int, ...]


def _normal(random: np.random.Generator, shape: Shape) -> Array:
    return random.normal(0, 0.02, shape)


def _heavy(random: np.random.Generator, shape: Shape) -> Array:
    return 0.02 / math.sqrt(3) * random.standard_t(3, shape)


def _two_kinds(random: np.random.Generator, shape: Shape) -> Array:
    return random.normal(0, 0.005, shape) + np.where(random.random(shape) < 0.2, 0.10, 0.0)


def _two_kinds_of_one(random: np.random.Generator, shape: Shape) -> Array:
    """Only the first strategy has slow processes; the truth is its mean logarithm, which is taken off here."""
    slow = np.where(random.random(shape[:2]) < 0.2, 0.10, 0.0) - 0.02
    return random.normal(0, 0.005, shape) + np.stack([slow, np.zeros_like(slow)], axis=-1)


def _steady_drift(random: np.random.Generator, shape: Shape) -> Array:
    """Slow the machine by 1 % from sweep to sweep; every second round is reversed, as in a plan."""
    rounds = shape[1]
    place = np.array([[2 * r, 2 * r + 1] if r % 2 == 0 else [2 * r + 1, 2 * r] for r in range(rounds)])
    return random.normal(0, 0.02, shape) + 0.01 * place


UNKIND: tuple[tuple[str, Callable[[np.random.Generator, Shape], Array]], ...] = (
    ("normal, 2 %", _normal),
    ("heavy tails (t with 3 degrees of freedom), 2 %", _heavy),
    ("1 process of 5 is 10 % slower, both strategies", _two_kinds),
    ("1 process of 5 is 10 % slower, one strategy", _two_kinds_of_one),
    ("normal 2 %, and 1 % slower from sweep to sweep", _steady_drift),
)

# ---- printing --------------------------------------------------------------------------------------------------------


def title(name: str, note: str) -> None:
    """Begin a table."""
    print(f"\n### {name}\n\n{note}\n")


def header(*names: str) -> None:
    """Print the names of the columns."""
    row(*names)
    print("|" + " --- |" * len(names))


def row(*cells: str) -> None:
    """Print a row."""
    print(f"| {' | '.join(cells)} |")


def percent(value: float) -> str:
    """Write a share; nothing where there is none."""
    return "-" if math.isnan(value) else f"{value:.1%}"


PARTS: tuple[Callable[[int], None], ...] = (
    compare_ways,
    compare_rounds,
    compare_many,
    compare_expectations,
    compare_worlds,
)


def simulate(experiments: int, parts: Iterable[Callable[[int], None]] = PARTS) -> None:
    """Print all simulated tables, and how they came about."""
    began = time.perf_counter()
    world = World(PROCESS_SDS[0])
    print(
        f"{experiments:,} simulated experiments each, seeds from {SEED}. Drift between rounds {world.drift_sd:.0%}; "
        f"{world.calls} calls a process, their noise {world.call_sd:.0%} with lag-1 autocorrelation "
        f"{world.autocorrelation}.\n"
        f"inferbench {inferbench_contract.__version__}, numpy {np.__version__}, Python {platform.python_version()}."
    )
    for part in parts:
        part(experiments)
    print(f"\nTook {time.perf_counter() - began:.0f} s.")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--experiments", type=int, default=EXPERIMENTS, help="simulated experiments (default: %(default)s)"
    )
    simulate(parser.parse_args().experiments)


if __name__ == "__main__":
    main()
