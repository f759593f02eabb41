"""What 8 bits and the compiler must gain on a CPU, in one run with interleaved rounds.

    python benchmarks/eight_bits.py [--seconds 3] [--rounds 4] [--fresh]

Method: `inferbench run` measures ResNet-50 (random weights) at batch 1 and 8 with onnxruntime, torch-compile (weights
frozen) and openvino, at fp32 and int8-static, each in fresh processes, interleaved. The ratios are inferbench's own,
paired by round. What the frozen model spends its time on, operator by operator, is then read from PyTorch's profiler.
The cost in accuracy is told by a network that was trained on ImageNet (EfficientNet-Lite0, from a package), at batch 1
with 256 crops of photographs that no calibration saw.

Must be reached: onnxruntime/int8-static at least 2.5 times as fast as onnxruntime/fp32 at both sizes, and torch-compile
at fp32 no slower than 1.05 times onnxruntime/fp32 at batch 8. Exit status 1 if one is not. The same command goes on
after an interruption; --fresh begins anew. Takes about 12 minutes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import lab

from inferbench_contract.cells import Table
from inferbench_contract.words import Cell, Strategy

BASELINE: Final = Strategy.parse("onnxruntime/fp32")

BATCH_SIZES: Final = (1, 8)
COMPILED_BATCH: Final = 8

MIN_GAIN: Final = 2.5
MAX_COMPILED: Final = 1.05

SHOWN: Final = 6
"""Of the operators that the frozen model calls: the rest is less than a hundredth."""

STRATEGIES: Final = tuple(
    f"{backend}/{precision}"
    for backend in ("onnxruntime", "torch-compile", "openvino")
    for precision in ("fp32", "int8-static")
)


def spec(model: Mapping[str, Any], batch_sizes: Sequence[int], given: argparse.Namespace) -> Mapping[str, Any]:
    """Return the spec of a run."""
    return {
        "model": dict(model),
        "device": "cpu",
        "backends": ["onnxruntime", "torch-compile", "openvino"],
        "precisions": ["fp32", "int8-static"],
        "batchSizes": list(batch_sizes),
        "backendOptions": {"torch-compile": {"freezing": True}},
        "cpu": {"threads": given.threads},
        "measurement": {"rounds": given.rounds, "maxSecondsPerCell": given.seconds},
        "accuracy": {"onViolation": "Report"},
        "maxFailedCells": len(STRATEGIES) * len(batch_sizes),
    }


def measured(name: str, asked: Mapping[str, Any], given: argparse.Namespace) -> Table:
    """Run a benchmark, or what is left of it, and return its rows."""
    output = Path("eight-bits", name, f"{given.rounds}x{given.seconds}s-{given.threads}")
    return lab.whole_run(output, asked, BASELINE, is_fresh=given.fresh)


def spent(batch_size: int) -> Sequence[tuple[str, float]]:
    """Return what ten calls of the frozen ResNet-50 spend on each operator, in milliseconds of a call."""
    import torch
    import torchvision
    from torch._inductor import config

    config.freezing = True
    torch.manual_seed(0)
    model = torch.compile(torchvision.models.resnet50(weights=None).eval(), dynamic=False)
    images = torch.randn(batch_size, 3, 224, 224)
    with torch.inference_mode():
        for _ in range(5):
            model(images)
        with torch.profiler.profile() as profile:
            for _ in range(10):
                model(images)
    found = [(each.key, each.self_cpu_time_total / 1e4) for each in profile.key_averages()]
    return sorted(found, key=lambda each: -each[1])


def main() -> int:
    """Print the tables; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=3, help="maxSecondsPerCell (default: 3)")
    parser.add_argument("--rounds", type=int, default=4, help="default: 4")
    parser.add_argument("--threads", type=int, default=lab.threads(), help="default: as many CPUs as may be used")
    parser.add_argument("--fresh", action="store_true", help="throw away what earlier runs measured")
    given = parser.parse_args()
    title = f"8 bits and the compiler on a CPU, {given.threads} threads, {given.rounds} rounds"
    with lab.report(title, "torch", "torchao", "onnxruntime-gpu", "openvino"):
        table = measured("resnet50", spec(lab.torchvision(lab.RESNET50), BATCH_SIZES, given), given)
        _print_cells(table, "ResNet-50, random weights")
        _print_spent(given.threads)
        real = {"python": {"factory": "lite:make"}, "inputs": [{"name": "image", "shape": [3, 224, 224]}]}
        _print_cells(measured("efficientnet-lite0", spec(real, [1], given), given), "EfficientNet-Lite0, trained")
        return _judge(table)


def _print_cells(table: Table, title: str) -> None:
    print(f"\n{title}:\n")
    wanted = [Cell(Strategy.parse(each), size) for size in table.batch_sizes for each in STRATEGIES]
    lab.table(lab.cell_header(BASELINE), (lab.cell_row(table, cell, BASELINE) for cell in wanted))


def _print_spent(threads: int) -> None:
    found = lab.alone(spent, COMPILED_BATCH, threads=threads)
    whole = sum(milliseconds for _, milliseconds in found)
    print(f"\nWhat the frozen ResNet-50 spends at batch {COMPILED_BATCH}, by PyTorch's profiler:\n")
    rows = ([name, f"{spent_ms:.2f}", f"{spent_ms / whole:.1%}"] for name, spent_ms in found[:SHOWN])
    lab.table(["operator", "ms of a call", "share"], rows)


def _judge(table: Table) -> int:
    eight_bits, compiled_ = Strategy.parse("onnxruntime/int8-static"), Strategy.parse("torch-compile/fp32")
    gains = [lab.paired(table, BASELINE, eight_bits, size) for size in BATCH_SIZES]
    compiled = lab.paired(table, compiled_, BASELINE, COMPILED_BATCH)
    print(f"\nonnxruntime/int8-static over its own fp32: {', '.join(map(lab.ratio, gains))} (must be >= {MIN_GAIN}).")
    print(f"torch-compile/fp32 takes {lab.ratio(compiled)} of onnxruntime/fp32's time (must be <= {MAX_COMPILED}).")
    has_gained = all(gain is not None and gain.value >= MIN_GAIN for gain in gains)
    return 0 if has_gained and compiled is not None and compiled.value <= MAX_COMPILED else 1


if __name__ == "__main__":
    sys.exit(main())
