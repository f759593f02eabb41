"""What works on this machine: for each device a row per backend, a column per precision, and each reason once below."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from inferbench_contract.capabilities import support
from inferbench_contract.words import Backend, Device, ModelSource, Precision, Strategy

WIDTH = 80
"""Columns of a terminal that nobody has widened. A pipe has no width of its own."""

WORKS = "yes"
LEGEND = "can be measured here; docs/backends.md says of which models"

FAULT = "EnvironmentFault: "
INSTALL = "Install it: "
"""How the runner's reasons begin where the device is to blame, and what stands before the line that mends it."""

Reasons = Mapping[Strategy, str | None]
"""Why a strategy does not work on one device, in the runner's words; None where it does."""


def read(rows: Iterable[Mapping[str, Any]], *, with_fake: bool) -> Reasons:
    """Read what the runner answered about one device; `fake` measures nothing, so that few want to see it."""
    reasons = {Strategy.parse(row["strategy"]): row["reason"] for row in rows}
    return {strategy: why for strategy, why in reasons.items() if with_fake or strategy.backend is not Backend.FAKE}


def text(device: Device, reasons: Reasons) -> str:
    """Return the table of a device, or why there is no such device here; its sentences fill 80 columns."""
    fault = _missing_device(device, reasons)
    if fault is not None:
        return _filled(f"{device.upper()}: nothing works. {fault}")
    numbers = _numbers(reasons)
    return "\n".join((*_table(device, reasons, numbers), *_notes(numbers)))


def _missing_device(device: Device, reasons: Reasons) -> str | None:
    """Return what is wrong with the device where that alone stops everything that could ever work on it."""
    possible = {why for strategy, why in reasons.items() if support(strategy, device, ModelSource.TORCHVISION) is None}
    why = possible.pop() if len(possible) == 1 else None
    return why.removeprefix(FAULT) if why is not None and why.startswith(FAULT) else None


def _numbers(reasons: Reasons) -> Mapping[str, str]:
    """Give each reason a number, under which it is told below, in the order in which they are met."""
    different = dict.fromkeys(why for why in reasons.values() if why is not None)
    return {why: str(number) for number, why in enumerate(different, start=1)}


def _table(device: Device, reasons: Reasons, numbers: Mapping[str, str]) -> Iterator[str]:
    backends = dict.fromkeys(strategy.backend for strategy in reasons)
    first = max(map(len, backends))
    yield _row([device.upper(), *Precision], first)
    for backend in backends:
        whys = (reasons[Strategy(backend, precision)] for precision in Precision)
        yield _row([backend, *(WORKS if why is None else numbers[why] for why in whys)], first)


def _row(words: Iterable[str], first: int) -> str:
    """Align words under the names of the precisions. One space between columns: two make it wider than a terminal."""
    widths = (first, *map(len, Precision))
    return " ".join(f"{word:<{width}}" for word, width in zip(words, widths, strict=True)).rstrip()


def _notes(numbers: Mapping[str, str]) -> Iterator[str]:
    yield _note(WORKS, LEGEND)
    for why, number in numbers.items():
        sentence, install, command = why.partition(INSTALL)
        yield _note(number, sentence + install.rstrip())
        if command:
            yield f"{'':8}{command}"  # a line of its own, to be copied whole


def _note(mark: str, sentence: str) -> str:
    return _filled(f"{mark:>5}  {sentence}", indent=7)


def _filled(paragraph: str, indent: int = 0) -> str:
    """Break lines at spaces only: the names of backends have hyphens."""
    return textwrap.fill(
        paragraph, WIDTH, subsequent_indent=" " * indent, break_on_hyphens=False, break_long_words=False
    )
