"""What the process of an ONNX Runtime cell costs over a process that holds nothing but the session.

    python benchmarks/cell_process.py [--repeats 5] [--model resnet50]

Method: ResNet-50 (random weights, fp32, batch 1, CPU), the prepared file in the cache and in the page cache. Each
repeat runs a cell through inferbench (`inferbench_runner sweep`: the real supervisor and cell, with the accuracy gate's
full check) and a bare process: Python, numpy, onnxruntime, the same file with the same threads, one run. Every second
repeat runs them in reversed order.

- Start: from the process's start, as the kernel has it, to the end of its first call (the result's `prepare_ms`; the
  bare process reads the same clock). To 10 ms.
- Memory: the process's largest resident set (ru_maxrss), over its whole life.
- PyTorch: one more cell runs with Python's own record of every import (PYTHONPROFILEIMPORTTIME).

Must be reached, by the median of the repeats: no torch, start at most 1.5 s, at most 60 MiB more than the bare process.
Exit status 1 if one is not. Takes 1 minute with 5 repeats, and one more where the model is not yet in the cache.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import lab

from inferbench_contract import evidence
from inferbench_contract.plan import Plan
from inferbench_contract.words import Backend, Precision, Strategy
from inferbench_runner import artifacts as cache
from inferbench_runner.sweep import child_environment
from inferbench_runner.task import Artifacts

MEASUREMENT = {"rounds": 1, "maxSecondsPerCell": 1, "warmupMaxSeconds": 1}
"""A look: what the process costs does not depend on how long it measures."""

MAX_START_MS = 1500
MAX_MORE_MIB = 60
UNWANTED = frozenset({"torch", "torchvision", "onnx", "onnxscript"})
"""What takes seconds and hundreds of MiB to import, and only preparing needs."""


@dataclass(frozen=True)
class Cost:
    """What a process took."""

    start_ms: int
    memory_mib: int


def bare_process(model: str, inputs: str, threads: int) -> tuple[int, int]:
    """Make the session and run it once; return milliseconds since the process's start, and its largest size in MiB."""
    import os
    import resource
    from pathlib import Path

    import numpy as np
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_free_dimension_override_by_name("batch", 1)
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    names = [tensor.name for tensor in session.get_inputs()]
    session.run(None, {name: np.load(Path(inputs, f"{name}.npy"), mmap_mode="r")[:1].copy() for name in names})
    started_ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    now_s = float(Path("/proc/uptime").read_text().split()[0])
    age_s = now_s - started_ticks / os.sysconf("SC_CLK_TCK")
    return round(1000 * age_s), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def ours(plan: Plan) -> Cost:
    """Run a cell through the real supervisor."""
    with tempfile.TemporaryDirectory() as folder:
        cell = lab.Bench(plan, Path(folder)).measure(Backend.ONNXRUNTIME, 0)
    return Cost(cell.prepare_ms or 0, cell.memory_mib or 0)


def bare(files: Artifacts, threads: int) -> Cost:
    """Run the bare process."""
    return Cost(*lab.alone(bare_process, files.onnx, files.inputs, threads, threads=threads))


def imported(plan: Plan, files: Artifacts, threads: int) -> list[str]:
    """Run a cell without its supervisor, and return every module that it imported."""
    with tempfile.TemporaryDirectory() as folder:
        strategy, kept = Strategy(Backend.ONNXRUNTIME, Precision.FP32), cache.default_folder(os.environ)
        task = lab.task(plan, strategy, files, kept, Path(folder))
        task_file = Path(folder, "task.json")
        task_file.write_text(task.model_dump_json())
        done = subprocess.run(
            [sys.executable, "-m", "inferbench_runner.cell", str(task_file)],
            env={**child_environment(threads), "PYTHONPROFILEIMPORTTIME": "1"},
            capture_output=True,
            text=True,
            check=True,
        )
        if not task.result.exists():
            raise SystemExit(f"The cell left no result: {done.stderr[-2000:]}")
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    return [line.rpartition("|")[2].strip() for line in lines[1:]]


def measured(plan: Plan, files: Artifacts, threads: int, repeats: int) -> tuple[list[Cost], list[Cost]]:
    """Run both, turn and turn about; return ours and the bare ones."""
    sides: tuple[list[Cost], list[Cost]] = [], []
    contestants = (lambda: ours(plan)), (lambda: bare(files, threads))
    for contestant in contestants:
        contestant()  # once for the page cache
    for repeat in range(repeats):
        for side in (1, 0) if repeat % 2 else (0, 1):
            sides[side].append(contestants[side]())
            lab.progress(f"repeat {repeat + 1}/{repeats}: {('cell', 'bare')[side]} {sides[side][-1]}")
    return sides


def main() -> int:
    """Print the table; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="of each process (default: 5)")
    parser.add_argument("--model", default=lab.RESNET50, help="a model of torchvision (default: resnet50)")
    parser.add_argument("--threads", type=int, default=lab.threads(), help="default: as many CPUs as may be used")
    given = parser.parse_args()
    plan = lab.planned(lab.torchvision(given.model), [Backend.ONNXRUNTIME], MEASUREMENT, given.threads)
    title = (
        f"The cell process: onnxruntime, {given.model} fp32, batch 1, {given.threads} threads, {given.repeats} repeats"
    )
    with lab.report(title, "onnxruntime-gpu"):
        files = lab.artifacts(plan, [Backend.ONNXRUNTIME])
        modules = imported(plan, files, given.threads)
        found = sorted(UNWANTED & {module.partition(".")[0] for module in modules})
        cells, bares = measured(plan, files, given.threads, given.repeats)
        start_ms = statistics.median(cell.start_ms for cell in cells)
        more_mib = statistics.median(c.memory_mib - b.memory_mib for c, b in zip(cells, bares, strict=True))
        header = ["", "cell", "bare process", "more", "ratio (95 % interval)", "must be", "reached"]
        rows = [
            _row("start, ms", [c.start_ms for c in cells], [b.start_ms for b in bares]),
            _row("memory, MiB", [c.memory_mib for c in cells], [b.memory_mib for b in bares]),
        ]
        limits = [
            (f"cell <= {MAX_START_MS} ms", start_ms <= MAX_START_MS),
            (f"more <= {MAX_MORE_MIB} MiB", more_mib <= MAX_MORE_MIB),
        ]
        lab.table(header, ([*row, limit, _yes(kept)] for row, (limit, kept) in zip(rows, limits, strict=True)))
        print("\nMedians (smallest to largest); `more` is the median of the differences by repeat.\n")
        print(f"Of {', '.join(sorted(UNWANTED))} the cell imported: {', '.join(found) or 'none'}", end="")
        print(f" (of {len(modules)} modules in all).")
    return 0 if not found and all(kept for _, kept in limits) else 1


def _row(name: str, cells: list[int], bares: list[int]) -> list[str]:
    ratio = evidence.paired_ratio(dict(enumerate(map(float, cells))), dict(enumerate(map(float, bares))))
    more = [cell - bare for cell, bare in zip(cells, bares, strict=True)]
    return [name, _spread(cells), _spread(bares), _spread(more), lab.ratio(ratio)]


def _spread(values: Iterable[int]) -> str:
    ordered = sorted(values)
    return f"{statistics.median(ordered):.0f} ({ordered[0]} to {ordered[-1]})"


def _yes(kept: bool) -> str:  # noqa: FBT001 (what it writes is yes or no)
    return "yes" if kept else "no"


if __name__ == "__main__":
    sys.exit(main())
