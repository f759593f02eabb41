"""Runs model.onnx with ONNX Runtime as it was measured. Needs what requirements.txt names.

from load import load

model = load()
outputs = model({name: array})     # each input by its name: see model.json; floats go in and come out as fp32
"""

from __future__ import annotations

import ctypes
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

HERE = Path(__file__).resolve().parent

Arrays = Mapping[str, np.ndarray[Any, Any]]

DTYPES = {"tensor(float16)": np.float16, "tensor(float)": np.float32, "tensor(double)": np.float64}

BFLOAT16 = "tensor(bfloat16)"
BFLOAT16_NUMBER = 16
"""Of the type in ONNX. NumPy has no such type; its numbers are the upper halves of fp32 ones, kept here as 16 bits."""


def load() -> Callable[[Arrays], Arrays]:
    """Make a session with the settings that were measured."""
    told = json.loads((HERE / "model.json").read_text())
    session = make_session(told["session"], told["batchSize"])
    types = {each.name: each.type for each in session.get_inputs()}
    names = [each.name for each in session.get_outputs()]

    def run(inputs: Arrays) -> Arrays:
        binding = session.io_binding()
        # Read in place, and until the run is over: only some versions of the binding keep them alive themselves.
        held = {name: fed(array, types[name]) for name, array in inputs.items()}
        for name, value in held.items():
            binding.bind_ortvalue_input(name, value)
        for name in names:
            binding.bind_output(name, "cpu")
        session.run_with_iobinding(binding)
        return dict(zip(names, map(answer, binding.get_outputs()), strict=True))

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


def fed(array: np.ndarray[Any, Any], kind: str) -> Any:
    """Return an array as the graph takes it."""
    if kind == BFLOAT16:
        return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(rounded(array), BFLOAT16_NUMBER)
    return onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array, DTYPES.get(kind)))


def answer(value: Any) -> np.ndarray[Any, Any]:
    """Return what the graph answered, floats as fp32."""
    if value.data_type() == BFLOAT16:
        shape = value.shape()
        bits = (ctypes.c_uint16 * math.prod(shape)).from_address(value.data_ptr())
        return widened(np.frombuffer(bits, np.uint16).reshape(shape))
    array: np.ndarray[Any, Any] = value.numpy()
    return array.astype(np.float32) if array.dtype.kind == "f" else array


def rounded(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return the bits of the nearest bf16 numbers; of two that are as near, of the even one."""
    floats = np.ascontiguousarray(array, np.float32)
    bits = floats.view(np.uint32)
    nearest = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return np.where(np.isnan(floats), 0x7FC0, nearest).astype(np.uint16)


def widened(bits: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return the fp32 numbers of bf16 bits."""
    return (bits.astype(np.uint32) << 16).view(np.float32)
