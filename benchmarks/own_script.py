"""Would a script of one's own say the same? What inferbench reports over what a library's documented code takes.

    python benchmarks/own_script.py [--model vit_b_16 ...] [--batch-size 8] [--rounds 2] [--seconds 3]

Method: for each model (torchvision's, random weights, CPU) and strategy, inferbench's sweep by its real supervisor, and
`plain.py` in a process of its own: the model as torchvision hands it out, moved to its precision, quantised, compiled
or exported with one call, run under inference_mode. Nothing of inferbench is in it; so a setting that inferbench makes
and users do not, or a model that it builds otherwise, shows. (`truth.py` asks the same of the clock alone.)

Every second round runs in reversed order; ratios are paired by round. Nothing must be reached, but a ratio far from 1
has to be explained: as that which came of weights without gradients (docs/backends.md, torch-eager).

Takes 10 to 20 minutes for each model with 2 rounds. To try it: --model mobilenet_v3_small --seconds 1.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import lab

from inferbench_contract import evidence
from inferbench_contract.plan import Plan
from inferbench_contract.words import Cell, Outcome, Strategy
from inferbench_runner.sweep import child_environment

MODELS: Final = (lab.RESNET50, "mobilenet_v3_large", "convnext_tiny", "vit_b_16", "swin_t")
"""Convolutions, depthwise ones, and three that are mostly products, laid out in three ways."""

STRATEGIES: Final = tuple(
    Strategy.parse(each)
    for each in (
        "torch-eager/fp32",
        "torch-eager/bf16",
        "torch-compile/fp32",
        "torch-compile/bf16",
        "torch-compile/int8-dynamic",
        "torch-aot-inductor/fp32",
        "torch-aot-inductor/bf16",
        "onnxruntime/fp32",
        "openvino/fp32",
        "openvino/bf16",
    )
)

PLAIN: Final = Path(__file__).with_name("plain.py")


@dataclass(frozen=True)
class Contest:
    """Ours and theirs, for one model."""

    plan: Plan
    folder: Path
    model: str
    given: argparse.Namespace

    def ours(self, strategy: Strategy, round_: int) -> int | None:
        """Return what inferbench reports, in nanoseconds; None where it refuses the strategy."""
        cell = lab.Bench(self.plan, self.folder).cell(strategy, round_)
        return None if cell.outcome is Outcome.UNSUPPORTED else cell.latency_median_ns

    def theirs(self, strategy: Strategy) -> int:
        """Return what the plain script prints."""
        numbers = self.given.batch_size, self.given.threads, self.given.seconds
        command = [sys.executable, PLAIN, str(strategy), self.model, *map(str, numbers)]
        return int(lab.run(command, child_environment(self.given.threads)).splitlines()[-1])


def medians(contest: Contest, strategy: Strategy) -> tuple[Mapping[int, float], Mapping[int, float]]:
    """Measure both sides in all rounds; nothing where inferbench refuses the strategy."""
    ours, theirs = dict[int, float](), dict[int, float]()
    for round_ in range(contest.plan.rounds):
        sides: list[tuple[dict[int, float], Callable[[], int | None]]] = [
            (ours, partial(contest.ours, strategy, round_)),
            (theirs, partial(contest.theirs, strategy)),
        ]
        for found, measure in reversed(sides) if round_ % 2 else sides:
            if (median := measure()) is None:
                return {}, {}
            found[round_] = median
    return ours, theirs


def rows(contest: Contest) -> list[list[str]]:
    """Return a row for each strategy that the model has."""
    found = []
    for strategy in contest.given.strategy or STRATEGIES:
        if Cell(strategy, contest.given.batch_size) not in contest.plan.measurable_cells:
            continue
        ours, theirs = medians(contest, strategy)
        if not ours:
            continue
        both = [evidence.geometric_mean(list(side.values())) for side in (ours, theirs)]
        latencies = [lab.milliseconds(each.value) if each else "-" for each in both]
        found.append([contest.model, str(strategy), *latencies, lab.ratio(evidence.paired_ratio(ours, theirs))])
        lab.progress(" ".join(found[-1]))
    return found


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", help=f"of torchvision (default: {', '.join(MODELS)})")
    parser.add_argument("--strategy", action="append", type=Strategy.parse, help="one of the ten (default: all)")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=2, help="an even number (default: 2)")
    parser.add_argument("--seconds", type=int, default=3, help="each one's time to measure in a round (default: 3)")
    parser.add_argument("--threads", type=int, default=lab.threads(), help="default: as many CPUs as may be used")
    given = parser.parse_args()
    backends, precisions = ({getattr(each, part): None for each in STRATEGIES} for part in ("backend", "precision"))
    measurement = {"rounds": given.rounds, "maxSecondsPerCell": given.seconds}
    title = f"A script of one's own: batch {given.batch_size}, {given.threads} threads, {given.rounds} rounds"
    with lab.report(title, "torch", "torchao", "onnxruntime-gpu", "openvino"), tempfile.TemporaryDirectory() as folder:
        every = []
        for model in given.model or MODELS:
            plan = lab.planned(
                lab.torchvision(model), backends, measurement, given.threads, precisions, given.batch_size
            )
            every += rows(Contest(plan, Path(folder, model), model, given))
        lab.table(["model", "strategy", "ours, ms", "the script, ms", "ratio (95 % interval)"], every)


if __name__ == "__main__":
    main()
