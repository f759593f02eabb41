"""The layer over CUDA, on the scripted stand-in of tests/fake_cuda.py: no GPU is here, and no driver."""

from __future__ import annotations

import numpy as np
import pytest

from inferbench_contract.errors import EnvironmentFault
from inferbench_runner import cuda
from tests.fake_cuda import CudaErrorT, FakeCuda, FakeDriver

FLOATS = np.dtype(np.float32)


@pytest.fixture
def fake():
    return FakeCuda()


@pytest.fixture
def device(fake):
    with cuda.open_device(fake) as opened:
        yield opened


def absent(name):
    raise OSError(f"{name}: cannot open shared object file")


class TestRequireDriver:
    def test_it_describes_the_first_gpu_whose_uuid_nvml_knows_too(self):
        found = cuda.require_driver(load=FakeDriver(name=b"Tesla T4", capability=(7, 5)))

        assert found == cuda.Driver(13_000, "00010203-0405-0607-0809-0a0b0c0d0e0f", "Tesla T4", (7, 5))

    @pytest.mark.parametrize(
        ("driver", "words"),
        [
            pytest.param(absent, "There is no NVIDIA driver here", id="no driver"),
            pytest.param(FakeDriver(init=100), "no GPU for this process", id="a driver without a GPU"),
            pytest.param(FakeDriver(devices=0), "no GPU for this process", id="all GPUs are hidden"),
            pytest.param(FakeDriver(version=12_040), r"runs CUDA up to 12\.4, .* need 13\.0", id="too old a driver"),
            pytest.param(
                FakeDriver(init=803),
                r"cuInit answered 803 \(CUDA_ERROR_SYSTEM_DRIVER_MISMATCH\)",
                id="a driver that was updated under a running kernel",
            ),
        ],
    )
    def test_what_no_retry_mends_is_an_environment_fault_that_says_what_to_do(self, driver, words):
        with pytest.raises(EnvironmentFault, match=words):
            cuda.require_driver(load=driver)

    def test_a_driver_that_is_too_old_is_not_even_started(self):
        driver = FakeDriver(version=12_040)

        with pytest.raises(EnvironmentFault):
            cuda.require_driver(load=driver)

        assert driver.calls == ["cuDriverGetVersion"]

    def test_libraries_for_cuda_12_need_no_newer_driver(self):
        assert cuda.require_driver(12_000, FakeDriver(version=12_040)).version == 12_040


class TestMemory:
    def test_what_is_copied_in_comes_out_again(self, device):
        stream, buffer = device.stream(), device.buffer(16)
        there, back = device.pinned((4,), FLOATS), device.pinned((4,), FLOATS)
        there.array[...] = [1, 2, 3, 4]

        stream.copy_in(buffer, there)
        stream.copy_out(back, buffer)
        stream.synchronize()

        assert back.array.tolist() == [1, 2, 3, 4]

    def test_nothing_has_happened_before_it_is_waited_for(self, device, fake):
        """So a forgotten wait shows in every test that uses the stand-in."""
        stream, buffer, host = device.stream(), device.buffer(16), device.pinned((4,), FLOATS)
        host.array[...] = 1

        stream.copy_in(buffer, host)

        assert fake.done == []
        assert fake.read(buffer.address, 4) == b"\xcd\xcd\xcd\xcd"

    def test_a_tensor_without_elements_has_an_address_too(self, device):
        assert device.buffer(0).address
        assert device.pinned((0, 4), FLOATS).array.shape == (0, 4)

    def test_a_copy_between_different_sizes_is_refused(self, device):
        stream, buffer, host = device.stream(), device.buffer(12), device.pinned((4,), FLOATS)

        with pytest.raises(ValueError, match="12 bytes, the array 16"):
            stream.copy_in(buffer, host)

    def test_too_much_is_out_of_memory_by_name(self):
        device = cuda.open_device(FakeCuda(memory_bytes=1000))

        with pytest.raises(cuda.OutOfMemoryError, match=r"cudaMalloc of 1,001 bytes: .* \(out of memory\)") as caught:
            device.buffer(1001)

        assert isinstance(caught.value, MemoryError)

    def test_free_memory_is_told(self, device):
        before = device.free_bytes()

        device.buffer(1 << 20)

        assert before - device.free_bytes() == 1 << 20


class TestClose:
    def test_everything_is_freed_once_after_all_work_has_ended(self, fake):
        with cuda.open_device(fake) as device:
            stream, buffer, host = device.stream(), device.buffer(16), device.pinned((4,), FLOATS)
            device.event()
            device.graph(stream, lambda: stream.copy_in(buffer, host))
            stream.copy_in(buffer, host)

        assert fake.left_over == 0
        assert fake.done == ["cudaMemcpyHostToDevice"]
        assert fake.calls[-6:] == [
            "cudaDeviceSynchronize",
            "cudaGraphExecDestroy",
            "cudaEventDestroy",
            "cudaFreeHost",
            "cudaFree",
            "cudaStreamDestroy",
        ]

    def test_memory_that_is_used_after_it_was_freed_is_found_by_the_stand_in(self, fake, device):
        stream, buffer, host = device.stream(), device.buffer(16), device.pinned((4,), FLOATS)
        fake._device.clear()

        stream.copy_in(buffer, host)

        with pytest.raises(cuda.CudaError, match="cudaErrorIllegalAddress"):
            stream.synchronize()


class TestErrors:
    @pytest.mark.parametrize(
        ("call", "do"),
        [
            pytest.param("cudaEventRecord", lambda device, stream: stream.mark(device.event()), id="an event"),
            pytest.param("cudaStreamSynchronize", lambda device, stream: stream.synchronize(), id="a wait"),
            pytest.param("cudaMalloc", lambda device, stream: device.buffer(1), id="memory"),
            pytest.param("cudaHostAlloc", lambda device, stream: device.pinned((1,), FLOATS), id="pinned memory"),
            pytest.param(
                "cudaMemcpyAsync",
                lambda device, stream: stream.copy_in(device.buffer(4), device.pinned((1,), FLOATS)),
                id="a copy",
            ),
        ],
    )
    def test_a_failed_call_is_an_error_that_names_it(self, fake, device, call, do):
        stream = device.stream()
        fake.faults[call] = CudaErrorT.cudaErrorInvalidValue

        with pytest.raises(cuda.CudaError, match=f"{call}.*cudaErrorInvalidValue"):
            do(device, stream)

    def test_a_gpu_that_has_failed_can_still_be_closed(self, fake):
        device = cuda.open_device(fake)
        device.buffer(16)
        fake.faults["cudaDeviceSynchronize"] = CudaErrorT.cudaErrorIllegalAddress

        device.close()

        assert "cudaFree" not in fake.calls


class TestEvents:
    def test_the_time_between_two_events_is_what_the_gpu_took(self, fake, device):
        stream, begin, end = device.stream(), device.event(), device.event()

        stream.mark(begin)
        fake.stream_at(stream.address).add(fake.run("work", 1_234_000, lambda: None))
        stream.mark(end)
        stream.synchronize()

        assert device.elapsed_ns(begin, end) == 1_234_000

    def test_an_event_that_was_not_reached_has_no_time(self, device):
        stream, begin, end = device.stream(), device.event(), device.event()
        stream.mark(begin)
        stream.mark(end)

        with pytest.raises(cuda.CudaError, match="cudaErrorNotReady"):
            device.elapsed_ns(begin, end)


class TestGraphs:
    def test_what_is_recorded_does_not_run_until_it_is_launched(self, fake, device):
        stream, buffer, host = device.stream(), device.buffer(4), device.pinned((1,), FLOATS)
        graph = device.graph(stream, lambda: stream.copy_in(buffer, host))

        stream.synchronize()
        done_before = list(fake.done)
        stream.launch(graph)
        stream.launch(graph)
        stream.synchronize()

        assert (done_before, fake.done) == ([], ["cudaMemcpyHostToDevice"] * 2)

    def test_a_replay_reads_what_lies_at_the_recorded_addresses_now(self, fake, device):
        stream, buffer, host = device.stream(), device.buffer(4), device.pinned((1,), FLOATS)
        host.array[...] = 1
        graph = device.graph(stream, lambda: stream.copy_in(buffer, host))
        host.array[...] = 7

        stream.launch(graph)
        stream.synchronize()

        assert np.frombuffer(fake.read(buffer.address, 4), FLOATS) == 7

    def test_allocating_while_recording_fails_and_leaves_the_stream_usable(self, device):
        stream = device.stream()

        with pytest.raises(cuda.CudaError, match="cudaErrorStreamCaptureUnsupported"):
            device.graph(stream, lambda: device.buffer(4) and None)

        stream.synchronize()

    def test_the_error_of_the_recorded_work_is_the_one_that_is_told(self, device):
        def work():
            raise RuntimeError("the engine does not start")

        with pytest.raises(RuntimeError, match="the engine does not start"):
            device.graph(device.stream(), work)

    def test_a_graph_that_cannot_be_made_ready_leaves_nothing_behind(self, fake):
        with cuda.open_device(fake) as device:
            stream = device.stream()
            fake.faults["cudaGraphInstantiate"] = CudaErrorT.cudaErrorMemoryAllocation
            with pytest.raises(cuda.OutOfMemoryError):
                device.graph(stream, lambda: None)

        assert fake.left_over == 0


def test_a_gpu_describes_itself(device):
    found = device.properties()

    assert found == cuda.Properties("NVIDIA H200", (9, 0), 132, 150_000_000_000, 60 << 20)
