"""What inferbench says of two strategies that are the same: 20 real A/A pairs.

    python benchmarks/same.py [--pairs 20] [--seconds 1] [--minutes 12] [--fresh]

Method: the same onnxruntime cell (ResNet-50, random weights, fp32, batch 1, CPU) is measured as if it were two
strategies A and B of one plan: 4 rounds a side, a fresh process each, in the order A B, B A, A B, B A, through the real
supervisor and cell. Their ratio, its interval and its verdict come from inferbench's own statistics (a family of one:
nothing is forgiven by Holm). That 20 times over.

Must be reached: Faster or Slower in at most 1 of 20, which is what 95 % intervals promise; exit status 1 if it is more.
Every measured cell is kept (below the cache folder, in inferbench-benchmarks/same), so after --minutes, Ctrl-C or a
crash the same command goes on where it was; --fresh begins anew. Takes 11 minutes with 1 s per cell, 15 with 2 s, 20
with 3 s.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import lab

from inferbench_contract import evidence
from inferbench_contract.evidence import Estimate
from inferbench_contract.plan import Plan
from inferbench_contract.result import CellResult
from inferbench_contract.words import Backend, Verdict
from inferbench_runner import environment

ROUNDS = 4
WARMUP_SECONDS = 2
"""ONNX Runtime settles after one, as a rule."""
ALLOWED_SHARE = 1 / 20


@dataclass(frozen=True)
class Pair:
    """Two strategies that are the same, measured: a cell of each round on both sides."""

    a: dict[int, CellResult]
    b: dict[int, CellResult]

    @property
    def cells(self) -> list[CellResult]:
        """All of them."""
        return [*self.a.values(), *self.b.values()]

    @property
    def ratio(self) -> Estimate:
        """A over B."""
        found = evidence.paired_ratio(_medians(self.a), _medians(self.b))
        if found is None:
            raise SystemExit("The pair has no rounds.")
        return found

    @property
    def verdict(self) -> Verdict:
        """What inferbench says of B when A is the baseline."""
        return evidence.family_verdicts([self.ratio])[0]

    @property
    def half_width(self) -> float:
        """Return how far the interval reaches from its middle, as a factor less 1."""
        low, high = self.ratio.low, self.ratio.high
        return (high / low) ** 0.5 - 1 if low and high else float("inf")


def pairs(plan: Plan, folder: Path, count: int, minutes: float) -> Iterator[Pair]:
    """Measure pairs, or read those that are measured, until the time is up."""
    deadline = time.monotonic() + 60 * minutes
    for number in range(1, count + 1):
        sides = [lab.Bench(plan, folder / f"{number}-{name}") for name in "ab"]
        cells: tuple[dict[int, CellResult], dict[int, CellResult]] = {}, {}
        for round_ in range(plan.rounds):
            for side in (1, 0) if round_ % 2 else (0, 1):
                if time.monotonic() > deadline:
                    lab.progress("The time is up; the same command goes on from here.")
                    return
                cells[side][round_] = sides[side].measure(Backend.ONNXRUNTIME, round_)
        pair = Pair(*cells)
        lab.progress(f"pair {number}/{count}: {lab.ratio(pair.ratio)} {pair.verdict}")
        yield pair


def main() -> int:
    """Print what came of the pairs; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=20, help="default: 20")
    parser.add_argument("--seconds", type=int, default=1, help="maxSecondsPerCell (default: 1)")
    parser.add_argument("--minutes", type=float, default=12, help="stop after this long (default: 12)")
    parser.add_argument("--fresh", action="store_true", help="throw away what earlier runs measured")
    parser.add_argument("--model", default=lab.RESNET50, help="a model of torchvision (default: resnet50)")
    parser.add_argument("--threads", type=int, default=lab.threads(), help="default: as many CPUs as may be used")
    given = parser.parse_args()
    measurement = {"rounds": ROUNDS, "maxSecondsPerCell": given.seconds, "warmupMaxSeconds": WARMUP_SECONDS}
    plan = lab.planned(lab.torchvision(given.model), [Backend.ONNXRUNTIME], measurement, given.threads)
    folder = lab.CACHE / "same" / f"{plan.short_hash}-{environment.describe().fingerprint}"
    if given.fresh:
        shutil.rmtree(folder, ignore_errors=True)
    title = f"A/A pairs: onnxruntime, {given.model} fp32, batch 1, {given.threads} threads, {ROUNDS} rounds a side"
    with lab.report(f"{title}, at most {given.seconds} s per cell", "onnxruntime-gpu"):
        lab.artifacts(plan, [Backend.ONNXRUNTIME])
        found = list(pairs(plan, folder, given.pairs, given.minutes))
        if not found:
            print(f"No pair is whole yet, {given.minutes:g} minutes were too few. The same command goes on.")
            return 1
        _print(found, given.pairs)
    wrong = sum(_is_wrong(pair) for pair in found)
    return 0 if len(found) == given.pairs and wrong <= ALLOWED_SHARE * given.pairs else 1


def _print(found: list[Pair], wanted: int) -> None:
    off = [abs(pair.ratio.value - 1) for pair in found]
    widths = [pair.half_width for pair in found]
    count = {verdict: sum(pair.verdict is verdict for pair in found) for verdict in Verdict}
    inside = sum(pair.half_width < float("inf") and pair.ratio.low <= 1 <= pair.ratio.high for pair in found)
    wrong = sum(_is_wrong(pair) for pair in found)
    medians = [cell.latency_median_ns or 0 for pair in found for cell in pair.cells]
    must_be = f"at most {max(0, int(ALLOWED_SHARE * wanted))} of {wanted}"
    lab.table(
        [f"{len(found)} of {wanted} pairs", ""],
        [
            ["told Faster or Slower, which is wrong", f"{wrong} ({must_be})"],
            ["verdicts", ", ".join(f"{verdict} {number}" for verdict, number in count.items() if number)],
            ["intervals that hold 1", f"{inside} of {len(found)}"],
            ["abs(ratio - 1), p50 / p95 / largest", _percent(_quantiles(off))],
            ["half-width of the interval, p50 / p95 / largest", _percent(_quantiles(widths))],
            ["median of a round, smallest / middle / largest", _milliseconds(medians)],
            ["doubts", lab.doubts(cell for pair in found for cell in pair.cells) + f", of {len(medians)} cells"],
        ],
    )
    print("\nEach pair:\n")
    rows = ([str(i), lab.ratio(pair.ratio), str(pair.verdict)] for i, pair in enumerate(found, 1))
    lab.table(["pair", "A / B (95 % interval)", "verdict"], rows)


def _is_wrong(pair: Pair) -> bool:
    return pair.verdict in (Verdict.FASTER, Verdict.SLOWER)


def _medians(cells: dict[int, CellResult]) -> dict[int, float]:
    return {round_: float(cell.latency_median_ns) for round_, cell in cells.items() if cell.latency_median_ns}


def _quantiles(values: list[float]) -> tuple[float, float, float]:
    """Return the median, the 95th percentile (nearest rank) and the largest."""
    ordered = sorted(values)
    return statistics.median(ordered), ordered[-(-95 * len(ordered) // 100) - 1], ordered[-1]


def _percent(values: tuple[float, ...]) -> str:
    return " / ".join(f"{100 * value:.2f} %" for value in values)


def _milliseconds(values: list[int]) -> str:
    three = min(values), statistics.median(values), max(values)
    return " / ".join(f"{lab.milliseconds(value)} ms" for value in three)


if __name__ == "__main__":
    sys.exit(main())
