"""The words of the domain: what the YAML, the code, the status, the metrics and the documents all call things."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Backend(StrEnum):
    """What executes the model. A variant of a backend (CUDA graphs, ahead of time) is a backend of its own."""

    TORCH_EAGER = "torch-eager"
    TORCH_COMPILE = "torch-compile"
    TORCH_COMPILE_MAX_AUTOTUNE = "torch-compile-max-autotune"
    TORCH_AOT_INDUCTOR = "torch-aot-inductor"
    ONNXRUNTIME = "onnxruntime"
    TENSORRT = "tensorrt"
    OPENVINO = "openvino"
    FAKE = "fake"


class Precision(StrEnum):
    """The arithmetic of the heavy operators. `fp32` means fp32: TF32 is a precision of its own."""

    FP32 = "fp32"
    TF32 = "tf32"
    FP16 = "fp16"
    BF16 = "bf16"
    INT8_DYNAMIC = "int8-dynamic"
    INT8_STATIC = "int8-static"
    FP8 = "fp8"


class Device(StrEnum):
    """Where the model runs."""

    GPU = "gpu"
    CPU = "cpu"


class ModelSource(StrEnum):
    """Where a model comes from: the name of the one field that is set under `spec.model`."""

    TORCHVISION = "torchvision"
    ONNX = "onnx"
    PYTHON = "python"


class Outcome(StrEnum):
    """How a cell ended. Only `Measured` and `Inaccurate` carry numbers.

    `Measured` can win; `Inaccurate` only where its author wants it reported all the same (`onViolation: Report`).
    """

    MEASURED = "Measured"
    UNSUPPORTED = "Unsupported"
    FELL_BACK = "FellBack"
    OUT_OF_MEMORY = "OutOfMemory"
    INACCURATE = "Inaccurate"
    FAILED = "Failed"
    TIMED_OUT = "TimedOut"
    CRASHED = "Crashed"


FAILED_OUTCOMES = frozenset(
    {Outcome.FAILED, Outcome.CRASHED, Outcome.TIMED_OUT, Outcome.OUT_OF_MEMORY, Outcome.FELL_BACK},
)
"""The outcomes that count against `maxFailedCells`; `Inaccurate` joins them with `onViolation: Fail`."""


class Doubt(StrEnum):
    """A reason to trust a number less. Doubts flag; they never drop data."""

    UNSETTLED = "Unsettled"
    THROTTLED = "Throttled"
    DRIFTED = "Drifted"
    NOISY_NEIGHBOUR = "NoisyNeighbour"
    LAUNCH_BOUND = "LaunchBound"
    FEW_SAMPLES = "FewSamples"
    ABOVE_ROOFLINE = "AboveRoofline"
    GENERIC_KERNELS = "GenericKernels"


class ThrottleReason(StrEnum):
    """Why a GPU lowered its clocks, in NVML's words: those that come and go with heat and power."""

    SW_POWER_CAP = "SwPowerCap"
    HW_SLOWDOWN = "HwSlowdown"
    SW_THERMAL_SLOWDOWN = "SwThermalSlowdown"
    HW_THERMAL_SLOWDOWN = "HwThermalSlowdown"
    HW_POWER_BRAKE_SLOWDOWN = "HwPowerBrakeSlowdown"


class Verdict(StrEnum):
    """What a ratio's interval allows to say about two cells."""

    FASTER = "Faster"
    SLOWER = "Slower"
    TIE = "Tie"
    INCONCLUSIVE = "Inconclusive"


class Judgement(StrEnum):
    """What the run says about an expectation."""

    HOLDS = "Holds"
    DOES_NOT_HOLD = "DoesNotHold"
    UNDECIDED = "Undecided"


SIMPLEST_BACKENDS = (
    Backend.TORCH_EAGER,
    Backend.TORCH_COMPILE,
    Backend.ONNXRUNTIME,
    Backend.TORCH_COMPILE_MAX_AUTOTUNE,
    Backend.TORCH_AOT_INDUCTOR,
    Backend.OPENVINO,
    Backend.TENSORRT,
    Backend.FAKE,
)
"""Simplest to run and to keep first: a tie goes to the strategy that stands earlier."""

SIMPLEST_PRECISIONS = (
    Precision.FP32,
    Precision.TF32,
    Precision.BF16,
    Precision.FP16,
    Precision.INT8_DYNAMIC,
    Precision.INT8_STATIC,
    Precision.FP8,
)
"""Fewest surprises first; decides between two precisions of one backend."""


@dataclass(frozen=True, slots=True)
class Strategy:
    """A backend at a precision, written `onnxruntime/fp32`."""

    backend: Backend
    precision: Precision

    def __str__(self) -> str:
        """Write it as users do."""
        return f"{self.backend}/{self.precision}"

    @property
    def simplicity(self) -> tuple[int, int]:
        """Sort key: the simpler strategy is smaller."""
        return SIMPLEST_BACKENDS.index(self.backend), SIMPLEST_PRECISIONS.index(self.precision)

    @classmethod
    def parse(cls, text: str) -> Strategy:
        """Read `backend/precision`. Raises ValueError that names the part which is unknown."""
        backend, _, precision = text.partition("/")
        return cls(Backend(backend), Precision(precision))


@dataclass(frozen=True, slots=True)
class Cell:
    """A strategy at one batch size, written `onnxruntime/fp32@8`: the smallest thing that has a number."""

    strategy: Strategy
    batch_size: int

    def __str__(self) -> str:
        """Write it as users do."""
        return f"{self.strategy}@{self.batch_size}"
