"""What a sweep came to, from the attempts at it: what counts, whose fate it is, and when a message is lost."""

from __future__ import annotations

from datetime import timedelta

import pytest

from inferbench_contract import plan as plans
from inferbench_contract import result as results
from inferbench_contract.result import CellResult, SweepResult
from inferbench_contract.words import Outcome
from inferbench_operator import collect
from inferbench_operator.observed import JobEnd, Observed, Shard
from tests.clusters import NOW, a_job, a_message, a_pod, attempts, ended, seen, wanted
from tests.results import measured

ASKED = wanted(batch_sizes=[1, 2, 4], measurement={"rounds": 2})
PLAN = plans.expand(ASKED)
FIRST, SECOND = PLAN.sweeps
LOST_AFTER = timedelta(seconds=10)


def a_try(message=b"", exit_code=1, number=0, **how):
    """Return an attempt at the first sweep."""
    pod = ended(a_pod(a_job(PLAN), 0, uid=f"pod-{number}"), message, exit_code=exit_code, **how)
    return collect.attempt(pod, 0, PLAN)


def concluded(*tried, is_decided=True):
    return collect.conclude(PLAN, FIRST, tried, is_decided)


def told(result):
    return [(cell.batch_size, cell.outcome, cell.reason.partition(":")[0]) for cell in result.cells]


# ---- one sweep -----------------------------------------------------------------------------------


def test_a_whole_message_is_the_result():
    found = concluded(a_try(a_message(PLAN, FIRST), exit_code=0), is_decided=False)

    assert [cell.outcome for cell in found.cells] == [Outcome.MEASURED] * 3


def test_half_a_message_is_no_result_while_another_try_may_come():
    assert concluded(a_try(a_message(PLAN, FIRST, upto=1)), is_decided=False) is None


def test_cells_of_several_tries_are_put_together():
    one = a_message(PLAN, FIRST, upto=1)
    rest = a_message_of([measured(2), measured(4)])

    found = concluded(a_try(one), a_try(rest, exit_code=0, number=1), is_decided=False)

    assert [cell.batch_size for cell in found.cells] == [1, 2, 4]


def a_message_of(cells, **fields):
    return results.encode(SweepResult(PLAN.short_hash, 0, tuple(cells), **fields))


def test_the_first_measurement_of_a_cell_counts():
    first = a_message_of([measured(1, 10)], in_flight=2)
    again = a_message_of([measured(1, 99), measured(2), measured(4)])

    found = concluded(a_try(first), a_try(again, exit_code=0, number=1))

    assert found.cells[0].latency_median_ns == 10_000_000


def test_a_measurement_counts_more_than_a_failure_before_it():
    failed = a_message_of([CellResult(1, Outcome.FAILED, "It: did.")], in_flight=2)
    again = a_message_of([measured(1), measured(2), measured(4)])

    found = concluded(a_try(failed), a_try(again, exit_code=0, number=1))

    assert found.cells[0].outcome is Outcome.MEASURED


def test_a_container_that_was_out_of_memory_fails_the_cell_in_flight_and_all_larger_ones():
    found = concluded(a_try(a_message(PLAN, FIRST, upto=1), exit_code=137, exit_reason="OOMKilled"))

    assert told(found)[1:] == [(2, Outcome.OUT_OF_MEMORY, "HostMemory"), (4, Outcome.OUT_OF_MEMORY, "AfterOutOfMemory")]


def test_a_container_out_of_memory_before_its_first_word_fails_every_cell():
    found = concluded(a_try(exit_code=137, exit_reason="OOMKilled"))

    assert {each[1:] for each in told(found)} == {(Outcome.OUT_OF_MEMORY, "HostMemory")}


def test_a_pod_past_its_deadline_times_out_what_was_not_measured():
    found = concluded(a_try(a_message(PLAN, FIRST, upto=2), exit_code=137, pod_reason="DeadlineExceeded"))

    assert told(found)[2] == (4, Outcome.TIMED_OUT, "TimeLimit")


def test_a_wrong_configuration_fails_every_cell_in_the_runners_words():
    found = concluded(a_try("INFERBENCH_PLAN\nis\x9bno plan\n".encode(), exit_code=43))

    assert {cell.reason for cell in found.cells} == {"BadConfiguration: INFERBENCH_PLAN is no plan"}


def test_a_runner_that_died_crashes_the_cell_in_flight_and_no_other():
    found = concluded(a_try(a_message(PLAN, FIRST, upto=2), exit_code=139))

    assert told(found)[2] == (4, Outcome.CRASHED, "ExitStatus")
    assert concluded(a_try(a_message(PLAN, FIRST, upto=1), exit_code=139)) is None


@pytest.mark.parametrize(
    "how",
    [
        pytest.param({"exit_code": 143}, id="asked to stop"),
        pytest.param({"exit_code": 44}, id="a fault of the machine"),
        pytest.param({"exit_code": None}, id="no status"),
        pytest.param({"exit_code": 137, "is_deleting": True}, id="deleted"),
        pytest.param({"exit_code": 137, "exit_reason": "OOMKilled", "is_deleting": True}, id="out of memory, deleted"),
    ],
)
def test_an_end_that_says_nothing_about_the_cell_in_flight_gives_it_no_outcome(how):
    assert concluded(a_try(a_message(PLAN, FIRST, upto=2), **how)) is None


def test_the_last_try_decides_the_fate():
    crashed, out = a_message(PLAN, FIRST, upto=2), a_message(PLAN, FIRST, upto=1)

    found = concluded(a_try(crashed, 139), a_try(out, 137, number=1, exit_reason="OOMKilled"))

    assert told(found)[2][1] is Outcome.OUT_OF_MEMORY


def test_giving_up_says_what_was_tried():
    found = collect.give_up(PLAN, FIRST, (a_try(b"{]", exit_code=0),), 2)

    assert {cell.outcome for cell in found.cells} == {Outcome.FAILED}
    assert found.cells[0].reason.startswith("ResultLost: its pods gave no outcome in 2 stages; pod ")
    assert "none left a message" in collect.give_up(PLAN, FIRST, (), 2).cells[0].reason


def test_giving_up_keeps_what_was_measured():
    found = collect.give_up(PLAN, FIRST, (a_try(a_message(PLAN, FIRST, upto=1), exit_code=143),), 2)

    assert [cell.outcome for cell in found.cells] == [Outcome.MEASURED, Outcome.FAILED, Outcome.FAILED]


# ---- messages are not believed -------------------------------------------------------------------


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"{]", id="garbage"),
        pytest.param(b"\xff\xfe", id="no text"),
        pytest.param(b"[" * 4_000, id="deep"),
        pytest.param(b"x" * 5_000, id="too much"),
        pytest.param(a_message(PLAN, SECOND), id="another sweep's"),
        pytest.param(a_message(plans.expand(wanted()), plans.expand(wanted()).sweeps[0]), id="another plan's"),
    ],
)
def test_a_message_that_is_not_of_this_sweep_is_nothing_and_says_why(message):
    found = a_try(message, exit_code=0)

    assert found.result is None
    assert found.problem


def test_a_cell_that_nobody_planned_is_left_out():
    found = a_try(a_message_of([measured(1), measured(64)]), exit_code=0)

    assert [cell.batch_size for cell in found.result.cells] == [1]
    assert found.problem


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        pytest.param(b"{]", "NotJson", id="nothing can be read"),
        pytest.param(
            a_message(PLAN, FIRST).replace(b'"b":[1,', b'"b":["whatever the pod likes",'), "CellsLeftOut", id="a cell"
        ),
        pytest.param(a_message(PLAN, FIRST), "", id="nothing is left out"),
    ],
)
def test_what_is_left_out_of_a_message_is_told_in_a_word_of_ours(message, reason):
    """It becomes a label of a metric, which a pod must not choose."""
    assert a_try(message).reason == reason


# ---- all sweeps ----------------------------------------------------------------------------------


def collected(job, pods=(), now=NOW, *, is_heard=True, **fields):
    fields["listed_jobs"] = frozenset([job.uid] if is_heard else [])
    observed = Observed(seen(ASKED), ASKED, plan=PLAN, jobs=(job,), attempts=attempts(PLAN, job, pods), **fields)
    return collect.collect(observed, PLAN, now, LOST_AFTER)


def test_a_sweep_without_a_word_is_to_come_while_its_job_runs():
    found = collected(a_job(PLAN))

    assert (found.final, found.lost, found.waits_until) == ({}, {}, None)


def test_a_message_is_waited_for_after_the_end_of_its_job():
    over = a_job(PLAN, end=JobEnd.COMPLETE, ended=NOW)

    assert collected(over, now=NOW + timedelta(seconds=9)).waits_until == NOW + LOST_AFTER
    assert collected(over, now=NOW + timedelta(seconds=9)).lost == {}
    assert collected(over, now=NOW + timedelta(seconds=10)).lost.keys() == {0, 1}


def test_nothing_is_lost_before_the_pods_of_the_job_that_ended_were_listed():
    over = a_job(PLAN, end=JobEnd.COMPLETE, ended=NOW)
    later = NOW + LOST_AFTER

    asked = collected(over, now=later, is_heard=False)

    assert (asked.lost, asked.unheard) == ({}, (over,))
    assert collected(over, now=later).unheard == ()
    assert collected(over, is_heard=False).unheard == (), "its last message is still waited for"


def test_a_crash_decides_nothing_while_a_later_try_may_have_gone_well_unheard():
    over = a_job(PLAN, end=JobEnd.COMPLETE, ended=NOW)
    crashed = ended(a_pod(over, 0), a_message(PLAN, FIRST, upto=2), exit_code=139)

    assert collected(over, [crashed], is_heard=False).final == {}
    assert collected(over, [crashed]).final.keys() == {0}


def test_a_failed_index_is_decided_while_its_job_still_runs():
    job = a_job(PLAN, failed_places=frozenset({0}))
    died = ended(a_pod(job, 0), a_message(PLAN, FIRST, upto=2), exit_code=139)

    assert collected(job, [died]).final.keys() == {0}
    assert collected(a_job(PLAN), [died]).final == {}


def test_what_is_in_a_shard_stays_whatever_a_pod_says_later():
    safe = SweepResult(PLAN.short_hash, 0, tuple(measured(size, 7) for size in FIRST.batch_sizes))
    job = a_job(PLAN)
    pod = ended(a_pod(job, 0), a_message(PLAN, FIRST))

    found = collected(job, [pod], shards=(Shard("r0", "sum", (safe,)),))

    assert found.final[0] is safe


def test_a_fault_of_a_machine_is_told_in_the_runners_words():
    job = a_job(PLAN)
    pod = ended(a_pod(job, 0), a_message_of([], fault="There is no GPU."), exit_code=44)

    assert collected(job, [pod]).fault == "There is no GPU."


def test_a_fault_without_a_word_names_the_pod():
    job = a_job(PLAN)

    assert "-0-abcde ended with status 44" in collected(job, [ended(a_pod(job, 0), exit_code=44)]).fault


def test_a_job_that_its_policy_ended_is_a_fault_even_where_the_pod_is_gone():
    failed = a_job(PLAN, end=JobEnd.FAILED, end_reason="PodFailurePolicy", end_message="exit code 44", ended=NOW)

    assert collected(failed).fault == "exit code 44"


def test_before_a_fault_ends_the_benchmark_all_that_the_pods_of_its_job_said_is_heard():
    failed = a_job(PLAN, end=JobEnd.FAILED, end_reason="PodFailurePolicy", end_message="exit code 44", ended=NOW)

    assert collected(failed, is_heard=False).unheard == (failed,)
    assert collected(failed).unheard == ()


def test_stages_whose_jobs_are_gone_are_counted():
    told = {"stages": [{"job": "a-0", "sweeps": 2, "reason": "Deleted"}]}

    assert collect.stages_so_far(Observed(seen(ASKED, told), ASKED, plan=PLAN)) == 1
    assert collect.stages_so_far(Observed(seen(ASKED), ASKED, plan=PLAN, jobs=(a_job(PLAN, 1),))) == 2
