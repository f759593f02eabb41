"""Python's search for garbage, which goes over all of a library again and again while the library is loaded."""

from __future__ import annotations

import gc
from typing import Final

YOUNG: Final = 50_000
"""Objects that are made before the youngest are searched, instead of 700: loading PyTorch and Inductor makes millions
that stay. With it they take 4.0 s of CPU time instead of 4.5, and no more memory; no search at all takes as long."""

OLDER: Final = 50
"""Searches of one generation before the next older one is searched too."""


def search_rarely() -> None:
    """For processes that load large libraries; no timed call is interrupted by a search anyway: see `measure`."""
    gc.set_threshold(YOUNG, OLDER, OLDER)
