"""One cache folder for all tests of a run, so that what several of them read is prepared once."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest


def cache(factory: pytest.TempPathFactory) -> Path:
    """Return the folder: side by side, pytest gives each of its processes a folder below the run's."""
    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "cache"
    folder.mkdir(exist_ok=True)
    return folder
