"""Faults of the libraries that docs/backends.md names, seen again with the versions that are locked.

A test that fails here is good news: the library does better now, its guard may go, and the page has to change.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from inferbench_contract.words import Precision
from inferbench_runner.targets import Target
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


TF32 = """
import torch
print(torch.backends.cudnn.allow_tf32)
"""

QUICK = {"TORCHINDUCTOR_VEC_ISA_OK": "1"}
"""PyTorch's own variable; see conftest.py."""

PACKAGE = """
import os, sys
from pathlib import Path

import torch

module = torch.nn.Linear(4, 4)
sample = (torch.zeros(2, 4),)
quick = {"aot_inductor.precompile_headers": False}  # one layer is compiled sooner than the headers
program = torch.export.export(module, sample)
file = torch._inductor.aoti_compile_and_package(program, package_path=sys.argv[1], inductor_configs=quick)
loaded = torch._inductor.aoti_load_package(file)
loaded(*sample)
os._exit(0)
"""


class TestTorch:
    def test_convolutions_are_tf32_by_default(self):
        assert python(TF32).stdout == "True\n"

    def test_a_package_that_is_loaded_as_documented_leaves_what_it_unpacked(self, tmp_path: Path):
        place = tmp_path / "tmp"
        place.mkdir()

        own = {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "compiled"), "HOME": str(tmp_path), **QUICK}
        done = python(PACKAGE, tmp_path / "model.pt2", TMPDIR=str(place), **own)

        assert done.returncode == 0, done.stderr
        assert list(place.rglob("*.so"))
