"""The conditions of a benchmark, each told from where it stands. A condition keeps its time while its status stays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from inferbench_contract import hardware
from inferbench_contract.result import cut_in_the_middle
from inferbench_contract.summary import Summary
from inferbench_contract.words import Judgement
from inferbench_operator import observed as observing
from inferbench_operator.observed import Json
from inferbench_operator.standing import Standing, is_held, open_job

MAX_MESSAGE_CHARS = 1_024
"""Of one condition: nine of them, the summary and the shards have to fit into 8 kB of status in the usual case."""

TRUE, FALSE, UNKNOWN = "True", "False", "Unknown"


@dataclass(frozen=True, slots=True)
class Condition:
    """What is said of one aspect."""

    kind: str
    status: str
    reason: str
    message: str = ""


def tell(standing: Standing) -> tuple[Condition, ...]:
    """Return all conditions, in the order in which a person reads them."""
    told = (
        _accepted(standing),
        _running(standing),
        _suspended(standing),
        _quota_reserved(standing),
        _hardware_uniform(standing),
        _results_complete(standing),
        _expectations_met(standing),
        _succeeded(standing),
        _finished(standing),
    )
    return tuple(condition for condition in told if condition is not None)


def document(told: tuple[Condition, ...], before: Json, generation: int, now: datetime) -> list[dict[str, Any]]:
    """Return conditions as the status holds them."""
    return [_document(condition, observing.condition(before, condition.kind), generation, now) for condition in told]


def with_one(before: Json, said: Condition, now: datetime) -> list[dict[str, Any]] | None:
    """Return the conditions of a status with one of them changed; None where that was said already, or never."""
    known = observing.condition(before, said.kind)
    if not known or known["reason"] == said.reason:
        return None
    changed = _document(said, known, known.get("observedGeneration", 0), now)
    return [changed if each["type"] == said.kind else each for each in before["conditions"]]


def _document(condition: Condition, before: Mapping[str, Any], generation: int, now: datetime) -> dict[str, Any]:
    is_same = before.get("status") == condition.status
    return {
        "type": condition.kind,
        "status": condition.status,
        "reason": condition.reason,
        "message": cut_in_the_middle(condition.message, MAX_MESSAGE_CHARS),
        "lastTransitionTime": before["lastTransitionTime"] if is_same else observing.written(now),
        "observedGeneration": generation,
    }


def _accepted(standing: Standing) -> Condition:
    if standing.observed.mistakes:
        return Condition("Accepted", FALSE, "InvalidSpec", " ".join(standing.observed.mistakes))
    refusal = standing.observed.refusal
    if refusal is not None and refusal.is_final:
        return Condition("Accepted", FALSE, refusal.reason, refusal.message)
    return Condition("Accepted", TRUE, "Planned", _what_is_planned(standing))


def _what_is_planned(standing: Standing) -> str:
    plan, spec = standing.plan, standing.spec
    if plan is None or spec is None:
        return ""
    cells = f"{len(plan.measurable_cells)} cells in {plan.rounds} rounds are {len(plan.sweeps)} sweeps, a pod each."
    if spec.cache is None and plan.sweeps:
        cells = f"{cells} There is no spec.cache, so every pod prepares the model, exports and compiles again."
    reasons = "; ".join(f"{strategy}: {reason}" for strategy, reason in plan.unsupported.items())
    return f"{cells} Not measured: {reasons}" if reasons else cells


def _running(standing: Standing) -> Condition:
    job = open_job(standing.observed)
    if standing.ending is not None:
        return Condition("Running", FALSE, "Finished")
    if standing.obstacle is not None:
        return Condition("Running", FALSE, standing.obstacle.reason, standing.obstacle.message)
    if job is not None and job.is_suspended and job.is_queued:
        return Condition("Running", FALSE, "WaitingForQuota", "Kueue has not admitted the Job yet.")
    if is_held(standing.observed):
        return Condition("Running", FALSE, "Suspended", "spec.suspend is true.")
    return Condition("Running", TRUE, "SweepsRunning")


def _suspended(standing: Standing) -> Condition:
    spec = standing.spec
    if standing.ending is None and spec is not None and spec.suspend and spec.queue_name is not None:
        advice = "Kueue starts and stops this Job; deactivate its Workload instead of setting spec.suspend."
        return Condition("Suspended", FALSE, "ManagedByKueue", advice)
    if standing.ending is None and is_held(standing.observed):
        advice = "Set spec.suspend to false to go on; what is measured stays."
        return Condition("Suspended", TRUE, "SuspendedBySpec", advice)
    return Condition("Suspended", FALSE, "NotSuspended")


def _quota_reserved(standing: Standing) -> Condition | None:
    spec = standing.spec
    if spec is None or spec.queue_name is None:
        return None
    job = open_job(standing.observed)
    if job is None:
        return Condition("QuotaReserved", FALSE, "Finished" if standing.ending else "NoJob")
    if job.is_suspended:
        return Condition("QuotaReserved", FALSE, "Waiting", f"In queue {spec.queue_name}.")
    return Condition("QuotaReserved", TRUE, "Admitted", f"By queue {spec.queue_name}.")


def _hardware_uniform(standing: Standing) -> Condition:
    found = standing.summary
    if found is None or not found.environments:
        return _as_before(standing, "HardwareUniform", "NothingMeasured")
    if found.environments == 1 and len({_kind(text) for text in found.hardware}) <= 1:
        return Condition("HardwareUniform", TRUE, "Uniform", f"All results are of {_hardware(found)}.")
    different = f"Results come from {found.environments} different environments: {_hardware(found)}."
    advice = "Their numbers are not comparable: pin spec.gpu.products."
    return Condition("HardwareUniform", FALSE, "Mixed", f"{different} {advice}")


def _kind(text: str) -> tuple[str, str]:
    """Return what of a hardware's name must be equal: the power limit of some GPUs moves by itself."""
    gpu = hardware.gpu_and_driver(text)
    return gpu if any(gpu) else (text, "")


def _hardware(found: Summary) -> str:
    return "; ".join(found.hardware[:4]) or "unnamed hardware"


def _as_before(standing: Standing, kind: str, reason: str) -> Condition:
    """Repeat what was said, as long as nothing new is known."""
    before = observing.condition(standing.observed.benchmark.status, kind)
    if not before:
        return Condition(kind, UNKNOWN, reason)
    return Condition(kind, before["status"], before["reason"], before.get("message", ""))


def _results_complete(standing: Standing) -> Condition:
    if (unkept := standing.observed.unkept) is not None:
        return Condition("ResultsComplete", FALSE, unkept.reason, unkept.message)
    if standing.ending is None:
        return Condition("ResultsComplete", FALSE, "Measuring")
    if standing.summary is not None and standing.summary.is_complete:
        lost = sum("ResultLost" in row.reason for row in standing.summary.table.rows.values())
        if lost:
            message = f"{lost} cells gave no result, however often they were tried."
            return Condition("ResultsComplete", FALSE, "ResultsLost", message)
        return Condition("ResultsComplete", TRUE, "EveryCellHasAnOutcome")
    return Condition("ResultsComplete", FALSE, standing.ending.reason, "It ended before every cell was measured.")


def _expectations_met(standing: Standing) -> Condition:
    found, spec = standing.summary, standing.spec
    if spec is not None and not spec.expectations:
        return Condition("ExpectationsMet", TRUE, "NoneStated")
    if found is None or standing.ending is None:
        reason = "Measuring" if standing.ending is None else standing.ending.reason
        return Condition("ExpectationsMet", UNKNOWN, reason)
    broken = [judged.name for judged in found.judged if judged.judgement is Judgement.DOES_NOT_HOLD]
    undecided = [judged.name for judged in found.judged if judged.judgement is Judgement.UNDECIDED]
    if broken:
        return Condition("ExpectationsMet", FALSE, "DoesNotHold", f"Not holding: {', '.join(broken)}.")
    if undecided:
        message = f"Undecided: {', '.join(undecided)}. More rounds may decide."
        return Condition("ExpectationsMet", UNKNOWN, "Undecided", message)
    return Condition("ExpectationsMet", TRUE, "AllHold")


def _succeeded(standing: Standing) -> Condition:
    if standing.ending is not None:
        status = TRUE if standing.ending.has_succeeded else FALSE
        return Condition("Succeeded", status, standing.ending.reason, standing.ending.message)
    return Condition("Succeeded", UNKNOWN, _running(standing).reason)


def _finished(standing: Standing) -> Condition:
    if standing.ending is None:
        return Condition("Finished", FALSE, _running(standing).reason)
    return Condition("Finished", TRUE, standing.ending.reason)
