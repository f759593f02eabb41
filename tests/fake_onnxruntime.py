"""A scripted stand-in for ONNX Runtime's sessions on a GPU, over tests/fake_cuda.py: a graph that doubles its input.

It is no GPU, and nothing here was compared with one. It shows what a session is told, in which order, and which
addresses it reads and writes: also with a CUDA graph, which ONNX Runtime records in the first run that lets it, with
the addresses of that run. Options are the real library's where a test gives it that.
"""

# ruff: noqa: N802 (the names are ONNX Runtime's)

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np

from tests.fake_cuda import FakeCuda

CALL_NS = 70_000

TYPES = {"tensor(float)": np.float32, "tensor(bfloat16)": ml_dtypes.bfloat16}
NUMBERS = {"tensor(bfloat16)": 16}
"""Of types that are bound by ONNX's number, TensorProto.BFLOAT16, because NumPy has none of the kind."""


class FakeBinding:
    """Remembers what is bound where, as ONNX Runtime's IO binding does."""

    def __init__(self, kind: str):
        self.kind = kind
        self.bound: dict[str, tuple[int, tuple[int, ...]]] = {}
        self.answers: list[object] = []

    def bind_input(self, name, device, device_id, element_type, shape, address):
        assert (device, device_id, element_type) == ("cuda", 0, NUMBERS.get(self.kind, TYPES[self.kind]))
        self.bound[name] = (address, shape)

    def bind_output(self, name, device, device_id=0, element_type=None, shape=None, address=None):
        if address is None:
            self.bound.pop(name, None)
        else:
            self.bind_input(name, device, device_id, element_type, shape, address)

    def get_outputs(self):
        return self.answers


@dataclass
class FakeSession:
    """Doubles x into y on the stream that it was told, and waits for it unless it is told not to."""

    gpu: FakeCuda
    stream_address: int
    kind: str = "tensor(float)"
    records: bool = False
    provider: str = "CUDAExecutionProvider"
    places: tuple[str, ...] = ("CUDAExecutionProvider",)
    """Where its nodes stand."""
    bindings: list[FakeBinding] = field(default_factory=list)
    run_options: list[Any] = field(default_factory=list)
    recorded: Any = None

    def io_binding(self):
        self.bindings.append(FakeBinding(self.kind))
        return self.bindings[-1]

    def get_inputs(self):
        return [SimpleNamespace(name="x", type=self.kind, shape=["batch", 3])]

    def get_outputs(self):
        return [SimpleNamespace(name="y", type=self.kind, shape=["batch", 3])]

    def get_providers(self):
        return [self.provider, "CPUExecutionProvider"]

    def get_provider_graph_assignment_info(self):
        nodes = {place: SimpleNamespace(name="doubling", op_type="Mul") for place in self.places}
        return [SimpleNamespace(ep_name=place, get_nodes=lambda node=node: [node]) for place, node in nodes.items()]

    def run_with_iobinding(self, binding, run_options=None):
        self.run_options.append(run_options)
        work = self.recorded or self._work(binding)
        if self.records and entry(run_options, "gpu_graph_id") != "-1":
            self.recorded = work
        stream = self.gpu.stream_at(self.stream_address)
        stream.add(work)
        if entry(run_options, "disable_synchronize_execution_providers") != "1":
            self.gpu.cudaStreamSynchronize(stream)

    def _work(self, binding):
        source, shape = binding.bound["x"]
        if "y" in binding.bound:
            target, _ = binding.bound["y"]
        else:
            _, target = self.gpu.cudaMalloc(np.dtype(TYPES[self.kind]).itemsize * int(np.prod(shape)))
            binding.answers = [SimpleNamespace(shape=lambda: list(shape), data_type=lambda: self.kind)]
        return self.gpu.run("graph", CALL_NS, lambda: self._double(source, target, shape))

    def _double(self, source, target, shape):
        dtype = np.dtype(TYPES[self.kind])
        numbers = np.frombuffer(self.gpu.read(source, dtype.itemsize * int(np.prod(shape))), dtype)
        self.gpu.write(target, (numbers + numbers).tobytes())


class FakeOnnxRuntime:
    """Stands in for the module. What its sessions are told is kept as it came, in the real library's own objects."""

    def __init__(self, gpu: FakeCuda, real: Any, *, refuses: bool = False, **session: Any):
        self.SessionOptions = real.SessionOptions
        self.RunOptions = real.RunOptions
        self.ExecutionMode = real.ExecutionMode
        self.GraphOptimizationLevel = real.GraphOptimizationLevel
        self.calls: list[str] = []
        self.options: Any = None
        self.told: dict[str, str] = {}
        """The options of the provider."""
        self.session: FakeSession
        self._gpu = gpu
        self._session = session
        self._refuses = refuses
        """Whether it has no kernel for a node."""

    def preload_dlls(self):
        self.calls.append("preload_dlls")

    def open_device(self):
        """Not ONNX Runtime's: what the backend asks for between its calls."""
        from inferbench_runner import cuda

        self.calls.append("open_device")
        return cuda.open_device(self._gpu)

    def InferenceSession(self, path, options, providers):
        self.calls.append("InferenceSession")
        [(_, self.told)], self.options = providers, options
        address, records = int(self.told.get("user_compute_stream", 0)), self.told.get("enable_cuda_graph") == "1"
        if self._refuses:
            self._refuse(records)
        self.session = FakeSession(self._gpu, address, records=records, **self._session)
        return self.session

    def _refuse(self, records):
        """Raise what the library raises, in its words and in its order."""
        if records:
            raise RuntimeError(
                "[ONNXRuntimeError] : 1 : FAIL : This session cannot use the graph capture feature as requested by the "
                "user  as all compute graph nodes have not been partitioned to the CUDAExecutionProvider"
            )
        if session_entry(self.options, "session.disable_cpu_ep_fallback") == "1":
            raise RuntimeError(
                "[ONNXRuntimeError] : 1 : FAIL : This session contains graph nodes that are assigned to the default "
                "CPU EP, but fallback to CPU EP has been explicitly disabled by the user."
            )


def entry(run_options: Any, key: str) -> str | None:
    """Return what a run is told under a key; None where it is told nothing."""
    return None if run_options is None else _told(run_options.get_run_config_entry, key)


def session_entry(options: Any, key: str) -> str | None:
    """Return what a session is told under a key; None where it is told nothing."""
    return _told(options.get_session_config_entry, key)


def _told(read: Callable[[str], object], key: str) -> str | None:
    try:
        return str(read(key))
    except RuntimeError:
        return None
