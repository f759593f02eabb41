"""TensorRT 10.3 to 11: strongly typed networks from our ONNX graphs, an engine for each batch size. No PyTorch here.

The graph brings the precision; there are no builder flags for it, only TF32, which TensorRT has on unless it is told.
The calls that TensorRT dropped with version 11 are used nowhere, so one code serves both. Without a GPU its
`Runtime(logger)` crashes when it is let go, so the driver is asked first and TensorRT is not even imported.

A plan is built once for all rounds and kept in the cache, under everything that decides it.
"""

from __future__ import annotations

import importlib.util
import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from inferbench_contract.errors import how_to_install
from inferbench_contract.spec import Contract
from inferbench_contract.words import Device, Precision
from inferbench_runner import artifacts, circumstances, cuda, environment, gate
from inferbench_runner.backends import Arrays, Artifact, FellBack, Session, Unsupported, _capability
from inferbench_runner.backends._host import as_answer, type_named
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

PLANS: Final = "tensorrt-plans"
TIMINGS: Final = "tensorrt-timings"
"""Kinds of cache entries. Measured times of kernels are kept apart: a plan that is built anew chooses the same ones."""

PLAN: Final = "engine.plan"
LAYERS: Final = "layers.json"
NOTES: Final = "notes.json"
TIMING_CACHE: Final = "timing.cache"

PLAIN_CALLS: Final = 2
"""Before a CUDA graph is recorded: the first call allocates and sets up, which must not get into the graph."""

KEPT_LINES: Final = 50
SHOWN_LINES: Final = 3

MEMORY_WORDS: Final = ("outofmemory", "out of memory", "cudaerrormemoryallocation")

BUILDER_RESOURCE: Final = re.compile(r"libnvinfer_builder_resource\w*\.so\S*")

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
    device, library, driver = _machine()
    recipe = Recipe.of(task, gate.first_batch(task))
    return _Shelf(task.cache, library, device, driver).plan(recipe, make_log(library))[0]


def _machine() -> tuple[cuda.Device, Any, str]:
    """Return the GPU, TensorRT and the name of the driver. Raises EnvironmentFault before TensorRT is touched."""
    driver = cuda.require_driver(needed_cuda(versions()))
    import tensorrt

    known = cards(nvml())
    return cuda.open_device(), tensorrt, known[0].driver if known else str(driver.version)


def open_session(task: CellTask, device: cuda.Device, library: Any, driver: str) -> TensorRtSession:
    """Do what `load` says with a GPU, a TensorRT and the name of a driver that are given."""
    batch = gate.first_batch(task)
    recipe = Recipe.of(task, batch)
    found = device.properties()
    _capability.require(task.precision, found.name, found.compute_capability)
    log = make_log(library)
    begin_ns = HOST_CLOCK()
    shelf = _Shelf(task.cache, library, device, driver)
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
class Recipe:
    """What decides a plan, beside the machine and the library."""

    graph: Path
    shapes: Mapping[str, tuple[int, ...]]
    """Of the inputs, batch included: smallest, usual and largest at once."""
    is_tf32: bool
    optimization_level: int | None
    """None: the builder's own."""

    @classmethod
    def of(cls, task: CellTask, batch: Arrays) -> Recipe:
        """Read it from a task and the batch that is timed."""
        if task.artifacts.onnx is None:
            raise ValueError("The task names no graph: prepare it first.")
        level = task.options.get("builderOptimizationLevel")
        shapes = {name: array.shape for name, array in batch.items()}
        return cls(task.artifacts.onnx, shapes, task.precision is Precision.TF32, None if level is None else int(level))

    def content(self) -> dict[str, Any]:
        """Return what two recipes for the same plan share. Large graphs keep their tensors in a second file."""
        files = sorted(self.graph.parent.glob(f"{self.graph.name}*"))
        return {
            "graph": {file.name: artifacts.digest(file) for file in files},
            "shapes": {name: list(shape) for name, shape in self.shapes.items()},
            "tf32": self.is_tf32,
            "builderOptimizationLevel": self.optimization_level,
        }


@dataclass(frozen=True, slots=True)
class Built:
    """What a builder made."""

    plan: bytes
    timings: bytes
    """Times of kernels, those that it was given among them."""
    resource: str
    """The libraries of kernels that it used."""


class _Shelf:
    """Plans and kernel times that were kept, for one GPU, driver and version of TensorRT."""

    def __init__(self, cache: Path, library: Any, device: cuda.Device, driver: str) -> None:
        properties = device.properties()
        self._cache = cache
        self._library = library
        self._machine = {
            "tensorrt": library.__version__,
            "gpu": [properties.name, list(properties.compute_capability), properties.multiprocessors],
            "driver": driver,
        }

    def plan(self, recipe: Recipe, log: Any) -> tuple[Path, bool]:
        """Return the folder with a plan, and whether it was built just now."""
        name = artifacts.key({**self._machine, **recipe.content()})
        was_there = artifacts.open_entry(self._cache, PLANS, name) is not None
        folder = artifacts.publish(self._cache, PLANS, name, partial(self._build, recipe, log))
        return folder, not was_there

    def _build(self, recipe: Recipe, log: Any, folder: Path) -> None:
        """Build a plan, look whether it can be read, and write it with what the inspector says of it."""
        timings = artifacts.key({**self._machine, **recipe.content(), "builderOptimizationLevel": "any"})
        known = artifacts.open_entry(self._cache, TIMINGS, timings)
        begin_ns = time.perf_counter_ns()
        built = build(self._library, recipe, (known / TIMING_CACHE).read_bytes() if known else b"", log)
        took_ms = (time.perf_counter_ns() - begin_ns) // 1_000_000
        artifacts.require_space(self._cache, len(built.plan) + len(built.timings))
        (folder / PLAN).write_bytes(built.plan)
        (folder / LAYERS).write_text(inspect(self._library, read_engine(self._library, folder / PLAN, log)))
        told = {"buildMilliseconds": took_ms, "resource": built.resource, "warnings": log.warnings}
        (folder / NOTES).write_text(json.dumps({**self._machine, **told}))
        artifacts.publish(self._cache, TIMINGS, timings, lambda place: _write(place / TIMING_CACHE, built.timings))


def make_log(library: Any) -> Any:
    """Return a logger that keeps the last errors and warnings, so that a None can be told from another."""
    severity = library.ILogger.Severity

    class Log(library.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            library.ILogger.__init__(self)
            self.errors: list[str] = []
            self.warnings: list[str] = []

        def log(self, severity_: Any, message: str) -> None:
            """Take a line from TensorRT."""
            if severity_ in (severity.INTERNAL_ERROR, severity.ERROR):
                self.errors = [*self.errors, message][-KEPT_LINES:]
            elif severity_ == severity.WARNING:
                self.warnings = [*self.warnings, message][-KEPT_LINES:]

    return Log()


def build(library: Any, recipe: Recipe, timings: bytes, log: Any) -> Built:
    """Build a plan. Raises Unsupported, cuda.OutOfMemoryError, or RuntimeError with TensorRT's own words."""
    builder = open_builder(library, log)
    network = builder.create_network(1 << int(library.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parse(library, network, recipe.graph, log)
    config = builder.create_builder_config()
    configure(library, config, recipe)
    _add_profile(builder, network, config, recipe.shapes)
    _set_timings(config, timings)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise failure(log, "build an engine")
    cache = config.get_timing_cache()
    return Built(bytes(plan), bytes(cache.serialize()), _builder_resource())  # they go when the builder does


def open_builder(library: Any, log: Any) -> Any:
    """Return a builder. Raises Unsupported where TensorRT has none for this GPU.

    Its kernels lie in a library for each kind of GPU, which an installation may lack; TensorRT answers with null then,
    and its bindings turn that into a TypeError without a reason (seen with 11.2 on an H100).
    """
    try:
        return library.Builder(log)
    except TypeError as error:
        words = "; ".join(log.errors) or str(error)
        raise Unsupported(
            f"Incomplete: TensorRT {library.__version__} has no builder for this GPU: {words}. "
            "Install the whole of it: pip install --force-reinstall tensorrt"
        ) from error


def parse(library: Any, network: Any, graph: Path, log: Any) -> None:
    """Read the graph into the network. Raises Unsupported where TensorRT has no layer for a node."""
    parser = library.OnnxParser(network, log)
    if parser.parse_from_file(str(graph)):
        return
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    words = "; ".join(
        f"{error.node_operator()} node {error.node_name()!r}: {error.desc()}" for error in errors[:SHOWN_LINES]
    )
    if errors and all(error.code().name.startswith("UNSUPPORTED") for error in errors):
        raise Unsupported(f"Rejected: TensorRT {library.__version__} does not take the graph: {words}")
    raise RuntimeError(f"TensorRT could not read the graph: {words}")


def configure(library: Any, config: Any, recipe: Recipe) -> None:
    """Say what kernels may be chosen. The names of layers are kept for the inspector; they cost a call nothing."""
    if recipe.is_tf32:
        config.set_flag(library.BuilderFlag.TF32)
    else:
        config.clear_flag(library.BuilderFlag.TF32)
    config.profiling_verbosity = library.ProfilingVerbosity.DETAILED
    if recipe.optimization_level is not None:
        config.builder_optimization_level = recipe.optimization_level


def _add_profile(builder: Any, network: Any, config: Any, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Fix each free axis at the size that is timed: the engine is as good as one of a graph without free axes."""
    profile = builder.create_optimization_profile()
    is_needed = False
    for index in range(network.num_inputs):
        given = network.get_input(index)
        shape, wanted = tuple(given.shape), shapes[given.name]
        if len(shape) != len(wanted) or any(size not in (-1, asked) for size, asked in zip(shape, wanted, strict=True)):
            raise Unsupported(f"FixedShape: input {given.name} of the graph is {shape}, and {wanted} was asked for.")
        if -1 in shape:
            profile.set_shape(given.name, wanted, wanted, wanted)
            is_needed = True
    if is_needed and config.add_optimization_profile(profile) < 0:
        raise ValueError(f"TensorRT refuses the shapes {dict(shapes)}.")


def _set_timings(config: Any, timings: bytes) -> None:
    """Let the builder start from kernel times that were measured before; from none where it does not take them."""
    for known in (timings, b""):
        cache = config.create_timing_cache(known)
        if cache is not None and config.set_timing_cache(cache, False):
            return


def read_engine(library: Any, plan: Path, log: Any) -> Any:
    """Load a plan. TensorRT answers None to one that was made by another version or for another GPU."""
    runtime = library.Runtime(log)
    engine = runtime.deserialize_cuda_engine(plan.read_bytes())
    if engine is None:
        raise failure(log, f"load the plan {plan}; remove its folder if it was copied from another machine")
    return engine


def inspect(library: Any, engine: Any) -> str:
    """Return what the engine is made of, as the JSON of this version of TensorRT."""
    inspector = engine.create_engine_inspector()
    return str(inspector.get_engine_information(library.LayerInformationFormat.JSON))


def failure(log: Any, doing: str) -> Exception:
    """Make an error out of what TensorRT logged before it answered None or False."""
    words = "; ".join(log.errors[-SHOWN_LINES:]) or "it does not say why"
    text = f"TensorRT could not {doing}: {words}"
    is_memory = any(word in line.lower() for line in log.errors for word in MEMORY_WORDS)
    return cuda.OutOfMemoryError(f"{text} (out of memory)") if is_memory else RuntimeError(text)


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


def _builder_resource(root: Path = circumstances.ROOT) -> str:
    """Name the libraries of kernels that the builder has loaded: the PTX one is slower to build, maybe also to run."""
    return ",".join(sorted(set(BUILDER_RESOURCE.findall(circumstances.read_text(root / "proc/self/maps")))))


def _write(file: Path, content: bytes) -> None:
    file.write_bytes(content)


def _parts(version: str) -> tuple[int, int]:
    """Read the first two numbers of a version."""
    numbers = [int(digits) for digits in re.findall(r"\d+", version)[:2]]
    return (numbers[0], numbers[1]) if len(numbers) == 2 else (0, 0)
