"""ONNX Runtime's session on a GPU, over the stand-ins for CUDA and for ONNX Runtime: no GPU is here.

What a session is told while it is made stands in tests/runner/test_onnxruntime.py, with the real library's options.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest

from inferbench_runner import cuda
from inferbench_runner.backends.onnxruntime import NO_CUDA_GRAPH, NO_WAITING, CudaSession, RunOptions
from tests.fake_cuda import FakeCuda
from tests.fake_onnxruntime import CALL_NS, FakeSession

BATCH = np.array([[1, 2, 3], [4, 5, 6]], np.float32)


@dataclass
class Told:
    """The options of a run, as the library keeps them."""

    entries: dict[str, str] = field(default_factory=dict)

    def get_run_config_entry(self, key):
        return self.entries.get(key)


FIRST, TIMED = Told(NO_CUDA_GRAPH), Told(NO_WAITING)


@pytest.fixture
def gpu():
    return FakeCuda()


def a_session(gpu: FakeCuda, *, with_copies: bool = False, first: Told = FIRST, **graph):
    device = cuda.open_device(gpu)
    stream = device.stream()
    made = FakeSession(gpu, stream.address, **graph)
    return CudaSession(made, device, stream, {"x": BATCH}, RunOptions(first, TIMED), with_copies=with_copies), made


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
    assert graph.run_options == [FIRST, TIMED]
    session.synchronize()
    assert gpu.done == done
    assert session.device_time_ns() == CALL_NS + 1_000 * (len(done) - 1)


@pytest.mark.parametrize("with_graph", [False, True], ids=["plain", "cuda graph"])
@pytest.mark.parametrize("with_copies", [False, True], ids=["device-resident", "end-to-end"])
def test_batches_go_to_the_addresses_that_stay(gpu, with_copies, with_graph):
    session, graph = a_session(gpu, with_copies=with_copies, records=with_graph)
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


def test_a_graph_that_was_recorded_before_the_outputs_were_bound_writes_elsewhere_for_ever(gpu):
    """Why the run that shows what comes out must not be recorded."""
    session, _ = a_session(gpu, first=Told(), records=True)

    session.enqueue()

    assert not np.array_equal(session.outputs()["y"], 2 * BATCH)


def test_bf16_is_bound_by_its_number_and_answers_come_as_fp32(gpu):
    dtype = np.dtype("bfloat16")
    device = cuda.open_device(gpu)
    stream = device.stream()
    graph = FakeSession(gpu, stream.address, kind="tensor(bfloat16)")
    session = CudaSession(graph, device, stream, {"x": BATCH.astype(dtype)}, RunOptions(FIRST, TIMED), with_copies=True)

    session.enqueue()

    assert session.inputs()["x"].dtype == dtype
    assert session.outputs()["y"].dtype == np.float32
    assert np.array_equal(session.outputs()["y"], 2 * BATCH)
