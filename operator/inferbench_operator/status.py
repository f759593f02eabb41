"""The status of a benchmark: conditions, counters, the answer, and where every cell's row is."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from inferbench_contract import sentences
from inferbench_contract.summary import Summary
from inferbench_operator import conditions
from inferbench_operator import observed as observing
from inferbench_operator.observed import Json, SeenJob, Shard
from inferbench_operator.standing import Standing

MAX_HARDWARE_CHARS = 128
"""Of the printer column GPU."""


def document(standing: Standing, shards: tuple[Shard, ...], now: datetime) -> dict[str, Any]:
    """Return the whole status. What is not known anew stays as it was; what has no value is left out."""
    observed, before = standing.observed, standing.observed.benchmark.status
    told = conditions.document(conditions.tell(standing), before, observed.benchmark.generation, now)
    status = {
        "observedGeneration": observed.benchmark.generation,
        "conditions": told,
        "startTime": before.get("startTime") or (observing.written(now) if observed.jobs else None),
        "completionTime": before.get("completionTime") or (observing.written(now) if standing.ending else None),
        "plan": _plan(standing) or before.get("plan"),
        "sweeps": _sweeps(standing) or before.get("sweeps"),
        "stages": _stages(observed.jobs, before),
        "shards": _shards(shards) if standing.plan is not None else before.get("shards"),
        **_answer(standing.summary, before),
    }
    return {key: value for key, value in _without_nulls(status).items() if value != []}


def _plan(standing: Standing) -> dict[str, Any] | None:
    return None if standing.plan is None else {"hash": standing.plan.short_hash, "rounds": standing.plan.rounds}


def _sweeps(standing: Standing) -> dict[str, int] | None:
    if standing.plan is None or standing.collected is None:
        return None
    return {"planned": len(standing.plan.sweeps), "finished": len(standing.collected.final)}


def _stages(jobs: tuple[SeenJob, ...], before: Json) -> list[dict[str, Any]]:
    """List every stage there was, also those whose Jobs are gone."""
    stages = {stage["job"]: stage for stage in before.get("stages") or ()}
    stages |= {job.name: {"job": job.name, "sweeps": len(job.all_sweeps), "reason": _stage_reason(job)} for job in jobs}
    return list(stages.values())


def _stage_reason(job: SeenJob) -> str:
    if job.end is not None:
        return str(job.end)
    return "Deleted" if job.is_gone else "Running"


def _shards(shards: tuple[Shard, ...]) -> list[dict[str, Any]]:
    return [{"configMap": shard.name, "sweeps": len(shard.results), "sha256": shard.sha256} for shard in shards]


def _answer(found: Summary | None, before: Json) -> dict[str, Any]:
    if found is None:
        return {key: before.get(key) for key in ("cells", "best", "speedup", "hardware", "summary")}
    document = found.document()
    best = found.answer
    speedup = None if best is None or best.row.speedup is None else f"{sentences.digits(best.row.speedup.value)}x"
    return {
        "cells": document["cells"],
        "best": document["answer"],
        "speedup": speedup,
        "hardware": "; ".join(found.hardware)[:MAX_HARDWARE_CHARS] or None,
        "summary": document,
    }


def _without_nulls(value: Any) -> Any:
    """Leave out what is null: the API server would drop it, and the next look would find a difference."""
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    return value
