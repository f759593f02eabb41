import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferbench_contract import cells
from inferbench_runner import stats

LATENCIES = st.lists(st.integers(0, 10**12), min_size=1, max_size=200)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        pytest.param([7], 7, id="of one value that value"),
        pytest.param([9, 1, 5], 5, id="of three the middle one, whatever their order"),
        pytest.param([1, 2, 10, 11], 6, id="of four the mean of the middle two"),
        pytest.param([1, 2], 1, id="rounded down to whole nanoseconds"),
    ],
)
def test_median(values, expected):
    assert stats.median(values) == expected


def test_a_median_of_nothing_is_an_error():
    with pytest.raises(ValueError, match="at least one value"):
        stats.median([])


def test_a_percentile_is_the_nearest_rank_so_it_is_a_value_that_was_measured():
    """Of 1..100 the 90th; interpolating would give 90.1 or 89.9."""
    values = list(range(100, 0, -1))

    assert stats.percentile(values, 90) == 90


@pytest.mark.parametrize(("percent", "needed"), [(50, 11), (75, 24), (90, 64), (95, 130), (99, 662)])
def test_a_percentile_needs_as_many_samples_as_in_mlperf(percent, needed):
    """The table of benchtools.md 2, computed there from MLPerf loadgen's formula."""
    assert stats.samples_needed(percent) == needed
    assert stats.percentile(range(needed), percent) is not None
    assert stats.percentile(range(needed - 1), percent) is None


def test_the_contract_pools_rounds_by_the_same_rule():
    assert tuple((percent, stats.samples_needed(percent)) for percent in (90, 99)) == cells.MIN_CALLS


@pytest.mark.parametrize("percent", [50, 90, 99])
def test_one_sample_fewer_than_needed_leaves_more_than_one_percent_of_doubt(percent):
    """In exact arithmetic: the chance that at most one of n samples lies above the true percentile."""
    p = Fraction(percent, 100)

    def chance(n):
        return sum(math.comb(n, k) * (1 - p) ** k * p ** (n - k) for k in (0, 1))

    needed = stats.samples_needed(percent)

    assert chance(needed) <= Fraction(1, 100) < chance(needed - 1)


@pytest.mark.parametrize("percent", [0, 100, -1])
def test_the_minimum_and_the_maximum_are_no_percentiles(percent):
    with pytest.raises(ValueError, match="no percentile"):
        stats.samples_needed(percent)


def test_the_robust_sd_of_a_normal_distribution_is_its_sd():
    """The quantiles of the standard normal distribution, times 1,000."""
    from statistics import NormalDist

    values = [round(1000 * NormalDist().inv_cdf((i + 0.5) / 999)) for i in range(999)]

    assert stats.robust_sd(values) == pytest.approx(1000, rel=0.005)


def test_outliers_leave_the_robust_sd_alone():
    steady = [98, 99, 100, 101, 102]

    assert stats.robust_sd([*steady, 10**9]) == pytest.approx(1.4826 * 1.5)


def test_lag_1_autocorrelation_has_the_textbook_value():
    """Of 1, 2, 3, 4: deviations -1.5 -0.5 0.5 1.5, so (0.75 - 0.25 + 0.75) / 5. Pearson's of the pairs would be 1."""
    assert stats.lag1_autocorrelation([1, 2, 3, 4]) == pytest.approx(0.25)


def test_values_that_alternate_are_negatively_correlated():
    assert stats.lag1_autocorrelation([1, -1] * 50) == pytest.approx(-0.99)


@pytest.mark.parametrize("values", [[], [1], [1, 2], [5, 5, 5, 5]])
def test_autocorrelation_is_0_where_it_has_no_meaning(values):
    assert stats.lag1_autocorrelation(values) == 0


def test_blocks_keep_the_order_of_the_calls():
    assert stats.block_medians([1, 2, 3, 10, 20, 30, 5, 5, 5], blocks=3) == (2, 20, 5)


@given(LATENCIES, st.integers(1, 30))
def test_there_are_as_many_blocks_as_asked_for_or_as_values(values, blocks):
    medians = stats.block_medians(values, blocks)

    assert len(medians) == min(blocks, len(values))
    assert all(min(values) <= middle <= max(values) for middle in medians)


def test_no_values_make_no_blocks():
    assert stats.block_medians([]) == ()


@given(LATENCIES)
def test_half_of_the_values_lie_on_each_side_of_the_median(values):
    middle = stats.median(values)

    assert sum(value < middle for value in values) <= len(values) / 2
    assert sum(value > middle + 1 for value in values) <= len(values) / 2


@given(st.lists(st.integers(0, 10**12), min_size=64, max_size=300), st.sampled_from([50, 75, 90]))
def test_a_percentile_covers_its_share_and_no_smaller_value_does(values, percent):
    value = stats.percentile(values, percent)

    assert value in values
    assert sum(other <= value for other in values) * 100 >= percent * len(values)
    assert sum(other < value for other in values) * 100 < percent * len(values)
