"""Telemetry, on the scripted stand-in for NVML of tests/fake_cuda.py."""

from __future__ import annotations

import threading
from itertools import count

import pytest

from inferbench_contract import result
from inferbench_runner import gpu
from inferbench_runner.gpu import Reading
from tests.fake_cuda import FakeNvml

UUID = "00010203-0405-0607-0809-0a0b0c0d0e0f"


def monitor(**answers):
    return gpu.open_monitor(UUID, FakeNvml(**answers), clock=lambda: 5)


class TestOpenMonitor:
    def test_a_card_is_found_by_the_uuid_that_cuda_tells(self):
        """CUDA and NVML number the GPUs of a machine differently, and a container hides some from one of them only."""
        opened = monitor()

        assert opened.card().uuid == f"GPU-{UUID}"

    def test_a_slice_of_a_card_is_found_too(self):
        opened = monitor(uuid=f"MIG-{UUID}", is_slice=True)

        assert opened.card().mig == "slice"

    @pytest.mark.parametrize(
        "library",
        [
            pytest.param(FakeNvml(has_driver=False), id="no driver"),
            pytest.param(FakeNvml(uuid="GPU-another"), id="NVML does not know the card"),
        ],
    )
    def test_where_nvml_cannot_help_there_is_none(self, library):
        assert gpu.open_monitor(UUID, library) is None
        assert not library.is_open

    def test_nvml_is_let_go_of(self):
        library = FakeNvml()

        with gpu.open_monitor(UUID, library):
            was_open = library.is_open

        assert was_open
        assert not library.is_open


class TestRead:
    def test_a_reading_has_its_time_and_what_the_gpu_does(self):
        reading = monitor(reasons=0x4, busy=98, pids=[1, 2]).read()

        assert reading == Reading(
            at_ns=5,
            sm_mhz=1980,
            memory_mhz=3201,
            reasons=("SwPowerCap",),
            temperature_celsius=45,
            power_milliwatts=350_000,
            energy_millijoules=1_000_000,
            memory_used_bytes=1 << 30,
            busy_percent=98,
            processes=2,
        )

    @pytest.mark.parametrize(
        ("bits", "names"),
        [
            pytest.param(0x0, (), id="nothing holds it back"),
            pytest.param(0x1, ("GpuIdle",), id="idle"),
            pytest.param(0x60, ("SwThermalSlowdown", "HwThermalSlowdown"), id="several"),
            pytest.param(0x8000_0000_0000, ("0x800000000000",), id="one that is newer than this list"),
            pytest.param(None, (), id="the card does not tell"),
        ],
    )
    def test_reasons_are_named(self, bits, names):
        assert monitor(reasons=bits).read().reasons == names

    def test_what_a_card_does_not_tell_is_none(self):
        reading = monitor(millijoules=None, pids=None).read()

        assert reading.energy_millijoules is None
        assert reading.processes is None
        assert reading.sm_mhz == 1980

    def test_a_slice_is_told_the_clocks_and_the_heat_of_its_card(self):
        reading = monitor(uuid=f"MIG-{UUID}", is_slice=True).read()

        assert (reading.sm_mhz, reading.temperature_celsius) == (1980, 45)

    def test_a_slice_is_not_told_what_its_card_takes_with_all_its_other_slices(self):
        assert monitor(uuid=f"MIG-{UUID}", is_slice=True).read().energy_millijoules is None


class TestCard:
    def test_how_it_is_set_up_is_told(self):
        card = monitor(ecc=[0, 0], persistence=0, mig=[1, 1], compute_mode=3).card()

        assert (card.ecc, card.persistence, card.mig, card.compute_mode) == ("off", "off", "on", "exclusive")
        assert card.driver == "580.159.04"

    def test_a_card_without_ecc_or_mig_says_so(self):
        card = monitor(ecc=None, mig=None).card()

        assert (card.ecc, card.mig) == (None, None)

    def test_it_is_written_in_the_words_of_json(self):
        assert monitor().card().as_dict()["powerLimitMilliwatts"] == 700_000


class TestSampler:
    def test_it_reads_at_the_beginning_and_at_the_end_however_short_the_stretch(self):
        times = count()

        with gpu.Sampler(lambda: Reading(next(times)), period_seconds=3600) as sampler:
            pass

        assert len(sampler.readings) >= 1
        assert [reading.at_ns for reading in sampler.readings] == list(range(len(sampler.readings)))

    def test_it_reads_again_and_again_meanwhile(self):
        enough = threading.Event()
        times = count()

        def read():
            reading = Reading(next(times))
            if reading.at_ns == 5:
                enough.set()
            return reading

        with gpu.Sampler(read, period_seconds=0) as sampler:
            assert enough.wait(10)

        assert len(sampler.readings) >= 6

    def test_no_thread_is_left_behind(self):
        with gpu.Sampler(lambda: Reading(0)):
            pass

        assert "inferbench-gpu" not in {thread.name for thread in threading.enumerate()}


class TestCards:
    def test_each_is_told_with_its_driver_and_its_settings(self):
        library = FakeNvml(names=["NVIDIA H200", "NVIDIA A100"], ecc=[0, 0])

        found = gpu.cards(library)

        assert [(card.name, card.driver, card.ecc) for card in found] == [
            ("NVIDIA H200", "580.159.04", "off"),
            ("NVIDIA A100", "580.159.04", "off"),
        ]
        assert not library.is_open

    @pytest.mark.parametrize(
        "library",
        [
            pytest.param(None, id="no NVML"),
            pytest.param(FakeNvml(has_driver=False), id="no driver"),
            pytest.param(FakeNvml(names=[]), id="no GPU"),
            pytest.param(FakeNvml(names=["NVIDIA H200", None]), id="one that fell off the bus"),
        ],
    )
    def test_otherwise_there_are_none_and_the_program_goes_on(self, library):
        assert list(gpu.cards(library)) == []
        assert library is None or not library.is_open

    @pytest.mark.parametrize(
        ("answers", "words"),
        [
            pytest.param({}, "NVIDIA H200, driver 580.159.04, 700 W", id="as it is delivered"),
            pytest.param(
                {"ecc": None, "mig": None, "limit_milliwatts": None}, "NVIDIA H200, driver 580.159.04", id="old"
            ),
            pytest.param(
                {"ecc": [0, 0], "mig": [1, 1], "limit_milliwatts": 450_000},
                "NVIDIA H200, driver 580.159.04, 450 W, ECC off, MIG on",
                id="set otherwise",
            ),
        ],
    )
    def test_in_words_it_is_named_with_what_decides_how_fast_it_is(self, answers, words):
        (card,) = gpu.cards(FakeNvml(**answers))

        assert card.in_words == words

    def test_the_words_of_the_longest_name_fit_into_a_result(self):
        (card,) = gpu.cards(
            FakeNvml(names=["NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition"], ecc=[0, 0], mig=[1, 1])
        )

        assert len(card.in_words) <= result.MAX_HARDWARE_CHARS
