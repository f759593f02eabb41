"""InferenceBenchmark as its author writes it, in types that cannot be wrong. `document` reads it from YAML.

In YAML the fields are camelCase, here snake_case. Lists become tuples, and every list, text and number has bounds, so
that a CRD can be made of it. There are no floats: percentages and factors are text, durations whole units in the name.
A validator that finds more than one mistake raises `Mistakes`, and `document` turns each into a sentence with its line.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from fractions import Fraction
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    JsonValue,
    ModelWrapValidatorHandler,
    Strict,
    Tag,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    field_validator,
    model_validator,
)
from pydantic.alias_generators import to_camel

from inferbench_contract import capabilities
from inferbench_contract.options import BackendOptions
from inferbench_contract.places import Mistakes, Place, contents, refuse
from inferbench_contract.pod_template import deputises_nobody, is_well_shaped
from inferbench_contract.words import Backend, Cell, Device, ModelSource, Precision, Strategy

MAX_CELLS = 1_000
"""Strategies times batch sizes: what a summary, its shards and a reader can bear."""

MAX_CELL_ROUNDS = 4_000
"""Cells times rounds: each is a process of several seconds, so this is most of a day."""

MAX_ITEMS = 64
"""Of any list: the API server refuses rules over longer ones, because they might cost it too much to check."""

MAX_FREE_BYTES = 8_192
"""Of a free mapping as JSON: the plan has to fit into a Job, and the object stays small."""

MAX_TTL_SECONDS = 31_536_000
"""A year."""

MAX_SHOWN = 12
"""Of the choices that a sentence lists."""

T = TypeVar("T")


def _distinct(items: tuple[T, ...]) -> tuple[T, ...]:
    again = [(i, item) for i, item in enumerate(items) if item in items[:i]]
    refuse({(i,): f"found {item} a second time, expected each once." for i, item in again})
    return items


def _modest(value: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """Refuse what is too large, and floats: Kubernetes writes 1.0 as 1, and the plan's hash would differ there."""
    floats = [(place, item) for place, item in contents(value) if isinstance(item, float)]
    refuse({place: f"found {item}, expected no fraction: use a smaller unit, or quotes." for place, item in floats})
    if (size := len(json.dumps(value))) > MAX_FREE_BYTES:
        raise Mistakes({(): f"found {size:,} bytes as JSON, expected at most {MAX_FREE_BYTES:,}."})
    return value


def _even_or_one(rounds: int) -> int:
    if rounds > 1 and rounds % 2:
        raise Mistakes({(): f"found {rounds}, expected an even number, or 1 for a look without verdicts."})
    return rounds


# A JSON number with a fraction, a text or a boolean is no integer, and no integer is a boolean.
Integer = Annotated[int, Strict()]
Boolean = Annotated[bool, Strict()]

BatchSize = Annotated[Integer, Field(ge=1, le=65_536)]
BatchSizes = Annotated[tuple[BatchSize, ...], Field(min_length=1, max_length=MAX_ITEMS), AfterValidator(_distinct)]
Rounds = Annotated[Integer, Field(ge=1, le=100), AfterValidator(_even_or_one)]
Seconds = Annotated[Integer, Field(ge=1, le=3_600)]
Backends = Annotated[tuple[Backend, ...], Field(min_length=1, max_length=len(Backend)), AfterValidator(_distinct)]
Precisions = Annotated[tuple[Precision, ...], Field(min_length=1, max_length=len(Precision)), AfterValidator(_distinct)]
FreeMapping = Annotated[dict[str, JsonValue], AfterValidator(_modest)]


def _text(max_length: int, pattern: str, kind: str, *examples: str) -> Any:
    """Bound a text. The kind and the examples stand in messages: "expected a percentage such as 99.5%"."""
    return Field(min_length=1, max_length=max_length, pattern=pattern, title=kind, examples=list(examples))


DNS_LABEL = (r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", "lower-case letters, digits and hyphens")
DNS_NAME = (r"^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$", "lower-case letters, digits, hyphens and dots")
QUALIFIED = (r"^[a-z0-9]([-.a-z0-9]*[a-z0-9])?/[-A-Za-z0-9_.]+$", "a resource name")
WEIGHTS = (r"^(random|[A-Z][A-Z0-9_]*)$", "DEFAULT, random, a name in the model's weights enum, or a path:")
MODULE_FUNCTION = (r"^[A-Za-z_][A-Za-z0-9_.]*:[A-Za-z_][A-Za-z0-9_]*$", "module:function")
STRATEGY = "[a-z0-9-]+/[a-z0-9-]+"

BenchmarkName = Annotated[str, _text(45, *DNS_LABEL, "resnet50")]
"""A host name of 63 characters is made of it: `<name>-<10 digits of hash>-<stage>-<up to 4 digits of sweep>`."""
ShortName = Annotated[str, _text(63, *DNS_LABEL, "lead-grows")]
Namespace = Annotated[str, _text(63, *DNS_LABEL, "default")]
ObjectName = Annotated[str, _text(253, *DNS_NAME, "gpu-queue")]
Product = Annotated[str, _text(63, r"^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$", "a product", "NVIDIA-L4")]
ResourceName = Annotated[str, _text(253, *QUALIFIED, "nvidia.com/gpu")]
Image = Annotated[str, _text(512, r"^\S+$", "an image", "registry.example/inferbench-runner:0.1.0")]
FilePath = Annotated[str, _text(1_024, r"^[^\x00-\x1f\x7f]+$", "a path", "models/resnet50.onnx")]
ModelName = Annotated[str, _text(128, r"^[a-z][a-z0-9_]*$", "a name in torchvision.models", "resnet50")]
WeightsName = Annotated[str, _text(128, *WEIGHTS, "DEFAULT", "IMAGENET1K_V2", "random")]
Factory = Annotated[str, _text(256, *MODULE_FUNCTION, "my.models:make_resnet")]
InputName = Annotated[str, _text(128, r"^\S+$", "a name without spaces", "input")]
LabelKey = Annotated[str, Field(min_length=1, max_length=317)]
AnnotationValue = Annotated[str, Field(max_length=65_536)]
Percent = Annotated[str, _text(8, r"^(100(\.0{1,3})?|[0-9]{1,2}(\.[0-9]{1,3})?)%$", "a percentage", "99.5%")]
Factor = Annotated[str, _text(8, r"^[1-9][0-9]{0,2}(\.[0-9]{1,3})?x$", "a factor of at least 1x", "1.1x")]
"""At least 1x: "slower" is said by exchanging the two sides."""


def fraction(text: str) -> Fraction:
    """Read a percentage ("99.5%") or a factor ("1.1x") exactly."""
    return Fraction(text[:-1]) / (100 if text.endswith("%") else 1)


class Model(BaseModel):
    """What all parts of the document share: camelCase in YAML, no unknown field, no change after reading."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
    )


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


# ---- what is measured ----------------------------------------------------------------------------


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


class WeightsFile(Model):
    """Weights in a file that torch.save wrote: a state dict, loaded with `weights_only`."""

    path: FilePath
    """The file: relative to the YAML file, in a pod to the models volume."""


RANDOM_WEIGHTS = "random"


def _kind_of_weights(value: object) -> str:
    return "<file>" if isinstance(value, Mapping | WeightsFile) else "<name>"


Weights = Annotated[
    Annotated[WeightsName, Tag("<name>")] | Annotated[WeightsFile, Tag("<file>")], Discriminator(_kind_of_weights)
]


class TorchvisionModel(Model):
    """A model of torchvision's."""

    name: ModelName
    """Its name in torchvision.models."""
    weights: Weights = "DEFAULT"
    """DEFAULT or another name of the model's weights (downloaded), random (seeded, batch norms calibrated), {path}."""


class OnnxModel(Model):
    """A model in an ONNX file."""

    path: FilePath
    """The file: relative to the YAML file, in a pod to the models volume."""


class PythonModel(Model):
    """A model that a Python function makes."""

    factory: Factory
    """`module:function`; the function returns a torch.nn.Module. The module's folder has to be importable."""
    kwargs: FreeMapping = {}
    """Keyword arguments of the function."""


class Dtype(StrEnum):
    """Element types of inputs."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    INT64 = "int64"
    INT32 = "int32"
    UINT8 = "uint8"
    BOOL = "bool"


class InputSpec(Model):
    """One input of the model."""

    name: InputName
    """Its name; in an ONNX file the graph's."""
    shape: Annotated[tuple[Annotated[Integer, Field(ge=1, le=65_536)], ...], Field(max_length=8)]
    """Its shape without the batch dimension, which is the first."""
    dtype: Dtype = Dtype.FLOAT32
    """Its element type; floats follow the precision of the strategy."""


class ModelSpec(Model):
    """What is measured: exactly one of torchvision, onnx, python."""

    torchvision: TorchvisionModel | None = None
    """A model of torchvision's."""
    onnx: OnnxModel | None = None
    """A model in an ONNX file."""
    python: PythonModel | None = None
    """A model that a Python function makes; its inputs have to be given."""
    inputs: Annotated[tuple[InputSpec, ...], Field(max_length=MAX_ITEMS)] = ()
    """The inputs, where the source does not know them: torchvision does, an ONNX file of fixed shapes too."""

    @property
    def source(self) -> ModelSource:
        """Which of the three it is."""
        return next(source for source in ModelSource if getattr(self, source) is not None)

    @property
    def has_random_weights(self) -> bool:
        """Whether its answers mean nothing, so that their top-1 is not looked at."""
        return self.torchvision is not None and self.torchvision.weights == RANDOM_WEIGHTS

    @model_validator(mode="after")
    def _has_one_source(self) -> Self:
        given = [str(source) for source in ModelSource if getattr(self, source) is not None]
        if len(given) != 1:
            found = " and ".join(given) or "none of them"
            raise Mistakes({(): f"found {found}, expected exactly one of {', '.join(ModelSource)}."})
        if self.python is not None and not self.inputs:
            raise Mistakes(
                {("inputs",): "found none, expected the name, shape and dtype of each: a function tells none."}
            )
        return self


# ---- where and how it is measured ----------------------------------------------------------------


class GpuSpec(Model):
    """Which GPUs, when the device is a GPU."""

    resource_name: ResourceName = "nvidia.com/gpu"
    """The resource that a pod asks for."""
    count: Annotated[Integer, Field(ge=1, le=16)] = 1
    """How many of them a pod asks for; one is measured."""
    products: Annotated[tuple[Product, ...], Field(max_length=MAX_ITEMS), AfterValidator(_distinct)] = ()
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


# ---- how it is judged ----------------------------------------------------------------------------


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


Operand = Strategy | Cell


def operand(text: str) -> Operand:
    """Read `backend/precision` or `backend/precision@batchSize`. Raises ValueError that names the unknown part."""
    strategy, at, batch_size = text.partition("@")
    return Cell(Strategy.parse(strategy), int(batch_size)) if at else Strategy.parse(strategy)


def _known(text: str) -> str:
    backend, _, precision = text.partition("@")[0].partition("/")
    wrong = [
        f"instead of {word or 'nothing'} one of {', '.join(words)}"
        for word, words in ((backend, Backend), (precision, Precision))
        if word not in set(words)
    ]
    refuse({(): f'found "{text}", expected {", and ".join(wrong)}.'} if wrong else {})
    return text


StrategyText = Annotated[str, _text(64, f"^{STRATEGY}$", "a strategy", "torch-eager/fp32"), AfterValidator(_known)]
OperandText = Annotated[
    str,
    _text(64, f"^{STRATEGY}(@[1-9][0-9]{{0,4}})?$", "a strategy or a cell", "torch-eager/fp32", "torch-eager/fp32@8"),
    AfterValidator(_known),
]


def _pairs(left: Operand, right: Operand, batch_sizes: Sequence[int]) -> tuple[tuple[Cell, Cell], ...]:
    if isinstance(left, Cell) and isinstance(right, Cell):
        return ((left, right),)
    return tuple((_at(left, batch_size), _at(right, batch_size)) for batch_size in batch_sizes)


def _at(side: Operand, batch_size: int) -> Cell:
    return side if isinstance(side, Cell) else Cell(side, batch_size)


class Comparison(Model):
    """How much faster one strategy is than another."""

    faster: StrategyText
    """The strategy that is ahead."""
    than: StrategyText
    """The strategy that it is ahead of."""

    def pairs(self, batch_sizes: Sequence[int]) -> tuple[tuple[Cell, Cell], ...]:
        """Return the cells (faster, than) of each batch size."""
        return _pairs(operand(self.faster), operand(self.than), batch_sizes)


class ExpectationForm(StrEnum):
    """The statements that an expectation can make."""

    FASTER = "faster"
    """`faster` takes less time than `than`, at every batch size, by more than `by`."""
    EQUAL = "equal"
    """`equal` and `to` take the same time to within `within`, at every batch size."""
    LEAD_GROWS = "lead grows"
    """The lead of `faster` at the largest batch size is more than `by` times its lead at the smallest."""
    LEADS_MORE = "leads more"
    """The lead of `faster` is more than `by` times the lead in `byMoreThan`, at every batch size."""


class Expectation(Model):
    """A statement that the run judges: Holds, DoesNotHold or Undecided.

    Operands are strategies, compared at every batch size or those in batchSizes, or two cells like torch-eager/fp32@8.
    """

    name: ShortName
    """A short name of the statement."""
    faster: OperandText | None = None
    """What takes less time. Goes with `than`."""
    than: OperandText | None = None
    """What takes more time."""
    by: Factor | None = None
    """What the ratio has to be larger than; without it 1x."""
    grows_with_batch_size: Boolean = False
    """Instead says: the lead of `faster` is larger at the largest batch size than at the smallest."""
    by_more_than: Comparison | None = None
    """Instead says: the lead of `faster` is larger than this other lead."""
    equal: OperandText | None = None
    """What takes as long as `to`, to within `within`."""
    to: OperandText | None = None
    """The other one of the two."""
    within: Percent | None = None
    """How far apart the two may be."""
    batch_sizes: BatchSizes | None = None
    """The batch sizes that it speaks of; without them all. All must hold; any that fails decides."""

    @property
    def form(self) -> ExpectationForm:
        """Which statement it is."""
        if self.equal is not None:
            return ExpectationForm.EQUAL
        if self.grows_with_batch_size:
            return ExpectationForm.LEAD_GROWS
        return ExpectationForm.LEADS_MORE if self.by_more_than is not None else ExpectationForm.FASTER

    @property
    def operands(self) -> tuple[Operand, Operand]:
        """(faster, than), or (equal, to)."""
        return operand(self.faster or self.equal or ""), operand(self.than or self.to or "")

    @property
    def factor(self) -> Fraction:
        """`by` as a number: what the ratio (or the ratio of ratios) has to exceed."""
        return fraction(self.by) if self.by is not None else Fraction(1)

    @property
    def tolerance(self) -> Fraction:
        """`within` as a number."""
        return fraction(self.within or "0%")

    def sizes(self, planned: Sequence[int]) -> tuple[int, ...]:
        """Return the batch sizes that it speaks of, ascending; `planned` are all of the benchmark."""
        return tuple(sorted(self.batch_sizes or planned))

    def pairs(self, planned: Sequence[int]) -> tuple[tuple[Cell, Cell], ...]:
        """Return the cells that it compares: one pair for each batch size, or the two cells that it names."""
        return _pairs(*self.operands, self.sizes(planned))

    @model_validator(mode="wrap")
    @classmethod
    def _makes_one_statement(cls, given: Any, read: ModelWrapValidatorHandler[Self]) -> Self:
        """Look at the whole also where a field is wrong by itself, so that neither mistake hides the other."""
        try:
            expectation = read(given)
        except ValidationError as error:
            refuse(dict(_contradictions(_said(given))), error)
            raise
        refuse(dict(_contradictions(_said(expectation))))
        return expectation


OPERAND: TypeAdapter[str] = TypeAdapter(OperandText)

SIDES = (("faster", "than"), ("equal", "to"))

FORMS = (
    (frozenset({"faster", "than"}), frozenset({"by", "growsWithBatchSize", "byMoreThan"})),
    (frozenset({"equal", "to", "within"}), frozenset[str]()),
)
"""What each kind of statement needs, and what it may have."""


def _said(given: object) -> Mapping[str, Any]:
    """Return the fields of an expectation as the file has them: of one that was read, or of one that could not be."""
    if isinstance(given, Expectation):
        return given.model_dump(by_alias=True)
    return given if isinstance(given, Mapping) else {}


def _side(text: object) -> Operand | None:
    """Read one side; None where there is none, or where it is wrong by itself."""
    try:
        return operand(OPERAND.validate_python(text))
    except ValueError:
        return None


def _contradictions(said: Mapping[str, Any]) -> Iterator[tuple[Place, str]]:
    """Find what the fields of an expectation, each right by itself, do not say together."""
    yield from _without_form(said)
    for left_name, right_name in SIDES:
        left, right = _side(said.get(left_name)), _side(said.get(right_name))
        if left is not None and right is not None and isinstance(left, Cell) is not isinstance(right, Cell):
            yield (right_name,), f"found {left} and {right}, expected two strategies or two cells."
        if left is not None and left == right:
            yield (right_name,), f"found {left} on both sides, expected two different ones."
        if isinstance(left, Cell):
            yield from _beside_cells(said)
    if said.get("growsWithBatchSize") is True and said.get("byMoreThan") is not None:
        yield ("byMoreThan",), "found growsWithBatchSize and byMoreThan, expected one of them: write two expectations."
    if isinstance(within := said.get("within"), str) and set(within) <= set("0.%"):
        yield ("within",), f"found {within}, expected more: no two measurements are the same."


def _without_form(said: Mapping[str, Any]) -> Iterator[tuple[Place, str]]:
    """Find a field too many, or one too few: unless an unknown one may be meant for it, which is told anyway."""
    known = {to_camel(name) for name in Expectation.model_fields}
    given = {name for name in known - {"name", "batchSizes"} if said.get(name) not in (None, False)}
    needed, allowed = FORMS["equal" in given]
    strange, missing = sorted(given - needed - allowed), sorted(needed - given)
    if strange or (missing and said.keys() <= known):
        found = ", ".join(sorted(given)) or "none of them"
        yield (next(iter([*strange, *missing])),), f"found {found}, expected faster and than, or equal, to and within."


def _beside_cells(said: Mapping[str, Any]) -> Iterator[tuple[Place, str]]:
    for name in ("batchSizes", "growsWithBatchSize", "byMoreThan"):
        if said.get(name):
            yield (name,), "found it beside two cells, expected it beside two strategies."


# ---- in a cluster --------------------------------------------------------------------------------


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
    pod_template: PodTemplate = {}
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
                {("batchSize",): f"found {objective.batch_size}, expected one of batchSizes: {_list(sizes)}."}
            )
        return objective

    @field_validator("baseline")
    @classmethod
    def _compares_with_a_planned_one(cls, baseline: StrategyRef | None, info: ValidationInfo) -> StrategyRef | None:
        planned = _planned(info.data)
        if baseline is not None and planned and baseline.strategy not in planned:
            raise Mistakes({(): f"found {baseline.strategy}, expected one of this benchmark: {_list(planned)}."})
        return baseline

    @field_validator("expectations", mode="wrap")
    @classmethod
    def _expects_what_is_planned(cls, given: Any, read: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
        """Look at all of them also where one is wrong by itself, so that it does not hide what is wrong with others."""
        planned, sizes = _planned(info.data), info.data.get("batch_sizes", ())
        try:
            expectations = read(given)
        except ValidationError as error:
            refuse(dict(_unmet(given, planned, sizes)), error)
            raise
        refuse(dict(_unmet(expectations, planned, sizes)))
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


def _unmet(given: object, planned: Sequence[Strategy], sizes: Sequence[int]) -> Iterator[tuple[Place, str]]:
    """Find what a list of expectations says twice, or says of what the benchmark does not measure."""
    said = [_said(item) for item in _items(given)]
    names = [each.get("name") for each in said]
    for i, name in enumerate(names):
        if isinstance(name, str) and name in names[:i]:
            yield (i, "name"), f'found "{name}" a second time, expected each once.'
        yield from (((i, *place), sentence) for place, sentence in _unplanned(said[i], planned, sizes))


def _items(given: object) -> Sequence[Any]:
    """Return the items of what should be a list; a list that is too long is a mistake as a whole."""
    return given if isinstance(given, list | tuple) and len(given) <= MAX_ITEMS else ()


def _unplanned(
    said: Mapping[str, Any], planned: Sequence[Strategy], sizes: Sequence[int]
) -> Iterator[tuple[Place, str]]:
    """Find what an expectation names and the benchmark does not measure, as far as what that measures is known."""
    lead = said.get("byMoreThan")
    sides: dict[Place, object] = {(name,): said.get(name) for pair in SIDES for name in pair}
    sides |= {("byMoreThan", name): lead.get(name) for name in SIDES[0]} if isinstance(lead, Mapping) else {}
    for place, text in sides.items():
        yield from ((place, sentence) for sentence in _unmeasured(_side(text), planned, sizes))
    asked = _items(said.get("batchSizes"))
    for i, batch_size in enumerate(asked):
        if sizes and batch_size not in sizes:
            yield ("batchSizes", i), f"found {batch_size}, expected one of the benchmark's: {_list(sizes)}."
    if said.get("growsWithBatchSize") is True and len({*map(str, asked or sizes)}) == 1:
        yield ("growsWithBatchSize",), "found one batch size, expected at least two to grow with."


def _unmeasured(side: Operand | None, planned: Sequence[Strategy], sizes: Sequence[int]) -> Iterator[str]:
    if side is None:
        return
    strategy = side.strategy if isinstance(side, Cell) else side
    wrong = []
    if planned and strategy not in planned:
        wrong.append(f"found {strategy}, expected one of this benchmark: {_list(planned)}.")
    if sizes and isinstance(side, Cell) and side.batch_size not in sizes:
        wrong.append(f"found batch size {side.batch_size}, expected one of the benchmark's: {_list(sizes)}.")
    if wrong:
        yield " ".join(wrong)


def _list(items: Sequence[object]) -> str:
    shown = ", ".join(str(item) for item in items[:MAX_SHOWN])
    return shown if len(items) <= MAX_SHOWN else f"{shown} and {len(items) - MAX_SHOWN} more"
