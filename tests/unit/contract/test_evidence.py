import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferbench_contract import evidence
from inferbench_contract.evidence import Estimate
from inferbench_contract.words import Judgement, Verdict

LATENCIES = st.floats(1e2, 1e12)
ROUNDS = st.lists(st.tuples(LATENCIES, LATENCIES), min_size=2, max_size=12)
P_VALUES = st.lists(st.floats(0, 1), max_size=12)


def by_round(values):
    return dict(enumerate(values))


def from_to(low, high, p=0.0):
    """Return a ratio of four rounds with this interval and this p-value."""
    value = math.sqrt(low * high)
    return Estimate(value, low, high, 4, abs(math.log(value)) / t_of(p) if p else 0.0)


def t_of(p):
    """Return the t that has this two-sided p-value with three degrees of freedom, by halving."""
    low, high = 0.0, 1e6
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if evidence.two_sided_p(middle, 3) > p else (low, middle)
    return low


NO_INTERVAL = Estimate(2.0, None, None, 1)


# ---- Student's t ---------------------------------------------------------------------------------


@pytest.mark.parametrize("t", [0.0, 0.1, 1.0, 2.5, 12.706, 300.0])
@pytest.mark.parametrize(
    ("degrees_of_freedom", "cumulative"),
    [
        pytest.param(1, lambda t: 1 / 2 + math.atan(t) / math.pi, id="1"),
        pytest.param(2, lambda t: 1 / 2 + t / 2 / math.sqrt(2 + t * t), id="2"),
        pytest.param(
            3, lambda t: 1 / 2 + (t / math.sqrt(3) / (1 + t * t / 3) + math.atan(t / math.sqrt(3))) / math.pi, id="3"
        ),
        pytest.param(
            4, lambda t: 1 / 2 + 3 / 8 * t / math.sqrt(1 + t * t / 4) * (1 - t * t / (1 + t * t / 4) / 12), id="4"
        ),
    ],
)
def test_a_p_value_is_both_tails_of_students_distribution(degrees_of_freedom, cumulative, t):
    both_tails = 2 * (1 - cumulative(t))

    assert evidence.two_sided_p(t, degrees_of_freedom) == pytest.approx(both_tails, abs=1e-12)
    assert evidence.two_sided_p(-t, degrees_of_freedom) == evidence.two_sided_p(t, degrees_of_freedom)


@pytest.mark.parametrize("degrees_of_freedom", [*range(1, 31), 99])
def test_a_p_value_is_what_integrating_the_density_gives(degrees_of_freedom):
    n, t, steps = degrees_of_freedom, 2.0, 400
    scale = math.exp(math.lgamma((n + 1) / 2) - math.lgamma(n / 2)) / math.sqrt(n * math.pi)
    density = [scale * (1 + (t * k / steps) ** 2 / n) ** (-(n + 1) / 2) for k in range(steps + 1)]
    simpson = t / steps / 3 * (density[0] + density[-1] + 4 * sum(density[1:-1:2]) + 2 * sum(density[2:-1:2]))

    assert evidence.two_sided_p(t, n) == pytest.approx(1 - 2 * simpson, abs=1e-9)


@pytest.mark.parametrize("degrees_of_freedom", range(1, 31))
def test_the_table_of_t_has_the_quantiles_to_its_last_digit(degrees_of_freedom):
    t = evidence.t_975(degrees_of_freedom)

    below, above = (evidence.two_sided_p(t + step, degrees_of_freedom) for step in (-0.00051, 0.00051))

    assert below > 0.05 > above


@pytest.mark.parametrize("degrees_of_freedom", [31, 60, 99])
def test_beyond_the_table_an_interval_is_a_little_too_wide_and_never_too_narrow(degrees_of_freedom):
    t = evidence.t_975(degrees_of_freedom)

    assert 0.043 < evidence.two_sided_p(t, degrees_of_freedom) < 0.05


# ---- estimates -----------------------------------------------------------------------------------


def test_a_latency_is_the_geometric_mean_of_its_rounds():
    """The arithmetic mean would be 50.5."""
    assert evidence.geometric_mean([1.0, 100.0]).value == pytest.approx(10)


def test_an_interval_is_students_of_the_logarithms():
    """Of 0, 1, 2, 3: the mean is 3/2, the standard deviation sqrt(5/3) with n - 1, its error sqrt(5/12)."""
    estimate = evidence.geometric_mean([math.e**k for k in range(4)])

    half_width = 3.182 * math.sqrt(5 / 12)
    assert estimate.rounds == 4
    assert math.log(estimate.low) == pytest.approx(1.5 - half_width)
    assert math.log(estimate.high) == pytest.approx(1.5 + half_width)


def test_a_p_value_asks_whether_the_ratio_is_1():
    """Of 0, 1, 2, 3 the t is 3/2 over sqrt(5/12), with 3 degrees of freedom."""
    estimate = evidence.from_logs([0, 1, 2, 3])

    t = 1.5 / math.sqrt(5 / 12)
    closed_form = 1 - 2 / math.pi * (math.atan(t / math.sqrt(3)) + t * math.sqrt(3) / (3 + t * t))
    assert estimate.p == pytest.approx(closed_form)


def test_nothing_is_known_from_no_rounds():
    assert evidence.from_logs([]) is None
    assert evidence.geometric_mean([]) is None
    assert evidence.paired_ratio({0: 1.0}, {1: 1.0}) is None


def test_one_round_gives_a_value_and_no_interval():
    estimate = evidence.paired_ratio({0: 3.0}, {0: 2.0})

    assert estimate == Estimate(pytest.approx(1.5), None, None, 1)
    assert estimate.p == 1.0


@pytest.mark.parametrize("logs", [(0.0, 60.0), (-60.0, 60.0), (900.0,), (-900.0, -900.0)])
def test_however_far_rounds_are_apart_an_estimate_is_a_positive_number(logs):
    estimate = evidence.from_logs(logs)

    ends = [end for end in (estimate.low, estimate.value, estimate.high) if end is not None]
    assert all(0 < end < math.inf for end in ends)
    assert ends == sorted(ends)


def test_documents_hold_no_number_that_a_reader_of_json_could_not_keep():
    assert (evidence.whole(1e30), evidence.milli(1e30)) == (2**53 - 1, 2**53 - 1)
    assert (evidence.whole(2.4), evidence.milli(1.25), evidence.whole(None)) == (2, 1250, None)


@given(ROUNDS)
def test_what_puts_many_in_order_is_the_logarithm_of_their_ratio(rounds):
    a, b = by_round(one for one, _ in rounds), by_round(other for _, other in rounds)

    assert math.exp(evidence.mean_log_ratio(a, b)) == pytest.approx(evidence.paired_ratio(a, b).value)
    assert evidence.mean_log_ratio(a, {-1: 1.0}) is None


def test_a_ratio_is_paired_by_round():
    """The machine is 100 times slower in one round, for both: what is said of the ratio stays exact."""
    estimate = evidence.paired_ratio({0: 2.0, 1: 200.0, 2: 2.2}, {0: 1.0, 1: 100.0, 2: 1.1})

    assert (estimate.low, estimate.value, estimate.high) == pytest.approx((2, 2, 2))


def test_rounds_that_lack_either_side_are_left_out():
    """Without pairing, the ratio of the geometric means would be 4 / 5."""
    estimate = evidence.paired_ratio({0: 4.0, 1: 4.0, 2: 4.0}, {1: 2.0, 2: 2.0, 3: 31.25, 4: 25.0})

    assert estimate.value == pytest.approx(2)
    assert estimate.rounds == 2


@given(ROUNDS, st.lists(st.floats(0.7, 1.3), min_size=12, max_size=12))
def test_a_drift_that_both_sides_share_changes_nothing(rounds, drift):
    calm = evidence.paired_ratio(by_round(a for a, _ in rounds), by_round(b for _, b in rounds))
    drifted = evidence.paired_ratio(
        by_round(a * d for (a, _), d in zip(rounds, drift, strict=False)),
        by_round(b * d for (_, b), d in zip(rounds, drift, strict=False)),
    )

    assert (drifted.value, drifted.low, drifted.high) == pytest.approx((calm.value, calm.low, calm.high), rel=1e-6)


@given(ROUNDS)
def test_exchanging_the_two_sides_turns_the_ratio_and_its_interval_round(rounds):
    a, b = by_round(a for a, _ in rounds), by_round(b for _, b in rounds)

    there, back = evidence.paired_ratio(a, b), evidence.paired_ratio(b, a)

    assert (back.value, back.low, back.high) == pytest.approx(
        (1 / there.value, 1 / there.high, 1 / there.low), rel=1e-6
    )
    assert back.p == pytest.approx(there.p, abs=1e-9)


@given(ROUNDS, st.randoms(use_true_random=False))
def test_the_order_of_rounds_does_not_matter(rounds, random):
    a, b = by_round(a for a, _ in rounds), by_round(b for _, b in rounds)
    shuffled = random.sample(sorted(a), len(a))

    assert evidence.paired_ratio({r: a[r] for r in shuffled}, b) == evidence.paired_ratio(a, b)


@given(ROUNDS)
def test_the_interval_and_the_p_value_say_the_same(rounds):
    estimate = evidence.paired_ratio(by_round(a for a, _ in rounds), by_round(b for _, b in rounds))

    excludes_one = estimate.low > 1 or estimate.high < 1
    assert excludes_one == (estimate.p < 0.05) or estimate.p == pytest.approx(0.05, abs=1e-4)


def test_rounds_without_any_spread_are_certain():
    """A fake backend without noise, or a clock that ticks coarsely."""
    twice, same = evidence.from_logs([math.log(2)] * 4), evidence.from_logs([0.0] * 4)

    assert (twice.low, twice.high, twice.p) == (pytest.approx(2), pytest.approx(2), 0.0)
    assert (same.low, same.high, same.p) == (1, 1, 1.0)


# ---- families of comparisons ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("p_values", "expected"),
    [
        pytest.param([], [], id="none"),
        pytest.param([0.05], [True], id="one alone needs 5 %"),
        pytest.param([0.0501], [False], id="and no more than 5 %"),
        pytest.param([0.012, 0.016, 0.024, 0.04], [True] * 4, id="Bonferroni would allow the first only"),
        pytest.param([0.03, 0.04], [False, False], id="Hochberg would allow both"),
        pytest.param([0.01, 0.03, 0.04], [True, False, False], id="false discovery rates would allow all"),
        pytest.param([0.04, 0.01, 0.2, 0.013], [False, True, False, True], id="whatever their order"),
        pytest.param([0.001, 0.5, 0.02], [True, False, True], id="each has to beat its own threshold"),
        pytest.param([0.02, 0.001, 0.03, 0.035], [False, True, False, False], id="after the first that fails all fail"),
    ],
)
def test_holm(p_values, expected):
    assert evidence.holm(p_values) == tuple(expected)


@given(P_VALUES)
def test_holm_allows_all_that_bonferroni_allows_and_nothing_that_fails_alone(p_values):
    allowed = evidence.holm(p_values)

    for p, is_allowed in zip(p_values, allowed, strict=True):
        assert is_allowed or p > 0.05 / len(p_values)
        assert not is_allowed or p <= 0.05


@given(P_VALUES)
def test_holm_never_passes_over_a_smaller_p_value(p_values):
    allowed = evidence.holm(p_values)

    told = [p for p, is_allowed in zip(p_values, allowed, strict=True) if is_allowed]
    kept = [p for p, is_allowed in zip(p_values, allowed, strict=True) if not is_allowed]
    assert not told or not kept or max(told) <= min(kept)


def test_a_table_of_comparisons_says_less_than_each_alone():
    alone = from_to(1.02, 1.30, p=0.03)

    assert evidence.family_verdicts([alone]) == (Verdict.FASTER,)
    assert evidence.family_verdicts([alone, alone]) == (Verdict.INCONCLUSIVE, Verdict.INCONCLUSIVE)


def test_what_could_not_be_compared_takes_nobodys_place_in_the_family():
    speedups = [None, from_to(1.02, 1.30, p=0.03), None, from_to(0.5, 0.6, p=0.001)]

    verdicts = evidence.family_verdicts(speedups)

    assert verdicts == (Verdict.INCONCLUSIVE, Verdict.FASTER, Verdict.INCONCLUSIVE, Verdict.SLOWER)


# ---- verdicts ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("speedup", "significant", "expected"),
    [
        pytest.param(from_to(1.02, 1.3), True, Verdict.FASTER, id="all of it above 1"),
        pytest.param(from_to(0.7, 0.98), True, Verdict.SLOWER, id="all of it below 1"),
        pytest.param(from_to(0.98, 1.3), True, Verdict.INCONCLUSIVE, id="1 is inside"),
        pytest.param(from_to(1.0, 1.3), True, Verdict.INCONCLUSIVE, id="1 is its end"),
        pytest.param(from_to(1.02, 1.3), False, Verdict.INCONCLUSIVE, id="above 1, but one of many"),
        pytest.param(from_to(0.995, 1.005), False, Verdict.TIE, id="all of it within 1 %"),
        pytest.param(from_to(1.002, 1.008), True, Verdict.TIE, id="within 1 % a sure difference is a tie too"),
        pytest.param(from_to(1 / 1.01, 1.01), True, Verdict.TIE, id="both ends at 1 %"),
        pytest.param(from_to(1 / 1.01, 1.0101), True, Verdict.INCONCLUSIVE, id="one end beyond 1 %"),
        pytest.param(from_to(0.99, 1.005), True, Verdict.INCONCLUSIVE, id="0.99 is farther from 1 than 1 / 1.01"),
        pytest.param(NO_INTERVAL, True, Verdict.INCONCLUSIVE, id="one round has no verdict"),
        pytest.param(None, True, Verdict.INCONCLUSIVE, id="no round in common"),
    ],
)
def test_verdict(speedup, significant, expected):
    assert evidence.verdict(speedup, significant=significant) is expected


@given(st.lists(ROUNDS, min_size=1, max_size=5))
def test_verdicts_turn_round_with_the_sides(pairs):
    sides = [(by_round(a for a, _ in rounds), by_round(b for _, b in rounds)) for rounds in pairs]

    there = evidence.family_verdicts([evidence.paired_ratio(a, b) for a, b in sides])
    back = evidence.family_verdicts([evidence.paired_ratio(b, a) for a, b in sides])

    turned = {Verdict.FASTER: Verdict.SLOWER, Verdict.SLOWER: Verdict.FASTER}
    assert tuple(turned.get(verdict, verdict) for verdict in back) == there


# ---- judgements ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ratio", "expected"),
    [
        pytest.param(from_to(1.101, 1.3), Judgement.HOLDS, id="all of it above the threshold"),
        pytest.param(from_to(1.11, 1.11), Judgement.HOLDS, id="a point above it"),
        pytest.param(from_to(1.0, 1.2), Judgement.UNDECIDED, id="the threshold is inside"),
        pytest.param(from_to(1.0, 1.09), Judgement.DOES_NOT_HOLD, id="all of it below, although it may be faster"),
        pytest.param(from_to(0.5, 0.6), Judgement.DOES_NOT_HOLD, id="slower"),
        pytest.param(NO_INTERVAL, Judgement.UNDECIDED, id="one round decides nothing"),
        pytest.param(None, Judgement.UNDECIDED, id="no round decides nothing"),
    ],
)
def test_exceeds(ratio, expected):
    assert evidence.exceeds(ratio, Fraction(11, 10)) is expected


def test_at_the_threshold_it_does_not_exceed():
    assert evidence.exceeds(from_to(1.0, 1.25), Fraction(5, 4)) is Judgement.DOES_NOT_HOLD
    assert evidence.exceeds(from_to(1.25, 1.5), Fraction(5, 4)) is Judgement.UNDECIDED


@pytest.mark.parametrize(
    ("ratio", "expected"),
    [
        pytest.param(from_to(0.97, 1.04), Judgement.HOLDS, id="all of it within"),
        pytest.param(from_to(1.02, 1.04), Judgement.HOLDS, id="surely different, and still equal enough"),
        pytest.param(from_to(0.96, 1.06), Judgement.UNDECIDED, id="it may be more"),
        pytest.param(from_to(0.951, 1.0), Judgement.UNDECIDED, id="4.9 % less is more than 5 % the other way round"),
        pytest.param(from_to(0.953, 1.0), Judgement.HOLDS, id="but 4.7 % less is not"),
        pytest.param(from_to(1.051, 1.2), Judgement.DOES_NOT_HOLD, id="surely more"),
        pytest.param(from_to(0.8, 0.95), Judgement.DOES_NOT_HOLD, id="surely less"),
        pytest.param(NO_INTERVAL, Judgement.UNDECIDED, id="one round decides nothing"),
        pytest.param(None, Judgement.UNDECIDED, id="no round decides nothing"),
    ],
)
def test_lies_within(ratio, expected):
    assert evidence.lies_within(ratio, Fraction(5, 100)) is expected
