"""ONNX Runtime's CUDA provider on a real GPU, as users run it."""

from __future__ import annotations

import pytest

from inferbench_contract.capabilities import support
from inferbench_contract.words import Backend, Device, ModelSource, Precision, Strategy
from tests.gpu.conftest import all_measured, error, has_the_four_numbers, outcomes, skip_where_missing

PRECISIONS = [
    precision
    for precision in Precision
    if support(Strategy(Backend.ONNXRUNTIME, precision), Device.GPU, ModelSource.TORCHVISION) is None
]


@pytest.fixture(scope="module", autouse=True)
def cuda_provider():
    """The test is skipped where only the CPU's build is installed."""
    skip_where_missing(Backend.ONNXRUNTIME, Precision.FP32)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("with_graph", [False, True], ids=["plain", "cuda graph"])
def test_every_precision_that_is_said_to_work_works(run, precision, with_graph):
    skip_where_missing(Backend.ONNXRUNTIME, precision)
    rows = run(
        backends=["onnxruntime"],
        precisions=[str(precision)],
        batchSizes=[1, 32],
        backendOptions={"onnxruntime": {"cudaGraph": with_graph}},
    )

    assert all_measured(rows), outcomes(rows)
    assert all(map(has_the_four_numbers, rows.values()))


def test_fp32_is_fp32(run):
    """The provider uses TF32 unless it is told not to."""
    rows = run(backends=["onnxruntime"], precisions=["fp32", "tf32"])

    assert error(rows, "onnxruntime/fp32@8") < 20_000
    assert error(rows, "onnxruntime/tf32@8") > 5 * error(rows, "onnxruntime/fp32@8")


def test_eight_bits_that_would_be_emulated_are_unsupported(run):
    rows = run(backends=["onnxruntime"], precisions=["int8-static"], batchSizes=[1])

    assert rows["onnxruntime/int8-static@1"]["outcome"] == "Unsupported"
