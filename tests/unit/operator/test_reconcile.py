"""The rule of the operator, one benchmark at a time: what is observed, and what follows."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from datetime import timedelta

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings

from inferbench_contract import shards as packing
from inferbench_contract import summary
from inferbench_contract.fields import MAX_ITEMS
from inferbench_contract.spec import MAX_CELL_ROUNDS
from inferbench_contract.words import Outcome
from inferbench_operator import reconcile
from inferbench_operator.observed import Refusal, Shard, Trouble
from inferbench_operator.reconcile import Decision, JobPatch, Written, decide
from tests.clusters import NOW, SETTINGS, World, a_job, a_pod, condition, outcomes, seen, wanted, writes_nothing
from tests.results import results_for


def test_a_new_benchmark_gets_the_job_of_its_planned_rounds():
    world = World(wanted())

    world.look()

    (job,) = world.jobs.values()
    assert (job.stage, job.completions, job.sweeps) == (0, 2, None)


def test_a_new_benchmark_says_at_once_that_it_is_accepted_and_runs():
    world = World(wanted())

    world.look()

    told = {each["type"]: (each["status"], each["reason"]) for each in world.status["conditions"]}
    assert told == {
        "Accepted": ("True", "Planned"),
        "Running": ("True", "SweepsRunning"),
        "Suspended": ("False", "NotSuspended"),
        "HardwareUniform": ("Unknown", "NothingMeasured"),
        "ResultsComplete": ("False", "Measuring"),
        "ExpectationsMet": ("True", "NoneStated"),
        "Succeeded": ("Unknown", "SweepsRunning"),
        "Finished": ("False", "SweepsRunning"),
    }


def test_deciding_again_gives_nothing_to_do():
    world = World(wanted())
    world.look()

    assert writes_nothing(world.look())


def test_a_benchmark_whose_sweeps_all_end_well_has_succeeded():
    world = World(wanted())

    world.settle()

    assert condition(world.status, "Succeeded")["status"] == "True"
    assert condition(world.status, "Finished")["status"] == "True"
    assert world.status["sweeps"] == {"planned": 2, "finished": 2}


def test_the_summary_in_the_status_is_the_one_that_local_mode_writes():
    world = World(wanted(backends=["torch-eager", "onnxruntime"], batch_sizes=[1, 8], measurement={"rounds": 4}))

    world.settle()

    results = [result for shard in world.shards.values() for result in shard.results]
    expected = summary.summarize(world.asked, world.plan, results).document()
    assert world.status["summary"] == {key: value for key, value in expected.items() if value is not None}


def test_every_cell_is_in_a_shard_before_the_status_says_so():
    world = World(wanted(batch_sizes=[1, 8]))

    world.settle()

    assert outcomes(world.shards.values()).keys() == {0, 1}
    assert [shard["configMap"] for shard in world.status["shards"]] == list(world.config_maps)


def test_jobs_may_be_collected_once_everything_is_safe():
    world = World(wanted())

    world.settle()

    assert [job.ttl_seconds for job in world.jobs.values()] == [SETTINGS.job_ttl_seconds]


def test_an_operator_that_died_after_the_last_status_still_posts_the_event_and_lets_the_job_go():
    world = World(wanted())
    world.settle()
    said = dict(world.events)
    world.events.clear()
    world.jobs = {name: replace(job, ttl_seconds=None) for name, job in world.jobs.items()}

    decision = world.look()

    assert decision.status is None
    assert world.events.keys() <= said.keys()
    assert len(world.events) == 1
    assert [job.ttl_seconds for job in world.jobs.values()] == [SETTINGS.job_ttl_seconds]


def test_a_wrong_benchmark_ends_at_once_and_says_every_mistake():
    asked = wanted()
    observed = replace(World(asked).observed, wanted=None, plan=None, mistakes=("example: spec.backends: found x.",))

    decision = decide(observed, SETTINGS, NOW, Written())

    assert decision.job is None
    assert condition(decision.status, "Accepted")["message"] == "example: spec.backends: found x."
    assert condition(decision.status, "Succeeded") | {"lastTransitionTime": ""} == {
        "type": "Succeeded",
        "status": "False",
        "reason": "InvalidSpec",
        "message": "example: spec.backends: found x.",
        "lastTransitionTime": "",
        "observedGeneration": 1,
    }
    assert condition(decision.status, "Finished")["status"] == "True"


def test_a_benchmark_of_which_nothing_is_supported_ends_without_a_job():
    world = World(wanted(backends=["tensorrt"]))

    world.settle()

    assert not world.jobs
    assert condition(world.status, "Succeeded")["reason"] == "NothingSupported"


# ---- bad days ------------------------------------------------------------------------------------


@pytest.mark.parametrize("fate", ["silent", "garbage", "foreign", "deleted"])
def test_a_sweep_whose_message_is_lost_is_run_once_more(fate):
    world = World(wanted(), lambda sweep, attempt: fate if (sweep, attempt) == (1, 1) else "well")

    world.settle()

    assert [(job.stage, job.sweeps) for job in world.jobs.values()] == [(0, None), (1, (1,))]
    assert condition(world.status, "Succeeded")["status"] == "True"


@pytest.mark.parametrize("fate", ["silent", "garbage", "foreign", "stopped"])
def test_a_sweep_that_never_gives_a_result_fails_after_two_stages(fate):
    world = World(wanted(), lambda sweep, _: fate if sweep == 1 else "well")

    world.settle()

    assert len(world.jobs) == 2
    assert condition(world.status, "Succeeded")["reason"] == "TooManyFailedCells"
    assert condition(world.status, "ResultsComplete")["reason"] == "ResultsLost"


def test_a_runner_killed_while_it_measured_crashes_the_cell_in_flight_without_a_retry():
    world = World(wanted(), lambda sweep, _: "killed" if sweep == 1 else "well")

    world.settle()

    assert [cell.outcome for cell in outcomes(world.shards.values())[1]] == [Outcome.CRASHED]
    assert world.tries == {0: 1, 1: 1}


def test_a_container_killed_for_memory_ends_its_cell_in_flight_and_the_larger_ones_without_a_retry():
    world = World(wanted(batch_sizes=[1, 2, 4, 8]), lambda *_: "oom")

    world.settle()

    found = outcomes(world.shards.values())[0]
    assert [cell.outcome for cell in found] == [Outcome.MEASURED] * 2 + [Outcome.OUT_OF_MEMORY] * 2
    assert found[2].reason.startswith("HostMemory:")
    assert found[3].reason.startswith("AfterOutOfMemory:")
    assert world.tries == {0: 1, 1: 1}


def test_a_pod_past_its_deadline_times_out_what_it_had_not_measured():
    world = World(wanted(batch_sizes=[1, 2]), lambda *_: "deadline")

    world.settle()

    assert [cell.outcome for cell in outcomes(world.shards.values())[0]] == [Outcome.MEASURED, Outcome.TIMED_OUT]


def test_a_runner_that_dies_once_is_tried_again_and_what_was_measured_counts():
    world = World(wanted(batch_sizes=[1, 2]), lambda _, attempt: "crash" if attempt == 1 else "well")

    world.settle()

    assert len(world.jobs) == 1
    assert condition(world.status, "Succeeded")["reason"] == "AllCellsMeasured"


def test_a_runner_that_always_dies_crashes_the_cell_in_flight():
    world = World(wanted(batch_sizes=[1, 2]), lambda *_: "crash")

    world.settle()

    assert [cell.outcome for cell in outcomes(world.shards.values())[0]] == [Outcome.MEASURED, Outcome.CRASHED]


def test_a_machine_that_lacks_something_ends_the_benchmark_with_its_words():
    world = World(wanted(), lambda sweep, _: "fault" if sweep == 1 else "well")

    world.settle()

    succeeded = condition(world.status, "Succeeded")
    assert (succeeded["status"], succeeded["reason"]) == ("False", "EnvironmentFault")
    assert succeeded["message"].startswith("There is no GPU.")
    assert outcomes(world.shards.values()).keys() == {0}


def test_a_wrong_configuration_in_the_pod_fails_its_cells():
    world = World(wanted(), lambda *_: "misconfigured")

    world.settle()

    (cell,) = outcomes(world.shards.values())[0]
    assert (cell.outcome, cell.reason.partition(":")[0]) == (Outcome.FAILED, "BadConfiguration")
    assert len(world.jobs) == 1


def test_a_job_deleted_by_hand_is_followed_by_one_with_what_was_missing():
    world = World(wanted(measurement={"rounds": 4}))
    for _ in range(4):
        world.look()
        world.step()
    world.look()
    world.delete_job()

    world.settle()

    assert [(job.stage, job.sweeps) for job in world.jobs.values()] == [(0, None), (1, (2, 3))]
    assert condition(world.status, "Succeeded")["status"] == "True"


def test_a_job_that_was_deleted_while_no_operator_ran_is_followed_by_another_stage():
    world = World(wanted())
    world.look()
    world.delete_job()
    world.restart()

    world.settle()

    assert [job.stage for job in world.jobs.values()] == [1]
    assert condition(world.status, "Succeeded")["status"] == "True"


def test_a_shard_deleted_by_hand_while_the_benchmark_runs_is_measured_again():
    quick = SETTINGS.model_copy(update={"shard_after_seconds": 1, "status_interval_seconds": 1})
    world = World(wanted(measurement={"rounds": 4}), settings=quick)
    while not world.status.get("shards"):
        world.look()
        world.step()
        world.pass_time(2)
    world.look()
    (name,) = world.config_maps
    del world.config_maps[name]
    world.restart()
    world.pods.clear()

    world.settle()

    assert name in world.config_maps
    assert outcomes(world.shards.values()).keys() == {0, 1, 2, 3}


def test_rows_that_are_gone_after_the_end_are_said_once():
    world = World(wanted())
    world.settle()
    world.config_maps.clear()

    first = world.look()

    complete = next(each for each in first.conditions if each["type"] == "ResultsComplete")
    assert (complete["status"], complete["reason"]) == ("False", "ShardMissing")
    world.status = {**world.status, "conditions": first.conditions}
    assert writes_nothing(world.look())


# ---- suspending, changing, waiting ---------------------------------------------------------------


def test_a_suspended_benchmark_gets_no_job():
    world = World(wanted(suspend=True))

    world.look()

    assert not world.jobs
    assert condition(world.status, "Suspended")["status"] == "True"


def test_a_benchmark_that_is_suspended_while_it_runs_stops_and_keeps_what_is_done():
    world = World(wanted(measurement={"rounds": 4}))
    for _ in range(4):
        world.look()
        world.step()
    world.asked = wanted(measurement={"rounds": 4}, suspend=True)
    world.look()
    assert all(job.is_suspended for job in world.jobs.values())

    world.asked = wanted(measurement={"rounds": 4})
    world.settle()

    assert world.tries == {0: 1, 1: 1, 2: 1, 3: 1}


def test_parallelism_may_change_while_it_runs():
    world = World(wanted(measurement={"rounds": 4}))
    world.look()
    world.asked = wanted(measurement={"rounds": 4}, parallelism=3)

    world.look()

    assert [job.parallelism for job in world.jobs.values()] == [3]


def test_a_queued_job_is_left_to_kueue():
    asked = wanted(queue_name="gpu-queue")
    world = World(asked)
    world.look()
    assert [job.is_suspended for job in world.jobs.values()] == [True]

    decision = world.look()

    assert not decision.job_patches
    assert condition(world.status, "QuotaReserved")["reason"] == "Waiting"


def test_pods_that_no_node_takes_are_explained_within_seconds():
    world = World(wanted())
    world.look()
    (job,) = world.jobs.values()
    why = Trouble("Unschedulable", "0/3 nodes are available: 3 Insufficient nvidia.com/gpu.")
    world.pods = {"pod": a_pod(job, created=world.now, trouble=why)}
    first = world.look()
    assert first.again_after is not None
    assert first.again_after <= timedelta(seconds=2)
    world.pass_time(2)

    world.look()

    running = condition(world.status, "Running")
    assert (running["status"], running["reason"]) == ("False", "Unschedulable")
    assert "Insufficient nvidia.com/gpu" in running["message"]
    assert condition(world.status, "Succeeded")["reason"] == "Unschedulable"
    assert {event["reason"] for event in world.events.values()} == {"Planned", "Unschedulable"}


def test_a_second_pod_that_waits_for_the_only_gpu_is_no_obstacle():
    world = World(wanted(parallelism=2))
    world.look()
    (job,) = world.jobs.values()
    why = Trouble("Unschedulable", "0/1 nodes are available: 1 Insufficient nvidia.com/gpu.")
    world.pods = {
        "one": a_pod(job, 0, uid="one", phase="Running"),
        "two": a_pod(job, 1, uid="two", trouble=why),
    }
    world.pass_time(60)

    world.look()

    assert condition(world.status, "Running")["status"] == "True"


def test_what_blocks_a_benchmark_for_a_day_ends_it():
    world = World(wanted())
    world.look()
    (job,) = world.jobs.values()
    world.pods = {"pod": a_pod(job, created=world.now, trouble=Trouble("ImagePullBackOff", "not found"))}
    world.pass_time(3)
    world.look()
    world.pass_time(SETTINGS.stuck_after_seconds)

    world.look()

    assert condition(world.status, "Finished")["status"] == "True"
    assert condition(world.status, "Succeeded")["reason"] == "ImagePullFailed"
    assert [job.is_suspended for job in world.jobs.values()] == [True]


def test_a_job_that_the_server_refuses_for_good_ends_the_benchmark():
    world = World(wanted(), refusal=Refusal("JobRefused", "spec.template is wrong", is_final=True))

    decision = decide(world.observed, SETTINGS, NOW, Written())

    assert condition(decision.status, "Accepted")["reason"] == "JobRefused"
    assert condition(decision.status, "Finished")["status"] == "True"


def test_a_quota_that_is_used_up_is_said_and_waited_for():
    world = World(wanted(), refusal=Refusal("QuotaExceeded", "exceeded quota: gpus", is_final=False))

    decision = decide(world.observed, SETTINGS, NOW, Written())

    assert decision.job is not None
    assert condition(decision.status, "Running")["reason"] == "QuotaExceeded"
    assert condition(decision.status, "Finished")["status"] == "False"


def test_a_finished_benchmark_is_deleted_when_its_time_has_come():
    world = World(wanted(ttl_seconds_after_finished=60))
    world.settle()
    assert not world.is_deleted
    world.pass_time(61)

    world.look()

    assert world.is_deleted


def test_a_benchmark_that_is_being_deleted_is_left_alone():
    observed = replace(World(wanted()).observed, benchmark=seen(wanted(), is_deleting=True))

    assert writes_nothing(decide(observed, SETTINGS, NOW, Written()))


def test_a_namespace_that_is_being_deleted_ends_the_job_that_would_wait_for_a_pod_for_ever():
    world = World(wanted())
    world.look()
    (job,) = world.jobs.values()

    decision = decide(replace(world.observed, is_namespace_leaving=True), SETTINGS, NOW, Written())

    assert decision == Decision(job_patches=(JobPatch(job.name, {"activeDeadlineSeconds": 1}),))


# ---- how much is written -------------------------------------------------------------------------


def test_twelve_pods_side_by_side_cost_at_most_ten_writes():
    world = World(wanted(batch_sizes=list(range(1, 17)), measurement={"rounds": 12}, parallelism=12))

    world.settle()

    assert world.writes <= 10


def test_counters_are_written_every_few_seconds_at_most():
    world = World(wanted(measurement={"rounds": 12}))

    world.settle()

    seconds = (world.now - NOW).total_seconds()
    assert world.writes <= 10 + seconds / SETTINGS.status_interval_seconds


def test_pods_that_wait_one_by_one_for_a_shared_gpu_cost_one_event_and_what_counters_cost():
    world = World(wanted(measurement={"rounds": 48}))
    world.look()
    for _ in world.plan.sweeps:
        world.step()
        world.hinder()
        world.pass_time(3)
        world.look()
        world.step()
        world.look()
        world.pass_time(1)
        world.step()
        world.look()

    world.settle()

    seconds = (world.now - NOW).total_seconds()
    assert world.writes <= 10 + seconds / SETTINGS.status_interval_seconds
    assert sorted(event["reason"] for event in world.events.values()) == ["Planned", "Succeeded", "Unschedulable"]


def hindered():
    """Return a world whose only pod waited for a GPU, which the status has told, and runs now."""
    world = World(wanted())
    world.look()
    world.step()
    world.hinder()
    world.pass_time(3)
    world.look()
    assert condition(world.status, "Running")["reason"] == "Unschedulable"
    world.step()
    return world


def test_what_stands_in_the_way_again_and_that_it_goes_on_are_told_with_the_counters():
    world, seconds = hindered(), SETTINGS.status_interval_seconds

    for reason, stands_in_the_way in [("SweepsRunning", False), ("Unschedulable", True)]:
        if stands_in_the_way:
            world.hinder()
        assert world.look().status is None
        assert world.look().again_after == timedelta(seconds=seconds)
        world.pass_time(seconds)
        world.look()
        assert condition(world.status, "Running")["reason"] == reason
    assert sorted(event["reason"] for event in world.events.values()) == ["Planned", "Unschedulable"]


def test_another_reason_why_nothing_runs_is_told_at_once():
    world = hindered()
    world.hinder(Trouble("ImagePullBackOff", "not found"))

    world.look()

    assert condition(world.status, "Running")["reason"] == "ImagePullFailed"
    assert {event["reason"] for event in world.events.values()} == {"Planned", "Unschedulable", "ImagePullFailed"}


def test_an_operator_that_starts_anew_posts_no_second_event_about_what_stands_in_the_way():
    world = hindered()
    world.look()
    world.pass_time(SETTINGS.status_interval_seconds)
    world.look()
    world.restart()
    world.hinder(Trouble("Unschedulable", "another pod waits"))

    world.look()

    assert condition(world.status, "Running")["reason"] == "Unschedulable"
    assert sorted(event["reason"] for event in world.events.values()) == ["Planned", "Unschedulable"]


def test_where_many_run_counters_wait_longer():
    world = World(wanted(measurement={"rounds": 12}))
    world.settle()
    crowded = World(wanted(measurement={"rounds": 12}), running=60)
    crowded.settle()

    assert crowded.writes < world.writes
    assert crowded.status["sweeps"] == world.status["sweeps"]


def test_results_do_not_stay_in_pods_for_long():
    world = World(wanted(measurement={"rounds": 40}), settings=SETTINGS.model_copy(update={"shard_after_seconds": 10}))

    world.settle()

    assert 2 <= len(world.config_maps) <= 10


def with_shards(count):
    """Return what is observed of a running benchmark with so many shards, and a result that has waited for a day."""
    world = World(wanted(measurement={"rounds": 4}))
    world.look()
    world.step()
    world.step()
    (job,) = world.jobs.values()
    shards = tuple(Shard(f"r{number}", "0" * 64, ()) for number in range(count))
    return replace(world.observed, jobs=(replace(job, created=NOW - timedelta(days=1)),), shards=shards)


@pytest.mark.parametrize(
    ("count", "is_due"), [(reconcile.MAX_EARLY_SHARDS - 1, True), (reconcile.MAX_EARLY_SHARDS, False)]
)
def test_a_shard_that_is_not_full_waits_once_there_are_many(count, is_due):
    decision = decide(with_shards(count), SETTINGS, NOW + timedelta(days=1), Written(NOW))

    assert (decision.shard is not None) == is_due


def test_the_plan_goes_into_the_next_shard_where_the_one_that_held_it_was_deleted():
    later = NOW + timedelta(days=1)

    kept, lost = (
        decide(replace(with_shards(1), shards=(Shard("r0", "0" * 64, (), has_plan),)), SETTINGS, later, Written(NOW))
        for has_plan in (True, False)
    )

    assert packing.PLAN not in kept.shard.data
    assert packing.PLAN in lost.shard.data


def test_results_that_cannot_be_kept_are_told_while_their_job_runs_on():
    waiting = with_shards(0)
    assert decide(waiting, SETTINGS, NOW + timedelta(days=1), Written(NOW)).shard is not None

    blocked = replace(waiting, unkept=Trouble("QuotaExceeded", "Raise it."))
    decision = decide(blocked, SETTINGS, NOW + timedelta(days=1), Written(NOW))

    assert decision.shard is None
    assert decision.again_after != timedelta(0)
    assert condition(decision.status, "ResultsComplete")["reason"] == "QuotaExceeded"
    assert condition(decision.status, "Running")["status"] == "True"


def test_nothing_ends_and_no_stage_begins_while_results_cannot_be_kept():
    world = World(wanted(measurement={"rounds": 4}), lambda sweep, _: "fault" if sweep == 1 else "well")
    world.refuses_shards = True

    for _ in range(20):
        world.look()
        world.step()
        world.pass_time(60)

    assert (len(world.jobs_made), world.is_finished) == (1, False)
    assert condition(world.status, "Running")["reason"] == "QuotaExceeded"
    world.refuses_shards = False
    world.settle()
    assert condition(world.status, "Succeeded")["reason"] == "EnvironmentFault"
    assert outcomes(world.shards.values()).keys() == {0}


def test_a_status_has_room_for_all_shards_that_the_longest_benchmark_makes():
    full = math.ceil(MAX_CELL_ROUNDS / packing.MAX_RESULTS)

    assert reconcile.MAX_EARLY_SHARDS + full <= MAX_ITEMS


def test_a_shard_is_named_at_once():
    """One that no status names is not found again: an operator that starts then measures its sweeps once more."""
    world = World(wanted(measurement={"rounds": 4}))
    for _ in range(2):
        world.look()
        world.step()
    world.pass_time(SETTINGS.status_interval_seconds)
    world.look()
    world.pass_time(SETTINGS.shard_after_seconds)
    world.written = Written(world.now, world.now)

    world.look()

    assert [shard["configMap"] for shard in world.status["shards"]] == list(world.config_maps)
    assert len(world.config_maps) == 1


# ---- whatever happens ----------------------------------------------------------------------------

FATES = ["well"] * 8 + [
    "crash", "garbage", "foreign", "silent", "oom", "killed", "deadline", "stopped", "deleted", "fault",
    "misconfigured",
]  # fmt: skip
BY_ITSELF = ["look", "look", "step", "step", "step", "pass", "wait", "hinder", "hinder"]
"""What a cluster does by itself, pods that no node takes for a while included."""

FROM_OUTSIDE = ["restart", "delete-job", "suspend", "resume", "widen", "refuse-shards", "refuse-jobs", "take"]
"""What somebody does to it."""

MOST_WRITES, MOST_WRITES_FROM_OUTSIDE = 13, 3
"""By itself: three of the first stage, two of the reason why nothing runs, three of a second stage, five at the end."""


def most_writes(seconds, from_outside):
    """Return how many writes a benchmark may cost that took so long, while somebody did so much to it."""
    counters, shards = 1 / SETTINGS.status_interval_seconds, 2 / SETTINGS.shard_after_seconds  # and who names them
    return MOST_WRITES + MOST_WRITES_FROM_OUTSIDE * from_outside + (counters + shards) * seconds


@given(data=st.data())
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.data_too_large, HealthCheck.too_slow])
def test_whatever_happens_a_benchmark_ends_and_no_result_is_lost(data):
    spec = {
        "backends": ["fake", "onnxruntime"],
        "batch_sizes": data.draw(st.sampled_from([[1], [1, 8], [1, 2, 4]])),
        "measurement": {"rounds": data.draw(st.sampled_from([1, 2, 4]))},
        "retries": data.draw(st.integers(0, 2)),
        "max_failed_cells": 1_000,
    }
    fates: dict[tuple[int, int], str] = {}

    def fate(sweep: int, attempt: int) -> str:
        return fates.setdefault((sweep, attempt), data.draw(st.sampled_from(FATES)))

    world = World(wanted(**spec), fate, hides_pods=data.draw(st.booleans()))
    acts = data.draw(st.lists(st.sampled_from(BY_ITSELF + FROM_OUTSIDE), max_size=40))
    for act in acts:
        _act(world, act, spec)
    world.asked, world.refuses_shards, world.refuses_jobs = wanted(**spec), False, False
    world.settle()

    assert condition(world.status, "Finished")["status"] == "True"
    assert len(world.jobs_made) <= 2
    assert not [name for name, count in Counter(world.jobs_made).items() if count > 1]
    seconds, from_outside = (world.now - NOW).total_seconds(), sum(act in FROM_OUTSIDE for act in acts)
    assert world.writes <= most_writes(seconds, from_outside)
    safe = outcomes(world.shards.values())
    has_fault = condition(world.status, "Succeeded")["reason"] == "EnvironmentFault"
    assert has_fault or safe.keys() == {sweep.index for sweep in world.plan.sweeps}
    for sweep in world.plan.sweeps:
        is_read = sweep.index not in world.unread
        ended_well = fates.get((sweep.index, 1)) == "well" and world.tries.get(sweep.index) == 1 and is_read
        if ended_well or not has_fault:
            assert {cell.batch_size for cell in safe[sweep.index]} == set(sweep.batch_sizes)
        if ended_well:
            assert all(cell.outcome is Outcome.MEASURED for cell in safe[sweep.index])


def _act(world, act, spec):
    acts = {
        "pass": lambda: world.pass_time(30),
        "wait": lambda: world.pass_time(3),
        "suspend": lambda: vars(world).update(asked=wanted(**spec, suspend=True)),
        "resume": lambda: vars(world).update(asked=wanted(**spec)),
        "widen": lambda: vars(world).update(asked=wanted(**spec, parallelism=3)),
        "refuse-shards": lambda: vars(world).update(refuses_shards=True),
        "refuse-jobs": lambda: vars(world).update(refuses_jobs=True),
        "take": lambda: vars(world).update(refuses_shards=False, refuses_jobs=False),
    }
    acts.get(act, getattr(world, act.replace("-", "_"), None))()


def test_the_builders_of_results_agree_with_the_world():
    plan = World(wanted()).plan

    assert len(results_for(plan, lambda *_: 1.0)) == a_job(plan).completions
