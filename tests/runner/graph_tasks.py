"""Tasks of cells of a graph that a test wrote into a folder: what ONNX Runtime's and TensorRT's tests share."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inferbench_contract.spec import AccuracySpec, MeasurementSpec, ModelSpec
from inferbench_contract.words import Backend, Device, Precision
from inferbench_runner import artifacts
from inferbench_runner.task import Artifacts, CellTask

if TYPE_CHECKING:
    from numpy.typing import NDArray


ROOT = Path(__file__).parents[2]

DOUBLING = """
<ir_version: 10, opset_import: ["" : 22]>
graph (float[batch,3] x) => (float[batch,3] y) <float two = {2}> { y = Mul(x, two) }
"""
"""What ONNX Runtime's stand-in computes whatever it is given, and the real one too."""

JUDGING = """
import sys
from inferbench_runner import cell, gate
from tests.fake_cuda import FakeCuda

{opening}
task = cell.CellTask.model_validate_json(sys.argv[1])
assert gate.check(open_session(task, FakeCuda()), task, full=True).fault is None
print(*sys.modules)
"""
"""What a cell's process does, as far as it imports anything, with a session on the stand-ins."""


def imported(opening: str, task: CellTask) -> set[str]:
    """Return what a process has imported that judged the session of a task.

    `opening` defines `open_session`, which takes the task and a stand-in for CUDA.
    """
    arguments = [sys.executable, "-c", JUDGING.format(opening=opening), task.model_dump_json()]
    ended = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return set(ended.stdout.split())


def write_examples(folder: Path, inputs: Mapping[str, NDArray[Any]], reference: Mapping[str, NDArray[Any]]) -> None:
    """Write evaluation inputs, and what the reference answers to them."""
    for name, arrays in (("inputs", inputs), ("reference", reference)):
        (folder / name).mkdir()
        artifacts.write_arrays(folder / name, arrays)


def of_graph(
    folder: Path,
    backend: Backend,
    precision: Precision,
    *,
    device: Device,
    batch_size: int,
    contract: str,
    options: Mapping[str, Any],
) -> CellTask:
    """Return the task of the graph `model.onnx` of a folder, with the examples there."""
    return CellTask(
        backend=backend,
        precision=precision,
        batch_size=batch_size,
        round=0,
        device=device,
        threads=2,
        options=options,
        model=ModelSpec.model_validate({"onnx": {"path": "model.onnx"}}),
        model_folder=folder,
        measurement=MeasurementSpec.model_validate({"contract": contract}),
        accuracy=AccuracySpec(),
        artifacts=Artifacts(onnx=folder / "model.onnx", inputs=folder / "inputs", reference=folder / "reference"),
        cache=folder / "cache",
        result=folder / "result.json",
    )
