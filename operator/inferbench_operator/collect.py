"""Attempts -> results: what each sweep came to, from the messages that its pods left behind.

A message is untrusted input: `result.decode` keeps what belongs to the plan and to this sweep. Where a pod died in the
middle, its last message names the cell in flight, and the way it died says what became of that cell.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from inferbench_contract import result as results
from inferbench_contract.errors import ResultError
from inferbench_contract.handshake import ASKED_TO_STOP_STATUS, BAD_CONFIGURATION_STATUS, ENVIRONMENT_FAULT_STATUS
from inferbench_contract.plan import Plan, Sweep
from inferbench_contract.result import CellResult, SweepResult
from inferbench_contract.words import Outcome
from inferbench_operator.observed import Attempt, Observed, SeenJob, SeenPod, has_passed

NOT_A_CRASH = {None, 0, ASKED_TO_STOP_STATUS, ENVIRONMENT_FAULT_STATUS}
"""Statuses after which the cell in flight has no outcome: it did not bring the runner down."""

MAX_STAGES = 2
"""The planned rounds, and one stage for what was lost; what is lost again is a failure."""

CELLS_LEFT_OUT = "CellsLeftOut"
"""Why a part of a message was not used, in a word: its other cells were."""


@dataclass(frozen=True)
class Collected:
    """What all sweeps came to so far."""

    final: Mapping[int, SweepResult]
    """By sweep; nothing changes in them any more."""
    lost: Mapping[int, Sequence[Attempt]]
    """Sweeps whose last stage is over and that have no outcome for some cell, with what was tried."""
    fault: str | None
    """What the machines lack, in the runner's words; the benchmark ends with it."""
    waits_until: datetime | None
    """Until when a message may still be on its way."""
    unheard: tuple[SeenJob, ...] = ()
    """Jobs that owe results and whose pods have to be listed before anything of them counts as lost."""


def attempt(pod: SeenPod, sweep: int, plan: Plan) -> Attempt:
    """Read what a pod left behind."""
    try:
        decoded = results.decode(pod.message, plan, plan.sweeps[sweep])
    except ResultError as error:
        return Attempt(pod, sweep, None, str(error), error.reason)
    return Attempt(pod, sweep, decoded.result, "; ".join(decoded.problems), CELLS_LEFT_OUT if decoded.problems else "")


def collect(observed: Observed, plan: Plan, now: datetime, lost_after: timedelta) -> Collected:
    """Decide for every sweep whether it is final, lost, or still to come."""
    tried = _by_sweep(observed.attempts)
    final = {result.sweep: result for shard in observed.shards for result in shard.results}
    stages = _last_stage(observed.jobs, plan)
    for sweep in plan.sweeps:
        job = stages.get(sweep.index)
        is_decided = job is not None and (_has_failed(job, sweep.index) or _is_heard(job, observed))
        if sweep.index not in final and (found := conclude(plan, sweep, tried.get(sweep.index, ()), is_decided)):
            final[sweep.index] = found
    open_ = [sweep.index for sweep in plan.sweeps if sweep.index not in final]
    over = [index for index in open_ if (stages[index].is_over if index in stages else _had_a_job(observed))]
    owing = {stages[index].uid: stages[index] for index in over if index in stages}.values()
    ends = [_end_of(job) for job in owing]
    fault = _fault(observed)
    waits_until = max((end + lost_after for end in ends if not has_passed(end, lost_after, now)), default=None)
    is_asked = waits_until is None or fault is not None  # which ends the benchmark, so nothing more would be heard
    unheard = tuple(job for job in owing if job.uid not in observed.listed_jobs) if is_asked else ()
    is_early = waits_until is not None or unheard
    lost = {} if is_early else {index: tried.get(index, ()) for index in over}
    return Collected(final, lost, fault, waits_until, unheard)


def stages_so_far(observed: Observed) -> int:
    """Count the stages that were ever begun, also those whose Jobs are gone."""
    return max([len(observed.benchmark.status.get("stages") or ()), *(job.stage + 1 for job in observed.jobs)])


def conclude(plan: Plan, sweep: Sweep, tried: Sequence[Attempt], is_decided: bool) -> SweepResult | None:  # noqa: FBT001
    """Put the attempts at a sweep together; None while a cell has no outcome and its end does not give it one.

    `is_decided`: no other attempt will follow in this stage.
    """
    merged = _merged(plan, sweep, tried)
    if merged.is_complete(sweep) or not is_decided or not tried:
        return merged if merged.is_complete(sweep) else None
    merged = _with_fate(merged, sweep, tried[-1])
    return merged if merged.is_complete(sweep) else None


def give_up(plan: Plan, sweep: Sweep, tried: Sequence[Attempt], stages: int) -> SweepResult:
    """Give every cell of a lost sweep the outcome that its attempts leave it with."""
    merged = _merged(plan, sweep, tried)
    reason = f"ResultLost: its pods gave no outcome in {stages} stages; {_last_try(tried)}. Run it again."
    return merged.filled(sweep, Outcome.FAILED, reason)


def _last_try(tried: Sequence[Attempt]) -> str:
    if not tried:
        return "none left a message"
    last = tried[-1]
    return _end(last.pod) + (f", {last.problem}" if last.problem else "")


def _by_sweep(attempts: Iterable[Attempt]) -> Mapping[int, Sequence[Attempt]]:
    tried: dict[int, list[Attempt]] = {}
    for each in attempts:
        tried.setdefault(each.sweep, []).append(each)
    return tried


def _last_stage(jobs: Iterable[SeenJob], plan: Plan) -> Mapping[int, SeenJob]:
    planned = range(len(plan.sweeps))
    return {sweep: job for job in jobs for sweep in job.all_sweeps if sweep in planned}


def _had_a_job(observed: Observed) -> bool:
    """Tell whether the planned rounds were begun: a Job that is no longer there was deleted by somebody."""
    return stages_so_far(observed) > 0


def _has_failed(job: SeenJob, sweep: int) -> bool:
    return any(job.sweep(place) == sweep for place in job.failed_places if place < len(job.all_sweeps))


def _is_heard(job: SeenJob, observed: Observed) -> bool:
    """Tell whether all that its pods said is known: the watch may tell the end of a Job before that of its last pod."""
    return job.is_over and job.uid in observed.listed_jobs


def _end_of(job: SeenJob) -> datetime:
    """Jobs and pods are watched apart, so the last message may come a little after the end of its Job."""
    return job.ended or job.created


def _fault(observed: Observed) -> str | None:
    for each in observed.attempts:
        if each.pod.exit_code == ENVIRONMENT_FAULT_STATUS:
            said = each.result.fault if each.result is not None else ""
            return said or f"pod {each.pod.name} ended with status {ENVIRONMENT_FAULT_STATUS} and no word; see its log"
    failed = next((job for job in observed.jobs if job.end_reason == "PodFailurePolicy"), None)
    return None if failed is None else failed.end_message


def _merged(plan: Plan, sweep: Sweep, tried: Sequence[Attempt]) -> SweepResult:
    """Take each cell from the first attempt that measured it, else from the last that has it."""
    told = [each.result for each in tried if each.result is not None]
    cells: dict[int, CellResult] = {}
    for result in told:
        for cell in result.cells:
            if cell.batch_size not in cells or cells[cell.batch_size].outcome is not Outcome.MEASURED:
                cells[cell.batch_size] = cell
    head = told[-1] if told else SweepResult(plan.short_hash, sweep.index)
    in_flight = None if head.in_flight in cells else head.in_flight
    return replace(head, cells=tuple(cells[size] for size in sorted(cells)), in_flight=in_flight)


def _with_fate(merged: SweepResult, sweep: Sweep, last: Attempt) -> SweepResult:
    """Let the end of the last pod decide for the cells that it did not tell about."""
    pod, in_flight = last.pod, merged.in_flight
    if pod.is_deleting:
        return merged  # somebody took it away; that says nothing about its cells
    where = f"while {in_flight} was measured" if in_flight else "before its first cell"
    if pod.was_out_of_memory:
        return _out_of_memory(merged, sweep, f"HostMemory: the kernel killed the whole container {where}")
    if pod.was_out_of_time:
        return merged.filled(sweep, Outcome.TIMED_OUT, f"TimeLimit: the pod's deadline passed {where}")
    if pod.exit_code == BAD_CONFIGURATION_STATUS:
        return merged.filled(sweep, Outcome.FAILED, f"BadConfiguration: {_last_words(last)}")
    if in_flight is not None and pod.exit_code not in NOT_A_CRASH:
        crashed = CellResult(in_flight, Outcome.CRASHED, f"ExitStatus: the runner itself died: {_end(pod)}")
        return merged.with_cell(crashed)
    return merged


def _last_words(last: Attempt) -> str:
    """Return what the runner said; without a plan that it can read it says it in plain text."""
    if last.result is not None and last.result.fault:
        return last.result.fault
    said = results.printable(last.pod.message.decode(errors="replace"))
    return said or f"see the log of pod {last.pod.name}"


def _out_of_memory(merged: SweepResult, sweep: Sweep, reason: str) -> SweepResult:
    if merged.in_flight is None:
        return merged.filled(sweep, Outcome.OUT_OF_MEMORY, reason)
    merged, smallest = merged.with_cell(CellResult(merged.in_flight, Outcome.OUT_OF_MEMORY, reason)), merged.in_flight
    after = f"AfterOutOfMemory: batch size {smallest} was out of memory already"
    return merged.filled(sweep, Outcome.OUT_OF_MEMORY, after)


def _end(pod: SeenPod) -> str:
    """Say how a pod ended, in a few words."""
    status = "" if pod.exit_code is None else f" with status {pod.exit_code}"
    reason = pod.pod_reason or pod.exit_reason or ("it was deleted" if pod.is_deleting else pod.phase)
    return f"pod {pod.name} ended{status} ({reason})"
