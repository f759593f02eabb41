"""What the readers of ONNX graphs want: which precisions need a graph of their own, and what stays fp32 in it."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from inferbench_contract.words import Backend, Device, Precision


class Target(StrEnum):
    """What reads a graph."""

    CPU = "onnxruntime-cpu"
    CUDA = "onnxruntime-cuda"
    TENSORRT = "tensorrt"
    OPENVINO = "openvino"


TARGETS: Final[Mapping[tuple[Backend, Device], Target]] = {
    (Backend.ONNXRUNTIME, Device.CPU): Target.CPU,
    (Backend.ONNXRUNTIME, Device.GPU): Target.CUDA,
    (Backend.TENSORRT, Device.GPU): Target.TENSORRT,
    (Backend.OPENVINO, Device.CPU): Target.OPENVINO,
}
"""The backends that read graphs; the others read weights."""

AS_PREPARED: Final = frozenset(
    {(target, precision) for target in Target for precision in (Precision.FP32, Precision.TF32)}
    | {(Target.OPENVINO, Precision.BF16), (Target.OPENVINO, Precision.FP16)}
)
"""The prepared fp32 graph serves these: TF32 is a mode of the library, and so are OpenVINO's halves."""

IMPOSSIBLE: Final[Mapping[tuple[Target, Precision], str]] = {
    (Target.CPU, Precision.FP16): "UpCast: the CPU provider casts fp16 up and computes in fp32.",
    (Target.CPU, Precision.BF16): "NoKernel: the CPU provider has no bf16 convolution.",
    (Target.CPU, Precision.FP8): "NoKernel: the CPU provider has no fp8 convolution or matrix product.",
    (Target.CUDA, Precision.INT8_DYNAMIC): "NoKernel: the CUDA provider has no DynamicQuantizeLinear.",
    (Target.CUDA, Precision.INT8_STATIC): "Emulated: the CUDA provider has no 8-bit convolution. Use tensorrt.",
    (Target.CUDA, Precision.FP8): "Emulated: the CUDA provider has no 8-bit convolution. Use tensorrt.",
    (Target.TENSORRT, Precision.INT8_DYNAMIC): "NoKernel: TensorRT rejects DynamicQuantizeLinear. Use int8-static.",
    (Target.OPENVINO, Precision.INT8_DYNAMIC): "Emulated: OpenVINO computes dynamically quantised graphs in floats.",
    (Target.OPENVINO, Precision.FP8): "NoKernel: OpenVINO has no fp8 convolution for CPUs.",
}
"""What would measure something else under its name. The contract's table refuses most of it before a process starts."""

NO_BF16_IN_CUDA: Final = """
    ArgMax ArgMin BatchNormalization Ceil Clip ConvTranspose CumSum DepthToSpace DequantizeLinear Elu Equal Floor GRU
    GlobalAveragePool GlobalMaxPool Greater GreaterOrEqual GridSample InstanceNormalization LRN LSTM LeakyRelu Less
    LessOrEqual Log LogSoftmax MaxPool NonZero PRelu Pad QuantizeLinear RNN Reciprocal ReduceL1 ReduceL2 ReduceLogSum
    ReduceLogSumExp ReduceMax ReduceMin ReduceProd ReduceSumSquare Resize Round Selu SpaceToDepth ThresholdedRelu
"""
"""For these ONNX Runtime 1.31.1 has no CUDA kernel in bf16 at opset 22 (its get_all_opkernel_def says so); for
GridSample none in fp16 either. Elu, InstanceNormalization, MaxPool, Selu and ThresholdedRelu have none at all there:
what it registers for them from an older opset on serves only the operator of that opset, as its sessions show. Max
pools are written as maxima (WITHOUT_MAX_POOL); a graph with one of the others stays Unsupported until a later version
has the kernel in fp32."""

WITHOUT_MAX_POOL: Final = frozenset({(Target.CUDA, Precision.BF16)})
"""Readers that have no kernel of MaxPool at the opset that a precision needs, in any type."""

NO_BF16_IN_TENSORRT: Final = """
    ConvTranspose HardSigmoid HardSwish LpNormalization LpPool MeanVarianceNormalization Mish
"""
"""TensorRT-RTX 1.7.1 builds these in fp32 and rejects them in bf16, tried one by one, MeanVarianceNormalization in fp16
too. It takes HardSigmoid, which is kept with HardSwish to be safe: it is a small part of any model."""

KEPT_FP32: Final[Mapping[tuple[Target, Precision], frozenset[str]]] = {
    (Target.CUDA, Precision.FP16): frozenset({"GridSample"}),
    (Target.CUDA, Precision.BF16): frozenset(NO_BF16_IN_CUDA.split()),
    (Target.TENSORRT, Precision.FP16): frozenset({"MeanVarianceNormalization"}),
    (Target.TENSORRT, Precision.BF16): frozenset(NO_BF16_IN_TENSORRT.split()),
}
"""Operators that go on computing in fp32, between two casts, where the library has no half for them."""


def kept_fp32(target: Target, precision: Precision) -> frozenset[str]:
    """Return the types of the operators that stay fp32."""
    return KEPT_FP32.get((target, precision), frozenset())
