"""Faults of the libraries that docs/backends.md names, seen again with the versions that are locked.

A test that fails here is good news: the library does better now, its guard may go, and the page has to change.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper, parser
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from inferbench_contract.spec import Calibration
from inferbench_contract.words import Precision
from inferbench_runner import calibration, graphs, halves, quantise
from inferbench_runner.targets import Target
from tests.runner import shared
from tests.runner.zoo import Zoo


@pytest.fixture(scope="module")
def zoo():
    """Real models."""
    return Zoo.shared()


def python(script: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a script in a process of its own, as cells are."""
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.run(command, env={"PATH": "/usr/bin:/bin", **environment}, capture_output=True, text=True,
                          check=False)  # fmt: skip


CUDA_WITHOUT_GPU = """
import sys, onnxruntime

options = onnxruntime.SessionOptions()
if sys.argv[2] == "guarded":
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CUDAExecutionProvider"])
print(session.get_providers()[0])
"""


LOAD = """
import sys, onnxruntime

options = onnxruntime.SessionOptions()
options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, sys.argv[2])
onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
"""


TWO_CONVOLUTIONS = """
<ir_version: 10, opset_import: ["" : 20]>
graph (float[N,1,1,2] x) => (float[N,1,1,2] y)
<float[1,1,1,1] small = {0.001}, float[1] bias = {1}, float[1,1,1,1] one = {1}> {
    c = Conv(x, small, bias)
    y = Conv(c, one)
}
"""
"""About 1 for any x in [-1, 1]. The bias over both scales is 1.6e7, which an int32 holds and fp16 does not."""


def in_int8(rest):
    """The graph as TensorRT gets it, with what is not quantised in fp32 or fp16."""
    tidy = graphs.tidy(parser.parse_model(TWO_CONVOLUTIONS), quantise.MIN_OPSET)
    quantised = quantise.explicit(tidy, {"x": (-1, 1), "c": (-2, 2)}, quantise.INT8)
    return halves.convert(quantised, rest) if rest is Precision.FP16 else quantised


def answers(model, level, without=()):
    """What a graph answers to -1 and 1 at a level of optimisation, less some optimisers."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"],
                                           disabled_optimizers=list(without))  # fmt: skip
    kind = np.float16 if session.get_inputs()[0].type == "tensor(float16)" else np.float32
    return session.run(None, {"x": np.array([[[[-1, 1]]]], kind)})[0].astype(np.float64).ravel()


TAILED = """
import sys
import numpy as np
import onnx
from onnx import numpy_helper
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, quantize_static


class Reader(CalibrationDataReader):
    def __init__(self):
        self.batches = iter([{"x": np.load(sys.argv[2])}])

    def get_next(self):
        return next(self.batches, None)


for method in sys.argv[4:]:
    quantize_static(sys.argv[1], sys.argv[3], Reader(), calibrate_method=CalibrationMethod[method])
    [scale] = [tensor for tensor in onnx.load(sys.argv[3]).graph.initializer if tensor.name == "x_scale"]
    print(method, float(numpy_helper.to_array(scale)) * 255)
"""
"""Prints the length of the range that each method finds for x."""

PRODUCT = """
<ir_version: 10, opset_import: ["" : 20]>
graph (float[N,2] x) => (float[N,2] y) <float[2,2] w> { y = MatMul(x, w) }
"""


class TestOnnxRuntime:
    def test_without_a_gpu_it_takes_the_cpu_in_silence_unless_it_is_forbidden(self, zoo):
        graph = zoo.prepared("vit").onnx

        silent, guarded = (
            python(CUDA_WITHOUT_GPU, graph, how, CUDA_VISIBLE_DEVICES="") for how in ("plain", "guarded")
        )

        assert (silent.returncode, silent.stdout) == (0, "CPUExecutionProvider\n")
        assert guarded.returncode == 1
        assert "fallback to CPU EP has been explicitly disabled" in guarded.stderr

    def test_a_vision_transformer_in_fp16_kills_its_process_on_a_cpu(self, zoo):
        """Its optimiser NchwcTransformer does. fp16 is Unsupported there, and each cell has a process of its own."""
        graph = zoo.converted("vit", Target.CUDA, Precision.FP16)
        every, fewer = (python(LOAD, graph, level) for level in ("ORT_ENABLE_ALL", "ORT_ENABLE_EXTENDED"))

        assert every.returncode == -signal.SIGSEGV
        assert fewer.returncode == 0

    @pytest.mark.parametrize("level", ["ORT_ENABLE_BASIC", "ORT_ENABLE_ALL"])
    def test_int8_with_fp16_scales_is_garbage_when_it_optimises(self, level):
        """WeightBiasQuantization divides each bias by the scales in fp16, where more than 65,504 is infinite."""
        model = in_int8(Precision.FP16)

        assert answers(model, "ORT_DISABLE_ALL") == pytest.approx(1, rel=0.02)
        assert answers(model, level) == pytest.approx(-2, rel=0.02)  # the end of the range
        assert answers(model, level, without=["WeightBiasQuantization"]) == pytest.approx(1, rel=0.02)
        assert answers(in_int8(Precision.FP32), level) == pytest.approx(1, rel=0.02)

    def test_its_entropy_calibration_finds_what_minmax_finds_and_ours_cuts_off_the_tail(self, tmp_path):
        """Its histogram has as many bins as 8 bits have steps, so that its search has one candidate."""
        values = np.random.default_rng(0).standard_normal((4096, 2), np.float32)
        values[0] = -30, 30
        model = parser.parse_model(PRODUCT)
        model.graph.initializer.append(numpy_helper.from_array(np.eye(2, dtype=np.float32), "w"))
        source, batch = tmp_path / "model.onnx", tmp_path / "x.npy"
        onnx.save(model, source)
        np.save(batch, values)

        told = python(TAILED, source, batch, tmp_path / "quantised.onnx", "MinMax", "Entropy").stdout.splitlines()
        theirs = {line.split()[0]: float(line.split()[-1]) for line in told if line.startswith(("MinMax ", "Entropy "))}
        low, high = calibration.ranges(graphs.tidy(model), ["x"], {"x": values}, Calibration.ENTROPY)["x"]

        assert theirs["Entropy"] == theirs["MinMax"] == pytest.approx(60)
        assert high - low < 20


QUICK = {"TORCHINDUCTOR_VEC_ISA_OK": "1"}
"""PyTorch's own variable; see conftest.py."""

PACKAGE = """
import sys
import torch

module = torch.nn.Linear(4, 4)
program = torch.export.export(module, (torch.zeros(2, 4),))
quick = {"aot_inductor.precompile_headers": False}  # one layer is compiled sooner than the headers
torch._inductor.aoti_compile_and_package(program, package_path=sys.argv[1], inductor_configs=quick)
"""

LOADED = """
import os, sys
import torch

print(torch.backends.cudnn.allow_tf32, flush=True)
torch._inductor.aoti_load_package(sys.argv[1])(torch.zeros(2, 4))
os._exit(0)
"""
"""Prints one of PyTorch's flags as it is by default, and loads a package."""


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """A package of one layer, in the cache of all tests: what it leaves, it leaves when it is loaded."""
    file = shared.cache() / "one-layer.pt2"
    if not file.exists():
        scratch = tmp_path_factory.mktemp("package")
        own = {"TORCHINDUCTOR_CACHE_DIR": str(scratch / "compiled"), "HOME": str(scratch), **QUICK}
        done = python(PACKAGE, scratch / file.name, **own)
        assert done.returncode == 0, done.stderr
        whole = shutil.copy(scratch / file.name, file.with_suffix(".new"))
        Path(whole).rename(file)
    return file


@pytest.fixture(scope="module")
def loaded(package, tmp_path_factory):
    """What a process printed that loaded a package as documented, and its folder for temporary files."""
    place = tmp_path_factory.mktemp("tmp")
    return python(LOADED, package, TMPDIR=str(place), HOME=str(place.parent), **QUICK), place


class Products(TorchDispatchMode):
    """Notes the products that PyTorch computes, by the names of its operators."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, operator, _types, arguments=(), keywords=None):
        """Compute as ever."""
        if "mm" in operator.__name__:
            self.seen.append(operator.__name__.removesuffix(".default"))
        return operator(*arguments, **keywords or {})


class TestTorch:
    @pytest.mark.parametrize(("requires_gradients", "product"), [(True, "mm"), (False, "bmm")])
    def test_a_sequence_that_lies_across_meets_a_copy_of_weights_without_gradients(self, requires_gradients, product):
        weight = torch.ones(5, 4, requires_grad=requires_gradients)

        with torch.no_grad(), Products() as products:  # inference_mode would show the mode Linear itself
            nn.functional.linear(torch.ones(3, 2, 4).transpose(0, 1), weight, torch.ones(5))

        assert products.seen == [product]

    def test_convolutions_are_tf32_by_default(self, loaded):
        done, _ = loaded

        assert done.stdout == "True\n"

    def test_a_package_that_is_loaded_as_documented_leaves_what_it_unpacked(self, loaded):
        done, place = loaded

        assert done.returncode == 0, done.stderr
        assert list(place.rglob("*.so"))
