import math

import pytest

from inferbench_contract import cells, expectations, sentences
from inferbench_contract import plan as plans
from inferbench_contract.words import Judgement, Outcome
from tests.results import COMPILED, EAGER, ONNXRUNTIME, cell, ended, results_for, three_backends

HOLDS, DOES_NOT_HOLD, UNDECIDED = Judgement.HOLDS, Judgement.DOES_NOT_HOLD, Judgement.UNDECIDED

NOISE = (1 / 1.024, 1.024, 1.024, 1 / 1.024)
"""What each round multiplies ONNX Runtime's latency with: over eager's or compiled's it is known to 4.4 %."""


def judged(latency_of, **expectation):
    """Judge one expectation about a benchmark of eager, compiled and ONNX Runtime at 1, 8 and 32."""
    benchmark = three_backends(batch_sizes=[1, 8, 32], expectations=[{"name": "it", **expectation}])
    plan = plans.expand(benchmark)
    table = cells.tabulate(plan, results_for(plan, latency_of), EAGER)
    return expectations.judge(benchmark.spec.expectations[0], table)


def takes(compiled=10.0, onnxruntime=10.0):
    """Let eager take 10 ms an input and the others what is said, as a number or by batch size; the last is noisy."""
    per_input = {EAGER: 10.0, COMPILED: compiled, ONNXRUNTIME: onnxruntime}

    def latency_of(strategy, size, r):
        told = per_input[strategy]
        latency = told[size] if isinstance(told, dict) else told
        return latency and latency * size * (NOISE[r] if strategy == ONNXRUNTIME else 1)

    return latency_of


NOISY = {"faster": "onnxruntime/fp32", "than": "torch-eager/fp32"}
EXACT = {"faster": "torch-compile/fp32", "than": "torch-eager/fp32"}


def test_ratios_beyond_everything_that_can_be_measured_are_judged_too():
    grows = {"faster": "torch-compile/fp32", "than": "torch-eager/fp32", "grows_with_batch_size": True}
    extremes = (1e-6, 1e7)

    def latency_of(strategy, size, r):
        return extremes[(size == 32) ^ (strategy == COMPILED) ^ (r % 2)]

    found = expectations.document(judged(latency_of, **grows))

    assert found["judgement"] == UNDECIDED
    assert (found["lowMilli"], found["ratioMilli"], found["highMilli"]) == (0, 1000, 2**53 - 1)


# ---- faster than ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("latencies", "expectation", "judgement", "place", "ratio"),
    [
        pytest.param({"onnxruntime": 4}, NOISY, HOLDS, "batch 1", 2.5, id="2.5x as fast everywhere"),
        pytest.param({"onnxruntime": 20}, NOISY, DOES_NOT_HOLD, "batch 1", 0.5, id="half as fast everywhere"),
        pytest.param({"onnxruntime": 9.9}, NOISY, UNDECIDED, "batch 1", 10 / 9.9, id="1 % faster, known to 4.4 %"),
        pytest.param(
            {"onnxruntime": {1: 5, 8: 5, 32: 20}}, NOISY, DOES_NOT_HOLD, "batch 32", 0.5, id="one that fails decides"
        ),
        pytest.param(
            {"onnxruntime": {1: 5, 8: 10, 32: 5}}, NOISY, UNDECIDED, "batch 8", 1, id="else one that is open"
        ),
        pytest.param(
            {"onnxruntime": {1: 10, 8: 5, 32: 20}}, NOISY, DOES_NOT_HOLD, "batch 32", 0.5, id="failing beats open"
        ),
        pytest.param({"onnxruntime": {1: 2, 8: 5, 32: 4}}, NOISY, HOLDS, "batch 8", 2, id="else the closest one"),
        pytest.param(
            {"onnxruntime": {1: 4, 8: 4, 32: 20}}, NOISY | {"batch_sizes": [8, 1]}, HOLDS, "batch 1", 2.5,
            id="only the batch sizes that it names",
        ),
        pytest.param({"compiled": 10}, EXACT, DOES_NOT_HOLD, "batch 1", 1, id="the same is not faster"),
        pytest.param({"compiled": 9.99}, EXACT, HOLDS, "batch 1", 10 / 9.99, id="0.1 % faster, known exactly"),
    ],
)  # fmt: skip
def test_faster(latencies, expectation, judgement, place, ratio):
    found = judged(takes(**latencies), **expectation)

    assert (found.judgement, found.place, found.missing) == (judgement, place, ())
    assert found.ratio.value == pytest.approx(ratio, rel=1e-6)


def test_a_ratio_that_fails_alone_but_not_as_one_of_three_is_open_and_says_why():
    """5.5 % slower, known to 4.4 %; one of three has to be known to 6.7 %."""
    found = judged(takes(onnxruntime={1: 5, 8: 5, 32: 10.55}), **NOISY)

    assert (found.judgement, found.place, found.one_of) == (UNDECIDED, "batch 32", 3)
    assert found.ratio.high < 1
    assert ", which by itself would fail it; as one of 3 ratios it has to be surer. (" in sentences.expectation(found)
    assert judged(takes(onnxruntime={1: 5, 8: 5, 32: 10.01}), **NOISY).one_of == 1


@pytest.mark.parametrize(
    ("onnxruntime", "judgement"),
    [(8, HOLDS), (9, UNDECIDED), (9.9, DOES_NOT_HOLD)],
    ids=["25 % faster", "11 % faster, known to 4.4 %", "1 % faster, surely less than 10 %"],
)
def test_faster_by_a_factor(onnxruntime, judgement):
    assert judged(takes(onnxruntime=onnxruntime), **NOISY, by="1.1x").judgement is judgement


def test_by_a_factor_means_more_than_it():
    exactly = takes(compiled=8)

    assert judged(exactly, **EXACT, by="1.25x").judgement is DOES_NOT_HOLD
    assert judged(exactly, **EXACT, by="1.249x").judgement is HOLDS


def test_two_cells_of_different_batch_sizes_are_compared():
    found = judged(takes(), faster="torch-eager/fp32@1", than="torch-compile/fp32@8", by="7.9x")

    assert (found.judgement, found.place) == (HOLDS, "batch 1 and 8")
    assert found.ratio.value == pytest.approx(8)


# ---- equal to ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("onnxruntime", "judgement"),
    [
        pytest.param(10, HOLDS, id="equal, known to 4.4 %"),
        pytest.param(10.3, UNDECIDED, id="3 % slower, known to 4.4 %"),
        pytest.param(9.7, UNDECIDED, id="3 % faster, known to 4.4 %"),
        pytest.param(11, UNDECIDED, id="10 % slower, which one batch size of three may be by chance"),
        pytest.param(12, DOES_NOT_HOLD, id="20 % slower"),
        pytest.param(8, DOES_NOT_HOLD, id="20 % faster"),
    ],
)
def test_equal_to_within_5_percent(onnxruntime, judgement):
    equal = {"equal": "onnxruntime/fp32", "to": "torch-eager/fp32", "within": "5%"}

    assert judged(takes(onnxruntime=onnxruntime), **equal).judgement is judgement


@pytest.mark.parametrize(
    ("compiled", "place"),
    [
        pytest.param({1: 10.1, 8: 9.6, 32: 10.2}, "batch 8", id="faster"),
        pytest.param({1: 10.1, 8: 9.9, 32: 10.4}, "batch 32", id="slower"),
    ],
)
def test_of_equal_ones_the_pair_that_is_farthest_apart_is_told(compiled, place):
    found = judged(takes(compiled=compiled), equal="torch-compile/fp32", to="torch-eager/fp32", within="5%")

    assert (found.judgement, found.place) == (HOLDS, place)


def test_a_strategy_is_equal_to_itself_at_another_batch_size():
    """The article's claim that latency at 1 is latency at 8."""
    flat = takes(compiled={1: 10, 8: 10.2 / 8, 32: 1})

    found = judged(flat, equal="torch-compile/fp32@1", to="torch-compile/fp32@8", within="5%")

    assert (found.judgement, found.place) == (HOLDS, "batch 1 and 8")
    assert found.ratio.value == pytest.approx(1.02)


# ---- leads ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("onnxruntime", "more", "judgement", "ratio"),
    [
        pytest.param({1: 9, 8: 1, 32: 5}, {}, HOLDS, 1.8, id="from 1.11x to 2x, whatever is between"),
        pytest.param({1: 5, 8: 1, 32: 9}, {}, DOES_NOT_HOLD, 5 / 9, id="from 2x to 1.11x"),
        pytest.param(
            {1: 4, 8: 1, 32: 4}, {}, DOES_NOT_HOLD, 1, id="2.5x and 2.5x: its noise is shared, so it is exact"
        ),
        pytest.param({1: 9, 8: 1, 32: 5}, {"by": "1.7x"}, HOLDS, 1.8, id="by more than 1.7x"),
        pytest.param({1: 9, 8: 1, 32: 5}, {"by": "1.9x"}, DOES_NOT_HOLD, 1.8, id="not by more than 1.9x"),
        pytest.param({1: 9, 8: 5, 32: 1}, {"batch_sizes": [8, 1]}, HOLDS, 1.8, id="at its own batch sizes"),
        pytest.param({1: 40, 8: 1, 32: 20}, {}, HOLDS, 2, id="a lead below 1 can grow too"),
    ],
)
def test_the_lead_grows_with_the_batch_size(onnxruntime, more, judgement, ratio):
    found = judged(takes(onnxruntime=onnxruntime), **NOISY, grows_with_batch_size=True, **more)

    assert found.judgement is judgement
    assert found.place == ("batch 8 over batch 1" if "batch_sizes" in more else "batch 32 over batch 1")
    assert found.ratio.value == pytest.approx(ratio, rel=1e-6)


def test_a_growing_lead_is_undecided_where_rounds_differ_too_much():
    def latency_of(strategy, size, r):
        return 10 * NOISE[r] if (strategy, size) == (ONNXRUNTIME, 32) else 9.9 if size == 32 else 10

    assert judged(latency_of, **NOISY, grows_with_batch_size=True).judgement is UNDECIDED


@pytest.mark.parametrize(
    ("compiled", "onnxruntime", "by", "judgement", "ratio"),
    [
        pytest.param(5, 9, {}, HOLDS, 1.8, id="2x against 1.11x"),
        pytest.param(9, 5, {}, DOES_NOT_HOLD, 5 / 9, id="1.11x against 2x"),
        pytest.param(9.9, 10, {}, UNDECIDED, 10 / 9.9, id="1.01x against 1x, known to 4.4 %"),
        pytest.param(5, 9, {"by": "1.7x"}, HOLDS, 1.8, id="by more than 1.7x"),
        pytest.param(5, 9, {"by": "2x"}, DOES_NOT_HOLD, 1.8, id="not by more than 2x"),
        pytest.param({1: 5, 8: 5, 32: 10}, 5, {}, DOES_NOT_HOLD, 0.5, id="at every batch size"),
    ],
)
def test_one_lead_is_larger_than_another(compiled, onnxruntime, by, judgement, ratio):
    other = {"by_more_than": NOISY}

    found = judged(takes(compiled, onnxruntime), **EXACT, **other, **by)

    assert found.judgement is judgement
    assert found.ratio.value == pytest.approx(ratio, rel=1e-6)


# ---- rounds --------------------------------------------------------------------------------------


def test_every_form_is_paired_by_round():
    """The machine differs tenfold between rounds."""

    def latency_of(strategy, size, r):
        return (9.9 if strategy == COMPILED else 10) * (1, 10, 3, 0.5)[r]

    assert judged(latency_of, **EXACT).judgement is HOLDS
    assert judged(latency_of, equal="torch-eager/fp32", to="torch-compile/fp32", within="2%").judgement is HOLDS
    assert judged(latency_of, equal="torch-eager/fp32@1", to="torch-eager/fp32@8", within="0.1%").judgement is HOLDS
    assert judged(latency_of, **EXACT, grows_with_batch_size=True).judgement is DOES_NOT_HOLD
    assert judged(latency_of, **EXACT, by_more_than=NOISY).judgement is HOLDS


def test_a_ratio_of_leads_takes_the_rounds_that_have_all_four_cells():
    def latency_of(strategy, size, r):
        if (strategy, size, r) in {(EAGER, 1, 0), (ONNXRUNTIME, 32, 3)}:
            return None
        return {EAGER: 10, ONNXRUNTIME: 5 if size == 1 else 2, COMPILED: 1}[strategy]

    found = judged(latency_of, **NOISY, grows_with_batch_size=True)

    assert found.ratio.rounds == 2
    assert found.ratio.value == pytest.approx(2.5)


@pytest.mark.parametrize(
    "expectation",
    [
        pytest.param(NOISY, id="faster"),
        pytest.param({"equal": "torch-eager/fp32", "to": "onnxruntime/fp32", "within": "5%"}, id="equal"),
        pytest.param(NOISY | {"grows_with_batch_size": True}, id="grows"),
        pytest.param(NOISY | {"by_more_than": EXACT}, id="more than"),
    ],
)
class TestMissingCells:
    def test_what_lacks_a_cell_is_undecided_and_names_it(self, expectation):
        found = judged(takes(onnxruntime={1: 10, 8: 10, 32: None}), **expectation)

        assert found.judgement is UNDECIDED
        assert found.ratio is None
        assert found.missing == (cell("onnxruntime/fp32@32"),)

    def test_a_cell_that_crashed_once_is_missing(self, expectation):
        def latency_of(strategy, size, r):
            crashed = (strategy, size, r) == (ONNXRUNTIME, 32, 2)
            return ended(Outcome.CRASHED, 32, latency_median_ns=1) if crashed else takes()(strategy, size, r)

        assert judged(latency_of, **expectation).missing == (cell("onnxruntime/fp32@32"),)

    def test_one_round_decides_nothing(self, expectation):
        found = judged(lambda s, size, r: None if r else takes()(s, size, r), **expectation)

        assert (found.judgement, found.missing) == (UNDECIDED, ())
        assert found.ratio.rounds == 1

    def test_rounds_that_never_meet_decide_nothing(self, expectation):
        found = judged(lambda s, _size, r: 10 if (s == ONNXRUNTIME) == (r < 2) else None, **expectation)

        assert (found.judgement, found.ratio, found.missing) == (UNDECIDED, None, ())


def test_a_pair_that_fails_decides_even_where_another_is_missing():
    found = judged(takes(onnxruntime={1: 20, 8: 5, 32: None}), **NOISY)

    assert (found.judgement, found.place, found.missing) == (DOES_NOT_HOLD, "batch 1", ())


# ---- words ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expectation", "statement"),
    [
        (NOISY, "onnxruntime/fp32 is faster than torch-eager/fp32"),
        (
            NOISY | {"by": "1.1x", "batch_sizes": [8, 1]},
            "onnxruntime/fp32 is faster than torch-eager/fp32 by more than 1.1x at batch 1, 8",
        ),
        (
            {"equal": "torch-eager/fp32@1", "to": "torch-eager/fp32@8", "within": "5%"},
            "torch-eager/fp32@1 takes as long as torch-eager/fp32@8, to within 5%",
        ),
        (
            NOISY | {"grows_with_batch_size": True},
            "the lead of onnxruntime/fp32 over torch-eager/fp32 grows with the batch size",
        ),
        (
            NOISY | {"by_more_than": EXACT, "by": "2x"},
            (
                "the lead of onnxruntime/fp32 over torch-eager/fp32 is larger than that of "
                "torch-compile/fp32 over torch-eager/fp32 by more than 2x"
            ),
        ),
    ],
)
def test_an_expectation_is_said_in_words(expectation, statement):
    assert judged(takes(), **expectation).statement == statement


def test_its_document_has_the_ratio_in_thousandths():
    found = judged(takes(onnxruntime=4), **NOISY)

    half_width = 3.182 * math.log(1.024) / math.sqrt(3)
    assert expectations.document(found) == {
        "name": "it",
        "judgement": "Holds",
        "at": "batch 1",
        "ratioMilli": 2500,
        "lowMilli": round(2500 * math.exp(-half_width)),
        "highMilli": round(2500 * math.exp(half_width)),
    }


def test_its_document_has_no_ratio_where_there_is_none():
    one_round = judged(lambda s, size, r: None if r else takes()(s, size, r), **EXACT)
    none = judged(lambda *_: None, **EXACT)

    assert expectations.document(one_round) == {
        "name": "it", "judgement": "Undecided", "at": "batch 1", "ratioMilli": 1000,
    }  # fmt: skip
    assert expectations.document(none) == {"name": "it", "judgement": "Undecided", "at": "batch 1"}
