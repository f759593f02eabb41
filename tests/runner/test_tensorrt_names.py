"""The names that the backend and the stand-ins use, beside those of NVIDIA's own bindings.

These are imported over libraries that hold nothing, in processes of their own; what they are called on is no GPU.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from inferbench_runner.backends import _tensorrt_plans, tensorrt
from tests import fake_tensorrt
from tests.fake_cuda import FakeCuda, FakeNvml


class TestNames:
    """Every attribute that the backend uses is asked of NVIDIA's own classes."""

    @pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx_bindings") is None, reason="no TensorRT-RTX")
    def test_tensorrt_rtx_has_every_name(self):
        assert missing_names("tensorrt_rtx_bindings") == []

    def test_tensorrt_has_every_name(self, tmp_path):
        """In all versions that are installed, or named in INFERBENCH_TENSORRT_BINDINGS (folders, `:` between them)."""
        folders = [folder for folder in os.environ.get("INFERBENCH_TENSORRT_BINDINGS", "").split(":") if folder]
        found = importlib.util.find_spec("tensorrt_bindings")
        installed = [str(Path(found.origin).parents[1])] if found is not None and found.origin else []
        if not folders + installed:
            pytest.skip("TensorRT's bindings are not installed: pip install --no-deps tensorrt-cu13-bindings")

        stubs = make_stubs(tmp_path)

        missing = {folder: missing_names("tensorrt_bindings", folder, stubs) for folder in folders + installed}

        assert not any(missing.values()), missing

    def test_the_list_of_names_is_complete_enough_to_be_worth_asking(self):
        names = used_names()

        assert ("IExecutionContext", "execute_async_v3") in names
        assert ("", "NetworkDefinitionCreationFlag.STRONGLY_TYPED") in names
        assert len(names) > 40


class TestStandIns:
    """The stand-ins have no names, numbers or arguments that the real ones do not have."""

    def test_the_runtime_is_called_as_cudas_bindings_are(self):
        from cuda.bindings import runtime

        wrong = []
        for name, method in inspect.getmembers(FakeCuda, inspect.isfunction):
            if name.startswith("cuda"):
                signature = (getattr(runtime, name).__doc__ or "").split("\n")[0]
                theirs = len([a for a in re.sub(r"^\w+\((.*)\)$", r"\1", signature).split(",") if a.strip()])
                wrong += [name] if theirs != len(inspect.signature(method).parameters) - 1 else []

        assert wrong == []

    @pytest.mark.parametrize("kind", ["cudaError_t", "cudaMemcpyKind", "cudaStreamCaptureMode"])
    def test_its_numbers_are_cudas(self, kind):
        from cuda.bindings import runtime

        ours, theirs = getattr(FakeCuda, kind), getattr(runtime, kind)

        assert {member.name: int(member) for member in ours} == {
            member.name: int(getattr(theirs, member.name)) for member in ours
        }
        assert runtime.cudaStreamNonBlocking == FakeCuda.cudaStreamNonBlocking
        assert runtime.cudaHostAllocDefault == FakeCuda.cudaHostAllocDefault

    def test_a_call_answers_a_tuple_that_begins_with_the_error(self):
        from cuda.bindings import runtime

        error, text = runtime.cudaGetErrorString(runtime.cudaError_t.cudaErrorMemoryAllocation)

        assert (int(error), text) == (0, b"out of memory")
        assert not error  # what stands inside timed calls asks no more than this

    def test_the_facts_of_a_gpu_have_cudas_names(self):
        from cuda.bindings import runtime

        facts = FakeCuda().cudaGetDeviceProperties(0)[1]

        assert set(vars(facts)) <= set(dir(runtime.cudaDeviceProp))

    @pytest.mark.skipif(importlib.util.find_spec("pynvml") is None, reason="no pynvml: pip install nvidia-ml-py")
    def test_nvml_is_called_as_its_own_bindings_are(self):
        import pynvml

        from inferbench_runner import gpu

        ours = dict(inspect.getmembers(FakeNvml, inspect.isfunction))
        calls = {name: len(inspect.signature(f).parameters) - 1 for name, f in ours.items() if name.startswith("nvml")}
        numbers = {name: value for name, value in vars(FakeNvml).items() if name.startswith("NVML_")}
        bits = {name: getattr(pynvml, f"nvmlClocksEventReason{name}", None) for name in gpu.REASONS.values()}
        old = {name: getattr(pynvml, f"nvmlClocksThrottleReason{name}", None) for name in gpu.REASONS.values()}

        assert {name: required(getattr(pynvml, name)) for name in calls} == calls
        assert {name: getattr(pynvml, name) for name in numbers} == numbers
        assert {name: bits[name] or old[name] for name in bits} == {name: bit for bit, name in gpu.REASONS.items()}

    @pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx_bindings") is None, reason="no TensorRT-RTX")
    def test_the_stand_in_for_tensorrt_has_only_tensorrts_names(self):
        import tensorrt_rtx_bindings as rtx

        pairs = [
            (fake_tensorrt.FakeBuilder, rtx.Builder),
            (fake_tensorrt.FakeNetwork, rtx.INetworkDefinition),
            (fake_tensorrt.FakeConfig, rtx.IBuilderConfig),
            (fake_tensorrt.FakeProfile, rtx.IOptimizationProfile),
            (fake_tensorrt.FakeTimingCache, rtx.ITimingCache),
            (fake_tensorrt.FakeParser, rtx.OnnxParser),
            (fake_tensorrt.FakeParserError, rtx.ParserError),
            (fake_tensorrt.FakeRuntime, rtx.Runtime),
            (fake_tensorrt.FakeEngine, rtx.ICudaEngine),
            (fake_tensorrt.FakeInspector, rtx.EngineInspector),
            (fake_tensorrt.FakeContext, rtx.IExecutionContext),
        ]
        own = {"graph", "compute"}

        assert [
            (ours.__name__, name)
            for ours, theirs in pairs
            for name in vars(ours)
            if not name.startswith("_") and name not in own and not hasattr(theirs, name)
        ] == []


# What the backend's source says, and what NVIDIA's classes have.

CLASSES = {
    "library": "",
    "severity": "ILogger.Severity",
    "builder": "Builder",
    "network": "INetworkDefinition",
    "given": "ITensor",
    "config": "IBuilderConfig",
    "profile": "IOptimizationProfile",
    "cache": "ITimingCache",
    "parser": "OnnxParser",
    "error": "ParserError",
    "runtime": "Runtime",
    "engine": "ICudaEngine",
    "inspector": "EngineInspector",
    "context": "IExecutionContext",
}
"""In the backend's source a variable of this name is an object of this class."""

SYMBOLS = [
    "createInferBuilder_INTERNAL",
    "createInferRefitter_INTERNAL",
    "createInferRuntime_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL",
    "createNvOnnxParser_INTERNAL",
    "getBuilderPluginRegistry",
    "getNvOnnxParserVersion",
    "getPluginRegistry",
    "initLibNvInferPlugins",
]
"""What the bindings look for when they are imported. Libraries with these and nothing behind them are enough for it."""

LIBRARIES = ("nvinfer", "nvinfer_plugin", "nvonnxparser")
MAJORS = (10, 11)

ASK = """
import importlib, json, operator, sys
module = importlib.import_module(sys.argv[1])
def has(path):
    try: operator.attrgetter(path)(module)
    except AttributeError: return False
    return True
print(json.dumps([path for path in json.loads(sys.argv[2]) if not has(path)]))
"""


def used_names() -> set[tuple[str, str]]:
    """Class and attribute, dotted where it goes on, of everything that the backend asks of TensorRT's objects."""
    trees = [ast.parse(Path(module.__file__).read_text()) for module in (tensorrt, _tensorrt_plans)]
    chains = [chain(node) for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    return {(CLASSES[head], ".".join(rest)) for head, *rest in filter(None, chains) if head in CLASSES and rest}


def chain(node: ast.expr) -> list[str]:
    """`library.ILogger.Severity` as a list; `self._context.x` begins with `context`. Empty for anything else."""
    match node:
        case ast.Name(id=name):
            return [name]
        case ast.Attribute(value=ast.Name(id="self"), attr=name):
            return [name.removeprefix("_")]
        case ast.Attribute(value=value, attr=name):
            head = chain(value)
            return [*head, name] if head else []
    return []


def missing_names(module: str, folder: str = "", stubs: Path | None = None) -> list[str]:
    """Ask a process of its own, which may need other libraries."""
    paths = sorted(".".join(filter(None, pair)) for pair in used_names())
    paths_of_modules = ":".join(filter(None, (folder, os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "PYTHONPATH": paths_of_modules, "LD_LIBRARY_PATH": str(stubs or "")}
    arguments = [sys.executable, "-c", ASK, module, json.dumps(paths)]
    ended = subprocess.run(arguments, capture_output=True, text=True, env=environment, check=False)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


def make_stubs(folder: Path) -> Path:
    """Compile libraries that hold nothing, under the names that the bindings load."""
    compiler = shutil.which("cc")
    assert compiler, "a C compiler is needed, as torch.compile needs one"
    source = folder / "stub.c"
    source.write_text("\n".join(f"void *{symbol}(void) {{ return 0; }}" for symbol in SYMBOLS))
    for name in (f"lib{library}.so.{major}" for library in LIBRARIES for major in MAJORS):
        arguments = [compiler, "-shared", "-fPIC", f"-Wl,-soname,{name}", "-o", str(folder / name), str(source)]
        subprocess.run(arguments, check=True)
    return folder


def required(function) -> int:
    """How many arguments a function cannot do without."""
    parameters = inspect.signature(function).parameters.values()
    return sum(parameter.default is inspect.Parameter.empty for parameter in parameters)
