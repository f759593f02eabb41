"""Builders of results: what sweeps would have handed over, said by the latency of each cell in each round."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from inferbench_contract import plan as plans
from inferbench_contract.plan import Plan, Sweep
from inferbench_contract.result import CellResult, SweepResult
from inferbench_contract.spec import InferenceBenchmark
from inferbench_contract.words import Cell, Outcome, Strategy
from tests.builders import a_benchmark

EAGER = Strategy.parse("torch-eager/fp32")
COMPILED = Strategy.parse("torch-compile/fp32")
ONNXRUNTIME = Strategy.parse("onnxruntime/fp32")
"""The three strategies of `three_backends`, the simplest first."""

TRAINED = {"torchvision": {"name": "resnet50"}}
"""A model whose first choices mean something."""

SWEEP_MS = 20_000
"""What a sweep takes, and how far apart sweeps start, unless a test says otherwise."""

Told = float | CellResult | None
"""What a round says of a cell: its latency in milliseconds, a whole result, or nothing."""


def asked(**spec: Any) -> InferenceBenchmark:
    """Return a benchmark of the fake backend at batch size 1, unless the fields of its spec say otherwise."""
    return a_benchmark(**({"backends": ["fake"], "batch_sizes": [1]} | spec))


def three_backends(**spec: Any) -> InferenceBenchmark:
    """Return a benchmark of eager, compiled and ONNX Runtime in fp32, with the first as the baseline."""
    return asked(backends=["torch-eager", "torch-compile", "onnxruntime"], **spec)


def a_plan(**spec: Any) -> Plan:
    """Return the plan of `asked`."""
    return plans.expand(asked(**spec))


def measured(batch_size: int = 1, latency_ms: float = 10, **fields: Any) -> CellResult:
    """Return a cell that was measured, with a throughput that goes with its latency."""
    latency_ns = round(latency_ms * 1e6)
    told = {"throughput_milli_per_second": round(1e12 * batch_size / latency_ns), "samples": 100}
    return CellResult(batch_size, Outcome.MEASURED, latency_median_ns=latency_ns, **(told | fields))


def compared(agreement: float | None = None, **fields: Any) -> dict[str, int]:
    """Return what 256 images came to: 3.1 % off, and which share of them has the first choice of fp32."""
    told = {"compared_examples": 256, "relative_l2_parts_per_billion": 31_000_000}
    told |= {"worst_cosine_parts_per_million": 998_123, "worst_example": 12}
    return told | ({} if agreement is None else {"top1_agreement_basis_points": round(10_000 * agreement)}) | fields


def ended(outcome: Outcome, batch_size: int = 1, reason: str = "TheReason: it did.", **fields: Any) -> CellResult:
    """Return a cell that ended otherwise."""
    return CellResult(batch_size, outcome, reason, **fields)


def a_result(plan: Plan, sweep: Sweep | int = 0, cells: Iterable[CellResult] = (), **fields: Any) -> SweepResult:
    """Return what a sweep of a plan handed over; sweeps run one after the other without a pause."""
    index = sweep if isinstance(sweep, int) else sweep.index
    times = {"started_ms": index * SWEEP_MS, "finished_ms": (index + 1) * SWEEP_MS}
    return SweepResult(plan.short_hash, index, tuple(cells), **(times | fields))


def results_for(plan: Plan, latency_of: Callable[[Strategy, int, int], Told], **fields: Any) -> tuple[SweepResult, ...]:
    """Return the results of all sweeps, by a function of strategy, batch size and round."""
    return tuple(
        a_result(plan, sweep, [cell for cell in _cells(sweep, latency_of) if cell is not None], **fields)
        for sweep in plan.sweeps
    )


def _cells(sweep: Sweep, latency_of: Callable[[Strategy, int, int], Told]) -> Iterable[CellResult | None]:
    for cell in sweep.cells:
        told = latency_of(cell.strategy, cell.batch_size, sweep.round)
        yield told if told is None or isinstance(told, CellResult) else measured(cell.batch_size, told)


def cell(text: str) -> Cell:
    """Read `torch-eager/fp32@8`."""
    strategy, _, batch_size = text.partition("@")
    return Cell(Strategy.parse(strategy), int(batch_size))
