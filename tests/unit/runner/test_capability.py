"""Which precisions a GPU may be too old for: one rule for all backends."""

from __future__ import annotations

import pytest

from inferbench_contract.words import Precision
from inferbench_runner.backends import Unsupported, _capability

TURING, AMPERE, ADA, HOPPER, BLACKWELL = (7, 5), (8, 0), (8, 9), (9, 0), (12, 0)

EVERYWHERE = sorted(set(Precision) - set(_capability.NEEDS))


@pytest.mark.parametrize(
    ("precision", "capability"),
    [
        *[(precision, capability) for precision in Precision for capability in (ADA, HOPPER, BLACKWELL)],
        (Precision.TF32, AMPERE),
        (Precision.BF16, (8, 6)),
        *[(precision, TURING) for precision in EVERYWHERE],
    ],
)
def test_a_gpu_that_has_a_precision_may_measure_it(precision, capability):
    assert _capability.missing(precision, "a card", capability) is None
    _capability.require(precision, "a card", capability)


@pytest.mark.parametrize(
    ("precision", "capability", "words"),
    [
        pytest.param(Precision.TF32, TURING, "tf32 needs compute capability 8.0, and a card has 7.5", id="plain fp32"),
        pytest.param(Precision.BF16, TURING, "bf16 needs compute capability 8.0, and a card has 7.5", id="emulated"),
        pytest.param(Precision.FP8, AMPERE, "fp8 needs compute capability 8.9, and a card has 8.0", id="refused"),
        pytest.param(
            Precision.FP8, (8, 6), "fp8 needs compute capability 8.9, and a card has 8.6", id="the other Ampere"
        ),
    ],
)
def test_an_older_one_is_told_what_it_has_what_is_needed_and_what_to_use(precision, capability, words):
    with pytest.raises(Unsupported) as refused:
        _capability.require(precision, "a card", capability)

    assert str(refused.value) == f"NoKernel: {words}. Use fp32 or fp16."
