"""ONNX Runtime: the CPU provider, or the CUDA provider on a GPU. Its process imports no PyTorch.

Inputs and outputs are bound to memory that is made once. The CUDA session was written without a GPU at hand: it has not
run yet.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from inferbench_contract.spec import Contract
from inferbench_contract.words import Device, Precision
from inferbench_runner import environment, gate, onnx_models
from inferbench_runner.backends import Arrays, Artifact, FellBack, Session, Unsupported, _cuda
from inferbench_runner.clocks import HOST_CLOCK, Clock
from inferbench_runner.task import CellTask

if TYPE_CHECKING:
    from numpy.typing import NDArray

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
        _cuda.require_device()
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
        return CudaSession(task, task.artifacts.onnx)
    session = _session(task, task.artifacts.onnx, ("CPUExecutionProvider", {}))
    return CpuSession(session, _checked(session, gate.first_batch(task), task.batch_size))


class CpuSession:
    """A graph whose inputs and outputs lie in our arrays."""

    def __init__(self, session: Any, batch: dict[str, NDArray[Any]]) -> None:
        self._session = session
        self._inputs = batch
        self._binding = session.io_binding()
        for name, array in batch.items():
            self._binding.bind_input(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
        self._outputs = self._bind_outputs()

    @property
    def clock(self) -> Clock:
        """The host's."""
        return HOST_CLOCK

    def enqueue(self) -> None:
        """Run the graph on the bound batch."""
        self._session.run_with_iobinding(self._binding)

    def synchronize(self) -> None:
        """Nothing is ever under way."""

    def device_time_ns(self) -> int | None:
        """There are no events."""
        return None

    def load_batch(self, inputs: Arrays) -> None:
        """Copy a batch into the bound arrays."""
        for name, array in self._inputs.items():
            array[...] = inputs[name]

    def inputs(self) -> Arrays:
        """Return copies of the bound arrays."""
        return {name: array.copy() for name, array in self._inputs.items()}

    def outputs(self) -> Arrays:
        """Return copies of what the graph answered."""
        return {name: _as_answer(array) for name, array in self._outputs.items()}

    def _bind_outputs(self) -> dict[str, NDArray[Any]]:
        """Run once to see what shapes come out, then give each output an array of its own."""
        outputs = _answers(self._session, self._binding, "cpu")
        for name, array in outputs.items():
            self._binding.bind_output(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
        return outputs


class CudaSession:
    """A graph on a stream of its own, with inputs and outputs on the device."""

    def __init__(self, task: CellTask, file: Path) -> None:
        import onnxruntime

        onnxruntime.preload_dlls()
        self._stream = _cuda.Stream()
        options = {
            "device_id": "0",
            "use_tf32": str(int(task.precision is Precision.TF32)),
            "has_user_compute_stream": "1",
            "user_compute_stream": str(self._stream.address),
            "enable_cuda_graph": str(int(bool(task.options.get("cudaGraph", False)))),
        }
        self._session = _session(task, file, ("CUDAExecutionProvider", options))
        self._run_options = onnxruntime.RunOptions()
        self._run_options.add_run_config_entry("disable_synchronize_execution_providers", "1")
        self._binding = self._session.io_binding()
        batch = _checked(self._session, gate.first_batch(task), task.batch_size)
        value = onnxruntime.OrtValue
        self._inputs = {name: value.ortvalue_from_numpy(array, "cuda", 0) for name, array in batch.items()}
        for name, tensor in self._inputs.items():
            self._binding.bind_ortvalue_input(name, tensor)
        answers = _answers(self._session, self._binding, "cuda")
        self._outputs = {name: value.ortvalue_from_numpy(array, "cuda", 0) for name, array in answers.items()}
        for name, tensor in self._outputs.items():
            self._binding.bind_ortvalue_output(name, tensor)
        copies = task.measurement.contract is Contract.END_TO_END
        self._pinned_inputs = _pinned(batch) if copies else {}
        self._pinned_outputs = _pinned(answers) if copies else {}

    @property
    def clock(self) -> Clock:
        """The host's."""
        return HOST_CLOCK

    def enqueue(self) -> None:
        """Start the graph on the bound batch; end to end with the copies in and out."""
        self._stream.begin()
        for name, host in self._pinned_inputs.items():
            self._stream.copy_in(self._inputs[name].data_ptr(), host)
        self._session.run_with_iobinding(self._binding, self._run_options)
        for name, host in self._pinned_outputs.items():
            self._stream.copy_out(host, self._outputs[name].data_ptr())
        self._stream.end()

    def synchronize(self) -> None:
        """Wait for the stream."""
        self._stream.synchronize()

    def device_time_ns(self) -> int | None:
        """Return the time between the two events."""
        return self._stream.elapsed_ns()

    def load_batch(self, inputs: Arrays) -> None:
        """Copy a batch into the bound tensors, and into the pinned arrays that they are copied from."""
        for name, tensor in self._inputs.items():
            tensor.update_inplace(np.ascontiguousarray(inputs[name], DTYPES[tensor.data_type()]))
        for name, host in self._pinned_inputs.items():
            host[...] = inputs[name]

    def inputs(self) -> Arrays:
        """Return copies of the bound tensors."""
        return {name: tensor.numpy() for name, tensor in self._inputs.items()}

    def outputs(self) -> Arrays:
        """Return copies of what the graph answered: of what came to the host, end to end."""
        self.synchronize()
        arrays = self._pinned_outputs or {name: tensor.numpy() for name, tensor in self._outputs.items()}
        return {name: _as_answer(array) for name, array in arrays.items()}


def _session(task: CellTask, file: Path, provider: tuple[str, Mapping[str, str]]) -> Any:
    """Make a session that runs on this provider and on no other."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = task.threads
    options.inter_op_num_threads = int(task.options.get("interOpThreads", 1))
    if options.inter_op_num_threads > 1:
        options.execution_mode = onnxruntime.ExecutionMode.ORT_PARALLEL
    level = LEVELS[str(task.options.get("graphOptimizationLevel", "all"))]
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    options.add_free_dimension_override_by_name(onnx_models.BATCH, task.batch_size)
    name, settings = provider
    if name != "CPUExecutionProvider":
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    session = onnxruntime.InferenceSession(str(file), options, providers=[(name, dict(settings))])
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


def _answers(session: Any, binding: Any, device: str) -> dict[str, NDArray[Any]]:
    """Run once with outputs that ONNX Runtime allocates."""
    names = [output.name for output in session.get_outputs()]
    for name in names:
        binding.bind_output(name, device)
    session.run_with_iobinding(binding)
    return {name: value.numpy().copy() for name, value in zip(names, binding.get_outputs(), strict=True)}


def _as_answer(array: NDArray[Any]) -> NDArray[Any]:
    return array.astype(np.float32) if array.dtype.kind == "f" else array.copy()


def _pinned(arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    made = {name: _cuda.pinned(array.shape, array.dtype) for name, array in arrays.items()}
    for name, array in arrays.items():
        made[name][...] = array
    return made
