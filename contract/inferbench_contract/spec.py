"""InferenceBenchmark as its author writes it, in types that cannot be wrong. `document` reads it from YAML.

In YAML the fields are camelCase, here snake_case, and lists become tuples. A validator that finds more than one mistake
raises `Mistakes`, and `document` turns each into a sentence with its line.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    Field,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    field_validator,
    model_validator,
)
from pydantic.alias_generators import to_camel

from inferbench_contract import capabilities, statements
from inferbench_contract.fields import (
    MAX_ITEMS,
    AnnotationValue,
    Backends,
    BatchSize,
    BatchSizes,
    BenchmarkName,
    Boolean,
    FreeMapping,
    Image,
    Integer,
    LabelKey,
    Model,
    Namespace,
    ObjectName,
    Precisions,
)
from inferbench_contract.measurement import (
    AccuracySpec,
    Calibration,
    Contract,
    CpuSpec,
    GpuSpec,
    Layout,
    MeasurementSpec,
    OnViolation,
    QuantizationSpec,
)
from inferbench_contract.model import ModelSpec, OnnxModel, PythonModel, TorchvisionModel, WeightsFile
from inferbench_contract.options import BackendOptions
from inferbench_contract.places import Mistakes, choices, refuse
from inferbench_contract.pod_template import deputises_nobody, is_well_shaped
from inferbench_contract.statements import Expectation
from inferbench_contract.words import Backend, Device, Precision, Strategy

__all__ = [
    "MAX_CELLS",
    "MAX_CELL_ROUNDS",
    "MAX_TTL_SECONDS",
    "AccuracySpec",
    "BenchmarkSpec",
    "CacheSpec",
    "Calibration",
    "Contract",
    "CpuSpec",
    "Expectation",
    "GpuSpec",
    "InferenceBenchmark",
    "Layout",
    "MeasurementSpec",
    "Metadata",
    "Metric",
    "ModelSpec",
    "Objective",
    "OnViolation",
    "OnnxModel",
    "PythonModel",
    "QuantizationSpec",
    "StrategyRef",
    "TorchvisionModel",
    "WeightsFile",
]
"""The spec with all that its fields are, wherever in the contract each of them stands."""

MAX_CELLS = 1_000
"""Strategies times batch sizes: what a summary, its shards and a reader can bear."""

MAX_CELL_ROUNDS = 4_000
"""Cells times rounds: each is a process of several seconds, so this is most of a day."""

MAX_TTL_SECONDS = 31_536_000
"""A year."""


class Metadata(Model):
    """Name and labels, as of any Kubernetes object."""

    name: BenchmarkName
    """Name of the benchmark. Jobs and host names are made of it, so it has at most 45 characters and no dots."""
    namespace: Namespace | None = None
    """Namespace; without a cluster it says nothing."""
    labels: Annotated[Mapping[LabelKey, Annotated[str, Field(max_length=63)]], Field(max_length=MAX_ITEMS)] = {}
    """Labels, for people and selectors."""
    annotations: Annotated[Mapping[LabelKey, AnnotationValue], Field(max_length=MAX_ITEMS)] = {}
    """Annotations, for people and tools."""


class StrategyRef(Model):
    """A strategy, spelt as two fields."""

    backend: Backend
    """The backend."""
    precision: Precision
    """The precision."""

    @property
    def strategy(self) -> Strategy:
        """The same as one value."""
        return Strategy(self.backend, self.precision)


class Metric(StrEnum):
    """What makes a strategy the best."""

    LATENCY = "latency"
    THROUGHPUT = "throughput"


class Objective(Model):
    """Which answer stands in the column Best; every batch size has its best all the same."""

    metric: Metric = Metric.LATENCY
    """latency: the lowest at one batch size. throughput: the highest over all batch sizes."""
    batch_size: BatchSize | None = None
    """With latency: at this batch size; without it the smallest."""
    max_latency_microseconds: Annotated[Integer, Field(ge=1, le=3_600_000_000)] | None = None
    """With throughput: only where a batch takes no longer than this."""

    @model_validator(mode="after")
    def _fits_its_metric(self) -> Self:
        wrong = "max_latency_microseconds" if self.metric is Metric.LATENCY else "batch_size"
        if getattr(self, wrong) is not None:
            raise Mistakes({(to_camel(wrong),): f"found it, expected nothing: metric {self.metric} does not use it."})
        return self


class CacheSpec(Model):
    """Where artifacts are kept between runs: ONNX exports, TensorRT plans, compilers' caches."""

    persistent_volume_claim: ObjectName
    """A claim in the benchmark's namespace."""


PodTemplate = Annotated[FreeMapping, AfterValidator(deputises_nobody), AfterValidator(is_well_shaped)]


class BenchmarkSpec(Model):
    """What to measure, how, and what to say about it."""

    # The order of fields matters: a validator sees the ones before its own, and only those that are valid.
    model: ModelSpec
    """The model: exactly one of torchvision, onnx, python."""
    device: Device = Device.GPU
    """gpu or cpu."""
    backends: Backends
    """What executes the model. Every backend runs at every precision."""
    precisions: Precisions = (Precision.FP32,)
    """The arithmetic. What a backend cannot do is reported as Unsupported; it never becomes another precision."""
    exclude: Annotated[tuple[StrategyRef, ...], Field(max_length=MAX_ITEMS)] = ()
    """Strategies to leave out."""
    batch_sizes: BatchSizes
    """Inputs per call; ascending, whatever the order in the file."""
    backend_options: Mapping[Backend, FreeMapping] = {}
    """By backend, options of its own."""
    gpu: GpuSpec = GpuSpec()
    """Which GPUs, when the device is a GPU."""
    cpu: CpuSpec = CpuSpec()
    """How much of the CPU."""
    measurement: Annotated[MeasurementSpec, Field(validate_default=True)] = MeasurementSpec()
    """How cells are measured."""
    quantization: QuantizationSpec = QuantizationSpec()
    """How int8-static, and fp8 in TensorRT, are made."""
    accuracy: AccuracySpec = AccuracySpec()
    """What a strategy has to keep of the fp32 reference's answers."""
    objective: Objective = Objective()
    """Which answer stands in the column Best."""
    baseline: StrategyRef | None = None
    """What speedups are against. Default: torch-eager/fp32, else onnxruntime/fp32, else the first that is supported."""
    expectations: Annotated[tuple[Expectation, ...], Field(max_length=MAX_ITEMS)] = ()
    """Statements that the run judges."""
    parallelism: Annotated[Integer, Field(ge=1, le=64)] = 1
    """Sweeps at a time; more than 1 measures side by side only on different GPUs."""
    suspend: Boolean = False
    """Whether to start nothing for now."""
    queue_name: ObjectName | None = None
    """The Kueue queue to wait in."""
    cache: CacheSpec | None = None
    """Where artifacts are kept between runs."""
    retries: Annotated[Integer, Field(ge=0, le=10)] = 1
    """How often a sweep that gave no outcome at all is run again."""
    timeout_seconds_per_sweep: Annotated[Integer, Field(ge=1, le=86_400)] = 1_800
    """Time after which a sweep is given up."""
    max_failed_cells: Annotated[Integer, Field(ge=0, le=MAX_CELLS)] = 0
    """More failed cells than this make the benchmark fail."""
    ttl_seconds_after_finished: Annotated[Integer, Field(ge=0, le=MAX_TTL_SECONDS)] | None = None
    """Time after which a finished benchmark is deleted; without it never."""
    image: Image | None = None
    """The runner's image; without it the operator's default."""
    pod_template: PodTemplate = {}  # noqa: RUF012 (pydantic copies a default)
    """metadata and spec of the runner's pods, merged last. It cannot give them rights beyond their user's."""

    @property
    def strategies(self) -> tuple[Strategy, ...]:
        """What is planned, in the order of the file: backends, then precisions, less what is excluded."""
        return _strategies(self.backends, self.precisions, self.exclude)

    @property
    def baseline_strategy(self) -> Strategy:
        """What speedups are against, chosen here if the file does not."""
        if self.baseline is not None:
            return self.baseline.strategy
        usual = (Strategy(Backend.TORCH_EAGER, Precision.FP32), Strategy(Backend.ONNXRUNTIME, Precision.FP32))
        candidates = [*(strategy for strategy in usual if strategy in self.strategies), *self.strategies]
        measured = (s for s in candidates if capabilities.support(s, self.device, self.model.source) is None)
        return next(measured, self.strategies[0])

    @field_validator("exclude")
    @classmethod
    def _excludes_some(cls, exclude: tuple[StrategyRef, ...], info: ValidationInfo) -> tuple[StrategyRef, ...]:
        if not {"backends", "precisions"} <= info.data.keys():
            return exclude
        every = _strategies(info.data["backends"], info.data["precisions"], ())
        strange = [(i, entry.strategy) for i, entry in enumerate(exclude) if entry.strategy not in every]
        refuse({(i,): f"found {strategy}, expected a pair of backends and precisions." for i, strategy in strange})
        if not set(every) - {entry.strategy for entry in exclude}:
            raise Mistakes({(): "found every strategy, expected at least one to be left."})
        return exclude

    @field_validator("batch_sizes")
    @classmethod
    def _makes_few_cells(cls, batch_sizes: tuple[int, ...], info: ValidationInfo) -> tuple[int, ...]:
        strategies = len(_planned(info.data))
        if (cells := strategies * len(batch_sizes)) > MAX_CELLS:
            found = f"{strategies} strategies x {len(batch_sizes)} batch sizes = {cells:,} cells"
            raise Mistakes({(): f"found {found}, expected at most {MAX_CELLS:,}: make two benchmarks of it."})
        return tuple(sorted(batch_sizes))

    @field_validator("backend_options")
    @classmethod
    def _has_known_options(cls, options: Mapping[Backend, FreeMapping]) -> Mapping[Backend, FreeMapping]:
        BackendOptions.model_validate(options, by_name=False)
        return options

    @field_validator("measurement")
    @classmethod
    def _makes_few_cell_rounds(cls, measurement: MeasurementSpec, info: ValidationInfo) -> MeasurementSpec:
        cells = len(_planned(info.data)) * len(info.data.get("batch_sizes", ()))
        if (cell_rounds := cells * measurement.rounds) > MAX_CELL_ROUNDS:
            found = f"{cells:,} cells x {measurement.rounds} rounds = {cell_rounds:,}"
            raise Mistakes({("rounds",): f"found {found}, expected at most {MAX_CELL_ROUNDS:,}."})
        return measurement

    @field_validator("objective")
    @classmethod
    def _aims_at_a_batch_size(cls, objective: Objective, info: ValidationInfo) -> Objective:
        sizes = info.data.get("batch_sizes")
        if sizes and objective.batch_size is not None and objective.batch_size not in sizes:
            raise Mistakes(
                {("batchSize",): f"found {objective.batch_size}, expected one of batchSizes: {choices(sizes)}."}
            )
        return objective

    @field_validator("baseline")
    @classmethod
    def _compares_with_a_planned_one(cls, baseline: StrategyRef | None, info: ValidationInfo) -> StrategyRef | None:
        planned = _planned(info.data)
        if baseline is not None and planned and baseline.strategy not in planned:
            raise Mistakes({(): f"found {baseline.strategy}, expected one of this benchmark: {choices(planned)}."})
        return baseline

    @field_validator("expectations", mode="wrap")
    @classmethod
    def _expects_what_is_planned(cls, given: Any, read: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
        """Look at all of them also where one is wrong by itself, so that it does not hide what is wrong with others."""
        planned, sizes = _planned(info.data), info.data.get("batch_sizes", ())
        try:
            expectations = read(given)
        except ValidationError as error:
            refuse(dict(statements.unmet(given, planned, sizes)), error)
            raise
        refuse(dict(statements.unmet(expectations, planned, sizes)))
        return expectations


class InferenceBenchmark(Model):
    """Measures every combination of backend, precision and batch size of a model, and says which is best."""

    api_version: Literal["inferbench.dev/v1alpha1"]
    """inferbench.dev/v1alpha1."""
    kind: Literal["InferenceBenchmark"]
    """InferenceBenchmark."""
    metadata: Metadata
    """Name and labels."""
    spec: BenchmarkSpec
    """What to measure, how, and what to say about it."""

    @property
    def name(self) -> str:
        """Its name."""
        return self.metadata.name


def _strategies(
    backends: Sequence[Backend], precisions: Sequence[Precision], exclude: Sequence[StrategyRef]
) -> tuple[Strategy, ...]:
    excluded = {entry.strategy for entry in exclude}
    every = (Strategy(backend, precision) for backend in backends for precision in precisions)
    return tuple(strategy for strategy in every if strategy not in excluded)


def _planned(valid: Mapping[str, Any]) -> tuple[Strategy, ...]:
    """Return the strategies, or none where the fields that make them are not valid themselves."""
    if not {"backends", "precisions", "exclude"} <= valid.keys():
        return ()
    return _strategies(valid["backends"], valid["precisions"], valid["exclude"])
