"""What PyTorch's backends refuse, decided from what a processor says of itself."""

from __future__ import annotations

import pytest

from inferbench_runner.backends import _torch


@pytest.mark.parametrize("flag", sorted(_torch.FP16_FLAGS))
def test_any_instructions_for_fp16_are_enough(flag):
    assert _torch.missing_fp16(("fpu", flag)) is None


def test_a_processor_without_fp16_is_told_which_instructions_it_lacks():
    reason = _torch.missing_fp16(("avx2", "avx512_bf16", "avx512f"))

    assert reason is not None
    assert reason.startswith("NoKernel: this processor has no amx_fp16 nor avx512_fp16")
