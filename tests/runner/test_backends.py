"""The backends in processes of their own, as cells are: real PyTorch, Inductor and ONNX Runtime on the CPU."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from inferbench_contract.errors import EnvironmentFault
from inferbench_contract.spec import AccuracySpec, MeasurementSpec
from inferbench_contract.words import Backend, Device, Precision
from inferbench_runner import backends, cuda, prepare
from inferbench_runner.backends import Artifact
from inferbench_runner.task import CellTask
from tests.runner import tiny

TORCH = [Backend.TORCH_EAGER, Backend.TORCH_COMPILE, Backend.TORCH_COMPILE_MAX_AUTOTUNE]
REAL = [*TORCH, Backend.ONNXRUNTIME]

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
    print(json.dumps({**told, "torch": "torch" in sys.modules}))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("backends")


@pytest.fixture(scope="module")
def a_task(folder):
    """Makes the task of one cell of a small model, whose artifacts are there."""
    model = tiny.a_model(folder, planes=16)
    request = prepare.Request(model=model, model_folder=folder, cache=folder / "cache", artifacts=frozenset(Artifact))
    command = prepare.command(request, folder / "request.json", folder / "answer.json")
    subprocess.run(command, capture_output=True, check=True)
    made = prepare.read_answer(folder / "answer.json")

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
            samples=None,
        )

    return make


def run(*tasks: CellTask) -> list[dict]:
    """Run cells one after the other in one process."""
    arguments = [sys.executable, "-c", CELLS, *(task.model_dump_json() for task in tasks)]
    ended = subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=300)
    assert ended.returncode == 0, ended.stderr
    return [json.loads(line) for line in ended.stdout.splitlines() if line.startswith("{")]


@pytest.fixture(scope="module")
def onnxruntime_cells(a_task):
    """What ONNX Runtime answers at several batch sizes and with several options."""
    options = [{}, {"graphOptimizationLevel": "disable"}, {"interOpThreads": 2}]
    tasks = [a_task(Backend.ONNXRUNTIME, batch_size=size) for size in (1, 5, 300)]
    return run(*tasks, *(a_task(Backend.ONNXRUNTIME, **each) for each in options))


class TestOnnxRuntime:
    def test_its_process_imports_no_torch(self, onnxruntime_cells):
        assert [cell["torch"] for cell in onnxruntime_cells] == [False] * 6

    def test_it_answers_as_the_reference_at_every_batch_size_and_with_every_option(self, onnxruntime_cells):
        assert all(cell["accuracy"]["fault"] is None for cell in onnxruntime_cells)
        assert max(cell["accuracy"]["relative_l2"] for cell in onnxruntime_cells) < 1e-5
        assert [cell["shapes"]["output"][0] for cell in onnxruntime_cells] == [1, 5, 300, 4, 4, 4]

    def test_a_graph_of_another_fixed_batch_size_is_unsupported(self, a_task, folder):
        import onnx

        task = a_task(Backend.ONNXRUNTIME, batch_size=4)
        graph = onnx.load(task.artifacts.onnx)
        graph.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2
        onnx.save(graph, folder / "fixed.onnx")
        fixed = task.artifacts.model_copy(update={"onnx": folder / "fixed.onnx"})

        [cell] = run(task.model_copy(update={"artifacts": fixed}))

        assert cell["unsupported"].startswith("FixedBatch: input image of the graph takes batches of 2")


class TestTorch:
    def test_eager_fp32_is_fp32_and_bf16_is_not(self, a_task):
        exact, rounded = run(a_task(Backend.TORCH_EAGER), a_task(Backend.TORCH_EAGER, Precision.BF16))

        assert exact["accuracy"]["fault"] is rounded["accuracy"]["fault"] is None
        assert exact["accuracy"]["relative_l2"] < 1e-5
        assert 1e-3 < rounded["accuracy"]["relative_l2"] < 5e-2

    def test_compiled_models_answer_as_the_reference_and_a_second_process_finds_the_cache(self, a_task):
        tasks = [
            a_task(Backend.TORCH_COMPILE),
            a_task(Backend.TORCH_COMPILE, batch_size=2, freezing=True),
            a_task(Backend.TORCH_COMPILE_MAX_AUTOTUNE, batch_size=3),
        ]

        cold, warm = run(*tasks), run(tasks[0])

        assert [cell["notes"]["compileCache"] for cell in (*cold, *warm)] == ["cold", "cold", "cold", "warm"]
        assert warm[0]["notes"]["compileNanoseconds"] < cold[0]["notes"]["compileNanoseconds"]
        assert all(cell["accuracy"]["fault"] is None for cell in (*cold, *warm))
        assert max(cell["accuracy"]["relative_l2"] for cell in (*cold, *warm)) < 1e-5


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

    @pytest.mark.parametrize("backend", REAL)
    def test_without_a_gpu_a_gpu_is_an_environment_fault(self, backend, monkeypatch):
        monkeypatch.setattr(cuda, "DRIVER_LIBRARY", "libno-such-driver.so")

        with pytest.raises(EnvironmentFault, match="no NVIDIA driver here"):
            backends.find(backend).missing(Precision.FP32, Device.GPU)

    @pytest.mark.parametrize("backend", REAL)
    def test_versions_are_those_of_the_libraries(self, backend):
        versions = backends.find(backend).versions()

        assert versions
        assert all(version[0].isdigit() for version in versions.values())
