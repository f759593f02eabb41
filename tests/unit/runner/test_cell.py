"""What was timed of a cell and what the gate found of it, as its result carries it."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from inferbench_contract.spec import AccuracySpec, ModelSpec
from inferbench_contract.words import Outcome, Precision
from inferbench_runner.accuracy import Accuracy
from inferbench_runner.cell import judged, numbers
from inferbench_runner.measure import measure
from inferbench_runner.stopping import Limits
from tests.builders import a_benchmark
from tests.fakes import MILLISECOND, SECOND, ScriptedSession
from tests.results import TRAINED, measured


@dataclass(frozen=True)
class Task:
    """The part of a cell's task that says what is accurate enough."""

    precision: Precision = Precision.INT8_STATIC
    accuracy: AccuracySpec = field(default_factory=AccuracySpec)
    model: ModelSpec = field(default_factory=lambda: a_benchmark(model=TRAINED).spec.model)


FOUND = Accuracy(
    256,
    relative_l2=0.031,
    worst_relative_l2=0.2,
    worst_cosine=0.9981234,
    worst_example=12,
    top1_agreement=0.98828125,
    error_ratio=12_345.6,
    are_crops=True,
)


@pytest.mark.parametrize(
    ("call_ms", "percentiles"),
    [
        pytest.param(50, (None, None), id="30 calls give no percentile"),
        pytest.param(1, (MILLISECOND, None), id="600 give p90"),
    ],
)
def test_a_round_has_the_percentiles_that_its_calls_allow(call_ms, percentiles):
    measurement = measure(ScriptedSession([call_ms * MILLISECOND]), Limits(max_ns=4 * SECOND, warmup_max_ns=8 * SECOND))

    result = numbers(measurement, batch_size=1)

    assert (result.latency_p90_ns, result.latency_p99_ns) == percentiles


def test_a_cell_carries_how_near_it_stayed_to_fp32_and_over_how_much():
    result = judged(measured(), FOUND, Task())

    assert result == measured(
        compared_examples=256,
        relative_l2_parts_per_billion=31_000_000,
        worst_cosine_parts_per_million=998_123,
        worst_example=12,
        top1_agreement_basis_points=9_882,
        error_ratio_milli=12_345_600,
    )


def test_one_that_is_too_far_carries_its_numbers_all_the_same_and_names_the_worst_image():
    result = judged(measured(), FOUND, Task(Precision.FP16))

    assert (result.outcome, result.worst_example, result.compared_examples) == (Outcome.INACCURATE, 12, 256)
    assert result.reason.endswith("(over 256 examples, the worst is crop 3 of astronaut).")


@pytest.mark.parametrize(
    "found",
    [
        pytest.param(Accuracy(8), id="no difference has no worst example"),
        pytest.param(Accuracy(8, fault="output y has NaN or infinity in 1 of 8 examples"), id="NaN has no distance"),
    ],
)
def test_what_means_nothing_is_left_out(found):
    result = judged(measured(), found, Task())

    assert result.worst_example is None
    assert (result.relative_l2_parts_per_billion is None) is (result.outcome is Outcome.INACCURATE)
    assert (result.compared_examples, result.worst_cosine_parts_per_million) in {(8, 1_000_000), (None, None)}
