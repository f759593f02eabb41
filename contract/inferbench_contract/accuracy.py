"""How near to the fp32 reference a strategy has to stay before its speed counts, by precision.

The distances are to the fp32 eager model's answers to real images. Each limit stands between what sound strategies
showed and what broken ones did: docs/measuring.md has both beside the limits, docs/results/models.md each graph of nine
real models.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from inferbench_contract.fields import fraction
from inferbench_contract.measurement import AccuracySpec
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
    # Other libraries' fp32 is within 2e-6. An fp32 cell that ran as TF32 or fp16 is off by 3e-4 and must not pass.
    Precision.FP32: AccuracyLimits(1e-4, 0.99999, 0.995),
    # TF32 and fp16 have 10 bits of mantissa: 3e-4 to 5e-3. 99.5 % is what MLPerf-like gates ask of fp16.
    Precision.TF32: AccuracyLimits(1e-2, 0.999, 0.995),
    Precision.FP16: AccuracyLimits(1e-2, 0.999, 0.995),
    # 7 bits of mantissa, so 8 times fp16's error: 4.7e-3 to 3.8e-2, cosine of the worst image 0.9948.
    Precision.BF16: AccuracyLimits(8e-2, 0.99, 0.97),
    # 0.023 to 0.085 where every operator is quantised, cosine 0.995; 0.42 where its scales ruin the convolutions.
    # MLPerf keeps 99 % of the task's top-1 where labels exist; without them an agreement of 97 % is the usual reading.
    Precision.INT8_DYNAMIC: AccuracyLimits(0.1, 0.99, 0.97),
    # 0.02 to 0.12, cosine 0.990 to 0.9997; EfficientNet-Lite0 has 0.971, and 87 % of its first choices. Bad
    # calibration gave cosine 0.62 to 0.83, a library's bug 0.05.
    Precision.INT8_STATIC: AccuracyLimits(0.15, 0.98, 0.97),
    # e4m3 has 3 bits of mantissa, yet is held to no less than int8: 0.065 to 0.11 in five of nine models. DenseNet
    # (0.15), MobileNet and the EfficientNets (0.17 to 0.52) need finer numbers, and are Inaccurate.
    Precision.FP8: AccuracyLimits(0.15, 0.98, 0.97),
}
"""The defaults. `spec.accuracy.minTop1Agreement` replaces the last column; the first two are not for bargaining."""


def limits_for(precision: Precision, accuracy: AccuracySpec) -> AccuracyLimits:
    """Return what a strategy of this precision is held to in this benchmark."""
    limits = LIMITS[precision]
    wanted = accuracy.min_top1_agreement.get(precision)
    return limits if wanted is None else replace(limits, min_top1_agreement=float(fraction(wanted)))
