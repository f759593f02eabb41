"""The rule: what is observed -> what to do. Pure; `apply` does it, in the order that loses nothing.

A benchmark is one stage after another until every sweep is final. Results go into shards before the status names them,
the status says how it ended before the event does, and a Job may be collected only after all of that.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import count
from typing import Any

from inferbench_contract import shards as packing
from inferbench_contract import summary as summaries
from inferbench_contract.plan import Plan
from inferbench_contract.result import SweepResult
from inferbench_contract.spec import BenchmarkSpec
from inferbench_contract.summary import Summary
from inferbench_operator import collect, conditions, events, jobs, standing, status
from inferbench_operator import observed as observing
from inferbench_operator.collect import MAX_STAGES, Collected
from inferbench_operator.conditions import Condition
from inferbench_operator.events import EventType
from inferbench_operator.observed import Json, Observed, SeenJob, Shard
from inferbench_operator.pods import Manifest
from inferbench_operator.settings import Settings
from inferbench_operator.standing import Ending, Standing

SHARD_SHARE = 4
"""Results wait no longer than a quarter of the run so far: about 20 shards a day rather than 288."""

MAX_EARLY_SHARDS = 32
"""Later ones are full, so that a status has room for all: it names at most 64, and 4,000 sweeps fill at most 32."""


@dataclass(frozen=True, slots=True)
class JobPatch:
    """A merge patch of a Job's spec."""

    job: str
    spec: Json


@dataclass(frozen=True)
class NewShard:
    """Results to put where they are safe."""

    name: str
    data: packing.Data
    results: tuple[SweepResult, ...]

    @property
    def shard(self) -> Shard:
        """What the status will say of it."""
        return Shard(self.name, packing.checksum(self.data), self.results, packing.PLAN in self.data)


@dataclass(frozen=True, slots=True)
class Written:
    """When the operator last wrote a benchmark's status and last summarised it, as far as it remembers."""

    status: datetime | None = None
    summary: datetime | None = None
    obstacles: frozenset[str] = frozenset()
    """Reasons of what stood in the way so far: news once, everyday life if it comes again."""

    def after(self, decision: Decision, now: datetime) -> Written:
        """Return what is remembered once the status of a decision is written."""
        told = self.obstacles if decision.obstacle is None else self.obstacles | {decision.obstacle}
        return Written(now, self.summary if decision.summary is None else now, told)


@dataclass(frozen=True)
class Decision:
    """What to do now, in this order; and when time alone may ask for more."""

    unheard: tuple[SeenJob, ...] = ()
    """Jobs whose pods have to be listed before anything else is decided: the watch of pods may be behind."""
    plan_map: Manifest | None = None
    job: Manifest | None = None
    shard: NewShard | None = None
    status: dict[str, Any] | None = None
    """The whole status."""
    obstacle: str | None = None
    """The reason, where the status tells of something that stands in the way."""
    conditions: list[dict[str, Any]] | None = None
    """Only its conditions, of a benchmark that has ended."""
    events: tuple[Manifest, ...] = ()
    job_patches: tuple[JobPatch, ...] = ()
    is_to_be_deleted: bool = False
    summary: Summary | None = None
    """What the status says in full, for /results."""
    again_after: timedelta | None = None


def decide(observed: Observed, settings: Settings, now: datetime, written: Written) -> Decision:
    """Decide what a benchmark needs. Deciding again about what was done gives nothing to do."""
    if observed.benchmark.is_deleting:
        return Decision()
    if observed.benchmark.is_finished:
        return _tidied(observed, settings, now)
    if observed.wanted is None or observed.plan is None:
        return _ended_at_once(observed, settings, now)
    if observed.is_namespace_leaving:
        return _let_go(observed)
    return _carried_on(observed, observed.wanted.spec, observed.plan, settings, now, written)


# ---- a benchmark that is wrong -------------------------------------------------------------------


def _ended_at_once(observed: Observed, settings: Settings, now: datetime) -> Decision:
    """Say what is wrong with a benchmark, and stop what an operator that allowed more has begun."""
    ending = Ending(False, "InvalidSpec", " ".join(observed.mistakes))
    where = Standing(observed, None, None, None, ending)
    said = events.event(observed.benchmark, EventType.WARNING, "InvalidSpec", ending.message, now)
    return Decision(
        status=status.document(where, (), now),
        events=(said,),
        job_patches=tuple(_farewells(observed.jobs, settings)),
        again_after=_until_deletion(observed, now),
    )


# ---- a benchmark whose namespace goes ------------------------------------------------------------


def _let_go(observed: Observed) -> Decision:
    """End the Job of a namespace that is being deleted, before it waits for a pod that it may not make any more.

    Kubernetes deletes a namespace's pods first and the rest when they are gone. The Job controller holds a failed pod
    until it has made another one, which is refused by then: nothing would ever go (seen with 1.35.4).
    """
    job = standing.open_job(observed)
    return Decision(job_patches=() if job is None else (JobPatch(job.name, {"activeDeadlineSeconds": 1}),))


# ---- a benchmark that runs -----------------------------------------------------------------------


def _carried_on(
    observed: Observed, spec: BenchmarkSpec, plan: Plan, settings: Settings, now: datetime, written: Written
) -> Decision:
    collected = _with_given_up(observed, plan, _collected(observed, plan, settings, now))
    if collected.unheard:
        return Decision(unheard=collected.unheard)
    is_done = len(collected.final) == len(plan.sweeps) and standing.open_job(observed) is None
    blocked = standing.obstacle(observed, now)
    stuck_after = timedelta(seconds=settings.stuck_after_seconds)
    is_summed = is_done or collected.fault is not None or _is_summary_due(observed, collected, settings, now, written)
    found = _summary(observed, plan, collected) if is_summed else None
    ending = standing.ending(observed, collected, found, blocked, stuck_after, now)
    if ending is not None and found is None:
        found = _summary(observed, plan, collected)
    where = Standing(observed, collected, found, blocked, ending if observed.unkept is None else None)
    if where.ending is not None:
        return _brought_to_an_end(where, plan, settings, now)
    return _next_step(where, spec, plan, settings, now, written)


def _collected(observed: Observed, plan: Plan, settings: Settings, now: datetime) -> Collected:
    return collect.collect(observed, plan, now, timedelta(seconds=settings.lost_after_seconds))


def _with_given_up(observed: Observed, plan: Plan, collected: Collected) -> Collected:
    """Turn what was lost in the last stage into failures."""
    stages = collect.stages_so_far(observed)
    if stages < MAX_STAGES:
        return collected
    given_up = {i: collect.give_up(plan, plan.sweeps[i], tried, stages) for i, tried in collected.lost.items()}
    return replace(collected, final={**collected.final, **given_up}, lost={})


def _summary(observed: Observed, plan: Plan, collected: Collected) -> Summary | None:
    return None if observed.wanted is None else summaries.summarize(observed.wanted, plan, collected.final.values())


def _is_summary_due(
    observed: Observed, collected: Collected, settings: Settings, now: datetime, written: Written
) -> bool:
    """Tell whether there is news to sum up, and the status that carries it may be written now."""
    told = (observed.benchmark.status.get("summary") or {}).get("sweeps", {}).get("finished", 0)
    if len(collected.final) == told:
        return False
    return _is_due(written.status, settings.counters_interval(observed.running), now) and _is_due(
        written.summary, timedelta(seconds=settings.summary_interval_seconds), now
    )


def _is_due(before: datetime | None, interval: timedelta, now: datetime) -> bool:
    return before is None or observing.has_passed(before, interval, now)


def _next_step(
    where: Standing, spec: BenchmarkSpec, plan: Plan, settings: Settings, now: datetime, written: Written
) -> Decision:
    observed, collected = where.observed, where.collected
    if collected is None:
        return Decision()
    job = _next_job(observed, spec, plan, collected, settings)
    shard = _due_shard(observed, plan, collected, settings, now)
    content = status.document(where, (*observed.shards, *([shard.shard] if shard else [])), now)
    interval = settings.counters_interval(observed.running)
    wait = _until_status_is_due(observed.benchmark.status, content, interval, now, written)
    is_due = wait == timedelta(0)
    waits = [
        None if is_due else wait,
        None if collected.waits_until is None else collected.waits_until - now,
        standing.next_look(observed, now),
        _until_shard_is_due(observed, collected, settings, now),
    ]
    return Decision(
        plan_map=_plan_map(observed, plan) if job is not None else None,
        job=job,
        shard=shard,
        status=content if is_due else None,
        obstacle=where.obstacle.reason if is_due and where.obstacle is not None else None,
        events=tuple(_transitions(where, written, now)) if is_due else (),
        job_patches=tuple(_corrections(observed, spec)),
        summary=where.summary,
        again_after=min((each for each in waits if each is not None), default=None),
    )


def _next_job(
    observed: Observed, spec: BenchmarkSpec, plan: Plan, collected: Collected, settings: Settings
) -> Manifest | None:
    """Return the stage that comes next, if it is time for it: stages never run side by side."""
    stage = collect.stages_so_far(observed)
    if standing.open_job(observed) is not None or standing.is_held(observed) or standing.is_emptying(observed):
        return None
    if collected.waits_until is not None or observed.unkept is not None:
        return None
    if stage == 0:
        return jobs.job(observed.benchmark, spec, plan, 0, None, settings) if plan.sweeps else None
    if not collected.lost:
        return None
    return jobs.job(observed.benchmark, spec, plan, stage, tuple(sorted(collected.lost)), settings)


def _plan_map(observed: Observed, plan: Plan) -> Manifest | None:
    name = jobs.plan_map_name(observed.benchmark, plan)
    return None if name is None else jobs.config_map(observed.benchmark, name, {packing.PLAN: plan.dump()})


def _corrections(observed: Observed, spec: BenchmarkSpec) -> Iterator[JobPatch]:
    """Bring the Job that runs in step with what may be changed while it runs."""
    job = standing.open_job(observed)
    if job is None:
        return
    wanted: dict[str, Any] = {}
    if job.parallelism != (parallelism := min(spec.parallelism, job.completions)):
        wanted["parallelism"] = parallelism
    if not job.is_queued and job.is_suspended != spec.suspend:
        wanted["suspend"] = spec.suspend
    if wanted:
        yield JobPatch(job.name, wanted)


def _transitions(where: Standing, written: Written, now: datetime) -> Iterator[Manifest]:
    """Say what has changed since the last status: what was planned, what stands in the way, what is tried again."""
    observed = where.observed
    before, benchmark = observed.benchmark.status, observed.benchmark
    if not before.get("conditions") and where.plan is not None:
        cells, sweeps = len(where.plan.measurable_cells), len(where.plan.sweeps)
        planned = f"{cells} cells in {sweeps} sweeps, plan {where.plan.short_hash}."
        yield events.event(benchmark, EventType.NORMAL, "Planned", planned, now)
    obstacle, known = where.obstacle, {observing.condition(before, "Running").get("reason"), *written.obstacles}
    if obstacle is not None and obstacle.reason not in known:
        yield events.of_obstacle(benchmark, obstacle.reason, obstacle.message, now)
    named = {stage["job"] for stage in before.get("stages") or ()}
    for job in observed.jobs:
        if job.stage > 0 and job.name not in named:
            lost = f"{len(job.all_sweeps)} sweeps gave no result and are run once more by Job {job.name}."
            yield events.event(benchmark, EventType.WARNING, "SweepsLost", lost, now)


# ---- what is written, and when -------------------------------------------------------------------


def _until_status_is_due(
    before: Json, after: Json, interval: timedelta, now: datetime, written: Written
) -> timedelta | None:
    """Tell how long the status may wait: headlines go at once, counters every few seconds; None: nothing is new.

    An obstacle that was told before waits as counters do, and so does its end: where several benchmarks share a GPU,
    each pod may wait for it.
    """
    if before == after:
        return None
    if _headlines(before, written.obstacles) != _headlines(after, written.obstacles) or written.status is None:
        return timedelta(0)
    if _headlines(before) == _headlines(after) and all(before.get(each) == after.get(each) for each in COUNTERS):
        return None  # only a message is new; it goes with the next counter
    is_due = observing.has_passed(written.status, interval, now)
    return timedelta(0) if is_due else written.status + interval - now


COUNTERS = ("sweeps", "summary")

UNHURRIED = "HardwareUniform"
"""Told with the first result, whose counters follow within seconds anyway: no headline of its own."""

OF_PROGRESS = frozenset({"Running", "Succeeded", "Finished"})
"""The conditions that name what stands in the way while a benchmark goes on."""


def _headlines(content: Json, familiar: frozenset[str] = frozenset()) -> tuple[Any, ...]:
    """Return what is told at once. Between going on and a familiar obstacle there is no difference."""
    conditions = [each for each in content.get("conditions") or () if each["type"] != UNHURRIED]
    dull = {"SweepsRunning", *familiar}
    told = [
        (each["type"],)
        if each["type"] in OF_PROGRESS and each["reason"] in dull
        else (each["type"], each["status"], each["reason"])
        for each in conditions
    ]
    stages = [stage["job"] for stage in content.get("stages") or ()]
    shards = [shard["configMap"] for shard in content.get("shards") or ()]  # one that is not named is not found again
    return told, stages, content.get("plan"), content.get("observedGeneration"), shards


def _unsafe(observed: Observed, collected: Collected) -> Sequence[SweepResult]:
    """Return the results that are final and in no shard yet, in the plan's order."""
    safe = {result.sweep for shard in observed.shards for result in shard.results}
    return [result for index, result in sorted(collected.final.items()) if index not in safe]


def _due_shard(
    observed: Observed, plan: Plan, collected: Collected, settings: Settings, now: datetime
) -> NewShard | None:
    """Return a shard when there is enough for one, or when the oldest result has waited long enough."""
    if observed.unkept is not None:
        return None
    unsafe = _unsafe(observed, collected)
    wait = _until_shard_is_due(observed, collected, settings, now)
    is_due = len(unsafe) >= packing.MAX_RESULTS or (wait is not None and wait <= timedelta(0))
    return _new_shard(observed, plan, unsafe) if is_due else None


def _until_shard_is_due(
    observed: Observed, collected: Collected, settings: Settings, now: datetime
) -> timedelta | None:
    unsafe = _unsafe(observed, collected)
    if not unsafe or observed.unkept is not None or len(observed.shards) >= MAX_EARLY_SHARDS:
        return None
    started = min((job.created for job in observed.jobs), default=now)
    patience = max(timedelta(seconds=settings.shard_after_seconds), (now - started) / SHARD_SHARE)
    waiting = {result.sweep for result in unsafe}
    ends = [each.pod.finished for each in observed.attempts if each.sweep in waiting and each.pod.finished is not None]
    return max(timedelta(0), min(ends, default=now) + patience - now)


def _new_shard(observed: Observed, plan: Plan, unsafe: Sequence[SweepResult]) -> NewShard:
    """Return the next shard; the plan lies in the first one, and in another if that was deleted."""
    taken = {shard.name for shard in observed.shards} | observed.taken_names
    names = (jobs.shard_name(observed.benchmark, plan, number) for number in count())
    name = next(name for name in names if name not in taken)
    results = tuple(unsafe[: packing.MAX_RESULTS])
    has_plan = any(shard.has_plan for shard in observed.shards)
    return NewShard(name, packing.pack(results, None if has_plan else plan), results)


# ---- a benchmark that ends, or has ended ---------------------------------------------------------


def _brought_to_an_end(where: Standing, plan: Plan, settings: Settings, now: datetime) -> Decision:
    """Make the results safe, say how it ended, and let its Jobs go."""
    observed, collected, ending = where.observed, where.collected, where.ending
    if collected is None or ending is None:
        return Decision()
    unsafe = _unsafe(observed, collected)
    shard = _new_shard(observed, plan, unsafe) if unsafe else None
    if len(unsafe) > packing.MAX_RESULTS:
        return Decision(shard=shard, again_after=timedelta(0))
    shards = (*observed.shards, *([shard.shard] if shard is not None else []))
    return Decision(
        shard=shard,
        status=status.document(where, shards, now),
        events=(_last_word(observed, ending, now),),
        job_patches=tuple(_farewells(observed.jobs, settings)),
        summary=where.summary,
        again_after=_until_deletion(observed, now),
    )


def _tidied(observed: Observed, settings: Settings, now: datetime) -> Decision:
    """Do what an operator that died may have left undone, and delete the benchmark when its time has come."""
    farewells = tuple(_farewells(observed.jobs, settings))
    said = observing.condition(observed.benchmark.status, "Succeeded")
    ending = Ending(said.get("status") == "True", said.get("reason", ""), said.get("message", ""))
    wait = _until_deletion(observed, now)
    is_over = wait is not None and wait <= timedelta(0)
    return Decision(
        conditions=_with_missing_shards(observed, now),
        events=(_last_word(observed, ending, now),) if farewells else (),
        job_patches=farewells,
        is_to_be_deleted=is_over,
        again_after=None if is_over else wait,
    )


def _last_word(observed: Observed, ending: Ending, now: datetime) -> Manifest:
    kind, reason = (EventType.NORMAL, "Succeeded") if ending.has_succeeded else (EventType.WARNING, "Failed")
    return events.event(observed.benchmark, kind, reason, f"{ending.reason}: {ending.message}", now)


def _farewells(stages: Sequence[SeenJob], settings: Settings) -> Iterator[JobPatch]:
    """Let the cluster collect Jobs and pods; a Job that still waits is stopped first."""
    for job in stages:
        if job.ttl_seconds is None and not job.is_gone:
            wanted: dict[str, Any] = {"ttlSecondsAfterFinished": settings.job_ttl_seconds}
            yield JobPatch(job.name, wanted if job.end is not None else {**wanted, "suspend": True})


def _until_deletion(observed: Observed, now: datetime) -> timedelta | None:
    ttl_seconds, completed = observed.benchmark.ttl_seconds, observed.benchmark.status.get("completionTime")
    if ttl_seconds is None:
        return None
    ended = observing.time(completed) if completed else now
    return ended + timedelta(seconds=ttl_seconds) - now


def _with_missing_shards(observed: Observed, now: datetime) -> list[dict[str, Any]] | None:
    """Say that rows are gone, once; everything else stays as it was."""
    if not observed.missing_shards:
        return None
    message = f"{', '.join(observed.missing_shards[:4])} no longer exist. The summary stays; run it again for the rows."
    missing = Condition("ResultsComplete", conditions.FALSE, "ShardMissing", message)
    return conditions.with_one(observed.benchmark.status, missing, now)
