from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferbench_contract import plan as plans
from inferbench_contract import sentences
from inferbench_contract.evidence import Estimate
from inferbench_contract.status import Seconds
from inferbench_contract.summary import summarize
from inferbench_contract.words import Outcome
from tests.results import (
    COMPILED,
    EAGER,
    ONNXRUNTIME,
    TRAINED,
    cell,
    compared,
    ended,
    measured,
    results_for,
    three_backends,
)
from tests.summaries import NO_TIME

RANDOM = {"torchvision": {"name": "resnet50", "weights": "random"}}

WOBBLE = (0.98, 1.02, 1.02, 0.98)


def told(eager=None, compiled=None, onnxruntime=None, **spec):
    """Summarise three strategies at batch size 1, each with a latency in milliseconds for all rounds or for each."""
    benchmark = three_backends(**spec)
    plan = plans.expand(benchmark)
    latencies = {EAGER: eager, COMPILED: compiled, ONNXRUNTIME: onnxruntime}

    def latency_of(strategy, _size, r):
        latency = latencies[strategy]
        return latency[r] if isinstance(latency, tuple) else latency

    return summarize(benchmark, plan, results_for(plan, latency_of))


def answer(**latencies):
    (sentence,) = sentences.answers(told(**latencies))
    return sentence


# ---- numbers -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("nanoseconds", "expected"),
    [
        (None, "-"),
        (0.4, "0.40 ns"),
        (999, "999 ns"),
        (1_000, "1.00 µs"),
        (45_123, "45.1 µs"),
        (999_499, "999 µs"),
        (999_999, "1.00 ms"),
        (9_994_000, "9.99 ms"),
        (9_996_000, "10.0 ms"),
        (99_960_000, "100 ms"),
        (1.5e9, "1.50 s"),
        (12_345e9, "12,345 s"),
    ],
)
def test_a_duration_has_three_digits_in_the_unit_that_suits_it(nanoseconds, expected):
    assert sentences.duration(nanoseconds) == expected


@pytest.mark.parametrize(
    ("joules", "expected"),
    [
        (None, "-"),
        (0.0712, "71.2 mJ"),
        (0.000_85, "850 µJ"),
        (0.999_7, "1.00 J"),
        (2e-8, "20.0 nJ"),
        (1_234, "1,234 J"),
    ],
)
def test_an_energy_has_three_digits_in_the_unit_that_suits_it(joules, expected):
    assert sentences.energy(joules) == expected


@given(st.floats(1, 1e15))
def test_a_duration_is_right_to_its_last_digit(nanoseconds):
    number, unit = sentences.duration(nanoseconds).split()

    written = float(number.replace(",", "")) * dict(sentences.NS_PER_UNIT)[unit]
    assert written == pytest.approx(nanoseconds, rel=0.0051)
    assert len(number.replace(",", "").replace(".", "")) == 3 or nanoseconds >= 999.5e9


@pytest.mark.parametrize(
    ("estimate", "expected"),
    [
        (None, "-"),
        (Estimate(45.1e6, None, None, 1), "45.1 ms"),
        (Estimate(45.1e6, 44e6, 46.2e6, 4), "45.1 ms (44.0 to 46.2)"),
        (Estimate(1.02e6, 0.95e6, 1.1e6, 4), "1.02 ms (0.95 to 1.10)"),
    ],
)
def test_a_latency_has_its_interval_in_its_own_unit(estimate, expected):
    assert sentences.latency(estimate) == expected


@pytest.mark.parametrize(
    ("estimate", "expected"),
    [
        (None, "-"),
        (Estimate(1.314, None, None, 1), "1.31x"),
        (Estimate(1.314, 1.22, 1.41, 4), "1.31x (1.22 to 1.41)"),
        (Estimate(12.34, 9.2, 101.4, 4), "12.3x (9.20 to 101)"),
        (Estimate(1.3, 0.0014, 1_200, 2), "1.30x (<0.01 to 1,200)"),
        (Estimate(64.4, 0.000_46, 9_081_373, 2), "64.4x (±>1000x)"),
    ],
)
def test_a_ratio_has_its_interval(estimate, expected):
    assert sentences.ratio(estimate) == expected


@pytest.mark.parametrize(
    ("share", "expected"), [(0.002, "0.2%"), (0.0994, "9.9%"), (0.0996, "10%"), (0.144, "14%"), (1.5, "150%")]
)
def test_a_share_has_two_digits(share, expected):
    assert sentences.percent(share) == expected


def test_what_is_too_small_for_three_digits_is_no_zero():
    assert [sentences.digits(value) for value in (0.0, 0.004, 0.006)] == ["0.00", "<0.01", "0.01"]


def test_a_spread_is_the_longer_side_of_the_interval():
    """From 100 it is 25 % down to 80 and 20 % up to 120, as factors."""
    assert sentences.spread(Estimate(100, 80, 120, 4)) == "±25%"
    assert sentences.spread(Estimate(100, None, None, 1)) == ""
    assert sentences.spread(None) == ""


def test_a_wide_interval_is_told_by_its_ends():
    """An interval is one of factors: what is 60 % up is 38 % down."""
    narrow, wide = Estimate(2.0, 1.6, 2.5, 4), Estimate(2.0, 1.25, 3.2, 4)

    told = [sentences.short_ratio(found) for found in (None, narrow, wide)]

    assert told == ["-", "2.00x ±25%", "2.00x (1.25 to 3.20)"]
    assert sentences.short_latency(replace(wide, value=2e6, low=1.25e6, high=3.2e6)) == "2.00 ms (1.25 to 3.20)"
    assert sentences.short_latency(replace(narrow, value=2e6, low=1.6e6, high=2.5e6)) == "2.00 ms ±25%"


# ---- accuracy ------------------------------------------------------------------------------------


def best_of(fields, model=TRAINED, **spec):
    """Return the answer of a run that ONNX Runtime wins, of whose accuracy this is known."""
    benchmark = three_backends(model=model, **spec)
    plan = plans.expand(benchmark)
    won = measured(1, 10, **fields)
    results = results_for(plan, lambda strategy, *_: won if strategy == ONNXRUNTIME else 30)
    return summarize(benchmark, plan, results).best[1]


@pytest.mark.parametrize(
    ("fields", "short", "full"),
    [
        pytest.param({}, "-", "-", id="nothing was compared"),
        pytest.param(compared(0.9921), "top-1 99.2%", "top-1 99.2% (L2 3.1%, lowest cosine 0.9981)", id="images"),
        pytest.param(compared(0.9999), "top-1 99.9%", "top-1 99.9% (L2 3.1%, lowest cosine 0.9981)", id="not all"),
        pytest.param(compared(1), "top-1 100%", "top-1 100% (L2 3.1%, lowest cosine 0.9981)", id="all"),
        pytest.param(compared(), "L2 3.1%", "L2 3.1% (lowest cosine 0.9981)", id="no classes"),
        pytest.param(
            compared(relative_l2_parts_per_billion=500, worst_cosine_parts_per_million=None),
            "L2 <0.1%",
            "L2 <0.1%",
            id="rounding",
        ),
        pytest.param(
            compared(relative_l2_parts_per_billion=10**11, worst_cosine_parts_per_million=0),
            "L2 >1000%",
            "L2 >1000% (lowest cosine 0.0000)",
            id="garbage",
        ),
    ],
)
def test_how_near_to_fp32_a_cell_stays_is_said_in_a_word_or_two(fields, short, full):
    row = best_of(fields).row

    assert (sentences.accuracy(row), sentences.full_accuracy(row)) == (short, full)


def test_what_the_winner_lost_is_said_with_its_lead():
    assert sentences.answer(best_of(compared(0.88))) == (
        "onnxruntime/fp32 is fastest, 3.00 times (3.00 to 3.00) as fast as torch-eager/fp32, the next. "
        "onnxruntime/fp32 agrees with the fp32 reference on 88.0% of 256 images."
    )


@pytest.mark.parametrize(
    ("precision", "examples", "said"),
    [
        pytest.param("int8-static", 198, True, id="too slow for enough of them"),
        pytest.param("int8-static", 256, False, id="enough of them"),
        pytest.param("fp32", 198, False, id="nothing to lose"),
    ],
)
def test_a_winner_whose_first_choices_were_not_judged_is_told_of(precision, examples, said):
    best = best_of(compared(1, compared_examples=examples))
    best = replace(best, row=replace(best.row, cell=cell(f"onnxruntime/{precision}@1")))

    sentence = (
        f"onnxruntime/{precision} was compared with fp32 on {examples} examples; 256 are needed to judge its top-1 "
    )

    assert (sentence in sentences.answer(best)) == said


LIMITED = {"minTop1Agreement": {"fp32": "99%"}}
LIMITED_FP16 = {"minTop1Agreement": {"fp16": "99%"}}


@pytest.mark.parametrize(
    ("fields", "model", "said"),
    [
        pytest.param(
            compared(),
            TRAINED,
            "256 examples; accuracy.minTop1Agreement was not judged, because fp32 itself chooses one class for all of "
            "them, or none.",
            id="of one class",
        ),
        pytest.param(
            compared(0.5),
            RANDOM,
            "256 examples; accuracy.minTop1Agreement was not judged, because the first choices of random weights mean "
            "nothing.",
            id="of random weights",
        ),
        pytest.param(
            compared(0.5, compared_examples=32),
            TRAINED,
            "32 examples; 256 are needed to judge its top-1 agreement.",
            id="too few",
        ),
    ],
)
def test_a_limit_that_the_benchmark_asks_for_and_nothing_judges_is_told_of(fields, model, said):
    sentence = f" onnxruntime/fp32 was compared with fp32 on {said}"

    assert sentences.answer(best_of(fields, model, accuracy=LIMITED)).endswith(sentence)
    assert "was compared with" not in sentences.answer(best_of(fields, model))
    assert "was compared with" not in sentences.answer(best_of(fields, model, accuracy=LIMITED_FP16))


def test_a_limit_that_was_judged_is_not_told_of():
    assert "minTop1Agreement" not in sentences.answer(best_of(compared(1), accuracy=LIMITED))
    assert "was compared with" not in sentences.answer(best_of({}, accuracy=LIMITED))


def violated(inaccurate, crashed=0, **spec):
    """Say what becomes of as many inaccurate cells, and of others that crashed."""
    outcomes = [Outcome.INACCURATE] * inaccurate + [Outcome.CRASHED] * crashed
    benchmark = three_backends(batch_sizes=[1, 2, 4], **spec)
    plan = plans.expand(benchmark)
    ends = dict(zip(plan.measurable_cells, outcomes, strict=False))

    def found(strategy, size, _):
        outcome = ends.get(cell(f"{strategy}@{size}"))
        return 10 if outcome is None else ended(outcome, size)

    return sentences.violations(summarize(benchmark, plan, results_for(plan, found)))


@pytest.mark.parametrize(
    ("inaccurate", "crashed", "allowed", "said"),
    [
        (4, 0, 0, "4 cells are Inaccurate and onViolation is Fail: they count as failed; maxFailedCells is 0."),
        (1, 0, 3, "1 cell is Inaccurate and onViolation is Fail: it counts as failed; maxFailedCells is 3."),
        (
            2, 1, 0,
            "2 cells are Inaccurate and onViolation is Fail: they count as failed beside 1 other; maxFailedCells is 0.",
        ),
        (0, 2, 0, ""),
    ],
)  # fmt: skip
def test_that_inaccurate_cells_count_as_failed_is_said_with_how_many_may(inaccurate, crashed, allowed, said):
    fails = {"accuracy": {"onViolation": "Fail"}, "maxFailedCells": allowed}

    assert violated(inaccurate, crashed, **fails) == said


@pytest.mark.parametrize("on_violation", ["Exclude", "Report"])
def test_where_they_do_not_count_nothing_is_said_of_it(on_violation):
    assert violated(4, accuracy={"onViolation": on_violation}) == ""


@pytest.mark.parametrize(
    ("fields", "model"),
    [
        pytest.param(compared(1), TRAINED, id="it lost nothing"),
        pytest.param(compared(0.5), RANDOM, id="random weights choose nothing"),
        pytest.param(compared(), TRAINED, id="it does not choose"),
    ],
)
def test_otherwise_nothing_is_said_of_it(fields, model):
    assert "agrees" not in sentences.answer(best_of(fields, model))


def test_where_the_time_went_is_told_most_of_it_first():
    found = Seconds(preparing=60, warming_up=24, measuring=150, other=66, idle=216_000)

    assert sentences.spent(found) == (
        "Took 5 min: 50% measuring, 22% starting, checking and ending processes, 20% loading, converting and "
        "compiling, 8.0% warming up."
    )
    assert sentences.spent(NO_TIME) == ""


@pytest.mark.parametrize(
    ("seconds", "expected"), [(0, "0 s"), (59, "59 s"), (168, "2 min 48 s"), (3_600, "1 h"), (7_385, "2 h 3 min")]
)
def test_a_long_time_has_its_two_largest_units(seconds, expected):
    assert sentences.minutes(seconds) == expected


# ---- answers -------------------------------------------------------------------------------------


def test_the_fastest_is_said_with_its_lead_over_the_next():
    assert answer(eager=30, compiled=10, onnxruntime=15) == (
        "Batch 1: torch-compile/fp32 is fastest, 1.50 times (1.50 to 1.50) as fast as onnxruntime/fp32, the next."
    )


def test_that_they_are_the_same_is_an_answer():
    assert answer(eager=10.05, compiled=10.02, onnxruntime=10) == (
        "Batch 1: onnxruntime/fp32 and torch-compile/fp32 are the same: at most 0.2% apart. "
        "Take torch-eager/fp32, the simplest that cannot be told from the best: it takes at most 0.5% longer."
    )


def test_that_they_cannot_be_told_apart_is_an_answer():
    wobbling = tuple(10 * factor for factor in WOBBLE)

    assert answer(eager=30, compiled=wobbling, onnxruntime=10) == (
        "Batch 1: torch-compile/fp32 and onnxruntime/fp32 are not distinguishable on this machine: at most 3.8% apart. "
        "Take torch-compile/fp32: it is the simpler one too."
    )


def test_one_alone_is_not_called_the_fastest():
    assert answer(eager=10) == "Batch 1: only torch-eager/fp32 was measured, at 10.0 ms."


def test_one_round_is_inconclusive():
    assert answer(eager=30, compiled=10, measurement={"rounds": 1}) == (
        "Batch 1: torch-compile/fp32 was fastest in the only round that has both, which is Inconclusive: measure at "
        "least 2."
    )


def test_that_rounds_differ_too_much_is_said_as_a_factor_and_nothing_is_advised():
    """Of the logs of the rounds the mean is 0 and the standard error ln 2; t at 3 degrees of freedom is 3.182."""
    doubling = tuple(10 * 2 ** (places * 3**0.5) for places in (-1, 1, 1, -1))
    found = told(eager=doubling, onnxruntime=10)

    (sentence,) = sentences.answers(found)
    assert sentence == (
        "Batch 1: torch-eager/fp32 and onnxruntime/fp32 cannot be told apart by these rounds: "
        "one may take up to 9.08 times as long as the other. Measure more rounds, or on a quieter machine."
    )
    assert sentences.objective(found).endswith(": torch-eager/fp32@1, not distinguishable from onnxruntime/fp32.")


def test_an_interval_beyond_a_thousandfold_is_told_as_that():
    """Two rounds of which one was three times slower: its 17 digits would say no more."""
    found = told(eager=(10, 30), onnxruntime=10, measurement={"rounds": 2})

    (sentence,) = sentences.answers(found)
    assert ": one may take over 1000 times as long as the other. Measure more rounds" in sentence
    assert sentences.short_ratio(found.best[1].margin) == "1.73x (±>1000x)"


def test_what_is_simple_is_not_advised_where_it_may_be_much_slower():
    """Logs of eager over the compiled one: 0.168 on average, give or take 0.086; exp(0.168 + 3.182 * 0.086)."""
    wobbling = tuple(10 * factor for factor in WOBBLE)

    assert answer(eager=(10, 14, 14, 10), compiled=wobbling, onnxruntime=10).endswith(
        ": at most 3.8% apart. torch-eager/fp32 is simpler, and may take up to 1.55 times as long. "
        "Measure more rounds, or on a quieter machine."
    )


def test_who_never_met_is_not_compared():
    assert answer(eager=(10, 10, None, None), compiled=(None, None, 9, 9)) == (
        "Batch 1: torch-eager/fp32 and torch-compile/fp32 were not measured in the same round yet, "
        "which is Inconclusive."
    )


def test_every_batch_size_has_a_sentence_in_their_order():
    found = sentences.answers(told(eager=10, compiled=5, batch_sizes=[32, 1, 8]))

    assert [sentence.split(":")[0] for sentence in found] == ["Batch 1", "Batch 8", "Batch 32"]


def test_without_numbers_there_is_no_answer():
    assert sentences.answers(told()) == ()


@pytest.mark.parametrize(
    ("asked", "latency", "sentence"),
    [
        ({}, 10, "Objective (lowest latency at batch 1): torch-eager/fp32@1."),
        ({"batch_size": 8}, 10, "Objective (lowest latency at batch 8): torch-eager/fp32@8."),
        ({"metric": "throughput"}, 10, "Objective (highest throughput): torch-eager/fp32@8."),
        (
            {"metric": "throughput", "max_latency_microseconds": 5_000},
            10,
            "Objective (highest throughput within 5.00 ms a batch): nothing that was measured qualifies.",
        ),
        ({}, None, "Objective (lowest latency at batch 1): nothing that was measured qualifies."),
    ],
)
def test_the_objective_is_said_with_what_it_chooses(asked, latency, sentence):
    assert sentences.objective(told(eager=latency, batch_sizes=[1, 8], objective=asked)) == sentence


@pytest.mark.parametrize(
    ("latencies", "end"),
    [
        pytest.param(
            {"eager": 10.05, "onnxruntime": 10},
            "onnxruntime/fp32@1, the same as torch-eager/fp32; take torch-eager/fp32, which is simpler.",
            id="a tie goes to the simpler",
        ),
        pytest.param(
            {"compiled": tuple(10 * factor for factor in WOBBLE), "onnxruntime": 10},
            "torch-compile/fp32@1, not distinguishable from onnxruntime/fp32.",
            id="the winner is the simpler",
        ),
        pytest.param({"eager": 20, "onnxruntime": 10}, "): onnxruntime/fp32@1.", id="the fastest"),
    ],
)
def test_the_objective_says_of_its_choice_what_the_answer_says(latencies, end):
    assert sentences.objective(told(**latencies)).endswith(end)


# ---- expectations --------------------------------------------------------------------------------

FASTER = {"name": "compile-wins", "faster": "torch-compile/fp32", "than": "torch-eager/fp32"}


@pytest.mark.parametrize(
    ("compiled", "sentence"),
    [
        (5, "compile-wins: holds, the ratio at batch 1 is 2.00x (2.00 to 2.00)."),
        (20, "compile-wins: does not hold, the ratio at batch 1 is 0.50x (0.50 to 0.50)."),
        ((9.8, 10.2, 10.2, 9.8), "compile-wins: undecided, the ratio at batch 1 is 1.00x (0.96 to 1.04)."),
        (None, "compile-wins: undecided, there is no number for torch-compile/fp32@1."),
        (ended(Outcome.CRASHED), "compile-wins: undecided, there is no number for torch-compile/fp32@1."),
    ],
)
def test_an_expectation_is_said_with_the_ratio_that_decided(compiled, sentence):
    (judged,) = told(eager=10, compiled=compiled, expectations=[FASTER]).judged

    statement = "torch-compile/fp32 is faster than torch-eager/fp32"
    assert sentences.expectation(judged) == f"{sentence} ({statement})"


def test_an_expectation_without_a_round_in_common_has_no_ratio():
    (judged,) = told(eager=(10, 10, None, None), compiled=(None, None, 9, 9), expectations=[FASTER]).judged

    assert sentences.expectation(replace(judged, statement="")).startswith("compile-wins: undecided")
