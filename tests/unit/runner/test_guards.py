"""What a GPU's telemetry lets us say, on scripted telemetry."""

from __future__ import annotations

from dataclasses import replace
from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferbench_contract.words import Doubt, Outcome, Precision, ThrottleReason
from inferbench_runner import gpu, guards, stopping
from inferbench_runner.gpu import Reading
from inferbench_runner.guards import Anchor, Roofline, Seen, Window, Work
from tests.results import ended, measured

SECOND = 1_000_000_000
MILLISECOND = 1_000_000

SW_POWER_CAP, HW_THERMAL_SLOWDOWN = ThrottleReason.SW_POWER_CAP, ThrottleReason.HW_THERMAL_SLOWDOWN

H200 = Roofline(
    bandwidth_bytes_per_second=4_300_000_000_000,
    l2_bytes=60 << 20,
    operations_per_second={"fp32": 50 * 10**12, "fp16": 788 * 10**12, "int8": 1_500 * 10**12},
)
"""About what one was measured to do here (fp16), the rest made up."""

RESNET50 = Work(operations_per_input=8_200_000_000, weights=25_557_032)


def readings(*reasons, **fields):
    """Readings a fifth of a second apart, with these reasons for low clocks."""
    return [Reading(at_ns=index * SECOND // 5, reasons=each, **fields) for index, each in enumerate(reasons)]


def used(*millijoules, apart_ns=SECOND):
    return [Reading(at_ns=index * apart_ns, energy_millijoules=each) for index, each in enumerate(millijoules)]


class TestThrottling:
    @pytest.mark.parametrize(
        ("seen", "expected"),
        [
            pytest.param([("SwPowerCap",)] * 10, ("SwPowerCap",), id="the power limit all the time"),
            pytest.param([()] * 9 + [("HwThermalSlowdown",)], (), id="heat for a tenth of the time"),
            pytest.param([()] * 8 + [("HwThermalSlowdown",)] * 2, ("HwThermalSlowdown",), id="heat for a fifth"),
            pytest.param([("GpuIdle",)] * 10, (), id="an idle GPU rests"),
            pytest.param([("ApplicationsClocksSetting",)] * 10, (), id="somebody has set the clocks, for all alike"),
            pytest.param([], (), id="nothing was read"),
        ],
    )
    def test_reasons_count_that_come_and_go(self, seen, expected):
        assert guards.throttle_reasons(readings(*seen)) == expected

    def test_only_what_was_read_during_the_timed_calls_counts(self):
        before, during = [("HwThermalSlowdown",)] * 5, [()] * 5
        seen = Seen(readings(*before, *during), window=Window(SECOND, 2 * SECOND))

        assert guards.judge(measured(), Precision.FP16, seen).doubts == ()

    def test_a_cell_that_never_came_to_its_timed_calls_is_not_doubted(self):
        seen = Seen(readings(*[("HwThermalSlowdown",)] * 5), window=None)

        assert guards.judge(measured(), Precision.FP16, seen).doubts == ()


class TestClock:
    WINDOW = Window(SECOND, 2 * SECOND)

    def judged(self, *mhz, reasons=()):
        """A second of idling, then the readings of the timed calls."""
        idling = [Reading(at_ns=index, sm_mhz=345, reasons=("GpuIdle",)) for index in range(5)]
        timed = [Reading(SECOND + index, sm_mhz=each, reasons=reasons) for index, each in enumerate(mhz)]
        return guards.judge(measured(), Precision.FP16, Seen([*idling, *timed], window=self.WINDOW))

    @pytest.mark.parametrize(
        ("mhz", "expected"),
        [
            pytest.param((1980, 1200, 1755), 1755, id="the median"),
            pytest.param((1980, 1200), 1980, id="of two a clock that was read"),
            pytest.param((None, 1200), 1200, id="of those that were read"),
            pytest.param((None, None), None, id="a card that does not tell"),
            pytest.param((), None, id="no reading fell into the timed calls"),
        ],
    )
    def test_a_cell_has_the_clock_of_its_timed_calls(self, mhz, expected):
        assert self.judged(*mhz).sm_clock_mhz == expected

    @pytest.mark.parametrize(
        ("reasons", "expected"),
        [
            pytest.param(("HwThermalSlowdown", "SwPowerCap"), (SW_POWER_CAP, HW_THERMAL_SLOWDOWN), id="heat and power"),
            pytest.param(("ApplicationsClocksSetting",), (), id="somebody has set the clocks"),
        ],
    )
    def test_a_cell_has_the_reasons_for_which_its_clocks_were_lowered(self, reasons, expected):
        assert self.judged(1980, 1980, reasons=reasons).throttle_reasons == expected

    def test_where_nothing_was_read_it_is_not_known_whether_they_were(self):
        assert self.judged().throttle_bits is None
        assert self.judged(1980).throttle_bits == 0

    def test_a_cell_has_the_highest_temperature_and_the_median_power_of_its_timed_calls(self):
        told = [(0, 90, 700_000), (SECOND, 60, 300_000), (SECOND + 1, 70, 310_000), (2 * SECOND, None, None)]
        heard = [Reading(at, temperature_celsius=heat, power_milliwatts=power) for at, heat, power in told]

        found = guards.judge(measured(), Precision.FP16, Seen(heard, window=self.WINDOW))

        assert (found.gpu_temperature_max_celsius, found.gpu_power_median_milliwatts) == (70, 310_000)

    def test_a_cell_has_the_most_memory_of_all_the_time_that_it_ran(self):
        """What a compiler or a search for kernels takes before the timed calls decides what fits, too."""
        heard = [Reading(at, memory_used_bytes=mib << 20) for at, mib in ((0, 900), (SECOND, 400))]

        found = guards.judge(measured(), Precision.FP16, Seen(heard, window=self.WINDOW))

        assert found.gpu_memory_max_mib == 900

    def test_what_a_card_does_not_tell_is_not_known(self):
        found = self.judged(None)

        assert found.gpu_temperature_max_celsius is None
        assert found.gpu_power_median_milliwatts is None
        assert found.gpu_memory_max_mib is None

    def test_every_reason_is_one_that_nvml_gives(self):
        assert set(ThrottleReason) < set(gpu.REASONS.values())


class TestAnchor:
    @pytest.mark.parametrize(
        ("before", "after", "expected"),
        [
            pytest.param(Anchor(1000, 1000), Anchor(1014, 986), False, id="within 1.5 %"),
            pytest.param(Anchor(1000, 1000), Anchor(1016, 1000), True, id="computing got slower"),
            pytest.param(Anchor(1000, 1000), Anchor(1000, 984), True, id="copying got faster: somebody has gone"),
        ],
    )
    def test_the_same_work_must_take_the_same_time(self, before, after, expected):
        assert guards.have_drifted(before, after) is expected

    @given(st.integers(1, 10**9), st.integers(1, 10**9))
    def test_before_and_after_may_be_exchanged(self, first, last):
        one, other = Anchor(first, first), Anchor(last, last)

        assert guards.have_drifted(one, other) is guards.have_drifted(other, one)

    def test_a_probe_that_is_missing_says_nothing(self):
        assert guards.judge(measured(), Precision.FP16, Seen(before=Anchor(1, 1))).doubts == ()


class TestNeighbours:
    @pytest.mark.parametrize(
        ("percents", "expected"),
        [
            pytest.param([0, 0, 0], False, id="idle"),
            pytest.param([2, 2, 2], False, id="a desktop"),
            pytest.param([90, 0, 0], False, id="the end of our own work"),
            pytest.param([40, 60, 50], True, id="somebody works"),
            pytest.param([None, None], False, id="the card does not tell"),
            pytest.param([], False, id="nobody looked"),
        ],
    )
    def test_work_before_ours_began_is_somebody_elses(self, percents, expected):
        idle = [Reading(at_ns=index, busy_percent=each) for index, each in enumerate(percents)]

        assert guards.is_busy(idle) is expected

    @pytest.mark.parametrize(
        ("counts", "expected"),
        [
            pytest.param([1, 1, 1], False, id="only ours"),
            pytest.param([2, 2, 1], True, id="another one most of the time"),
            pytest.param([1, 1, 2], False, id="another one that came and went"),
            pytest.param([0, 0, 0], False, id="a container that is shown no processes"),
            pytest.param([None, None], False, id="the card does not tell"),
        ],
    )
    def test_more_processes_than_ours_share_the_card(self, counts, expected):
        timed = [Reading(at_ns=index, processes=each) for index, each in enumerate(counts)]

        assert guards.is_shared(timed) is expected


class TestRoofline:
    def test_the_floor_of_arithmetic_is_operations_over_what_the_card_can_do(self):
        """8.2 GFLOP at 788 TFLOP/s are 10.4 us; a quarter more speed and Winograd's 2.25 make 3.7 us."""
        work = replace(RESNET50, weights=0)

        assert guards.floor_ns(work, 1, Precision.FP16, H200) == pytest.approx(8.2e9 / (788e12 * 1.25 * 2.25) * 1e9)

    def test_without_convolutions_nothing_is_saved(self):
        work = replace(RESNET50, weights=0, has_convolutions=False)

        assert guards.floor_ns(work, 1, Precision.FP16, H200) == pytest.approx(8.2e9 / (788e12 * 1.25) * 1e9)

    def test_the_floor_of_memory_is_what_does_not_fit_into_the_cache(self):
        work = Work(operations_per_input=1, weights=1_000_000_000)

        expected = (2e9 - (60 << 20)) / (4.3e12 * 1.1) * 1e9

        assert guards.floor_ns(work, 1, Precision.FP16, H200) == pytest.approx(expected)

    def test_weights_that_fit_into_the_cache_need_not_be_read_again(self):
        work = Work(operations_per_input=0, weights=25_000_000)

        assert guards.floor_ns(work, 1, Precision.INT8_STATIC, H200) == 0

    @pytest.mark.parametrize(
        ("result", "expected"),
        [
            pytest.param(measured(128, latency_ms=1.5), False, id="85 thousand images a second"),
            pytest.param(measured(128, latency_ms=0.1), True, id="1.3 million: nobody waited"),
            pytest.param(
                measured(128, latency_ms=1.5, throughput_milli_per_second=2 * 10**9),
                True,
                id="single calls were waited for, those in a row were not",
            ),
        ],
    )
    def test_what_is_faster_than_the_card_is_doubted(self, result, expected):
        assert guards.is_above_roofline(result, Precision.FP16, RESNET50, H200) is expected

    @pytest.mark.parametrize(
        ("precision", "name"),
        [
            pytest.param(Precision.FP32, "fp32", id="fp32"),
            pytest.param(Precision.INT8_DYNAMIC, "int8", id="dynamic"),
            pytest.param(Precision.INT8_STATIC, "int8", id="static"),
        ],
    )
    def test_a_precision_has_the_rate_of_its_arithmetic(self, precision, name):
        assert guards.operations_per_second(precision, H200) == H200.operations_per_second[name]

    def test_mlperfs_best_submission_is_below_it(self):
        """96 thousand images a second on an H200, with int8: the fastest that anybody has shown."""
        best = measured(1024, latency_ms=1024 / 96_000 * 1000)

        assert not guards.is_above_roofline(best, Precision.INT8_STATIC, RESNET50, H200)

    @pytest.mark.parametrize(
        ("work", "limits"),
        [
            pytest.param(None, H200, id="the model's operations were not counted"),
            pytest.param(RESNET50, None, id="the card was not measured"),
            pytest.param(
                replace(RESNET50, weights=0), replace(H200, operations_per_second={}), id="not this arithmetic"
            ),
        ],
    )
    def test_where_something_is_not_known_nothing_is_said(self, work, limits):
        assert not guards.is_above_roofline(measured(latency_ms=1e-6), Precision.FP16, work, limits)


class TestWaiting:
    @pytest.mark.parametrize(
        ("host_ms", "device_ms", "expected"),
        [
            pytest.param(1.00, 0.98, False, id="the host waits a little longer than the GPU works"),
            pytest.param(1.00, 1.01, False, id="two clocks differ a little"),
            pytest.param(0.010, 0.0115, False, id="events are no finer than that"),
            pytest.param(0.05, 1.00, True, id="the host only started the work"),
        ],
    )
    def test_a_call_that_the_gpu_takes_longer_for_than_the_host_was_not_waited_for(self, host_ms, device_ms, expected):
        result = measured(latency_ms=host_ms, device_median_ns=round(device_ms * MILLISECOND))

        assert guards.is_not_waited_for(result) is expected

    def test_without_events_nothing_is_said(self):
        assert not guards.is_not_waited_for(measured())


class TestEnergy:
    def test_it_is_the_difference_of_the_counter(self):
        found = guards.energy(used(1_000, 101_000, 201_000, 301_000, 401_000, 501_000))

        assert found == guards.Energy(500_000, 5 * SECOND)

    @pytest.mark.parametrize(
        "seen",
        [
            pytest.param(used(0, 1, 2, 3, 4), id="less than five seconds"),
            pytest.param(used(*[None] * 8), id="no counter"),
            pytest.param(used(5_000, *[None] * 6), id="a single reading"),
            pytest.param(used(5_000, 1, 1, 1, 1, 1), id="a counter that began anew"),
            pytest.param(used(*[5_000] * 6), id="a counter that stands still"),
            pytest.param([], id="nothing was read"),
        ],
    )
    def test_otherwise_there_is_none(self, seen):
        assert guards.energy(seen) is None

    @given(st.integers(1_000, 1_000_000), st.lists(st.integers(100_000_000, 300_000_000), min_size=60, max_size=80))
    def test_of_a_constant_power_whenever_it_is_read_the_energy_is_power_times_time(self, milliwatts, pauses_ns):
        """The counter has whole millijoules, so that two of its readings are off by less than two."""
        times = list(accumulate(pauses_ns))
        found = guards.energy([Reading(at_ns, energy_millijoules=milliwatts * at_ns // SECOND) for at_ns in times])

        assert found.duration_ns == times[-1] - times[0]
        assert found.power_milliwatts == pytest.approx(milliwatts, abs=2)


NO_COUNTER = [Reading(second * SECOND) for second in range(12)]


class TestPower:
    """A card that takes 100 W when idle and 300 W while calls follow each other, from second 3 to second 9."""

    MILLIWATTS = 300_000

    def readings(self, **others):
        seconds = [tenth / 10 for tenth in range(0, 121, 2)]
        used = [100 * at + 200 * min(max(at - 3, 0), 6) for at in seconds]
        return [
            Reading(round(at * SECOND), energy_millijoules=round(1000 * joules), **others)
            for at, joules in zip(seconds, used, strict=True)
        ]

    def judged(self, back_to_back, result=None, **seen):
        told = {"readings": self.readings(), "window": Window(0, 9 * SECOND)} | seen
        return guards.judge(result or measured(), Precision.FP16, Seen(back_to_back=back_to_back, **told))

    def test_it_is_that_of_the_calls_back_to_back_alone(self):
        assert self.judged(Window(3 * SECOND, 9 * SECOND)).power_milliwatts == self.MILLIWATTS

    def test_power_over_inputs_per_second_is_energy_over_inputs(self):
        """300 W for 6 s are 1,800 J; 2,000 inputs a second are 12,000 of them: 150 mJ each."""
        result = self.judged(Window(3 * SECOND, 9 * SECOND), measured(throughput_milli_per_second=2_000_000))

        assert result.power_milliwatts / result.throughput_milli_per_second == pytest.approx(1800 / 12_000)

    @pytest.mark.parametrize(
        ("back_to_back", "seen"),
        [
            pytest.param(Window(3 * SECOND, 8 * SECOND - 1), {}, id="less than five seconds between the readings"),
            pytest.param(None, {}, id="the cell did not say when"),
            pytest.param(Window(9 * SECOND, 3 * SECOND), {}, id="it ended before it began"),
            pytest.param(Window(3 * SECOND, 9 * SECOND), {"readings": NO_COUNTER}, id="the card does not count"),
        ],
    )
    def test_otherwise_there_is_none(self, back_to_back, seen):
        assert self.judged(back_to_back, **seen).power_milliwatts is None

    def test_what_somebody_else_takes_is_in_it_and_the_cell_is_doubted(self):
        result = self.judged(Window(3 * SECOND, 9 * SECOND), readings=self.readings(processes=2))

        assert (result.power_milliwatts, result.doubts) == (self.MILLIWATTS, (Doubt.NOISY_NEIGHBOUR,))

    def test_a_cell_cannot_claim_a_power_that_nobody_saw(self):
        claimed = measured(power_milliwatts=1)

        assert self.judged(None, claimed).power_milliwatts is None

    def test_calls_go_on_for_long_enough_even_if_a_reading_is_lost_at_each_end(self):
        assert stopping.ENERGY_NS >= guards.MIN_ENERGY_NS + 2 * gpu.PERIOD_SECONDS * SECOND


class TestJudge:
    def test_doubts_are_added_to_those_that_the_cell_had_in_the_usual_order(self):
        seen = Seen(
            readings(*[("SwPowerCap",)] * 10, processes=2),
            window=Window(0, 10 * SECOND),
            before=Anchor(1000, 1000),
            after=Anchor(1100, 1000),
            work=RESNET50,
            roofline=H200,
        )
        result = measured(128, latency_ms=0.001, doubts=(Doubt.FEW_SAMPLES, Doubt.UNSETTLED))

        assert guards.judge(result, Precision.FP16, seen).doubts == (
            Doubt.UNSETTLED,
            Doubt.THROTTLED,
            Doubt.DRIFTED,
            Doubt.NOISY_NEIGHBOUR,
            Doubt.FEW_SAMPLES,
            Doubt.ABOVE_ROOFLINE,
        )

    def test_a_cell_without_numbers_has_no_doubts(self):
        seen = Seen(idle=[Reading(0, busy_percent=99)])
        result = ended(Outcome.OUT_OF_MEMORY)

        assert guards.judge(result, Precision.FP16, seen) is result

    def test_nothing_seen_is_nothing_doubted(self):
        result = measured(doubts=(Doubt.FEW_SAMPLES,))

        assert guards.judge(result, Precision.FP16, Seen()) == result
