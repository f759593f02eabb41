"""The conditions: what each says, where a benchmark stands so or so, and when it last changed."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from inferbench_contract import summary
from inferbench_operator import conditions
from inferbench_operator.conditions import Condition
from inferbench_operator.observed import Trouble
from inferbench_operator.standing import Ending, Standing
from tests.clusters import NOW, World, a_job, condition, wanted
from tests.results import a_result, measured

LATER = NOW + timedelta(minutes=5)


def told(world, kind, **fields):
    return condition({"conditions": documents(world, **fields)}, kind)


def documents(world, ending=None, obstacle=None, found=None, **fields):
    where = Standing(replace(world.observed, **fields), None, found, obstacle, ending)
    return conditions.document(conditions.tell(where), {}, 1, NOW)


def test_a_condition_keeps_its_time_while_its_status_stays():
    before = {"conditions": [{"type": "Running", "status": "False", "lastTransitionTime": "then"}]}

    (same,) = conditions.document((Condition("Running", "False", "Another"),), before, 2, LATER)
    (other,) = conditions.document((Condition("Running", "True", "SweepsRunning"),), before, 2, LATER)

    assert same["lastTransitionTime"] == "then"
    assert other["lastTransitionTime"] == "2026-01-01T12:05:00Z"


def test_a_long_message_is_cut_in_the_middle():
    (found,) = conditions.document((Condition("Running", "False", "X", f"a{'b' * 5_000}c"),), {}, 1, NOW)

    assert len(found["message"]) <= conditions.MAX_MESSAGE_CHARS
    assert (found["message"][0], found["message"][-1]) == ("a", "c")


def test_accepted_says_what_is_planned_and_that_nothing_is_cached():
    message = told(World(wanted()), "Accepted")["message"]

    assert message.startswith("1 cells in 2 rounds are 2 sweeps, a pod each.")
    assert "There is no spec.cache" in message


def test_accepted_names_what_is_not_measured():
    message = told(World(wanted(backends=["fake", "tensorrt"], device="cpu")), "Accepted")["message"]

    assert "Not measured: tensorrt/" in message


def test_a_cache_is_no_reason_to_warn():
    asked = wanted(cache={"persistent_volume_claim": "cache"})

    assert "spec.cache" not in told(World(asked), "Accepted")["message"]


@pytest.mark.parametrize(
    ("spec", "job", "obstacle", "ending", "expected"),
    [
        pytest.param({}, {}, None, None, ("True", "SweepsRunning"), id="it runs"),
        pytest.param({"suspend": True}, None, None, None, ("False", "Suspended"), id="suspended"),
        pytest.param({}, {}, Trouble("Why", "so"), None, ("False", "Why"), id="an obstacle"),
        pytest.param({}, {}, Trouble("Why", "so"), Ending(True, "Done", ""), ("False", "Finished"), id="ended"),
        pytest.param(
            {"queue_name": "q"},
            {"is_suspended": True, "is_queued": True},
            None,
            None,
            ("False", "WaitingForQuota"),
            id="in a queue",
        ),
    ],
)
def test_running_says_why_not(spec, job, obstacle, ending, expected):
    world = World(wanted(**spec))
    jobs = () if job is None else (a_job(world.plan, **job),)

    found = told(world, "Running", jobs=jobs, obstacle=obstacle, ending=ending)

    assert (found["status"], found["reason"]) == expected


def test_succeeded_and_finished_repeat_why_it_does_not_run_until_it_ends():
    blocked = {condition["type"]: condition for condition in documents(World(wanted()), obstacle=Trouble("Why", "so"))}
    ended = {each["type"]: each for each in documents(World(wanted()), ending=Ending(False, "TooManyFailedCells", "2"))}

    assert (blocked["Succeeded"]["status"], blocked["Succeeded"]["reason"]) == ("Unknown", "Why")
    assert (blocked["Finished"]["status"], blocked["Finished"]["reason"]) == ("False", "Why")
    assert (ended["Succeeded"]["status"], ended["Succeeded"]["reason"]) == ("False", "TooManyFailedCells")
    assert (ended["Finished"]["status"], ended["Finished"]["reason"]) == ("True", "TooManyFailedCells")


def test_suspending_what_kueue_manages_says_where_to_do_it():
    found = told(World(wanted(queue_name="q", suspend=True)), "Suspended")

    assert (found["status"], found["reason"]) == ("False", "ManagedByKueue")
    assert "deactivate its Workload" in found["message"]


def test_quota_is_spoken_of_only_in_a_queue():
    assert "QuotaReserved" not in {each["type"] for each in documents(World(wanted()))}
    world = World(wanted(queue_name="q"))
    waiting = a_job(world.plan, is_suspended=True, is_queued=True)
    admitted = a_job(world.plan, is_queued=True)

    assert told(world, "QuotaReserved", jobs=(waiting,))["reason"] == "Waiting"
    assert told(world, "QuotaReserved", jobs=(admitted,))["status"] == "True"


@pytest.mark.parametrize(
    ("cards", "fingerprints", "expected"),
    [
        (("A100", "A100"), ("a", "a"), ("True", "Uniform")),
        (("A100", "H100"), ("a", "a"), ("False", "Mixed")),
        (("A100", "A100"), ("a", "b"), ("False", "Mixed")),
        (("L4, driver 580.1, 72 W", "L4, driver 580.1, 70 W"), ("a", "a"), ("True", "Uniform")),
        (("L4, driver 580.1, 72 W", "L4, driver 590.1, 72 W"), ("a", "a"), ("False", "Mixed")),
    ],
)
def test_only_results_of_one_kind_of_machine_are_called_uniform(cards, fingerprints, expected):
    world = World(wanted())
    results = [
        a_result(world.plan, sweep, [measured()], hardware=cards[sweep], fingerprint=fingerprints[sweep])
        for sweep in (0, 1)
    ]

    found = told(world, "HardwareUniform", found=summary.summarize(world.asked, world.plan, results))

    assert (found["status"], found["reason"]) == expected
    assert ("pin spec.gpu.products" in found["message"]) == (expected[0] == "False")


PAIR = {"backends": ["torch-eager", "onnxruntime"], "measurement": {"rounds": 6}}


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ({"equal": "torch-eager/fp32", "to": "onnxruntime/fp32", "within": "5%"}, ("True", "AllHold")),
        ({"faster": "onnxruntime/fp32", "than": "torch-eager/fp32", "by": "2x"}, ("False", "DoesNotHold")),
    ],
    ids=["holds", "does-not-hold"],
)
def test_expectations_are_judged_at_the_end(statement, expected):
    world = World(wanted(**PAIR, expectations=[{"name": "mine", **statement}]))
    world.look()
    before = condition(world.status, "ExpectationsMet")

    world.settle()

    found = condition(world.status, "ExpectationsMet")
    assert (before["status"], before["reason"]) == ("Unknown", "Measuring")
    assert (found["status"], found["reason"]) == expected
    assert ("Not holding: mine." in found["message"]) == (expected[0] == "False")


def test_results_are_complete_only_where_none_was_lost():
    whole, lost = World(wanted()), World(wanted(), lambda sweep, _: "silent" if sweep == 1 else "well")
    whole.settle()
    lost.settle()

    assert condition(whole.status, "ResultsComplete")["reason"] == "EveryCellHasAnOutcome"
    assert condition(lost.status, "ResultsComplete")["reason"] == "ResultsLost"
