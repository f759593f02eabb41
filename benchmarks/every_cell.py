"""What every backend makes of a model at every precision on this machine's CPU, in one run with interleaved rounds.

    python benchmarks/every_cell.py [--model resnet50 --model vit_b_16] [--batch-size 8] [--rounds 2] [--fresh]

Method: `inferbench run` measures all backends at all precisions, each cell in fresh processes, with `freezing` where a
backend has it. Ratios are inferbench's own, paired by round, over PyTorch eager at fp32. What is Unsupported has its
reason below the table. Strategies that miss their limit of accuracy are shown with what they cost.

Nothing must be reached: this is the table that docs/backends.md says "yes" in. The same command goes on after an
interruption; --fresh begins anew. Takes a quarter of an hour for ResNet-50 and half an hour for ViT-B/16, most of it
compiling.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import lab

from inferbench_contract.cells import Table
from inferbench_contract.words import Outcome, Precision, Strategy

BASELINE: Final = Strategy.parse("torch-eager/fp32")

COMPILED: Final = ("torch-compile", "torch-compile-max-autotune", "torch-aot-inductor")

BACKENDS: Final = ("torch-eager", *COMPILED, "onnxruntime", "openvino")

ON_CPU: Final = tuple(each for each in Precision if each not in (Precision.TF32, Precision.FP8))
"""No CPU has the others."""

SWEEP_SECONDS: Final = 1_800
"""What max-autotune may take to compile a large model at two threads."""


def spec(model: str, given: argparse.Namespace) -> Mapping[str, Any]:
    """Return the spec of a run."""
    return {
        "model": dict(lab.torchvision(model)),
        "device": "cpu",
        "backends": list(BACKENDS),
        "precisions": [str(each) for each in ON_CPU],
        "batchSizes": [given.batch_size],
        "backendOptions": {name: {"freezing": True} for name in COMPILED},
        "cpu": {"threads": given.threads},
        "measurement": {"rounds": given.rounds, "maxSecondsPerCell": given.seconds},
        "accuracy": {"onViolation": "Report"},
        "maxFailedCells": len(BACKENDS) * len(ON_CPU),
        "timeoutSecondsPerSweep": SWEEP_SECONDS,
    }


def main() -> int:
    """Print a table for each model; return 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", help="of torchvision (default: resnet50 and vit_b_16)")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=2, help="an even number, or 1 (default: 2)")
    parser.add_argument("--seconds", type=int, default=3, help="maxSecondsPerCell (default: 3)")
    parser.add_argument("--threads", type=int, default=lab.threads(), help="default: as many CPUs as may be used")
    parser.add_argument("--fresh", action="store_true", help="throw away what earlier runs measured")
    given = parser.parse_args()
    title = f"Every backend at every precision on a CPU, {given.threads} threads, {given.rounds} rounds"
    with lab.report(title, "torch", "torchao", "onnxruntime-gpu", "openvino"):
        for model in given.model or [lab.RESNET50, "vit_b_16"]:
            output = Path("every-cell", f"{model}-{given.batch_size}-{given.rounds}x{given.seconds}s-{given.threads}")
            table = lab.whole_run(output, spec(model, given), BASELINE, is_fresh=given.fresh)
            print(f"\n{model}, random weights:\n")
            _print(table)
    return 0


def _print(table: Table) -> None:
    cells = [cell for cell, row in table.rows.items() if row.outcome is not Outcome.UNSUPPORTED]
    lab.table(lab.cell_header(BASELINE), (lab.cell_row(table, cell, BASELINE) for cell in cells))
    print("\nUnsupported:\n")
    for line in _reasons(table):
        print(line)


def _reasons(table: Table) -> Iterator[str]:
    """Yield each reason once, with the strategies that it keeps out."""
    kept_out: dict[str, list[str]] = {}
    for cell, row in table.rows.items():
        if row.outcome is Outcome.UNSUPPORTED:
            kept_out.setdefault(row.reason, []).append(str(cell.strategy))
    for reason, strategies in kept_out.items():
        yield f"* {', '.join(strategies)}: {reason}"


if __name__ == "__main__":
    sys.exit(main())
