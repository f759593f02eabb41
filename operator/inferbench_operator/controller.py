"""Looks at one benchmark at a time: observe, decide, carry out. What it remembers can be found out again.

Between two looks it keeps what is costly to read twice: the parsed resource, the plan, decoded messages, shards. After
a restart all of that comes from the cluster, and nothing that was decided is decided otherwise.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from inferbench_contract import document, shards, summary
from inferbench_contract import plan as plans
from inferbench_contract.errors import InferbenchError, PlanError, ResultError, SpecError
from inferbench_contract.plan import Plan
from inferbench_contract.spec import InferenceBenchmark
from inferbench_contract.summary import Summary
from inferbench_operator import collect, conditions, jobs, logs, paths, standing
from inferbench_operator import observed as observing
from inferbench_operator.api_errors import ApiError
from inferbench_operator.apply import Hands, UnkeptError
from inferbench_operator.cache import Cache
from inferbench_operator.conditions import Condition
from inferbench_operator.kube import Api
from inferbench_operator.metrics import Metrics
from inferbench_operator.observed import (
    Attempt,
    Key,
    Observed,
    Refusal,
    SeenBenchmark,
    SeenJob,
    SeenPod,
    Shard,
    Trouble,
)
from inferbench_operator.reconcile import Decision, NewShard, Written, decide
from inferbench_operator.results_page import Published, ResultsPage
from inferbench_operator.settings import Settings
from inferbench_operator.workqueue import Queue, QueueClosed

log = logging.getLogger(__name__)

ASK_AGAIN = timedelta(seconds=30)
"""How often the events of a Job without pods are read."""


class BlockedError(InferbenchError):
    """Something could not be made for a reason that its status tells; it is tried again later."""


@dataclass
class Memory:
    """What is remembered of one benchmark between two looks."""

    uid: str
    content: str = ""
    wanted: InferenceBenchmark | None = None
    mistakes: tuple[str, ...] = ()
    plan: Plan | None = None
    attempts: dict[str, Attempt] = field(default_factory=dict)
    shards: dict[str, Shard] | None = None
    missing_shards: tuple[str, ...] = ()
    recalled: datetime | None = None
    """When the shards were last read."""
    taken_names: frozenset[str] = frozenset()
    refusal: Refusal | None = None
    pod_refusals: dict[str, Trouble] = field(default_factory=dict)
    asked: datetime | None = None
    listed_jobs: frozenset[str] = frozenset()
    asked_about: set[str] = field(default_factory=set)
    """Pods whose deletion was looked into."""
    written: Written = field(default_factory=Written)
    is_published: bool = False


WallClock = Callable[[], datetime]


def utc_now() -> datetime:
    """Return the wall clock."""
    return datetime.now(UTC)


class Controller:
    """Brings every benchmark of the cache forward, whenever the queue names it."""

    def __init__(
        self,
        api: Api,
        cache: Cache,
        queue: Queue[Key],
        settings: Settings,
        metrics: Metrics,
        page: ResultsPage,
        clock: WallClock = utc_now,
    ) -> None:
        """Take what it works with."""
        self._api, self._hands = api, Hands(api)
        self._cache, self._queue = cache, queue
        self._settings, self._metrics, self._page = settings, metrics, page
        self._clock = clock
        self._memories: dict[Key, Memory] = {}

    async def work(self, looked: Callable[[Key], None]) -> None:
        """Look at one benchmark after the other until the queue is closed.

        `looked` is told of every look once it is over, whatever came of it.
        """
        while True:
            try:
                key = await self._queue.get()
            except QueueClosed:
                return
            await self._look(key)
            looked(key)

    async def _look(self, key: Key) -> None:
        """Look at a benchmark; whatever goes wrong is tried again, later and later."""
        seen = self._cache.benchmarks.get(key)
        with logs.about(key.namespace, key.name, seen.uid if seen is not None else ""):
            try:
                with self._metrics.reconciling():
                    await self.reconcile(key)
            except BlockedError:
                self._queue.failed(key)
            except ApiError as error:
                self._metrics.count_error(error.reason)
                log.warning("%s. It is tried again in %.1f s.", error, self._queue.failed(key))
            except Exception as error:
                self._metrics.count_error(type(error).__name__)
                log.exception("An error of the operator itself. It is tried again in %.1f s.", self._queue.failed(key))
            else:
                self._queue.done(key)

    async def reconcile(self, key: Key) -> None:
        """Observe, decide, carry out. Raises ApiError and BlockedError, after which it has to be called again."""
        seen = self._cache.benchmarks.get(key)
        if seen is None:
            self._forget(key)
            return
        memory = self._memory(seen)
        observed = await self._observed(seen, memory)
        decision = decide(observed, self._settings, self._clock(), memory.written)
        if decision.unheard:
            observed = await self._heard(seen, memory, decision.unheard)
            decision = decide(observed, self._settings, self._clock(), memory.written)
        if decision.job is None:
            memory.refusal = None  # nothing is asked for, so nothing is tried again
        else:
            observed = await self._begun(observed, memory, decision)
            decision = replace(decide(observed, self._settings, self._clock(), memory.written), job=None)
        try:
            await self._carry_out(observed, memory, decision)
        except UnkeptError as error:
            observed = replace(observed, unkept=error.trouble)
            await self._carry_out(observed, memory, decide(observed, self._settings, self._clock(), memory.written))
            raise BlockedError(error.trouble.message) from error
        if memory.refusal is not None and not memory.refusal.is_final:
            raise BlockedError(memory.refusal.message)

    # ---- observing -------------------------------------------------------------------------------

    def _memory(self, seen: SeenBenchmark) -> Memory:
        memory = self._memories.get(seen.key)
        if memory is None or memory.uid != seen.uid:
            self._forget(seen.key)  # what one of the same name has measured is not this one's
            memory = self._memories[seen.key] = Memory(seen.uid)
        return memory

    def _forget(self, key: Key) -> None:
        """Forget a benchmark; those whose cells have room on /results now are read and shown again."""
        self._memories.pop(key, None)
        for fits in self._page.drop(key.namespace, key.name):
            self._memories.pop(Key(*fits), None)
            self._queue.add(Key(*fits))

    async def _observed(self, seen: SeenBenchmark, memory: Memory) -> Observed:
        self._read(seen, memory)
        stages = self._cache.jobs(seen)
        if seen.is_finished and memory.is_published:
            return Observed(seen, memory.wanted, memory.mistakes, jobs=stages, missing_shards=memory.missing_shards)
        await self._recall(seen, stages, memory)
        if (plan := memory.plan) is not None:
            stages = tuple(job for job in stages if jobs.is_stage(job, seen, plan))
        of_stages = {job.uid for job in stages}
        pods = tuple(pod for pod in self._cache.pods(seen) if pod.job_uid in of_stages)
        observed = Observed(
            benchmark=seen,
            wanted=memory.wanted,
            mistakes=memory.mistakes,
            plan=memory.plan,
            jobs=stages,
            pods=tuple(pod for pod in pods if not pod.has_ended),
            attempts=tuple(self._attempts(stages, pods, memory)),
            shards=tuple((memory.shards or {}).values()),
            refusal=memory.refusal,
            pod_refusals=memory.pod_refusals,
            missing_shards=memory.missing_shards,
            taken_names=memory.taken_names,
            listed_jobs=memory.listed_jobs,
            running=self._cache.running,
        )
        await self._ask_why(observed, memory)
        is_leaving = await self._is_namespace_leaving(observed, memory)
        return replace(observed, pod_refusals=dict(memory.pod_refusals), is_namespace_leaving=is_leaving)

    def _read(self, seen: SeenBenchmark, memory: Memory) -> None:
        """Read the resource, if it is another than before."""
        if memory.content == seen.content:
            return
        memory.content, memory.mistakes, memory.wanted = seen.content, (), None
        is_allowed = self._settings.allow_privileged_pod_templates
        try:
            memory.wanted = document.from_object(
                json.loads(seen.content), seen.key.name, allow_privileged_pod_templates=is_allowed
            )
        except SpecError as error:
            memory.mistakes = error.mistakes

    async def _recall(self, seen: SeenBenchmark, stages: Iterable[SeenJob], memory: Memory) -> None:
        """Find the plan and the shards, where they are not known yet: the plan that runs is the one in the Job.

        While it runs its shards are read again as often as everything is listed: what somebody deleted is put back from
        the pods that still have it.
        """
        if memory.plan is None and memory.wanted is not None:
            memory.plan = await self._plan_in(seen, stages) or await self._plan_in_shard(seen)
        if memory.plan is None and memory.wanted is not None:
            memory.plan = plans.expand(memory.wanted)
        if memory.plan is not None and (memory.shards is None or self._is_recall_due(memory)):
            await self._recall_shards(seen, memory, memory.plan)

    async def _plan_in(self, seen: SeenBenchmark, stages: Iterable[SeenJob]) -> Plan | None:
        told = (seen.status.get("plan") or {}).get("hash")
        for job in stages:
            text = job.plan
            if text is None and (name := _plan_map_of(job)):
                text = ((await self._config_map(seen.key, name)) or {}).get(shards.PLAN)
            plan = None if text is None else _loaded(text, f"the plan of Job {job.name}")
            if plan is not None and told in {None, plan.short_hash} and jobs.is_stage(job, seen, plan):
                return plan
        return None

    async def _plan_in_shard(self, seen: SeenBenchmark) -> Plan | None:
        for named in seen.status.get("shards") or ():  # it is in the first that was made
            data = await self._config_map(seen.key, named["configMap"])
            if data and shards.PLAN in data:
                return _loaded(data[shards.PLAN], named["configMap"])
        return None

    async def _recall_shards(self, seen: SeenBenchmark, memory: Memory, plan: Plan) -> None:
        found: dict[str, Shard] = {}
        missing = []
        for named in seen.status.get("shards") or ():
            data = await self._config_map(seen.key, named["configMap"])
            shard = None if data is None else _shard(named["configMap"], data, plan)
            if shard is None or shard.sha256 != named["sha256"]:
                missing.append(named["configMap"])
            else:
                found[shard.name] = shard
        memory.shards, memory.missing_shards = found, tuple(missing)
        memory.recalled = self._clock()

    def _is_recall_due(self, memory: Memory) -> bool:
        interval = timedelta(seconds=self._settings.resync_seconds)
        return memory.recalled is None or observing.has_passed(memory.recalled, interval, self._clock())

    async def _config_map(self, key: Key, name: str) -> dict[str, str] | None:
        try:
            data: dict[str, str] = (await self._api.get(paths.config_maps(key.namespace, name))).get("data") or {}
        except ApiError as error:
            if error.is_not_found:
                return None
            raise
        return data

    def _attempts(self, stages: Iterable[SeenJob], pods: Iterable[SeenPod], memory: Memory) -> Iterable[Attempt]:
        """Read the messages of pods that ended, each once."""
        if memory.plan is None:
            return
        by_uid = {job.uid: job for job in stages}
        for pod in pods:
            job = by_uid[pod.job_uid]
            if not pod.has_ended or pod.place >= len(job.all_sweeps) or job.sweep(pod.place) >= len(memory.plan.sweeps):
                continue
            known = memory.attempts.get(pod.uid)
            if known is None or known.pod.message != pod.message or known.pod.exit_code != pod.exit_code:
                known = memory.attempts[pod.uid] = collect.attempt(pod, job.sweep(pod.place), memory.plan)
                if known.problem:
                    log.warning("the message of pod %s is not used: %s", pod.name, known.problem)
                    self._metrics.count_rejected(known.reason)
            yield known

    async def _heard(self, seen: SeenBenchmark, memory: Memory, stages: Iterable[SeenJob]) -> Observed:
        """List the pods of Jobs that owe results, for what their watch has not told yet; return what is observed then.

        The list is of now, not from the server's memory, and their Jobs have ended: what is not in it is lost.
        """
        for job in stages:
            for raw in await self._hands.pods_of(seen.key, job):
                self._cache.heard_pod(None, raw)
            memory.listed_jobs |= {job.uid}
        return await self._observed(seen, memory)

    async def _ask_why(self, observed: Observed, memory: Memory) -> None:
        """Read why a Job has no pods, now and then while it has none."""
        now, job = self._clock(), standing.open_job(observed)
        if observed.benchmark.is_finished or job is None or not standing.is_unexplained(observed, now):
            memory.pod_refusals.clear()
            return
        if memory.asked is None or now - memory.asked >= ASK_AGAIN:
            memory.asked = now
            if (found := await self._hands.why_no_pods(observed.benchmark.key, job)) is not None:
                memory.pod_refusals[job.name] = found

    async def _is_namespace_leaving(self, observed: Observed, memory: Memory) -> bool:
        """Read whether the namespace is being deleted, once for each pod that is."""
        job = standing.open_job(observed)
        pods = (*observed.pods, *(each.pod for each in observed.attempts))
        leaving = {pod.uid for pod in pods if pod.is_deleting}
        if job is None or job.is_suspended or observed.benchmark.is_finished or leaving <= memory.asked_about:
            return False
        if await self._hands.is_leaving(observed.benchmark.key.namespace):
            log.info("The namespace is being deleted, so Job %s is ended.", job.name)
            return True
        memory.asked_about |= leaving
        return False

    # ---- carrying out ----------------------------------------------------------------------------

    async def _begun(self, observed: Observed, memory: Memory, decision: Decision) -> Observed:
        """Begin a stage; return what is observed then."""
        if decision.job is None:
            return observed
        made = await self._hands.begin_stage(observed.benchmark, decision.job, decision.plan_map)
        if isinstance(made, Refusal):
            memory.refusal = made
            return replace(observed, refusal=made)
        memory.refusal = None
        log.info("Job %s: %d sweeps", made.name, made.completions)
        self._cache.keep_job(observed.benchmark.key, made)
        return replace(observed, refusal=None, jobs=(*(job for job in observed.jobs if job.uid != made.uid), made))

    async def _carry_out(self, observed: Observed, memory: Memory, decision: Decision) -> None:
        """Write what was decided, in the order that loses nothing when it ends in the middle."""
        seen = observed.benchmark
        if decision.shard is not None and not await self._keep_shard(seen, memory, decision.shard):
            self._queue.add(seen.key)
            return
        if decision.status is not None:
            seen = await self._written(seen, decision.status)
            memory.written = memory.written.after(decision, self._clock())
            self._cache.keep(seen)
        if decision.conditions is not None:
            seen = await self._hands.write_conditions(seen, decision.conditions)
            self._cache.keep(seen)
        for event in decision.events:
            await self._hands.post(event)
        for patch in decision.job_patches:
            if (job := await self._hands.patch_job(seen.key, patch)) is not None:
                self._cache.keep_job(seen.key, job)
        if decision.is_to_be_deleted:
            await self._hands.delete(seen)
        self._publish(memory, seen, decision)
        if decision.again_after is not None:
            self._queue.add_after(seen.key, decision.again_after.total_seconds())

    async def _written(self, seen: SeenBenchmark, status: dict[str, Any]) -> SeenBenchmark:
        """Write a status. One that the server refuses for good is told in the one that it has, before it is raised."""
        try:
            return await self._hands.write_status(seen, status)
        except ApiError as error:
            message = f"{error.message}. What is measured is kept. Install the resource of this operator's version."
            refused = Condition("Running", conditions.FALSE, "StatusRefused", message)
            told = conditions.with_one(seen.status, refused, self._clock()) if error.is_lasting else None
            if told is not None:
                self._cache.keep(await self._hands.write_conditions(seen, told))
            raise

    async def _keep_shard(self, seen: SeenBenchmark, memory: Memory, new: NewShard) -> bool:
        """Make a shard; False where its name holds anything else: whoever may make ConfigMaps could have made it."""
        data = await self._hands.keep_shard(seen, jobs.config_map(seen, new.name, new.data))
        if data != new.data:
            log.warning("ConfigMap %s holds something else; the results get another name.", new.name)
            memory.taken_names |= {new.name}
            return False
        memory.shards = {**(memory.shards or {}), new.name: new.shard}
        return True

    def _publish(self, memory: Memory, seen: SeenBenchmark, decision: Decision) -> None:
        """Show a finished benchmark on /results, once; afterwards little of it is remembered."""
        if not seen.is_finished or memory.is_published:
            return
        if memory.wanted is not None:
            found = decision.summary or _recalled(memory.wanted, memory)
            self._page.put(seen.key.namespace, seen.key.name, self._published(memory.wanted, found, seen))
        memory.is_published = True
        memory.plan, memory.shards = None, None
        memory.attempts.clear()
        memory.wanted = None  # nothing is left to be decided by it

    def _published(self, wanted: InferenceBenchmark, found: Summary | None, seen: SeenBenchmark) -> Published:
        status = seen.status
        completed = observing.time_or_none(status.get("completionTime"))
        has_succeeded = observing.condition_status(status, "Succeeded") == "True"
        return Published(
            spec=wanted.spec,
            summary=found,
            image=wanted.spec.image or self._settings.runner_image,
            conditions={each["type"]: each["status"] for each in status.get("conditions") or ()},
            started=observing.time_or_none(status.get("startTime")),
            completed=completed,
            succeeded=completed if has_succeeded else None,
        )


def _recalled(wanted: InferenceBenchmark, memory: Memory) -> Summary | None:
    """Summarise what the shards hold; None where one is missing: what is left could name another winner."""
    if memory.plan is None or memory.missing_shards:
        return None
    results = (result for shard in (memory.shards or {}).values() for result in shard.results)
    return summary.summarize(wanted, memory.plan, results)


def _plan_map_of(job: SeenJob) -> str | None:
    return None if job.plan is not None else f"{job.name.rpartition('-')[0]}-plan"


def _loaded(text: str, source: str) -> Plan | None:
    try:
        return plans.load(text, source, "It is passed over.")
    except PlanError as error:
        log.warning("%s", error)
        return None


def _shard(name: str, data: dict[str, str] | shards.Data, plan: Plan) -> Shard | None:
    """Read a shard; None where it was tampered with."""
    try:
        return Shard(name, shards.checksum(data), shards.unpack(data, plan), shards.PLAN in data)
    except ResultError as error:
        log.warning("ConfigMap %s: %s", name, error)
        return None
