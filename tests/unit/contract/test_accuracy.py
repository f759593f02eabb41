"""How near to the reference a strategy has to stay."""

from __future__ import annotations

import math
import re
from dataclasses import astuple
from pathlib import Path

import pytest

from inferbench_contract.accuracy import LIMITS, limits_for
from inferbench_contract.spec import AccuracySpec
from inferbench_contract.words import SIMPLEST_PRECISIONS, Precision

PAGE = Path(__file__).parents[3] / "docs/measuring.md"

MEASURED_SOUND = {  # relative L2 of strategies that are as good as their precision lets them be (docs/measuring.md)
    Precision.FP32: 2e-6,
    Precision.FP16: 4.8e-3,
    Precision.BF16: 0.038,
    Precision.INT8_DYNAMIC: 0.085,
    Precision.INT8_STATIC: 0.12,
    Precision.FP8: 0.11,
}
TF32_IN_DISGUISE = 3e-4
"""Relative L2 of 10 bits of mantissa, with trained weights."""


def test_every_precision_has_limits():
    assert set(LIMITS) == set(Precision)


def test_the_page_on_measuring_has_the_limits_of_every_precision():
    rows = re.findall(r"^\| `([\w-]+)` \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) % \|", PAGE.read_text(), re.MULTILINE)

    told = {precision: (float(l2), float(cosine), float(top1) / 100) for precision, l2, cosine, top1 in rows}

    assert told == {precision: pytest.approx(astuple(limits)) for precision, limits in LIMITS.items()}


@pytest.mark.parametrize("precision", MEASURED_SOUND)
def test_a_sound_strategy_passes(precision):
    assert limits_for(precision, AccuracySpec()).max_relative_l2 > MEASURED_SOUND[precision]


def test_an_fp32_strategy_that_ran_as_tf32_does_not_pass():
    assert limits_for(Precision.FP32, AccuracySpec()).max_relative_l2 < TF32_IN_DISGUISE


def test_a_coarser_precision_is_never_held_to_more():
    limits = [LIMITS[p] for p in (Precision.FP32, Precision.FP16, Precision.BF16, Precision.INT8_STATIC)]

    assert sorted(limits, key=lambda one: one.max_relative_l2) == limits
    assert sorted(limits, key=lambda one: -one.min_cosine) == limits
    assert sorted(limits, key=lambda one: -one.min_top1_agreement) == limits


@pytest.mark.parametrize("precision", SIMPLEST_PRECISIONS)
def test_the_cosine_alone_does_not_refuse_what_the_distance_allows(precision):
    """An error of relative length e turns an answer by at most asin(e)."""
    limits = LIMITS[precision]

    assert limits.min_cosine <= math.cos(math.asin(limits.max_relative_l2))


def test_a_benchmark_may_ask_for_more_or_less_agreement():
    wanted = AccuracySpec(min_top1_agreement={Precision.INT8_STATIC: "90%"})

    assert limits_for(Precision.INT8_STATIC, wanted).min_top1_agreement == pytest.approx(0.9)
    assert limits_for(Precision.INT8_STATIC, wanted).max_relative_l2 == LIMITS[Precision.INT8_STATIC].max_relative_l2
    assert limits_for(Precision.FP32, wanted) == LIMITS[Precision.FP32]
