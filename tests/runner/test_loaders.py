"""What is exported beside a model, over a stand-in for what its library does in some versions only."""

from __future__ import annotations

import json
import runpy
import shutil
import weakref
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest

from inferbench_contract.errors import InferbenchError
from inferbench_contract.model import ModelSpec
from inferbench_contract.words import Backend, Device, Precision
from inferbench_runner import bundle

RESNET = {"torchvision": {"name": "resnet50"}}

TOLD = {
    "session": {
        "provider": "CPUExecutionProvider",
        "providerOptions": {},
        "threads": 1,
        "interOpThreads": 1,
        "graphOptimizationLevel": "ORT_ENABLE_ALL",
    },
    "batchSize": 2,
}


class ForgetfulBinding:
    """Keeps no value alive that is bound to it, as ONNX Runtime's until 1.23: what is freed is not there to be read."""

    def __init__(self):
        self.bound: dict[str, weakref.ref[onnxruntime.OrtValue]] = {}

    def bind_ortvalue_input(self, name, value):
        self.bound[name] = weakref.ref(value)

    def bind_output(self, name, device):
        assert (name, device) in {("same a", "cpu"), ("same b", "cpu")}

    def get_outputs(self):
        return [self.bound["a"](), self.bound["b"]()]


class ForgetfulSession:
    """Answers its two inputs, which it reads when it is run and not before."""

    def __init__(self, kind):
        self._kind = kind

    def get_inputs(self):
        return [SimpleNamespace(name=name, type=self._kind) for name in ("a", "b")]

    def get_outputs(self):
        return [SimpleNamespace(name=name) for name in ("same a", "same b")]

    def get_providers(self):
        return ["CPUExecutionProvider"]

    def io_binding(self):
        return ForgetfulBinding()

    def run_with_iobinding(self, binding):
        freed = [name for name, find in binding.bound.items() if find() is None]
        assert not freed, f"the memory of {freed} was let go of before the graph read it"


def a_task(backend, device="cpu", model=RESNET, folder=None):
    named = {"backend": Backend(backend), "precision": Precision.FP32, "device": Device(device)}
    return SimpleNamespace(**named, model=ModelSpec.model_validate(model), model_folder=folder)


def required(lines):
    return {line.partition("==")[0].removesuffix("-gpu") for line in lines} - {"triton"}


@pytest.mark.parametrize(
    ("backend", "loader", "session", "imported"),
    [
        ("onnxruntime", "onnxruntime", {}, {"onnxruntime"}),
        ("openvino", "openvino", {}, {"openvino"}),
        ("torch-aot-inductor", "torch_package", {"quantised": "int8-dynamic"}, {"torch"}),
        ("torch-eager", "torch_recipe", {"quantised": None}, {"torch", "torchvision"}),
        ("torch-eager", "torch_recipe", {"quantised": "int8-dynamic"}, {"torch", "torchvision", "torchao"}),
        ("torch-compile", "torch_program", {"quantised": None}, {"torch", "torchao"}),
    ],
)
def test_requirements_name_what_a_loader_imports_and_not_what_it_does_not(backend, loader, session, imported):
    task = a_task(backend)

    _, *lines = bundle._requirements(task, bundle.Content("model", loader, session))

    assert required(lines) == {"numpy", *imported}


@pytest.mark.parametrize(
    ("model", "helper", "imported"),
    [
        pytest.param("import torch", "", set(), id="nothing of it"),
        pytest.param("from torchvision.models import resnet50", "", {"torchvision"}, id="torchvision"),
        pytest.param("import helper", "import torchvision.ops as ops", {"torchvision"}, id="in a file beside it"),
        pytest.param("import torchao", "import torchvision", {"torchao"}, id="what a file that is not read imports"),
    ],
)
def test_of_a_factory_its_own_files_decide_what_else_is_required(tmp_path, model, helper, imported):
    for name, text in (("made_here", model), ("helper", helper)):
        (tmp_path / f"{name}.py").write_text(text)
    source = {"python": {"factory": "made_here:make"}, "inputs": [{"name": "x", "shape": [4]}]}
    task = a_task("torch-eager", model=source, folder=tmp_path)

    _, *lines = bundle._requirements(task, bundle.Content("model", "torch_recipe", {"quantised": None}))

    assert required(lines) == {"numpy", "torch", *imported}


def test_a_factory_of_torchvisions_requires_torchvision(tmp_path):
    source = {"python": {"factory": "torchvision.models:alexnet"}, "inputs": [{"name": "x", "shape": [3, 64, 64]}]}
    task = a_task("torch-eager", model=source, folder=tmp_path)

    _, *lines = bundle._requirements(task, bundle.Content("model", "torch_recipe", {"quantised": None}))

    assert required(lines) == {"numpy", "torch", "torchvision"}


@pytest.mark.parametrize(
    ("name", "version", "device", "line"),
    [
        pytest.param("torch", "2.15.0+cpu", "cpu", "torch==2.15.0  # measured: 2.15.0+cpu", id="of another index"),
        pytest.param(
            "onnxruntime-gpu", "1.31.1", "cpu", "onnxruntime==1.31.1  # measured: onnxruntime-gpu 1.31.1", id="on a CPU"
        ),
        pytest.param("onnxruntime-gpu", "1.31.1", "gpu", "onnxruntime-gpu==1.31.1", id="on a GPU"),
        pytest.param("onnxruntime", "1.31.1", "cpu", "onnxruntime==1.31.1", id="as it was measured"),
    ],
)
def test_what_is_required_is_on_pips_index_and_enough_for_the_device(monkeypatch, name, version, device, line):
    monkeypatch.setattr(bundle.backends, "find", lambda _: SimpleNamespace(versions=lambda: {name: version}))
    task = a_task("torch-eager", device)

    lines = [*bundle._requirements(task, bundle.Content("model", "torch_recipe", {"quantised": None}))]

    assert lines[-1] == line


def test_what_is_installed_under_two_names_is_required_once(monkeypatch):
    both = {"onnxruntime": "1.30.0", "onnxruntime-gpu": "1.31.1"}
    monkeypatch.setattr(bundle.backends, "find", lambda _: SimpleNamespace(versions=lambda: both))

    _, *lines = bundle._requirements(a_task("onnxruntime"), bundle.Content("model", "onnxruntime", {}))

    assert [line.partition("==")[0] for line in lines] == ["numpy", "onnxruntime"]


@pytest.mark.parametrize("name", bundle.PROGRAMS)
def test_a_models_own_module_is_not_overwritten_by_a_program_of_the_folder(tmp_path, name):
    (tmp_path / name).write_text("")

    with pytest.raises(InferbenchError, match=rf"{name} is of the model, and an exported folder has a {name} of its"):
        bundle._copy_source(tmp_path / name, Path(name), tmp_path / "export")


@pytest.mark.parametrize("kind", ["tensor(float)", "tensor(float16)", "tensor(bfloat16)"])
def test_what_onnx_runtime_reads_in_place_lives_until_it_has_run(monkeypatch, tmp_path, kind):
    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda *_, **__: ForgetfulSession(kind))
    shutil.copy(bundle.LOADERS / "onnxruntime.py", tmp_path / "load.py")
    (tmp_path / "model.json").write_text(json.dumps(TOLD))
    inputs = {"a": np.array([1.5, -2.0]), "b": np.array([[3.0]])}

    answers = runpy.run_path(str(tmp_path / "load.py"))["load"]()(inputs)

    assert {name: array.tolist() for name, array in answers.items()} == {"same a": [1.5, -2.0], "same b": [[3.0]]}
