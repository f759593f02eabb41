"""What the fields of a benchmark are made of."""

from __future__ import annotations

from fractions import Fraction

from inferbench_contract.fields import fraction


def test_percentages_and_factors_are_read_exactly():
    assert fraction("99.5%") == Fraction(995, 1000)
    assert fraction("1.1x") == Fraction(11, 10)
