"""Runs of inferbench for `all.py`: the YAML of a step, the run within the minutes that are left, what came of it."""

from __future__ import annotations

import csv
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from inferbench_contract import document, result
from inferbench_contract import plan as plans
from inferbench_contract.words import Backend, Outcome, Precision, Strategy

PROGRAM = (sys.executable, "-P", "-m", "inferbench_cli")
"""As a module: where it came in a kit there is no script of that name."""

GRACE_SECONDS = 90
"""A run that is interrupted ends its processes and writes its files."""

PLAYED = {
    "torch-eager/fp32": "fp32",
    "torch-compile/fp32": "tf32",
    "torch-compile/fp16": "fp16",
    "onnxruntime/fp32": "bf16",
    "onnxruntime/fp16": "int8-dynamic",
    "tensorrt/fp16": "int8-static",
    "tensorrt/fp32": "fp8",
}
"""Who plays whom where the fake backend stands in: it has one strategy for each precision. The others are left out."""

SCRIPT = {
    "callMicroseconds": 2_000,
    "itemMicroseconds": 20,
    "speedups": {"tf32": "1.2x", "fp16": "1.9x", "bf16": "1.5x", "int8-dynamic": "2.1x", "int8-static": "3x"},
}

SIDES = ("faster", "than", "equal", "to")
"""What in an expectation names a strategy."""

CELL_SECONDS = {"torch-compile": 7.0, "torch": 4.7, "onnxruntime": 2.7, "tensorrt": 2.1, "fake": 0.6}
"""What a cell takes beside warm-up and measuring, by the first name that fits. Seen with ResNet-50 on an H100 with 16
CPUs that did nothing else (docs/results/2026-11-26-article-h100.md)."""
COLD_SECONDS = {"torch-compile": 8.0, "torch-compile-max-autotune": 280.0, "torch-aot-inductor": 60.0, "tensorrt": 44.0}
"""What the first cell takes more that finds nothing in the cache, to compile or build. Seen there, max-autotune beside
other work; AOTInductor's is assumed."""
MODEL_SECONDS = {"resnet50": 60.0, "vit_b_16": 120.0}
"""Preparing a model, and converting its graph to every precision: assumed, from half of that on two CPUs."""


class OutOfTime(Exception):
    """The minutes are over; what was measured stays."""


@dataclass(frozen=True)
class Asked:
    """What was asked for on the command line, as far as runs need it."""

    out: Path
    measurement: Mapping[str, int]
    device: str
    backends: Sequence[str]
    """Only these; empty: all that a step asks for."""
    model: str
    weights: str
    deadline: float
    """On the monotonic clock."""

    @property
    def is_played(self) -> bool:
        """Whether the fake backend stands in for all others."""
        return list(self.backends) == [Backend.FAKE]


def grid(strategies: Iterable[str], batches: Sequence[int]) -> dict[str, Any]:
    """Return a spec of just these strategies: what the product of backends and precisions has more is excluded."""
    wanted = [Strategy.parse(text) for text in strategies]
    backends = list(dict.fromkeys(str(each.backend) for each in wanted))
    precisions = list(dict.fromkeys(str(each.precision) for each in wanted))
    spare = [
        {"backend": backend, "precision": precision}
        for backend in backends
        for precision in precisions
        if Strategy(Backend(backend), Precision(precision)) not in wanted
    ]
    baseline = {"backend": str(wanted[0].backend), "precision": str(wanted[0].precision)}
    spec = {"backends": backends, "precisions": precisions, "batchSizes": list(batches), "baseline": baseline}
    return {**spec, "exclude": spare} if spare else spec


def write(asked: Asked, name: str, spec: Mapping[str, Any], model: str | None = None, **measurement: int) -> Path:
    """Write the YAML of a run, with what the command line changes in it, and check it."""
    weights: Any = {"path": asked.weights} if "/" in asked.weights else asked.weights
    whole = {
        **spec,
        "device": asked.device,
        "measurement": {**asked.measurement, **measurement},
        "model": {"torchvision": {"name": model or asked.model, "weights": weights}},
    }
    whole = _played(whole) if asked.is_played else _narrowed(whole, asked.backends)
    head = {"apiVersion": "inferbench.dev/v1alpha1", "kind": "InferenceBenchmark", "metadata": {"name": name}}
    file = asked.out / f"{name}.yaml"
    file.write_text(yaml.safe_dump({**head, "spec": whole}, sort_keys=False))
    document.read(file)
    return file


def run(asked: Asked, file: Path) -> Path:
    """Run a benchmark with the program that users run. Raises OutOfTime when the minutes are over before it."""
    folder = asked.out / file.stem
    arguments = [*PROGRAM, "run", str(file), "--output", str(folder)]
    with subprocess.Popen(arguments, stdin=subprocess.DEVNULL, start_new_session=True) as program:
        try:
            status = program.wait(max(0.0, asked.deadline - time.monotonic()))
        except (subprocess.TimeoutExpired, KeyboardInterrupt) as error:
            _interrupt(program)
            raise OutOfTime(f"{file.stem} is not complete") from error
    if status in (2, 3) or not (folder / "summary.json").exists():
        raise RuntimeError(f"{file.stem} ended with status {status}; look at what it printed above")
    return folder


def cells(folder: Path) -> list[dict[str, str]]:
    """Return the rows of cells.csv."""
    with (folder / "cells.csv").open() as file:
        return list(csv.DictReader(file))


def summary(folder: Path) -> dict[str, Any]:
    """Return what the run found."""
    found: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return found


def round_medians(folder: Path) -> dict[str, list[int]]:
    """Return the latency of each cell in each round, in nanoseconds, in the order of the rounds."""
    plan = plans.load((folder / "plan.json").read_text(), "plan.json")
    found: dict[str, list[tuple[int, int]]] = {}
    for sweep in plan.sweeps:
        file = folder / f"results/{sweep.index}.json"
        done = result.decode(file.read_bytes(), plan, sweep).result.cells if file.exists() else ()
        for cell in done:
            if cell.outcome is Outcome.MEASURED and cell.latency_median_ns is not None:
                key = f"{sweep.strategy}@{cell.batch_size}"
                found.setdefault(key, []).append((sweep.round, cell.latency_median_ns))
    return {key: [median for _, median in sorted(rounds)] for key, rounds in found.items()}


def warm_share(folder: Path) -> float | None:
    """Return the per cent of time that was spent measuring in sweeps that compiled nothing; None where there are none.

    Sweeps count that measured something, after the first round.
    """
    plan = plans.load((folder / "plan.json").read_text(), "plan.json")
    whole = measuring = 0
    for sweep in plan.sweeps:
        file = folder / f"results/{sweep.index}.json"
        if sweep.round == 0 or not file.exists():
            continue
        done = result.decode(file.read_bytes(), plan, sweep).result
        measured = [cell for cell in done.cells if cell.measure_ms]
        if measured and not any(cell.compile_was_cold for cell in measured):
            whole += (done.finished_ms or 0) - (done.started_ms or 0)
            measuring += sum(cell.measure_ms or 0 for cell in measured)
    return 100 * measuring / whole if whole > 0 else None


def seconds(file: Path, seen: set[str], timed_seconds: float | None = None) -> float:
    """Estimate how long a run takes; the assumptions stand above.

    `seen` is what earlier runs have prepared, compiled and built, to which this run adds. `timed_seconds` is what a
    cell's calls take; by default what its measurement does.
    """
    plan = plans.expand(document.read(file))
    model, measurement = plan.work.model.torchvision.name, plan.work.measurement
    usual = measurement.max_seconds_per_cell + measurement.warmup_max_seconds / 2
    timed = usual if timed_seconds is None else timed_seconds
    made = MODEL_SECONDS.get(model, 0.0) * _is_new(model, seen)
    for sweep in plan.sweeps:
        backend = str(sweep.strategy.backend)
        options = plan.work.backend_options.get(sweep.strategy.backend, {})
        for cell in sweep.cells:
            is_cold = backend in COLD_SECONDS and _is_new(f"{model} {cell} {dict(options)}", seen)
            made += timed + beside(backend) + is_cold * COLD_SECONDS.get(backend, 0.0)
    return made


def beside(backend: str) -> float:
    """Return the seconds that a cell of a backend takes beside warm-up and measuring."""
    return next(seconds for name, seconds in CELL_SECONDS.items() if backend.startswith(name))


def quantile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least this share of all do not exceed; NaN of none."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else math.nan


def _is_new(what: str, seen: set[str]) -> bool:
    """Tell whether something was not seen before; now it was."""
    is_new = what not in seen
    seen.add(what)
    return is_new


def _interrupt(program: subprocess.Popen[bytes]) -> None:
    """End a run as Ctrl-C does, so that it keeps what it has."""
    os.kill(program.pid, signal.SIGINT)
    try:
        program.wait(GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(program.pid, signal.SIGKILL)


def _narrowed(spec: Mapping[str, Any], backends: Sequence[str]) -> dict[str, Any]:
    """Leave out all but some backends, and what was expected of the others."""
    if not backends:
        return dict(spec)
    kept = [backend for backend in spec["backends"] if backend in backends]
    if not kept:
        raise RuntimeError(f"none of {', '.join(backends)} is among {', '.join(spec['backends'])}")
    excluded = [each for each in spec.get("exclude", ()) if each["backend"] in kept]
    spare = {(each["backend"], each["precision"]) for each in excluded}
    left = {f"{b}/{p}" for b in kept for p in spec["precisions"] if (b, p) not in spare}
    expected = [each for each in spec.get("expectations", ()) if strategies(each) <= left]
    first = min(left, key=lambda text: Strategy.parse(text).simplicity)
    backend, precision = first.split("/")
    changed = {"backends": kept, "exclude": excluded, "expectations": expected}
    options = {name: each for name, each in spec.get("backendOptions", {}).items() if name in kept}
    return {**spec, **changed, "backendOptions": options, "baseline": {"backend": backend, "precision": precision}}


def _played(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Let the fake backend stand in for all strategies that it has a precision for."""
    asked = [f"{backend}/{precision}" for backend in spec["backends"] for precision in spec["precisions"]]
    spare = {f"{each['backend']}/{each['precision']}" for each in spec.get("exclude", ())}
    parts = [text for text in asked if text in PLAYED and text not in spare] or ["torch-eager/fp32"]
    names = {text: f"fake/{player}" for text, player in PLAYED.items()}
    expected = [renamed(each, names) for each in spec.get("expectations", ()) if strategies(each) <= set(parts)]
    changed = {
        "backends": ["fake"],
        "precisions": [PLAYED[text] for text in parts],
        "baseline": {"backend": "fake", "precision": PLAYED[parts[0]]},
        "backendOptions": {"fake": SCRIPT},
        "exclude": [],
        "expectations": expected,
    }
    return {**spec, **changed}


def strategies(expectation: Mapping[str, Any]) -> set[str]:
    """Return the strategies that an expectation speaks of."""
    inner = expectation.get("byMoreThan") or {}
    texts = [each.get(key) for each in (expectation, inner) for key in SIDES]
    return {text.partition("@")[0] for text in texts if text}


def renamed(expectation: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Let an expectation speak of other strategies, where they have another name."""
    changed = dict(expectation)
    for key in SIDES:
        if key in changed:
            strategy, at, batch = changed[key].partition("@")
            changed[key] = f"{names.get(strategy, strategy)}{at}{batch}"
    if "byMoreThan" in changed:
        changed["byMoreThan"] = renamed(changed["byMoreThan"], names)
    return changed
