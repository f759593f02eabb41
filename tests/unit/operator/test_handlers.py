"""What follows from an event: which benchmark is looked at, and how soon."""

from __future__ import annotations

import pytest

from inferbench_operator import handlers
from inferbench_operator.cache import Cache
from inferbench_operator.observed import Key
from inferbench_operator.settings import Settings
from inferbench_operator.workqueue import Backlog, Queue

KEY = Key("lab", "resnet50")
STATUS_SECONDS = 5.0
SETTINGS = Settings(status_interval_seconds=5)
NOW = 100.0

ENDED = {"phase": "Succeeded"}
IMAGE_MISSING = {
    "phase": "Pending",
    "containerStatuses": [{"name": "runner", "state": {"waiting": {"reason": "ImagePullBackOff"}}}],
}
RUNNING = {"phase": "Running"}
COMPLETE = {"conditions": [{"type": "Complete", "status": "True", "lastTransitionTime": "2026-01-01T12:02:00Z"}]}


class Ears:
    """Who hears of Jobs and pods, at a time that stands still."""

    def __init__(self):
        self.backlog = Backlog[Key]()
        cache, queue = Cache(), Queue(lambda: NOW, self.backlog)
        cache.heard_benchmark("ADDED", a_benchmark())
        self.job = handlers.on_job(cache, queue)
        self.pod = handlers.on_pod(cache, queue, SETTINGS)

    def seconds(self):
        """Return in how many seconds the benchmark is looked at; None: not for this."""
        if self.backlog.depth:
            assert self.backlog.take(NOW) == KEY
            return 0.0
        due = self.backlog.next_due()
        return None if due is None else due - NOW


@pytest.fixture
def ears():
    """Everybody, after the look at a Job that was just made."""
    there = Ears()
    there.job("ADDED", a_job())
    assert there.seconds() == 0
    there.backlog.done(KEY)
    return there


def a_benchmark():
    return {"metadata": {"namespace": "lab", "name": "resnet50", "uid": "b1"}, "spec": {}}


def a_job(**status):
    container = {"name": "runner", "env": [{"name": "INFERBENCH_PLAN", "value": "{}"}]}
    spec = {"completions": 4, "parallelism": 1, "template": {"spec": {"containers": [container]}}}
    return {"metadata": metadata("0", "j1", {"inferbench.dev/stage": "0"}, "b1"), "spec": spec, "status": status}


def a_pod(status):
    labels = {"batch.kubernetes.io/job-name": "0", "batch.kubernetes.io/job-completion-index": "2"}
    return {"metadata": metadata("0-2-abcde", "p1", labels, "j1"), "status": status}


def metadata(name, uid, labels, owner):
    head = {"namespace": "lab", "name": name, "uid": uid, "creationTimestamp": "2026-01-01T12:00:00Z"}
    owners = [{"uid": owner, "controller": True}]
    return {**head, "labels": {"inferbench.dev/benchmark": "resnet50", **labels}, "ownerReferences": owners}


@pytest.mark.parametrize(
    ("status", "seconds"),
    [
        pytest.param(IMAGE_MISSING, handlers.PODS_SECONDS, id="what keeps pods from starting is told together"),
        pytest.param(ENDED, STATUS_SECONDS, id="an end moves a counter, which waits for the status"),
        pytest.param(RUNNING, None, id="nothing depends on a pod that runs"),
    ],
)
def test_news_of_pods_wait_for_each_other_while_their_job_runs(ears, status, seconds):
    ears.pod("MODIFIED", a_pod(status))

    assert ears.seconds() == seconds


def test_the_end_of_a_job_waits_for_nothing(ears):
    ears.pod("MODIFIED", a_pod(ENDED))

    ears.job("MODIFIED", a_job(**COMPLETE))

    assert ears.seconds() == 0


def test_an_end_that_comes_after_the_jobs_own_waits_for_nothing(ears):
    ears.job("MODIFIED", a_job(**COMPLETE))
    assert ears.seconds() == 0
    ears.backlog.done(KEY)

    ears.pod("MODIFIED", a_pod(ENDED))

    assert ears.seconds() == 0
