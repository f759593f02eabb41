"""Cells of a graph that doubles, on the stand-ins for CUDA and TensorRT: what tests of sessions and of plans share."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from inferbench_contract.words import Backend, Device, Precision
from inferbench_runner import cuda
from inferbench_runner.backends import tensorrt
from inferbench_runner.task import CellTask
from tests.fake_cuda import FakeCuda
from tests.fake_tensorrt import FakeTensorRt
from tests.runner.graph_tasks import of_graph, write_examples

FEATURES: Final = 4
EXAMPLES: Final = 16
DRIVER: Final = "580.159.04"

RESOURCES: Final = tuple(f"libnvinfer_builder_resource_{kind}.so.11.2.1" for kind in ("ptx", "sm90"))
"""The libraries of kernels that are installed beside the stand-in, so to speak."""

DOUBLING: Final = {
    "inputs": {"image": [[-1, FEATURES], "FLOAT"]},
    "outputs": {"scores": [[-1, FEATURES], "FLOAT"]},
    "factor": 2,
}


def typed(kind: str, **more: Any) -> Mapping[str, Any]:
    """The doubling graph with inputs and outputs of another type."""
    tensors = {"inputs": {"image": [[-1, FEATURES], kind]}, "outputs": {"scores": [[-1, FEATURES], kind]}}
    return {**DOUBLING, **tensors, **more}


def write_doubled(folder: Path) -> None:
    """Write evaluation inputs, and twice as much as the reference's answers."""
    inputs = np.random.default_rng(0).standard_normal((EXAMPLES, FEATURES), dtype=np.float32)
    write_examples(folder, {"image": inputs}, {"scores": 2 * inputs})


def task_of(
    folder: Path,
    precision: Precision = Precision.FP32,
    batch_size: int = 3,
    contract: str = "device-resident",
    graph: Mapping[str, Any] = DOUBLING,
    **options: Any,
) -> CellTask:
    """Write a graph beside the examples, and return the task of a cell of it."""
    (folder / "model.onnx").write_text(json.dumps(graph))
    about = {"device": Device.GPU, "batch_size": batch_size, "contract": contract, "options": options}
    return of_graph(folder, Backend.TENSORRT, precision, **about)


def open_on(
    fake: FakeCuda, library: FakeTensorRt, task: CellTask, driver: str = DRIVER, resources: Sequence[str] = RESOURCES
) -> tensorrt.TensorRtSession:
    """Open the session of a task on the stand-ins."""
    return tensorrt.open_session(task, cuda.open_device(fake), library, driver, resources)
