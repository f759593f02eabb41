"""/results: what finished benchmarks came to, as gauges that stay for as long as their resource does.

A pod's own metrics go with it, mostly before anybody has read its result; so the operator tells results again, from
status and shards. The text of a benchmark is made once, when it changes, a fragment for each family; a scrape only puts
fragments in a row. (The stock client would make every line anew for every scrape: see benchmarks/operator/scrape.py.)
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache

from inferbench_contract import hardware
from inferbench_contract.cells import Row
from inferbench_contract.spec import BenchmarkSpec, ModelSpec
from inferbench_contract.summary import Best, Summary
from inferbench_contract.words import Cell, Outcome
from inferbench_operator.settings import ResultsDetail

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"

CHUNK_BYTES = 256 * 1024
"""Of a page, handed to the connection at once: a millisecond or two of compressing."""

GZIP_LEVEL = 1
"""The quickest: it makes a tenth of the page, higher ones little less in several times the time."""

GZIP_FORMAT = 16
"""Added to zlib's window size, it asks for gzip's header and checksum (zlib.h, deflateInit2)."""

MISSING = "Missing"
"""What stands for the outcome of a cell that has none yet, here as in cells.csv."""

DIGITS = ".7g"
"""Of a measured number: as many as a result carries."""

Key = tuple[str, str]
"""Namespace and name."""


@dataclass(frozen=True)
class Published:
    """What a benchmark has to tell. Without a summary (its shards are not read yet) it tells all but its cells."""

    spec: BenchmarkSpec
    summary: Summary | None = None
    image: str = ""
    conditions: Mapping[str, str] = field(default_factory=dict)
    """By type: True, False or Unknown."""
    started: datetime | None = None
    completed: datetime | None = None
    succeeded: datetime | None = None


@dataclass(frozen=True)
class _Subject:
    """A benchmark with the labels of its samples, as text without braces, made once for all families."""

    published: Published
    labels: str
    cells: Sequence[tuple[str, Row]]
    """Those whose numbers count, each with its labels."""

    @property
    def best(self) -> Best | None:
        """The objective's choice."""
        return self.published.summary.answer if self.published.summary else None


Sample = tuple[str, float]
"""Labels and value."""


@dataclass(frozen=True)
class _Family:
    """A metric: its name, what it means, how its samples are made, and whether its value says nothing (it is info)."""

    name: str
    documentation: str
    samples: Callable[[_Subject], Iterable[Sample]]
    is_info: bool = False

    def fragment(self, subject: _Subject) -> bytes:
        """Return the lines of one benchmark."""
        return "".join(
            f"{self.name}{{{labels}}} {_number(value)}\n" for labels, value in self.samples(subject)
        ).encode()

    def head(self, *, openmetrics: bool) -> bytes:
        """Return the lines before the samples. OpenMetrics names an info without its suffix."""
        name = self.name.removesuffix("_info") if openmetrics and self.is_info else self.name
        kind = "info" if openmetrics and self.is_info else "gauge"
        return f"# HELP {name} {self.documentation}\n# TYPE {name} {kind}\n".encode()


# ---- what a benchmark tells of itself ------------------------------------------------------------


def _info(subject: _Subject) -> Iterator[Sample]:
    published, found = subject.published, subject.published.summary
    measured_on = found.hardware[0] if found and found.hardware else ""
    product, driver = hardware.gpu_and_driver(measured_on)
    told = {
        "model": model_name(published.spec.model),
        "device": str(published.spec.device),
        "hardware": measured_on,
        "gpu_product": product,
        "driver_version": driver,
        "baseline": str(published.spec.baseline_strategy),
        "plan": found.plan.short_hash if found else "",
        "image": published.image,
    }
    yield _with(subject.labels, told), 1


def model_name(model: ModelSpec) -> str:
    """Name a model in one word: what torchvision calls it, the file, or the function."""
    if model.torchvision is not None:
        return model.torchvision.name
    if model.onnx is not None:
        return model.onnx.path
    return model.python.factory if model.python is not None else ""


def _conditions(subject: _Subject) -> Iterator[Sample]:
    values = {"True": 1, "False": 0}
    for kind, status in sorted(subject.published.conditions.items()):
        if status in values:
            yield _with(subject.labels, {"condition": kind}), values[status]


def _time(read: Callable[[Published], datetime | None]) -> Callable[[_Subject], Iterator[Sample]]:
    def samples(subject: _Subject) -> Iterator[Sample]:
        if (moment := read(subject.published)) is not None:
            yield subject.labels, round(moment.timestamp())

    return samples


def _duration(subject: _Subject) -> Iterator[Sample]:
    started, completed = subject.published.started, subject.published.completed
    if started is not None and completed is not None:
        yield subject.labels, round((completed - started).total_seconds())


def _outcomes(subject: _Subject) -> Iterator[Sample]:
    """Tell `Measured` always, so that 0 can be told from nothing known, and of the others those that occurred."""
    if subject.published.summary is None:
        return
    counts = Counter(row.outcome or MISSING for row in subject.published.summary.table.rows.values())
    for outcome in (*Outcome, MISSING):
        if counts[outcome] or outcome is Outcome.MEASURED:
            yield _with(subject.labels, {"outcome": str(outcome)}), counts[outcome]


def _sweeps(read: Callable[[Summary], int]) -> Callable[[_Subject], Iterator[Sample]]:
    def samples(subject: _Subject) -> Iterator[Sample]:
        if subject.published.summary is not None:
            yield subject.labels, read(subject.published.summary)

    return samples


def _expectations(subject: _Subject) -> Iterator[Sample]:
    found = subject.published.summary
    for judgement, count in sorted(Counter(judged.judgement for judged in found.judged).items()) if found else ():
        yield _with(subject.labels, {"judgement": str(judgement)}), count


def _best_info(subject: _Subject) -> Iterator[Sample]:
    if subject.best is not None:
        yield f"{subject.labels},{_cell_labels(subject.best.row.cell)}", 1


def _best(read: Callable[[Row], float | None]) -> Callable[[_Subject], Iterator[Sample]]:
    def samples(subject: _Subject) -> Iterator[Sample]:
        if subject.best is not None and (value := read(subject.best.row)) is not None:
            yield subject.labels, value

    return samples


# ---- what it tells of its cells ------------------------------------------------------------------


def _each(read: Callable[[Row], float | None]) -> Callable[[_Subject], Iterator[Sample]]:
    def samples(subject: _Subject) -> Iterator[Sample]:
        for labels, row in subject.cells:
            if (value := read(row)) is not None:
                yield labels, value

    return samples


def _latency(row: Row) -> float | None:
    return row.latency.value / 1e9 if row.latency else None


def _latency_low(row: Row) -> float | None:
    return row.latency.low / 1e9 if row.latency and row.latency.low is not None else None


def _latency_high(row: Row) -> float | None:
    return row.latency.high / 1e9 if row.latency and row.latency.high is not None else None


def _latency_p99(row: Row) -> float | None:
    return max(values) / 1e9 if (values := row.values("latency_p99_ns")) else None


def _throughput(row: Row) -> float | None:
    return row.throughput.value / 1e3 if row.throughput else None


def _speedup(row: Row) -> float | None:
    return row.speedup.value if row.speedup else None


def _memory(row: Row) -> float | None:
    return max(values) * 2**20 if (values := row.values("memory_mib")) else None


def _energy(row: Row) -> float | None:
    return row.energy_joules


def _top1(row: Row) -> float | None:
    return None if row.agreement_basis_points is None else row.agreement_basis_points / 10_000


def _relative_l2(row: Row) -> float | None:
    found = row.compared.relative_l2_parts_per_billion if row.compared is not None else None
    return None if found is None else found / 1e9


def _sm_clock(row: Row) -> float | None:
    return None if (megahertz := row.middle("sm_clock_mhz")) is None else megahertz * 1e6


FAMILIES: Mapping[ResultsDetail, tuple[_Family, ...]] = {
    ResultsDetail.BENCHMARK: (
        _Family(
            "inferbench_benchmark_info",
            "What the benchmark measures, on what hardware, against which baseline, by which plan and image.",
            _info,
            is_info=True,
        ),
        _Family(
            "inferbench_benchmark_condition",
            "A condition of the benchmark: 1 is True, 0 is False; Unknown is not told.",
            _conditions,
        ),
        _Family(
            "inferbench_benchmark_last_start_timestamp_seconds",
            "When the benchmark started.",
            _time(lambda published: published.started),
        ),
        _Family(
            "inferbench_benchmark_last_completion_timestamp_seconds",
            "When the benchmark finished, however it did.",
            _time(lambda published: published.completed),
        ),
        _Family(
            "inferbench_benchmark_last_success_timestamp_seconds",
            "When the benchmark finished, if it succeeded.",
            _time(lambda published: published.succeeded),
        ),
        _Family("inferbench_benchmark_last_duration_seconds", "Time from the benchmark's start to its end.", _duration),
        _Family("inferbench_benchmark_cells", "Cells of the benchmark by outcome; Missing have none yet.", _outcomes),
        _Family(
            "inferbench_benchmark_sweeps_planned",
            "Sweeps of the benchmark: one strategy over its batch sizes, once.",
            _sweeps(lambda found: len(found.plan.sweeps)),
        ),
        _Family(
            "inferbench_benchmark_sweeps_finished",
            "Sweeps of which every cell has an outcome.",
            _sweeps(lambda found: found.sweeps_finished),
        ),
        _Family("inferbench_benchmark_expectations", "Expectations of the benchmark by judgement.", _expectations),
        _Family(
            "inferbench_benchmark_best_info",
            "The cell that the benchmark's objective chooses.",
            _best_info,
            is_info=True,
        ),
        _Family(
            "inferbench_benchmark_best_latency_median_seconds",
            "Latency of one batch of the cell that the objective chooses.",
            _best(_latency),
        ),
        _Family(
            "inferbench_benchmark_best_throughput_inputs_per_second",
            "Throughput of the cell that the objective chooses.",
            _best(_throughput),
        ),
        _Family(
            "inferbench_benchmark_best_speedup_ratio",
            "The baseline's latency over that of the cell that the objective chooses; not told for the baseline.",
            _best(_speedup),
        ),
    ),
    ResultsDetail.CELLS: (
        _Family(
            "inferbench_cell_latency_median_seconds",
            "Latency of one batch: the geometric mean of the medians of the rounds.",
            _each(_latency),
        ),
        _Family(
            "inferbench_cell_throughput_inputs_per_second",
            "Inputs per second back to back: the geometric mean of the rounds.",
            _each(_throughput),
        ),
    ),
    ResultsDetail.ALL: (
        _Family(
            "inferbench_cell_latency_low_seconds",
            "Lower end of the 95 percent interval of the latency over rounds.",
            _each(_latency_low),
        ),
        _Family(
            "inferbench_cell_latency_high_seconds",
            "Upper end of the 95 percent interval of the latency over rounds.",
            _each(_latency_high),
        ),
        _Family(
            "inferbench_cell_latency_p99_seconds",
            "Latency that 99 percent of the calls stay below: the largest of the rounds.",
            _each(_latency_p99),
        ),
        _Family(
            "inferbench_cell_speedup_ratio",
            "The baseline's latency over the cell's, paired by round; not told for the baseline.",
            _each(_speedup),
        ),
        _Family(
            "inferbench_cell_memory_peak_bytes",
            "Peak memory of the cell's process on the host: the largest of the rounds.",
            _each(_memory),
        ),
        _Family(
            "inferbench_cell_energy_joules_per_input",
            "Energy of the whole GPU for one input, back to back, over all rounds; only where the GPU counts it.",
            _each(_energy),
        ),
        _Family(
            "inferbench_cell_relative_l2_ratio",
            "Norm of the difference to the fp32 reference over the norm of the reference.",
            _each(_relative_l2),
        ),
        _Family(
            "inferbench_cell_top1_agreement_ratio",
            "Share of images with the first choice of the fp32 reference; only where it is judged.",
            _each(_top1),
        ),
        _Family(
            "inferbench_cell_gpu_sm_clock_hertz",
            "Median clock of the GPU during the timed calls: the middle one of the rounds; only on a GPU.",
            _each(_sm_clock),
        ),
    ),
}
"""In the order of the page. A detail tells its own families and those above it."""


# ---- the page ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rendered:
    """The page as it was at one moment, in pieces that are not copied."""

    content_type: str
    parts: Sequence[bytes]

    @property
    def size(self) -> int:
        """Its bytes."""
        return sum(map(len, self.parts))

    def chunks(self) -> Iterator[bytes]:
        """Yield it in chunks of about `CHUNK_BYTES`."""
        gathered, size = list[bytes](), 0
        for part in self.parts:
            gathered.append(part)
            size += len(part)
            if size >= CHUNK_BYTES:
                yield b"".join(gathered)
                gathered, size = [], 0
        if gathered:
            yield b"".join(gathered)

    def compressed_chunks(self) -> Iterator[bytes]:
        """Yield it as gzip, chunk by chunk, so that nobody waits for more than one."""
        compressor = zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, zlib.MAX_WBITS | GZIP_FORMAT)
        for chunk in self.chunks():
            yield compressor.compress(chunk)
        yield compressor.flush()


class ResultsPage:
    """The page: fragments by family and benchmark."""

    def __init__(self, detail: ResultsDetail, max_series: int) -> None:
        """Take how much of a benchmark is told, and how many series the page may have before cells are left out."""
        told = tuple(ResultsDetail)[: tuple(ResultsDetail).index(detail) + 1]
        self._own = FAMILIES[ResultsDetail.BENCHMARK]
        self._of_cells = tuple(family for level in told[1:] for family in FAMILIES[level])
        self._max_series = max_series
        self._fragments: dict[str, dict[Key, bytes]] = {family.name: {} for family in (*self._own, *self._of_cells)}
        self._series: dict[Key, tuple[int, int]] = {}  # a benchmark's own, and its cells'
        self._total = 0
        self._truncated: dict[Key, int] = {}  # how many series its cells would be, the longest left out first

    @property
    def series(self) -> int:
        """How many series the page has."""
        return self._total

    @property
    def truncated(self) -> frozenset[Key]:
        """The benchmarks whose cells are left out; `drop` says which of them have room again."""
        return frozenset(self._truncated)

    def put(self, namespace: str, name: str, published: Published) -> None:
        """Tell of a benchmark from now on; of its cells only where they have room."""
        key, subject = (namespace, name), _subject(namespace, name, published)
        own = {family.name: family.fragment(subject) for family in self._own}
        cells = {family.name: family.fragment(subject) for family in self._of_cells}
        fits = self._has_room(key, _lines(own), _lines(cells))
        self._replace(key, own, cells if fits else {})
        if fits:
            self._truncated.pop(key, None)
        else:
            self._truncated[key] = _lines(cells)

    def drop(self, namespace: str, name: str) -> tuple[Key, ...]:
        """Tell nothing of a benchmark any more: its resource is gone. Return whose cells have room now; put those."""
        key = (namespace, name)
        for fragments in self._fragments.values():
            fragments.pop(key, None)
        self._total -= sum(self._series.pop(key, (0, 0)))
        self._truncated.pop(key, None)
        return tuple(self._fitting())

    def _fitting(self) -> Iterator[Key]:
        room = self._max_series - self._total
        for key, cells in self._truncated.items():
            if cells <= room:
                room -= cells
                yield key

    def snapshot(self, accept: str = "") -> Rendered:
        """Return the page as it is now: OpenMetrics for who accepts it, else Prometheus' text format."""
        openmetrics = "application/openmetrics-text" in accept
        parts: list[bytes] = []
        for family in (*self._own, *self._of_cells):
            if fragments := self._fragments[family.name]:
                parts.append(family.head(openmetrics=openmetrics))
                parts.extend(fragments.values())
        return Rendered(OPENMETRICS if openmetrics else TEXT, [*parts, b"# EOF\n"] if openmetrics else parts)

    def render(self, accept: str = "") -> bytes:
        """Return the page in one piece."""
        return b"".join(self.snapshot(accept).parts)

    def _has_room(self, key: Key, own: int, cells: int) -> bool:
        """Who has its cells on the page keeps them: it is the newest for whom there is no room."""
        before = self._series.get(key, (0, 0))
        return cells <= before[1] or self._total - sum(before) + own + cells <= self._max_series

    def _replace(self, key: Key, own: Mapping[str, bytes], cells: Mapping[str, bytes]) -> None:
        told = {**own, **cells}
        for name, fragments in self._fragments.items():
            if told.get(name):
                fragments[key] = told[name]
            else:
                fragments.pop(key, None)
        self._total -= sum(self._series.get(key, (0, 0)))
        self._series[key] = (_lines(own), _lines(cells))
        self._total += sum(self._series[key])


def _subject(namespace: str, name: str, published: Published) -> _Subject:
    labels = _labels({"namespace": namespace, "benchmark": name})
    rows = published.summary.table.rows.values() if published.summary else ()
    return _Subject(published, labels, [(f"{labels},{_cell_labels(row.cell)}", row) for row in rows if row.may_rank])


@lru_cache(maxsize=4_096)
def _cell_labels(cell: Cell) -> str:
    """Return a cell's labels: benchmarks have most of their cells in common."""
    strategy = cell.strategy
    told = {"backend": strategy.backend, "precision": strategy.precision, "batch_size": cell.batch_size}
    return _labels({name: str(value) for name, value in told.items()})


def _with(labels: str, more: Mapping[str, str]) -> str:
    return f"{labels},{_labels(more)}"


def _labels(labels: Mapping[str, str]) -> str:
    return ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items())


def _escaped(value: str) -> str:
    """Escape a label's value, the same way in both formats."""
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else format(value, DIGITS)


def _lines(fragments: Mapping[str, bytes]) -> int:
    return sum(fragment.count(b"\n") for fragment in fragments.values())
