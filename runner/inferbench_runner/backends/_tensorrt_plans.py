"""TensorRT's plans: built from our ONNX graphs, once for all rounds, and kept in the cache under all that decides them.

The graph brings the precision; there are no builder flags for it, only TF32, which TensorRT has on unless it is told.
TensorRT is given, never imported here.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from inferbench_contract.words import Precision
from inferbench_runner import artifacts, circumstances, cuda, environment
from inferbench_runner.backends import Arrays, Unsupported
from inferbench_runner.task import CellTask

PLANS: Final = "tensorrt-plans"
TIMINGS: Final = "tensorrt-timings"
"""Kinds of cache entries. Measured times of kernels are kept apart: a plan that is built anew chooses the same ones."""

PLAN: Final = "engine.plan"
LAYERS: Final = "layers.json"
NOTES: Final = "notes.json"
TIMING_CACHE: Final = "timing.cache"

KEPT_LINES: Final = 50
SHOWN_LINES: Final = 3

MEMORY_WORDS: Final = ("outofmemory", "out of memory", "cudaerrormemoryallocation")

BUILDER_RESOURCE: Final = re.compile(r"libnvinfer_builder_resource\w*\.so\S*")
TENSORRT_ITSELF: Final = re.compile(r"(/.*)/libnvinfer\.so\S*$", re.MULTILINE)
"""Files, as /proc/self/maps names them."""

MODULES: Final = (__name__,)
"""Our own code that decides what a plan is built from and how."""


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


class Shelf:
    """Plans and kernel times that were kept, for one GPU, driver and installation of TensorRT."""

    def __init__(self, cache: Path, library: Any, device: cuda.Device, driver: str, resources: Sequence[str]) -> None:
        properties = device.properties()
        self._cache = cache
        self._library = library
        self._machine = {
            "tensorrt": library.__version__,
            "resources": list(resources),
            "gpu": [properties.name, list(properties.compute_capability), properties.multiprocessors],
            "driver": driver,
        }

    def plan(self, recipe: Recipe, log: Any) -> tuple[Path, bool]:
        """Return the folder with a plan, and whether it was built just now."""
        name = artifacts.key({**self._machine, **recipe.content(), **environment.makers(MODULES, ())})
        return artifacts.find_or_build(self._cache, PLANS, name, partial(self._build, recipe, log))

    def _build(self, recipe: Recipe, log: Any, folder: Path) -> None:
        """Build a plan, look whether it can be read, and write it with what the inspector says of it.

        Kernel times are kept for all levels, and through changes of this code: the builder looks them up by what is to
        be computed. With other kernels they begin anew, so that none is passed over because others were timed already.
        """
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


def installed_resources(root: Path = circumstances.ROOT) -> Sequence[str]:
    """Name the libraries of kernels that the builder can choose from: those beside the TensorRT that is loaded."""
    loaded = TENSORRT_ITSELF.findall(circumstances.read_text(root / "proc/self/maps"))
    return sorted({file.name for folder in loaded for file in Path(folder).glob("libnvinfer_builder_resource*.so*")})


def _builder_resource(root: Path = circumstances.ROOT) -> str:
    """Name the libraries of kernels that the builder has loaded: the PTX one is slower to build, maybe also to run."""
    return ",".join(sorted(set(BUILDER_RESOURCE.findall(circumstances.read_text(root / "proc/self/maps")))))


def _write(file: Path, content: bytes) -> None:
    file.write_bytes(content)
