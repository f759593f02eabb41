"""`inferbench run`: the whole benchmark on this machine, sweep by sweep, going on where an earlier run stopped."""

from __future__ import annotations

import csv
import io
import json
import os
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from inferbench_cli import folder, machine, report, statuses
from inferbench_cli.folder import Folder
from inferbench_cli.machine import Model
from inferbench_cli.progress import Progress
from inferbench_contract import cells, document, summary
from inferbench_contract import plan as plans
from inferbench_contract.cells import Row
from inferbench_contract.errors import EnvironmentFault, InferbenchError
from inferbench_contract.evidence import milli, whole
from inferbench_contract.plan import Plan, Sweep
from inferbench_contract.spec import InferenceBenchmark
from inferbench_contract.summary import Summary
from inferbench_contract.words import Cell, Judgement

CSV_HEADER = (
    "backend", "precision", "batch_size", "outcome",
    "latency_median_ns", "latency_low_ns", "latency_high_ns", "latency_p90_ns", "latency_p99_ns",
    "throughput_milli_per_second", "speedup_milli", "speedup_low_milli", "speedup_high_milli", "verdict",
    "doubts", "rounds", "samples", "reason",
    "device_median_ns", "enqueue_median_ns", "relative_l2_parts_per_billion", "top1_agreement_basis_points",
    "prepare_first_ms", "prepare_ms", "warmup_ms", "memory_mib", "compile_cold_ms", "compile_warm_ms",
    "error_ratio_milli", "power_milliwatts", "energy_microjoules_per_input", "others_percent",
    "compared_examples", "worst_cosine_parts_per_million", "worst_example", "sm_clock_mhz", "throttle_reasons",
    "gpu_temperature_max_celsius", "gpu_power_median_milliwatts", "gpu_memory_max_mib",
)  # fmt: skip
"""The first eighteen are promised (design.md); the others follow, and more may."""


PREPARING_LOG = "preparing.log"
"""What the runner calls it."""

DECISIVE = (
    "architecture", "cpuModel", "cpuFlags", "affinity", "quotaMilliCpus", "governor", "python", "libraries", "gpus",
)  # fmt: skip
"""What the fingerprint of a machine is made of: when it differs, one of these says why."""


class ModelRefusedError(InferbenchError):
    """The model itself cannot be prepared. Its cells have failed, so this is exit status 1 (as where some fail)."""


@dataclass(frozen=True)
class Ended:
    """How a run ended: what it knows, and the faults that kept it from knowing more."""

    summary: Summary
    folder: Folder
    interrupted: bool
    fault: InferbenchError | None


def run(file: Path, output: Path | None, progress_of: Any, *, fresh: bool) -> tuple[InferenceBenchmark, Ended]:
    """Measure what is not measured yet, and write the answer. Raises SpecError, PlanError, EnvironmentFault."""
    benchmark = document.read(file)
    plan = plans.expand(benchmark)
    path = output or folder.default_path(benchmark.name, plan)
    with folder.opened(path, plan, _text(file, benchmark), fresh=fresh) as opened:
        model = _record_environment(opened, benchmark, plan, file)
        missing = tuple(sweep for sweep in plan.sweeps if not _is_done(opened, plan, sweep))
        progress = progress_of(plan, missing, opened)
        interrupted, fault = _Sweeps(opened, plan, model, benchmark.spec.retries, progress).run(missing)
        return benchmark, Ended(write_answer(opened, benchmark, plan), opened, interrupted, fault)


def _text(file: Path, benchmark: InferenceBenchmark) -> str:
    """Return what the folder keeps of the file; a pipe is read once and gone, so what was understood stands for it."""
    if file.is_file():
        return file.read_text(encoding="utf-8")
    return benchmark.model_dump_json(by_alias=True, exclude_unset=True, indent=1)


def refusal(why: str, log: Path) -> str:
    """Say why no sweep can succeed, and where to read on: the log has the traceback of a factory that raised."""
    more = f"What was printed meanwhile is in {log}. " if log.is_file() else ""
    return (
        f"The model cannot be prepared, so no sweep can succeed and the run ends here: {why.rstrip('.')}. {more}"
        "Mend the model or the file, then start over with --fresh."
    )


def exit_status(ended: Ended, benchmark: InferenceBenchmark) -> int:
    """Return the first that applies of 130, 2, 3, 1, 4; 0 when none does."""
    spec, found = benchmark.spec, ended.summary
    failed = summary.failed_cells(found, spec) > spec.max_failed_cells
    broken = any(judged.judgement is Judgement.DOES_NOT_HOLD for judged in found.judged)
    applying = [
        statuses.INTERRUPTED if ended.interrupted else 0,
        ended.fault.exit_status if ended.fault else 0,
        statuses.FAILED if failed or not found.has_measurements else 0,
        statuses.EXPECTATION if broken else 0,
    ]
    return next((status for status in applying if status), 0)


def write_answer(opened: Folder, benchmark: InferenceBenchmark, plan: Plan) -> Summary:
    """Write summary.json, cells.csv and report.html from what is in the folder."""
    found = summary.summarize(benchmark, plan, opened.results(plan))
    samples = opened.samples(plan)
    opened.write("summary.json", found.dump())
    opened.write("cells.csv", cells_csv(found, samples))
    opened.write(folder.REPORT, report.render(benchmark, found, opened.environment(), samples))
    return found


def cells_csv(found: Summary, samples: Mapping[tuple[Cell, int], Any]) -> str:
    """Return a row per cell; empty fields are what was not measured."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_HEADER)
    for row in found.table.rows.values():
        writer.writerow(["" if value is None else value for value in _csv_row(row, samples)])
    return text.getvalue()


def _csv_row(row: Row, samples: Mapping[tuple[Cell, int], Any]) -> Iterable[str | int | None]:
    strategy, latency, speedup = row.cell.strategy, row.latency, row.speedup
    kept = [samples[row.cell, round_] for round_ in row.medians if (row.cell, round_) in samples]
    complete = kept if len(kept) == len(row.medians) else []
    yield from (strategy.backend, strategy.precision, row.cell.batch_size, row.outcome or "Missing")
    yield from (whole(getattr(latency, end, None)) for end in ("value", "low", "high"))
    yield from cells.pooled_percentiles(complete)
    yield whole(row.throughput.value if row.throughput else None)
    yield from (milli(getattr(speedup, end, None)) for end in ("value", "low", "high"))
    yield row.verdict
    yield ";".join(f"{doubt}:{count}" for doubt, count in row.doubts.items())
    yield from (len(row.medians), row.samples, row.reason)
    yield from (row.middle(field) for field in ("device_median_ns", "enqueue_median_ns"))
    yield from _compared(row, "relative_l2_parts_per_billion", "top1_agreement_basis_points")
    yield next(iter(row.values("prepare_ms")), None)
    yield from (row.middle(field) for field in ("prepare_ms", "warmup_ms"))
    yield max(row.values("memory_mib"), default=None)
    yield from (_compile_ms(row, was_cold=was_cold) for was_cold in (1, 0))
    yield next(iter(row.values("error_ratio_milli")), None)  # of the first round, which looks at all examples
    yield row.middle("power_milliwatts")
    yield None if row.energy_joules is None else round(1e6 * row.energy_joules)
    yield max(row.values("others_percent"), default=None)
    yield from _compared(row, "compared_examples", "worst_cosine_parts_per_million", "worst_example")
    yield row.middle("sm_clock_mhz")
    yield ";".join(f"{reason}:{count}" for reason, count in row.throttle_reasons.items())
    yield max(row.values("gpu_temperature_max_celsius"), default=None)
    yield row.middle("gpu_power_median_milliwatts")
    yield max(row.values("gpu_memory_max_mib"), default=None)


def _compared(row: Row, *fields: str) -> Iterable[int | None]:
    """Return what one round found of the accuracy: the first, which looks at all examples, where it can be that."""
    return (getattr(row.compared, field, None) for field in fields)


def _compile_ms(row: Row, *, was_cold: int) -> int | None:
    """Return the median compile time of the rounds whose cache was empty, or was not."""
    found = row.rounds.values()
    times = [r.compile_ms for r in found if r.compile_ms is not None and r.compile_was_cold == was_cold]
    return round(statistics.median(times)) if times else None


def _is_done(opened: Folder, plan: Plan, sweep: Sweep) -> bool:
    result = opened.result(plan, sweep)
    return result is not None and result.is_complete(sweep)


@dataclass(frozen=True)
class _Sweeps:
    """What it takes to run sweeps of a plan in a folder."""

    opened: Folder
    plan: Plan
    model: Model
    retries: int
    progress: Progress

    def run(self, missing: Iterable[Sweep]) -> tuple[bool, InferbenchError | None]:
        """Run sweeps in order. Returns whether somebody interrupted it, and the fault that ended it or the last one."""
        died = None
        try:
            for sweep in missing:
                died = self._run_one(sweep) or died
        except (machine.InterruptedRun, KeyboardInterrupt):
            return True, died
        except InferbenchError as fault:
            return False, fault
        finally:
            self.progress.closed()
        return False, died

    def _run_one(self, sweep: Sweep) -> machine.RunnerDiedError | None:
        """Run a sweep, and again if the runner itself died; the other sweeps go on whatever became of it."""
        died = None
        refused: list[str] = []
        self.progress.started(sweep)
        for _ in range(1 + self.retries):
            try:
                machine.measure(
                    self.opened.plan_file,
                    sweep.index,
                    self.opened.path,
                    self.model,
                    partial(self._hear, sweep, refused),
                )
                died = None
                break
            except machine.RunnerDiedError as error:
                died = error
        self.progress.finished(sweep, self.opened.result(self.plan, sweep))
        if refused:
            raise ModelRefusedError(refusal(refused[-1], self.opened.path / folder.LOGS / PREPARING_LOG))
        return died

    def _hear(self, sweep: Sweep, refused: list[str], said: Mapping[str, Any]) -> None:
        if said.get("event") == "model":
            refused.append(str(said.get("reason")))
        self.progress.heard(sweep, said)


def _record_environment(opened: Folder, benchmark: InferenceBenchmark, plan: Plan, file: Path) -> Model:
    """Write down what machine and what model this is, and where that lies; refuse to mix results of two."""
    start = os.path.relpath(file.parent.resolve(), opened.path.resolve())
    now = {"schemaVersion": 1, **machine.describe(opened.plan_file, file.parent), "modelFolder": start}
    if opened.results(plan) and (differs := what_differs(opened.environment(), now, benchmark)):
        raise EnvironmentFault(
            f"{differs} when {opened.path} was begun, so the results cannot be put together. "
            "Give --output another folder, or --fresh to throw those results away."
        )
    opened.write("environment.json", json.dumps(now, indent=1, sort_keys=True) + "\n")
    return Model(file.parent, now["modelSha256"])


def what_differs(before: Mapping[str, Any], now: Mapping[str, Any], benchmark: InferenceBenchmark) -> str | None:
    """Say what keeps results from being put together, as the beginning of a sentence; None where nothing is known."""
    if before.get("modelSha256") not in (None, now["modelSha256"]):
        code = benchmark.spec.model.python
        if code is not None:
            return f"The code of the model ({code.factory}) is not what was measured"
        return "The model's file is not the one that was measured"
    if before and before.get("fingerprint") != now["fingerprint"]:
        keys = [key for key in DECISIVE if before.get(key) != now.get(key)]
        return f"This machine is not as it was ({', '.join(keys) or 'fingerprint'} changed)"
    return None
