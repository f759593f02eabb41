"""The words, and the orders that they stand in."""

from __future__ import annotations

import pytest

from inferbench_contract.words import SIMPLEST_BACKENDS, SIMPLEST_PRECISIONS, Backend, Precision


@pytest.mark.parametrize(
    ("order", "words"),
    [
        pytest.param(SIMPLEST_BACKENDS, Backend, id="backends"),
        pytest.param(SIMPLEST_PRECISIONS, Precision, id="precisions"),
    ],
)
def test_every_word_has_one_place_among_the_simplest(order, words):
    """A tie goes to the one that stands earlier, so none may be left out."""
    assert sorted(order) == sorted(words)
