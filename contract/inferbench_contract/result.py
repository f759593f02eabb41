"""What a sweep hands over: columnar JSON of at most 4,096 bytes, the size of a pod's termination message.

Numbers are rounded to a few significant digits, so that 32 cells of the worst kind fit; texts are cut in the middle
until the rest fits, so that both the head and the root cause of an error stay. Decoding trusts nothing: the bytes come
from a pod.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from inferbench_contract.errors import ResultError
from inferbench_contract.plan import HASH_DIGITS, Plan, Sweep
from inferbench_contract.words import Doubt, Outcome, ThrottleReason

SCHEMA_VERSION = 1

MAX_BYTES = 4096
"""Kubernetes keeps this much of a termination message (its documentation: "Determine the Reason for Pod Failure")."""

MAX_TEXT_CHARS = 1024
"""A reason longer than this is cut even where there is room."""

ENOUGH_CHARS = 300
"""Texts are not cut below this as long as there are numbers that can be spared."""

MAX_HARDWARE_CHARS = 128
MAX_FAULT_CHARS = 400
"""One sentence that names what is missing and what to do; it shares the room with the reasons of the cells."""

MAX_BATCH_SIZE = 2**31
LARGEST = 10**13
"""No honest time is larger: 10^13 ns are close to three hours for one call."""

PADDING = b" \t\r\n\0"
"""What may stand behind a result: a shorter one is padded to the length of the one before, a hole in a file is NULs."""

UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+")
"""Control characters (C0, DEL, C1: ECMA-48), what ends a line or a paragraph in Unicode, and halves of characters."""

OUTCOMES = tuple(Outcome)
DOUBTS = tuple(Doubt)
THROTTLE_REASONS = tuple(ThrottleReason)


@dataclass(frozen=True, slots=True)
class CellResult:
    """One cell of one round. Times in the unit of their name; None where it was not or could not be measured."""

    batch_size: int
    outcome: Outcome
    reason: str = ""
    doubts: tuple[Doubt, ...] = ()
    latency_median_ns: int | None = None
    """Synced host latency of one batch."""
    latency_p90_ns: int | None = None
    latency_p99_ns: int | None = None
    device_median_ns: int | None = None
    """GPU event time of the same calls."""
    enqueue_median_ns: int | None = None
    """Host time to start the same calls."""
    throughput_milli_per_second: int | None = None
    """Thousandths of an input per second, back to back."""
    power_milliwatts: int | None = None
    """Mean power of the whole GPU during the calls back to back, from its energy counter."""
    sm_clock_mhz: int | None = None
    """Median clock of the GPU's multiprocessors during the timed calls."""
    throttle_bits: int | None = None
    """Why the GPU lowered its clocks meanwhile: a bit for each `ThrottleReason`, in their order; None on a CPU."""
    gpu_temperature_max_celsius: int | None = None
    """The highest during the timed calls."""
    gpu_power_median_milliwatts: int | None = None
    """What the whole GPU drew during the timed calls, as it told now and then: also where no energy is counted."""
    gpu_memory_max_mib: int | None = None
    """The most that was taken of the GPU's memory while the cell's process ran, by anybody."""
    samples: int | None = None
    compared_examples: int | None = None
    """How many answers were compared with those of the fp32 reference: all in the first round, some in the others."""
    relative_l2_parts_per_billion: int | None = None
    worst_cosine_parts_per_million: int | None = None
    """Between answer and reference, of the example where it is lowest; 0 stands for all that point elsewhere."""
    worst_example: int | None = None
    """The number, from 0, of the example whose answer is farthest from the reference's (relative L2)."""
    top1_agreement_basis_points: int | None = None
    error_ratio_milli: int | None = None
    """Error against fp64 over that of fp32 eager, in thousandths; None where there is no fp64 answer."""
    prepare_ms: int | None = None
    """From the process's start to its first warm-up call: imports, loading, compiling."""
    compile_ms: int | None = None
    """Compiling and the call that brings it about; part of `prepare_ms`."""
    compile_was_cold: int | None = None
    """1: the compiler's cache folder was empty; 0: an earlier process had filled it."""
    warmup_ms: int | None = None
    measure_ms: int | None = None
    memory_mib: int | None = None
    others_percent: int | None = None
    """Share of the machine's CPU time that other processes and other virtual machines took meanwhile."""

    @property
    def throttle_reasons(self) -> tuple[ThrottleReason, ...]:
        """Why the GPU lowered its clocks."""
        bits = self.throttle_bits or 0
        return tuple(reason for place, reason in enumerate(THROTTLE_REASONS) if bits >> place & 1)


@dataclass(frozen=True, slots=True)
class SweepResult:
    """What one sweep has to say so far. `in_flight` is the batch size that was being measured when it was written."""

    plan: str
    sweep: int
    cells: tuple[CellResult, ...] = ()
    in_flight: int | None = None
    hardware: str = ""
    fingerprint: str = ""
    """Short hash of everything that must be equal for numbers to be compared: processor, GPU, driver, libraries."""
    started_ms: int | None = None
    """Wall clock, milliseconds since 1970."""
    finished_ms: int | None = None
    prepare_ms: int | None = None
    """Spent preparing artifacts for all cells of the sweep."""
    fault: str = ""
    """What the machine lacks: the sentence of the EnvironmentFault that ended the sweep. Empty: nothing."""

    def with_cell(self, cell: CellResult) -> SweepResult:
        """Add a cell's result; nothing is in flight any more."""
        return replace(self, cells=(*self.cells, cell), in_flight=None)

    def filled(self, sweep: Sweep, outcome: Outcome, reason: str) -> SweepResult:
        """Give every cell of the sweep that has no outcome the same one; nothing is in flight any more."""
        done = {cell.batch_size for cell in self.cells}
        rest = (CellResult(size, outcome, reason) for size in sweep.batch_sizes if size not in done)
        cells = sorted((*self.cells, *rest), key=lambda cell: cell.batch_size)
        return replace(self, cells=tuple(cells), in_flight=None)

    def is_complete(self, sweep: Sweep) -> bool:
        """Tell whether every cell of the sweep has an outcome."""
        return {cell.batch_size for cell in self.cells} == set(sweep.batch_sizes)


@dataclass(frozen=True, slots=True)
class Decoded:
    """A result that was readable, and what in it was not: a sentence for each cell or field that was left out."""

    result: SweepResult
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Column:
    """How one field of a cell travels: a short key, how many significant digits, the largest value."""

    key: str
    field: str
    digits: int
    largest: int = LARGEST
    is_spared: bool = False
    """Left out where not everything fits; 32 cells of the worst kind do not."""


COLUMNS = (
    _Column("m", "latency_median_ns", 7),
    _Column("p90", "latency_p90_ns", 4),
    _Column("p99", "latency_p99_ns", 4),
    _Column("gpu", "device_median_ns", 5),
    _Column("enq", "enqueue_median_ns", 4),
    _Column("thr", "throughput_milli_per_second", 5, 10**15),
    _Column("ex", "compared_examples", 5, 10**5, is_spared=True),
    _Column("pow", "power_milliwatts", 4, 10**9, is_spared=True),
    _Column("n", "samples", 5, 10**9),
    _Column("l2", "relative_l2_parts_per_billion", 3, 10**11),
    _Column("top1", "top1_agreement_basis_points", 5, 10**4),
    _Column("cos", "worst_cosine_parts_per_million", 6, 10**6, is_spared=True),
    _Column("bad", "worst_example", 5, 10**5, is_spared=True),
    _Column("rat", "error_ratio_milli", 3, 10**12, is_spared=True),
    _Column("prep", "prepare_ms", 3, 10**9),
    _Column("comp", "compile_ms", 3, 10**9),
    _Column("cold", "compile_was_cold", 1, 1),
    _Column("warm", "warmup_ms", 3, 10**9),
    _Column("meas", "measure_ms", 3, 10**9),
    _Column("mib", "memory_mib", 3, 10**9),
    _Column("clk", "sm_clock_mhz", 4, 10**5, is_spared=True),
    _Column("slow", "throttle_bits", 2, (1 << len(THROTTLE_REASONS)) - 1, is_spared=True),
    _Column("oth", "others_percent", 3, 100, is_spared=True),
    _Column("hot", "gpu_temperature_max_celsius", 3, 10**3, is_spared=True),
    _Column("drew", "gpu_power_median_milliwatts", 4, 10**9, is_spared=True),
    _Column("vram", "gpu_memory_max_mib", 4, 10**9, is_spared=True),
)
"""Seven digits of a latency are 0.1 parts per million; the others are for reading, not for ratios."""


def encode(result: SweepResult) -> bytes:
    """Write a result as at most 4,096 bytes of UTF-8. Raises ValueError with more than 32 cells: no plan has that."""
    limit = MAX_TEXT_CHARS
    columns: tuple[_Column, ...] = COLUMNS
    while len(payload := _json(result, limit, columns).encode()) > MAX_BYTES:
        spared = [column for column in columns if column.is_spared]
        if (shorter := limit * 3 // 4) >= ENOUGH_CHARS or (limit > 0 and not spared):
            limit = shorter
        elif spared:
            columns = tuple(column for column in columns if column is not spared[-1])
        else:
            msg = f"sweep {result.sweep} has {len(result.cells)} cells; a plan gives a sweep at most 32"
            raise ValueError(msg)
    return payload


def cut_in_the_middle(text: str, limit: int) -> str:
    """Shorten a text to `limit` characters and keep both ends: what was tried, and the root cause."""
    if len(text) <= limit:
        return text
    kept = max(0, limit - 1)
    tail = kept // 2
    return (text[: kept - tail] + "…" + (text[-tail:] if tail else ""))[:limit]


def printable(text: str) -> str:
    """Keep what prints: a terminal would obey control characters, and half characters cannot be written as UTF-8."""
    return UNPRINTABLE.sub(" ", text).strip()


def decode(payload: bytes, plan: Plan, sweep: Sweep) -> Decoded:
    """Read what a sweep handed over. Cells that cannot be trusted are left out and named in `problems`.

    Raises:
        ResultError: nothing in it can be trusted; its reason is one of Empty, TooLarge, NotText, NotJson, WrongType,
            WrongVersion, WrongPlan, WrongSweep.
    """
    content = _object(payload)
    _expect(content, "v", SCHEMA_VERSION, "WrongVersion")
    _expect(content, "plan", plan.short_hash, "WrongPlan")
    _expect(content, "sweep", sweep.index, "WrongSweep")
    columns = _columns(content)
    reasons = _reasons(content)
    cells, problems = _cells(columns, reasons, sweep)
    head = SweepResult(
        plan=plan.short_hash,
        sweep=sweep.index,
        cells=cells,
        in_flight=_one_of(content.get("inFlight"), sweep.batch_sizes),
        hardware=_short_text(content.get("hw"), MAX_HARDWARE_CHARS),
        fingerprint=_short_text(content.get("env"), HASH_DIGITS * 2),
        started_ms=_whole(content.get("start"), LARGEST),
        finished_ms=_whole(content.get("end"), LARGEST),
        prepare_ms=_whole(content.get("prep"), LARGEST),
        fault=_short_text(content.get("fault"), MAX_FAULT_CHARS),
    )
    return Decoded(head, problems)


def _json(result: SweepResult, limit: int, sent: Sequence[_Column]) -> str:
    reasons = tuple(dict.fromkeys(cell.reason for cell in result.cells if cell.reason))
    shown = [cut_in_the_middle(printable(reason), limit) for reason in reasons]
    place = {reason: index for index, reason in enumerate(reasons)}
    columns: dict[str, list[int | None]] = {
        "b": [cell.batch_size for cell in result.cells],
        "o": [OUTCOMES.index(cell.outcome) for cell in result.cells],
        "d": [sum(1 << DOUBTS.index(doubt) for doubt in cell.doubts) for cell in result.cells],
        "r": [place.get(cell.reason) for cell in result.cells],
    }
    parts = [f'"{key}":[{",".join(map(_token, values))}]' for key, values in columns.items()]
    for column in sent:
        values = [getattr(cell, column.field) for cell in result.cells]
        if any(value is not None for value in values):
            tokens = ",".join(_rounded(value, column) for value in values)
            parts.append(f'"{column.key}":[{tokens}]')
    return f'{{{_head(result, limit)},"cells":{{{",".join(parts)}}},"reasons":{_dumps(shown)}}}'


def _head(result: SweepResult, limit: int) -> str:
    head = {
        "v": SCHEMA_VERSION,
        "plan": result.plan,
        "sweep": result.sweep,
        "inFlight": result.in_flight,
        "hw": cut_in_the_middle(printable(result.hardware), min(limit, MAX_HARDWARE_CHARS)),
        "env": result.fingerprint,
        "start": result.started_ms,
        "end": result.finished_ms,
        "prep": result.prepare_ms,
        "fault": cut_in_the_middle(printable(result.fault), min(limit, MAX_FAULT_CHARS)),
    }
    return _dumps({key: value for key, value in head.items() if value not in (None, "")})[1:-1]


def _dumps(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def _token(value: int | None) -> str:
    return "null" if value is None else str(value)


def _rounded(value: int | None, column: _Column) -> str:
    """Write a number with few significant digits, large ones with an exponent: 123456789012 with 4 is 1235e8."""
    if value is None:
        return "null"
    value = min(max(value, 0), column.largest)
    excess = len(str(value)) - column.digits
    if excess <= 0:
        return str(value)
    head = (value + 5 * 10 ** (excess - 1)) // 10**excess
    while head % 10 == 0:
        head, excess = head // 10, excess + 1
    plain = str(head * 10**excess)
    short = f"{head}e{excess}"
    return short if len(short) < len(plain) else plain


def _object(payload: bytes) -> Mapping[str, Any]:
    if not payload.strip(PADDING):
        raise ResultError("Empty", "the sweep left no result")
    if len(payload) > MAX_BYTES:
        raise ResultError("TooLarge", f"{len(payload)} bytes, at most {MAX_BYTES} are expected")
    try:
        content = json.loads(payload.rstrip(PADDING).decode())
    except UnicodeDecodeError as error:
        raise ResultError("NotText", f"byte {error.start} is not UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise ResultError("NotJson", f"{error}; the result may have been cut off") from error
    if not isinstance(content, dict):
        raise ResultError("WrongType", f"found a JSON {type(content).__name__}, expected an object")
    return content


def _expect(content: Mapping[str, Any], key: str, expected: object, reason: str) -> None:
    found = content.get(key)
    if type(found) is not type(expected) or found != expected:
        raise ResultError(reason, f"{key} is {_shown(found)}, expected {expected!r}")


def _columns(content: Mapping[str, Any]) -> Mapping[str, Sequence[Any]]:
    columns = content.get("cells")
    if not isinstance(columns, dict) or not all(isinstance(column, list) for column in columns.values()):
        raise ResultError("WrongType", f"cells is {_shown(columns)}, expected columns")
    lengths = {key: len(column) for key, column in columns.items()}
    if len(set(lengths.values())) > 1 or not {"b", "o"} <= lengths.keys():
        raise ResultError(
            "WrongType", f"the columns have the lengths {_shown(lengths)}, expected b, o and others of one length"
        )
    return columns


def _reasons(content: Mapping[str, Any]) -> Sequence[str]:
    reasons = content.get("reasons", [])
    if not isinstance(reasons, list) or not all(isinstance(reason, str) for reason in reasons):
        raise ResultError("WrongType", f"reasons is {_shown(reasons)}, expected a list of texts")
    return [printable(reason) for reason in reasons]


def _cells(
    columns: Mapping[str, Sequence[Any]], reasons: Sequence[str], sweep: Sweep
) -> tuple[tuple[CellResult, ...], tuple[str, ...]]:
    seen = Counter(_whole(size, MAX_BATCH_SIZE) for size in columns["b"])
    cells, problems = [], []
    for place, size in enumerate(columns["b"]):
        try:
            cells.append(_cell({key: column[place] for key, column in columns.items()}, reasons, sweep, seen))
        except (ValueError, TypeError) as error:
            problems.append(f"the cell of batch size {_shown(size)} is left out: {error}")
    return tuple(sorted(cells, key=lambda cell: cell.batch_size)), tuple(problems)


def _cell(row: Mapping[str, Any], reasons: Sequence[str], sweep: Sweep, seen: Counter[int | None]) -> CellResult:
    size = _in_range("b", row["b"], MAX_BATCH_SIZE)
    if size not in sweep.batch_sizes:
        raise ValueError("NotInPlan: the sweep has no such cell")
    if seen[size] > 1:
        raise ValueError(f"Duplicated: it stands there {seen[size]} times")
    outcome = OUTCOMES[_in_range("o", row["o"], len(OUTCOMES) - 1)]
    bits = _in_range("d", row.get("d", 0), (1 << len(DOUBTS)) - 1)
    numbers = {column.field: _number(column, row[column.key]) for column in COLUMNS if column.key in row}
    if outcome is Outcome.MEASURED and not numbers.get("latency_median_ns"):
        raise ValueError("WrongType: it is Measured but has no latency")
    return CellResult(
        batch_size=size,
        outcome=outcome,
        reason=_reason(row.get("r"), reasons),
        doubts=tuple(doubt for place, doubt in enumerate(DOUBTS) if bits >> place & 1),
        **numbers,
    )


def _number(column: _Column, value: object) -> int | None:
    return None if value is None else _in_range(column.key, value, column.largest)


def _in_range(key: str, value: object, largest: int) -> int:
    whole = _whole(value, largest)
    if whole is None:
        raise ValueError(f"WrongType: {key} is {_shown(value)}, expected a whole number from 0 to {largest}")
    return whole


def _reason(index: object, reasons: Sequence[str]) -> str:
    place = _whole(index, len(reasons) - 1) if reasons else None
    return "" if place is None else reasons[place]


def _whole(value: object, largest: int) -> int | None:
    """Read a whole number; 12e3 arrives as a float, and NaN as one that is not whole. None where it is out of range."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if type(value) is int and 0 <= value <= largest else None


def _one_of(value: object, allowed: Iterable[int]) -> int | None:
    return value if type(value) is int and value in allowed else None


def _short_text(value: object, limit: int) -> str:
    return cut_in_the_middle(printable(value), limit) if isinstance(value, str) else ""


def _shown(value: object) -> str:
    try:
        return cut_in_the_middle(repr(value), 60)
    except RecursionError:
        return "deeply nested"
