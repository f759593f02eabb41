"""A GPU without room for a batch size: that cell's outcome, and the next cell starts clean."""

from __future__ import annotations

import pytest

from inferbench_contract.words import Backend, Precision
from inferbench_runner import cuda
from tests.gpu.conftest import outcomes, skip_where_missing

LEFT_BYTES = 2 << 30
"""Enough for a context, ResNet-18 and one image; its first layer answers 1,024 images with 3.3 GB in fp32."""

TOO_LARGE = 1024


@pytest.fixture
def a_full_gpu():
    """Another process's memory, so to speak: all but 2 GiB of the GPU is taken."""
    with cuda.open_device() as device:
        device.buffer(device.free_bytes() - LEFT_BYTES)
        yield


@pytest.mark.parametrize("backend", [Backend.TORCH_EAGER, Backend.ONNXRUNTIME, Backend.TENSORRT])
def test_out_of_memory_is_the_outcome_of_the_batch_size_that_does_not_fit(run, a_full_gpu, backend):
    skip_where_missing(backend, Precision.FP32)

    rows = run(backends=[str(backend)], precisions=["fp32"], batchSizes=[1, TOO_LARGE])

    assert rows[f"{backend}/fp32@1"]["outcome"] == "Measured", outcomes(rows)
    assert rows[f"{backend}/fp32@{TOO_LARGE}"]["outcome"] == "OutOfMemory", outcomes(rows)


def test_afterwards_everything_fits_again(run):
    rows = run(backends=["torch-eager"], precisions=["fp32"], batchSizes=[1, 64])

    assert {row["outcome"] for row in rows.values()} == {"Measured"}, outcomes(rows)
