"""What the cluster shows, as types: benchmarks, Jobs and pods, each reduced to what a decision needs.

The API server's JSON is read here and nowhere else. Pods are not trusted: of their message only the bytes are taken.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, NamedTuple

from inferbench_contract.handshake import PLAN_VARIABLE, SWEEPS_VARIABLE
from inferbench_contract.plan import Plan
from inferbench_contract.ranges import parse_sweeps
from inferbench_contract.result import MAX_BYTES, SweepResult
from inferbench_contract.spec import MAX_TTL_SECONDS, InferenceBenchmark

Json = Mapping[str, Any]

BENCHMARK_LABEL = "inferbench.dev/benchmark"
STAGE_LABEL = "inferbench.dev/stage"
MANAGED_BY = ("app.kubernetes.io/managed-by", "inferbench-operator")
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
JOB_LABEL = "batch.kubernetes.io/job-name"
JOB_UID_LABEL = "batch.kubernetes.io/controller-uid"
INDEX_LABEL = "batch.kubernetes.io/job-completion-index"

RUNNER = "runner"
"""The container that measures; others in the pod are the user's."""


class Key(NamedTuple):
    """A benchmark's place in the cluster."""

    namespace: str
    name: str

    def __str__(self) -> str:
        """Write it as kubectl does."""
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True)
class SeenBenchmark:
    """The resource as it is stored. Ten thousand of them are kept, so the content is text and not a tree."""

    key: Key
    uid: str
    generation: int
    is_deleting: bool
    content: str
    """What its author wrote, as JSON."""
    status: Json
    """What the operator wrote last; of a finished benchmark only what may still be needed."""
    ttl_seconds: int | None = None
    """After how long it is to be deleted once it has ended; told also by one that is wrong otherwise."""
    resource_version: str = field(default="", compare=False)

    @property
    def is_finished(self) -> bool:
        """Tell whether the operator has said its last word."""
        return condition_status(self.status, "Finished") == "True"


class JobEnd(StrEnum):
    """How a Job ended."""

    COMPLETE = "Complete"
    FAILED = "Failed"


@dataclass(frozen=True, slots=True)
class SeenJob:
    """One stage, as the Job controller tells it. Places are completion indexes, counted in `sweeps`."""

    name: str
    uid: str
    owner_uid: str
    stage: int
    created: datetime
    plan: str | None
    """The plan's JSON; None where a ConfigMap carries it."""
    sweeps: tuple[int, ...] | None
    """The sweeps of a later stage; None in stage 0, which holds all."""
    completions: int
    parallelism: int
    is_suspended: bool
    is_queued: bool
    """Whether Kueue decides when it runs."""
    end: JobEnd | None
    end_reason: str
    end_message: str
    ended: datetime | None
    failed_places: frozenset[int]
    ttl_seconds: int | None
    is_gone: bool = False
    """Whether somebody deleted it, or is about to."""
    resource_version: str = field(default="", compare=False)

    @property
    def is_over(self) -> bool:
        """Tell whether none of its pods will run again."""
        return self.end is not None or self.is_gone

    @property
    def is_running(self) -> bool:
        """Tell whether its pods may run now."""
        return not self.is_over and not self.is_suspended

    def sweep(self, place: int) -> int:
        """Return the sweep of a completion index."""
        return place if self.sweeps is None else self.sweeps[place]

    @property
    def all_sweeps(self) -> Sequence[int]:
        """All sweeps that it was made for."""
        return range(self.completions) if self.sweeps is None else self.sweeps


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why a pod does not start, in Kubernetes' words."""

    reason: str
    message: str


ENDED = frozenset({"Succeeded", "Failed"})
"""Phases of a pod that stay."""


@dataclass(frozen=True, slots=True)
class SeenPod:
    """One attempt at a sweep."""

    name: str
    uid: str
    job: str
    job_uid: str
    place: int
    created: datetime
    phase: str
    pod_reason: str
    """The pod's own reason: Evicted, DeadlineExceeded; mostly empty."""
    exit_code: int | None
    exit_reason: str
    """The container's: Completed, Error, OOMKilled."""
    message: bytes
    finished: datetime | None
    trouble: Trouble | None
    is_deleting: bool
    node: str = ""
    gone_by: datetime | None = None
    """When it should have ended, of one that is being deleted; later only if its node does not answer."""
    resource_version: str = field(default="", compare=False)

    @property
    def has_ended(self) -> bool:
        """Tell whether nothing more will come of it."""
        return self.phase in ENDED

    @property
    def was_out_of_memory(self) -> bool:
        """Tell whether the kernel killed the whole container for want of memory."""
        return self.exit_reason == "OOMKilled"

    @property
    def was_out_of_time(self) -> bool:
        """Tell whether the pod's own deadline ended it."""
        return self.pod_reason == "DeadlineExceeded"


@dataclass(frozen=True)
class Attempt:
    """A pod that ended, and what could be read of the result that it handed over."""

    pod: SeenPod
    sweep: int
    result: SweepResult | None
    problem: str
    """Why its message, or a part of it, was left out; empty when all of it was read."""
    reason: str = ""
    """That in a word of ours, for a metric: nothing of the message is in it."""


@dataclass(frozen=True)
class Shard:
    """Results that are safe in a ConfigMap."""

    name: str
    sha256: str
    results: tuple[SweepResult, ...]
    has_plan: bool = False
    """Whether the plan lies in it too, without which no row can be read."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """What the API server answered when something was to be created: why nothing runs."""

    reason: str
    message: str
    is_final: bool
    """Whether trying again can never help: the object itself is wrong."""


@dataclass(frozen=True)
class Observed:
    """All that one decision is made of."""

    benchmark: SeenBenchmark
    wanted: InferenceBenchmark | None = None
    """The resource, read; None where it is wrong."""
    mistakes: tuple[str, ...] = ()
    """What is wrong with it."""
    plan: Plan | None = None
    """The plan that runs: the Job's own, else the one that this operator makes of the spec; None of a wrong spec."""
    jobs: tuple[SeenJob, ...] = ()
    """All stages, ascending, also those that somebody deleted while the benchmark ran."""
    pods: tuple[SeenPod, ...] = ()
    """Pods that may still do something."""
    attempts: tuple[Attempt, ...] = ()
    """What became of the pods that ended, in the order of their creation."""
    shards: tuple[Shard, ...] = ()
    refusal: Refusal | None = None
    pod_refusals: Mapping[str, Trouble] = field(default_factory=dict)
    """By Job name: why its pods were not even created (quota, LimitRange, Pod Security)."""
    missing_shards: tuple[str, ...] = ()
    """Shards that the status names and the cluster no longer has."""
    unkept: Trouble | None = None
    """Why results that should be safe by now cannot be put into a ConfigMap."""
    taken_names: frozenset[str] = frozenset()
    """Names of shards under which something else stands."""
    listed_jobs: frozenset[str] = frozenset()
    """Uids of Jobs whose pods were listed after their end, so that no message of theirs is unheard."""
    running: int = 1
    """How many benchmarks run, this one included: they share what counters may cost."""
    is_namespace_leaving: bool = False
    """Whether its namespace is being deleted, and some of its pods already are."""


def benchmark(raw: Json) -> SeenBenchmark:
    """Read an InferenceBenchmark."""
    metadata = raw["metadata"]
    name = {"name": metadata["name"], "namespace": metadata["namespace"]}
    content = {"apiVersion": raw.get("apiVersion"), "kind": raw.get("kind"), "metadata": name, "spec": raw.get("spec")}
    return SeenBenchmark(
        key=Key(metadata["namespace"], metadata["name"]),
        uid=metadata["uid"],
        generation=int(metadata.get("generation", 0)),
        is_deleting="deletionTimestamp" in metadata,
        content=json.dumps(content, separators=(",", ":")),
        status=raw.get("status") or {},
        ttl_seconds=_ttl_seconds(raw.get("spec") or {}),
        resource_version=metadata.get("resourceVersion", ""),
    )


def _ttl_seconds(spec: Json) -> int | None:
    """Read the one field that says what becomes of a benchmark, whatever else is wrong with it."""
    told = spec.get("ttlSecondsAfterFinished")
    return told if type(told) is int and 0 <= told <= MAX_TTL_SECONDS else None


def job(raw: Json) -> SeenJob:
    """Read a Job that the operator made. Raises KeyError, ValueError where it is none of ours after all."""
    metadata, spec, status = raw["metadata"], raw["spec"], raw.get("status") or {}
    environment = _environment(spec["template"]["spec"])
    end, condition = _end(status)
    return SeenJob(
        name=metadata["name"],
        uid=metadata["uid"],
        owner_uid=_owner_uid(metadata),
        stage=int(metadata["labels"][STAGE_LABEL]),
        created=time(metadata["creationTimestamp"]),
        plan=environment.get(PLAN_VARIABLE),
        sweeps=parse_sweeps(environment[SWEEPS_VARIABLE]) if SWEEPS_VARIABLE in environment else None,
        completions=int(spec["completions"]),
        parallelism=int(spec["parallelism"]),
        is_suspended=bool(spec.get("suspend")),
        is_queued=QUEUE_LABEL in metadata["labels"],
        end=end,
        end_reason=condition.get("reason", ""),
        end_message=condition.get("message", ""),
        ended=time_or_none(condition.get("lastTransitionTime")),
        failed_places=_places(status.get("failedIndexes")),
        ttl_seconds=spec.get("ttlSecondsAfterFinished"),
        is_gone="deletionTimestamp" in metadata,
        resource_version=metadata.get("resourceVersion", ""),
    )


def pod(raw: Json) -> SeenPod:
    """Read a runner pod. Raises KeyError, ValueError where it belongs to no Job of ours."""
    metadata, status = raw["metadata"], raw.get("status") or {}
    container = _runner(status.get("containerStatuses") or ())
    ended = (container.get("state") or {}).get("terminated") or {}
    return SeenPod(
        name=metadata["name"],
        uid=metadata["uid"],
        job=metadata["labels"][JOB_LABEL],
        # A Job that is deleted with --cascade=orphan leaves its pods without an owner; what they say still counts.
        job_uid=_owner_uid(metadata) or metadata["labels"].get(JOB_UID_LABEL, ""),
        place=int(metadata["labels"].get(INDEX_LABEL) or metadata["annotations"][INDEX_LABEL]),
        created=time(metadata["creationTimestamp"]),
        phase=status.get("phase", "Pending"),
        pod_reason=status.get("reason") or "",
        exit_code=ended.get("exitCode"),
        exit_reason=ended.get("reason") or "",
        message=(ended.get("message") or "").encode()[: MAX_BYTES + 1],
        finished=time_or_none(ended.get("finishedAt")),
        trouble=_trouble(status, container),
        is_deleting="deletionTimestamp" in metadata,
        node=(raw.get("spec") or {}).get("nodeName") or "",
        gone_by=time_or_none(metadata.get("deletionTimestamp")),
        resource_version=metadata.get("resourceVersion", ""),
    )


def has_pod_ended(raw: Json) -> bool:
    """Tell whether nothing more will come of a pod."""
    return (raw.get("status") or {}).get("phase") in ENDED


def benchmark_of(raw: Json) -> Key | None:
    """Return the benchmark that a Job or pod says it belongs to."""
    name = (raw["metadata"].get("labels") or {}).get(BENCHMARK_LABEL)
    return None if name is None else Key(raw["metadata"]["namespace"], name)


def condition(status: Json, kind: str) -> Json:
    """Return a condition of a status; empty when there is none."""
    return next((each for each in status.get("conditions") or () if each.get("type") == kind), {})


def condition_status(status: Json, kind: str) -> str:
    """Return True, False or Unknown, also where the condition is not there."""
    return str(condition(status, kind).get("status", "Unknown"))


def has_passed(since: datetime, patience: timedelta, now: datetime) -> bool:
    """Tell whether a wait of seconds is over.

    `since` may be told by another machine's clock, or by ours before it was set back. What lies that far in the future
    shows that the clocks disagree, and waiting until they agree might take for ever: then it is over too.
    """
    return abs(now - since) >= patience


def time(text: str) -> datetime:
    """Read a time as Kubernetes writes it."""
    return datetime.fromisoformat(text)


def written(moment: datetime) -> str:
    """Write a time as Kubernetes does: whole seconds in UTC."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _places(text: str | None) -> frozenset[int]:
    """Read completion indexes as the Job controller writes them; it writes them as a plan's sweeps are written."""
    return frozenset(parse_sweeps(text)) if text else frozenset()


def time_or_none(text: str | None) -> datetime | None:
    """Read a time that may be missing."""
    return time(text) if text else None


def _owner_uid(metadata: Json) -> str:
    owners = (owner for owner in metadata.get("ownerReferences") or () if owner.get("controller"))
    return next((str(owner.get("uid", "")) for owner in owners), "")


def _environment(pod_spec: Json) -> Mapping[str, str]:
    runner = _runner(pod_spec.get("containers") or ())
    return {entry["name"]: entry["value"] for entry in runner.get("env") or () if "value" in entry}


def _runner(containers: Sequence[Json]) -> Json:
    return next((container for container in containers if container.get("name") == RUNNER), {})


def _end(status: Json) -> tuple[JobEnd | None, Json]:
    for end in JobEnd:
        found = condition(status, end)
        if found.get("status") == "True":
            return end, found
    return None, {}


HOPELESS_WAITS = frozenset({
    "ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError",
    "CreateContainerConfigError", "CreateContainerError", "RunContainerError",
})  # fmt: skip
"""Why a container waits, other than that it is being made just now (kubernetes/pkg/kubelet: images, kuberuntime)."""


def _trouble(status: Json, container: Json) -> Trouble | None:
    scheduled = condition(status, "PodScheduled")
    if scheduled.get("status") == "False" and scheduled.get("reason") == "Unschedulable":
        return Trouble("Unschedulable", scheduled.get("message") or "")
    waiting = (container.get("state") or {}).get("waiting") or {}
    if waiting.get("reason") in HOPELESS_WAITS:
        return Trouble(waiting["reason"], waiting.get("message") or "")
    return None
