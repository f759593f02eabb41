"""PyTorch's fp16 on this processor: with oneDNN's kernels, or not at all."""

from __future__ import annotations

import pytest
import torch

from inferbench_contract.words import Backend, Device, Precision
from inferbench_runner import backends
from inferbench_runner.backends import Artifact
from tests.runner import shared, test_backends, tiny

WANTED = frozenset({Artifact.WEIGHTS, Artifact.INPUTS, Artifact.REFERENCE})

HAS_KERNELS = torch.ops.mkldnn._is_mkldnn_fp16_supported()
"""What PyTorch itself decides by."""


@pytest.mark.parametrize("backend", test_backends.TORCH)
def test_where_a_processor_has_fp16_by_its_flags_pytorch_says_so_too(backend):
    """Not the other way round: it also takes those that only convert halves, and compute in fp32."""
    reason = backends.find(backend).missing(Precision.FP16, Device.CPU)

    if reason is None:
        assert HAS_KERNELS
    else:
        assert reason.startswith("NoKernel: this processor has no amx_fp16 nor avx512_fp16")


def test_a_cell_that_starts_all_the_same_is_fp16_or_unsupported(tmp_path):
    make = test_backends.tasks_of(tiny.a_model(tmp_path, planes=16), tmp_path, WANTED, shared.cache())

    [cell] = test_backends.run(make(Backend.TORCH_EAGER, Precision.FP16))

    if HAS_KERNELS:
        assert cell["accuracy"]["fault"] is None
        assert 1e-4 < cell["accuracy"]["relative_l2"] < 5e-3
    else:
        assert cell["unsupported"].startswith("NoKernel: PyTorch takes no fp16 kernels of oneDNN's")
