"""The cell process: one backend, precision, batch size and round. `python -m inferbench_runner.cell TASK`.

It loads, measures, checks the very session that was measured, writes its result and ends. Whatever goes wrong in an
orderly way becomes an outcome here; what tears the process down is the supervisor's to tell.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import resource
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from inferbench_contract.accuracy import limits_for
from inferbench_contract.errors import EnvironmentFault
from inferbench_contract.handshake import ENVIRONMENT_FAULT_STATUS
from inferbench_contract.result import CellResult, cut_in_the_middle
from inferbench_contract.words import Backend, Outcome
from inferbench_runner import (
    accuracy,
    backends,
    circumstances,
    doubts,
    garbage,
    gate,
    guards,
    lifeline,
    sinks,
    stats,
    stopping,
)
from inferbench_runner.backends import FellBack, Session, Unsupported, Verifiable
from inferbench_runner.clocks import HOST_CLOCK
from inferbench_runner.measure import Measurement, Progress, measure
from inferbench_runner.process import PROGRESS_FD
from inferbench_runner.task import CellTask

MAX_REASON_CHARS = 2_000
"""Enough for head and root cause of any library's error; what travels to the summary is cut further."""

OUT_OF_MEMORY_NAMES = ("OutOfMemoryError", "MemoryError")
OUT_OF_MEMORY_WORDS = (
    "out of memory",
    "failed to allocate memory",
    "can't allocate memory",
    "bad_alloc",
    "available memory",
)
"""How torch, CUDA and ONNX Runtime say it: as errors of their own kinds, or only in words."""

MEBIBYTE_KIB = 1024


def main(arguments: list[str]) -> int:
    """Measure the task in the file that the argument names; 0 when there is a result, 44 for an environment fault."""
    lifeline.hold()
    garbage.search_rarely()
    task = CellTask.model_validate_json(Path(arguments[0]).read_bytes())
    try:
        result = _result(task)
        sinks.write_whole(task.result, json.dumps(dataclasses.asdict(result)).encode(), sinks.SCRATCH)
    except EnvironmentFault as fault:
        print(fault, file=sys.stderr)  # noqa: T201 (the supervisor reads it)
        return ENVIRONMENT_FAULT_STATUS
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # a library that crashes while it is unloaded must not take a good result with it


def _result(task: CellTask) -> CellResult:
    try:
        return measure_cell(task)
    except EnvironmentFault:
        raise
    except BaseException as error:  # noqa: BLE001 (every error of a library is an outcome)
        traceback.print_exc()
        return failure(task.batch_size, error)


def measure_cell(task: CellTask) -> CellResult:
    """Load, measure, check, and put it together. Raises what the backend raises."""
    tell = _teller()
    tell(stage="loading")
    session = _load(task)
    prepared_ms = circumstances.process_age_ms()
    before = circumstances.snapshot()
    measurement = measure(session, _limits(task), lambda progress: _tell_progress(tell, progress))
    when = _when(measurement)
    disturbance = circumstances.difference(before, circumstances.snapshot())
    if isinstance(session, Verifiable):
        session.verify()
    if task.samples is not None:
        sinks.write_samples(task.samples, measurement.timed.latencies_ns, measurement.timed.device_ns)
    tell(stage="checking", **when)
    found = gate.check(session, _with_examples(task), full=task.round == 0)
    result = dataclasses.replace(
        numbers(measurement, task.batch_size),
        doubts=doubts.find(measurement, disturbance, getattr(session, "notes", {})),
        others_percent=doubts.others_percent(disturbance),
        prepare_ms=None if prepared_ms is None else prepared_ms + measurement.first_call_ns // 1_000_000,
        **_compile_times(session),
        memory_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // MEBIBYTE_KIB,
    )
    return judged(result, found, task)


def _when(measurement: Measurement) -> dict[str, int]:
    """Tell when the timed calls were made, and those of them back to back, which have ended just now."""
    end_ns = HOST_CLOCK()
    back_to_back = guards.Window(end_ns - measurement.back_to_back.elapsed_ns, end_ns)
    every = guards.Window(back_to_back.begin_ns - measurement.timed.elapsed_ns, end_ns)
    return every.told() | back_to_back.told(guards.BACK_TO_BACK_FROM)


def _compile_times(session: Session) -> dict[str, Any]:
    """Return how long a session was compiled, where it was, and from which kind of cache."""
    notes = getattr(session, "notes", {})
    if "compileNanoseconds" not in notes:
        return {}
    was_cold = int(notes["compileCache"] == "cold")
    return {"compile_ms": notes["compileNanoseconds"] // 1_000_000, "compile_was_cold": was_cold}


def numbers(measurement: Measurement, batch_size: int) -> CellResult:
    """Reduce a measurement to what a result carries."""
    timed = measurement.timed
    return CellResult(
        batch_size=batch_size,
        outcome=Outcome.MEASURED,
        latency_median_ns=measurement.latency_median_ns,
        latency_p90_ns=stats.percentile(timed.latencies_ns, 90),
        latency_p99_ns=stats.percentile(timed.latencies_ns, 99),
        device_median_ns=measurement.device_median_ns,
        enqueue_median_ns=measurement.enqueue_median_ns,
        throughput_milli_per_second=measurement.back_to_back.inputs_milli_per_second(batch_size),
        samples=len(timed.latencies_ns),
        warmup_ms=measurement.warm_up.elapsed_ns // 1_000_000,
        measure_ms=(timed.elapsed_ns + measurement.back_to_back.elapsed_ns) // 1_000_000,
    )


def judged(result: CellResult, found: accuracy.Accuracy, task: CellTask) -> CellResult:
    """Add what the accuracy gate found, and let it decide the outcome."""
    limits = limits_for(task.precision, task.accuracy)
    violation = accuracy.violation(found, limits, gate_top1=not task.model.has_random_weights)
    outcome = Outcome.MEASURED if violation is None else Outcome.INACCURATE
    result = dataclasses.replace(result, outcome=outcome, reason=violation or "")
    if found.fault is not None:
        return result  # of NaN, or of outputs of another shape, there is no distance
    return dataclasses.replace(
        result,
        compared_examples=found.examples,
        relative_l2_parts_per_billion=found.relative_l2_parts_per_billion,
        worst_cosine_parts_per_million=found.worst_cosine_parts_per_million,
        worst_example=found.worst_example if found.worst_relative_l2 else None,
        top1_agreement_basis_points=found.top1_agreement_basis_points,
        error_ratio_milli=found.error_ratio_milli,
    )


def failure(batch_size: int, error: BaseException) -> CellResult:
    """Turn an error into an outcome with its words."""
    text = cut_in_the_middle(f"{error}", MAX_REASON_CHARS)
    match error:
        case Unsupported():
            return CellResult(batch_size, Outcome.UNSUPPORTED, text)
        case FellBack():
            return CellResult(batch_size, Outcome.FELL_BACK, text)
    named = f"{type(error).__name__}: {text}"
    is_memory = type(error).__name__ in OUT_OF_MEMORY_NAMES or any(w in text.lower() for w in OUT_OF_MEMORY_WORDS)
    return CellResult(batch_size, Outcome.OUT_OF_MEMORY if is_memory else Outcome.FAILED, named)


def _load(task: CellTask) -> Session:
    return backends.find(task.backend).load(task)


def _with_examples(task: CellTask) -> CellTask:
    """Add the evaluation examples that the fake backend brings along; the others' were prepared from the model."""
    if task.backend is not Backend.FAKE:
        return task
    from inferbench_runner.backends import fake

    return task.model_copy(update={"artifacts": fake.write_examples(task.result.parent)})


def _limits(task: CellTask) -> stopping.Limits:
    measurement = task.measurement
    return stopping.Limits.of_seconds(
        measurement.max_seconds_per_cell, measurement.warmup_max_seconds, counts_energy=task.counts_energy
    )


def _tell_progress(tell: Callable[..., None], progress: Progress) -> None:
    tell(stage=str(progress.stage), calls=progress.calls, latencyNanoseconds=progress.latency_ns)


def _teller() -> Callable[..., None]:
    """Return a function that writes a line of JSON to the supervisor; one that does nothing where nobody listens."""
    descriptor = int(os.environ.get(PROGRESS_FD, "-1"))

    def tell(**said: str | int) -> None:
        if descriptor >= 0:
            with contextlib.suppress(OSError):
                os.write(descriptor, json.dumps(said).encode() + b"\n")

    return tell


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
