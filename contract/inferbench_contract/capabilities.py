"""What each backend can do, as data: backend x precision x device x model source -> supported, or the reason why not.

The planner reads this without importing any library. A new backend gets rows here for what it cannot do: what no row
names is measured (CONTRIBUTING.md says what else it needs). What is impossible was tried with PyTorch 2.15, with ONNX
Runtime 1.31 and with TensorRT 11.4, or read in their sources.
"""

from __future__ import annotations

from dataclasses import dataclass

from inferbench_contract.words import Backend, Device, ModelSource, Precision, Strategy

ANY_BACKEND = frozenset(Backend)
REAL = ANY_BACKEND - {Backend.FAKE}
TORCH = frozenset(
    {Backend.TORCH_EAGER, Backend.TORCH_COMPILE, Backend.TORCH_COMPILE_MAX_AUTOTUNE, Backend.TORCH_AOT_INDUCTOR}
)
TORCH_EAGER = frozenset({Backend.TORCH_EAGER})
ONNXRUNTIME = frozenset({Backend.ONNXRUNTIME})
TENSORRT = frozenset({Backend.TENSORRT})
OPENVINO = frozenset({Backend.OPENVINO})

ANY_PRECISION = frozenset(Precision)
TF32 = frozenset({Precision.TF32})
FP16 = frozenset({Precision.FP16})
BF16 = frozenset({Precision.BF16})
INT8_DYNAMIC = frozenset({Precision.INT8_DYNAMIC})
INT8_STATIC = frozenset({Precision.INT8_STATIC})
FP8 = frozenset({Precision.FP8})

ANY_DEVICE = frozenset(Device)
CPU = frozenset({Device.CPU})
GPU = frozenset({Device.GPU})

ANY_SOURCE = frozenset(ModelSource)
ONNX_FILE = frozenset({ModelSource.ONNX})


@dataclass(frozen=True, slots=True)
class Combinations:
    """Every combination of these four; what is left out is any."""

    backends: frozenset[Backend] = ANY_BACKEND
    precisions: frozenset[Precision] = ANY_PRECISION
    devices: frozenset[Device] = ANY_DEVICE
    sources: frozenset[ModelSource] = ANY_SOURCE

    def include(self, strategy: Strategy, device: Device, source: ModelSource) -> bool:
        """Tell whether the four are one of the combinations."""
        return (
            strategy.backend in self.backends
            and strategy.precision in self.precisions
            and device in self.devices
            and source in self.sources
        )


IMPOSSIBLE = (
    (
        Combinations(TORCH, sources=ONNX_FILE),
        "NoTorchModule: an ONNX file holds no PyTorch module. Use onnxruntime, tensorrt or openvino.",
    ),
    (
        Combinations(TENSORRT, devices=CPU),
        "NeedsGpu: TensorRT runs on NVIDIA GPUs only.",
    ),
    (
        Combinations(OPENVINO, devices=GPU),
        "NeedsCpu: OpenVINO is measured on CPUs only; its GPUs are Intel's.",
    ),
    (
        Combinations(REAL, TF32, CPU),
        "NeedsGpu: TF32 is a mode of NVIDIA's tensor cores. On a CPU use fp32 or bf16.",
    ),
    (
        Combinations(REAL, FP8, CPU),
        "NoKernel: no backend has fp8 convolutions or matrix products for a CPU. Use int8-static.",
    ),
    (
        Combinations(ONNXRUNTIME, FP16, CPU),
        "UpCast: the CPU provider casts fp16 up and computes in fp32, so it would measure fp32 and the casts.",
    ),
    (
        Combinations(ONNXRUNTIME, BF16, CPU),
        "NoKernel: the CPU provider has no bf16 convolution.",
    ),
    (
        Combinations(ONNXRUNTIME, INT8_STATIC | FP8, GPU),
        "Emulated: the CUDA provider has no 8-bit convolution, so it would measure dequantised floats. Use tensorrt.",
    ),
    (
        Combinations(ONNXRUNTIME, INT8_DYNAMIC, GPU),
        "NoKernel: the CUDA provider has neither DynamicQuantizeLinear nor ConvInteger. Use tensorrt at int8-static.",
    ),
    (
        Combinations(TENSORRT, INT8_DYNAMIC),
        "NoKernel: TensorRT rejects dynamic quantisation (DynamicQuantizeLinear, MatMulInteger). Use int8-static.",
    ),
    (
        Combinations(OPENVINO, INT8_DYNAMIC, CPU),
        "Emulated: OpenVINO computes dynamically quantised convolutions in floats. Use int8-static.",
    ),
    (
        Combinations(TORCH, INT8_STATIC, GPU),
        "NoKernel: PyTorch has no int8 convolution for GPUs. Use tensorrt.",
    ),
    (
        Combinations(TORCH_EAGER, INT8_STATIC, CPU),
        "Emulated: eager PyTorch computes quantised programs in floats, with casts. Use torch-compile.",
    ),
)
"""What the libraries cannot do, each with the reason; the first that fits is given. All the rest is measured."""


def support(strategy: Strategy, device: Device, source: ModelSource) -> str | None:
    """Return None where the runner measures this, else the reason why not: a CamelCase word, a colon, a sentence."""
    reasons = (reason for rows, reason in IMPOSSIBLE if rows.include(strategy, device, source))
    return next(reasons, None)
