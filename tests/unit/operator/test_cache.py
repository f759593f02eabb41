"""The cache keeps what the watches tell, and says which benchmark has to be looked at."""

from __future__ import annotations

import copy

import pytest

from inferbench_contract.result import MAX_BYTES
from inferbench_operator import observed as observing
from inferbench_operator.cache import Cache
from inferbench_operator.observed import Key

KEY = Key("lab", "resnet50")
LATER = 1_000
"""A resource version after all that the tests begin with."""


def a_benchmark(*, status=None, uid="b1", version="5", generation=1, **metadata):
    return {
        "apiVersion": "inferbench.dev/v1alpha1",
        "kind": "InferenceBenchmark",
        "metadata": {
            "namespace": "lab",
            "name": "resnet50",
            "uid": uid,
            "resourceVersion": version,
            "generation": generation,
            **metadata,
        },
        "spec": {"backends": ["fake"]},
        **({"status": status} if status else {}),
    }


def a_job(*, uid="j1", owner="b1", status=None, **spec):
    container = {"name": "runner", "env": [{"name": "INFERBENCH_PLAN", "value": "{}"}]}
    return {
        "metadata": {
            "namespace": "lab",
            "name": "resnet50-0123456789-0",
            "uid": uid,
            "creationTimestamp": "2026-01-01T12:00:00Z",
            "labels": {"inferbench.dev/benchmark": "resnet50", "inferbench.dev/stage": "0"},
            "ownerReferences": [{"uid": owner, "controller": True}],
        },
        "spec": {
            "completions": 4,
            "parallelism": 1,
            "suspend": False,
            "template": {"spec": {"containers": [container]}},
            **spec,
        },
        "status": status or {},
    }


def a_pod(*, uid="p1", job="j1", place="2", phase="Pending", status=None):
    return {
        "metadata": {
            "namespace": "lab",
            "name": f"resnet50-0123456789-0-{place}-abcde",
            "uid": uid,
            "creationTimestamp": "2026-01-01T12:00:01Z",
            "labels": {
                "inferbench.dev/benchmark": "resnet50",
                "batch.kubernetes.io/job-name": "resnet50-0123456789-0",
                "batch.kubernetes.io/job-completion-index": place,
            },
            "ownerReferences": [{"uid": job, "controller": True}],
        },
        "spec": {"nodeName": "node1"},
        "status": {"phase": phase, **(status or {})},
    }


def terminated(exit_code=0, message="{}", reason="Completed"):
    ended = {"exitCode": exit_code, "message": message, "reason": reason, "finishedAt": "2026-01-01T12:01:00Z"}
    return {"containerStatuses": [{"name": "runner", "state": {"terminated": ended}}]}


COMPLETE = {"conditions": [{"type": "Complete", "status": "True", "lastTransitionTime": "2026-01-01T12:09:00Z"}]}
FINISHED = {"conditions": [{"type": "Finished", "status": "True"}], "summary": {"long": "text"}, "shards": []}


@pytest.fixture
def cache():
    cache = Cache()
    cache.heard_benchmark("ADDED", a_benchmark())
    cache.heard_job("ADDED", a_job())
    return cache


def test_a_new_benchmark_has_to_be_looked_at():
    assert Cache().heard_benchmark("ADDED", a_benchmark()) == KEY


def test_the_same_benchmark_again_has_not(cache):
    assert cache.heard_benchmark("MODIFIED", a_benchmark(version="6")) is None


def test_a_changed_spec_has_to_be_looked_at(cache):
    changed = a_benchmark(version="6", generation=2) | {"spec": {"backends": ["fake"], "suspend": True}}

    assert cache.heard_benchmark("MODIFIED", changed) == KEY


def test_an_event_older_than_what_is_known_changes_nothing(cache):
    cache.heard_benchmark("MODIFIED", a_benchmark(version="20", status={"startTime": "x"}))

    assert cache.heard_benchmark("MODIFIED", a_benchmark(version="19")) is None
    assert cache.benchmarks[KEY].status == {"startTime": "x"}


def test_a_benchmark_of_the_same_name_made_anew_is_another_one(cache):
    assert cache.heard_benchmark("ADDED", a_benchmark(uid="b2", version="3")) == KEY
    assert cache.jobs(cache.benchmarks[KEY]) == ()


def test_the_end_of_the_old_one_does_not_take_the_new_one_along(cache):
    cache.heard_benchmark("ADDED", a_benchmark(uid="b2", version="9"))

    cache.heard_benchmark("DELETED", a_benchmark(uid="b1", version="10"))

    assert cache.benchmarks[KEY].uid == "b2"


def test_a_finished_benchmark_is_kept_without_its_summary(cache):
    cache.heard_benchmark("MODIFIED", a_benchmark(version="9", status=FINISHED))

    assert "summary" not in cache.benchmarks[KEY].status
    assert cache.heard_benchmark("MODIFIED", a_benchmark(version="10", status=FINISHED)) is None


def test_the_pods_of_a_finished_benchmark_are_forgotten(cache):
    cache.heard_pod("MODIFIED", a_pod(phase="Succeeded", status=terminated()))

    cache.heard_benchmark("MODIFIED", a_benchmark(version="9", status=FINISHED))

    assert cache.pods(cache.benchmarks[KEY]) == ()


def test_counters_of_a_job_that_change_with_every_pod_are_no_news(cache):
    assert cache.heard_job("MODIFIED", a_job(status={"active": 1, "ready": 1, "succeeded": 2})) is None


@pytest.mark.parametrize(
    "status",
    [
        {"failedIndexes": "1,3-4"},
        COMPLETE,
    ],
)
def test_what_decides_about_sweeps_is_news(cache, status):
    assert cache.heard_job("MODIFIED", a_job(status=status)) == KEY


def test_a_job_deleted_while_its_benchmark_runs_stays_known_as_gone(cache):
    assert cache.heard_job("DELETED", a_job()) == KEY
    assert [job.is_gone for job in cache.jobs(cache.benchmarks[KEY])] == [True]


def test_a_pod_that_is_scheduled_and_starts_is_no_news(cache):
    assert cache.heard_pod("ADDED", a_pod()) is None
    assert cache.heard_pod("MODIFIED", a_pod(phase="Running")) is None


def test_a_pod_that_ends_is_news_once(cache):
    ended = a_pod(phase="Succeeded", status=terminated())

    assert cache.heard_pod("MODIFIED", ended) == KEY
    assert cache.heard_pod("MODIFIED", copy.deepcopy(ended)) is None


def test_a_pod_that_cannot_be_scheduled_is_news(cache):
    waits = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes"}

    assert cache.heard_pod("MODIFIED", a_pod(status={"conditions": [waits]})) == KEY


def test_a_message_outlives_its_pod(cache):
    ended = a_pod(phase="Failed", status=terminated(137, "partial", "Error"))

    cache.heard_pod("DELETED", ended)

    (pod,) = cache.pods(cache.benchmarks[KEY])
    assert (pod.message, pod.exit_code) == (b"partial", 137)


def test_of_a_message_no_more_is_kept_than_shows_that_it_is_too_long(cache):
    cache.heard_pod("MODIFIED", a_pod(phase="Succeeded", status=terminated(0, "x" * 100_000)))

    (pod,) = cache.pods(cache.benchmarks[KEY])
    assert len(pod.message) == MAX_BYTES + 1


def test_a_pod_deleted_before_it_ended_is_forgotten(cache):
    cache.heard_pod("ADDED", a_pod())

    assert cache.heard_pod("DELETED", a_pod()) == KEY
    assert cache.pods(cache.benchmarks[KEY]) == ()


def test_a_pod_that_none_of_our_jobs_made_is_not_believed(cache):
    cache.heard_pod("ADDED", a_pod(uid="stranger", job="another-job", phase="Succeeded", status=terminated()))

    assert cache.pods(cache.benchmarks[KEY]) == ()


def test_an_object_with_our_label_that_is_not_ours_is_passed_over(cache):
    stranger = {
        "metadata": {"namespace": "lab", "name": "x", "uid": "x", "labels": {"inferbench.dev/benchmark": "resnet50"}}
    }

    assert cache.heard_job("ADDED", {**stranger, "spec": {}}) is None
    assert cache.heard_pod("ADDED", stranger) is None


def test_a_new_list_finds_what_was_deleted_unheard(cache):
    other = a_benchmark(uid="b9")
    other["metadata"]["name"] = "other"

    changed = cache.renew([other], [], [], LATER)

    assert changed == {KEY, Key("lab", "other")}
    assert KEY not in cache.benchmarks


def test_a_new_list_finds_jobs_that_are_gone(cache):
    cache.renew([a_benchmark()], [], [], LATER)

    assert [job.is_gone for job in cache.jobs(cache.benchmarks[KEY])] == [True]


def test_a_new_list_of_the_same_wakes_only_what_still_runs(cache):
    cache.heard_benchmark("MODIFIED", a_benchmark(version="9", status=FINISHED))

    assert cache.renew([a_benchmark(version="9", status=FINISHED)], [a_job()], [], LATER) == set()


def test_a_list_older_than_what_the_watches_told_changes_nothing(cache):
    ended = versioned(a_pod(phase="Succeeded", status=terminated()), "30")
    over = {"conditions": [{"type": "Complete", "status": "True"}]}
    cache.heard_benchmark("MODIFIED", a_benchmark(version="20", status={"startTime": "x"}))
    cache.heard_job("MODIFIED", versioned(a_job(status=over), "40"))
    cache.heard_pod("MODIFIED", ended)

    cache.renew([a_benchmark(version="5")], [versioned(a_job(), "6")], [versioned(a_pod(), "7")], 10)

    benchmark = cache.benchmarks[KEY]
    assert benchmark.status == {"startTime": "x"}
    assert [job.end for job in cache.jobs(benchmark)] == ["Complete"]
    assert [pod.has_ended for pod in cache.pods(benchmark)] == [True]


def versioned(raw, version):
    return {**raw, "metadata": {**raw["metadata"], "resourceVersion": version}}


def test_what_was_made_after_a_list_is_not_missing_in_it():
    cache = Cache()
    cache.heard_benchmark("ADDED", a_benchmark(version="20"))
    cache.heard_job("ADDED", versioned(a_job(), "21"))
    cache.heard_pod("ADDED", versioned(a_pod(), "22"))

    cache.renew([], [], [], 10)

    (job,) = cache.jobs(cache.benchmarks[KEY])
    assert not job.is_gone
    assert len(cache.pods(cache.benchmarks[KEY])) == 1


def test_a_list_does_not_bring_back_what_was_deleted_meanwhile(cache):
    cache.heard_benchmark("DELETED", a_benchmark(version="20"))

    assert cache.renew([a_benchmark(version="5")], [], [], 10) == set()
    assert cache.benchmarks == {}


def test_a_new_list_finds_pods_that_are_gone(cache):
    cache.heard_pod("ADDED", a_pod(uid="gone"))
    cache.heard_pod("ADDED", a_pod(uid="told", place="3", phase="Failed", status=terminated(1)))

    assert cache.renew([a_benchmark()], [a_job()], [], LATER) == {KEY}
    assert [pod.uid for pod in cache.pods(cache.benchmarks[KEY])] == ["told"]


def test_a_list_says_nothing_about_a_namespace_that_could_not_be_listed(cache):
    cache.heard_pod("MODIFIED", a_pod(phase="Running"))

    changed = cache.renew([], [], [], LATER, unlisted={"lab"})

    assert changed == set()
    assert [job.is_gone for job in cache.jobs(cache.benchmarks[KEY])] == [False]
    assert len(cache.pods(cache.benchmarks[KEY])) == 1


def test_a_job_as_the_server_answered_it_does_not_undo_what_was_heard_since(cache):
    cache.heard_job("MODIFIED", versioned(a_job(suspend=True), "30"))

    cache.keep_job(KEY, observing.job(versioned(a_job(), "29")))

    assert [job.is_suspended for job in cache.jobs(cache.benchmarks[KEY])] == [True]


def test_a_benchmark_as_the_server_answered_it_does_not_undo_what_was_heard_since(cache):
    cache.heard_benchmark("MODIFIED", a_benchmark(version="30", generation=2))

    cache.keep(observing.benchmark(a_benchmark(version="29", status={"startTime": "x"})))

    assert cache.benchmarks[KEY].generation == 2


def test_nothing_is_left_of_a_benchmark_whose_jobs_and_pods_go_after_it(cache):
    cache.heard_pod("MODIFIED", a_pod(phase="Succeeded", status=terminated()))

    cache.heard_benchmark("DELETED", a_benchmark(version="50"))
    cache.heard_pod("MODIFIED", a_pod(phase="Succeeded", status=terminated()))
    cache.heard_job("DELETED", a_job())
    cache.heard_pod("DELETED", a_pod(phase="Succeeded", status=terminated()))

    assert not cache._families


def test_nothing_is_left_of_a_benchmark_whose_pods_are_heard_of_once_more_after_it(cache):
    """Jobs and pods are watched apart, so the last words about them come in any order."""
    ended = a_pod(phase="Succeeded", status=terminated())
    cache.heard_benchmark("DELETED", a_benchmark(version="50"))
    cache.heard_job("MODIFIED", a_job())
    cache.heard_pod("DELETED", ended)
    cache.heard_job("DELETED", a_job())

    cache.renew([], [], [], LATER)

    assert not cache._families


def test_a_late_answer_does_not_bring_back_what_was_deleted_meanwhile(cache):
    cache.heard_benchmark("DELETED", a_benchmark(version="50"))

    cache.keep(observing.benchmark(a_benchmark(version="49", status={"startTime": "x"})))
    cache.keep_job(KEY, observing.job(versioned(a_job(), "48")))

    assert cache.benchmarks == {}
    assert (cache.running, cache._families) == (0, {})


def test_a_late_answer_does_not_hide_the_one_that_was_made_anew_meanwhile(cache):
    cache.heard_benchmark("DELETED", a_benchmark(version="50"))
    cache.heard_benchmark("ADDED", a_benchmark(uid="b2", version="51"))

    cache.keep(observing.benchmark(a_benchmark(version="49", status={"startTime": "x"})))
    cache.keep_job(KEY, observing.job(a_job()))

    assert cache.benchmarks[KEY].uid == "b2"
    assert cache.running == 0


def test_a_pod_that_has_to_end_is_news(cache):
    cache.heard_pod("MODIFIED", a_pod(phase="Running"))
    deleted = a_pod(phase="Running")
    deleted["metadata"]["deletionTimestamp"] = "2026-01-01T12:05:00Z"

    assert cache.heard_pod("MODIFIED", deleted) == KEY


ENDS = {
    "its end": lambda cache: cache.heard_job("MODIFIED", a_job(status=COMPLETE)),
    "its end, as the server answered": lambda cache: cache.keep_job(KEY, observing.job(a_job(status=COMPLETE))),
    "its deletion": lambda cache: cache.heard_job("DELETED", a_job()),
    "a list without it": lambda cache: cache.renew([a_benchmark()], [], [], LATER),
    "its wait in a queue": lambda cache: cache.heard_job("MODIFIED", a_job(suspend=True)),
    "the end of its benchmark": lambda cache: cache.heard_benchmark("DELETED", a_benchmark(version="50")),
}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_a_benchmark_runs_until_its_job_has_ended_or_waits(cache, end):
    before = cache.running

    end(cache)

    assert (before, cache.running) == (1, 0)


def test_a_job_that_no_benchmark_owns_does_not_run_for_one():
    """Counters of all benchmarks share what they may cost, so a Job that only has our labels must not count."""
    cache = Cache()

    cache.heard_job("ADDED", a_job())
    without = cache.running
    cache.heard_benchmark("ADDED", a_benchmark(uid="another"))
    of_another = cache.running
    cache.heard_benchmark("MODIFIED", a_benchmark(uid="b1", version="6"))

    assert (without, of_another, cache.running) == (0, 0, 1)
    assert cache.is_running(KEY)


def test_what_an_orphan_of_a_deleted_job_has_said_still_counts(cache):
    """`kubectl delete job --cascade=orphan` takes the owner off its pods, and leaves them their labels."""
    said = a_pod(phase="Succeeded", status=terminated())
    cache.heard_pod("MODIFIED", said)
    orphan = copy.deepcopy(said)
    del orphan["metadata"]["ownerReferences"]
    orphan["metadata"]["labels"]["batch.kubernetes.io/controller-uid"] = "j1"

    cache.heard_job("DELETED", a_job())
    cache.heard_pod("MODIFIED", orphan)

    assert [pod.message for pod in cache.pods(cache.benchmarks[KEY])] == [b"{}"]


def test_states_are_counted(cache):
    assert cache.count_benchmarks() == {"New": 1, "Running": 0, "Waiting": 0, "Succeeded": 0, "Failed": 0}
    assert cache.count_jobs() == {"Running": 1, "Suspended": 0, "Complete": 0, "Failed": 0}
