"""What PyTorch's backends refuse, decided from what a processor or a GPU says of itself."""

from __future__ import annotations

import pytest

from inferbench_contract.words import Precision
from inferbench_runner.backends import Unsupported, _linear, _torch


@pytest.mark.parametrize("flag", sorted(_torch.FP16_FLAGS))
def test_any_instructions_for_fp16_are_enough(flag):
    assert _torch.missing_fp16(("fpu", flag)) is None


def test_a_processor_without_fp16_is_told_which_instructions_it_lacks():
    reason = _torch.missing_fp16(("avx2", "avx512_bf16", "avx512f"))

    assert reason is not None
    assert reason.startswith("NoKernel: this processor has no amx_fp16 nor avx512_fp16")


@pytest.mark.parametrize("capability", [(8, 9), (9, 0), (10, 0), (12, 0)])
def test_gpus_from_ada_on_multiply_8_bit_floats(capability):
    _linear.require_capability(Precision.FP8, capability)


@pytest.mark.parametrize("capability", [(7, 5), (8, 0), (8, 6)])
def test_older_gpus_are_told_what_they_have_and_what_fp8_needs(capability):
    major, minor = capability

    with pytest.raises(Unsupported, match=rf"^NoKernel: .* capability 8\.9, and this GPU has {major}\.{minor}\."):
        _linear.require_capability(Precision.FP8, capability)


@pytest.mark.parametrize("precision", sorted(set(Precision) - {Precision.FP8}))
def test_the_other_precisions_do_not_ask_for_them(precision):
    _linear.require_capability(precision, (7, 0))
