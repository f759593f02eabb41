"""Where a benchmark stands: what ended it, or what keeps it from going on, told from what is observed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from inferbench_contract import sentences, summary
from inferbench_contract.plan import Plan
from inferbench_contract.spec import BenchmarkSpec
from inferbench_contract.summary import Summary
from inferbench_operator import observed as observing
from inferbench_operator.collect import Collected
from inferbench_operator.observed import Observed, SeenJob, SeenPod, Trouble

STARTING = timedelta(seconds=2)
"""A pod younger than this may be unschedulable for a moment only: the scheduler has not seen the last one end."""

STUCK = timedelta(seconds=10)
"""After the end of its grace period a kubelet has killed a pod; the API server hears of it within a second."""

UNEXPLAINED = timedelta(seconds=10)
"""A Job that has had no pod for this long is asked why: the Job controller needs 1 to 3 seconds between two pods."""

MAX_UNEXPLAINED = timedelta(minutes=1)
"""However many benchmarks run: somebody may be looking at the one that has no pods."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How a benchmark ended."""

    has_succeeded: bool
    reason: str
    message: str


@dataclass(frozen=True)
class Standing:
    """All that the conditions, the status and the events are told from."""

    observed: Observed
    collected: Collected | None
    summary: Summary | None
    """None where nothing was summarised just now."""
    obstacle: Trouble | None
    """Why nothing runs, although it should."""
    ending: Ending | None

    @property
    def plan(self) -> Plan | None:
        """The plan that runs."""
        return self.observed.plan

    @property
    def spec(self) -> BenchmarkSpec | None:
        """What its author wants."""
        return None if self.observed.wanted is None else self.observed.wanted.spec


def open_job(observed: Observed) -> SeenJob | None:
    """Return the stage that still runs, or waits."""
    return next((job for job in reversed(observed.jobs) if not job.is_over), None)


def is_held(observed: Observed) -> bool:
    """Tell whether its author wants it to wait; a benchmark in a queue of Kueue is started and stopped there."""
    spec = None if observed.wanted is None else observed.wanted.spec
    return spec is not None and spec.suspend and spec.queue_name is None


def obstacle(observed: Observed, now: datetime) -> Trouble | None:
    """Tell why nothing runs: what the API server refused, or what the pods wait for."""
    if observed.refusal is not None and not is_held(observed):
        return Trouble(observed.refusal.reason, observed.refusal.message)
    if (stuck := _stuck(observed, now)) is not None:
        return stuck
    job = open_job(observed)
    if job is None or job.is_suspended:
        return observed.unkept if job is None else None
    live = [pod for pod in observed.pods if pod.job_uid == job.uid]
    if any(pod.phase == "Running" and pod.trouble is None for pod in live):
        return None
    troubled = [pod for pod in live if pod.trouble is not None and observing.has_passed(pod.created, STARTING, now)]
    if troubled:
        return _explained(min(troubled, key=lambda pod: pod.created))
    return None if live else observed.pod_refusals.get(job.name)


def is_emptying(observed: Observed) -> bool:
    """Tell whether pods of a Job that somebody deleted still run: the next stage waits until they have ended."""
    gone = {job.uid for job in observed.jobs if job.is_gone}
    return any(pod.job_uid in gone for pod in observed.pods)


def _stuck(observed: Observed, now: datetime) -> Trouble | None:
    """Tell of a pod that was deleted and does not end, where no other runs: neither its Job nor a stage goes on."""
    late = [pod for pod in observed.pods if pod.gone_by is not None and now - pod.gone_by >= STUCK]
    if not late or any(pod.phase == "Running" and pod not in late for pod in observed.pods):
        return None
    first = min(late, key=lambda pod: pod.name)
    what = f"Pod {first.name} was deleted and does not end; node {first.node or 'unknown'} may be gone."
    advice = f"Bring the node back, or give the pod up: kubectl delete pod {first.name} --force."
    return Trouble("PodDoesNotEnd", f"{what} {advice}")


def is_unexplained(observed: Observed, now: datetime) -> bool:
    """Tell whether a Job that should run has had no pod for a while."""
    job = open_job(observed)
    if job is None or job.is_suspended or any(pod.job_uid == job.uid for pod in observed.pods):
        return False
    ends = [each.pod.finished for each in observed.attempts if each.pod.finished is not None]
    return observing.has_passed(max([job.created, *ends]), _unexplained(observed), now)


def _unexplained(observed: Observed) -> timedelta:
    """Tell how long it may be without a pod: of many that run, each waits until the Job controller comes to it.

    As Kubernetes ships it the controller asks for 20 things a second in all: a dozen pods side by side want as many.
    """
    return max(UNEXPLAINED, min(timedelta(seconds=observed.running), MAX_UNEXPLAINED))


def next_look(observed: Observed, now: datetime) -> timedelta | None:
    """Tell when time alone may change what stands in the way; None: never."""
    ends = [pod.gone_by + STUCK - now for pod in observed.pods if pod.gone_by is not None]
    late = [wait for wait in ends if wait > timedelta(0)]
    job = open_job(observed)
    if job is None or job.is_suspended:
        return min(late, default=None)
    young = [pod.created for pod in observed.pods if pod.trouble is not None]
    waits = [created + STARTING - now for created in young if not observing.has_passed(created, STARTING, now)]
    if not any(pod.job_uid == job.uid for pod in observed.pods):
        waits.append(_unexplained(observed))
    return min([*waits, *late], default=None)


def ending(
    observed: Observed,
    collected: Collected,
    found: Summary | None,
    blocked: Trouble | None,
    stuck_after: timedelta,
    now: datetime,
) -> Ending | None:
    """Tell what ended a benchmark; None while it goes on."""
    if observed.refusal is not None and observed.refusal.is_final:
        return Ending(False, observed.refusal.reason, observed.refusal.message)
    if collected.fault is not None:
        return Ending(False, "EnvironmentFault", f"{collected.fault} Mend the nodes, and create the benchmark anew.")
    if found is not None and found.is_complete and observed.wanted is not None and open_job(observed) is None:
        return _judged(found, observed.wanted.spec)
    if blocked is not None and (since := _blocked_since(observed)) is not None and now - since >= stuck_after:
        hours = f"{stuck_after.total_seconds() / 3600:.1f} h"
        return Ending(False, blocked.reason, f"Nothing has run for {hours}: {blocked.message}")
    return None


def _judged(found: Summary, spec: BenchmarkSpec) -> Ending:
    failed, allowed = summary.failed_cells(found, spec), spec.max_failed_cells
    if failed > allowed:
        told = [f"{failed} cells failed, at most {allowed} may.", sentences.violations(found)]
        told += [f"The first: {first['cell']}: {first['reason']}" for first in found.document()["firstFailures"][:1]]
        return Ending(False, "TooManyFailedCells", " ".join(filter(None, told)))
    if not found.best:
        return Ending(True, "NothingSupported", "No cell could be measured; the summary says why for each strategy.")
    reason = "WithinFailureBudget" if failed else "AllCellsMeasured"
    return Ending(True, reason, " ".join(sentences.answers(found)[:4]))


def _blocked_since(observed: Observed) -> datetime | None:
    """Tell since when it runs no more although it should: not since it was suspended, or waited in a queue.

    What comes and goes is told every few seconds only, so a pod that ended meanwhile shows that something has run.
    """
    told = [observing.condition(observed.benchmark.status, kind) for kind in ("Running", "Suspended", "QuotaReserved")]
    running, suspended, reserved = told
    if running.get("status") != "False" or suspended.get("status") == "True" or reserved.get("reason") == "Waiting":
        return None
    ends = [each.pod.finished for each in observed.attempts if each.pod.finished is not None]
    return max([*(observing.time(each["lastTransitionTime"]) for each in told if each), *ends])


IMAGE_REASONS = frozenset({
    "ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError",
})  # fmt: skip


OF_NODES = "Add such a node, or ask for less in spec.gpu, spec.cpu or spec.podTemplate."
OF_CLAIMS = "Look at the claim: kubectl describe pvc."


def _explained(pod: SeenPod) -> Trouble:
    """Add to Kubernetes' words what to do."""
    found = pod.trouble or Trouble("Pending", "")
    if found.reason == "Unschedulable":
        advice = OF_CLAIMS if "persistentvolumeclaim" in found.message.lower() else OF_NODES
        return Trouble("Unschedulable", f"No node takes pod {pod.name}: {found.message} {advice}")
    if found.reason in IMAGE_REASONS:
        advice = "Mend spec.image or its pull secret."
        what = f"Pod {pod.name} cannot get its image ({found.reason}): {found.message}"
        return Trouble("ImagePullFailed", f"{what} {advice}")
    what = f"Pod {pod.name} cannot start ({found.reason}): {found.message}"
    return Trouble("PodCannotStart", f"{what} Mend spec.podTemplate.")
