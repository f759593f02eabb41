"""The status of an InferenceBenchmark in types: what its schema is made of, and what programs read it with.

The operator is the only one to write it. A field that is missing says that nothing is known yet; null is never written.
Words are text here, not enumerations, and bounds are wide: a status that the API server refuses would tell nothing.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, JsonValue
from pydantic.alias_generators import to_camel

from inferbench_contract.fields import MAX_ITEMS

MAX_CONDITIONS = 16
"""There are nine; a newer operator may know more."""

MAX_STAGES = 3
"""The planned rounds and what was lost in them; and one more, should an operator ever try what was lost again."""

MAX_DOUBTS = 16
"""Of one cell; there are eight, and a newer runner may know more."""

SHORT, LINE, MESSAGE = 64, 1_024, 32_768
"""Characters of a word, of a line, and of a condition's message (as Kubernetes has it)."""

Word = Annotated[str, Field(max_length=SHORT)]
Name = Annotated[str, Field(max_length=253)]
Line = Annotated[str, Field(max_length=LINE)]


BY_TYPE: dict[str, JsonValue] = {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]}
"""A list that holds one object of each type."""


class StatusModel(BaseModel):
    """What all parts of the status share: camelCase in JSON, no change after reading, unknown fields passed over."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        extra="ignore",
        frozen=True,
        use_attribute_docstrings=True,
    )


class Condition(StatusModel):
    """One thing that is true, false or not known yet, since when, and why."""

    type: Annotated[str, Field(min_length=1, max_length=SHORT)]
    """What it is about: Accepted, Running, Suspended, QuotaReserved, HardwareUniform, ResultsComplete,
    ExpectationsMet, Succeeded or Finished."""
    status: Literal["True", "False", "Unknown"]
    """True, False or Unknown."""
    reason: Line
    """Why, in one CamelCase word."""
    message: Annotated[str, Field(max_length=MESSAGE)] = ""
    """Why, in a sentence, and what to do about it."""
    last_transition_time: AwareDatetime
    """Since when the status is what it is."""
    observed_generation: int | None = None
    """The generation of the spec that it speaks of."""


class PlanRef(StatusModel):
    """Which plan is carried out. It stands in the first Job, and with the results."""

    hash: Word
    """The short hash, as in the names of Jobs and results."""
    rounds: int
    """How many rounds every strategy gets."""


class CellCounts(StatusModel):
    """Cells by what became of them."""

    planned: int
    """All of them: strategies times batch sizes, less what is excluded."""
    measured: int
    """Those with numbers that count."""
    unsupported: int
    """Those that a backend cannot do. They are no failures."""
    inaccurate: int
    """Those that were measured, and whose answers are too far from the fp32 reference's."""
    failed: int
    """Those that ended as Failed, Crashed, TimedOut, OutOfMemory or FellBack."""
    missing: int
    """Those without an outcome yet."""


class SweepCounts(StatusModel):
    """Sweeps: what one pod does, one strategy over its batch sizes, once."""

    planned: int
    """All of them, over all rounds."""
    finished: int
    """Those whose every cell has an outcome."""


class Stage(StatusModel):
    """One Job: the first holds all planned sweeps, a later one those that were lost."""

    job: Name
    """The Job's name."""
    sweeps: int
    """How many sweeps it has."""
    reason: Line
    """Running, or how it ended."""


class ShardRef(StatusModel):
    """One ConfigMap of results, each as its pod handed it over."""

    config_map: Name
    """The ConfigMap's name."""
    sweeps: int
    """How many results it holds."""
    sha256: Word
    """SHA-256 of its data, in hexadecimal digits: shards.checksum."""


# ---- the summary: what `summary.Summary.document` makes --------------------------------------------


class BestEntry(StatusModel):
    """The best strategy at one batch size. Where room was short it is brief: batch size, strategy, speedup."""

    batch_size: int
    """The batch size."""
    strategy: Word
    """The strategy with the lowest latency."""
    speedup_milli: int | None = None
    """The baseline's latency over its own, in thousandths; missing for the baseline itself."""
    speedup_low_milli: int | None = None
    """The lower end of the speedup's 95 % interval."""
    speedup_high_milli: int | None = None
    """The upper end of it."""
    speedup_verdict: Word | None = None
    """What that interval says of it and the baseline: Faster, Slower, Tie or Inconclusive."""
    latency_nanoseconds: int | None = None
    """Latency of one batch: the geometric mean of the rounds' medians."""
    latency_low_nanoseconds: int | None = None
    """The lower end of its 95 % interval; missing after a single round."""
    latency_high_nanoseconds: int | None = None
    """The upper end of it."""
    throughput_milli_per_second: int | None = None
    """Inputs per second back to back, in thousandths."""
    runner_up: Word | None = None
    """The next best strategy."""
    margin_milli: int | None = None
    """The runner-up's latency over its own, in thousandths."""
    margin_low_milli: int | None = None
    """The lower end of the margin's 95 % interval."""
    margin_high_milli: int | None = None
    """The upper end of it."""
    margin_verdict: Word | None = None
    """What that interval says of it and the runner-up: Faster, Tie or Inconclusive."""
    simplest: Word | None = None
    """The simplest of those that cannot be told from the best, where there are such."""
    simplest_high_milli: int | None = None
    """How many times as long that one may take, in thousandths; missing when it is the best itself."""
    rounds: int | None = None
    """Rounds that it was measured in."""
    doubts: Annotated[tuple[Word, ...], Field(max_length=MAX_DOUBTS)] | None = None
    """Reasons to trust the numbers less, if at least half of the rounds had them."""


class ExpectationEntry(StatusModel):
    """What became of an expectation."""

    name: Word
    """Its name in the spec."""
    judgement: Word
    """Holds, DoesNotHold or Undecided."""
    at: Line
    """Where the ratio was taken that decided."""
    ratio_milli: int | None = None
    """That ratio, in thousandths."""
    low_milli: int | None = None
    """The lower end of its 95 % interval."""
    high_milli: int | None = None
    """The upper end of it."""


class FailureEntry(StatusModel):
    """A cell that failed or is inaccurate."""

    cell: Word
    """The cell: backend/precision@batchSize."""
    outcome: Word
    """What became of it."""
    reason: Line
    """Why, cut to what there is room for; all of it stands in the shards."""


class Seconds(StatusModel):
    """Where the time went, in seconds."""

    preparing: int
    """Loading, converting, compiling."""
    warming_up: int
    """Calls before the timed ones."""
    measuring: int
    """Timed calls."""
    other: int
    """Starting, checking and ending processes."""
    idle: int
    """Between sweeps."""


class SummaryDocument(StatusModel):
    """The answer: the very document that local mode writes as summary.json."""

    schema_version: int
    """The version of this document."""
    plan: Word
    """The short hash of the plan."""
    rounds: int
    """Planned rounds."""
    sweeps: SweepCounts
    """Sweeps, as far as they are in this summary."""
    cells: CellCounts
    """Cells, as far as they are in this summary."""
    baseline: Word
    """The strategy that speedups are against."""
    answer: Word | None = None
    """The cell that the objective chooses; missing when nothing qualifies."""
    best: Annotated[tuple[BestEntry, ...], Field(max_length=MAX_ITEMS)]
    """The best strategy at each batch size, ascending."""
    best_omitted: int
    """How many batch sizes there was no room for."""
    expectations: Annotated[tuple[ExpectationEntry, ...], Field(max_length=MAX_ITEMS)]
    """What became of the expectations, in their order."""
    expectations_omitted: int
    """How many there was no room for."""
    expectations_undecided: int
    """How many of all are undecided."""
    expectations_not_holding: int
    """How many of all do not hold."""
    first_failures: Annotated[tuple[FailureEntry, ...], Field(max_length=MAX_ITEMS)]
    """The first cells that failed or are inaccurate."""
    hardware: Annotated[tuple[Line, ...], Field(max_length=MAX_ITEMS)]
    """What was measured on, each kind once."""
    environments: int
    """How many different environments results come from; with more than one, numbers are not comparable."""
    seconds: Seconds
    """Where the time went."""


class Status(StatusModel):
    """What the operator says about a benchmark: how far it is, and what came out."""

    observed_generation: int | None = None
    """The generation of the spec that the operator has seen."""
    conditions: Annotated[tuple[Condition, ...], Field(max_length=MAX_CONDITIONS, json_schema_extra=BY_TYPE)] = ()
    """Conditions, one of each type. Finished is True at every end, Succeeded at a good one."""
    start_time: AwareDatetime | None = None
    """When its first Job was made."""
    completion_time: AwareDatetime | None = None
    """When it finished."""
    plan: PlanRef | None = None
    """The plan that is carried out."""
    cells: CellCounts | None = None
    """Cells by what became of them."""
    sweeps: SweepCounts | None = None
    """Sweeps, planned and finished."""
    stages: Annotated[tuple[Stage, ...], Field(max_length=MAX_STAGES)] = ()
    """Its Jobs, in their order."""
    best: Line | None = None
    """The cell that the objective chooses, e.g. onnxruntime/fp32@1."""
    speedup: Word | None = None
    """How many times as fast as the baseline that cell is, e.g. 1.77x."""
    hardware: Line | None = None
    """What was measured on."""
    summary: SummaryDocument | None = None
    """The answer: the very document that local mode writes as summary.json."""
    shards: Annotated[tuple[ShardRef, ...], Field(max_length=MAX_ITEMS)] = ()
    """The ConfigMaps that hold every result."""
