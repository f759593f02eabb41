"""PyTorch's strategies on a real GPU, as users run them."""

from __future__ import annotations

import pytest

from inferbench_contract.capabilities import TORCH, support
from inferbench_contract.words import Device, ModelSource, Precision, Strategy
from inferbench_runner import backends
from tests.gpu.conftest import (
    all_measured,
    counts_energy,
    error,
    has_the_four_numbers,
    outcomes,
    skip_where_missing,
)

STRATEGIES = [
    (backend, precision)
    for backend in sorted(TORCH)
    for precision in Precision
    if support(Strategy(backend, precision), Device.GPU, ModelSource.TORCHVISION) is None
]

LINEAR = {"torchvision": {"name": "vit_b_16", "weights": "random"}}
"""What torchao quantises are Linear layers, which do next to nothing of a ResNet's arithmetic."""


@pytest.fixture(scope="module", autouse=True)
def torch():
    return pytest.importorskip("torch")


@pytest.fixture(scope="module")
def eager(run):
    return run(backends=["torch-eager"], precisions=["fp32", "tf32", "fp16", "bf16"])


def test_a_cell_has_the_clock_that_its_card_ran_at(eager):
    clocks = [int(row["sm_clock_mhz"]) for row in eager.values() if row["outcome"] == "Measured"]

    assert clocks
    assert all(100 <= megahertz <= 4_000 for megahertz in clocks)


def test_a_cell_with_8_s_has_the_energy_of_an_input_and_one_with_less_has_none(run, driver):
    """No card takes less than 5 W or more than 2 kW while it computes."""
    if not counts_energy(driver):
        pytest.skip("this GPU, or this slice of one, does not count its energy")
    measurement = {"rounds": 1, "maxSecondsPerCell": 8, "warmupMaxSeconds": 2}

    long = run(backends=["torch-eager"], precisions=["fp16"], batchSizes=[32], measurement=measurement)
    short = run(backends=["torch-eager"], precisions=["fp16"], batchSizes=[32])

    (row,), (without,) = long.values(), short.values()
    joules = int(row["energy_microjoules_per_input"]) / 1e6
    inputs_per_second = int(row["throughput_milli_per_second"]) / 1e3
    assert 5 < joules * inputs_per_second < 2_000
    assert joules * inputs_per_second == pytest.approx(int(row["power_milliwatts"]) / 1e3, rel=0.01)
    assert without["energy_microjoules_per_input"] == ""


@pytest.mark.parametrize(("backend", "precision"), STRATEGIES, ids=str)
def test_every_strategy_that_is_said_to_work_works(run, backend, precision):
    skip_where_missing(backend, precision)
    model = {"model": LINEAR} if precision in {Precision.INT8_DYNAMIC, Precision.FP8} else {}
    rows = run(backends=[str(backend)], precisions=[str(precision)], batchSizes=[1, 32], **model)

    assert all_measured(rows), outcomes(rows)
    assert all(map(has_the_four_numbers, rows.values()))


def test_fp32_is_fp32(eager):
    """NVIDIA's cuDNN computes convolutions in TF32 unless it is told not to; that is 100 times less exact."""
    assert error(eager, "torch-eager/fp32@8") < 20_000
    assert error(eager, "torch-eager/tf32@8") > 5 * error(eager, "torch-eager/fp32@8")


def test_fewer_bits_are_less_exact(eager):
    fp16, bf16 = error(eager, "torch-eager/fp16@8"), error(eager, "torch-eager/bf16@8")

    assert error(eager, "torch-eager/fp32@8") < fp16 < bf16


def test_channels_last_answers_as_contiguous_does(run):
    """Of the strategies that are here; those that are not have been skipped above, with the reason."""
    here = [str(each) for each in sorted(TORCH) if backends.find(each).missing(Precision.FP16, Device.GPU) is None]

    rows = run(
        backends=here,
        precisions=["fp16"],
        batchSizes=[8],
        measurement={"rounds": 1, "maxSecondsPerCell": 1, "warmupMaxSeconds": 2, "layout": "channels-last"},
    )

    assert all_measured(rows), outcomes(rows)


def test_end_to_end_there_are_four_numbers_too(run):
    rows = run(
        backends=["torch-eager"],
        precisions=["fp32"],
        batchSizes=[8],
        measurement={"rounds": 1, "maxSecondsPerCell": 1, "warmupMaxSeconds": 2, "contract": "end-to-end"},
    )

    assert all_measured(rows), outcomes(rows)
    assert all(map(has_the_four_numbers, rows.values()))
