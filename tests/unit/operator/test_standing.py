"""Where a benchmark stands: what is in its way, since when, and what waits for it."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from inferbench_contract.summary import summarize
from inferbench_contract.words import Outcome
from inferbench_operator import standing
from inferbench_operator.collect import Collected
from inferbench_operator.observed import JobEnd, Refusal, Trouble, written
from inferbench_operator.reconcile import Written, decide
from tests import results
from tests.clusters import NOW, SETTINGS, World, a_job, a_pod, attempts, condition, ended, seen, wanted

UNSCHEDULABLE = Trouble("Unschedulable", "0/3 nodes are available.")
UNBOUND = Trouble("Unschedulable", "0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims.")
DAY = timedelta(seconds=SETTINGS.stuck_after_seconds)


def observed(asked=None, status=None, **fields):
    asked = asked or wanted()
    world = World(asked)
    return replace(world.observed, benchmark=seen(asked, status), **fields)


@pytest.fixture
def plan():
    return World(wanted()).plan


@pytest.fixture
def job(plan):
    return a_job(plan)


# ---- obstacles -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("trouble", "expected", "advice"),
    [
        (UNSCHEDULABLE, "Unschedulable", "Add such a node"),
        (UNBOUND, "Unschedulable", "Look at the claim"),
        (Trouble("ErrImagePull", "so"), "ImagePullFailed", "Mend spec.image"),
        (Trouble("ImagePullBackOff", "so"), "ImagePullFailed", "Mend spec.image"),
        (Trouble("CreateContainerConfigError", "so"), "PodCannotStart", "Mend spec.podTemplate"),
    ],
)
def test_what_a_pod_waits_for_is_told_with_what_to_do(job, trouble, expected, advice):
    pod = a_pod(job, created=NOW - timedelta(seconds=2), trouble=trouble)

    found = standing.obstacle(observed(jobs=(job,), pods=(pod,)), NOW)

    assert found.reason == expected
    assert pod.name in found.message
    assert advice in found.message


@pytest.mark.parametrize(("running", "seconds"), [(1, 10), (10, 10), (40, 40), (5_000, 60)])
def test_a_job_without_pods_is_asked_why_the_later_the_more_benchmarks_run(job, running, seconds):
    seen_so = observed(jobs=(job,), running=running)
    almost, then = (job.created + timedelta(seconds=since) for since in (seconds - 1, seconds))

    assert not standing.is_unexplained(seen_so, almost)
    assert standing.is_unexplained(seen_so, then)
    assert standing.next_look(seen_so, NOW) == timedelta(seconds=seconds)


def test_a_pod_that_has_just_come_is_no_obstacle_yet(job):
    pod = a_pod(job, created=NOW, trouble=UNSCHEDULABLE)

    seen_now = observed(jobs=(job,), pods=(pod,))
    assert standing.obstacle(seen_now, NOW) is None
    assert standing.next_look(seen_now, NOW) == standing.STARTING


def test_a_refusal_is_no_obstacle_to_one_that_is_suspended():
    refusal = Refusal("QuotaExceeded", "exceeded quota", is_final=False)

    assert standing.obstacle(observed(refusal=refusal), NOW).reason == "QuotaExceeded"
    assert standing.obstacle(observed(wanted(suspend=True), refusal=refusal), NOW) is None


def test_a_pod_that_was_deleted_and_does_not_end_is_named_with_its_node(job):
    pod = a_pod(job, phase="Running", node="node-7", is_deleting=True, gone_by=NOW)
    alone = observed(jobs=(job,), pods=(pod,))

    assert standing.obstacle(alone, NOW + timedelta(seconds=9)) is None
    assert standing.next_look(alone, NOW) == standing.STUCK
    found = standing.obstacle(alone, NOW + standing.STUCK)
    assert found.reason == "PodDoesNotEnd"
    assert "node-7" in found.message
    assert f"kubectl delete pod {pod.name} --force" in found.message


def test_a_pod_that_does_not_end_is_no_obstacle_while_another_one_measures(job):
    stuck = a_pod(job, 0, phase="Running", is_deleting=True, gone_by=NOW)
    other = a_pod(job, 1, phase="Running")

    assert standing.obstacle(observed(jobs=(job,), pods=(stuck, other)), NOW + timedelta(hours=1)) is None


# ---- a Job that somebody deleted -----------------------------------------------------------------


def test_the_next_stage_waits_until_the_pods_of_a_deleted_job_have_ended(plan, job):
    gone = replace(job, is_gone=True)
    told = {"stages": [{"job": job.name, "sweeps": 2, "reason": "Running"}]}
    later = NOW + timedelta(seconds=11)
    empty = observed(status=told, jobs=(gone,), listed_jobs=frozenset({gone.uid}))

    held = replace(empty, pods=(a_pod(gone, phase="Running"),))

    assert decide(held, SETTINGS, later, Written()).job is None
    assert decide(empty, SETTINGS, later, Written()).job is not None


def test_a_job_that_ended_is_not_open_nor_one_that_is_gone(plan):
    assert standing.open_job(observed(jobs=(a_job(plan),))) is not None
    assert standing.open_job(observed(jobs=(a_job(plan, end=JobEnd.COMPLETE),))) is None
    assert standing.open_job(observed(jobs=(a_job(plan, is_gone=True),))) is None


# ---- how long ------------------------------------------------------------------------------------


def conditions(**told):
    """Return a status with conditions: kind=(status, reason, age)."""
    return {
        "conditions": [
            {"type": kind, "status": status, "reason": reason, "lastTransitionTime": written(NOW - age)}
            for kind, (status, reason, age) in told.items()
        ]
    }


def ends(status, **fields):
    refusal = Refusal("QuotaExceeded", "exceeded quota: few", is_final=False)
    decision = decide(observed(status=status, refusal=refusal, **fields), SETTINGS, NOW, Written())
    return condition(decision.status, "Finished")["status"] == "True"


def test_what_is_blocked_for_a_day_ends():
    blocked = ("False", "QuotaExceeded", DAY)

    assert ends(conditions(Running=blocked, Suspended=("False", "NotSuspended", 2 * DAY)))
    assert not ends(conditions(Running=("False", "QuotaExceeded", DAY / 2), Suspended=("False", "NotSuspended", DAY)))


def test_a_pod_that_has_ended_since_shows_that_it_was_not_blocked_all_day(plan, job):
    blocked = conditions(Running=("False", "QuotaExceeded", DAY), Suspended=("False", "NotSuspended", 2 * DAY))
    ran = attempts(plan, job, [ended(a_pod(job), finished=NOW - timedelta(hours=1))])

    assert ends(blocked, jobs=(job,))
    assert not ends(blocked, jobs=(job,), attempts=ran)


def test_days_of_suspension_do_not_count_as_days_of_waiting():
    still = conditions(Running=("False", "Suspended", 2 * DAY), Suspended=("True", "SuspendedBySpec", 2 * DAY))
    resumed = conditions(
        Running=("False", "QuotaExceeded", 2 * DAY), Suspended=("False", "NotSuspended", timedelta(minutes=1))
    )

    assert not ends(still)
    assert not ends(resumed)


def test_days_in_a_queue_do_not_count_as_days_of_waiting():
    told = {"Running": ("False", "WaitingForQuota", 2 * DAY), "Suspended": ("False", "NotSuspended", 2 * DAY)}

    assert not ends(conditions(**told, QuotaReserved=("False", "Waiting", 2 * DAY)))
    assert not ends(conditions(**told, QuotaReserved=("True", "Admitted", timedelta(minutes=1))))
    assert ends(conditions(**told, QuotaReserved=("True", "Admitted", DAY)))


# ---- the end -------------------------------------------------------------------------------------


def test_inaccurate_cells_that_count_as_failed_are_told_apart_from_those_that_did_fail():
    asked = wanted(batch_sizes=[1, 2], accuracy={"onViolation": "Fail"})
    plan = World(asked).plan
    outcomes = {1: Outcome.CRASHED, 2: Outcome.INACCURATE}
    told = results.results_for(plan, lambda _, size, __: results.ended(outcomes[size], size, "So: it was."))
    found = summarize(asked, plan, told)

    end = standing.ending(observed(asked), Collected({}, {}, None, None), found, None, DAY, NOW)

    assert (end.has_succeeded, end.reason) == (False, "TooManyFailedCells")
    assert end.message.startswith(
        "2 cells failed, at most 0 may. "
        "1 cell is Inaccurate and onViolation is Fail: it counts as failed beside 1 other; maxFailedCells is 0. "
        "The first: fake/fp32@1: So: it was."
    )
