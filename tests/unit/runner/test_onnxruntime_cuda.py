"""ONNX Runtime's session on a GPU, over the stand-ins for CUDA and for ONNX Runtime: no GPU has run it yet."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import pytest

from inferbench_runner import cuda
from inferbench_runner.backends.onnxruntime import CudaSession
from tests.fake_cuda import FakeCuda

CALL_NS = 70_000
BATCH = np.array([[1, 2, 3], [4, 5, 6]], np.float32)


class FakeBinding:
    """Remembers what is bound where, as ONNX Runtime's IO binding does."""

    def __init__(self):
        self.bound: dict[str, tuple[int, tuple[int, ...]]] = {}
        self.allocated: list[object] = []

    def bind_input(self, name, device, device_id, dtype, shape, address):
        assert (device, device_id, dtype) == ("cuda", 0, np.float32)
        self.bound[name] = (address, shape)

    def bind_output(self, name, device, device_id=0, dtype=None, shape=None, address=None):
        if address is None:
            self.allocated = [SimpleNamespace(shape=lambda: [2, 3], data_type=lambda: "tensor(float)")]
        else:
            self.bind_input(name, device, device_id, dtype, shape, address)

    def get_outputs(self):
        return self.allocated


@dataclass
class FakeSession:
    """A graph that doubles its input, on the stream that it was told."""

    gpu: FakeCuda
    stream: cuda.Stream
    bindings: list[FakeBinding] = field(default_factory=list)
    run_options: list[object] = field(default_factory=list)

    def io_binding(self):
        self.bindings.append(FakeBinding())
        return self.bindings[-1]

    def get_outputs(self):
        return [SimpleNamespace(name="y")]

    def run_with_iobinding(self, binding, run_options=None):
        self.run_options.append(run_options)
        if "y" in binding.bound:
            (source, shape), (target, _) = binding.bound["x"], binding.bound["y"]
            work = self.gpu.run("graph", CALL_NS, lambda: self._double(source, target, shape))
            self.gpu.stream_at(self.stream.address).add(work)

    def _double(self, source, target, shape):
        numbers = np.frombuffer(self.gpu.read(source, 4 * int(np.prod(shape))), np.float32)
        self.gpu.write(target, (2 * numbers).tobytes())


@pytest.fixture
def gpu():
    return FakeCuda()


def a_session(gpu: FakeCuda, *, with_copies: bool) -> tuple[CudaSession, FakeSession]:
    device = cuda.open_device(gpu)
    stream = device.stream()
    graph = FakeSession(gpu, stream)
    return CudaSession(graph, device, stream, {"x": BATCH}, "no waiting", with_copies=with_copies), graph


@pytest.mark.parametrize(
    ("with_copies", "done"),
    [
        pytest.param(False, ["graph"], id="device-resident: the graph alone"),
        pytest.param(
            True, ["cudaMemcpyHostToDevice", "graph", "cudaMemcpyDeviceToHost"], id="end to end: with both copies"
        ),
    ],
)
def test_a_call_does_what_its_contract_says_and_waits_for_nothing(gpu, with_copies, done):
    session, graph = a_session(gpu, with_copies=with_copies)
    gpu.done.clear()
    gpu.calls.clear()

    session.enqueue()

    assert gpu.done == []
    assert "cudaStreamSynchronize" not in gpu.calls
    assert graph.run_options[-1] == "no waiting"
    session.synchronize()
    assert gpu.done == done
    assert session.device_time_ns() == CALL_NS + 1_000 * (len(done) - 1)


@pytest.mark.parametrize("with_copies", [False, True])
def test_batches_go_to_the_addresses_that_stay(gpu, with_copies):
    session, graph = a_session(gpu, with_copies=with_copies)
    bound = dict(graph.bindings[0].bound)

    session.enqueue()
    session.synchronize()
    first = session.outputs()["y"]
    session.load_batch({"x": -BATCH})
    session.enqueue()

    assert np.array_equal(first, 2 * BATCH)
    assert np.array_equal(session.outputs()["y"], -2 * BATCH)
    assert np.array_equal(session.inputs()["x"], -BATCH)
    assert graph.bindings[0].bound == bound
