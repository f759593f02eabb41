"""The cache keeps what the watches tell, and says which benchmark has to be looked at."""

from __future__ import annotations

import copy

import pytest

from inferbench_operator.cache import Cache
from inferbench_operator.observed import Key

KEY = Key("lab", "resnet50")


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


def test_counters_of_a_job_that_change_with_every_pod_are_no_news(cache):
    assert cache.heard_job("MODIFIED", a_job(status={"active": 1, "ready": 1, "succeeded": 2})) is None


@pytest.mark.parametrize(
    "status",
    [
        {"failedIndexes": "1,3-4"},
        {"conditions": [{"type": "Complete", "status": "True", "lastTransitionTime": "2026-01-01T12:09:00Z"}]},
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

    changed = cache.renew([other], [], [])

    assert changed == {KEY, Key("lab", "other")}
    assert KEY not in cache.benchmarks


def test_a_new_list_finds_jobs_that_are_gone(cache):
    cache.renew([a_benchmark()], [], [])

    assert [job.is_gone for job in cache.jobs(cache.benchmarks[KEY])] == [True]


def test_a_new_list_of_the_same_wakes_only_what_still_runs(cache):
    cache.heard_benchmark("MODIFIED", a_benchmark(version="9", status=FINISHED))

    assert cache.renew([a_benchmark(version="9", status=FINISHED)], [a_job()], []) == set()


def test_states_are_counted(cache):
    assert cache.count_benchmarks() == {"New": 1, "Running": 0, "Waiting": 0, "Succeeded": 0, "Failed": 0}
    assert cache.count_jobs() == {"Running": 1, "Suspended": 0, "Complete": 0, "Failed": 0}
