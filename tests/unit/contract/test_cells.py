import random
from dataclasses import replace

import pytest

from inferbench_contract import cells
from inferbench_contract import plan as plans
from inferbench_contract.words import Doubt, Outcome, Strategy, ThrottleReason, Verdict
from tests.results import (
    COMPILED,
    EAGER,
    ONNXRUNTIME,
    TRAINED,
    a_plan,
    a_result,
    asked,
    cell,
    compared,
    ended,
    measured,
    results_for,
    three_backends,
)

PLAN = plans.expand(three_backends(batch_sizes=[1, 8]))
LATENCY_MS = {EAGER: 20.0, COMPILED: 10.0, ONNXRUNTIME: 40.0}
TENFOLD_DRIFT = (1.0, 10.0, 3.0, 0.5)


def table_of(latency_of, plan=PLAN, **options):
    return cells.tabulate(plan, results_for(plan, latency_of), EAGER, **options)


def steady(strategy, batch_size, _round):
    return LATENCY_MS[strategy] * batch_size


def one_strategy(*rounds):
    """Return the row of eager at batch 1, which alone is measured, from what each round told."""
    return table_of(lambda strategy, size, r: rounds[r] if (strategy, size) == (EAGER, 1) else None).rows[
        cell("torch-eager/fp32@1")
    ]


# ---- rows ----------------------------------------------------------------------------------------


def test_there_is_a_row_for_every_planned_cell():
    plan = a_plan(backends=["torch-eager", "onnxruntime", "tensorrt"], batch_sizes=[1, 8])

    table = cells.tabulate(plan, [], EAGER)

    assert list(table.rows) == [*plan.measurable_cells, *plan.unsupported_cells]
    assert table.batch_sizes == (1, 8)
    assert [str(row.cell) for row in table.at(8)] == ["torch-eager/fp32@8", "onnxruntime/fp32@8", "tensorrt/fp32@8"]


def test_a_cell_without_results_has_no_outcome_yet():
    row = cells.tabulate(PLAN, [], EAGER).rows[cell("torch-eager/fp32@1")]

    assert (row.outcome, row.may_rank, row.medians, row.latency, row.speedup, row.verdict) == (
        None,
        False,
        {},
        None,
        None,
        None,
    )


def test_an_unsupported_cell_has_the_plans_reason():
    plan = a_plan(backends=["torch-eager", "tensorrt"])

    row = cells.tabulate(plan, [], EAGER).rows[cell("tensorrt/fp32@1")]

    assert (row.outcome, row.may_rank) == (Outcome.UNSUPPORTED, False)
    assert row.reason.startswith("NeedsGpu: ")


def test_a_latency_is_the_geometric_mean_of_its_rounds_medians():
    """The arithmetic mean would be 22.75."""
    row = one_strategy(1, 10, 10, 70)

    assert row.medians == {0: 1e6, 1: 1e7, 2: 1e7, 3: 7e7}
    assert row.latency.value == pytest.approx((1 * 10 * 10 * 70) ** 0.25 * 1e6)
    assert row.latency.rounds == 4


def test_a_throughput_is_the_geometric_mean_of_its_rounds():
    row = one_strategy(*(measured(throughput_milli_per_second=t) for t in (1_000, 2_000, 4_000, 8_000)))

    assert row.throughput.value == pytest.approx(1_000 * 8**0.5)


@pytest.mark.parametrize(("told", "expected"), [((0, 0, 0, 0), None), ((0, 0, 0, 4_000), 4_000)])
def test_a_throughput_that_was_too_low_to_count_has_no_part_in_the_mean(told, expected):
    row = one_strategy(*(measured(throughput_milli_per_second=t) for t in told))

    assert (row.throughput and row.throughput.value) == pytest.approx(expected)


def test_the_energy_of_an_input_is_all_joules_over_all_inputs():
    """Two rounds of 6 s at 300 W and 240 W with 2,000 and 4,000 inputs a second: 3,240 J for 36,000 inputs."""
    watts, rates = (300, 240), (2_000, 4_000)
    told = (
        measured(power_milliwatts=1000 * power, throughput_milli_per_second=1000 * rate)
        for power, rate in zip(watts, rates, strict=True)
    )

    assert one_strategy(*told, None, None).energy_joules == pytest.approx((300 + 240) * 6 / ((2_000 + 4_000) * 6))


def test_a_round_that_counted_no_energy_has_no_part_in_it():
    counted = measured(power_milliwatts=100_000, throughput_milli_per_second=1_000_000)
    others = (measured(throughput_milli_per_second=9_000_000), ended(Outcome.CRASHED), measured(power_milliwatts=0))

    assert one_strategy(counted, *others).energy_joules == pytest.approx(0.1)


def test_without_a_gpu_that_counts_there_is_no_energy():
    assert one_strategy(10, 10, None, ended(Outcome.CRASHED)).energy_joules is None


def test_calls_add_up_over_rounds():
    assert one_strategy(*(measured(samples=n) for n in (1, 20, 300, 4_000))).samples == 4_321


@pytest.mark.parametrize(
    ("rounds", "outcome", "reason"),
    [
        pytest.param([1, 1, 1, 1], Outcome.MEASURED, "", id="measured in all rounds"),
        pytest.param([1, None, None, 1], Outcome.MEASURED, "", id="measured in those there are"),
        pytest.param(
            [1, 1, ended(Outcome.CRASHED, reason="Signal: 11"), 1],
            Outcome.CRASHED,
            "Signal: 11 (in 1 of 4 rounds)",
            id="nobody ships what crashes in one process of four",
        ),
        pytest.param(
            [ended(Outcome.CRASHED, reason="Signal: 11")] * 4, Outcome.CRASHED, "Signal: 11", id="in all rounds"
        ),
        pytest.param(
            [ended(Outcome.TIMED_OUT), ended(Outcome.INACCURATE, reason="B"), ended(Outcome.CRASHED), 1],
            Outcome.INACCURATE,
            "B (in 1 of 4 rounds)",
            id="wrong answers are worse than none",
        ),
        pytest.param(
            [1, ended(Outcome.FAILED, reason="A"), ended(Outcome.FAILED, reason="B"), 1],
            Outcome.FAILED,
            "A (in 2 of 4 rounds)",
            id="the reason of the first such round",
        ),
    ],
)
def test_a_cell_is_what_its_worst_round_was(rounds, outcome, reason):
    row = one_strategy(*rounds)

    assert (row.outcome, row.reason) == (outcome, reason)
    assert row.may_rank == (outcome is Outcome.MEASURED)


def test_every_outcome_has_its_place_among_the_worst():
    assert set(cells.WORST_FIRST) == set(Outcome)
    assert cells.worst(Outcome) is Outcome.INACCURATE
    assert cells.worst([]) is None


def test_doubts_are_counted_and_those_of_half_the_rounds_last():
    drifted, both = (
        measured(doubts=(Doubt.DRIFTED,)),
        measured(doubts=(Doubt.THROTTLED, Doubt.DRIFTED, Doubt.FEW_SAMPLES)),
    )

    row = one_strategy(drifted, both, measured(doubts=(Doubt.FEW_SAMPLES,)), measured())

    assert row.doubts == {Doubt.THROTTLED: 1, Doubt.DRIFTED: 2, Doubt.FEW_SAMPLES: 2}
    assert row.lasting_doubts == (Doubt.DRIFTED, Doubt.FEW_SAMPLES)


# ---- accuracy and what the GPU did ---------------------------------------------------------------


def trained(*rounds):
    """Return the row of eager at batch 1 of a model that is trained, from what each round told."""
    plan = plans.expand(three_backends(batch_sizes=[1], model=TRAINED))
    return table_of(lambda strategy, _size, r: rounds[r] if strategy == EAGER else None, plan).rows[
        cell("torch-eager/fp32@1")
    ]


def test_how_near_it_stays_is_told_by_the_round_that_compared_most():
    """The others look at 8 examples, of which one that disagrees would be an eighth."""
    whole = measured(**compared(0.9961))
    short = measured(**compared(0.875, compared_examples=8, relative_l2_parts_per_billion=90_000_000))

    row = trained(short, whole, short, short)

    assert row.compared == whole
    assert row.agreement_basis_points == 9_961


def test_of_rounds_that_ended_otherwise_the_one_that_decides_is_told():
    wrong = ended(Outcome.INACCURATE, **compared(None, compared_examples=8, relative_l2_parts_per_billion=10**9))

    assert trained(measured(**compared(0.99)), measured(), wrong, measured()).compared == wrong


def test_a_round_without_a_distance_does_not_borrow_that_of_a_good_one():
    """Outputs that are NaN have none, and they decide."""
    not_a_number = ended(Outcome.INACCURATE, latency_median_ns=1_000_000)

    good = measured(**compared(1))

    assert trained(not_a_number, good, good, good).compared is None


@pytest.mark.parametrize(
    "told",
    [
        pytest.param(measured(), id="nothing was compared"),
        pytest.param(measured(**compared()), id="no output is one score for each class"),
        pytest.param(measured(**compared(0.97, compared_examples=255)), id="too few examples for it"),
    ],
)
def test_an_agreement_is_told_only_where_it_is_judged(told):
    assert trained(told, told, told, told).agreement_basis_points is None


def test_random_weights_agree_with_nobody():
    told = measured(**compared(0.5))

    assert one_strategy(told, told, told, told).agreement_basis_points is None


def test_reasons_for_low_clocks_are_counted_by_rounds():
    row = one_strategy(*(measured(throttle_bits=bits) for bits in (0b1, 0b101, 0, None)))

    assert row.throttle_reasons == {ThrottleReason.SW_POWER_CAP: 2, ThrottleReason.SW_THERMAL_SLOWDOWN: 1}


@pytest.mark.parametrize(
    ("clocks", "expected"), [((1980, 1200, 1700, None), 1700), ((1980, 1200, None, None), 1590), ((None,) * 4, None)]
)
def test_of_a_field_the_median_of_the_rounds_is_told(clocks, expected):
    assert one_strategy(*(measured(sm_clock_mhz=mhz) for mhz in clocks)).middle("sm_clock_mhz") == expected


# ---- speedups ------------------------------------------------------------------------------------


def test_a_speedup_is_the_baselines_latency_over_ones_own():
    table = table_of(steady)

    speedups = {str(c): row.speedup and round(row.speedup.value, 9) for c, row in table.rows.items()}
    verdicts = {str(c): row.verdict for c, row in table.rows.items() if c.batch_size == 1}
    assert speedups == {
        "torch-eager/fp32@1": None,
        "torch-eager/fp32@8": None,
        "torch-compile/fp32@1": 2,
        "torch-compile/fp32@8": 2,
        "onnxruntime/fp32@1": 0.5,
        "onnxruntime/fp32@8": 0.5,
    }
    assert verdicts == {
        "torch-eager/fp32@1": None,
        "torch-compile/fp32@1": Verdict.FASTER,
        "onnxruntime/fp32@1": Verdict.SLOWER,
    }


def test_a_speedup_is_paired_by_round():
    """The machine differs tenfold between rounds, and it is exactly 2 all the same."""
    row = table_of(lambda s, size, r: steady(s, size, r) * TENFOLD_DRIFT[r]).rows[cell("torch-compile/fp32@1")]

    assert (row.speedup.low, row.speedup.value, row.speedup.high) == pytest.approx((2, 2, 2), rel=1e-6)
    assert row.verdict is Verdict.FASTER


def test_rounds_that_lack_one_side_are_left_out_of_the_speedup():
    """Of eager the rounds 0 to 2 are there, of compiled 1 to 3: two pairs, in which it is exactly 4."""
    latencies = {EAGER: (1, 40, 8, None), COMPILED: (None, 10, 2, 700), ONNXRUNTIME: (1,) * 4}

    row = table_of(lambda strategy, _size, r: latencies[strategy][r]).rows[cell("torch-compile/fp32@1")]

    assert row.speedup.rounds == 2
    assert row.speedup.value == pytest.approx(4)


@pytest.mark.parametrize("outcome", [Outcome.CRASHED, Outcome.INACCURATE])
def test_nothing_is_compared_with_a_baseline_that_did_not_end_as_measured(outcome):
    bad = ended(outcome, latency_median_ns=1_000_000)

    table = table_of(lambda s, size, r: replace(bad, batch_size=size) if s == EAGER and r == 0 else steady(s, size, r))

    assert {row.speedup for row in table.rows.values()} == {None}
    assert {row.verdict for row in table.rows.values()} == {None}


def test_what_is_inaccurate_is_compared_only_where_it_may_be_ranked():
    wrong = {size: ended(Outcome.INACCURATE, size, latency_median_ns=1_000_000) for size in (1, 8)}

    def latency_of(strategy, size, r):
        return wrong[size] if strategy == COMPILED else steady(strategy, size, r)

    strict, lenient = (table_of(latency_of, rank_inaccurate=lenient) for lenient in (False, True))

    compiled = cell("torch-compile/fp32@1")
    assert (strict.rows[compiled].may_rank, strict.rows[compiled].speedup) == (False, None)
    assert strict.medians(compiled) == {}
    assert lenient.rows[compiled].speedup.value == pytest.approx(20)
    assert lenient.rows[compiled].outcome is Outcome.INACCURATE


def test_what_crashed_is_ranked_nowhere():
    crashed = {size: ended(Outcome.CRASHED, size, latency_median_ns=1_000_000) for size in (1, 8)}

    table = table_of(
        lambda s, size, r: crashed[size] if s == COMPILED and r == 3 else steady(s, size, r), rank_inaccurate=True
    )

    assert not table.rows[cell("torch-compile/fp32@1")].may_rank


def test_the_more_strategies_a_batch_size_has_the_surer_a_verdict_has_to_be():
    """Alone it is faster at p = 0.02; beside two others that are as near, Holm asks for p <= 0.05 / 3."""
    rounds = (1.00, 1.05, 1.10, 1.15)

    def verdicts(precisions):
        plan = a_plan(precisions=precisions)
        latencies = results_for(plan, lambda s, _size, r: 100 * rounds[r] if s.precision == "fp32" else 96.2)
        rows = cells.tabulate(plan, latencies, Strategy.parse("fake/fp32")).rows.values()
        return [(row.verdict, row.speedup.p) for row in rows if row.speedup]

    ((alone, p),) = verdicts(["fp32", "fp16"])
    beside = verdicts(["fp32", "fp16", "bf16", "fp8"])

    assert 0.05 / 3 < p < 0.05
    assert alone is Verdict.FASTER
    assert {verdict for verdict, _ in beside} == {Verdict.INCONCLUSIVE}


def test_one_round_gives_speedups_and_no_verdicts():
    plan = plans.expand(three_backends(measurement={"rounds": 1}))

    row = table_of(steady, plan).rows[cell("torch-compile/fp32@1")]

    assert (row.speedup.value, row.speedup.low, row.speedup.high) == (pytest.approx(2), None, None)
    assert row.verdict is Verdict.INCONCLUSIVE


# ---- what comes in any order, twice or never ------------------------------------------------------


def test_the_order_of_results_does_not_matter():
    results = list(results_for(PLAN, lambda s, size, r: steady(s, size, r) * (1 + r / 100)))
    table = cells.tabulate(PLAN, results, EAGER)
    random.Random(1).shuffle(results)

    assert cells.tabulate(PLAN, results, EAGER) == table


def test_of_repeated_results_a_measured_one_counts_and_then_the_one_that_finished_first():
    crashed = a_result(PLAN, 0, [ended(Outcome.CRASHED), measured(8, 80)], finished_ms=1)
    again = a_result(PLAN, 0, [measured(1, 12), measured(8, 90)], finished_ms=2)
    once_more = a_result(PLAN, 0, [measured(1, 13), measured(8, 91)], finished_ms=3)

    for repeated in ([crashed, again, once_more], [once_more, again, crashed]):
        rows = cells.tabulate(PLAN, repeated, EAGER).rows
        assert rows[cell("torch-eager/fp32@1")].medians == {0: 12e6}
        assert rows[cell("torch-eager/fp32@8")].medians == {0: 80e6}


def test_a_result_says_nothing_of_cells_that_its_sweep_has_not():
    table = cells.tabulate(PLAN, [a_result(PLAN, 0, [measured(64)])], EAGER)

    assert list(table.rows) == list(PLAN.measurable_cells)
    assert {row.outcome for row in table.rows.values()} == {None}


def test_split_sweeps_of_one_strategy_come_together():
    plan = plans.expand(asked(batch_sizes=list(range(1, 65))))

    table = cells.tabulate(plan, results_for(plan, lambda _s, size, _r: size), Strategy.parse("fake/fp32"))

    assert {row.latency.rounds for row in table.rows.values()} == {4}
    assert table.rows[cell("fake/fp32@64")].latency.value == pytest.approx(64e6)


# ---- percentiles ---------------------------------------------------------------------------------


def test_percentiles_are_of_all_rounds_calls_together():
    """A mean over rounds of each one's p90 would be 190."""
    rounds = [list(range(1, 101)), list(range(101, 201)), list(range(201, 301))]

    assert cells.pooled_percentiles(rounds) == (270, None)


@pytest.mark.parametrize(
    ("calls", "expected"),
    [(0, (None, None)), (63, (None, None)), (64, (58, None)), (661, (595, None)), (662, (596, 656))],
)
def test_a_percentile_needs_enough_calls(calls, expected):
    assert cells.pooled_percentiles([list(range(1, calls + 1))]) == expected
