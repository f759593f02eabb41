"""ONNX Runtime: the CPU provider, or the CUDA provider on a GPU. Its process imports no PyTorch.

Inputs and outputs are bound to memory that is made once. The CUDA session has run on an H100 at fp32, tf32 and fp16,
with CUDA graphs too, and at bf16 on a stand-in only.

Graphs in halves have halves outside too (`halves` says why): bf16 is bound by its number in ONNX, and read as fp32.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from inferbench_contract.errors import how_to_install
from inferbench_contract.spec import Contract
from inferbench_contract.words import Device, Precision
from inferbench_runner import cuda, environment, gate, onnx_models, work
from inferbench_runner.backends import Arrays, Artifact, FellBack, Session, Unsupported, _capability, fixed_batch
from inferbench_runner.backends._host import BFLOAT16, HostSession, as_answer, type_named
from inferbench_runner.clocks import HOST_CLOCK, Clock
from inferbench_runner.task import CellTask

if TYPE_CHECKING:
    from numpy.typing import NDArray

ARTIFACTS = frozenset({Artifact.ONNX, Artifact.INPUTS, Artifact.REFERENCE})

DISTRIBUTIONS: Final = ("onnxruntime-gpu", "onnxruntime")

CPU_PROVIDER: Final = "CPUExecutionProvider"
CUDA_PROVIDER: Final = "CUDAExecutionProvider"

LEVELS: Final = {
    "disable": "ORT_DISABLE_ALL",
    "basic": "ORT_ENABLE_BASIC",
    "extended": "ORT_ENABLE_EXTENDED",
    "layout": "ORT_ENABLE_LAYOUT",
    "all": "ORT_ENABLE_ALL",
}

DTYPES: Final = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
    "tensor(bfloat16)": BFLOAT16,
    "tensor(int8)": "int8",
    "tensor(int16)": "int16",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(uint8)": "uint8",
    "tensor(uint16)": "uint16",
    "tensor(uint32)": "uint32",
    "tensor(uint64)": "uint64",
    "tensor(bool)": "bool",
}
"""ONNX Runtime's types for inputs and outputs, by the names that NumPy and ml_dtypes have for them."""

EIGHT_BITS: Final = frozenset({Precision.INT8_DYNAMIC, Precision.INT8_STATIC})

TOO_LOW: Final = frozenset({LEVELS["disable"], LEVELS["basic"]})
"""Levels at which ONNX Runtime looks for no 8 bits in a graph of quantisers."""

FLOATS: Final = work.COUNTED | {"FusedConv", "FusedGemm", "FusedMatMul"}
"""What computes layers in floats, by ONNX Runtime's names for what it has fused."""

BFLOAT16_NUMBER: Final = 16
"""TensorProto.BFLOAT16. ONNX Runtime takes NumPy's types by themselves, and those that NumPy has not by number."""

NO_CUDA_GRAPH: Final = {"gpu_graph_id": "-1"}
"""A run that neither records nor replays a CUDA graph."""

NO_WAITING: Final = {"disable_synchronize_execution_providers": "1"}

TELLS_PLACES: Final = {"session.record_ep_graph_assignment_info": "1"}
"""With this a session can say where its nodes stand."""

NO_FALLBACK: Final = {"session.disable_cpu_ep_fallback": "1"}

REFUSALS: Final = (
    "fallback to CPU EP has been explicitly disabled",
    "all compute graph nodes have not been partitioned to the CUDAExecutionProvider",
)
"""What an ONNX Runtime says, in longer sentences, that is told the above and has nodes that only the CPU takes; the
second where it is to record a CUDA graph too."""

WAY_OUT: Final = (
    "Use another backend. A kernel belongs to versions of its operator, so an ONNX file of another opset may do too."
)

BF16_WAY_OUT: Final = (
    "Its kernels belong to versions of operators, and bf16 needs opset 22. Use fp16: it keeps the model's."
)

SHOWN_NODES: Final = 3

WITHOUT_CUDA_GRAPH: Final = (
    "Measured as a replayed CUDA graph, whose inputs and outputs stay where they are. load.py takes arrays from "
    "anywhere and runs without one, so that a call may take longer than what was measured."
)


def missing(precision: Precision, device: Device) -> str | None:
    """Say that the GPU has no such precision, or that ONNX Runtime is not installed, or only without CUDA."""
    if device is Device.GPU:
        gpu = cuda.require_driver()
        if (reason := _capability.missing(precision, gpu.name, gpu.compute_capability)) is not None:
            return reason
    if importlib.util.find_spec("onnxruntime") is None:
        return f"NotInstalled: onnxruntime is not installed. {how_to_install('runner')}"
    if device is Device.GPU and "onnxruntime-gpu" not in versions():
        return f"NotInstalled: this onnxruntime has no CUDA provider. {how_to_install('gpu')}"
    return None


def versions() -> Mapping[str, str]:
    """Return ONNX Runtime's version, under the name of its distribution."""
    return {library.name: library.version for library in environment.installed(DISTRIBUTIONS)}


def load(task: CellTask) -> Session:
    """Make a session for this batch size and bind the first batch."""
    import onnxruntime

    if task.device is Device.GPU:
        return load_on_gpu(task, onnxruntime)
    told = settings(task)
    session = make_session(onnxruntime, task, told)
    bound = CpuSession(session, _checked(session, gate.first_batch(task), task.batch_size))
    if task.precision in EIGHT_BITS:
        require_integers(session, task.precision, told["graphOptimizationLevel"])
    return bound


def load_on_gpu(task: CellTask, library: Any, open_device: Callable[[], cuda.Device] = cuda.open_device) -> CudaSession:
    """Do what `load` says with an ONNX Runtime, and a way to a GPU, that are given."""
    library.preload_dlls()
    device = open_device()
    found = device.properties()
    _capability.require(task.precision, found.name, found.compute_capability)
    stream = device.stream()
    session = make_session(library, task, _bound_settings(task, stream))
    batch = _checked(session, gate.first_batch(task), task.batch_size)
    options = RunOptions(first=_run_options(library, NO_CUDA_GRAPH), timed=_run_options(library, NO_WAITING))
    with_copies = task.measurement.contract is Contract.END_TO_END
    return CudaSession(session, device, stream, batch, options, with_copies=with_copies)


class CpuSession(HostSession):
    """A graph whose inputs and outputs lie in our arrays."""

    def __init__(self, session: Any, batch: Mapping[str, NDArray[Any]]) -> None:
        super().__init__(batch)
        self._session = session
        self._binding = session.io_binding()
        for name, array in batch.items():
            self._binding.bind_input(name, "cpu", 0, _element(array), array.shape, array.ctypes.data)
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
        outputs = {name: np.empty(value.shape(), _dtype(value.data_type())) for name, value in values.items()}
        for name, array in outputs.items():
            self._binding.bind_output(name, "cpu", 0, _element(array), array.shape, array.ctypes.data)
        return outputs


@dataclass(frozen=True, slots=True)
class _Tensor:
    """An input or output: its place on the GPU, and pinned host memory of the same type and size."""

    device: cuda.Buffer
    host: cuda.Pinned


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What ONNX Runtime is told with a run."""

    first: Any
    """With the one that shows what comes out. Its outputs lie where ONNX Runtime put them: a CUDA graph that was
    recorded then would write there for ever, and never to where the outputs are bound afterwards."""
    timed: Any
    """With all others."""


class CudaSession:
    """A graph on a stream of our own, with inputs and outputs at fixed addresses on the GPU."""

    def __init__(
        self,
        session: Any,
        device: cuda.Device,
        stream: cuda.Stream,
        batch: dict[str, NDArray[Any]],
        options: RunOptions,
        *,
        with_copies: bool,
    ) -> None:
        self._session, self._device, self._stream, self._run_options = session, device, stream, options.timed
        self._begin, self._end = device.event(), device.event()
        self._binding = session.io_binding()
        self._inputs = {name: self._tensor(array.shape, array.dtype) for name, array in batch.items()}
        for name, tensor in self._inputs.items():
            self._bind(self._binding.bind_input, name, tensor)
        self.load_batch(batch)
        shapes = _answers(session, self._binding, "cuda", options.first)
        self._outputs = {name: self._tensor(value.shape(), _dtype(value.data_type())) for name, value in shapes.items()}
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

    def _tensor(self, shape: Sequence[int], dtype: np.dtype[Any]) -> _Tensor:
        host = self._device.pinned(tuple(shape), dtype)
        return _Tensor(self._device.buffer(host.size_bytes), host)

    def _bind(self, bind: Callable[..., None], name: str, tensor: _Tensor) -> None:
        array = tensor.host.array
        bind(name, "cuda", 0, _element(array), array.shape, tensor.device.address)

    def _read(self, tensors: Mapping[str, _Tensor]) -> dict[str, NDArray[Any]]:
        for tensor in tensors.values():
            self._stream.copy_out(tensor.host, tensor.device)
        self.synchronize()
        return {name: tensor.host.array for name, tensor in tensors.items()}


def settings(task: CellTask) -> dict[str, Any]:
    """Return what a session is told, as JSON holds it: whoever runs the graph elsewhere tells it the same."""
    on_gpu = task.device is Device.GPU
    for_cuda = {"device_id": "0", "use_tf32": str(int(task.precision is Precision.TF32))}
    return {
        "provider": CUDA_PROVIDER if on_gpu else CPU_PROVIDER,
        "providerOptions": for_cuda if on_gpu else {},
        "threads": task.threads,
        "interOpThreads": int(task.options.get("interOpThreads", 1)),
        "graphOptimizationLevel": LEVELS[str(task.options.get("graphOptimizationLevel", "all"))],
    }


def remarks(task: CellTask) -> Sequence[str]:
    """Return what whoever runs the graph with these settings must know of what was measured."""
    return (WITHOUT_CUDA_GRAPH,) if _is_replayed(task) else ()


def _bound_settings(task: CellTask, stream: cuda.Stream) -> dict[str, Any]:
    """Add what only a session is told whose stream, inputs and outputs are ours and stay where they are."""
    told = settings(task)
    ours = {"user_compute_stream": str(stream.address), "enable_cuda_graph": str(int(_is_replayed(task)))}
    return {**told, "providerOptions": {**told["providerOptions"], **ours}}


def _is_replayed(task: CellTask) -> bool:
    return task.device is Device.GPU and bool(task.options.get("cudaGraph", False))


def make_session(library: Any, task: CellTask, told: Mapping[str, Any]) -> Any:
    """Make a session that runs all of the graph on the provider that it is told.

    Raises Unsupported where ONNX Runtime says that it cannot, and FellBack where it does something else without a word.
    """
    name = told["provider"]
    try:
        session = _session(
            library, task, told, TELLS_PLACES if name == CPU_PROVIDER else {**TELLS_PLACES, **NO_FALLBACK}
        )
    except Exception as error:
        if not any(refusal in str(error) for refusal in REFUSALS):
            raise
        raise Unsupported(_what_is_left(library, task)) from error
    if session.get_providers()[0] != name:
        raise FellBack(f"Provider: {name} was asked for, and ONNX Runtime took {session.get_providers()[0]}")
    require_placement(session, name)
    return session


def require_placement(session: Any, provider: str) -> None:
    """Raise FellBack where a node stands on another provider. Versions that cannot tell are believed."""
    if (strange := _elsewhere(session, provider)) is not None:
        raise FellBack(f"Provider: {provider} was asked for, and ONNX Runtime put {strange}")


def require_integers(session: Any, precision: Precision, level: str) -> None:
    """Raise FellBack where more layers than are meant to be were computed in floats, in the run before this.

    The session's profile tells what ran. Profiling is over then, and later runs pay nothing for it.
    """
    profile = Path(session.end_profiling())
    noted = session.get_modelmeta().custom_metadata_map.get(onnx_models.LAYERS_IN_FLOATS)
    nodes = [event["args"] for event in json.loads(profile.read_bytes()) if event["cat"] == "Node"]
    floats = sum(_is_float_layer(node) for node in nodes)
    if noted is not None and floats > int(noted):
        way_out = (
            "It finds 8 bits from graphOptimizationLevel extended on." if level in TOO_LOW else "Use another backend."
        )
        raise FellBack(
            f"Precision: {precision} was asked for, and ONNX Runtime computed {floats} layers in floats, where {noted} "
            f"are meant to be. {way_out}"
        )


def _is_float_layer(node: Mapping[str, Any]) -> bool:
    """Tell of a node that ran; a batch norm may have become a convolution with a number for each channel."""
    if node.get("op_name") not in FLOATS:
        return False
    [weights] = node["input_type_shape"][1].values()
    return list(weights[1:]) != [1, 1, 1]


def _session(library: Any, task: CellTask, told: Mapping[str, Any], entries: Mapping[str, str]) -> Any:
    if task.artifacts.onnx is None:
        raise ValueError("The task names no graph: prepare it first.")
    options = library.SessionOptions()
    options.intra_op_num_threads = told["threads"]
    options.inter_op_num_threads = told["interOpThreads"]
    if options.inter_op_num_threads > 1:
        options.execution_mode = library.ExecutionMode.ORT_PARALLEL
    options.graph_optimization_level = getattr(library.GraphOptimizationLevel, told["graphOptimizationLevel"])
    options.add_free_dimension_override_by_name(onnx_models.BATCH, task.batch_size)
    for key, value in entries.items():
        options.add_session_config_entry(key, value)
    if task.precision in EIGHT_BITS:
        options.enable_profiling = True  # of the first run: require_integers ends it
        options.profile_file_prefix = str(task.result.with_name("first-run"))
    provider = (told["provider"], told["providerOptions"])
    return library.InferenceSession(str(task.artifacts.onnx), options, providers=[provider])


def _what_is_left(library: Any, task: CellTask) -> str:
    """Say which nodes a provider leaves to the CPU, as a second session shows that may leave them.

    It is told nothing of CUDA graphs, which ONNX Runtime refuses where nodes stand in two places.
    """
    told = settings(task)
    try:
        left = _elsewhere(_session(library, task, told, TELLS_PLACES), told["provider"])
    except Exception:  # noqa: BLE001 (why the first one was refused is known already)
        left = None
    left = left or "some nodes on the CPU"
    way_out = BF16_WAY_OUT if task.precision is Precision.BF16 else WAY_OUT
    return f"NoKernel: {told['provider']} takes not all of this graph: ONNX Runtime would put {left}. {way_out}"


def _elsewhere(session: Any, provider: str) -> str | None:
    """Name the nodes that stand on another provider; None where there are none, or this version cannot tell."""
    if not hasattr(session, "get_provider_graph_assignment_info"):
        return None
    parts = session.get_provider_graph_assignment_info()
    placed = [(node, part.ep_name) for part in parts for node in part.get_nodes()]
    strange = [f"{node.op_type} node {node.name!r} on {place}" for node, place in placed if place != provider]
    shown = ", ".join(strange[:SHOWN_NODES])
    return f"{len(strange)} of {len(placed)} nodes on another: {shown}" if strange else None


def _run_options(library: Any, entries: Mapping[str, str]) -> Any:
    options = library.RunOptions()
    for key, value in entries.items():
        options.add_run_config_entry(key, value)
    return options


def _checked(session: Any, batch: Arrays, batch_size: int) -> dict[str, NDArray[Any]]:
    """Return the batch in the graph's types, if the graph takes batches of this size."""
    checked: dict[str, NDArray[Any]] = {}
    for tensor in session.get_inputs():
        size = tensor.shape[0]
        if isinstance(size, int) and size != batch_size:
            raise fixed_batch(tensor.name, size)
        checked[tensor.name] = np.ascontiguousarray(batch[tensor.name], _dtype(tensor.type))
    return checked


def _answers(session: Any, binding: Any, device: str, options: Any = None) -> dict[str, Any]:
    """Run once with outputs that ONNX Runtime allocates, to see their shapes and types."""
    names = [output.name for output in session.get_outputs()]
    for name in names:
        binding.bind_output(name, device)
    session.run_with_iobinding(binding, options)
    return dict(zip(names, binding.get_outputs(), strict=True))


def _dtype(kind: str) -> np.dtype[Any]:
    if kind not in DTYPES:
        raise Unsupported(f"TensorType: inputs and outputs of the type {kind} cannot be bound.")
    return type_named(DTYPES[kind])


def _element(array: NDArray[Any]) -> Any:
    """Return the type of an array as ONNX Runtime is told it."""
    return BFLOAT16_NUMBER if array.dtype.name == BFLOAT16 else array.dtype.type
