"""What may stand under `spec.backendOptions`, by backend. What is not given is the backend's default."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, Strict

from inferbench_contract.script import Script

Boolean = Annotated[bool, Strict()]
Integer = Annotated[int, Strict()]


class _Options(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class TorchEagerOptions(_Options):
    """None yet."""


class TorchCompileOptions(_Options):
    """Of torch-compile."""

    freezing: Boolean | None = None
    """Whether weights become constants of the compiled code."""
    mode: Literal["default", "reduce-overhead", "max-autotune-no-cudagraphs"] | None = None
    """torch.compile's mode; max-autotune is a backend of its own."""


class TorchFreezingOptions(_Options):
    """Of the other backends that compile with torch's inductor."""

    freezing: Boolean | None = None
    """Whether weights become constants of the compiled code."""


class OnnxRuntimeOptions(_Options):
    """Of onnxruntime."""

    graph_optimization_level: Literal["disable", "basic", "extended", "layout", "all"] | None = Field(
        default=None, alias="graphOptimizationLevel"
    )
    """How much ONNX Runtime rewrites the graph."""
    inter_op_threads: Annotated[Integer, Field(ge=1, le=1_024)] | None = Field(default=None, alias="interOpThreads")
    """Threads over which it spreads operators; more than one makes it run them side by side."""
    cuda_graph: Boolean | None = Field(default=None, alias="cudaGraph")
    """Whether a call replays a CUDA graph."""


class TensorRtOptions(_Options):
    """Of tensorrt."""

    cuda_graph: Boolean | None = Field(default=None, alias="cudaGraph")
    """Whether a call replays a CUDA graph."""
    builder_optimization_level: Annotated[Integer, Field(ge=0, le=5)] | None = Field(
        default=None, alias="builderOptimizationLevel"
    )
    """How long the builder looks for fast kernels."""


class OpenVinoOptions(_Options):
    """None yet."""


class BackendOptions(_Options):
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
