"""How a run was measured, for its report: what was done with its numbers, where the time went, and the machine."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from inferbench_cli.markup import Html, join, table, tag
from inferbench_contract import capabilities, sentences
from inferbench_contract.result import cut_in_the_middle
from inferbench_contract.sentences import counted
from inferbench_contract.spec import BenchmarkSpec, Contract, Layout
from inferbench_contract.summary import Summary

CONTRACTS = {
    Contract.DEVICE_RESIDENT: "inputs and outputs stay on the device",
    Contract.END_TO_END: "copies from and to the host count",
}

LAYOUTS = {
    Layout.CONTIGUOUS: "PyTorch's strategies read images plane by plane (NCHW)",
    Layout.CHANNELS_LAST: "PyTorch's strategies read images pixel by pixel (NHWC)",
}

LABELS = {
    "cpuModel": "Processor",
    "cpuFlags": "Instructions",
    "logicalCpus": "Logical CPUs",
    "affinity": "CPUs allowed",
    "quotaMilliCpus": "CPU quota",
    "throttledPeriods": "Periods in which the CPU quota ran out",
    "threadsDefault": "Threads without cpu.threads",
    "loadAverageMilli": "Load average at the start",
    "gpus": "GPUs",
}
"""What the environment calls otherwise than people do."""

PARTS = {"smMaxMhz": "highest SM clock", "memoryMaxMhz": "highest memory clock", "ecc": "ECC", "mig": "MIG"}
"""The same within a GPU."""

TOLD_ELSEWHERE = frozenset({"schemaVersion", "unsupportedHere"})
"""What is unsupported stands in the answer, with its reasons."""

THOUSANDTHS = ("quotaMilliCpus", "loadAverageMilli")
MAX_LABEL = 60


def told(spec: BenchmarkSpec, summary: Summary) -> Sequence[Html]:
    """Say how it was measured, with the numbers of this run."""
    return [tag("ul", *(tag("li", sentence) for sentence in _sentences(spec, summary))), *_spent(summary)]


def environment(found: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    """Return what is known of the machine, in words."""
    said = ((_label(key), _value(key, value)) for key, value in found.items() if key not in TOLD_ELSEWHERE)
    return ((label, value) for label, value in said if value)


def _sentences(spec: BenchmarkSpec, summary: Summary) -> Iterable[str]:
    measurement, threads = summary.plan.work.measurement, summary.plan.work.threads
    calls = sum(row.samples for row in summary.table.rows.values())
    turns = " Every second round ran in reversed order, so that a steady drift touches all strategies alike."
    rounds = f"{counted(measurement.rounds, 'round')}: in each, every cell got a fresh process."
    yield rounds + (turns if measurement.rounds > 1 else "")
    yield (
        f"A process warmed up until its calls had settled, for at most {measurement.warmup_max_seconds} s, and then "
        f"timed calls for at most {measurement.max_seconds_per_cell} s: {calls:,} timed calls in all."
    )
    yield f"Contract {measurement.contract}: {CONTRACTS[measurement.contract]}."
    if capabilities.TORCH & {strategy.backend for strategy in spec.strategies}:
        yield f"Layout {measurement.layout}: {LAYOUTS[measurement.layout]}; other backends choose theirs."
    yield (
        f"Each backend had {counted(threads, 'thread')}."
        if threads
        else "Each backend had a thread for each CPU that it was allowed, or for each of its quota."
    )
    yield (
        "After it was timed, each process compared the answers of that very session with those of the fp32 reference; "
        f"cells that are not accurate enough are treated by onViolation: {spec.accuracy.on_violation}."
    )


def _spent(summary: Summary) -> Sequence[Html]:
    spent = summary.spent
    parts = {
        "Measuring": spent.measuring,
        "Warming up": spent.warming_up,
        "Preparing: loading, converting, compiling": spent.preparing,
        "Starting, checking and ending processes": spent.other,
    }
    if (whole := sum(parts.values())) == 0:
        return []
    rows = [(name, sentences.minutes(seconds), _bar(seconds / whole)) for name, seconds in parts.items()]
    pause = f" Between sweeps {sentences.minutes(spent.idle)} more passed." if spent.idle else ""
    return [table("spent", f"Where {sentences.minutes(whole)} went.{pause}", ("What", "Time", "Share"), rows)]


def _bar(share: float) -> Html:
    return join([tag("span", class_="share", style=f"width:{100 * share:.1f}%"), sentences.percent(share)])


def _label(key: str) -> str:
    words = _words(key)
    return cut_in_the_middle(LABELS.get(key, words[:1].upper() + words[1:]), MAX_LABEL)


def _words(key: str) -> str:
    """Write `powerLimitMilliwatts` as `power limit`: the value has the unit."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", re.sub("(Bytes|Milliwatts)$", "", key)).lower()


def _value(key: str, value: object) -> str:
    """Write a value for people; empty when it says nothing."""
    match value:
        case None:
            return ""
        case int():
            return _quantity(key, value)
        case dict():
            parts = ((PARTS.get(name) or _words(name), _value(name, inner)) for name, inner in value.items())
            return ", ".join(f"{name} {inner}" for name, inner in parts if inner)
        case list():
            return ", ".join(_value("", inner) for inner in value)
        case _:
            return str(value)


def _quantity(key: str, value: int) -> str:
    """Write a whole number in the unit that people have for it."""
    if key.endswith("Bytes"):
        return f"{value / 2**30:.1f} GiB"
    if key.endswith("Milliwatts"):
        return f"{value / 1000:g} W"
    if key.endswith("Mhz"):
        return f"{value} MHz"
    return f"{value / 1000:g}" if key in THOUSANDTHS else str(value)
