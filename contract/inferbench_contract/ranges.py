"""Sweeps as text: `3,7-9`. A later stage names the sweeps of its pods in this way."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import groupby

PART = re.compile(r"([0-9]{1,4})(?:-([0-9]{1,4}))?", re.ASCII)
"""A sweep, or the first and the last of several. No plan has more than four digits of them, so no text is dangerous."""

EXPECTED = "expected numbers of sweeps in ascending order, such as 3,7-9"


def format_sweeps(sweeps: Iterable[int]) -> str:
    """Write the indexes of sweeps, ascending and each once: `3,7-9`."""
    ascending = enumerate(sorted(set(sweeps)))
    runs = [[sweep for _, sweep in run] for _, run in groupby(ascending, key=lambda pair: pair[1] - pair[0])]
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def parse_sweeps(text: str) -> tuple[int, ...]:
    """Read what `format_sweeps` wrote. Raises ValueError that names the part which is wrong, and what was expected."""
    found: list[int] = []
    for part in text.split(","):
        run = _run(part)
        if not run or (found and run[0] <= found[-1]):
            raise ValueError(f"found {part!r}, {EXPECTED}")
        found += run
    return tuple(found)


def _run(part: str) -> range:
    """Read `7` or `7-9`; an empty range where it is neither."""
    match = PART.fullmatch(part)
    if match is None:
        return range(0)
    first, last = match.groups()
    return range(int(first), int(last or first) + 1)
