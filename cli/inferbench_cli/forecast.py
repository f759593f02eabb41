"""What can be said before anything is measured: how long it may take, and whether this machine is busy. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from inferbench_contract import sentences
from inferbench_contract.plan import Plan, Sweep
from inferbench_contract.sentences import counted
from inferbench_contract.spec import MeasurementSpec

START_SECONDS = 5
"""Of a cell's process: Python, its libraries, loading, checking the answers. The demonstration's 24 took 5 minutes with
7 s each for warm-up and calls; a large model takes longer."""

FEW_ROUNDS = 2
"""Student's t has one degree of freedom then: intervals are six times as wide as those of four rounds."""

MAX_QUIET_LOAD = 0.5
"""Of the CPUs. A load average of the minute before the run: what ended just now is in it, so it only warns."""


def how_long(plan: Plan) -> str:
    """Say how long a plan takes: what is bounded by the file, what is likely, and what bounds the rest."""
    measurement = plan.work.measurement
    processes = _processes(plan.sweeps)
    timed = processes * (measurement.max_seconds_per_cell + measurement.warmup_max_seconds)
    most = len(plan.sweeps) * plan.work.timeout_seconds_per_sweep
    return (
        f"{counted(processes, 'process', 'es')} warm up and measure for at most {sentences.minutes(timed)} together. "
        f"{likely(plan.sweeps, measurement)} The time limit of each sweep ends everything after "
        f"{sentences.minutes(most)}."
    )


def likely(sweeps: Sequence[Sweep], measurement: MeasurementSpec) -> str:
    """Guess how long some sweeps take, and say what the guess leaves out."""
    each = measurement.max_seconds_per_cell + measurement.warmup_max_seconds + START_SECONDS
    guess = minutes(_processes(sweeps) * each)
    return f"Estimate: about {guess}; preparing the model and compiling come on top."


def few_rounds(rounds: int) -> str | None:
    """Warn of what so few rounds cannot tell."""
    if rounds == 1:
        return "One round gives numbers without intervals, and every verdict is Inconclusive (measurement.rounds)."
    return (
        "Two rounds give very wide intervals; four decide more (measurement.rounds)." if rounds == FEW_ROUNDS else None
    )


def crowded(threads: int | None, cpus: int) -> str | None:
    """Warn of more threads than CPUs, which take turns; `plan` may be asked on another machine than measures."""
    if threads is None or threads <= cpus:
        return None
    return (
        f"cpu.threads is {threads}, and {counted(cpus, 'CPU')} may be used here: threads would wait for each other. "
        f"Leave cpu.threads out, or say at most {cpus}."
    )


def busy(load: float, cpus: int) -> str | None:
    """Warn where other work runs on this machine; `load` is its load average of the last minute."""
    if load <= MAX_QUIET_LOAD * cpus:
        return None
    return (
        f"Load average {load:.1f} on {counted(cpus, 'CPU')}: other work runs here, or has until just now; numbers will "
        "be worse and doubts many."
    )


def minutes(seconds: int) -> str:
    """Write a guess for people who plan: `25 min`, `1.5 h`."""
    return f"{seconds / 3600:.1f} h" if seconds >= 5400 else f"{max(1, round(seconds / 60))} min"


def _processes(sweeps: Sequence[Sweep]) -> int:
    return sum(len(sweep.batch_sizes) for sweep in sweeps)
