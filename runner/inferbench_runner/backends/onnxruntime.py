"""ONNX Runtime: the CPU provider, or the CUDA provider on a GPU. Its process imports no PyTorch.

Inputs and outputs are bound to memory that is made once. The CUDA session has run on an H100
(docs/results/2026-11-26-h100.md) at fp32, tf32 and fp16; its CUDA graphs and end-to-end copies with a stand-in only.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from inferbench_contract.spec import Contract
from inferbench_contract.words import Device, Precision
from inferbench_runner import cuda, environment, gate, onnx_models
from inferbench_runner.backends import Arrays, Artifact, FellBack, Session, Unsupported
from inferbench_runner.backends._host import HostSession, as_answer
from inferbench_runner.clocks import HOST_CLOCK, Clock
from inferbench_runner.task import CellTask

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray

ARTIFACTS = frozenset({Artifact.ONNX, Artifact.INPUTS, Artifact.REFERENCE})

DISTRIBUTIONS: Final = ("onnxruntime-gpu", "onnxruntime")

LEVELS: Final = {
    "disable": "ORT_DISABLE_ALL",
    "basic": "ORT_ENABLE_BASIC",
    "extended": "ORT_ENABLE_EXTENDED",
    "layout": "ORT_ENABLE_LAYOUT",
    "all": "ORT_ENABLE_ALL",
}

DTYPES: Final = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
    "tensor(int8)": np.int8,
    "tensor(int16)": np.int16,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
    "tensor(uint8)": np.uint8,
    "tensor(uint16)": np.uint16,
    "tensor(uint32)": np.uint32,
    "tensor(uint64)": np.uint64,
    "tensor(bool)": np.bool_,
}


def missing(precision: Precision, device: Device) -> str | None:  # noqa: ARG001 (the graph brings its precision)
    """Say that ONNX Runtime is not installed, or only without CUDA."""
    if importlib.util.find_spec("onnxruntime") is None:
        return "NotInstalled: onnxruntime is not installed. Install it: pip install 'inferbench[runner]'"
    if device is Device.GPU:
        cuda.require_driver()
        if "onnxruntime-gpu" not in versions():
            return "NotInstalled: this onnxruntime has no CUDA provider. Install it: pip install 'inferbench[gpu]'"
    return None


def versions() -> Mapping[str, str]:
    """Return ONNX Runtime's version, under the name of its distribution."""
    return {library.name: library.version for library in environment.installed(DISTRIBUTIONS)}


def load(task: CellTask) -> Session:
    """Make a session for this batch size and bind the first batch."""
    if task.artifacts.onnx is None:
        raise ValueError("The task names no graph: prepare it first.")
    if task.device is Device.GPU:
        return _load_on_gpu(task, task.artifacts.onnx)
    session = _session(task, task.artifacts.onnx, settings(task))
    return CpuSession(session, _checked(session, gate.first_batch(task), task.batch_size))


class CpuSession(HostSession):
    """A graph whose inputs and outputs lie in our arrays."""

    def __init__(self, session: Any, batch: Mapping[str, NDArray[Any]]) -> None:
        super().__init__(batch)
        self._session = session
        self._binding = session.io_binding()
        for name, array in batch.items():
            self._binding.bind_input(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
        self._outputs = self._bind_outputs()

    def enqueue(self) -> None:
        """Run the graph on the bound batch."""
        self._session.run_with_iobinding(self._binding)

    def outputs(self) -> Arrays:
        """Return copies of what the graph answered."""
        return {name: as_answer(array) for name, array in self._outputs.items()}

    def _bind_outputs(self) -> dict[str, NDArray[Any]]:
        """Run once to see what shapes come out, then give each output an array of its own."""
        values = _answers(self._session, self._binding, "cpu")
        outputs = {name: np.empty(value.shape(), DTYPES[value.data_type()]) for name, value in values.items()}
        for name, array in outputs.items():
            self._binding.bind_output(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
        return outputs


@dataclass(frozen=True, slots=True)
class _Tensor:
    """An input or output: its place on the GPU, and pinned host memory of the same type and size."""

    device: cuda.Buffer
    host: cuda.Pinned


class CudaSession:
    """A graph on a stream of our own, with inputs and outputs at fixed addresses on the GPU."""

    def __init__(
        self,
        session: Any,
        device: cuda.Device,
        stream: cuda.Stream,
        batch: dict[str, NDArray[Any]],
        run_options: Any,
        *,
        with_copies: bool,
    ) -> None:
        self._session, self._device, self._stream, self._run_options = session, device, stream, run_options
        self._begin, self._end = device.event(), device.event()
        self._binding = session.io_binding()
        self._inputs = {name: self._tensor(array.shape, array.dtype) for name, array in batch.items()}
        for name, tensor in self._inputs.items():
            self._bind(self._binding.bind_input, name, tensor)
        self.load_batch(batch)
        shapes = _answers(session, self._binding, "cuda")
        self._outputs = {name: self._tensor(value.shape(), DTYPES[value.data_type()]) for name, value in shapes.items()}
        for name, tensor in self._outputs.items():
            self._bind(self._binding.bind_output, name, tensor)
        self._copied_in = tuple(self._inputs.values()) if with_copies else ()
        self._copied_out = tuple(self._outputs.values()) if with_copies else ()

    @property
    def clock(self) -> Clock:
        """The host's."""
        return HOST_CLOCK

    def enqueue(self) -> None:
        """Start the graph on the bound batch; end to end with the copies in and out."""
        stream = self._stream
        stream.mark(self._begin)
        for tensor in self._copied_in:
            stream.copy_in(tensor.device, tensor.host)
        self._session.run_with_iobinding(self._binding, self._run_options)
        for tensor in self._copied_out:
            stream.copy_out(tensor.host, tensor.device)
        stream.mark(self._end)

    def synchronize(self) -> None:
        """Wait for the stream."""
        self._stream.synchronize()

    def device_time_ns(self) -> int | None:
        """Return the time between the two events."""
        return self._device.elapsed_ns(self._begin, self._end)

    def load_batch(self, inputs: Arrays) -> None:
        """Copy a batch into pinned memory and on to the GPU, in the types of the graph."""
        self.synchronize()
        for name, tensor in self._inputs.items():
            tensor.host.array[...] = inputs[name]
            self._stream.copy_in(tensor.device, tensor.host)
        self.synchronize()

    def inputs(self) -> Arrays:
        """Return copies of what the GPU holds."""
        return {name: array.copy() for name, array in self._read(self._inputs).items()}

    def outputs(self) -> Arrays:
        """Return copies of what the graph answered: of what came to the host, end to end."""
        if self._copied_out:
            self.synchronize()
            return {name: as_answer(tensor.host.array) for name, tensor in self._outputs.items()}
        return {name: as_answer(array) for name, array in self._read(self._outputs).items()}

    def _tensor(self, shape: Sequence[int], dtype: DTypeLike) -> _Tensor:
        host = self._device.pinned(tuple(shape), np.dtype(dtype))
        return _Tensor(self._device.buffer(host.size_bytes), host)

    def _bind(self, bind: Callable[..., None], name: str, tensor: _Tensor) -> None:
        array = tensor.host.array
        bind(name, "cuda", 0, array.dtype.type, array.shape, tensor.device.address)

    def _read(self, tensors: Mapping[str, _Tensor]) -> dict[str, NDArray[Any]]:
        for tensor in tensors.values():
            self._stream.copy_out(tensor.host, tensor.device)
        self.synchronize()
        return {name: tensor.host.array for name, tensor in tensors.items()}


def _load_on_gpu(task: CellTask, file: Path) -> Session:
    import onnxruntime

    onnxruntime.preload_dlls()
    device = cuda.open_device()
    stream = device.stream()
    chosen = settings(task)
    own_stream = {"user_compute_stream": str(stream.address)}
    session = _session(task, file, {**chosen, "providerOptions": {**chosen["providerOptions"], **own_stream}})
    run_options = onnxruntime.RunOptions()
    run_options.add_run_config_entry("disable_synchronize_execution_providers", "1")
    batch = _checked(session, gate.first_batch(task), task.batch_size)
    with_copies = task.measurement.contract is Contract.END_TO_END
    return CudaSession(session, device, stream, batch, run_options, with_copies=with_copies)


def settings(task: CellTask) -> dict[str, Any]:
    """Return what a session is told, as JSON holds it: whoever runs the graph elsewhere tells it the same."""
    on_gpu = task.device is Device.GPU
    for_cuda = {
        "device_id": "0",
        "use_tf32": str(int(task.precision is Precision.TF32)),
        "enable_cuda_graph": str(int(bool(task.options.get("cudaGraph", False)))),
    }
    return {
        "provider": "CUDAExecutionProvider" if on_gpu else "CPUExecutionProvider",
        "providerOptions": for_cuda if on_gpu else {},
        "threads": task.threads,
        "interOpThreads": int(task.options.get("interOpThreads", 1)),
        "graphOptimizationLevel": LEVELS[str(task.options.get("graphOptimizationLevel", "all"))],
    }


def _session(task: CellTask, file: Path, told: Mapping[str, Any]) -> Any:
    """Make a session that runs on the provider it is told and on no other."""
    import onnxruntime

    options, name = onnxruntime.SessionOptions(), told["provider"]
    options.intra_op_num_threads = told["threads"]
    options.inter_op_num_threads = told["interOpThreads"]
    if options.inter_op_num_threads > 1:
        options.execution_mode = onnxruntime.ExecutionMode.ORT_PARALLEL
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, told["graphOptimizationLevel"])
    options.add_free_dimension_override_by_name(onnx_models.BATCH, task.batch_size)
    if name != "CPUExecutionProvider":
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    session = onnxruntime.InferenceSession(str(file), options, providers=[(name, told["providerOptions"])])
    if session.get_providers()[0] != name:
        raise FellBack(f"Provider: {name} was asked for, and ONNX Runtime took {session.get_providers()[0]}")
    return session


def _checked(session: Any, batch: Arrays, batch_size: int) -> dict[str, NDArray[Any]]:
    """Return the batch in the graph's types, if the graph takes batches of this size."""
    checked: dict[str, NDArray[Any]] = {}
    for tensor in session.get_inputs():
        size = tensor.shape[0]
        if isinstance(size, int) and size != batch_size:
            raise Unsupported(
                f"FixedBatch: input {tensor.name} of the graph takes batches of {size} and no other size."
            )
        checked[tensor.name] = np.ascontiguousarray(batch[tensor.name], DTYPES[tensor.type])
    return checked


def _answers(session: Any, binding: Any, device: str) -> dict[str, Any]:
    """Run once with outputs that ONNX Runtime allocates, to see their shapes and types."""
    names = [output.name for output in session.get_outputs()]
    for name in names:
        binding.bind_output(name, device)
    session.run_with_iobinding(binding)
    return dict(zip(names, binding.get_outputs(), strict=True))
