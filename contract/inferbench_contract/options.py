"""What may stand under `spec.backendOptions`, by backend. What is not given is the backend's default."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from inferbench_contract.fields import Boolean, Integer, Model
from inferbench_contract.script import Script


class TorchEagerOptions(Model):
    """None yet."""


class TorchCompileOptions(Model):
    """Of torch-compile."""

    freezing: Boolean | None = None
    """Whether weights become constants of the compiled code."""
    mode: Literal["default", "reduce-overhead", "max-autotune-no-cudagraphs"] | None = None
    """torch.compile's mode; max-autotune is a backend of its own."""


class TorchFreezingOptions(Model):
    """Of the other backends that compile with torch's inductor."""

    freezing: Boolean | None = None
    """Whether weights become constants of the compiled code."""


class OnnxRuntimeOptions(Model):
    """Of onnxruntime."""

    graph_optimization_level: Literal["disable", "basic", "extended", "layout", "all"] | None = None
    """How much ONNX Runtime rewrites the graph."""
    inter_op_threads: Annotated[Integer, Field(ge=1, le=1_024)] | None = None
    """Threads over which it spreads operators; more than one makes it run them side by side."""
    cuda_graph: Boolean | None = None
    """Whether a call replays a CUDA graph."""


class TensorRtOptions(Model):
    """Of tensorrt."""

    cuda_graph: Boolean | None = None
    """Whether a call replays a CUDA graph."""
    builder_optimization_level: Annotated[Integer, Field(ge=0, le=5)] | None = None
    """How long the builder looks for fast kernels."""


class OpenVinoOptions(Model):
    """None yet."""


class BackendOptions(Model):
    """By backend."""

    torch_eager: TorchEagerOptions | None = Field(default=None, alias="torch-eager")
    torch_compile: TorchCompileOptions | None = Field(default=None, alias="torch-compile")
    torch_compile_max_autotune: TorchFreezingOptions | None = Field(default=None, alias="torch-compile-max-autotune")
    torch_aot_inductor: TorchFreezingOptions | None = Field(default=None, alias="torch-aot-inductor")
    onnxruntime: OnnxRuntimeOptions | None = None
    tensorrt: TensorRtOptions | None = None
    openvino: OpenVinoOptions | None = None
    fake: Script | None = None
    """The fake backend's whole behaviour."""
