"""Where and how cells are measured, and what their answers have to keep of the reference's."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated

from pydantic import AfterValidator, Field

from inferbench_contract.fields import (
    MAX_ITEMS,
    Boolean,
    Integer,
    Model,
    Percent,
    Product,
    ResourceName,
    Rounds,
    Seconds,
    distinct,
)
from inferbench_contract.words import Precision


class GpuSpec(Model):
    """Which GPUs, when the device is a GPU."""

    resource_name: ResourceName = "nvidia.com/gpu"
    """The resource that a pod asks for."""
    count: Annotated[Integer, Field(ge=1, le=16)] = 1
    """How many of them a pod asks for; one is measured."""
    products: Annotated[tuple[Product, ...], Field(max_length=MAX_ITEMS), AfterValidator(distinct)] = ()
    """Any one of these products (label nvidia.com/gpu.product); none: any."""
    exclusive: Boolean = True
    """Whether nobody else may use the card meanwhile."""


class CpuSpec(Model):
    """How much of the CPU."""

    threads: Annotated[Integer, Field(ge=1, le=1_024)] | None = None
    """Threads of each backend. Without it: as many as the affinity and the cgroup's quota allow."""


class Contract(StrEnum):
    """What a latency includes."""

    DEVICE_RESIDENT = "device-resident"
    END_TO_END = "end-to-end"


class Layout(StrEnum):
    """How the PyTorch backends lay a batch of images out in memory, and the kernels of convolutions with it."""

    CONTIGUOUS = "contiguous"
    CHANNELS_LAST = "channels-last"


class MeasurementSpec(Model):
    """How cells are measured."""

    contract: Contract = Contract.DEVICE_RESIDENT
    """device-resident: inputs and outputs stay on the device. end-to-end: copies from and to the host count."""
    layout: Layout = Layout.CONTIGUOUS
    """Of 4-D inputs and weights in PyTorch's backends. contiguous: plane by plane. channels-last: pixel by pixel."""
    rounds: Rounds = 4
    """Fresh processes per cell: an even number (every second round is reversed), or 1 for a look without verdicts."""
    max_seconds_per_cell: Seconds = 3
    """Time spent measuring a cell in one round. From 8 on there is time for the energy of GPUs that count it."""
    warmup_max_seconds: Seconds = 8
    """Time after which a cell that has not settled is measured all the same, with the doubt Unsettled."""


class OnViolation(StrEnum):
    """What happens to a cell that is not accurate enough."""

    EXCLUDE = "Exclude"
    FAIL = "Fail"
    REPORT = "Report"


class AccuracySpec(Model):
    """What a strategy has to keep of the fp32 reference's answers."""

    min_top1_agreement: Mapping[Precision, Percent] = {}
    """By precision, the least share of examples where the first choice is the reference's; there are defaults."""
    on_violation: OnViolation = OnViolation.EXCLUDE
    """Exclude: it cannot be best. Fail: it counts as failed too. Report: it may be best, and says what it is."""


class Calibration(StrEnum):
    """How the range of a tensor is chosen that 8 bits have to cover."""

    MINMAX = "minmax"
    PERCENTILE = "percentile"
    ENTROPY = "entropy"


class QuantizationSpec(Model):
    """How int8-static, and TensorRT's fp8, are made; int8-dynamic and PyTorch's fp8 find scales at every call."""

    calibration: Calibration = Calibration.MINMAX
    """minmax: every value seen is covered. percentile: all but 0.01 %. entropy: what loses least information."""
