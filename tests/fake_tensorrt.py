"""A scripted stand-in for the module `tensorrt`, on the GPU of `tests.fake_cuda`: its graphs multiply by a number.

It is no TensorRT: what it shows is in which order and with what our backend calls it. Whether those calls exist, in
each version, is asked of the real bindings in `tests/runner/test_tensorrt_names.py`; the real parser and builder run in
`test_tensorrt_plans.py`.

A graph is a JSON file: {"inputs": {name: [[-1, 4], "FLOAT"]}, "outputs": {...}, "factor": 2}. Each output is the first
input times the factor.
"""

# ruff: noqa: N802 (the names are NVIDIA's)

from __future__ import annotations

import json
import math
from enum import IntEnum
from functools import partial
from types import SimpleNamespace

import ml_dtypes
import numpy as np

KERNEL_NS = 500_000
WORKSPACE_BYTES = 1 << 20

TYPES = {"FLOAT": np.float32, "HALF": np.float16, "BF16": ml_dtypes.bfloat16, "INT8": np.int8, "INT64": np.int64}

DataType = IntEnum("DataType", ["FLOAT", "HALF", "BF16", "INT8", "INT64", "FP8"])
TensorIOMode = IntEnum("TensorIOMode", ["INPUT", "OUTPUT"])
TensorLocation = IntEnum("TensorLocation", ["DEVICE", "HOST"])
BuilderFlag = IntEnum("BuilderFlag", ["TF32"])
ProfilingVerbosity = IntEnum("ProfilingVerbosity", ["DETAILED"])
LayerInformationFormat = IntEnum("LayerInformationFormat", ["JSON"])
Severity = IntEnum("Severity", ["INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE"])
ErrorCode = IntEnum("ErrorCode", ["UNSUPPORTED_NODE", "MODEL_DESERIALIZE_FAILED"])


class NetworkDefinitionCreationFlag(IntEnum):
    STRONGLY_TYPED = 1


class FakeLogger:
    Severity = Severity

    def __init__(self):
        pass


class FakeProfiler:
    def __init__(self):
        pass


class FakeTensorRt:
    """Stands in for the module."""

    DataType = DataType
    TensorIOMode = TensorIOMode
    TensorLocation = TensorLocation
    BuilderFlag = BuilderFlag
    ProfilingVerbosity = ProfilingVerbosity
    LayerInformationFormat = LayerInformationFormat
    NetworkDefinitionCreationFlag = NetworkDefinitionCreationFlag
    ILogger = FakeLogger
    Logger = FakeLogger
    IProfiler = FakeProfiler

    def __init__(self, cuda, version="11.2.1.2"):
        self.__version__ = version
        self.cuda = cuda
        self.builds: list[dict] = []
        """What each build was asked for."""
        self.says: list[tuple[Severity, str]] = []
        """What the next failure logs."""
        self.refuses: set[str] = set()
        """Steps that answer None or False: builder, plan, engine, context, address, shape, enqueue."""

    def Builder(self, log):
        if self.refuse("builder", log):  # the bindings' word for a null, as seen with 11.2.1 on an H100
            raise TypeError("pybind11::init(): factory function returned nullptr")
        return FakeBuilder(self, log)

    def OnnxParser(self, network, log):
        return FakeParser(network)

    def Runtime(self, log):
        return FakeRuntime(self, log)

    def refuse(self, step, log):
        """Tell whether a step is to fail, and say so in the log as TensorRT does."""
        for severity, message in self.says if step in self.refuses else ():
            log.log(severity, message)
        return step in self.refuses


class FakeBuilder:
    def __init__(self, library, log):
        self._library = library
        self._log = log

    def create_network(self, flags):
        assert flags == 1 << NetworkDefinitionCreationFlag.STRONGLY_TYPED
        return FakeNetwork()

    def create_builder_config(self):
        return FakeConfig()

    def create_optimization_profile(self):
        return FakeProfile()

    def build_serialized_network(self, network, config):
        profile = config.profiles[0].shapes if config.profiles else {}
        asked = {
            "tf32": BuilderFlag.TF32 in config.flags,
            "verbosity": config.profiling_verbosity.name,
            "level": config.builder_optimization_level,
            "profile": {name: [list(shape) for shape in shapes] for name, shapes in profile.items()},
            "timings": config.cache.content.decode(),
        }
        self._library.builds.append(asked)
        if self._library.refuse("plan", self._log):
            return None
        config.cache.content = b"timed"
        plan = {"version": self._library.__version__, "graph": network.graph, "asked": asked}
        return json.dumps(plan).encode()


class FakeNetwork:
    graph: dict = {}  # noqa: RUF012 (the parser puts another one in its place)

    @property
    def num_inputs(self):
        return len(self.graph["inputs"])

    def get_input(self, index):
        name = list(self.graph["inputs"])[index]
        return SimpleNamespace(name=name, shape=tuple(self.graph["inputs"][name][0]))


class FakeConfig:
    def __init__(self):
        self.flags = {BuilderFlag.TF32}  # it is on until somebody clears it
        self.profiles = []
        self.cache = FakeTimingCache(b"")
        self.profiling_verbosity = None
        self.builder_optimization_level = 3

    def set_flag(self, flag):
        self.flags.add(flag)

    def clear_flag(self, flag):
        self.flags.discard(flag)

    def add_optimization_profile(self, profile):
        self.profiles.append(profile)
        return len(self.profiles) - 1

    def create_timing_cache(self, serialized_timing_cache):
        return None if serialized_timing_cache == b"of another card" else FakeTimingCache(serialized_timing_cache)

    def set_timing_cache(self, cache, ignore_mismatch):
        assert not ignore_mismatch
        self.cache = cache
        return True

    def get_timing_cache(self):
        return self.cache


class FakeTimingCache:
    def __init__(self, content):
        self.content = content

    def serialize(self):
        return self.content


class FakeProfile:
    def __init__(self):
        self.shapes = {}

    def set_shape(self, input, min, opt, max):  # noqa: A002 (their names)
        self.shapes[input] = (min, opt, max)


class FakeParser:
    def __init__(self, network):
        self._network = network
        self._errors = []

    @property
    def num_errors(self):
        return len(self._errors)

    def get_error(self, index):
        return self._errors[index]

    def parse_from_file(self, model):
        with open(model) as file:  # noqa: PTH123 (TensorRT takes a text)
            graph = json.load(file)
        self._errors = [FakeParserError(*error) for error in graph.get("errors", ())]
        self._network.graph = graph
        return not self._errors


class FakeParserError:
    def __init__(self, code, node, operator, desc):
        self._code = ErrorCode[code]
        self._node = node
        self._operator = operator
        self._desc = desc

    def code(self):
        return self._code

    def node_name(self):
        return self._node

    def node_operator(self):
        return self._operator

    def desc(self):
        return self._desc


class FakeRuntime:
    def __init__(self, library, log):
        self._library = library
        self._log = log

    def deserialize_cuda_engine(self, serialized_engine):
        plan = json.loads(serialized_engine)
        if plan["version"] != self._library.__version__ or self._library.refuse("engine", self._log):
            return None
        return FakeEngine(self._library, plan)


class FakeEngine:
    def __init__(self, library, plan):
        self.library = library
        self.graph = plan["graph"]
        self.plan = plan
        self.tensors = {**self.graph["inputs"], **self.graph["outputs"]}

    @property
    def num_io_tensors(self):
        return len(self.tensors)

    @property
    def device_memory_size_v2(self):
        return WORKSPACE_BYTES

    def get_tensor_name(self, index):
        return list(self.tensors)[index]

    def get_tensor_mode(self, name):
        return TensorIOMode.INPUT if name in self.graph["inputs"] else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name):
        return DataType[self.tensors[name][1]]

    def get_tensor_location(self, name):
        return TensorLocation.HOST if name in self.graph.get("on_host", ()) else TensorLocation.DEVICE

    def create_execution_context(self):
        return None if "context" in self.library.refuses else FakeContext(self)

    def compute(self, shapes, addresses):
        """Do what the GPU does in a run of the engine."""
        cuda, name = self.library.cuda, next(iter(self.graph["inputs"]))
        kind = np.dtype(TYPES[self.tensors[name][1]])
        content = cuda.read(addresses[name], math.prod(shapes[name]) * kind.itemsize)
        values = np.frombuffer(content, kind).astype(np.float32) * self.graph["factor"]
        for output, (_, written) in self.graph["outputs"].items():
            cuda.write(addresses[output], values.astype(TYPES[written]).tobytes())

    def create_engine_inspector(self):
        return FakeInspector(self)


class FakeInspector:
    def __init__(self, engine):
        self._engine = engine

    def get_engine_information(self, format):  # noqa: A002 (its name)
        assert format == LayerInformationFormat.JSON
        return json.dumps({"Layers": self._engine.graph.get("layers", [])})


class FakeContext:
    """Refuses to run before shapes and addresses are known; its first run allocates, as the real one's may."""

    def __init__(self, engine):
        self.profiler = None
        self._engine = engine
        self._cuda = engine.library.cuda
        self._shapes = {}
        self._addresses = {}
        self._workspace = None

    def set_input_shape(self, name, shape):
        self._shapes[name] = tuple(shape)
        return "shape" not in self._engine.library.refuses

    def infer_shapes(self):
        return [name for name in self._engine.graph["inputs"] if name not in self._shapes]

    def get_tensor_shape(self, name):
        batch = next(iter(self._shapes.values()))[0]
        shape = self._shapes.get(name, self._engine.tensors[name][0])
        return (batch if shape[0] == -1 else shape[0], *shape[1:])

    def set_tensor_address(self, name, memory):
        self._addresses[name] = memory
        return "address" not in self._engine.library.refuses

    def execute_async_v3(self, stream_handle):
        assert set(self._addresses) == set(self._engine.tensors), "a tensor has no address"
        if self._workspace is None:
            error, self._workspace = self._cuda.cudaMalloc(WORKSPACE_BYTES)
            if error:
                return False
        shapes = {name: self.get_tensor_shape(name) for name in self._engine.tensors}
        run = partial(self._engine.compute, shapes, dict(self._addresses))  # as they are when the call is made
        kernel = self._cuda.run("engine", KERNEL_NS, run)
        self._cuda.stream_at(stream_handle).add(kernel)
        for layer in ("conv1", "fc") if self.profiler else ():
            self.profiler.report_layer_time(layer, KERNEL_NS / 2e6)
        return "enqueue" not in self._engine.library.refuses

    def __del__(self):
        if self._workspace is not None:
            self._cuda.cudaFree(self._workspace)
