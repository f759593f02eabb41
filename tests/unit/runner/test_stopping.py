import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferbench_runner import stats, stopping
from inferbench_runner.stopping import Limits, Settling, StopReason
from tests.fakes import MILLISECOND, SECOND

LIMITS = Limits.of_seconds(3, 8)


def around(level, calls=20, spread=0):
    """Calls of which half lie `spread` above and half below the level, so that their robust sd is 1.4826 spreads."""
    return [level + (spread if i % 2 else -spread) for i in range(calls)]


@pytest.mark.parametrize(
    ("levels", "spread", "expected"),
    [
        pytest.param([1000, 1000, 1000, 1000], 0, Settling.STEADY, id="equal windows are settled"),
        pytest.param([1006, 1000, 1003, 1000], 0, Settling.STEADY, id="a span of exactly 0.6 % is settled"),
        pytest.param([1007, 1007, 1000, 1000], 0, None, id="a fall of 0.7 % that nothing explains is not"),
        pytest.param([1000, 1000, 1007, 1007], 0, Settling.NOT_FALLING, id="getting slower is not warming up"),
        pytest.param([1100, 1050, 1050, 1100], 0, Settling.NOT_FALLING, id="going up and down is not falling"),
        pytest.param([3000, 1000, 1000, 1000], 0, None, id="one slow window at the beginning is still a fall"),
        pytest.param([1012, 1012, 1000, 1000], 30, Settling.NOT_FALLING, id="a fall within the scatter is none"),
        pytest.param([1020, 1020, 1000, 1000], 30, None, id="a fall beyond the scatter is one"),
        pytest.param([9000, 1000, 1000, 1000, 1000], 0, Settling.STEADY, id="only the last four count"),
        pytest.param([1000, 1000, 1000], 0, None, id="three windows are too few"),
        pytest.param([], 0, None, id="nothing is settled before anything was called"),
    ],
)
def test_settling(levels, spread, expected):
    """Two robust sd of 40 calls that lie 30 off are 2 * 1.4826 * 30 / sqrt(40) = 14.07."""
    windows = [around(level, spread=spread) for level in levels]

    assert stopping.settling(windows) is expected


@pytest.mark.parametrize(
    ("calls", "seconds", "expected"),
    [
        pytest.param(100, 7.9, False, id="there is time left"),
        pytest.param(100, 8, True, id="the limit is reached"),
        pytest.param(2, 60, False, id="three calls come first, however long they take"),
        pytest.param(3, 60, True, id="and no more than three"),
    ],
)
def test_warming_up_ends_at_its_limit(calls, seconds, expected):
    assert stopping.warmup_time_is_up(calls, int(seconds * SECOND), LIMITS) is expected


def test_warming_up_takes_half_a_second_even_where_no_time_is_given():
    none = Limits(max_ns=SECOND, warmup_max_ns=0)

    assert not stopping.warmup_time_is_up(1000, SECOND // 2 - 1, none)
    assert stopping.warmup_time_is_up(1000, SECOND // 2, none)


@pytest.mark.parametrize(
    ("calls", "milliseconds", "expected"), [(4, 10_000, False), (5, 249, False), (5, 250, True), (1000, 250, True)]
)
def test_a_window_has_250_ms_and_five_calls(calls, milliseconds, expected):
    assert stopping.window_is_full(calls, milliseconds * MILLISECOND) is expected


STEADY = [MILLISECOND] * 1000
WILD = [MILLISECOND * (1 + i % 7) for i in range(1000)]


@pytest.mark.parametrize(
    ("latencies", "seconds", "expected"),
    [
        pytest.param(STEADY, 0.5, None, id="0.6 s come first, however steady the calls are"),
        pytest.param(STEADY[:29], 0.9, None, id="so do 30 calls"),
        pytest.param(STEADY[:30], 0.6, StopReason.STEADY, id="then steady calls are enough"),
        pytest.param(WILD[:50], 2.3, None, id="calls that scatter go on"),
        pytest.param(WILD[:50], 2.4, StopReason.TIME_IS_UP, id="until four fifths of the cell's seconds are gone"),
        pytest.param(STEADY[:29], 2.4, StopReason.TIME_IS_UP, id="the limit wins over 30 calls"),
        pytest.param(STEADY[:4], 60, None, id="but not over five"),
        pytest.param(STEADY[:5], 60, StopReason.TIME_IS_UP, id="and no more than five"),
    ],
)
def test_stopping(latencies, seconds, expected):
    assert stopping.stop_reason(latencies, int(seconds * SECOND), LIMITS) is expected


def test_a_slow_wander_goes_on_where_independent_scatter_of_the_same_size_stops():
    """Autocorrelated blocks know less than their number says: calls of one process were seen to be off by 28 %."""
    scatter = [round(MILLISECOND * (1 + 0.008 * math.sin(40 * i))) for i in range(24)]
    wander = sorted(scatter)

    assert stopping.half_width(scatter) <= stopping.TIGHT_HALF_WIDTH < stopping.half_width(wander)


def test_the_half_width_is_that_of_a_t_interval():
    """12 blocks of 99 and 12 of 101, alternating (r is negative and counts as 0): sd = sqrt(24/23)."""
    medians = [99, 101] * 12

    assert stopping.half_width(medians) == pytest.approx(2.069 * math.sqrt(24 / 23) / math.sqrt(24) / 100)


def test_autocorrelation_widens_the_half_width():
    """A ramp of n has r = 1 - 3 / n, and the factor is sqrt((1 + r) / (1 - r))."""
    ramp = list(range(1001, 1025))
    r = stats.lag1_autocorrelation(ramp)

    assert r == pytest.approx(1 - 3 / 24)
    plain = 2.069 * math.sqrt(50) / math.sqrt(24) / 1012.5
    assert stopping.half_width(ramp) == pytest.approx(plain * math.sqrt((1 + r) / (1 - r)))


def test_a_cell_spends_four_fifths_of_its_seconds_on_latency_and_one_on_throughput():
    assert LIMITS.latency_max_ns == 2_400 * MILLISECOND
    assert LIMITS.back_to_back_ns == 600 * MILLISECOND


@pytest.mark.parametrize(
    ("seconds", "counts_energy", "latency_s", "energy_s"),
    [
        pytest.param(3, True, 2.4, 0, id="by default there is no time for it"),
        pytest.param(7, True, 5.6, 0, id="nor where single calls would have less than by default"),
        pytest.param(8, True, 2.4, 5.6, id="from 8 s on there is"),
        pytest.param(20, True, 14.4, 5.6, id="and single calls have the rest"),
        pytest.param(40, True, 32, 5.6, id="but no more than four fifths"),
        pytest.param(8, False, 6.4, 0, id="nobody counts energy"),
    ],
)
def test_where_energy_is_counted_a_long_cell_leaves_time_for_it(seconds, counts_energy, latency_s, energy_s):
    limits = Limits.of_seconds(seconds, 8, counts_energy=counts_energy)

    assert limits.latency_max_ns == round(latency_s * SECOND)
    assert limits.energy_ns == round(energy_s * SECOND)
    assert limits.back_to_back_ns == seconds * SECOND // 5


@given(st.integers(1, 3600))
def test_all_looks_at_the_calls_together_cost_no_more_than_about_five_at_the_end(seconds):
    """Each look costs what there is to look at, so their sum is bounded: no quadratic work between timed calls."""
    limits = Limits.of_seconds(seconds, 8)
    looks = []
    elapsed = 0
    while elapsed < limits.latency_max_ns:
        elapsed = stopping.next_check_ns(elapsed, limits)
        looks.append(elapsed)

    assert looks == sorted(set(looks))
    assert looks[-1] == limits.latency_max_ns
    assert sum(looks) <= 6 * limits.latency_max_ns
