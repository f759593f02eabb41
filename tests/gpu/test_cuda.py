"""The layer over CUDA, the telemetry and the probes, on a real GPU: what the stand-ins elsewhere cannot show."""

from __future__ import annotations

import statistics
import subprocess
import time

import numpy as np
import pytest

from inferbench_runner import cuda, gpu, guards, probes
from inferbench_runner.gpu import Sampler

FLOATS = np.dtype(np.float32)
MANY = 1 << 24

ANCHOR_REPEATS = 5
"""A/A pairs of a quiet card; what differs between processes shows too."""


ENERGY_SECONDS = 6
"""A second more than the counter needs."""


@pytest.fixture
def device():
    with cuda.open_device() as opened:
        yield opened


class TestDevice:
    def test_it_has_a_name_and_memory(self, device):
        found = device.properties()

        assert found.name.startswith(("NVIDIA", "Tesla", "Quadro", "GeForce"))
        assert found.memory_bytes > 1 << 30
        assert found.l2_bytes > 0

    def test_what_is_copied_in_comes_out_again(self, device):
        stream, buffer = device.stream(), device.buffer(4 * MANY)
        there, back = device.pinned((MANY,), FLOATS), device.pinned((MANY,), FLOATS)
        there.array[...] = np.random.default_rng(0).standard_normal(MANY, dtype=np.float32)

        stream.copy_in(buffer, there)
        stream.copy_out(back, buffer)
        stream.synchronize()

        assert np.array_equal(there.array, back.array)

    def test_memory_comes_back_when_it_is_closed(self, device):
        before = device.free_bytes()
        with cuda.open_device() as other:
            other.buffer(1 << 30)
            during = device.free_bytes()

        assert before - during >= 1 << 30
        assert device.free_bytes() >= before - (64 << 20)

    def test_more_than_there_is_is_out_of_memory_and_the_next_one_fits(self, device):
        with pytest.raises(cuda.OutOfMemoryError, match="out of memory"):
            device.buffer(device.properties().memory_bytes * 2)

        assert device.buffer(1 << 20).address

    def test_events_tell_the_bandwidth_of_a_copy_that_can_be_true(self, device):
        stream, begin, end = device.stream(), device.event(), device.event()
        size_bytes = 256 << 20
        source, target = device.buffer(size_bytes), device.buffer(size_bytes)
        for _ in range(10):
            stream.mark(begin)
            stream.copy(target, source)
            stream.mark(end)
        stream.synchronize()

        bytes_per_second = 2 * size_bytes / device.elapsed_ns(begin, end) * 1e9

        assert 50e9 < bytes_per_second < 20e12

    def test_a_replayed_graph_reads_what_lies_there_now(self, device):
        stream, buffer = device.stream(), device.buffer(4)
        host, back = device.pinned((1,), FLOATS), device.pinned((1,), FLOATS)
        host.array[...] = 1

        def work():
            stream.copy_in(buffer, host)
            stream.copy_out(back, buffer)

        graph = device.graph(stream, work)
        host.array[...] = 7
        stream.launch(graph)
        stream.synchronize()

        assert back.array[0] == 7

    def test_allocating_while_recording_is_refused_and_the_stream_goes_on(self, device):
        stream = device.stream()

        with pytest.raises(cuda.CudaError):
            device.graph(stream, lambda: device.pinned((1,), FLOATS) and None)

        stream.synchronize()


class TestTelemetry:
    @pytest.fixture
    def monitor(self, driver):
        pytest.importorskip("pynvml", reason="needs NVML's bindings: pip install nvidia-ml-py")
        opened = gpu.open_monitor(driver.uuid)
        assert opened is not None, "NVML does not know the card that CUDA knows by this UUID"
        with opened:
            yield opened

    def test_nvml_finds_the_card_that_cuda_uses(self, monitor, device):
        assert monitor.card().name == device.properties().name

    def test_a_working_card_has_clocks_heat_and_power(self, monitor, device):
        stream = device.stream()
        source, target = device.buffer(256 << 20), device.buffer(256 << 20)
        with Sampler(monitor.read, period_seconds=0.05) as sampler:
            for _ in range(500):
                stream.copy(target, source)
            stream.synchronize()

        reading = sampler.readings[-1]
        assert reading.sm_mhz > 0
        assert 0 < reading.temperature_celsius < 120
        assert reading.power_milliwatts is None or reading.power_milliwatts > 0

    def test_memory_that_we_take_is_seen(self, monitor, device):
        before = monitor.read().memory_used_bytes
        device.buffer(1 << 30)

        assert monitor.read().memory_used_bytes - before >= 1 << 30

    def test_what_the_card_counts_is_what_it_says_it_takes(self, monitor, device):
        """What it says lags, and is a sample, so that only a half or the double is a fault."""
        if monitor.read().energy_millijoules is None:
            pytest.skip("this GPU does not count its energy")
        stream = device.stream()
        source, target = device.buffer(256 << 20), device.buffer(256 << 20)
        until = time.monotonic() + ENERGY_SECONDS
        with Sampler(monitor.read) as sampler:
            while time.monotonic() < until:
                for _ in range(100):
                    stream.copy(target, source)
                stream.synchronize()

        powers = [r.power_milliwatts for r in sampler.readings if r.power_milliwatts is not None]

        assert 0.5 < guards.energy(sampler.readings).power_milliwatts / statistics.fmean(powers) < 2


class TestProbes:
    def test_the_same_work_takes_the_same_time_in_fresh_processes(self, tmp_path):
        found = []
        for index in range(ANCHOR_REPEATS):
            subprocess.run(probes.anchor_command(tmp_path / f"{index}.json"), check=True)
            found.append(probes.read_anchor(tmp_path / f"{index}.json"))

        drifted = [guards.have_drifted(found[0], other) for other in found[1:]]

        assert all(anchor.compute_ns > 100_000 for anchor in found)
        assert sum(drifted) <= 1, found

    def test_the_limits_of_the_card_can_be_true(self, tmp_path):
        pytest.importorskip("torch")
        subprocess.run(probes.roofline_command(tmp_path / "answer.json"), check=True)

        found = probes.read_roofline(tmp_path / "answer.json")

        assert 50e9 < found.bandwidth_bytes_per_second < 20e12
        assert found.operations_per_second["fp16"] > found.operations_per_second["fp32"] > 1e11
