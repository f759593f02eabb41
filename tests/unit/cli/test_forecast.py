import pytest

from inferbench_cli import forecast
from tests.documents import rounds, scripted_plan


def test_a_plan_tells_what_it_takes_at_most_and_what_is_likely():
    """Twelve processes of 1 s each for calls and warm-up, and of 5 s for their start."""
    plan = scripted_plan(precisions=["fp32", "fp16"], batchSizes=[1, 2, 4], measurement=rounds(2))

    assert forecast.how_long(plan) == (
        "12 processes warm up and measure for at most 24 s together. "
        "Estimate: about 1 min; preparing the model and compiling come on top. "
        "The time limit of each sweep ends everything after 2 h."
    )


def test_what_is_a_limit_is_not_rounded():
    """Forty processes of 1 s each for calls and warm-up take up to 80 s, which are more than 1 min."""
    told = forecast.how_long(scripted_plan(batchSizes=[*range(1, 11)], measurement=rounds(4)))

    assert told.startswith("40 processes warm up and measure for at most 1 min 20 s together. ")


def test_the_estimate_is_of_the_sweeps_that_are_left():
    plan = scripted_plan(measurement={"rounds": 8, "maxSecondsPerCell": 35, "warmupMaxSeconds": 20})

    assert forecast.likely(plan.sweeps, plan.work.measurement).startswith("Estimate: about 8 min;")
    assert forecast.likely(plan.sweeps[4:], plan.work.measurement).startswith("Estimate: about 4 min;")


@pytest.mark.parametrize(("count", "begins"), [(1, "One round gives"), (2, "Two rounds give"), (4, None)])
def test_what_few_rounds_cannot_tell_is_said_before_they_run(count, begins):
    told = forecast.few_rounds(count)

    assert told is None if begins is None else told.startswith(begins)


@pytest.mark.parametrize(
    ("threads", "is_warned"),
    [
        pytest.param(None, False, id="as many as there are"),
        pytest.param(2, False, id="one for each CPU"),
        pytest.param(64, True, id="more than CPUs"),
    ],
)
def test_more_threads_than_cpus_are_warned_of(threads, is_warned):
    said = forecast.crowded(threads, cpus=2)

    assert (said is not None and said.startswith("cpu.threads is 64, and 2 CPUs may be used here: ")) == is_warned


@pytest.mark.parametrize(
    ("load", "cpus", "begins"),
    [
        pytest.param(1.0, 2, None, id="half of the CPUs are free"),
        pytest.param(7.4, 2, "Load average 7.4 on 2 CPUs: other work runs here", id="more wait than can run"),
        pytest.param(7.4, 16, None, id="much on a small machine is little on a large one"),
        pytest.param(0.6, 1, "Load average 0.6 on 1 CPU: ", id="one CPU"),
    ],
)
def test_a_busy_machine_is_warned_of(load, cpus, begins):
    warning = forecast.busy(load, cpus)

    assert warning is None if begins is None else warning.startswith(begins)


@pytest.mark.parametrize(
    ("seconds", "words"), [(1, "1 min"), (89, "1 min"), (600, "10 min"), (5399, "90 min"), (5400, "1.5 h")]
)
def test_long_times_are_told_in_hours(seconds, words):
    assert forecast.minutes(seconds) == words
