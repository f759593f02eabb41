"""Builders of what a cluster shows, and a small world that plays Jobs and pods by scripted fates.

The world is for the pure rule alone: it has no API server. Tests of the operator itself use a real one (tests/cluster).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any

from inferbench_contract import plan as plans
from inferbench_contract import result as results
from inferbench_contract import shards as packing
from inferbench_contract.plan import Plan, Sweep
from inferbench_contract.result import CellResult, SweepResult
from inferbench_contract.spec import InferenceBenchmark
from inferbench_operator import collect, jobs
from inferbench_operator.observed import (
    Attempt,
    JobEnd,
    Key,
    Observed,
    Refusal,
    SeenBenchmark,
    SeenJob,
    SeenPod,
    Shard,
    Trouble,
)
from inferbench_operator.reconcile import Decision, Written, decide
from inferbench_operator.settings import Settings
from tests.builders import a_benchmark
from tests.results import measured

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
UID = "11111111-2222-3333-4444-555555555555"
SETTINGS = Settings(runner_image="inferbench-runner:test")
UNSCHEDULABLE = Trouble("Unschedulable", "0/1 nodes are available: 1 Insufficient nvidia.com/gpu.")


def wanted(**spec: Any) -> InferenceBenchmark:
    """Return a benchmark of the fake backend: one cell, two rounds, so two sweeps, unless `spec` says otherwise."""
    small = {"backends": ["fake"], "batch_sizes": [1], "measurement": {"rounds": 2}}
    return a_benchmark(**(small | spec))


def seen(asked: InferenceBenchmark, status: Mapping[str, Any] | None = None, **fields: Any) -> SeenBenchmark:
    """Return a benchmark as the cluster stores it."""
    content = json.dumps(asked.model_dump(mode="json", by_alias=True, exclude_unset=True))
    ttl_seconds = asked.spec.ttl_seconds_after_finished
    told = {"uid": UID, "generation": 1, "is_deleting": False, "ttl_seconds": ttl_seconds, "resource_version": "1"}
    return SeenBenchmark(key=Key("default", asked.name), content=content, status=status or {}, **(told | fields))


def a_job(plan: Plan, stage: int = 0, **fields: Any) -> SeenJob:
    """Return the Job of a stage that runs."""
    told: dict[str, Any] = {
        "name": f"example-{plan.short_hash}-{stage}",
        "uid": f"job-{stage}",
        "owner_uid": UID,
        "stage": stage,
        "created": NOW,
        "plan": plan.dump(),
        "sweeps": None,
        "completions": len(plan.sweeps),
        "parallelism": 1,
        "is_suspended": False,
        "is_queued": False,
        "end": None,
        "end_reason": "",
        "end_message": "",
        "ended": None,
        "failed_places": frozenset(),
        "ttl_seconds": None,
    }
    return SeenJob(**(told | fields))


def a_pod(job: SeenJob, place: int = 0, **fields: Any) -> SeenPod:
    """Return a pod that waits to be scheduled."""
    told: dict[str, Any] = {
        "name": f"{job.name}-{place}-abcde",
        "uid": f"{job.uid}-pod-{place}",
        "job": job.name,
        "job_uid": job.uid,
        "place": place,
        "created": NOW,
        "phase": "Pending",
        "pod_reason": "",
        "exit_code": None,
        "exit_reason": "",
        "message": b"",
        "finished": None,
        "trouble": None,
        "is_deleting": False,
    }
    return SeenPod(**(told | fields))


def a_message(plan: Plan, sweep: Sweep, *, upto: int | None = None, **fields: Any) -> bytes:
    """Return what the runner of a sweep hands over; `upto` cells, and then the next in flight."""
    cells = tuple(measured(size, latency_ms=size * (1 + sweep.round)) for size in sweep.batch_sizes[:upto])
    in_flight = None if upto is None or upto >= len(sweep.batch_sizes) else sweep.batch_sizes[upto]
    told = {"hardware": "a CPU", "fingerprint": "abc", "started_ms": 1, "finished_ms": 1000, "in_flight": in_flight}
    return results.encode(SweepResult(plan.short_hash, sweep.index, cells, **(told | fields)))


def ended(
    pod: SeenPod, message: bytes = b"", exit_code: int | None = 0, exit_reason: str = "", **fields: Any
) -> SeenPod:
    """Return a pod that ended."""
    reason = exit_reason or ("Completed" if exit_code == 0 else "Error")
    told = {"phase": "Succeeded" if exit_code == 0 else "Failed", "finished": NOW, **fields}
    return replace(pod, message=message, exit_code=exit_code, exit_reason=reason, **told)


def attempts(plan: Plan, job: SeenJob, pods: Iterable[SeenPod]) -> tuple[Attempt, ...]:
    """Read the messages of pods that ended."""
    return tuple(collect.attempt(pod, job.sweep(pod.place), plan) for pod in pods if pod.has_ended)


# ---- a small world -------------------------------------------------------------------------------

Fate = str
"""How a pod ends: well, crash, garbage, silent, oom, deadline, stopped, misconfigured, fault."""


@dataclass
class World:
    """One benchmark with its Jobs, pods and shards, an operator's memory, and a clock."""

    asked: InferenceBenchmark
    fate: Callable[[int, int], Fate] = lambda *_: "well"
    """By sweep and attempt."""
    settings: Settings = SETTINGS
    now: datetime = NOW
    status: dict[str, Any] = field(default_factory=dict)
    jobs: dict[str, SeenJob] = field(default_factory=dict)
    pods: dict[str, SeenPod] = field(default_factory=dict)
    config_maps: dict[str, Mapping[str, str]] = field(default_factory=dict)
    shards: dict[str, Shard] = field(default_factory=dict)
    events: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    written: Written = field(default_factory=Written)
    refusal: Refusal | None = None
    pod_refusals: dict[str, Trouble] = field(default_factory=dict)
    writes: int = 0
    tries: dict[int, int] = field(default_factory=dict)
    unread: set[int] = field(default_factory=set)
    """Sweeps of pods that were deleted with their Job while no operator was there to read them."""
    refuses_shards: bool = False
    refuses_jobs: bool = False
    hides_pods: bool = False
    """Whether the watch of pods tells nothing: then only a list does."""
    heard: set[str] = field(default_factory=set)
    """Uids of pods that a list has told of."""
    listed: set[str] = field(default_factory=set)
    """Uids of Jobs whose pods were listed."""
    is_deleted: bool = False
    running: int = 1
    jobs_made: list[str] = field(default_factory=list)

    @cached_property
    def plan(self) -> Plan:
        """The plan that runs; what may be changed in a spec later changes nothing in it."""
        return plans.expand(self.asked)

    @property
    def is_finished(self) -> bool:
        """Whether the operator has said its last word."""
        return self.observed.benchmark.is_finished

    @property
    def observed(self) -> Observed:
        """What an operator sees of it."""
        stages = tuple(sorted(self.jobs.values(), key=lambda job: job.stage))
        by_uid = {job.uid: job for job in stages}
        told = (pod for pod in self.pods.values() if self._is_told(pod))
        pods = sorted(told, key=lambda pod: (pod.created, pod.name))
        return Observed(
            benchmark=seen(self.asked, self.status),
            wanted=self.asked,
            plan=self.plan,
            jobs=stages,
            pods=tuple(pod for pod in pods if not pod.has_ended),
            attempts=tuple(
                collect.attempt(pod, by_uid[pod.job_uid].sweep(pod.place), self.plan) for pod in pods if pod.has_ended
            ),
            shards=tuple(self.shards.values()),
            refusal=self.refusal,
            pod_refusals=self.pod_refusals,
            missing_shards=tuple(
                shard["configMap"]
                for shard in self.status.get("shards", ())
                if shard["configMap"] not in self.config_maps
            ),
            listed_jobs=frozenset(self.listed),
            running=self.running,
        )

    def look(self) -> Decision:
        """Let the operator decide, and carry it out."""
        decision = decide(self.observed, self.settings, self.now, self.written)
        if decision.unheard:
            self._list({job.uid for job in decision.unheard})
            decision = decide(self.observed, self.settings, self.now, self.written)
        if decision.job is None:
            self.refusal = None
        else:
            self._ask_for(decision.job)
            decision = replace(decide(self.observed, self.settings, self.now, self.written), job=None)
        if decision.shard is not None and self.refuses_shards:
            unkept = Trouble("QuotaExceeded", "Raise it.")
            decision = decide(replace(self.observed, unkept=unkept), self.settings, self.now, self.written)
            assert decision.job is None, "a stage began before the results of the last one were safe"
        self._carry_out(decision)
        return decision

    def _is_told(self, pod: SeenPod) -> bool:
        return not self.hides_pods or pod.uid in self.heard

    def _list(self, jobs: set[str]) -> None:
        self.listed |= jobs
        self.heard |= {pod.uid for pod in self.pods.values() if pod.job_uid in jobs}

    def _ask_for(self, manifest: Mapping[str, Any]) -> None:
        self.refusal = Refusal("QuotaExceeded", "Raise it.", is_final=False) if self.refuses_jobs else None
        if self.refusal is None:
            self._begin(manifest)

    def _begin(self, manifest: Mapping[str, Any]) -> None:
        self.writes += 1
        spec, name = manifest["spec"], manifest["metadata"]["name"]
        assert not any(not job.is_over for job in self.jobs.values()), "two stages side by side"
        assert name not in self.jobs_made, f"{name} was made twice"
        self.jobs_made.append(name)
        variables = {entry["name"]: entry["value"] for entry in spec["template"]["spec"]["containers"][0]["env"]}
        sweeps = variables.get("INFERBENCH_SWEEPS")
        self.jobs[name] = a_job(
            self.plan,
            int(manifest["metadata"]["labels"]["inferbench.dev/stage"]),
            name=name,
            uid=f"uid-of-{name}",
            created=self.now,
            sweeps=None if sweeps is None else collect_sweeps(sweeps),
            completions=spec["completions"],
            parallelism=spec["parallelism"],
            is_suspended=spec["suspend"],
            is_queued="kueue.x-k8s.io/queue-name" in manifest["metadata"]["labels"],
        )

    def _carry_out(self, decision: Decision) -> None:
        if decision.shard is not None:
            self.writes += 1
            assert decision.shard.name not in self.config_maps, "a shard was written twice"
            self.config_maps[decision.shard.name] = decision.shard.data
            self.shards[decision.shard.name] = decision.shard.shard
        if decision.status is not None:
            self.writes += 1
            assert not self.is_finished, "the last word was changed"
            self.status = json.loads(json.dumps(decision.status))
            self.written = self.written.after(decision, self.now)
        for event in decision.events:
            self.writes += 1
            self.events.setdefault(event["metadata"]["name"], event)
        for patch in decision.job_patches:
            self.writes += 1
            self._patch(patch.job, patch.spec)
        self.is_deleted = self.is_deleted or decision.is_to_be_deleted

    def _patch(self, name: str, spec: Mapping[str, Any]) -> None:
        names = {"suspend": "is_suspended", "parallelism": "parallelism", "ttlSecondsAfterFinished": "ttl_seconds"}
        self.jobs[name] = replace(self.jobs[name], **{names[key]: value for key, value in spec.items()})
        if spec.get("suspend"):
            self.pods = {uid: pod for uid, pod in self.pods.items() if pod.has_ended or pod.job != name}

    def restart(self) -> None:
        """Let the operator forget: what it knows then is what the cluster still has."""
        self.written = Written()
        every, self.jobs = self.jobs, {name: job for name, job in self.jobs.items() if not job.is_gone}
        uids = {job.uid for job in self.jobs.values()}
        self.unread |= {every[pod.job].sweep(pod.place) for pod in self.pods.values() if pod.job_uid not in uids}
        self.pods = {uid: pod for uid, pod in self.pods.items() if pod.job_uid in uids}
        self.heard, self.listed = set(self.pods), set()
        named = {shard["configMap"] for shard in self.status.get("shards", ())}
        self.shards = {
            name: Shard(name, packing.checksum(data), packing.unpack(data, self.plan), packing.PLAN in data)
            for name, data in self.config_maps.items()
            if name in named
        }

    def pass_time(self, seconds: float) -> None:
        """Let time pass."""
        self.now += timedelta(seconds=seconds)

    def delete_job(self) -> None:
        """Delete the Job that runs, and its pods with it, as somebody with kubectl might."""
        for name, job in self.jobs.items():
            if not job.is_over:
                self.jobs[name] = replace(job, is_gone=True)
                mine = [pod for pod in self.pods.values() if pod.job == name]
                lost = [pod for pod in mine if not (pod.has_ended and self._is_told(pod))]
                self.unread |= {job.sweep(pod.place) for pod in lost if pod.has_ended}
                for pod in lost:
                    del self.pods[pod.uid]

    def hinder(self, trouble: Trouble = UNSCHEDULABLE) -> None:
        """Let every pod that has not ended wait for something, until it is its turn to do a step."""
        for uid, pod in self.pods.items():
            if not pod.has_ended:
                self.pods[uid] = replace(pod, phase="Pending", trouble=trouble)

    def step(self) -> bool:
        """Let the Job controller and the kubelet do one thing; False when there is nothing to do."""
        job = next((job for job in self.jobs.values() if not job.is_over and not job.is_suspended), None)
        if job is None:
            return False
        live = [pod for pod in self.pods.values() if pod.job_uid == job.uid and not pod.has_ended]
        if waiting := next((pod for pod in live if pod.trouble is not None), None):
            self.pods[waiting.uid] = replace(waiting, phase="Running", trouble=None)
            return True
        if len(live) < job.parallelism and (place := self._next_place(job)) is not None:
            self._start(job, place)
            return True
        if live:
            self._end(job, live[0])
            return True
        self._finish(job)
        return True

    def _next_place(self, job: SeenJob) -> int | None:
        for place in range(job.completions):
            mine = [pod for pod in self.pods.values() if pod.job_uid == job.uid and pod.place == place]
            is_open = place not in job.failed_places and not any(pod.exit_code == 0 for pod in mine)
            if is_open and all(pod.has_ended for pod in mine):
                return place
        return None

    def _start(self, job: SeenJob, place: int) -> None:
        number = sum(pod.job_uid == job.uid and pod.place == place for pod in self.pods.values())
        uid = f"{job.uid}-{place}-{number}"
        self.pods[uid] = a_pod(job, place, uid=uid, name=uid, phase="Running", created=self.now)

    def _end(self, job: SeenJob, pod: SeenPod) -> None:
        sweep = self.plan.sweeps[job.sweep(pod.place)]
        self.tries[sweep.index] = self.tries.get(sweep.index, 0) + 1
        over = _ending(self.plan, sweep, pod, self.fate(sweep.index, self.tries[sweep.index]))
        self.pods[pod.uid] = replace(over, finished=self.now)
        if over.exit_code == 44:
            failed = "pod failed with exit code 44 matching FailJob rule at index 1"
            self.jobs[job.name] = replace(
                job, end=JobEnd.FAILED, end_reason="PodFailurePolicy", end_message=failed, ended=self.now
            )
        elif over.exit_code != 0:
            failures = sum(p.place == pod.place and p.job_uid == job.uid and p.has_ended for p in self.pods.values())
            if over.exit_code in jobs.FAIL_INDEX or failures > self.asked.spec.retries:
                self.jobs[job.name] = replace(job, failed_places=job.failed_places | {pod.place})

    def _finish(self, job: SeenJob) -> None:
        end = JobEnd.FAILED if job.failed_places else JobEnd.COMPLETE
        reason = "FailedIndexes" if job.failed_places else "CompletionsReached"
        self.jobs[job.name] = replace(job, end=end, end_reason=reason, ended=self.now)

    def settle(self, most: int = 2_000) -> None:
        """Let everybody act until the benchmark has ended and nothing is left to do."""
        for _ in range(most):
            decision = self.look()
            if self.is_finished:
                if writes_nothing(decision):
                    return
            elif not self.step():
                self.pass_time(1 if decision.again_after is None else max(0.1, decision.again_after.total_seconds()))
            self.pass_time(0.5)
        raise AssertionError(f"it never ended: {self.status.get('conditions')}")


def writes_nothing(decision: Decision) -> bool:
    """Tell whether a decision is only to look again some time."""
    return replace(decision, again_after=None) == Decision()


def collect_sweeps(text: str) -> tuple[int, ...]:
    """Read the sweeps of a later stage."""
    from inferbench_contract.ranges import parse_sweeps

    return parse_sweeps(text)


def _ending(plan: Plan, sweep: Sweep, pod: SeenPod, fate: Fate) -> SeenPod:
    half = len(sweep.batch_sizes) // 2
    partly = a_message(plan, sweep, upto=half)
    other = plan.sweeps[(sweep.index + 1) % len(plan.sweeps)]
    endings = {
        "well": ended(pod, a_message(plan, sweep)),
        "crash": ended(pod, partly, exit_code=1),
        "garbage": ended(pod, b"{]"),
        "foreign": ended(pod, a_message(plan, other)),
        "silent": ended(pod, b""),
        "oom": ended(pod, partly, exit_code=137, exit_reason="OOMKilled"),
        "killed": ended(pod, partly, exit_code=137),
        "deadline": ended(pod, partly, exit_code=137, pod_reason="DeadlineExceeded"),
        "deleted": ended(pod, partly, exit_code=137, is_deleting=True),
        "stopped": ended(pod, partly, exit_code=143),
        "misconfigured": ended(pod, b"", exit_code=43),
        "fault": ended(pod, a_message(plan, sweep, upto=0, fault="There is no GPU."), exit_code=44),
    }
    return endings[fate]


def condition(status: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    """Return a condition of a status."""
    return next(each for each in status["conditions"] if each["type"] == kind)


def outcomes(shards: Iterable[Shard]) -> dict[int, tuple[CellResult, ...]]:
    """Return every cell by sweep, from shards."""
    return {result.sweep: result.cells for shard in shards for result in shard.results}
