"""spec -> plan: all sweeps of a benchmark in their order, frozen and hashed.

The plan holds what is measured. What only judges the measurements (objective, baseline, expectations) or only says
where and how they are started (parallelism, image, queue) stays in the spec, so changing it measures nothing again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from inferbench_contract import capabilities
from inferbench_contract.errors import PlanError
from inferbench_contract.spec import (
    AccuracySpec,
    BenchmarkSpec,
    InferenceBenchmark,
    MeasurementSpec,
    ModelSpec,
    QuantizationSpec,
)
from inferbench_contract.words import Cell, Device, Strategy

MAX_CELLS_PER_SWEEP = 32
"""What fits into a result of 4,096 bytes; more batch sizes are split over several sweeps."""

HASH_DIGITS = 10
"""40 bits: two plans of one name meet by chance once in a million million; Job names have room for it."""

START_OVER = "Start over with `inferbench run --fresh`."
"""What helps where a folder's plan cannot be trusted; of the commands that read one only that one has the option."""


@dataclass(frozen=True, slots=True)
class Sweep:
    """What one pod does: one strategy over its batch sizes, once. `index` is its place in the plan."""

    index: int
    round: int
    strategy: Strategy
    batch_sizes: tuple[int, ...]

    @property
    def cells(self) -> tuple[Cell, ...]:
        """Its cells, batch sizes ascending: when one is out of memory the larger ones need not be tried."""
        return tuple(Cell(self.strategy, batch_size) for batch_size in self.batch_sizes)


class Work(BaseModel):
    """What every sweep needs to know of the spec: all that changes the numbers, and nothing else.

    Of the accuracy only what the runner asks for; what happens to an inaccurate cell (`onViolation`) only judges.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    model: ModelSpec
    device: Device
    threads: int | None
    measurement: MeasurementSpec
    quantization: QuantizationSpec
    accuracy: AccuracySpec
    backend_options: Mapping[str, Mapping[str, Any]]
    timeout_seconds_per_sweep: int


StrategyText = Annotated[str, Field(max_length=64)]
SweepRow = tuple[int, int, int, int]
"""Strategy's index, round, and the half-open range of batch sizes: four numbers, so that many sweeps fit into a Job."""


class Plan(BaseModel):
    """All sweeps of a benchmark. Read it back with `load`, which checks its hash."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = Field(default=1, alias="schemaVersion")
    hash: str = Field(max_length=64)
    work: Work
    strategies: tuple[StrategyText, ...]
    batch_sizes: tuple[int, ...] = Field(alias="batchSizes")
    rows: tuple[SweepRow, ...] = Field(alias="sweeps")
    unsupported: Mapping[StrategyText, str]
    """Strategies that are not tried, each with the reason: their cells are `Unsupported` without any process."""

    @model_validator(mode="after")
    def _refer_to_itself(self) -> Self:
        strategies, sizes = len(self.strategies), len(self.batch_sizes)
        for strategy, _, start, stop in self.rows:
            if not (0 <= strategy < strategies and 0 <= start < stop <= sizes):
                msg = f"a sweep names strategy {strategy} and sizes {start} to {stop} of {strategies} and {sizes}"
                raise ValueError(msg)
        for strategy_text in (*self.strategies, *self.unsupported):
            Strategy.parse(strategy_text)
        return self

    @property
    def short_hash(self) -> str:
        """The part of the hash that stands in names of folders and Jobs."""
        return self.hash[:HASH_DIGITS]

    @property
    def rounds(self) -> int:
        """How many rounds every strategy gets."""
        return self.work.measurement.rounds

    @cached_property
    def sweeps(self) -> tuple[Sweep, ...]:
        """All sweeps, in the order in which they are run."""
        return tuple(
            Sweep(index, round_, Strategy.parse(self.strategies[strategy]), self.batch_sizes[start:stop])
            for index, (strategy, round_, start, stop) in enumerate(self.rows)
        )

    @cached_property
    def measurable_cells(self) -> tuple[Cell, ...]:
        """The cells that some sweep measures."""
        return tuple(dict.fromkeys(cell for sweep in self.sweeps for cell in sweep.cells))

    @cached_property
    def unsupported_cells(self) -> Mapping[Cell, str]:
        """The cells that nothing measures, with the reason, by the names of their strategies: a plan keeps no order."""
        return {
            Cell(Strategy.parse(strategy), batch_size): reason
            for strategy, reason in sorted(self.unsupported.items())
            for batch_size in self.batch_sizes
        }

    def dump(self) -> str:
        """Write it as JSON, one line; equal plans are equal bytes."""
        return _canonical(self.model_dump(mode="json", by_alias=True))


def expand(benchmark: InferenceBenchmark) -> Plan:
    """Plan a benchmark: the same spec gives the same plan and hash on every machine.

    Rounds repeat every sweep. Every second round runs in reversed order, so that over an even number of rounds a steady
    drift of the machine touches all strategies alike.
    """
    spec = benchmark.spec
    reasons = {strategy: _unsupported_reason(strategy, spec) for strategy in spec.strategies}
    measured = tuple(strategy for strategy, reason in reasons.items() if reason is None)
    content = {
        "schemaVersion": 1,
        "work": _work(spec).model_dump(mode="json", by_alias=True),
        "strategies": [str(strategy) for strategy in measured],
        "batchSizes": sorted(spec.batch_sizes),
        "sweeps": list(_rows(len(measured), len(spec.batch_sizes), spec.measurement.rounds)),
    }
    unsupported = {str(strategy): reason for strategy, reason in reasons.items() if reason is not None}
    return Plan.model_validate({**content, "hash": _hash(content), "unsupported": unsupported})


def load(text: str, source: str, remedy: str = START_OVER) -> Plan:
    """Read a plan that `dump` wrote; `source` names it in errors, `remedy` says what helps.

    Raises:
        PlanError: it is no plan, or was changed since it was written.
    """
    try:
        plan = Plan.model_validate_json(text)
    except ValidationError as error:
        msg = f"{source} is no plan of this version of inferbench: {error.errors()[0]['msg']}. {remedy}"
        raise PlanError(msg) from error
    content = plan.model_dump(mode="json", by_alias=True, exclude={"hash", "unsupported"})
    if _hash(content) != plan.hash:
        msg = f"{source} was changed after it was written: its hash says {plan.short_hash}. {remedy}"
        raise PlanError(msg)
    return plan


def _unsupported_reason(strategy: Strategy, spec: BenchmarkSpec) -> str | None:
    return capabilities.support(strategy, spec.device, spec.model.source)


def _work(spec: BenchmarkSpec) -> Work:
    return Work(
        model=spec.model,
        device=spec.device,
        threads=spec.cpu.threads,
        measurement=spec.measurement,
        quantization=spec.quantization,
        accuracy=AccuracySpec(min_top1_agreement=spec.accuracy.min_top1_agreement),
        backend_options={str(backend): dict(options) for backend, options in spec.backend_options.items()},
        timeout_seconds_per_sweep=spec.timeout_seconds_per_sweep,
    )


def _rows(strategies: int, batch_sizes: int, rounds: int) -> Iterator[SweepRow]:
    bounds = [*range(0, batch_sizes, MAX_CELLS_PER_SWEEP), batch_sizes]
    one_round = [(strategy, start, stop) for strategy in range(strategies) for start, stop in pairwise(bounds)]
    for round_ in range(rounds):
        for strategy, start, stop in reversed(one_round) if round_ % 2 else one_round:
            yield strategy, round_, start, stop


def _canonical(content: object) -> str:
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def _hash(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(_canonical(content).encode()).hexdigest()
