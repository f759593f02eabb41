"""Fixtures of the tests that start real processes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import programs
from tests.programs import Place


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """A folder to run the program in; the test fails if a process is left behind."""
    with programs.place(tmp_path) as made:
        yield made
