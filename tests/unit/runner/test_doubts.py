import math
import random

import pytest

from inferbench_contract import doubts as words
from inferbench_contract.words import Device, Doubt
from inferbench_runner import doubts, stats
from inferbench_runner.circumstances import Disturbance
from inferbench_runner.measure import BackToBack, Measurement, TimedCalls, WarmUp
from inferbench_runner.stopping import Settling, StopReason
from tests.fakes import MILLISECOND, SECOND

QUIET = Disturbance(total_ticks=1000)


def a_measurement(
    latencies_ns=(MILLISECOND,) * 600, settling=Settling.STEADY, enqueue_ns=None, device_ns=None, row_ns=MILLISECOND
):
    """Measured calls; `row_ns` is what each of 100 took that were made back to back."""
    timed = TimedCalls(latencies_ns, enqueue_ns, device_ns, sum(latencies_ns), StopReason.STEADY)
    return Measurement(MILLISECOND, WarmUp(1000, SECOND, settling), timed, BackToBack(100, 100 * row_ns))


def autocorrelated(rng, calls, sd, r=0.5, drift=0.0):
    """Calls of 10 ms with the lag-1 autocorrelation r that single calls were measured to have, and a drift."""
    deviation = rng.gauss(0, 1)
    latencies = []
    for i in range(calls):
        latencies.append(round(10 * MILLISECOND * math.exp(sd * deviation + drift * i / calls)))
        deviation = r * deviation + math.sqrt(1 - r * r) * rng.gauss(0, 1)
    return latencies


def test_a_steady_measurement_on_a_quiet_machine_has_no_doubts():
    assert doubts.find(a_measurement(), QUIET) == ()


def test_every_doubt_is_found_and_told_in_the_order_of_the_words():
    measurement = a_measurement([MILLISECOND] * 6, settling=None, enqueue_ns=[9] * 6, device_ns=[10] * 6)
    disturbance = Disturbance(total_ticks=1000, others_ticks=51, throttled_periods=1)

    found = doubts.find(measurement, disturbance)

    assert found == (
        Doubt.UNSETTLED,
        Doubt.THROTTLED,
        Doubt.NOISY_NEIGHBOUR,
        Doubt.LAUNCH_BOUND,
        Doubt.FEW_SAMPLES,
    )


@pytest.mark.parametrize(("calls", "expected"), [(5, True), (29, True), (30, False)])
def test_fewer_than_30_calls_are_few(calls, expected):
    assert (Doubt.FEW_SAMPLES in doubts.find(a_measurement([MILLISECOND] * calls), QUIET)) is expected


@pytest.mark.parametrize(
    ("disturbance", "expected"),
    [
        pytest.param(Disturbance(), False, id="nothing moved"),
        pytest.param(Disturbance(throttled_periods=1), True, id="the CPU quota ran out once"),
        pytest.param(Disturbance(throttled_us=1), True, id="we waited for the CPU quota"),
    ],
)
def test_throttled(disturbance, expected):
    assert doubts.is_throttled(disturbance) is expected


@pytest.mark.parametrize(
    ("disturbance", "expected"),
    [
        pytest.param(Disturbance(1000, others_ticks=50), False, id="5 % of the machine is what quiet ones show"),
        pytest.param(Disturbance(1000, others_ticks=51), True, id="more than that in other processes"),
        pytest.param(Disturbance(1000, steal_ticks=51), True, id="more than that stolen by the hypervisor"),
        pytest.param(Disturbance(1000, others_ticks=26, steal_ticks=26), True, id="or both together"),
        pytest.param(Disturbance(), False, id="a system that does not tell"),
    ],
)
def test_noisy_neighbour(disturbance, expected):
    assert doubts.has_noisy_neighbour(disturbance) is expected


@pytest.mark.parametrize(
    ("resource", "expected"),
    [
        pytest.param("libnvinfer_builder_resource_ptx.so.11.2.1", True, id="nothing but PTX"),
        pytest.param(
            "libnvinfer_builder_resource_ptx.so.11.2.1,libnvinfer_builder_resource_sm90.so.11.2.1",
            False,
            id="kernels for this GPU, and PTX besides",
        ),
        pytest.param("libnvinfer_builder_resource.so.10.6.0", False, id="an older one that has all in one library"),
        pytest.param("", False, id="it is not known"),
    ],
)
def test_an_engine_that_was_built_from_ptx_alone_is_doubted(resource, expected):
    found = doubts.find(a_measurement(), QUIET, {"builderResource": resource})

    assert found == ((Doubt.GENERIC_KERNELS,) if expected else ())


def test_what_others_took_is_told_as_a_share_of_the_machine():
    """Counters of two files never agree to the tick, so it may come out as more than all."""
    shares = [
        doubts.others_percent(Disturbance(total_ticks=total, others_ticks=others, steal_ticks=steal))
        for total, others, steal in [(200, 60, 16), (200, 150, 80), (0, 0, 0)]
    ]

    assert shares == [38, 100, None]


@pytest.mark.parametrize(
    ("enqueue_ns", "device_ns", "expected"),
    [
        pytest.param(80, 100, False, id="80 % of the device's time is still hidden behind it"),
        pytest.param(81, 100, True, id="more than 80 % is not"),
        pytest.param(300, 100, True, id="least of all more than the device takes"),
    ],
)
def test_launch_bound(enqueue_ns, device_ns, expected):
    measurement = a_measurement(enqueue_ns=[enqueue_ns] * 600, device_ns=[device_ns] * 600)

    assert doubts.is_launch_bound(measurement) is expected


def test_a_cpu_is_never_launch_bound():
    assert not doubts.is_launch_bound(a_measurement())


@pytest.mark.parametrize(
    ("first", "last", "expected"),
    [
        pytest.param([1000] * 8, [1020] * 8, False, id="2 % is left to the rounds"),
        pytest.param([1000] * 8, [1021] * 8, True, id="more than 2 % without any scatter has drifted"),
        pytest.param([1021] * 8, [1000] * 8, True, id="in either direction"),
        pytest.param([900, 1100] * 4, [1000, 1200] * 4, False, id="10 % is no drift where blocks differ by 20 %"),
        pytest.param([990, 1010] * 4, [1090, 1110] * 4, True, id="but it is where they differ by 2 %"),
    ],
)
def test_drift(first, last, expected):
    assert doubts.differ(first, last) is expected


@pytest.mark.parametrize(
    ("row_ns", "expected"),
    [
        pytest.param(MILLISECOND // 3, (), id="quicker without waiting, as on a GPU"),
        pytest.param(MILLISECOND * 3 // 2, (), id="half as long again is scatter"),
        pytest.param(MILLISECOND * 3 // 2 + 1, (Doubt.DRIFTED,), id="more than that is another machine"),
    ],
)
def test_calls_in_a_row_that_take_much_longer_than_single_ones_have_drifted(row_ns, expected):
    assert doubts.find(a_measurement(row_ns=row_ns), QUIET) == expected


@pytest.mark.parametrize("calls", [30, 60, 240, 1000])
@pytest.mark.parametrize("sd", [0.01, 0.03, 0.08])
def test_a_steady_machine_is_taken_for_drifting_in_at_most_2_percent(calls, sd):
    """400 rounds of autocorrelated calls. With 30 calls most blocks are single calls: the worst case."""
    rng = random.Random(f"{calls} {sd}")

    alarms = sum(doubts.has_drifted(a_measurement(autocorrelated(rng, calls, sd))) for _ in range(400))

    assert alarms <= 8


@pytest.mark.parametrize(
    ("calls", "sd", "drift"),
    [
        pytest.param(60, 0.01, 0.1, id="10 % in 60 calls that scatter by 1 %"),
        pytest.param(240, 0.01, 0.05, id="5 % in 240 calls that scatter by 1 %"),
        pytest.param(1000, 0.03, 0.1, id="10 % in 1,000 calls that scatter by 3 %"),
    ],
)
def test_a_drift_that_stands_out_is_found_in_19_of_20_rounds(calls, sd, drift):
    rng = random.Random(2)

    found = sum(doubts.has_drifted(a_measurement(autocorrelated(rng, calls, sd, drift=drift))) for _ in range(100))

    assert found >= 95


def test_the_simulated_calls_are_as_autocorrelated_as_they_say():
    calls = autocorrelated(random.Random(3), 20_000, sd=0.01)

    assert stats.lag1_autocorrelation(calls) == pytest.approx(0.5, abs=0.03)


def test_few_samples_do_not_say_whether_they_drifted():
    halves = [MILLISECOND] * 14 + [2 * MILLISECOND] * 15

    assert not doubts.has_drifted(a_measurement(halves))


@pytest.mark.parametrize("device", Device)
@pytest.mark.parametrize("doubt", Doubt)
def test_every_doubt_is_explained_in_two_sentences_or_more(doubt, device):
    explanation = words.explain(doubt, device)

    assert explanation.count(". ") >= 1
    assert explanation.endswith(".")
    assert len(explanation) <= 400


@pytest.mark.parametrize(
    "doubt", [Doubt.UNSETTLED, Doubt.THROTTLED, Doubt.DRIFTED, Doubt.NOISY_NEIGHBOUR, Doubt.FEW_SAMPLES]
)
def test_where_a_processor_is_measured_no_gpu_is_named(doubt):
    assert "GPU" not in words.explain(doubt, Device.CPU)


def test_the_explanations_name_the_thresholds_that_are_applied():
    from inferbench_runner import stopping

    assert f"{doubts.NEIGHBOUR_SHARE:.0%}" in words.explain(Doubt.NOISY_NEIGHBOUR, Device.GPU)
    assert f"{doubts.LAUNCH_BOUND_SHARE:.0%}" in words.explain(Doubt.LAUNCH_BOUND, Device.GPU)
    assert f"{doubts.SLOWER_BACK_TO_BACK} times" in words.explain(Doubt.DRIFTED, Device.GPU)
    assert f"{stopping.MIN_CALLS} calls" in words.explain(Doubt.FEW_SAMPLES, Device.GPU)
