"""What each backend can do, as data: backend x precision x device x model source -> supported, or the reason why not.

The planner reads this without importing any library. A new backend is one module in runner/backends/ and rows here.
What is impossible was tried with PyTorch 2.15, ONNX Runtime 1.31 and TensorRT 11.4, or read in their sources.
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
AOT_INDUCTOR = frozenset({Backend.TORCH_AOT_INDUCTOR})
ONNXRUNTIME = frozenset({Backend.ONNXRUNTIME})
TENSORRT = frozenset({Backend.TENSORRT})
OPENVINO = frozenset({Backend.OPENVINO})
FAKE = frozenset({Backend.FAKE})

ANY_PRECISION = frozenset(Precision)
FP32 = frozenset({Precision.FP32})
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
TORCH_MODULE = ANY_SOURCE - ONNX_FILE


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
"""What the libraries cannot do, each with the reason; the first that fits is given."""

MEASURED = (
    Combinations(TORCH, FP32 | BF16, sources=TORCH_MODULE),
    Combinations(TORCH, TF32 | FP16, GPU, TORCH_MODULE),
    Combinations(TORCH - AOT_INDUCTOR, INT8_DYNAMIC, sources=TORCH_MODULE),
    Combinations(TORCH - TORCH_EAGER, INT8_STATIC, CPU, TORCH_MODULE),
    Combinations(ONNXRUNTIME, FP32),
    Combinations(ONNXRUNTIME, INT8_DYNAMIC | INT8_STATIC, CPU),
    Combinations(ONNXRUNTIME, TF32 | FP16 | BF16, GPU),
    Combinations(TENSORRT, ANY_PRECISION - INT8_DYNAMIC, GPU),
    Combinations(OPENVINO, FP32 | FP16 | BF16 | INT8_STATIC, CPU),
    Combinations(FAKE),
)
"""What this version of the runner measures. The rest is possible, and not done yet."""


def support(strategy: Strategy, device: Device, source: ModelSource) -> str | None:
    """Return None where the runner measures this, else the reason why not: a CamelCase word, a colon, a sentence."""
    for combinations, reason in IMPOSSIBLE:
        if combinations.include(strategy, device, source):
            return reason
    if any(combinations.include(strategy, device, source) for combinations in MEASURED):
        return None
    return f"NotImplemented: this version of inferbench does not measure {strategy} on a {device} yet."
