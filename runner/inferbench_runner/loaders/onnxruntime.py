"""Runs model.onnx with ONNX Runtime as it was measured. Needs numpy and onnxruntime (the version is in model.json).

from load import load

model = load()
outputs = model({"input": images})     # names and shapes are in model.json; floats go in and come out as fp32
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

HERE = Path(__file__).resolve().parent

Arrays = Mapping[str, np.ndarray[Any, Any]]

DTYPES = {"tensor(float16)": np.float16, "tensor(float)": np.float32, "tensor(double)": np.float64}


def load() -> Callable[[Arrays], Arrays]:
    """Make a session with the settings that were measured."""
    told = json.loads((HERE / "model.json").read_text())
    session = make_session(told["session"], told["batchSize"])
    dtypes = {each.name: DTYPES.get(each.type) for each in session.get_inputs()}
    names = [each.name for each in session.get_outputs()]

    def run(inputs: Arrays) -> Arrays:
        fed = {name: array if dtypes[name] is None else array.astype(dtypes[name]) for name, array in inputs.items()}
        return dict(zip(names, map(answer, session.run(names, fed)), strict=True))

    return run


def make_session(settings: Mapping[str, Any], batch_size: int) -> Any:
    """Make the session, on the provider that was measured and on no other."""
    name, provider = settings["provider"], settings["providerOptions"]
    if name != "CPUExecutionProvider":
        onnxruntime.preload_dlls()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = settings["threads"]
    options.inter_op_num_threads = settings["interOpThreads"]
    if settings["interOpThreads"] > 1:
        options.execution_mode = onnxruntime.ExecutionMode.ORT_PARALLEL
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, settings["graphOptimizationLevel"])
    options.add_free_dimension_override_by_name("batch", batch_size)
    if name != "CPUExecutionProvider":
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    session = onnxruntime.InferenceSession(str(HERE / "model.onnx"), options, providers=[(name, provider)])
    if session.get_providers()[0] != name:
        raise RuntimeError(f"ONNX Runtime took {session.get_providers()[0]} instead of {name}, which was measured.")
    return session


def answer(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return floats as fp32."""
    return array.astype(np.float32) if array.dtype.kind == "f" else array
