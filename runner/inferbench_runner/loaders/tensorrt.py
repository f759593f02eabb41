"""Runs engine.plan with TensorRT. Needs what requirements.txt names, and its GPU.

    from load import load

    model = load()
    outputs = model({name: array})     # each input by its name: see model.json; floats go in and come out as fp32

A plan is loaded by the version of TensorRT that built it, on a GPU of the same kind, and takes batches of one size.
"""

from __future__ import annotations

import ctypes
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorrt
from cuda.bindings import runtime

HERE = Path(__file__).resolve().parent

Arrays = Mapping[str, np.ndarray[Any, Any]]

DTYPES = {"FLOAT": "float32", "HALF": "float16", "BF16": "bfloat16", "INT8": "int8", "INT32": "int32",
          "INT64": "int64", "UINT8": "uint8", "BOOL": "bool"}  # fmt: skip


def load() -> Callable[[Arrays], Arrays]:
    """Load the plan and give each input and output its memory."""
    told = json.loads((HERE / "model.json").read_text())
    checked(runtime.cudaSetDevice(0))
    engine = tensorrt.Runtime(tensorrt.Logger()).deserialize_cuda_engine((HERE / told["artifact"]).read_bytes())
    if engine is None:
        raise RuntimeError("TensorRT does not take the plan: it is of another version, or for another GPU.")
    context, stream = (
        engine.create_execution_context(),
        checked(runtime.cudaStreamCreateWithFlags(runtime.cudaStreamNonBlocking)),
    )
    for each in told["inputs"]:
        context.set_input_shape(each["name"], tuple(each["shape"]))
    tensors = {
        name: Tensor(engine, context, name) for name in map(engine.get_tensor_name, range(engine.num_io_tensors))
    }
    outputs = [name for name in tensors if engine.get_tensor_mode(name) == tensorrt.TensorIOMode.OUTPUT]

    def execute() -> None:
        if not context.execute_async_v3(int(stream)):
            raise RuntimeError("TensorRT could not start the engine.")

    for each in told["inputs"]:
        tensors[each["name"]].write(0, stream)  # recording runs the engine, on numbers that any model can take
    start = recorded(execute, stream) if told["session"]["cudaGraph"] else execute

    def run(inputs: Arrays) -> Arrays:
        for name, array in inputs.items():
            tensors[name].write(array, stream)
        start()
        for name in outputs:
            tensors[name].read(stream)
        checked(runtime.cudaStreamSynchronize(stream))
        return {name: answer(tensors[name].array) for name in outputs}

    return run


def recorded(execute: Callable[[], None], stream: Any) -> Callable[[], None]:
    """Record the engine as a CUDA graph, as it was measured; what is returned replays it on what was copied in."""
    for _ in range(2):  # the first run allocates and sets up, which must not get into the graph
        execute()
        checked(runtime.cudaStreamSynchronize(stream))
    mode = runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
    checked(runtime.cudaStreamBeginCapture(stream, mode))
    execute()
    graph = checked(runtime.cudaGraphInstantiate(checked(runtime.cudaStreamEndCapture(stream)), 0))
    return lambda: checked(runtime.cudaGraphLaunch(graph, stream))


class Tensor:
    """An input or output: its memory on the GPU, and page-locked memory on the host to copy from and to."""

    def __init__(self, engine: Any, context: Any, name: str) -> None:
        """Allocate both, and tell the context where it is."""
        shape, kind = tuple(context.get_tensor_shape(name)), DTYPES[engine.get_tensor_dtype(name).name]
        if kind == "bfloat16":
            import ml_dtypes  # noqa: F401 (NumPy knows its types once it is imported)
        dtype = np.dtype(kind)
        self.size = int(np.prod(shape)) * dtype.itemsize
        self.address = checked(runtime.cudaMalloc(self.size))
        host = checked(runtime.cudaHostAlloc(self.size, runtime.cudaHostAllocDefault))
        self.host = int(host)
        self.array = np.ndarray(shape, dtype, memoryview((ctypes.c_byte * self.size).from_address(self.host)))
        context.set_tensor_address(name, self.address)

    def write(self, array: np.ndarray[Any, Any] | int, stream: Any) -> None:
        """Copy an array, or one number for all of it, to the GPU in the type of the engine."""
        self.array[...] = array
        kind = runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        checked(runtime.cudaMemcpyAsync(self.address, self.host, self.size, kind, stream))

    def read(self, stream: Any) -> None:
        """Copy what is on the GPU to the host."""
        kind = runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        checked(runtime.cudaMemcpyAsync(self.host, self.address, self.size, kind, stream))


def checked(told: tuple[Any, ...]) -> Any:
    """Return what a call of CUDA answered, if it worked."""
    error, *values = told
    if int(error) != 0:
        raise RuntimeError(f"CUDA: {error}")
    return values[0] if values else None


def answer(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return a copy, floats as fp32."""
    is_floating = array.dtype.kind == "f" or array.dtype.name == "bfloat16"
    return array.astype(np.float32) if is_floating else array.copy()
