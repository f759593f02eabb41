"""The backends in processes of their own, as cells are: real PyTorch, Inductor and ONNX Runtime on the CPU."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest

from inferbench_contract.errors import EnvironmentFault
from inferbench_contract.spec import AccuracySpec, MeasurementSpec, ModelSpec
from inferbench_contract.words import Backend, Device, Precision
from inferbench_runner import answers, artifacts, backends, convert, cuda, prepare
from inferbench_runner.backends import Artifact, FellBack, _compiled, openvino, torch_aot_inductor
from inferbench_runner.targets import Target
from inferbench_runner.task import Artifacts, CellTask
from tests.runner import shared, tiny
from tests.runner.graph_tasks import of_graph, write_examples

TORCH = [
    Backend.TORCH_EAGER,
    Backend.TORCH_COMPILE,
    Backend.TORCH_COMPILE_MAX_AUTOTUNE,
    Backend.TORCH_AOT_INDUCTOR,
]
REAL = [*TORCH, Backend.ONNXRUNTIME, Backend.OPENVINO]

CELLS = """
import dataclasses, json, sys
from inferbench_runner import backends, gate
from inferbench_runner.task import CellTask

for text in sys.argv[1:]:
    task = CellTask.model_validate_json(text)
    try:
        session = backends.find(task.backend).load(task)
        session.enqueue()
        session.synchronize()
        found = dataclasses.asdict(gate.check(session, task, full=True))
        told = {"accuracy": found, "notes": dict(getattr(session, "notes", {}))}
        told["shapes"] = {name: array.shape for name, array in session.outputs().items()}
    except backends.Unsupported as reason:
        told = {"unsupported": str(reason)}
    except backends.FellBack as reason:
        told = {"fellBack": str(reason)}
    print(json.dumps({**told, "torch": "torch" in sys.modules}))
"""


IMAGE = {"name": "image", "shape": [3, 32, 32]}

BRANCHING = """
import torch


class Branching(torch.nn.Module):
    def forward(self, image):
        return image * 2 if image.sum() > 0 else image


def make():
    return Branching()
"""


DOUBLING = """
<ir_version: 10, opset_import: ["" : 22]>
graph (float[batch,1048576] x) => (float[batch,1048576] y) <float two = {2}> { y = Mul(x, two) }
"""

PERCEPTRON = """
from torch import nn


def make():
    return nn.Sequential(nn.Flatten(), nn.Linear(3072, 256), nn.ReLU(), nn.Linear(256, 10))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("backends")


@pytest.fixture(scope="module")
def a_task(folder):
    """Makes the task of one cell of a small model, whose artifacts are there."""
    return tasks_of(tiny.a_model(folder, planes=16), folder, frozenset(Artifact), shared.cache())


@pytest.fixture(scope="module")
def a_perceptron(folder):
    """Makes the task of one cell of a model that is nothing but Linear layers."""
    (folder / "perceptron.py").write_text(PERCEPTRON)
    model = ModelSpec.model_validate({"python": {"factory": "perceptron:make"}, "inputs": [IMAGE]})
    wanted = frozenset({Artifact.WEIGHTS, Artifact.INPUTS, Artifact.REFERENCE})
    return tasks_of(model, folder, wanted, shared.cache())


def tasks_of(model: ModelSpec, folder: Path, wanted: frozenset[Artifact], prepared: Path):
    """Prepare a model, and return what makes tasks of its cells; what these compile is in a cache of their own."""
    request = prepare.Request(model=model, model_folder=folder, cache=prepared, artifacts=wanted)
    made = prepare.locate(request)
    if made is None:
        command = prepare.command(request, folder / "request.json", folder / "answer.json")
        subprocess.run(command, capture_output=True, check=True)
        made = answers.read_answer(folder / "answer.json")

    def make(backend: Backend, precision: Precision = Precision.FP32, batch_size: int = 4, **options) -> CellTask:
        return CellTask(
            backend=backend,
            precision=precision,
            batch_size=batch_size,
            round=0,
            device=Device.CPU,
            threads=2,
            options=options,
            model=model,
            model_folder=folder,
            measurement=MeasurementSpec(),
            accuracy=AccuracySpec(),
            artifacts=made,
            cache=folder / "cache",
            result=folder / "result.json",
        )

    return make


def run(*tasks: CellTask, **environment: str) -> list[dict]:
    """Run cells one after the other in one process."""
    arguments = [sys.executable, "-c", CELLS, *(task.model_dump_json() for task in tasks)]
    more = {**os.environ, **environment}
    ended = subprocess.run(arguments, env=more, capture_output=True, text=True, check=False, timeout=300)
    assert ended.returncode == 0, ended.stderr
    return [json.loads(line) for line in ended.stdout.splitlines() if line.startswith("{")]


def allocated_by(call: Callable[[], object]) -> int:
    """Return how many bytes Python and NumPy have at most allocated during a call, which has been made before."""
    call()
    tracemalloc.start()
    call()
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return most


def fixed(task: CellTask, folder: Path, batch_size: int) -> Artifacts:
    """Return the artifacts of a task with the batch dimension of its graph fixed."""
    graph = onnx.load(task.artifacts.onnx)
    graph.graph.input[0].type.tensor_type.shape.dim[0].dim_value = batch_size
    onnx.save(graph, folder / "fixed.onnx")
    return task.artifacts.model_copy(update={"onnx": folder / "fixed.onnx"})


def with_weights(task: CellTask, weights: Path) -> Artifacts:
    """Return the artifacts of a task with other weights."""
    return task.artifacts.model_copy(update={"weights": weights})


@pytest.fixture(scope="module")
def a_fixed_task(a_task, folder):
    """Makes the task of one cell at batch size 4, of a graph whose own batch size is 2."""

    def make(backend):
        task = a_task(backend, batch_size=4)
        return task.model_copy(update={"artifacts": fixed(task, folder, 2)})

    return make


@pytest.fixture(scope="module")
def onnxruntime_cells(a_task, a_fixed_task):
    """What ONNX Runtime answers at several batch sizes and with several options, and to a graph of another size."""
    options = [{}, {"graphOptimizationLevel": "disable"}, {"interOpThreads": 2}]
    tasks = [a_task(Backend.ONNXRUNTIME, batch_size=size) for size in (1, 5, 300)]
    tasks += [a_task(Backend.ONNXRUNTIME, **each) for each in options]
    *answered, refused = run(*tasks, a_fixed_task(Backend.ONNXRUNTIME))
    return answered, refused


class TestOnnxRuntime:
    def test_its_process_imports_no_torch(self, onnxruntime_cells):
        answered, _ = onnxruntime_cells

        assert [cell["torch"] for cell in answered] == [False] * 6

    def test_it_answers_as_the_reference_at_every_batch_size_and_with_every_option(self, onnxruntime_cells):
        answered, _ = onnxruntime_cells

        assert all(cell["accuracy"]["fault"] is None for cell in answered)
        assert max(cell["accuracy"]["relative_l2"] for cell in answered) < 1e-5
        assert [cell["shapes"]["output"][0] for cell in answered] == [1, 5, 300, 4, 4, 4]

    def test_a_graph_of_another_fixed_batch_size_is_unsupported(self, onnxruntime_cells):
        _, refused = onnxruntime_cells

        assert refused["unsupported"].startswith("FixedBatch: input image of the graph takes batches of 2")
        assert refused["unsupported"].endswith("or ask for batchSizes: [2].")


@pytest.fixture(scope="module")
def eager_cells(a_task, a_perceptron):
    """What PyTorch answers at fp32, bf16 and int8 to a model of convolutions, and at int8 to one of Linear layers.

    The last is what a package of the first answers at bf16, which is in the cache of all tests.
    """
    tasks = [a_task(Backend.TORCH_EAGER, each) for each in (Precision.FP32, Precision.BF16, Precision.INT8_DYNAMIC)]
    package = a_task(Backend.TORCH_AOT_INDUCTOR, Precision.BF16).model_copy(update={"cache": shared.cache()})
    return run(*tasks, a_perceptron(Backend.TORCH_EAGER, Precision.INT8_DYNAMIC), package)


@pytest.fixture(scope="module")
def compiler(folder):
    """A folder with a g++ that writes down what it is asked."""
    program = folder / "compiler/g++"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "$@" >>"$COMPILER_LOG"\nexec {shutil.which("g++")} "$@"\n')
    program.chmod(0o755)
    return program.parent


@pytest.fixture(scope="module")
def compiled(a_task, folder, compiler):
    """What a process answers that compiles and builds all, and what a second one does that finds some of it.

    A model as it is, with frozen weights, as a package, and one that cannot be exported; then the first and the package
    again. What max-autotune answers is seen in test_export.py, and 8 bits in test_export_int8.py.
    """
    as_it_is, package = a_task(Backend.TORCH_COMPILE), a_task(Backend.TORCH_AOT_INDUCTOR)
    frozen = a_task(Backend.TORCH_COMPILE, batch_size=2, freezing=True)
    path = f"{compiler}:{os.environ['PATH']}"
    every = (as_it_is, frozen, package, a_branching_task(package, folder))
    first = run(*every, PATH=path, COMPILER_LOG=str(folder / "first.log"))
    return first, run(as_it_is, package, PATH=path, COMPILER_LOG=str(folder / "second.log"))


@pytest.fixture(scope="module")
def compiled_cells(compiled):
    """What the compiled models answer: as it is and frozen, and the first in a second process."""
    (*cold, _, _), (warm, _) = compiled
    return [*cold, warm]


class TestTorch:
    def test_eager_fp32_is_fp32_and_bf16_is_not(self, eager_cells):
        exact, rounded, *_ = eager_cells

        assert exact["accuracy"]["fault"] is rounded["accuracy"]["fault"] is None
        assert exact["accuracy"]["relative_l2"] < 1e-5
        assert 1e-3 < rounded["accuracy"]["relative_l2"] < 5e-2

    def test_where_linear_layers_are_most_of_a_model_int8_is_int8(self, eager_cells):
        cell = eager_cells[3]

        assert cell["accuracy"]["fault"] is None
        assert 1e-3 < cell["accuracy"]["relative_l2"] < 0.1

    def test_where_they_are_not_int8_is_unsupported_with_their_share(self, eager_cells):
        told = eager_cells[2]["unsupported"]

        assert re.match(r"LinearShare: torchao quantises Linear layers, which do 0\.\d% of this", told)

    def test_compiled_models_answer_as_the_reference_and_a_second_process_finds_the_cache(self, compiled_cells):
        assert [cell["notes"]["compileCache"] for cell in compiled_cells] == ["cold", "cold", "warm"]
        assert all(cell["notes"]["compileNanoseconds"] > 0 for cell in compiled_cells)
        assert all(cell["accuracy"]["fault"] is None for cell in compiled_cells)
        assert max(cell["accuracy"]["relative_l2"] for cell in compiled_cells) < 1e-5

    def test_what_the_compiler_knows_of_vectors_is_asked_once_and_a_second_process_compiles_nothing(
        self, compiled, folder
    ):
        """The answer is an entry of the cache, beside the folders of cells, which hold nothing but their models."""
        first, second = ((folder / name).read_text() for name in ("first.log", "second.log"))
        sources = {file: file.read_text() for file in (folder / "cache").rglob("*.cpp")}
        questions = {file.relative_to(folder).parts[1] for file, text in sources.items() if "_chk_kernel" in text}

        assert len(list((folder / "cache" / _compiled.VECTORS).iterdir())) == 1
        assert questions <= {_compiled.VECTORS}
        assert f"{folder / 'cache/inductor'}/" in first
        assert " -shared " in first
        assert " -shared " not in second

    def test_nothing_is_compiled_where_the_disk_is_full_and_what_is_there_is_taken(self, a_task, monkeypatch):
        task = a_task(Backend.TORCH_COMPILE, batch_size=7)
        compiled = _compiled.cache_folder(task, "default")
        monkeypatch.setattr(artifacts, "SPARE_BYTES", 1 << 60)

        with pytest.raises(EnvironmentFault, match=r"^The cache folder .* MiB free, and .* are needed"):
            _compiled.cache_folder(task, "default")

        (compiled / _compiled.COMPLETE).touch()
        assert _compiled.cache_folder(task, "default") == compiled

    def test_what_our_own_older_code_compiled_is_not_found_again(self, a_task, monkeypatch):
        task = a_task(Backend.TORCH_COMPILE)
        before = _compiled.cache_folder(task, "default")

        monkeypatch.setattr(_compiled, "MODULES", _compiled.MODULES[1:])

        assert _compiled.cache_folder(task, "default") != before


def a_branching_task(task: CellTask, folder: Path) -> CellTask:
    """Return a task of a model without weights, whose way depends on its numbers."""
    import torch

    (folder / "branching.py").write_text(BRANCHING)
    torch.save({}, folder / "none.pt")
    model = ModelSpec.model_validate({"python": {"factory": "branching:make"}, "inputs": [IMAGE]})
    return task.model_copy(update={"model": model, "artifacts": with_weights(task, folder / "none.pt")})


class TestAotInductor:
    def test_a_package_is_built_once_and_answers_as_the_reference_wherever_it_is_loaded(self, compiled):
        (_, _, cold, _), (_, warm) = compiled

        assert [cell["notes"]["compileCache"] for cell in (cold, warm)] == ["cold", "warm"]
        assert cold["accuracy"]["fault"] is warm["accuracy"]["fault"] is None
        assert cold["accuracy"]["relative_l2"] == warm["accuracy"]["relative_l2"] < 1e-5

    def test_a_package_of_bf16_is_of_bf16(self, eager_cells):
        cell = eager_cells[-1]

        assert cell["accuracy"]["fault"] is None
        assert 1e-3 < cell["accuracy"]["relative_l2"] < 5e-2

    def test_what_decides_a_package_gives_it_another_name(self, a_task):
        task = a_task(Backend.TORCH_AOT_INDUCTOR)
        others = [
            task.model_copy(update={"batch_size": 8}),
            task.model_copy(update={"precision": Precision.BF16}),
            task.model_copy(update={"threads": 1}),
            task.model_copy(update={"options": {"freezing": True}}),
        ]

        names = {torch_aot_inductor.package_key(each) for each in (task, *others)}

        assert len(names) == 1 + len(others)
        assert torch_aot_inductor.package_key(task.model_copy(update={"round": 3})) in names

    def test_so_does_our_own_code_that_builds_it(self, a_task, monkeypatch):
        task = a_task(Backend.TORCH_AOT_INDUCTOR)
        before = torch_aot_inductor.package_key(task)

        monkeypatch.setattr(torch_aot_inductor, "MODULES", torch_aot_inductor.MODULES[1:])

        assert torch_aot_inductor.package_key(task) != before

    def test_a_model_that_cannot_be_exported_is_unsupported(self, compiled):
        """Its way depends on its numbers, which no graph of static shapes can hold."""
        (*_, refused), _ = compiled

        assert refused["unsupported"].startswith("ExportFailed: PyTorch cannot export this model")


HALVES = {Precision.BF16: 5e-4, Precision.FP16: 5e-5}
"""The least error that shows them."""


@pytest.fixture(scope="module")
def openvino_cells(a_task, a_fixed_task):
    """What OpenVINO answers, by what it is asked: batch sizes, halves, 8 bits, and what it must not take."""
    asked = {size: a_task(Backend.OPENVINO, batch_size=size) for size in (1, 5, 300)}
    halves = [each for each in HALVES if openvino.missing(each, Device.CPU) is None]
    asked |= {precision: a_task(Backend.OPENVINO, precision) for precision in halves}
    int8 = a_task(Backend.OPENVINO, Precision.INT8_STATIC)
    told = {"onnx": int8.artifacts.onnx, "inputs": int8.artifacts.inputs, "cache": shared.cache()}
    graph = convert.make(convert.Request(**told, precision=Precision.INT8_STATIC, target=Target.OPENVINO))
    quantised = int8.artifacts.model_copy(update={"onnx": graph.onnx})
    asked |= {"8 bits": int8.model_copy(update={"artifacts": quantised}), "floats under the name of 8 bits": int8}
    asked["another size"] = a_fixed_task(Backend.OPENVINO)
    return dict(zip(asked, run(*asked.values()), strict=True))


class TestOpenVino:
    def test_its_process_imports_no_torch_and_answers_as_the_reference_at_every_batch_size(self, openvino_cells):
        cells = [openvino_cells[size] for size in (1, 5, 300)]

        assert [cell["torch"] for cell in cells] == [False] * 3
        assert all(cell["accuracy"]["fault"] is None for cell in cells)
        assert max(cell["accuracy"]["relative_l2"] for cell in cells) < 1e-5
        assert [cell["shapes"]["output"][0] for cell in cells] == [1, 5, 300]

    @pytest.mark.parametrize("precision", HALVES)
    def test_halves_are_halves_or_unsupported(self, openvino_cells, precision):
        reason, least = openvino.missing(precision, Device.CPU), HALVES[precision]

        if reason is not None:
            assert reason.startswith("NoKernel: this processor has no ")
        else:
            cell = openvino_cells[precision]
            assert cell["accuracy"]["fault"] is None
            assert least < cell["accuracy"]["relative_l2"] < 100 * least

    def test_a_session_that_is_not_told_its_precision_is_found_out_where_the_processor_has_bf16(self, a_task):
        """The library's default, which nobody who reads "fp32" expects."""
        import openvino as library

        core = library.Core()
        untold = openvino.layers(core.compile_model(core.read_model(a_task(Backend.OPENVINO).artifacts.onnx), "CPU"))

        if openvino.missing(Precision.BF16, Device.CPU) is None:
            with pytest.raises(FellBack, match="fp32 was asked for"):
                openvino.require_precision(Precision.FP32, untold)
        else:
            openvino.require_precision(Precision.FP32, untold)

    def test_a_call_copies_no_answers_which_the_librarys_own_default_would(self, tmp_path):
        numbers = np.ones((1, 1 << 20), np.float32)
        write_examples(tmp_path, {"x": numbers}, {"y": 2 * numbers})
        onnx.save(onnx.parser.parse_model(DOUBLING), tmp_path / "model.onnx")
        told = {"device": Device.CPU, "batch_size": 1, "contract": "device-resident", "options": {}}
        session = openvino.load(of_graph(tmp_path, Backend.OPENVINO, Precision.FP32, **told))

        ours, theirs = allocated_by(session.enqueue), allocated_by(session._request.infer)

        assert ours < numbers.nbytes / 100
        assert theirs >= numbers.nbytes
        assert np.array_equal(session.outputs()["y"], 2 * numbers)

    def test_eight_bits_are_eight_bits(self, openvino_cells):
        cell = openvino_cells["8 bits"]

        assert cell["accuracy"]["fault"] is None
        assert 1e-3 < cell["accuracy"]["relative_l2"] < 0.15

    def test_a_float_graph_under_the_name_of_eight_bits_fell_back(self, openvino_cells):
        cell = openvino_cells["floats under the name of 8 bits"]

        assert "OpenVINO computes no layer in 8 bits" in cell["fellBack"]

    def test_a_graph_of_another_fixed_batch_size_is_unsupported(self, openvino_cells):
        cell = openvino_cells["another size"]

        assert cell["unsupported"].startswith("FixedBatch: input image of the graph takes batches of 2")


class TestMissing:
    @pytest.mark.parametrize("backend", REAL)
    def test_nothing_is_missing_here(self, backend):
        assert backends.find(backend).missing(Precision.FP32, Device.CPU) is None

    @pytest.mark.parametrize("backend", TORCH[1:])
    def test_without_a_compiler_the_line_that_installs_it_is_told(self, backend, monkeypatch):
        monkeypatch.setenv("CXX", "no-such-compiler")

        reason = backends.find(backend).missing(Precision.FP32, Device.CPU)

        assert "no-such-compiler is not here" in reason
        assert "apt-get install g++" in reason

    @pytest.mark.parametrize("backend", [each for each in REAL if each is not Backend.OPENVINO])
    def test_without_a_gpu_a_gpu_is_an_environment_fault(self, backend, monkeypatch):
        monkeypatch.setattr(cuda, "DRIVER_LIBRARY", "libno-such-driver.so")

        with pytest.raises(EnvironmentFault, match="no NVIDIA driver here"):
            backends.find(backend).missing(Precision.FP32, Device.GPU)

    @pytest.mark.parametrize("backend", REAL)
    def test_versions_are_those_of_the_libraries(self, backend):
        versions = backends.find(backend).versions()

        assert versions
        assert all(version[0].isdigit() for version in versions.values())
