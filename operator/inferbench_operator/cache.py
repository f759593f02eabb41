"""What the watches have told so far: slim copies of benchmarks, Jobs and pods, by the benchmark that they belong to.

Each `heard_` method takes one event of a watch and returns the benchmark that has to be looked at, or None where the
event changes nothing that a decision depends on: most events of a pod are of that kind.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from inferbench_operator import observed as observing
from inferbench_operator.observed import JobEnd, Json, Key, SeenBenchmark, SeenJob, SeenPod

log = logging.getLogger(__name__)

DELETED = "DELETED"

Seen = SeenBenchmark | SeenJob | SeenPod


@dataclass
class Family:
    """A benchmark's Jobs and pods, by uid."""

    jobs: dict[str, SeenJob] = field(default_factory=dict)
    pods: dict[str, SeenPod] = field(default_factory=dict)


class Cache:
    """Everything of ours in the cluster, as last heard."""

    def __init__(self) -> None:
        """Start knowing nothing."""
        self.benchmarks: dict[Key, SeenBenchmark] = {}
        self._families: dict[Key, Family] = {}
        self._running: set[Key] = set()
        """Benchmarks that have a Job whose pods may run now."""
        self._deleted: set[str] = set()
        """Uids of benchmarks that were deleted since the last list, which may still have them."""

    def jobs(self, benchmark: SeenBenchmark) -> tuple[SeenJob, ...]:
        """Return a benchmark's Jobs, ascending by stage, also those that were deleted while it ran."""
        owned = (job for job in self._family(benchmark.key).jobs.values() if job.owner_uid == benchmark.uid)
        return tuple(sorted(owned, key=lambda job: (job.stage, job.created)))

    def pods(self, benchmark: SeenBenchmark) -> tuple[SeenPod, ...]:
        """Return the pods of a benchmark's Jobs, the oldest first. A pod that no Job of it made is somebody else's."""
        family = self._family(benchmark.key)
        ours = {uid for uid, job in family.jobs.items() if job.owner_uid == benchmark.uid}
        pods = (pod for pod in family.pods.values() if pod.job_uid in ours)
        return tuple(sorted(pods, key=lambda pod: (pod.created, pod.name)))

    def heard_benchmark(self, kind: str | None, raw: Json) -> Key | None:
        """Hear of an InferenceBenchmark."""
        seen = observing.benchmark(raw)
        if kind == DELETED:
            self._deleted.add(seen.uid)
            self._forget(seen)
            return seen.key
        before = self.benchmarks.get(seen.key)
        self._keep(seen)
        return None if self.benchmarks[seen.key] == before else seen.key

    def heard_job(self, kind: str | None, raw: Json) -> Key | None:
        """Hear of a Job."""
        key, job = observing.benchmark_of(raw), _read(observing.job, raw)
        if key is None or job is None:
            return None
        family = self._family_for(key)
        before = family.jobs.get(job.uid)
        if before is not None and _is_older(job, before):
            return None
        if kind == DELETED and not self._is_awaited(key, job):
            family.jobs.pop(job.uid, None)
            self._tidy(key)
            return None
        family.jobs[job.uid] = replace(job, is_gone=True) if kind == DELETED else job
        self._note_running(key)
        return None if family.jobs[job.uid] == before else key

    def heard_pod(self, kind: str | None, raw: Json) -> Key | None:
        """Hear of a pod. One that ended stays known when it is deleted: its message may be nowhere else."""
        key = observing.benchmark_of(raw)
        if key is None or self.is_finished(key) or (pod := _read(observing.pod, raw)) is None:
            return None
        family = self._family_for(key)
        before = family.pods.get(pod.uid)
        if before is not None and _is_older(pod, before):
            return None
        if kind == DELETED and not _is_to_be_read(pod, family):
            family.pods.pop(pod.uid, None)
            self._tidy(key)
            return key if before is not None else None
        family.pods[pod.uid] = pod
        return key if _matters(before, pod) else None

    def keep(self, seen: SeenBenchmark) -> None:
        """Keep a benchmark as the server answered a write to it, unless it was heard meanwhile that it is gone."""
        if self._is_known(seen.key, seen.uid):
            self._keep(seen)

    def _keep(self, seen: SeenBenchmark) -> None:
        """Keep a benchmark as it is now, unless something newer was heard; of a finished one little is kept."""
        before = self.benchmarks.get(seen.key)
        if before is not None and before.uid == seen.uid and _is_older(seen, before):
            return
        if seen.is_finished:
            seen = replace(seen, status={key: seen.status[key] for key in KEPT_WHEN_FINISHED if key in seen.status})
            self._family(seen.key).pods.clear()
        self.benchmarks[seen.key] = seen
        if before is None or before.uid != seen.uid:
            self._note_running(seen.key)  # its Job may have been heard of first

    def keep_job(self, key: Key, job: SeenJob) -> None:
        """Keep a Job that was just made or changed, unless the watch has told something newer of it or its owner."""
        if not self._is_known(key, job.owner_uid):
            return
        jobs = self._family_for(key).jobs
        if (before := jobs.get(job.uid)) is None or not _is_older(job, before):
            jobs[job.uid] = job
            self._note_running(key)

    def renew(
        self,
        benchmarks: Iterable[Json],
        jobs: Iterable[Json],
        pods: Iterable[Json],
        version: int,
        unlisted: Collection[str] = (),
    ) -> set[Key]:
        """Take a list of everything for truth, and return the benchmarks that it changes or that still run.

        A list may be older than what the watches have told meanwhile. `version` is the resource version that it is of:
        what is newer stays as it is, and is not missing either. Nor is what lies in a namespace that was not listed.
        """
        listed = {seen.key: seen for seen in map(observing.benchmark, benchmarks) if seen.uid not in self._deleted}
        self._deleted.clear()
        missing = [seen for key, seen in self.benchmarks.items() if key not in listed and key.namespace not in unlisted]
        gone = [seen for seen in missing if not _is_newer(seen, version)]
        for seen in gone:
            self._forget(seen)
        for key, seen in listed.items():
            known = self.benchmarks.get(key)
            if known is None or not _is_older(seen, known):  # of another uid, too
                self._keep(seen)
        changed = {seen.key for seen in gone} | {key for key in listed if not self.is_finished(key)}
        changed |= self._renewed_jobs(list(jobs), version, unlisted)
        return changed | self._renewed_pods(list(pods), version, unlisted)

    def _renewed_jobs(self, jobs: list[Json], version: int, unlisted: Collection[str]) -> set[Key]:
        """Take Jobs that are not listed for deleted."""
        present = {raw["metadata"]["uid"] for raw in jobs}
        changed = {key for raw in jobs if (key := self.heard_job(None, raw)) is not None}
        for key, family in self._listed_families(unlisted):
            for uid, job in tuple(family.jobs.items()):
                if uid in present or _is_newer(job, version):
                    continue
                if not self._is_awaited(key, job):
                    del family.jobs[uid]
                elif not job.is_gone:
                    family.jobs[uid] = replace(job, is_gone=True)
                    changed.add(key)
            self._note_running(key)
        return changed

    def _renewed_pods(self, pods: list[Json], version: int, unlisted: Collection[str]) -> set[Key]:
        """Forget pods that are not listed, but for what they have said; and families of which nothing is left."""
        present = {raw["metadata"]["uid"] for raw in pods}
        changed = {key for raw in pods if (key := self.heard_pod(None, raw)) is not None}
        for key, family in self._listed_families(unlisted):
            for uid, pod in tuple(family.pods.items()):
                if uid not in present and not _is_to_be_read(pod, family) and not _is_newer(pod, version):
                    del family.pods[uid]
                    changed.add(key)
            self._tidy(key)
        return changed

    def _listed_families(self, unlisted: Collection[str]) -> list[tuple[Key, Family]]:
        return [(key, family) for key, family in self._families.items() if key.namespace not in unlisted]

    def _is_awaited(self, key: Key, job: SeenJob) -> bool:
        """Tell whether somebody still waits for what comes of a Job."""
        return self._is_known(key, job.owner_uid) and not self.is_finished(key)

    def _is_known(self, key: Key, uid: str) -> bool:
        """Tell whether a benchmark is there, as far as was heard, and not one of its name made since."""
        seen = self.benchmarks.get(key)
        return seen is not None and seen.uid == uid

    def _tidy(self, key: Key) -> None:
        """Drop the family of a benchmark that is gone, once the last of its Jobs and pods is gone too."""
        family = self._family(key)
        self._note_running(key)
        if key not in self.benchmarks and not family.jobs and not family.pods:
            self._families.pop(key, None)

    def _family(self, key: Key) -> Family:
        return self._families.get(key) or Family()

    def _family_for(self, key: Key) -> Family:
        return self._families.setdefault(key, Family())

    def is_finished(self, key: Key) -> bool:
        """Tell whether a benchmark has ended; one that is not known has not."""
        seen = self.benchmarks.get(key)
        return seen is not None and seen.is_finished

    def is_running(self, key: Key) -> bool:
        """Tell whether pods of a Job of this benchmark may run now: one that waits in a queue is suspended."""
        return key in self._running

    @property
    def running(self) -> int:
        """How many benchmarks have a Job whose pods may run now."""
        return len(self._running)

    def _note_running(self, key: Key) -> None:
        """Note whether a benchmark runs; a Job that no benchmark owns is somebody else's, whatever its labels say."""
        seen = self.benchmarks.get(key)
        jobs = self._family(key).jobs.values()
        if seen is not None and any(job.is_running and job.owner_uid == seen.uid for job in jobs):
            self._running.add(key)
        else:
            self._running.discard(key)

    def count_benchmarks(self) -> dict[str, float]:
        """Count benchmarks by where they stand."""
        counts = Counter(_state(seen) for seen in self.benchmarks.values())
        return {state: counts[state] for state in STATES}

    def count_jobs(self) -> dict[str, float]:
        """Count Jobs by where they stand."""
        jobs = (job for family in self._families.values() for job in family.jobs.values())
        counts = Counter(str(job.end or ("Suspended" if job.is_suspended else "Running")) for job in jobs)
        return {state: counts[state] for state in ("Running", "Suspended", *JobEnd)}

    def _forget(self, seen: SeenBenchmark) -> None:
        """Forget a benchmark; one of the same name that was made since then stays."""
        present = self.benchmarks.get(seen.key)
        if present is None or present.uid == seen.uid:
            self.benchmarks.pop(seen.key, None)
            self._families.pop(seen.key, None)
            self._running.discard(seen.key)


STATES = ("New", "Running", "Waiting", "Succeeded", "Failed")


def _state(seen: SeenBenchmark) -> str:
    if seen.is_finished:
        return "Succeeded" if observing.condition_status(seen.status, "Succeeded") == "True" else "Failed"
    if not seen.status:
        return "New"
    return "Running" if observing.condition_status(seen.status, "Running") == "True" else "Waiting"


KEPT_WHEN_FINISHED = ("conditions", "observedGeneration", "startTime", "completionTime", "plan", "stages", "shards")
"""The summary of 7 kB is not among them: it is read again where it is shown."""


def _matters(before: SeenPod | None, now: SeenPod) -> bool:
    """Tell whether a decision may depend on what is new about a pod: its end, what keeps it from starting or ending."""
    told = (now.has_ended, now.message, now.trouble, now.gone_by)
    if before is None:
        return told != (False, b"", None, None)
    return told != (before.has_ended, before.message, before.trouble, before.gone_by)


def _is_to_be_read(pod: SeenPod, family: Family) -> bool:
    """Tell whether a pod that is gone may have left a message that somebody still wants."""
    return pod.has_ended and pod.job_uid in family.jobs


def _is_older(one: Seen, other: Seen) -> bool:
    """Compare versions; since Kubernetes 1.35 they are promised to be numbers that grow."""
    return one.resource_version.isdecimal() and _is_newer(other, int(one.resource_version))


def _is_newer(one: Seen, version: int) -> bool:
    """Tell whether an object was changed after a version."""
    return one.resource_version.isdecimal() and int(one.resource_version) > version


def _read(reader: Callable[[Json], Any], raw: Mapping[str, Any]) -> Any:
    """Read an object that carries our label; somebody else's may, too."""
    try:
        return reader(raw)
    except (KeyError, TypeError, ValueError) as error:
        name = f"{raw['metadata'].get('namespace')}/{raw['metadata'].get('name')}"
        log.warning("%s has our label and is not ours: %r. It is passed over.", name, error)
        return None
