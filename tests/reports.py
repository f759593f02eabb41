"""Builders of reports: a run of ResNet-50 with a bit of everything in it, and runs of any size."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from math import exp
from typing import Any

from inferbench_cli.report import render
from inferbench_contract import plan as plans
from inferbench_contract.spec import InferenceBenchmark
from inferbench_contract.summary import Summary, summarize
from inferbench_contract.words import Cell, Doubt, Outcome, Strategy
from tests.builders import a_benchmark
from tests.results import Told, asked, ended, measured, results_for

LATENCY_MS = {
    "torch-eager/fp32": {1: 65.0, 8: 580.0, 32: 2400.0},
    "torch-compile/fp32": {1: 62.0, 8: 420.0, 32: 1700.0},
    "onnxruntime/fp32": {1: 45.0, 8: 360.0, 32: 1480.0},
    "torch-eager/bf16": {1: 46.0, 8: 300.0, 32: 1200.0},
    "torch-compile/bf16": {1: 44.0, 8: 210.0, 32: 820.0},
}
"""What ResNet-50 took on two CPUs, more or less."""

DRIFT = (0.0, 0.02, 0.05, 0.03)
"""What each round was slower for all."""

EXPECTATIONS = (
    {"name": "ort-wins-small", "faster": "onnxruntime/fp32", "than": "torch-eager/fp32", "batchSizes": [1, 8]},
    {"name": "compile-gains", "faster": "torch-compile/fp32", "than": "torch-eager/fp32", "by": "1.2x"},
    {"name": "lead-grows", "faster": "onnxruntime/fp32", "than": "torch-eager/fp32", "growsWithBatchSize": True},
)

ENVIRONMENT = {
    "schemaVersion": 1,
    "cpuModel": "AMD EPYC",
    "cpuFlags": ["avx2", "avx512f"],
    "memoryBytes": 25 * 2**30,
    "quotaMilliCpus": 1500,
    "governor": None,
    "libraries": {"onnxruntime": "1.31.1", "torch": "2.15.0"},
    "gpus": [],
}

OUT_OF_MEMORY = "KilledAtMemoryLimit: the process held 95% of the cgroup's 8.0 GiB."


def resnet50(rounds: int = 4) -> tuple[InferenceBenchmark, Summary]:
    """Return a run with winners, an open question, a cell out of memory, unsupported ones, drift and doubts."""
    benchmark = a_benchmark(
        "resnet50",
        backends=["torch-eager", "torch-compile", "onnxruntime"],
        precisions=["fp32", "bf16"],
        batch_sizes=[1, 8, 32],
        measurement={"rounds": rounds},
        expectations=EXPECTATIONS,
    )
    return benchmark, summary_of(benchmark, _resnet50, hardware="AMD EPYC, 2 CPUs", fingerprint="abc")


def summary_of(benchmark: InferenceBenchmark, latency_of: Any, **fields: Any) -> Summary:
    """Summarise a run that is said by a function of strategy, batch size and round."""
    plan = plans.expand(benchmark)
    return summarize(benchmark, plan, results_for(plan, latency_of, **fields))


def many_cells(backends: int, batch_sizes: int, *, trouble: bool = False) -> tuple[InferenceBenchmark, Summary]:
    """Return a run of five precisions per backend; with trouble every third cell fails for a long reason of its own."""
    benchmark = asked(
        backends=["fake", "torch-eager", "torch-compile", "onnxruntime"][:backends],
        precisions=["fp32", "fp16", "bf16", "int8-dynamic", "int8-static"],
        batch_sizes=[*range(1, batch_sizes + 1)],
    )
    return benchmark, summary_of(benchmark, _troubled if trouble else _plain, hardware='"<&>"' * 16)


def samples_of(summary: Summary) -> Mapping[tuple[Cell, int], Sequence[int]]:
    """Make up calls around the medians of a run."""
    found = {(row.cell, round_): value for row in summary.table.rows.values() for round_, value in row.medians.items()}
    return {place: _calls(value, random.Random(repr(place))) for place, value in found.items()}


def page_of(benchmark: InferenceBenchmark, summary: Summary, **given: Any) -> str:
    """Render a report with samples and an environment, unless they are given."""
    parts = {"environment": ENVIRONMENT, "samples": samples_of(summary)} | given
    return render(benchmark, summary, parts["environment"], parts["samples"])


def _resnet50(strategy: Strategy, batch_size: int, round_: int) -> Told:
    if str(strategy) == "onnxruntime/fp32" and batch_size == 32:
        return ended(Outcome.OUT_OF_MEMORY, batch_size, OUT_OF_MEMORY)
    noise = random.Random(f"{strategy} {batch_size} {round_}").gauss(0, 0.015)
    outlier = 0.2 if (str(strategy), batch_size, round_) == ("torch-compile/fp32", 8, 2) else 0
    latency_ms = LATENCY_MS[str(strategy)][batch_size] * exp(DRIFT[round_ % len(DRIFT)] + noise + outlier)
    doubts = (Doubt.FEW_SAMPLES,) if batch_size == 32 else (Doubt.DRIFTED,) if outlier else ()
    times = {"prepare_ms": 1000, "warmup_ms": 2500, "measure_ms": 3000}
    return measured(batch_size, latency_ms, samples=max(5, int(3000 / latency_ms)), doubts=doubts, **times)


def _plain(strategy: Strategy, batch_size: int, round_: int) -> Told:
    noise = random.Random(f"{strategy} {batch_size} {round_}").gauss(0, 0.02)
    return measured(batch_size, (10 + strategy.simplicity[1]) * batch_size**0.9 * exp(noise))


def _troubled(strategy: Strategy, batch_size: int, round_: int) -> Told:
    if (strategy.simplicity[1] + batch_size) % 3 == 0:
        return ended(Outcome.FAILED, batch_size, f"Trouble{strategy}{batch_size}: " + "\"'<&>" * 190)
    told = _plain(strategy, batch_size, round_)
    return measured(batch_size, told.latency_median_ns / 1e6, doubts=tuple(Doubt))


def _calls(median_ns: float, chance: random.Random) -> Sequence[int]:
    """Most calls lie near the median, some are slower, and a few much slower."""
    count = max(5, int(3e9 / median_ns))
    slower = (chance.expovariate(40) + 0.2 * (chance.random() < 0.02) for _ in range(count))
    return [int(median_ns * (0.98 + share)) for share in slower]
