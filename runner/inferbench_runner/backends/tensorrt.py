"""TensorRT 10.3 to 11: strongly typed networks from our ONNX graphs, an engine for each batch size. No PyTorch here.

The calls that TensorRT dropped with version 11 are used nowhere, so one code serves both. Without a GPU its
`Runtime(logger)` crashes when it is let go, so the driver is asked first and TensorRT is not even imported.
"""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from inferbench_contract.errors import how_to_install
from inferbench_contract.spec import Contract
from inferbench_contract.words import Device, Precision
from inferbench_runner import cuda, environment, gate
from inferbench_runner.backends import Arrays, Artifact, FellBack, Session, Unsupported, _capability
from inferbench_runner.backends._host import as_answer, type_named
from inferbench_runner.backends._tensorrt_plans import (
    LAYERS,
    NOTES,
    PLAN,
    Recipe,
    Shelf,
    installed_resources,
    make_log,
    read_engine,
)
from inferbench_runner.clocks import HOST_CLOCK, Clock
from inferbench_runner.gpu import cards, nvml
from inferbench_runner.task import CellTask

if TYPE_CHECKING:
    import numpy as np

ARTIFACTS = frozenset({Artifact.ONNX, Artifact.INPUTS, Artifact.REFERENCE})

DISTRIBUTIONS: Final = (
    "tensorrt",
    "tensorrt-cu13",
    "tensorrt-cu12",
    "tensorrt-cu13-bindings",
    "tensorrt-cu12-bindings",
    "cuda-bindings",
)
"""The first is what people install; where libraries and bindings are brought along, only the last ones are there."""

OLDEST: Final = (10, 3)
"""From here on each call that is made below exists (tried with the bindings of 10.3, 10.13, 11.0, 11.2 and 11.4)."""

DTYPES: Final = {
    "FLOAT": "float32",
    "HALF": "float16",
    "BF16": "bfloat16",
    "INT8": "int8",
    "INT32": "int32",
    "INT64": "int64",
    "UINT8": "uint8",
    "BOOL": "bool",
}
"""TensorRT's types for the inputs and outputs of a graph, by the names that NumPy and ml_dtypes have for them."""

PLAIN_CALLS: Final = 2
"""Before a CUDA graph is recorded: the first call allocates and sets up, which must not get into the graph."""

TYPE_WORDS: Final = {
    Precision.FP16: ("half", "fp16", "float16"),
    Precision.BF16: ("bf16", "bfloat16"),
    Precision.INT8_STATIC: ("int8",),
    Precision.FP8: ("fp8", "float8", "e4m3"),
}
"""How the engine inspector calls the types of a precision, in lower case; it has changed between versions."""

ANY_TYPE_WORDS: Final = ("float", "fp32", "half", "fp16", "bf16", "int8", "fp8")


def missing(precision: Precision, device: Device) -> str | None:
    """Say that the GPU or TensorRT is too old, or not installed. Raises EnvironmentFault where there is no GPU."""
    if device is not Device.GPU:
        return "NeedsGpu: TensorRT runs on NVIDIA GPUs only."
    found = versions()
    gpu = cuda.require_driver(needed_cuda(found))
    if (reason := _capability.missing(precision, gpu.name, gpu.compute_capability)) is not None:
        return reason
    if importlib.util.find_spec("tensorrt") is None:
        return f"NotInstalled: tensorrt is not installed. {how_to_install('tensorrt')}"
    if "cuda-bindings" not in found:
        return f"NotInstalled: cuda-bindings is not installed. {how_to_install('gpu')}"
    old = [version for name, version in found.items() if name != "cuda-bindings" and _parts(version) < OLDEST]
    return f"TooOld: TensorRT {old[0]} is here, 10.3 is needed. Install it: pip install -U tensorrt" if old else None


def versions() -> Mapping[str, str]:
    """Return the versions of TensorRT and of CUDA's bindings, by their distributions."""
    return {found.name: found.version for found in environment.installed(DISTRIBUTIONS)}


def needed_cuda(found: Mapping[str, str]) -> int:
    """Return the CUDA that the driver must know: the newest that any of the libraries is made for."""
    of_tensorrt = [int(match[1]) for name in found if (match := re.search(r"-cu(\d+)", name))]
    of_bindings = [_parts(version)[0] for name, version in found.items() if name == "cuda-bindings"]
    return 1000 * max(of_tensorrt + of_bindings, default=cuda.CUDA_13 // 1000)


def load(task: CellTask) -> Session:
    """Find or build the engine for this batch size, and bind the first batch."""
    return open_session(task, *_machine())


def plan_folder(task: CellTask) -> Path:
    """Return the folder with the plan of a cell, built now if it is gone."""
    device, library, driver, resources = _machine()
    recipe = Recipe.of(task, gate.first_batch(task))
    return Shelf(task.cache, library, device, driver, resources).plan(recipe, make_log(library))[0]


def _machine() -> tuple[cuda.Device, Any, str, Sequence[str]]:
    """Return the GPU, TensorRT, the name of the driver and the libraries of kernels.

    Raises EnvironmentFault before TensorRT is touched.
    """
    driver = cuda.require_driver(needed_cuda(versions()))
    import tensorrt

    known = cards(nvml())
    name = known[0].driver if known else str(driver.version)
    return cuda.open_device(), tensorrt, name, installed_resources()


def open_session(
    task: CellTask, device: cuda.Device, library: Any, driver: str, resources: Sequence[str]
) -> TensorRtSession:
    """Do what `load` says with a GPU, a TensorRT, the name of a driver and libraries of kernels that are given."""
    batch = gate.first_batch(task)
    recipe = Recipe.of(task, batch)
    found = device.properties()
    _capability.require(task.precision, found.name, found.compute_capability)
    log = make_log(library)
    begin_ns = HOST_CLOCK()
    shelf = Shelf(task.cache, library, device, driver, resources)
    folder, was_built = shelf.plan(recipe, log)
    engine = read_engine(library, folder / PLAN, log)
    with_copies = task.measurement.contract is Contract.END_TO_END
    notes = _notes(folder, HOST_CLOCK() - begin_ns, was_built=was_built)
    _require_precision(task.precision, (folder / LAYERS).read_text())
    session = TensorRtSession(library, engine, device, batch, notes, with_copies=with_copies)
    session.load_batch(batch)
    if task.options.get("cudaGraph", False):
        session.record_graph()
    return session


@dataclass(frozen=True, slots=True)
class _Tensor:
    """An input or output: its place on the GPU, and pinned host memory of the same type and size."""

    name: str
    device: cuda.Buffer
    host: cuda.Pinned


class TensorRtSession:
    """An engine on a stream of its own, with inputs and outputs at fixed addresses on the GPU."""

    def __init__(
        self,
        library: Any,
        engine: Any,
        device: cuda.Device,
        batch: Arrays,
        notes: Mapping[str, int | str],
        *,
        with_copies: bool,
    ) -> None:
        self.notes = notes
        """How long the engine took to build or to load, and what is worth knowing of it."""
        self._library = library
        self._device = device
        self._engine = engine
        self._context = _context(engine)
        self._stream = device.stream()
        self._begin, self._end = device.event(), device.event()
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        is_input = {name: engine.get_tensor_mode(name) == library.TensorIOMode.INPUT for name in names}
        self._set_shapes({name: batch[name].shape for name in names if is_input[name]})
        bound = {name: self._bind(name) for name in names}
        self._inputs = [tensor for name, tensor in bound.items() if is_input[name]]
        self._outputs = [tensor for name, tensor in bound.items() if not is_input[name]]
        self._copied_in = tuple(self._inputs) if with_copies else ()
        self._copied_out = tuple(self._outputs) if with_copies else ()
        self._start: Callable[[], None] = self._execute
        for event in (self._begin, self._end):
            self._stream.mark(event)  # so that they can be asked before the first call
        self.synchronize()

    @property
    def clock(self) -> Clock:
        """The host's."""
        return HOST_CLOCK

    def enqueue(self) -> None:
        """Start the engine on the bound batch; end to end with the copies in and out."""
        stream = self._stream
        stream.mark(self._begin)
        for tensor in self._copied_in:
            stream.copy_in(tensor.device, tensor.host)
        self._start()
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
        for tensor in self._inputs:
            tensor.host.array[...] = inputs[tensor.name]
            self._stream.copy_in(tensor.device, tensor.host)
        self.synchronize()

    def inputs(self) -> Arrays:
        """Return copies of what the GPU holds, or end to end of what is copied to it."""
        return self._read(self._inputs, is_on_host=bool(self._copied_in))

    def outputs(self) -> Arrays:
        """Return copies of what the engine answered: of what came to the host, end to end."""
        return self._read(self._outputs, is_on_host=bool(self._copied_out))

    def record_graph(self) -> None:
        """Let each call from now on replay a CUDA graph of the engine. The copies of end to end stay outside of it.

        Raises:
            Unsupported: the engine has parts that cannot be recorded.
        """
        for _ in range(PLAIN_CALLS):
            self._execute()
            self.synchronize()
        try:
            graph = self._device.graph(self._stream, self._execute)
        except (cuda.CudaError, RuntimeError) as error:
            raise Unsupported(f"CudaGraph: this engine cannot be recorded as a CUDA graph ({error}).") from error
        self._start = partial(self._stream.launch, graph)

    def layers_ns(self, calls: int) -> list[int]:
        """Return how long each of some calls took by TensorRT's own profiler: the sum of its layers, without a graph.

        For comparison only, and the last thing to do with a session: from now on the profiler waits within each call.
        """
        context, profiler = self._context, _profiler(self._library)
        context.profiler = profiler
        found = []
        for _ in range(calls):
            profiler.milliseconds = 0.0
            self._execute()
            self.synchronize()
            found.append(round(profiler.milliseconds * cuda.NANOSECONDS_PER_MILLISECOND))
        return found

    def close(self) -> None:
        """Free what is on the GPU. A cell process does not need to: it ends."""
        self.synchronize()
        del self._context, self._engine
        self._device.close()

    def _execute(self) -> None:
        if not self._context.execute_async_v3(self._stream.address):
            raise RuntimeError("TensorRT could not start the engine (execute_async_v3 answered False)")

    def _set_shapes(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Say how large the batch is, once and for all."""
        context = self._context
        refused = [name for name, shape in shapes.items() if not context.set_input_shape(name, shape)]
        if refused or (refused := context.infer_shapes()):
            raise RuntimeError(f"TensorRT refuses the shapes {dict(shapes)} ({', '.join(refused)})")

    def _bind(self, name: str) -> _Tensor:
        """Give an input or output its memory."""
        library, engine, context = self._library, self._engine, self._context
        shape, dtype = tuple(context.get_tensor_shape(name)), _dtype(engine.get_tensor_dtype(name))
        if -1 in shape:
            raise Unsupported(f"DataDependentShape: the size of {name} is known only when the engine has run.")
        if engine.get_tensor_location(name) != library.TensorLocation.DEVICE:
            raise Unsupported(f"HostTensor: TensorRT reads {name} on the host, as the shape of something.")
        host = self._device.pinned(shape, dtype)
        buffer = self._device.buffer(host.size_bytes)
        if not context.set_tensor_address(name, buffer.address):
            raise RuntimeError(f"TensorRT refuses the address of {name}")
        return _Tensor(name, buffer, host)

    def _read(self, tensors: list[_Tensor], *, is_on_host: bool) -> Arrays:
        if not is_on_host:
            for tensor in tensors:
                self._stream.copy_out(tensor.host, tensor.device)
        self.synchronize()
        return {tensor.name: as_answer(tensor.host.array) for tensor in tensors}


def _profiler(library: Any) -> Any:
    """Return what adds up the times of layers."""

    class Profiler(library.IProfiler):  # type: ignore[misc]
        def __init__(self) -> None:
            library.IProfiler.__init__(self)
            self.milliseconds = 0.0

        def report_layer_time(self, _: str, milliseconds: float) -> None:
            """Take the time of a layer."""
            self.milliseconds += milliseconds

    return Profiler()


def _context(engine: Any) -> Any:
    """Make room for one run of the engine at a time."""
    context = engine.create_execution_context()
    if context is None:
        raise cuda.OutOfMemoryError(
            f"TensorRT could not make a context: out of memory ({engine.device_memory_size_v2:,} bytes are needed)",
        )
    return context


def _dtype(kind: Any) -> np.dtype[Any]:
    if kind.name not in DTYPES:
        raise Unsupported(f"TensorType: inputs and outputs of the type {kind.name} cannot be bound.")
    return type_named(DTYPES[kind.name])


def _require_precision(precision: Precision, layers: str) -> None:
    """Look whether the engine computes anything in its precision. Says nothing where the inspector names no types."""
    text = layers.lower()
    words = TYPE_WORDS.get(precision, ())
    if words and any(word in text for word in ANY_TYPE_WORDS) and not any(word in text for word in words):
        raise FellBack(
            f"Precision: no layer of the engine has a tensor of {precision}; look at {LAYERS} beside the plan"
        )


def _notes(folder: Path, took_ns: int, *, was_built: bool) -> Mapping[str, int | str]:
    told = json.loads((folder / NOTES).read_text())
    return {
        "compileCache": "cold" if was_built else "warm",
        "compileNanoseconds": took_ns,
        "buildMilliseconds": told["buildMilliseconds"],
        "builderResource": told["resource"],
        "plan": folder.name,
        "layersFile": str(folder / LAYERS),
    }


def _parts(version: str) -> tuple[int, int]:
    """Read the first two numbers of a version."""
    numbers = [int(digits) for digits in re.findall(r"\d+", version)[:2]]
    return (numbers[0], numbers[1]) if len(numbers) == 2 else (0, 0)
