"""PyTorch's strategies on a real GPU, as users run them."""

from __future__ import annotations

import pytest

from inferbench_contract.capabilities import TORCH, support
from inferbench_contract.words import Device, ModelSource, Precision, Strategy
from tests.gpu.conftest import all_measured, error, has_the_four_numbers, outcomes

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


@pytest.mark.parametrize(("backend", "precision"), STRATEGIES, ids=str)
def test_every_strategy_that_is_said_to_work_works(run, backend, precision):
    model = {"model": LINEAR} if precision is Precision.INT8_DYNAMIC else {}
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


def test_end_to_end_there_are_four_numbers_too(run):
    rows = run(
        backends=["torch-eager"],
        precisions=["fp32"],
        batchSizes=[8],
        measurement={"rounds": 1, "maxSecondsPerCell": 1, "warmupMaxSeconds": 2, "contract": "end-to-end"},
    )

    assert all_measured(rows), outcomes(rows)
    assert all(map(has_the_four_numbers, rows.values()))
