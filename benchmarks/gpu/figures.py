"""What must be reached on a GPU, in per cent, and whether it was."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Wanted:
    """A figure and its limit."""

    text: str
    limit_percent: float
    is_least: bool = False
    """Whether the limit is the least that will do; else it is the most."""

    def is_reached(self, found_percent: float) -> bool:
        """Tell whether what was found will do."""
        return found_percent >= self.limit_percent if self.is_least else found_percent <= self.limit_percent

    def __str__(self) -> str:
        """Say it with its limit."""
        return f"{self.text} {self.limit_percent:g}%"


WANTED: Mapping[str, Wanted] = {
    "repeatability": Wanted("95 of 100 pairs of fresh processes differ by at most", 1.5),
    "bias": Wanted("every median differs from a bare loop's by at most", 1.0),
    "engine": Wanted("TensorRT's time differs from trtexec's or its own profiler's by at most", 5.0),
    "mlperf": Wanted(
        "ResNet-50 at 8 bits reaches, of MLPerf's offline figure for the card, at least", 60.0, is_least=True
    ),
    "share": Wanted("of the time of a run with a warm cache is spent measuring at least", 50.0, is_least=True),
}

Judged = Mapping[str, Any]
"""A figure as a step's JSON has it."""

SAID = {True: "reached", False: "NOT reached", None: "not judged"}

HEAD = ("| wanted | found | |", "| --- | ---: | --- |")


def judged(found: Mapping[str, float | None], *, is_played: bool) -> dict[str, Judged]:
    """Judge what a step found. What was not found is not judged, nor is what the fake backend played."""
    return {
        name: {
            "wanted": str(WANTED[name]),
            "foundPercent": percent,
            "reached": None if percent is None or is_played else WANTED[name].is_reached(percent),
        }
        for name, percent in found.items()
    }


def table(judgements: Iterable[Judged]) -> list[str]:
    """Return figures as Markdown; nothing where there are none."""
    rows = [f"| {each['wanted']} | {percent(each['foundPercent'])} | {SAID[each['reached']]} |" for each in judgements]
    return [*HEAD, *rows] if rows else []


def percent(found: float | None) -> str:
    """Write a share; nothing where there is none."""
    return "" if found is None else f"{found:.2f}%"
