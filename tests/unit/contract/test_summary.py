import json
from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inferbench_contract import plan as plans
from inferbench_contract import summary as summaries
from inferbench_contract.status import Seconds
from inferbench_contract.summary import summarize
from inferbench_contract.words import Doubt, Judgement, Outcome, Verdict
from tests.results import (
    COMPILED,
    EAGER,
    ONNXRUNTIME,
    SWEEP_MS,
    a_result,
    asked,
    ended,
    measured,
    results_for,
    three_backends,
)
from tests.summaries import NO_TIME

TENFOLD_DRIFT = (1.0, 10.0, 3.0, 0.5)
WOBBLE = (0.98, 1.02, 1.02, 0.98)
"""What only one side of a comparison is multiplied with: its ratio is known to 3.7 %."""


def summed_up(latency_of, benchmark=None):
    """Summarise a benchmark of eager, compiled and ONNX Runtime, by default at batch size 1."""
    benchmark = benchmark or three_backends()
    plan = plans.expand(benchmark)
    return summarize(benchmark, plan, results_for(plan, latency_of))


def takes(eager, compiled, onnxruntime):
    """Give each strategy a latency in milliseconds for all rounds, or one for each."""
    told = {EAGER: eager, COMPILED: compiled, ONNXRUNTIME: onnxruntime}

    def latency_of(strategy, size, r):
        latency = told[strategy]
        return latency[r] if isinstance(latency, tuple | list) else replace_size(latency, size)

    return latency_of


def replace_size(latency, size):
    return replace(latency, batch_size=size) if hasattr(latency, "batch_size") else latency


def wobbling(latency):
    return tuple(latency * factor for factor in WOBBLE)


# ---- the best ------------------------------------------------------------------------------------


def test_the_best_is_named_with_the_next_by_how_much_and_how_sure():
    best = summed_up(takes(eager=30, compiled=10, onnxruntime=15)).best[1]

    assert (best.row.cell.strategy, best.runner_up.cell.strategy) == (COMPILED, ONNXRUNTIME)
    assert (best.margin.value, best.verdict, best.simplest) == (pytest.approx(1.5), Verdict.FASTER, None)
    assert (best.row.speedup.value, best.row.verdict) == (pytest.approx(3), Verdict.FASTER)


def test_every_batch_size_has_its_own_best():
    latencies = {EAGER: {1: 10, 8: 90}, COMPILED: {1: 20, 8: 50}, ONNXRUNTIME: {1: 9, 8: 80}}

    found = summed_up(lambda s, size, _r: latencies[s][size], three_backends(batch_sizes=[8, 1]))

    assert {size: best.row.cell.strategy for size, best in found.best.items()} == {1: ONNXRUNTIME, 8: COMPILED}


def test_the_machines_drift_says_nothing_in_it():
    """It differs tenfold between rounds, and the margin is exactly 1.05."""

    def latency_of(strategy, _size, r):
        return {EAGER: 10.5, COMPILED: 10, ONNXRUNTIME: 20}[strategy] * TENFOLD_DRIFT[r]

    best = summed_up(latency_of).best[1]

    assert (best.margin.low, best.margin.value, best.margin.high) == pytest.approx((1.05, 1.05, 1.05), rel=1e-6)
    assert best.verdict is Verdict.FASTER


@given(st.lists(st.floats(0.7, 1.3), min_size=4, max_size=4), st.lists(st.floats(5, 50), min_size=12, max_size=12))
@settings(max_examples=30)
def test_a_shared_drift_of_30_percent_changes_no_answer(drift, latencies):
    def calm(strategy, _size, r):
        return latencies[4 * [EAGER, COMPILED, ONNXRUNTIME].index(strategy) + r]

    without, with_drift = summed_up(calm).best[1], summed_up(lambda s, size, r: calm(s, size, r) * drift[r]).best[1]

    assert with_drift.row.cell == without.row.cell
    assert with_drift.verdict is without.verdict
    assert (with_drift.margin.value, with_drift.margin.low, with_drift.margin.high) == pytest.approx(
        (without.margin.value, without.margin.low, without.margin.high), rel=1e-5
    )


def test_equal_latencies_go_to_the_simpler_strategy():
    best = summed_up(takes(eager=20, compiled=10, onnxruntime=10)).best[1]

    assert (best.row.cell.strategy, best.verdict, best.simplest) == (COMPILED, Verdict.TIE, COMPILED)


def test_of_a_tie_the_simplest_is_named_beside_the_best():
    best = summed_up(takes(eager=10.05, compiled=10.02, onnxruntime=10)).best[1]

    assert (best.row.cell.strategy, best.verdict, best.simplest) == (ONNXRUNTIME, Verdict.TIE, EAGER)
    assert best.at_most_apart == pytest.approx(0.002, rel=1e-3)


def test_what_cannot_be_told_from_the_best_may_be_simpler_than_the_next():
    """Compiled is next, eager a little behind it; neither is told from the best, and eager is the simplest."""
    best = summed_up(takes(eager=wobbling(10.2), compiled=wobbling(10.1), onnxruntime=10)).best[1]

    assert (best.row.cell.strategy, best.runner_up.cell.strategy) == (ONNXRUNTIME, COMPILED)
    assert (best.verdict, best.simplest) == (Verdict.INCONCLUSIVE, EAGER)


def test_what_is_surely_slower_is_not_taken_for_being_simple():
    best = summed_up(takes(eager=12, compiled=wobbling(10.1), onnxruntime=10)).best[1]

    assert (best.row.cell.strategy, best.verdict, best.simplest) == (ONNXRUNTIME, Verdict.INCONCLUSIVE, COMPILED)


def test_the_best_may_be_the_simplest_itself():
    best = summed_up(takes(eager=10, compiled=wobbling(10.1), onnxruntime=20)).best[1]

    assert (best.row.cell.strategy, best.simplest) == (EAGER, EAGER)


def test_at_most_apart_is_the_far_end_of_the_interval_in_either_direction():
    best = summed_up(takes(eager=30, compiled=wobbling(10), onnxruntime=(10.01,) * 4)).best[1]

    assert best.at_most_apart == pytest.approx(max(best.margin.high, 1 / best.margin.low) - 1)
    assert 0.035 < best.at_most_apart < 0.04


def test_a_strategy_that_was_alone_is_best_without_a_verdict():
    best = summed_up(takes(eager=30, compiled=None, onnxruntime=None)).best[1]

    assert (best.row.cell.strategy, best.runner_up, best.margin, best.verdict, best.at_most_apart) == (
        EAGER,
        *[None] * 4,
    )


def test_where_nothing_was_measured_nothing_is_best():
    found = summed_up(takes(*[ended(Outcome.CRASHED)] * 3))

    assert (found.best, found.answer) == ({}, None)
    assert found.document()["answer"] is None


@pytest.mark.parametrize("outcome", [outcome for outcome in Outcome if outcome is not Outcome.MEASURED])
@pytest.mark.parametrize("on_violation", ["Exclude", "Fail"])
def test_what_did_not_end_as_measured_never_wins(outcome, on_violation):
    benchmark = three_backends(accuracy={"on_violation": on_violation})
    bad = ended(outcome, latency_median_ns=1, throughput_milli_per_second=10**9)

    best = summed_up(takes(eager=30, compiled=(bad, 1, 1, 1), onnxruntime=20), benchmark).best[1]

    assert (best.row.cell.strategy, best.runner_up.cell.strategy) == (ONNXRUNTIME, EAGER)


def test_what_is_inaccurate_may_win_where_violations_are_only_reported():
    benchmark = three_backends(accuracy={"on_violation": "Report"})
    wrong = ended(Outcome.INACCURATE, latency_median_ns=1_000_000)

    best = summed_up(
        takes(eager=30, compiled=wrong, onnxruntime=ended(Outcome.CRASHED, latency_median_ns=1)), benchmark
    ).best[1]

    assert (best.row.cell.strategy, best.row.outcome) == (COMPILED, Outcome.INACCURATE)
    assert best.row.speedup.value == pytest.approx(30)


# ---- rounds that are missing ---------------------------------------------------------------------


def test_one_round_has_a_best_and_no_verdicts():
    found = summed_up(takes(eager=30, compiled=10, onnxruntime=15), three_backends(measurement={"rounds": 1}))

    best, entry = found.best[1], found.document()["best"][0]
    assert (best.row.cell.strategy, best.margin.value) == (COMPILED, pytest.approx(1.5))
    assert (best.verdict, best.row.verdict, best.simplest, best.at_most_apart) == (
        Verdict.INCONCLUSIVE,
        Verdict.INCONCLUSIVE,
        None,
        None,
    )
    assert "marginLowMilli" not in entry
    assert "latencyLowNanoseconds" not in entry


def test_who_lacks_a_slow_round_does_not_win_by_it():
    """In every round that both have, compiled is 10 % faster than ONNX Runtime, which lacks the two slow ones."""
    slow = (1, 1, 2, 2)
    compiled, onnxruntime = [10 * x for x in slow], [11, 11, None, None]

    best = summed_up(takes(eager=[30 * x for x in slow], compiled=compiled, onnxruntime=onnxruntime)).best[1]

    assert best.row.cell.strategy == COMPILED
    assert (best.runner_up.cell.strategy, best.margin.value) == (ONNXRUNTIME, pytest.approx(1.1))
    assert best.row.latency.value > best.runner_up.latency.value


def test_what_was_hardly_measured_is_not_taken_for_being_simple():
    """Eager has one round, so nothing tells it from the best; that it is three times slower is no reason to take it."""
    best = summed_up(takes(eager=(30, None, None, None), compiled=wobbling(10.1), onnxruntime=10)).best[1]

    assert (best.verdict, best.simplest) == (Verdict.INCONCLUSIVE, COMPILED)


def test_strategies_that_never_met_in_a_round_are_not_compared():
    best = summed_up(takes(eager=(10, 10, None, None), compiled=(None, None, 11, 11), onnxruntime=None)).best[1]

    assert (best.margin, best.verdict, best.simplest) == (None, Verdict.INCONCLUSIVE, None)


# ---- the objective -------------------------------------------------------------------------------

SIZES = [1, 8, 32]


def per_item(strategy, size, _r):
    """Compiled is quickest at 1, ONNX Runtime beyond; larger batches have more throughput."""
    first, more = {EAGER: (9, 8), COMPILED: (4, 3.5), ONNXRUNTIME: (5, 2.5)}[strategy]
    return first + (size - 1) * more


@pytest.mark.parametrize(
    ("objective", "expected"),
    [
        pytest.param({}, "torch-compile/fp32@1", id="latency at the smallest batch size"),
        pytest.param({"metric": "latency", "batch_size": 8}, "onnxruntime/fp32@8", id="latency at another"),
        pytest.param({"metric": "throughput"}, "onnxruntime/fp32@32", id="throughput over all"),
        pytest.param(
            {"metric": "throughput", "max_latency_microseconds": 40_000},
            "onnxruntime/fp32@8",
            id="throughput of what is quick enough",
        ),
        pytest.param(
            {"metric": "throughput", "max_latency_microseconds": 4_000}, "torch-compile/fp32@1", id="just quick enough"
        ),
        pytest.param({"metric": "throughput", "max_latency_microseconds": 3_999}, None, id="nothing is quick enough"),
    ],
)
def test_the_objective_chooses_the_answer(objective, expected):
    found = summed_up(per_item, three_backends(batch_sizes=SIZES, objective=objective))

    assert found.document()["answer"] == expected
    assert (found.answer and str(found.answer.row.cell)) == expected


def test_equal_throughputs_go_to_the_simpler_strategy():
    same = measured(1, 10, throughput_milli_per_second=5_000)

    found = summed_up(takes(same, same, same), three_backends(objective={"metric": "throughput"}))

    assert found.answer.row.cell.strategy == EAGER


def test_the_highest_throughput_need_not_have_the_lowest_latency():
    """Back to back a GPU overlaps what one call after the other does not."""
    slow_but_busy = measured(1, 20, throughput_milli_per_second=10**6)

    found = summed_up(takes(10, slow_but_busy, 30), three_backends(objective={"metric": "throughput"}))

    assert (found.answer.row.cell.strategy, found.best[1].row.cell.strategy) == (COMPILED, EAGER)


# ---- counters and circumstances ------------------------------------------------------------------


def test_cells_are_counted_by_what_became_of_them():
    benchmark = asked(backends=["torch-eager", "torch-compile", "onnxruntime", "tensorrt"], batch_sizes=[1, 8])
    told = {
        (EAGER, 1): 10,
        (EAGER, 8): ended(Outcome.CRASHED, 8),
        (COMPILED, 1): ended(Outcome.INACCURATE, 1),
        (COMPILED, 8): ended(Outcome.OUT_OF_MEMORY, 8),
        (ONNXRUNTIME, 1): ended(Outcome.UNSUPPORTED, 1),
        (ONNXRUNTIME, 8): None,
    }

    found = summed_up(lambda s, size, _r: told[s, size], benchmark)

    assert found.counts.model_dump() == {
        "planned": 8, "measured": 1, "unsupported": 3, "inaccurate": 1, "failed": 2, "missing": 1,
    }  # fmt: skip
    assert found.sweeps_finished == 8
    assert not found.is_complete


@pytest.mark.parametrize(("on_violation", "expected"), [("Exclude", 1), ("Report", 1), ("Fail", 2)])
def test_inaccurate_cells_count_as_failed_where_the_file_says_so(on_violation, expected):
    benchmark = three_backends(accuracy={"on_violation": on_violation})

    found = summed_up(takes(10, ended(Outcome.INACCURATE), ended(Outcome.TIMED_OUT)), benchmark)

    assert summaries.failed_cells(found, benchmark.spec) == expected


def test_the_first_failures_are_told_in_the_plans_order():
    found = summed_up(
        takes(10, ended(Outcome.CRASHED, reason="Signal: 11"), ended(Outcome.INACCURATE, reason="L2: 0.3"))
    )

    assert found.document()["firstFailures"] == [
        {"cell": "torch-compile/fp32@1", "outcome": "Crashed", "reason": "Signal: 11"},
        {"cell": "onnxruntime/fp32@1", "outcome": "Inaccurate", "reason": "L2: 0.3"},
    ]


def test_it_tells_when_results_are_not_from_one_machine():
    benchmark = three_backends()
    plan = plans.expand(benchmark)
    one, other, *_ = results_for(plan, takes(10, 10, 10))
    from_two = [replace(one, hardware="B", fingerprint="2"), replace(other, hardware="A", fingerprint="1")]

    found = summarize(benchmark, plan, from_two)

    assert (found.hardware, found.environments) == (("A", "B"), 2)


def test_expectations_are_counted_too():
    expectations = [
        {"name": "holds", "faster": "torch-compile/fp32", "than": "torch-eager/fp32"},
        {"name": "does-not", "faster": "torch-eager/fp32", "than": "torch-compile/fp32"},
        {"name": "open", "faster": "onnxruntime/fp32", "than": "torch-eager/fp32"},
    ]

    found = summed_up(takes(10, 5, None), three_backends(expectations=expectations))

    document = found.document()
    assert [entry["judgement"] for entry in document["expectations"]] == ["Holds", "DoesNotHold", "Undecided"]
    assert [judged.judgement for judged in found.judged] == [*Judgement]
    assert (document["expectationsUndecided"], document["expectationsNotHolding"]) == (1, 1)


def test_where_the_time_went_adds_up():
    """Two sweeps of 100 s, 30 s apart: 10 s of preparing for all, and per cell 20 s, 5 s and 40 s."""
    benchmark = asked()
    plan = plans.expand(benchmark)
    cell = measured(prepare_ms=20_000, warmup_ms=5_000, measure_ms=40_000)
    first = a_result(plan, 0, [cell], started_ms=1_000, finished_ms=101_000, prepare_ms=10_000)
    second = a_result(plan, 1, [cell], started_ms=131_000, finished_ms=231_000)

    found = summarize(benchmark, plan, [second, first])

    assert found.spent == Seconds(preparing=50, warming_up=10, measuring=80, other=60, idle=30)


def test_time_that_a_script_made_up_is_nobodys():
    """A sweep of 2 s has measured for 40 s: the backend `fake` waits for nothing, so all of it went elsewhere."""
    benchmark = asked()
    plan = plans.expand(benchmark)
    scripted = a_result(plan, 0, [measured(measure_ms=40_000)], started_ms=0, finished_ms=2_000, prepare_ms=500)

    assert summarize(benchmark, plan, [scripted]).spent == NO_TIME.model_copy(update={"other": 2})


def test_time_is_neither_negative_nor_counted_before_a_sweep_has_ended():
    """Clocks are set back, sweeps overlap, and a killed one has no end."""
    benchmark = asked()
    plan = plans.expand(benchmark)
    killed = a_result(plan, 0, [measured(measure_ms=5_000)], started_ms=0, finished_ms=None)
    overlapping = [a_result(plan, i, started_ms=0, finished_ms=10_000) for i in (1, 2)]

    assert summarize(benchmark, plan, [killed]).spent == NO_TIME
    assert summarize(benchmark, plan, [killed, *overlapping]).spent == NO_TIME.model_copy(update={"other": 20})


# ---- whatever comes ------------------------------------------------------------------------------

TOLD = st.none() | st.floats(1, 100) | st.sampled_from(Outcome).map(
    lambda outcome: ended(outcome, latency_median_ns=1_000_000)
)  # fmt: skip
BENCHMARK = asked(
    backends=["torch-eager", "torch-compile", "onnxruntime", "tensorrt"],
    batch_sizes=[1, 8],
    expectations=[
        {"name": "faster", "faster": "torch-compile/fp32", "than": "torch-eager/fp32", "by": "1.1x"},
        {"name": "equal", "equal": "torch-eager/fp32@1", "to": "torch-eager/fp32@8", "within": "50%"},
    ],
)
PLAN = plans.expand(BENCHMARK)


@st.composite
def any_results(draw):
    places = [(s, size, r) for s, size, r in product((EAGER, COMPILED, ONNXRUNTIME), (1, 8), range(4))]
    told = dict(zip(places, draw(st.lists(TOLD, min_size=len(places), max_size=len(places))), strict=True))
    return results_for(PLAN, lambda s, size, r: replace_size(told[s, size, r], size))


@given(any_results(), st.data())
@settings(max_examples=40)
def test_the_document_is_the_same_in_whatever_order_and_however_often_results_come(results, data):
    shuffled = data.draw(st.permutations(results))
    repeated = data.draw(st.lists(st.sampled_from(results), max_size=5))

    assert summarize(BENCHMARK, PLAN, [*shuffled, *repeated]).dump() == summarize(BENCHMARK, PLAN, results).dump()


def have_all_rounds(best):
    return len(best.row.medians) == len(best.runner_up.medians) == PLAN.rounds


@given(any_results())
@settings(max_examples=40)
def test_whatever_comes_the_counters_add_up_and_only_what_was_measured_wins(results):
    found = summarize(BENCHMARK, PLAN, results)

    counts = found.counts.model_dump()
    assert counts.pop("planned") == sum(counts.values()) == 8
    for best in found.best.values():
        assert best.row.outcome is Outcome.MEASURED
        assert best.runner_up is None or not have_all_rounds(best) or best.margin.value >= 1 - 1e-9
        assert best.verdict is not Verdict.FASTER or best.margin.low > 1
        assert best.simplest is None or best.simplest.simplicity <= best.row.cell.strategy.simplicity
    assert json.loads(found.dump()) == found.document()


@given(any_results(), st.data())
@settings(max_examples=30)
def test_results_only_add_to_what_is_known(results, data):
    """While a benchmark runs, a cell that has an outcome never loses it, and no sweep becomes unfinished."""
    some = data.draw(st.lists(st.sampled_from(results), unique=True))

    earlier, later = summarize(BENCHMARK, PLAN, some), summarize(BENCHMARK, PLAN, results)

    assert earlier.counts.missing >= later.counts.missing
    assert earlier.sweeps_finished <= later.sweeps_finished


# ---- the document --------------------------------------------------------------------------------


def test_two_rounds_that_differ_a_lot_leave_every_number_one_that_a_status_can_hold():
    """The upper end of the interval of 100 ms and 4 s is 9.5e18 ns, more than 64 bits hold."""
    benchmark = three_backends(measurement={"rounds": 2})

    (entry,) = summed_up(takes((100, 4000), (200, 8000), (300, 12000)), benchmark).document()["best"]

    assert entry["latencyHighNanoseconds"] == 2**53 - 1
    assert entry["latencyLowNanoseconds"] == 0
    assert entry["marginMilli"] == 2000


def test_the_document_says_it_in_whole_numbers_with_their_unit():
    found = summed_up(takes(eager=wobbling(30), compiled=10, onnxruntime=15))

    document = found.document()

    assert document["best"] == [
        {
            "batchSize": 1,
            "strategy": "torch-compile/fp32",
            "speedupMilli": 2999,
            "speedupLowMilli": 2891,
            "speedupHighMilli": 3112,
            "speedupVerdict": "Faster",
            "latencyNanoseconds": 10_000_000,
            "latencyLowNanoseconds": 10_000_000,
            "latencyHighNanoseconds": 10_000_000,
            "throughputMilliPerSecond": 100_000,
            "runnerUp": "onnxruntime/fp32",
            "marginMilli": 1500,
            "marginLowMilli": 1500,
            "marginHighMilli": 1500,
            "marginVerdict": "Faster",
            "rounds": 4,
        }
    ]
    assert document["seconds"] == {
        "preparing": 0,
        "warmingUp": 0,
        "measuring": 0,
        "other": 12 * SWEEP_MS // 1000,
        "idle": 0,
    }
    assert document["sweeps"] == {"planned": 12, "finished": 12}


def contains_float(value):
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return isinstance(value, float) or any(map(contains_float, inside))


GPU_BACKENDS = ["torch-compile-max-autotune", "torch-compile", "torch-eager", "fake"]
LONG = '😀é"\\\n' * 100

SHAPES = [
    pytest.param(["fake"], ["fp32", "fp16", "bf16"], 64, id="3 x 64"),
    pytest.param(["fake"], ["fp32", "fp16", "bf16", "fp8"], 50, id="4 x 50"),
    pytest.param(GPU_BACKENDS, ["fp32", "tf32", "bf16"], 16, id="12 x 16"),
    pytest.param(["fake"], ["fp32"], 64, id="1 x 64"),
    pytest.param(GPU_BACKENDS, ["fp32", "tf32", "bf16"], 1, id="12 x 1"),
]


def crowded(backends, precisions, sizes):
    """Return a benchmark with as much to say as it can: 64 expectations of long names, doubts, failures, long texts."""
    first, second = f"{backends[0]}/{precisions[0]}", f"fake/{precisions[-1]}"
    expectations = [
        {"name": f"{i:02}" + "x" * 61, "equal": f"{first}@60001", "to": f"{second}@60001", "within": "1%"}
        for i in range(64 if first != second else 0)
    ]
    return asked(
        backends=backends,
        precisions=precisions,
        batch_sizes=list(range(60_001, 60_001 + sizes)),
        device="gpu",
        expectations=expectations,
    )


def wordy(strategy, size, r):
    """Return cells with every doubt, long latencies that cannot be told apart, and failures with long reasons."""
    if strategy.precision == "tf32" or size % 8 == 7:
        return ended(Outcome.FAILED, size, f"{r}{LONG}")
    cell = measured(size, 1e6 * WOBBLE[(r + strategy.simplicity[0] + strategy.simplicity[1]) % 4])
    return replace(cell, doubts=tuple(Doubt))


@pytest.mark.parametrize(("backends", "precisions", "sizes"), SHAPES)
def test_the_document_of_200_cells_fits_into_a_status(backends, precisions, sizes):
    benchmark = crowded(backends, precisions, sizes)
    plan = plans.expand(benchmark)
    results = [replace(r, hardware=f"{r.sweep}{LONG[:79]}", fingerprint=str(r.sweep)) for r in results_for(plan, wordy)]

    found = summarize(benchmark, plan, results)
    document = found.document()

    assert len(json.dumps(document, indent=1)) <= 7_000
    assert found.dump().isascii()
    assert not contains_float(document)
    assert len(document["best"]) + document["bestOmitted"] == len(found.best)
    assert len(document["expectations"]) + document["expectationsOmitted"] == len(benchmark.spec.expectations)
    assert document["expectationsUndecided"] + document["expectationsNotHolding"] <= len(benchmark.spec.expectations)
    assert summarize(benchmark, plan, results[::-1]).dump() == found.dump()


@pytest.mark.parametrize(("backends", "precisions", "sizes"), SHAPES[:3])
def test_of_many_batch_sizes_the_ends_are_told_and_one_of_them_whole(backends, precisions, sizes):
    benchmark = crowded(backends, precisions, sizes)

    found = summed_up(lambda s, size, r: wordy(s, size + 1, r), benchmark)

    told = found.document()["best"]
    assert [entry["batchSize"] for entry in told][:: len(told) - 1] == [min(found.best), max(found.best)]
    assert any("latencyNanoseconds" in entry for entry in told)


def test_200_ordinary_cells_are_told_with_every_batch_size():
    """What a person would write: 4 x 50 and three expectations."""
    benchmark = asked(
        precisions=["fp32", "fp16", "bf16", "int8-static"],
        batch_sizes=list(range(1, 51)),
        expectations=[{"name": p, "faster": f"fake/{p}", "than": "fake/fp32"} for p in ("fp16", "bf16", "int8-static")],
    )

    document = summed_up(lambda s, size, r: size * (1 + s.simplicity[1]) * WOBBLE[r], benchmark).document()

    assert (document["bestOmitted"], document["expectationsOmitted"]) == (0, 0)
    assert len(document["best"]) == 50
