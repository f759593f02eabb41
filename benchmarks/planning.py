"""What planning 1,000 cells costs, beside the least that anybody has to do to write such a plan down.

    python benchmarks/planning.py [--repeats 20]

Must be reached: less than 100 ms from the spec to the plan with its hash. Beside it stand a bare loop that writes down
every cell of every round as JSON, reading the plan back with its hash checked, and what the ways from YAML to the plan
and from results to the summary cost. Each is the median of repeats in one process, interleaved. Exit status 1 if it is
not reached.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping

import inferbench_contract
from inferbench_contract import document, plan
from inferbench_contract.result import CellResult, SweepResult
from inferbench_contract.summary import summarize
from inferbench_contract.words import Outcome

MUST_MS = 100.0
STRATEGIES, BATCH_SIZES, ROUNDS = 20, 50, 4

YAML = f"""\
apiVersion: inferbench.dev/v1alpha1
kind: InferenceBenchmark
metadata: {{name: thousand-cells}}
spec:
  model: {{torchvision: {{name: resnet50}}}}
  device: gpu
  backends: [torch-eager, torch-compile, torch-compile-max-autotune, onnxruntime, fake]
  precisions: [fp32, tf32, bf16, fp16]
  batchSizes: {list(range(1, BATCH_SIZES + 1))}
  measurement: {{rounds: {ROUNDS}}}
"""


def main() -> int:
    """Time each, print the table, and tell whether planning was quick enough."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=20, help="default: %(default)s")
    milliseconds = timed(candidates(), parser.parse_args().repeats)
    planning, bare = milliseconds["spec to plan"], milliseconds["bare loop and json.dumps"]
    print(f"inferbench {inferbench_contract.__version__}, Python {platform.python_version()}, {platform.machine()}\n")
    print("| what | median, ms | over the bare loop |\n| --- | --- | --- |")
    for what, median in milliseconds.items():
        print(f"| {what} | {median:.1f} | {median / bare:.1f}x |")
    print(f"\nPlanning takes {planning:.1f} ms; it must take less than {MUST_MS:.0f} ms.")
    return 0 if planning < MUST_MS else 1


def candidates() -> Mapping[str, Callable[[], object]]:
    """Return what is timed, all for the same 1,000 cells."""
    benchmark = document.parse(YAML, "planning.yaml")
    expanded = plan.expand(benchmark)
    text = expanded.dump()
    results = [_result(expanded, sweep) for sweep in expanded.sweeps]
    cells = len(expanded.measurable_cells) + len(expanded.unsupported_cells)
    assert cells == STRATEGIES * BATCH_SIZES
    return {
        "bare loop and json.dumps": lambda: bare_loop(expanded.strategies, expanded.batch_sizes, ROUNDS),
        "spec to plan": lambda: plan.expand(benchmark),
        "plan to sweeps and cells": lambda: plan.expand(benchmark).measurable_cells,
        "plan.json to plan, hash checked": lambda: plan.load(text, "plan.json"),
        "YAML to plan": lambda: plan.expand(document.parse(YAML, "planning.yaml")),
        f"{len(results)} results to summary.json": lambda: summarize(benchmark, expanded, results).dump(),
    }


def bare_loop(strategies: tuple[str, ...], batch_sizes: tuple[int, ...], rounds: int) -> str:
    """Write every cell of every round down, with nothing checked, hashed or split."""
    rows = [(s, size, round_) for round_ in range(rounds) for s in strategies for size in batch_sizes]
    return json.dumps(rows)


def timed(what: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Return the median milliseconds of each, interleaved so that a drift of the machine touches all alike."""
    times: dict[str, list[float]] = {name: [] for name in what}
    for _ in range(repeats):
        for name, call in what.items():
            began = time.perf_counter()
            call()
            times[name].append(1000 * (time.perf_counter() - began))
    return {name: statistics.median(values) for name, values in times.items()}


def _result(expanded: plan.Plan, sweep: plan.Sweep) -> SweepResult:
    cells = tuple(
        CellResult(cell.batch_size, Outcome.MEASURED, latency_median_ns=1_000_000 * cell.batch_size + sweep.index)
        for cell in sweep.cells
    )
    return SweepResult(expanded.short_hash, sweep.index, cells, started_ms=sweep.index, finished_ms=sweep.index + 1)


if __name__ == "__main__":
    sys.exit(main())
