"""What the bare loop of benchmarks/gpu/bias.py calls: the library, and nothing that a session puts around it.

The sessions are the runner's own, over the scripted stand-ins, which note every call.
"""

from __future__ import annotations

import importlib
import json
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnxruntime as real
import pytest
from onnx import parser, save

from inferbench_contract.words import Backend, Device, Precision
from inferbench_runner import cuda
from inferbench_runner.backends import _torch, onnxruntime, tensorrt
from tests.fake_cuda import FakeCuda
from tests.fake_onnxruntime import FakeOnnxRuntime
from tests.fake_tensorrt import FakeTensorRt
from tests.runner.graph_tasks import DOUBLING, of_graph, write_examples

FOLDER = Path(__file__).parents[2] / "benchmarks/gpu"

DOUBLING_JSON = {"inputs": {"x": [[-1, 3], "FLOAT"]}, "outputs": {"y": [[-1, 3], "FLOAT"]}, "factor": 2}
"""The graph that doubles as TensorRT's stand-in reads it."""


@pytest.fixture
def bias(monkeypatch):
    """The script as a module."""
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("bias")


@pytest.fixture
def gpu():
    return FakeCuda()


@pytest.fixture
def a_task(tmp_path):
    """Makes the task of a cell of a graph that doubles."""
    numbers = np.ones((8, 3), np.float32)
    write_examples(tmp_path, {"x": numbers}, {"y": 2 * numbers})

    def make(backend, **options):
        fixed = {"device": Device.GPU, "batch_size": 2, "contract": "device-resident", "options": options}
        return of_graph(tmp_path, backend, Precision.FP32, **fixed)

    return make


def bare_call(bias, session, gpu):
    """What the CUDA runtime is asked for in a bare call, and what the GPU has done then. The first call is none."""
    session.enqueue()
    session.synchronize()
    gpu.calls.clear()
    gpu.done.clear()
    with bias.bare(session) as (enqueue, synchronize):
        enqueue()
        synchronize()
    return gpu.calls, gpu.done


def test_onnx_runtime_is_called_with_what_is_bound(bias, gpu, a_task, tmp_path):
    save(parser.parse_model(DOUBLING), tmp_path / "model.onnx")
    library = FakeOnnxRuntime(gpu, real)
    session = onnxruntime.load_on_gpu(a_task(Backend.ONNXRUNTIME), library, library.open_device)

    assert bare_call(bias, session, gpu) == (["cudaStreamSynchronize"], ["graph"])


@pytest.mark.parametrize("with_graph", [False, True], ids=["plain", "cuda graph"])
def test_tensorrt_is_started_as_the_session_starts_it(bias, gpu, a_task, tmp_path, with_graph):
    (tmp_path / "model.onnx").write_text(json.dumps(DOUBLING_JSON))
    task = a_task(Backend.TENSORRT, cudaGraph=with_graph)
    session = tensorrt.open_session(task, cuda.open_device(gpu), FakeTensorRt(gpu), "580.159.04", [])
    launch = ["cudaGraphLaunch"] if with_graph else []

    assert bare_call(bias, session, gpu) == ([*launch, "cudaStreamSynchronize"], ["engine"])


def test_pytorch_is_called_with_the_bound_inputs_in_inference_mode_and_waited_for_as_users_wait(bias):
    import torch

    called = []
    event = SimpleNamespace(record=lambda: called.append("event"))
    library = SimpleNamespace(
        inference_mode=torch.inference_mode,
        cuda=SimpleNamespace(
            Stream=lambda: None, Event=lambda **_: event, stream=lambda _: nullcontext(), synchronize=lambda: None
        ),
    )
    inputs = {"x": torch.ones(2)}

    def model(x):
        called.append((x is inputs["x"], torch.is_inference_mode_enabled()))

    session = _torch.CudaSession(library, model, inputs, {}, lambda: None, with_copies=False)
    with bias.bare(session) as (enqueue, synchronize):
        enqueue()

    assert called == [(True, True)]
    assert synchronize is torch.cuda.synchronize
    session.enqueue()
    assert called[1:] == ["event", (True, True), "event"]
