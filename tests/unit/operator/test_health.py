"""Health: what each probe looks at, and what the two answers are made of."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from inferbench_operator import health
from inferbench_operator.health import FirstPass, Health, WatchAges
from inferbench_operator.workqueue import Backlog, Queue
from tests import virtual_time


class Time:
    """Seconds that a test moves."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def time():
    return Time()


def well():
    return None


def ill():
    return "It hurts."


def test_all_is_well_when_no_probe_complains():
    healthy = Health({"loop": well}, {"caches": well})

    assert healthy.why_not_alive() == ()
    assert healthy.why_not_ready() == ()


def test_a_complaint_names_its_probe():
    assert Health({"loop": well, "workers": ill}, {}).why_not_alive() == ("workers: It hurts.",)


def test_what_is_not_alive_is_not_ready_and_what_is_not_ready_may_be_alive():
    """A restart does not fill caches faster."""
    starting, broken = Health({}, {"caches": ill}), Health({"loop": ill}, {"caches": well})

    assert (starting.why_not_alive(), starting.why_not_ready()) == ((), ("caches: It hurts.",))
    assert (broken.why_not_alive(), broken.why_not_ready()) == (("loop: It hurts.",), ("loop: It hurts.",))


def test_a_worker_that_has_ended_is_missed():
    async def main():
        workers = [asyncio.create_task(asyncio.sleep(seconds)) for seconds in (1, 100)]
        probe = health.workers_alive(workers)
        before = probe()
        await asyncio.sleep(2)
        after = probe()
        workers[1].cancel()
        return before, after

    assert virtual_time.run(main()) == (None, "1 of 2 workers have ended.")


def test_a_look_that_does_not_end_is_stuck(time):
    backlog = Backlog()
    queue = Queue(time, backlog)
    probe = health.not_stuck(queue)
    queue.add(("team-a", "resnet50"))
    time.now = 1_000
    assert probe() is None, "waiting is not being stuck"

    backlog.take(1_000)
    time.now = 1_300
    assert probe() is None
    time.now = 1_301
    assert probe() == "A look at a benchmark has lasted 301 s; expected at most 300 s."
    queue.done(("team-a", "resnet50"))
    assert probe() is None


def test_a_watch_without_a_sign_of_life_is_dead(time):
    watches = WatchAges([("jobs", None), ("pods", None)], time)
    probe = health.watches_alive(watches)

    time.now = 540
    assert probe() is None
    watches.heard("pods")
    time.now = 541
    assert probe() == "The watch of jobs was last heard 541 s ago; expected at most 540 s."
    assert watches.seconds() == {"jobs": 541, "pods": 1}
    watches.heard("jobs")
    assert probe() is None


def test_what_else_is_heard_is_no_watch_of_ours(time):
    watches = WatchAges([("jobs", None)], time)

    watches.heard("namespaces")

    assert list(watches.seconds()) == ["jobs"]


def test_of_a_watch_in_several_namespaces_the_silent_one_counts(time):
    watches = WatchAges([("pods", "team-a"), ("pods", "team-b")], time)

    time.now = 541
    watches.heard("pods", "team-a")

    assert watches.seconds() == {"pods": 541}
    assert health.watches_alive(watches)() == "The watch of pods was last heard 541 s ago; expected at most 540 s."
    watches.heard("pods", "team-b")
    assert health.watches_alive(watches)() is None


def test_a_watch_that_opens_as_often_as_it_should_is_alive():
    assert health.MAX_WATCH_AGE_SECONDS > 2 * health.WATCH_SECONDS


def test_a_loop_that_is_late_does_not_do_its_work():
    metrics = SimpleNamespace(last_lag_seconds=5.0)
    probe = health.loop_in_time(metrics)

    assert probe() is None
    metrics.last_lag_seconds = 5.1
    assert probe() == "The event loop was 5.1 s late; expected at most 5 s."


# ---- the first pass ------------------------------------------------------------------------------


def test_results_are_told_once_all_that_had_ended_was_looked_at():
    first = FirstPass()
    healthy = Health({}, {}, {"results": first.why_not_over})
    assert healthy.why_no_results() == ("results: The cluster has not been listed yet.",)

    first.looked_at("early")
    first.expect(["a", "b"])
    first.looked_at("a")
    (told,) = healthy.why_no_results()
    assert told.startswith("results: 1 of 2 benchmarks that had ended before the operator started are still to be read")
    assert healthy.why_not_ready() == (), "it serves all others meanwhile"

    first.looked_at("b")
    assert healthy.why_no_results() == ()


def test_where_nothing_has_ended_the_first_pass_is_over_with_the_list():
    first = FirstPass()

    first.expect([])

    assert first.why_not_over() is None
