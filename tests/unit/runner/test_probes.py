"""The anchor probe, on the scripted stand-in of tests/fake_cuda.py, and what is made of the probes' answers."""

from __future__ import annotations

import json
from itertools import count

import pytest

from inferbench_runner import anchor, cuda, gpu, probes
from inferbench_runner.guards import Anchor, Roofline
from tests.fake_cuda import COPY_NS, FakeCuda, FakeDriverApi, FakeNvml

UUID = "00010203-0405-0607-0809-0a0b0c0d0e0f"


def a_gpu():
    """A small one: the stand-in's memory is real."""
    return FakeCuda(memory_bytes=64 << 20)


def ticking():
    """A clock that is read every 50 ms."""
    return count(step=50_000_000).__next__


@pytest.fixture
def card():
    return gpu.open_monitor(UUID, FakeNvml()).card()


class TestAnchor:
    def test_it_is_the_times_of_a_kernel_and_of_a_copy(self):
        fake = a_gpu()

        found = anchor.measure(cuda.open_device(fake), FakeDriverApi(fake, kernel_ns=5_000_000), ticking())

        assert found == (5_000_000, COPY_NS)

    def test_the_work_is_the_same_each_time_and_fills_the_card(self):
        fake = a_gpu()
        driver = FakeDriverApi(fake)

        anchor.measure(cuda.open_device(fake), driver, ticking())

        assert set(driver.launches) == {(4 * 132, 256, 250_000)}

    def test_it_warms_up_before_it_counts(self):
        """The first half of the calls is slow here, as while the clocks rise, and does not show."""
        fake = a_gpu()
        driver = FakeDriverApi(fake, kernel_ns=9_000_000)
        ticks = ticking()

        def clock():
            now = ticks()
            driver.kernel_ns = 9_000_000 if now < anchor.WARM_NS else 5_000_000
            return now

        assert anchor.measure(cuda.open_device(fake), driver, clock)[0] == 5_000_000

    def test_it_takes_little_of_a_card_that_is_almost_full(self):
        fake = FakeCuda(memory_bytes=8 << 20)

        anchor.measure(cuda.open_device(fake), FakeDriverApi(fake), ticking())

        assert fake.done

    def test_it_leaves_nothing_behind(self):
        fake = a_gpu()

        with cuda.open_device(fake) as device:
            anchor.measure(device, FakeDriverApi(fake), ticking())

        assert fake.left_over == 0

    def test_a_driver_that_cannot_compile_the_kernel_says_so(self):
        fake = a_gpu()

        with pytest.raises(cuda.CudaError, match="cuModuleLoadData: 218"):
            anchor.measure(cuda.open_device(fake), FakeDriverApi(fake, status=218), ticking())


class TestAnswers:
    def test_an_anchor_is_read_back(self, tmp_path):
        (tmp_path / "answer.json").write_text('{"computeNanoseconds": 5, "copyNanoseconds": 7}')

        assert probes.read_anchor(tmp_path / "answer.json") == Anchor(5, 7)

    @pytest.mark.parametrize("text", ["", "[]", "{}", '{"computeNanoseconds": null}'])
    def test_a_probe_that_failed_is_no_anchor_and_no_error(self, tmp_path, text):
        (tmp_path / "answer.json").write_text(text)

        assert probes.read_anchor(tmp_path / "answer.json") is None
        assert probes.read_roofline(tmp_path / "answer.json") is None
        assert probes.read_anchor(tmp_path / "nothing.json") is None


class TestRooflineOf:
    ANSWER = json.dumps({"bandwidthBytesPerSecond": 4, "l2Bytes": 5, "operationsPerSecond": {"fp16": 6}})

    def test_a_card_is_measured_once(self, card, tmp_path):
        started = []

        def run(command):
            started.append(command)
            with open(command[-1], "w") as file:  # noqa: PTH123 (the last argument is a text)
                file.write(self.ANSWER)

        found = [probes.roofline_of(card, tmp_path, run) for _ in range(2)]

        assert found == [Roofline(4, 5, {"fp16": 6})] * 2
        assert [command[2] for command in started] == ["inferbench_runner.probes"]

    def test_a_probe_that_fails_is_tried_again_next_time(self, card, tmp_path):
        started = []

        found = [probes.roofline_of(card, tmp_path, started.append) for _ in range(2)]

        assert found == [None, None]
        assert len(started) == 2
