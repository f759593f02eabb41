"""An interval that says 95 % covers the truth in 95 of 100 runs: 2,000 simulated experiments with fixed seeds each."""

import math
from functools import cache

import numpy as np
import pytest

from benchmarks import honesty
from benchmarks.honesty import PROCESS_SDS, World

EXPERIMENTS = 2_000
TRUTH = 1.05

per_process_sd = pytest.mark.parametrize(
    ("process_sd", "seed"), [(sd, seed) for seed, sd in enumerate(PROCESS_SDS)], ids=[f"{sd:.1%}" for sd in PROCESS_SDS]
)


@cache
def simulated(process_sd, seed, rounds=4, truth=TRUTH):
    """Simulate rounds that share 5 % of drift, and calls of which each is correlated with the one before by 0.5."""
    return World(process_sd).latencies(EXPERIMENTS, rounds, (truth, 1), seed)


def scaled(intervals, factor):
    """Return the same intervals with another half-width."""
    middle = intervals[:, honesty.VALUE, np.newaxis]
    return middle * (intervals / middle) ** factor


@pytest.mark.parametrize("rounds", [4, 8])
@per_process_sd
def test_the_interval_of_a_ratio_covers_the_truth(process_sd, seed, rounds):
    intervals = honesty.paired(simulated(process_sd, seed, rounds))

    assert 0.935 <= honesty.coverage(intervals, TRUTH) <= 0.97


@pytest.mark.parametrize(
    "factor",
    [
        pytest.param(1.960 / 3.182, id="the normal quantile instead of Student's"),
        pytest.param(math.sqrt(3 / 4), id="n instead of n - 1"),
        pytest.param(math.sqrt(2), id="as if both sides had the error of their ratio"),
    ],
)
@per_process_sd
def test_the_nearest_wrong_formulas_do_not(process_sd, seed, factor):
    intervals = scaled(honesty.paired(simulated(process_sd, seed)), factor)

    assert not 0.935 <= honesty.coverage(intervals, TRUTH) <= 0.97


@per_process_sd
def test_an_interval_over_the_calls_of_one_process_covers_it_in_less_than_half(process_sd, seed):
    intervals = honesty.over_calls(simulated(process_sd, seed))

    assert honesty.coverage(intervals, TRUTH) < 0.5


@per_process_sd
def test_an_interval_that_is_not_paired_is_so_wide_that_it_finds_nothing(process_sd, seed):
    latencies = simulated(process_sd, seed)

    assert honesty.coverage(honesty.unpaired(latencies), TRUTH) > 0.97
    assert honesty.says_slower(honesty.unpaired(latencies)) < honesty.says_slower(honesty.paired(latencies)) / 2


@per_process_sd
def test_two_that_are_the_same_are_called_different_in_one_run_of_twenty_at_most(process_sd, seed):
    intervals = honesty.paired(simulated(process_sd, seed, truth=1))

    assert honesty.says_different(intervals) < 0.065
    assert honesty.says_different(honesty.mean_of_20(simulated(process_sd, seed, truth=1))) > 0.3


@pytest.mark.parametrize(
    ("process_sd", "rounds", "found"),
    [(0.005, 4, 0.99), (0.02, 4, 0.55), (0.02, 8, 0.95), (0.05, 4, 0.10), (0.05, 8, 0.30)],
)
def test_a_true_difference_of_5_percent_is_found_the_more_often_the_quieter_the_machine(process_sd, rounds, found):
    """What docs/measuring.md says of how many rounds a difference needs."""
    intervals = honesty.paired(simulated(process_sd, seed=7, rounds=rounds))

    assert found < honesty.says_slower(intervals) < found + 0.15
