"""Clocks that disagree: the operator's goes back and forth, the cluster's does not. The World plays the cluster."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings

from inferbench_operator.observed import Trouble, has_passed
from tests.clusters import NOW, SETTINGS, World, a_pod, condition, outcomes, wanted

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
SKEWS = [timedelta(0), timedelta(seconds=-1), timedelta(seconds=1), -HOUR, HOUR, -DAY, DAY]
"""How far the operator's clock is ahead."""


@dataclass
class Skewed(World):
    """A world whose operator has a clock of its own."""

    skew: timedelta = timedelta(0)

    def look(self):
        self.now += self.skew
        try:
            return super().look()
        finally:
            self.now -= self.skew

    def _begin(self, manifest):
        self.now -= self.skew  # the API server's clock says when an object was created
        super()._begin(manifest)
        self.now += self.skew


def settled(world):
    """Let a benchmark end, and return how many seconds the cluster's clock went on meanwhile."""
    began = world.now
    world.settle()
    return (world.now - began).total_seconds()


@pytest.mark.parametrize("skew", SKEWS, ids=str)
def test_a_lost_sweep_is_measured_again_within_seconds_whatever_the_clock_says(skew):
    world = Skewed(wanted(), lambda sweep, attempt: "silent" if (sweep, attempt) == (1, 1) else "well", skew=skew)

    took = settled(world)

    assert [job.sweeps for job in world.jobs.values()] == [None, (1,)]
    assert condition(world.status, "Succeeded")["status"] == "True"
    assert took < 60


@pytest.mark.parametrize("skew", SKEWS, ids=str)
def test_pods_that_no_node_takes_are_explained_within_seconds_whatever_the_clock_says(skew):
    world = Skewed(wanted(), skew=skew)
    world.look()
    (job,) = world.jobs.values()
    world.pods = {"pod": a_pod(job, created=world.now, trouble=Trouble("Unschedulable", "0/3 nodes are available."))}

    for _ in range(10):
        world.look()
        world.pass_time(1)

    assert condition(world.status, "Running")["reason"] == "Unschedulable"


@pytest.mark.parametrize("jump", [-HOUR, HOUR, -DAY], ids=str)
def test_counters_go_on_after_the_clock_has_jumped(jump):
    world = Skewed(wanted(measurement={"rounds": 40}))
    while world.status.get("sweeps", {}).get("finished", 0) < 2:
        world.look()
        world.step()
        world.pass_time(1)
    world.skew = jump
    before = world.status["sweeps"]["finished"]

    for _ in range(12):
        world.look()
        world.step()
        world.pass_time(1)

    assert world.status["sweeps"]["finished"] > before


def test_a_clock_that_goes_back_does_not_end_what_is_blocked():
    world = Skewed(wanted())
    world.look()
    (job,) = world.jobs.values()
    world.pods = {"pod": a_pod(job, created=NOW, trouble=Trouble("ImagePullBackOff", "not found"))}
    world.pass_time(3)
    world.look()
    world.skew = timedelta(seconds=-2 * SETTINGS.stuck_after_seconds)

    world.look()

    assert condition(world.status, "Finished")["status"] == "False"


@pytest.mark.parametrize(
    ("age", "expected"), [(0, False), (9, False), (10, True), (-9, False), (-10, True), (86_400, True)]
)
def test_a_wait_ends_after_its_time_and_also_where_its_beginning_cannot_be_true(age, expected):
    assert has_passed(NOW - timedelta(seconds=age), timedelta(seconds=10), NOW) is expected


@given(data=st.data())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.data_too_large, HealthCheck.too_slow])
def test_however_the_clock_goes_the_results_are_those_of_a_good_one(data):
    fates = {
        (sweep, 1): data.draw(st.sampled_from(["well", "well", "crash", "silent", "oom", "garbage"]))
        for sweep in range(4)
    }
    asked = wanted(batch_sizes=[1, 8], measurement={"rounds": 4}, max_failed_cells=100)

    def fate(sweep, attempt):
        return fates.get((sweep, attempt), "well")

    good = World(asked, fate)
    good.settle()
    world = Skewed(asked, fate)
    for _ in range(data.draw(st.integers(0, 30))):
        world.skew = data.draw(st.sampled_from(SKEWS))
        world.look()
        world.step()
        world.pass_time(1)

    world.settle()

    assert told(world) == told(good)
    assert len(world.jobs_made) == len(good.jobs_made)


def told(world):
    """Return what a benchmark came to, without what names the moment."""
    cells = {
        sweep: [replace(cell, reason="") for cell in found] for sweep, found in outcomes(world.shards.values()).items()
    }
    return cells, condition(world.status, "Succeeded")["reason"], world.status["cells"]
