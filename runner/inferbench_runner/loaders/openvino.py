"""Runs model.onnx with OpenVINO as it was measured. Needs what requirements.txt names.

from load import load

model = load()
outputs = model({name: array})     # each input by its name: see model.json; floats go in and come out as fp32
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import openvino

HERE = Path(__file__).resolve().parent

Arrays = Mapping[str, np.ndarray[Any, Any]]


def load() -> Callable[[Arrays], Arrays]:
    """Compile the graph with the settings that were measured; without them OpenVINO may choose another precision."""
    told = json.loads((HERE / "model.json").read_text())
    core = openvino.Core()
    model = core.read_model(str(HERE / "model.onnx"))
    model.reshape({each["name"]: each["shape"] for each in told["inputs"]})
    compiled = core.compile_model(model, "CPU", told["session"])
    request = compiled.create_infer_request()

    def run(inputs: Arrays) -> Arrays:
        request.infer({name: np.ascontiguousarray(array) for name, array in inputs.items()})
        return {port.any_name: answer(request.get_tensor(port).data) for port in compiled.outputs}

    return run


def answer(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return a copy, floats as fp32."""
    return array.astype(np.float32) if array.dtype.kind == "f" else array.copy()
