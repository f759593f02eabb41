"""What the hands make of the API server's answers: what is as good as done, what is told, and what is tried again."""

from __future__ import annotations

import asyncio

import pytest

from inferbench_contract import plan as plans
from inferbench_operator import apply, events, jobs, paths
from inferbench_operator import observed as observing
from inferbench_operator.api_errors import ApiError, Cause
from inferbench_operator.apply import Hands
from inferbench_operator.events import EventType
from inferbench_operator.observed import Refusal
from inferbench_operator.reconcile import JobPatch
from tests.clusters import NOW, SETTINGS, UID, a_job, seen, wanted
from tests.stores import Store

ASKED = wanted()
PLAN = plans.expand(ASKED)
BENCHMARK = seen(ASKED)
JOB = jobs.job(BENCHMARK, ASKED.spec, PLAN, 0, None, SETTINGS)
PLAN_MAP = jobs.config_map(BENCHMARK, "example-plan", {"plan.json": "{}"})


def answering(error):
    """Return a store that answers every write so."""
    return Store(refuse=lambda _: error)


def error(status, reason="X", message="so it is", causes=()):
    return ApiError("POST /x", status, reason, message, causes=causes)


def begun(store, plan_map=None):
    return asyncio.run(Hands(store).begin_stage(BENCHMARK, JOB, plan_map))


def test_the_plan_is_there_before_the_job_that_reads_it():
    store = Store()

    made = begun(store, PLAN_MAP)

    assert store.writes == ["create configmaps", "create jobs"]
    assert (made.stage, made.completions, made.owner_uid) == (0, 2, UID)


def test_a_job_that_is_there_already_is_as_good_as_made():
    store = Store()
    first = begun(store)

    assert begun(store) == first
    assert len(store.of("jobs")) == 1


def test_a_job_of_that_name_that_is_not_ours_is_said_and_waited_for():
    store = Store()
    stranger = {**JOB, "metadata": {**JOB["metadata"], "ownerReferences": []}}
    asyncio.run(store.create(paths.jobs("default"), stranger))

    found = begun(store)

    assert isinstance(found, Refusal)
    assert (found.reason, found.is_final) == ("NameTaken", False)
    assert "does not belong to this benchmark" in found.message


TERMINATING = (Cause("metadata.namespace", "NamespaceTerminating", "it goes"),)


@pytest.mark.parametrize(
    ("answer", "reason", "is_final"),
    [
        (error(403, "Forbidden", "exceeded quota: few"), "QuotaExceeded", False),
        (error(403, "Forbidden", "failed quota: few: must specify limits"), "QuotaExceeded", False),
        (error(403, "Forbidden", "a policy says no"), "JobForbidden", False),
        (error(403, "Forbidden", "it is being terminated", TERMINATING), "NamespaceTerminating", False),
        (error(422, "Invalid", "spec.template: wrong"), "JobRefused", True),
        (error(400, "BadRequest", "admission webhook denied"), "JobRefused", True),
    ],
)
def test_what_a_person_has_to_know_is_a_refusal_with_the_servers_words(answer, reason, is_final):
    found = begun(answering(answer))

    assert (found.reason, found.is_final) == (reason, is_final)
    assert answer.message in found.message


@pytest.mark.parametrize("status", [0, 409, 429, 500, 503, 504])
def test_what_only_time_mends_is_raised(status):
    with pytest.raises(ApiError):
        begun(answering(error(status)))


def test_an_event_that_was_posted_is_not_posted_twice():
    store = Store()
    event = events.event(BENCHMARK, EventType.NORMAL, "Planned", "1 cell.", NOW)

    for _ in range(2):
        asyncio.run(Hands(store).post(event))

    assert len(store.of("events")) == 1


@pytest.mark.parametrize("status", [403, 404])
def test_an_event_that_may_not_be_posted_is_no_reason_to_stop(status):
    event = events.event(BENCHMARK, EventType.NORMAL, "Planned", "1 cell.", NOW)

    asyncio.run(Hands(answering(error(status))).post(event))


def test_a_job_that_is_gone_needs_no_patch():
    assert asyncio.run(Hands(Store()).patch_job(BENCHMARK.key, JobPatch("gone", {"suspend": True}))) is None


@pytest.mark.parametrize(("uid", "left"), [(UID, 0), ("another", 1)], ids=["itself", "one made anew"])
def test_a_benchmark_is_deleted_and_one_of_its_name_that_was_made_since_is_not(uid, left):
    store = Store()
    raw = {"metadata": {"name": "example", "namespace": "default", "uid": uid}}
    asyncio.run(store.create(paths.benchmarks("default"), raw))

    asyncio.run(Hands(store).delete(BENCHMARK))

    assert len(store.of("inferencebenchmarks")) == left


def test_a_benchmark_that_is_gone_already_needs_no_deletion():
    asyncio.run(Hands(answering(error(404))).delete(BENCHMARK))
    with pytest.raises(ApiError):
        asyncio.run(Hands(answering(error(500))).delete(BENCHMARK))


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ("Error creating: pods is forbidden: exceeded quota: few, requested: cpu=1", "QuotaExceeded"),
        ("Error creating: pods is forbidden: failed quota: few: must specify cpu", "QuotaExceeded"),
        ('Error creating: pods is forbidden: violates PodSecurity "restricted:latest"', "PodSecurityDenied"),
        ("Error creating: pods is forbidden: maximum cpu usage per Container is 500m", "LimitRangeDenied"),
        ("Error creating: pods is forbidden: minimum memory usage per Pod is 1Gi", "LimitRangeDenied"),
        ("Error creating: admission webhook says no", "PodsRefused"),
    ],
)
def test_why_pods_could_not_be_made_is_sorted_and_told_with_what_to_do(message, reason):
    found = apply.refused_pods(message)

    assert found.reason == reason
    assert found.message.startswith(message.removeprefix("Error creating: "))
    assert len(found.message) > len(message)


def test_the_latest_of_the_events_about_a_job_says_why_it_has_no_pods():
    store = Store()
    for name, at, message in [("a", "T2", "exceeded quota: new"), ("b", "T1", "exceeded quota: old")]:
        event = {"metadata": {"name": name}, "lastTimestamp": at, "message": message}
        asyncio.run(store.create(paths.events("default"), event))

    found = asyncio.run(Hands(store).why_no_pods(BENCHMARK.key, a_job(PLAN)))

    assert "exceeded quota: new" in found.message
    assert asyncio.run(Hands(Store()).why_no_pods(BENCHMARK.key, a_job(PLAN))) is None


def test_a_status_is_written_only_over_the_version_that_it_was_decided_from():
    store = Store()
    raw = {"metadata": {"name": "example", "namespace": "default", "uid": UID}}
    stored = asyncio.run(store.create(paths.benchmarks("default"), raw))
    hands, before = Hands(store), observing.benchmark(stored)

    after = asyncio.run(hands.write_status(before, {"startTime": "x"}))

    assert after.status == {"startTime": "x"}
    with pytest.raises(ApiError, match="409"):
        asyncio.run(hands.write_status(before, {"startTime": "y"}))
