"""How near to the fp32 reference a strategy has to stay before its speed counts, by precision.

The distances are to the fp32 eager model's answers to real images, measured with ResNet-50 and 20 other models on ONNX
Runtime and PyTorch (docs/measuring.md). Each limit stands between what a sound strategy and what a broken one showed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from inferbench_contract.spec import AccuracySpec, fraction
from inferbench_contract.words import Precision

MIN_EXAMPLES_FOR_TOP1 = 256
"""Below this an agreement is not judged: one example in a hundred is more than the limits allow (design.md)."""


@dataclass(frozen=True, slots=True)
class AccuracyLimits:
    """What is still accurate. Models with random weights are held to the first two only: their top-1 means nothing."""

    max_relative_l2: float
    """Norm of the difference over norm of the reference, over all examples."""
    min_cosine: float
    """Cosine between the answer and the reference, of the worst example."""
    min_top1_agreement: float
    """Share of examples whose first choice is the reference's, from 0 to 1."""


LIMITS: Mapping[Precision, AccuracyLimits] = {
    # Other libraries' fp32 is within 1.5e-6. An fp32 cell that ran as TF32 or fp16 is off by 3e-4 and must not pass.
    Precision.FP32: AccuracyLimits(1e-4, 0.99999, 0.995),
    # TF32 and fp16 have 10 bits of mantissa: 3e-4 to 9e-4 with trained weights, up to 5e-3 with calibrated random ones.
    # 99.5 % is what MLPerf-like gates ask of fp16.
    Precision.TF32: AccuracyLimits(1e-2, 0.999, 0.995),
    Precision.FP16: AccuracyLimits(1e-2, 0.999, 0.995),
    # 7 bits of mantissa: 8 times fp16's error. 4.8e-3 with trained weights, agreement 0.94 on a harsh 768-way choice.
    Precision.BF16: AccuracyLimits(8e-2, 0.99, 0.97),
    # 0.018 where every operator is quantised; cosine of the worst image 0.9993. MLPerf keeps 99 % of the task's top-1
    # where labels exist; without them an agreement of 97 % is the usual reading of it.
    Precision.INT8_DYNAMIC: AccuracyLimits(0.1, 0.99, 0.97),
    # 0.023 to 0.062, cosine 0.997 to 0.9995. Bad calibration gave cosine 0.62 to 0.83, a library's bug 0.05.
    Precision.INT8_STATIC: AccuracyLimits(0.15, 0.98, 0.97),
    # e4m3 has 3 bits of mantissa, about as coarse as int8 with one scale; not measured yet.
    Precision.FP8: AccuracyLimits(0.15, 0.98, 0.97),
}
"""The defaults. `spec.accuracy.minTop1Agreement` replaces the last column; the first two are not for bargaining."""


def limits_for(precision: Precision, accuracy: AccuracySpec) -> AccuracyLimits:
    """Return what a strategy of this precision is held to in this benchmark."""
    limits = LIMITS[precision]
    wanted = accuracy.min_top1_agreement.get(precision)
    return limits if wanted is None else replace(limits, min_top1_agreement=float(fraction(wanted)))
