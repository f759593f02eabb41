"""What the bare loop of benchmarks/gpu/bias.py calls: the library, and nothing that a session puts around it.

The sessions are the runner's own without their libraries: a bare loop around them needs only what is set here.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from types import SimpleNamespace

import pytest

from inferbench_runner.backends import _torch, onnxruntime, tensorrt

FOLDER = Path(__file__).parents[2] / "benchmarks/gpu"


@pytest.fixture
def bias(monkeypatch):
    """The script as a module."""
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("bias")


@pytest.fixture
def done():
    """What was called, in order."""
    return []


def noting(done, what):
    return lambda *arguments: done.append((what, *arguments))


def a_session(kind, done, **parts):
    """A session whose stream, events and copies say that they were used."""
    session = object.__new__(kind)
    session._stream = SimpleNamespace(synchronize=noting(done, "wait"), mark=noting(done, "event"))
    for name, part in parts.items():
        setattr(session, name, part)
    return session


def test_pytorch_is_called_with_the_bound_inputs_in_inference_mode(bias, done):
    import torch

    def model(*inputs):
        done.append(("model", *inputs, torch.is_inference_mode_enabled()))

    with bias.bare(a_session(_torch.CudaSession, done, _call=model, _arguments=(1, 2))) as (enqueue, synchronize):
        enqueue()

    assert done == [("model", 1, 2, True)]
    assert synchronize is torch.cuda.synchronize


def test_onnx_runtime_is_called_with_what_is_bound(bias, done):
    library = SimpleNamespace(run_with_iobinding=noting(done, "run"))
    session = a_session(onnxruntime.CudaSession, done, _session=library, _binding="bound", _run_options="options")

    with bias.bare(session) as (enqueue, synchronize):
        enqueue()
        synchronize()

    assert done == [("run", "bound", "options"), ("wait",)]


def test_tensorrt_is_started_as_the_session_starts_it_with_a_graph_or_without(bias, done):
    with bias.bare(a_session(tensorrt.TensorRtSession, done, _start=noting(done, "start"))) as (enqueue, synchronize):
        enqueue()
        synchronize()

    assert done == [("start",), ("wait",)]
