"""Writes a model repository for NVIDIA Triton: config.pbtxt and a folder for the version. Pure text, without Triton.

Keys and values are those of Triton's model configuration and of its ONNX Runtime backend's README.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

DTYPES: Final = {
    "bool": "TYPE_BOOL",
    "uint8": "TYPE_UINT8",
    "uint16": "TYPE_UINT16",
    "uint32": "TYPE_UINT32",
    "uint64": "TYPE_UINT64",
    "int8": "TYPE_INT8",
    "int16": "TYPE_INT16",
    "int32": "TYPE_INT32",
    "int64": "TYPE_INT64",
    "float16": "TYPE_FP16",
    "float32": "TYPE_FP32",
    "float64": "TYPE_FP64",
    "bfloat16": "TYPE_BF16",
}

LEVELS: Final = {"ORT_DISABLE_ALL": 2, "ORT_ENABLE_BASIC": -1, "ORT_ENABLE_EXTENDED": 1}
"""Triton's numbers for ONNX Runtime's levels. It has none for LAYOUT; ALL is what it does without one."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """An input or output of the artefact, as the artefact has it: its types may be halves."""

    name: str
    dtype: str
    """As NumPy or ml_dtypes calls it."""
    shape: tuple[int, ...]
    """Without the batch dimension; -1 where a size is free."""
    batch_size: int | None
    """None: the batch dimension is free."""


def onnx_config(
    name: str, inputs: Sequence[Tensor], outputs: Sequence[Tensor], batch_size: int, session: Mapping[str, Any]
) -> str:
    """Return the configuration of a graph for Triton's ONNX Runtime backend, with the settings that were measured."""
    on_gpu = session["provider"] == "CUDAExecutionProvider"
    lines = [
        *_head(name, "onnxruntime", inputs, outputs, batch_size),
        f"instance_group [ {{ count: 1 kind: {'KIND_GPU' if on_gpu else 'KIND_CPU'} }} ]",
        _parameter("intra_op_thread_count", session["threads"]),
        _parameter("inter_op_thread_count", session["interOpThreads"]),
        *([_parameter("execution_mode", 1)] if session["interOpThreads"] > 1 else []),
    ]
    optimization = list(_optimization(session, on_gpu=on_gpu))
    return "\n".join([*lines, *(["optimization {", *optimization, "}"] if optimization else [])]) + "\n"


def plan_config(name: str, inputs: Sequence[Tensor], outputs: Sequence[Tensor], batch_size: int) -> str:
    """Return the configuration of a TensorRT plan, which takes batches of one size; the tensors are its graph's."""
    taken, given = ([replace(each, batch_size=batch_size) for each in tensors] for tensors in (inputs, outputs))
    lines = _head(name, "tensorrt", taken, given, batch_size)
    return "\n".join([*lines, "instance_group [ { count: 1 kind: KIND_GPU } ]"]) + "\n"


def _head(
    name: str, backend: str, inputs: Sequence[Tensor], outputs: Sequence[Tensor], batch_size: int
) -> Iterator[str]:
    """Yield what every configuration has. A free batch is Triton's to fill, up to the size that was measured."""
    is_free = all(tensor.batch_size is None for tensor in (*inputs, *outputs))
    yield f"name: {json.dumps(name)}"
    yield f"backend: {json.dumps(backend)}"
    yield f"max_batch_size: {batch_size if is_free else 0}"
    for word, tensors in (("input", inputs), ("output", outputs)):
        yield f"{word} ["
        yield ",\n".join(_tensor(tensor, batch_size, with_batch=not is_free) for tensor in tensors)
        yield "]"
    if is_free and batch_size > 1:
        yield f"dynamic_batching {{ preferred_batch_size: [ {batch_size} ] }}"


def _tensor(tensor: Tensor, batch_size: int, *, with_batch: bool) -> str:
    dims = [tensor.batch_size or batch_size, *tensor.shape] if with_batch else tensor.shape
    shape = ", ".join(map(str, dims))
    return f"  {{ name: {json.dumps(tensor.name)} data_type: {DTYPES[tensor.dtype]} dims: [ {shape} ] }}"


def _optimization(session: Mapping[str, Any], *, on_gpu: bool) -> Iterator[str]:
    if session["graphOptimizationLevel"] in LEVELS:
        yield f"  graph {{ level: {LEVELS[session['graphOptimizationLevel']]} }}"
    if on_gpu:
        options = {name: value for name, value in session["providerOptions"].items() if name != "device_id"}
        told = " ".join(f"parameters {{ key: {json.dumps(k)} value: {json.dumps(v)} }}" for k, v in options.items())
        yield f'  execution_accelerators {{ gpu_execution_accelerator: [ {{ name: "cuda" {told} }} ] }}'


def _parameter(key: str, value: int) -> str:
    return f'parameters {{ key: "{key}" value: {{ string_value: "{value}" }} }}'
