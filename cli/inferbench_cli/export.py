"""`inferbench export`: hands a measured strategy over, as a folder that runs without inferbench.

What is chosen and what was measured of it comes from the folder of results; the runner, which knows the cache and the
libraries, writes the rest.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inferbench_cli import machine
from inferbench_cli.folder import Folder
from inferbench_contract import document, summary
from inferbench_contract.cells import Row
from inferbench_contract.errors import EnvironmentFault, PlanError
from inferbench_contract.evidence import milli, whole
from inferbench_contract.plan import Plan
from inferbench_contract.summary import Summary
from inferbench_contract.words import Cell, Strategy


@dataclass(frozen=True)
class Wanted:
    """What to hand over, and where."""

    results: Path
    """A folder that `inferbench run` wrote."""
    batch_size: int
    strategy: str | None
    """None: the best at this batch size."""
    model_folder: Path | None
    """What relative paths of the model start from; None: where they did when it was measured."""
    output: Path


def export(wanted: Wanted) -> tuple[Row, Mapping[str, Any]]:
    """Write the folder; return the row that was chosen and what the folder's model.json says.

    Raises:
        PlanError: the folder has no such cell, or it may not be recommended.
        EnvironmentFault: this machine is not the one that measured, or cannot write or make something.
    """
    opened = Folder(wanted.results)
    plan = opened.plan()
    benchmark = document.read(opened.benchmark_file)
    found = summary.summarize(benchmark, plan, opened.results(plan))
    row = choose(found, wanted)
    before = opened.environment()
    _require_same_machine(opened, before)
    request = {
        "plan": str(opened.plan_file.absolute()),
        "strategy": str(row.cell.strategy),
        "batch_size": row.cell.batch_size,
        "model_folder": str(model_folder(wanted, before)),
        "model_sha256": before.get("modelSha256"),
        "output": str(wanted.output.absolute()),
        "name": benchmark.name,
        "about": _about(benchmark.name, plan, before, row),
    }
    return row, machine.hand_over(json.dumps(request))


def model_folder(wanted: Wanted, before: Mapping[str, Any]) -> Path:
    """Return what paths of the model start from: the folder that is named, or that of the file that was run."""
    if wanted.model_folder is not None or "modelFolder" not in before:  # as in what `inferbench get` writes
        return (wanted.model_folder or Path()).absolute()
    return Path(wanted.results.resolve(), before["modelFolder"]).resolve()


def choose(found: Summary, wanted: Wanted) -> Row:
    """Return the strategy that was asked for, or the best one. Raises PlanError where there is none to recommend."""
    sizes = found.table.batch_sizes
    if wanted.batch_size not in sizes:
        raise PlanError(
            f"--batch-size is {wanted.batch_size}; {wanted.results} has the sizes {', '.join(map(str, sizes))}."
        )
    if wanted.strategy is None:
        best = found.best.get(wanted.batch_size)
        if best is None:
            raise PlanError(f"{wanted.results} has nothing measured at batch size {wanted.batch_size}.")
        return best.row
    row = found.table.rows.get(Cell(_strategy(wanted.strategy), wanted.batch_size))
    if row is None:
        known = ", ".join(str(row.cell.strategy) for row in found.table.at(wanted.batch_size))
        raise PlanError(f"--strategy is {wanted.strategy}; {wanted.results} has {known}.")
    if not row.may_rank:
        outcome = row.outcome or "not measured yet"
        raise PlanError(f"{row.cell} is {outcome}{f' ({row.reason})' if row.reason else ''}, so it is not exported.")
    return row


def _strategy(text: str) -> Strategy:
    try:
        return Strategy.parse(text)
    except ValueError as error:
        raise PlanError(
            f"--strategy is {text}; expected a backend and a precision, such as onnxruntime/fp32."
        ) from error


def _require_same_machine(opened: Folder, before: Mapping[str, Any]) -> None:
    """Refuse to make elsewhere what was measured here: other libraries and processors give another artefact."""
    if machine.ask("environment")["fingerprint"] != before.get("fingerprint"):
        raise EnvironmentFault(
            f"This machine, or what is installed on it, is not as it was when {opened.path} was measured, so what it "
            "would export is not what was measured. Export there, or measure here with an --output folder of its own."
        )


def _about(name: str, plan: Plan, environment: Mapping[str, Any], row: Row) -> dict[str, Any]:
    """Return what model.json says of the measurement."""
    return {
        "benchmark": name,
        "plan": plan.hash,
        "hardware": environment.get("hardware"),
        "fingerprint": environment.get("fingerprint"),
        "measured": {name: value for name, value in _measured(row).items() if value is not None},
    }


def _measured(row: Row) -> dict[str, Any]:
    latency, speedup, compared = row.latency, row.speedup, row.compared
    return {
        "outcome": row.outcome,
        "rounds": len(row.medians),
        "samples": row.samples,
        "latencyNanoseconds": whole(latency.value if latency else None),
        "latencyLowNanoseconds": whole(latency.low if latency else None),
        "latencyHighNanoseconds": whole(latency.high if latency else None),
        "throughputMilliPerSecond": whole(row.throughput.value if row.throughput else None),
        "speedupMilli": milli(speedup.value if speedup else None),
        "speedupLowMilli": milli(speedup.low if speedup else None),
        "speedupHighMilli": milli(speedup.high if speedup else None),
        "speedupVerdict": row.verdict,
        "doubts": list(row.lasting_doubts),
        "relativeL2PartsPerBillion": compared.relative_l2_parts_per_billion if compared else None,
        "top1AgreementBasisPoints": row.agreement_basis_points,
    }
