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

from inferbench_contract import document, shards, summary
from inferbench_contract import plan as plans
from inferbench_contract.errors import InferbenchError, PlanError, ResultError, SpecError
from inferbench_contract.plan import Plan
from inferbench_contract.spec import InferenceBenchmark
from inferbench_operator import collect, jobs, logs, paths, standing
from inferbench_operator import observed as observing
from inferbench_operator.api_errors import ApiError
from inferbench_operator.apply import Hands
from inferbench_operator.cache import Cache
from inferbench_operator.kube import Api
from inferbench_operator.metrics import Metrics
from inferbench_operator.observed import Attempt, Key, Observed, Refusal, SeenBenchmark, SeenJob, Shard, Trouble
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
    taken_names: frozenset[str] = frozenset()
    refusal: Refusal | None = None
    pod_refusals: dict[str, Trouble] = field(default_factory=dict)
    asked: datetime | None = None
    asked_about: set[str] = field(default_factory=set)
    """Pods whose deletion was looked into."""
    written: Written = field(default_factory=Written)
    is_published: bool = False


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
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        """Take what it works with."""
        self._api, self._hands = api, Hands(api)
        self._cache, self._queue = cache, queue
        self._settings, self._metrics, self._page = settings, metrics, page
        self._clock = clock
        self._memories: dict[Key, Memory] = {}

    async def work(self) -> None:
        """Look at one benchmark after the other until the queue is closed."""
        while True:
            try:
                key = await self._queue.get()
            except QueueClosed:
                return
            await self._look(key)

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
        if decision.job is None:
            memory.refusal = None  # nothing is asked for, so nothing is tried again
        else:
            observed = await self._begun(observed, memory, decision)
            decision = replace(decide(observed, self._settings, self._clock(), memory.written), job=None)
        await self._carry_out(observed, memory, decision)
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
        self._memories.pop(key, None)
        self._page.drop(key.namespace, key.name)

    async def _observed(self, seen: SeenBenchmark, memory: Memory) -> Observed:
        self._read(seen, memory)
        stages = self._cache.jobs(seen)
        if seen.is_finished and memory.is_published:
            return Observed(seen, memory.wanted, memory.mistakes, jobs=stages, missing_shards=memory.missing_shards)
        await self._recall(seen, stages, memory)
        pods = self._cache.pods(seen)
        observed = Observed(
            benchmark=seen,
            wanted=memory.wanted,
            mistakes=memory.mistakes,
            plan=memory.plan,
            jobs=stages,
            pods=tuple(pod for pod in pods if not pod.has_ended),
            attempts=tuple(self._attempts(stages, memory, seen)),
            shards=tuple((memory.shards or {}).values()),
            refusal=memory.refusal,
            pod_refusals=memory.pod_refusals,
            missing_shards=memory.missing_shards,
            taken_names=memory.taken_names,
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
        """Find the plan and the shards, where they are not known yet: the plan that runs is the one in the Job."""
        if memory.plan is None and memory.wanted is not None:
            memory.plan = await self._plan_in(seen, stages) or await self._plan_in_shard(seen)
        if memory.plan is None and memory.wanted is not None:
            memory.plan = plans.expand(memory.wanted)
        if memory.shards is None and memory.plan is not None:
            await self._recall_shards(seen, memory, memory.plan)

    async def _plan_in(self, seen: SeenBenchmark, stages: Iterable[SeenJob]) -> Plan | None:
        for job in stages:
            text = job.plan
            if text is None and (name := _plan_map_of(job)):
                text = ((await self._config_map(seen.key, name)) or {}).get(shards.PLAN)
            if text is not None:
                return _loaded(text, f"the plan of Job {job.name}")
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

    async def _config_map(self, key: Key, name: str) -> dict[str, str] | None:
        try:
            data: dict[str, str] = (await self._api.get(paths.config_maps(key.namespace, name))).get("data") or {}
        except ApiError as error:
            if error.is_not_found:
                return None
            raise
        return data

    def _attempts(self, stages: Iterable[SeenJob], memory: Memory, seen: SeenBenchmark) -> Iterable[Attempt]:
        """Read the messages of pods that ended, each once."""
        if memory.plan is None:
            return
        by_uid = {job.uid: job for job in stages}
        for pod in self._cache.pods(seen):
            job = by_uid[pod.job_uid]
            if not pod.has_ended or pod.place >= len(job.all_sweeps) or job.sweep(pod.place) >= len(memory.plan.sweeps):
                continue
            known = memory.attempts.get(pod.uid)
            if known is None or known.pod.message != pod.message or known.pod.exit_code != pod.exit_code:
                known = memory.attempts[pod.uid] = collect.attempt(pod, job.sweep(pod.place), memory.plan)
                if known.problem:
                    log.warning("the message of pod %s is not used: %s", pod.name, known.problem)
                    self._metrics.count_rejected(known.problem.partition(":")[0])
            yield known

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
            seen = await self._hands.write_status(seen, decision.status)
            self._remember_written(memory, decision)
            self._cache.keep(seen)
        if decision.conditions is not None:
            self._cache.keep(await self._hands.write_conditions(seen, decision.conditions))
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

    async def _keep_shard(self, seen: SeenBenchmark, memory: Memory, new: NewShard) -> bool:
        """Make a shard; False where its name holds something else: results, which then count, or nothing of ours."""
        data = await self._hands.keep_shard(seen, jobs.config_map(seen, new.name, new.data))
        kept = None
        if data is not None:
            kept = new.shard if data == new.data or memory.plan is None else _shard(new.name, data, memory.plan)
        if kept is None:
            log.warning("ConfigMap %s is not of this benchmark; its results get another name", new.name)
            memory.taken_names |= {new.name}
            return False
        memory.shards = {**(memory.shards or {}), kept.name: kept}
        return kept.sha256 == new.shard.sha256

    def _remember_written(self, memory: Memory, decision: Decision) -> None:
        now = self._clock()
        memory.written = Written(now, now if decision.summary is not None else memory.written.summary)

    def _publish(self, memory: Memory, seen: SeenBenchmark, decision: Decision) -> None:
        """Show a finished benchmark on /results, once; afterwards little of it is remembered."""
        if not seen.is_finished or memory.is_published:
            return
        found = decision.summary
        if found is None and memory.plan is not None and memory.wanted is not None:
            results = [result for shard in (memory.shards or {}).values() for result in shard.results]
            found = summary.summarize(memory.wanted, memory.plan, results)
        if memory.wanted is not None and found is not None:
            self._page.put(seen.key.namespace, seen.key.name, self._published(memory.wanted, found, seen))
        memory.is_published = True
        memory.plan, memory.shards = None, None
        memory.attempts.clear()
        if memory.wanted is not None and memory.wanted.spec.ttl_seconds_after_finished is None:
            memory.wanted = None  # nothing is left to be decided by it

    def _published(self, wanted: InferenceBenchmark, found: summary.Summary, seen: SeenBenchmark) -> Published:
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
        return Shard(name, shards.checksum(data), shards.unpack(data, plan))
    except ResultError as error:
        log.warning("ConfigMap %s: %s", name, error)
        return None
