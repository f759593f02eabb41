"""What converting a model to every precision costs, and what finding all of it again costs.

    python benchmarks/converting.py [--model resnet50]

Method: the fp32 graph, the weights and the evaluation inputs are prepared beforehand. Into an empty cache folder, every
graph that any backend wants, and PyTorch's own int8-static program where this processor can run one, is made as a sweep
makes it: one process each, one after the other, watched for its time and its largest resident set (ru_maxrss). Then the
supervisor's question, whether each of them is there and sound, is asked anew.

Nobody waits for all of it: a run on a CPU makes the graphs for CPUs and the program, a run on a GPU the others. Here
TensorRT's graphs find the ranges of tensors that were found for CPUs before; where there are none they calibrate
themselves, so one of them is made in another empty folder, too, for what a run on a GPU waits for.

Must be reached: everything in 30 s, the largest process 2 GiB, all found again in 1 s. Exit status 1 if one is not.
Takes a minute, and one minute more where the model is not yet in the cache.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import lab

from inferbench_contract.words import Backend, Precision, Strategy
from inferbench_runner import answers, backends, convert, lifeline, programs
from inferbench_runner.answers import Refusal
from inferbench_runner.backends import _int8_static
from inferbench_runner.convert import Request
from inferbench_runner.sweep import child_environment
from inferbench_runner.targets import AS_PREPARED, IMPOSSIBLE, Target
from inferbench_runner.task import Artifacts, CellTask

MEASUREMENT = {"rounds": 1, "maxSecondsPerCell": 1, "warmupMaxSeconds": 1}
"""Nothing is measured; the plan only says what to prepare."""

MAX_SECONDS = 30
MAX_MIB = 2048
MAX_SECONDS_AGAIN = 1

READERS = (Backend.ONNXRUNTIME, Backend.TORCH_COMPILE)
"""These read everything that a conversion starts from: the graph, the weights, the inputs."""

ON_GPU = (Target.CUDA, Target.TENSORRT)

PROGRAM = Strategy(Backend.TORCH_COMPILE, Precision.INT8_STATIC)
"""The first of the strategies that share PyTorch's program."""

CALIBRATES_ALONE = (Target.TENSORRT, Precision.INT8_STATIC)


@dataclass(frozen=True)
class Wanted:
    """Something to be made by a process of its own."""

    maker: ModuleType
    request: Any
    target: str
    precision: Precision


@dataclass(frozen=True)
class Cost:
    """What a process took, and what it left."""

    target: str
    precision: Precision
    seconds: float
    memory_mib: int
    file_mib: float


def graphs(files: Artifacts, folder: Path) -> Sequence[Wanted]:
    """Return each graph that there is."""
    if files.onnx is None or files.inputs is None:
        raise SystemExit("The plan prepared no graph or no inputs.")
    read = {"onnx": files.onnx, "inputs": files.inputs, "cache": folder}
    every = [(target, precision) for target in Target for precision in Precision]
    return [
        Wanted(convert, Request(**read, precision=precision, target=target), target, precision)
        for target, precision in every
        if (target, precision) not in AS_PREPARED and (target, precision) not in IMPOSSIBLE
    ]


def program(task: CellTask) -> Wanted:
    """Return PyTorch's program."""
    return Wanted(programs, task, "torch, compiled", task.precision)


def made(wanted: Wanted, threads: int) -> Cost:
    """Make it in a process, as a sweep does."""
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder, "answer.json")
        command = wanted.maker.command(wanted.request, Path(folder, "request.json"), answer)
        seconds, memory_mib = watched(command, threads)
        told = answers.read_answer(answer)
    if isinstance(told, Refusal):
        raise SystemExit(f"{wanted.target} at {wanted.precision}: {told.message}")
    return Cost(wanted.target, wanted.precision, seconds, memory_mib, _file_mib(wanted))


def watched(command: Sequence[str], threads: int) -> tuple[float, int]:
    """Run a process to its end; return its seconds and the MiB that it held."""
    with tempfile.TemporaryFile("w+") as stream:
        begin = time.monotonic()
        child = subprocess.Popen(
            command,
            env={**child_environment(threads), **lifeline.environment()},
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
        )
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.monotonic() - begin
        if child.returncode != 0:
            stream.seek(0)
            raise SystemExit(f"The process ended with status {child.returncode}:\n{stream.read()[-3000:]}")
    return seconds, usage.ru_maxrss >> 10


def found_again(every: Sequence[Wanted]) -> float:
    """Return how long it takes to find all of it; ends the benchmark if one is missing."""
    begin = time.monotonic()
    found = [wanted.maker.locate(wanted.request) for wanted in every]
    seconds = time.monotonic() - begin
    if None in found:
        raise SystemExit("What was converted is not found again.")
    return seconds


def main() -> int:
    """Print the table; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=lab.RESNET50, help="a model of torchvision (default: resnet50)")
    parser.add_argument("--threads", type=int, default=lab.threads(), help="default: as many CPUs as may be used")
    given = parser.parse_args()
    plan = lab.planned(lab.torchvision(given.model), READERS, MEASUREMENT, given.threads)
    title = f"Converting {given.model} to every precision, {given.threads} threads"
    libraries = ("onnx", "onnxruntime-gpu", "torch", "torchao", "numpy")
    with lab.report(title, *libraries), tempfile.TemporaryDirectory() as folder:
        files, kept, other = lab.artifacts(plan, READERS), Path(folder, "cache"), Path(folder, "other")
        task = lab.task(plan, PROGRAM, files, kept, kept)
        lacking = backends.find(task.backend).missing(task.precision, task.device)
        every = [*graphs(files, kept), *([] if lacking else [program(task)])]
        costs = [made(wanted, given.threads) for wanted in every]
        again = found_again(every)
        alone = next(each for each in graphs(files, other) if (each.target, each.precision) == CALIBRATES_ALONE)
        lab.table(["for", "precision", "s", "largest, MiB", "file, MiB"], (_row(cost) for cost in costs))
        if lacking:
            print(f"\nPyTorch's int8-static program is not among them: {lacking}")
        print(f"\n{_waits(costs, made(alone, given.threads))}\n")
        return judged(costs, again)


def judged(costs: Sequence[Cost], again: float) -> int:
    """Print what must be reached; return the exit status."""
    seconds, memory_mib = _seconds(costs), max(cost.memory_mib for cost in costs)
    print(f"Everything: {seconds:.1f} s (must be <= {MAX_SECONDS}), largest process {memory_mib} MiB ", end="")
    print(f"(must be <= {MAX_MIB}), found again in {again:.2f} s (must be <= {MAX_SECONDS_AGAIN}).")
    return 0 if seconds <= MAX_SECONDS and memory_mib <= MAX_MIB and again <= MAX_SECONDS_AGAIN else 1


def _waits(costs: Sequence[Cost], alone: Cost) -> str:
    """Say what the two kinds of run wait for."""
    on_gpu = [cost for cost in costs if cost.target in ON_GPU]
    [spared] = [alone.seconds - cost.seconds for cost in on_gpu if (cost.target, cost.precision) == CALIBRATES_ALONE]
    waits = _seconds(on_gpu)
    return (
        f"A run on a CPU waits for {_seconds(costs) - waits:.1f} s of all this, a run on a GPU for {waits:.1f} s, or "
        f"for {waits + spared:.1f} s where nothing was calibrated before."
    )


def _row(cost: Cost) -> list[str]:
    return [
        cost.target,
        cost.precision,
        f"{cost.seconds:.1f}",
        str(cost.memory_mib),
        f"{cost.file_mib:.1f}",
    ]


def _seconds(costs: Sequence[Cost]) -> float:
    return sum(cost.seconds for cost in costs)


def _file_mib(wanted: Wanted) -> float:
    """Return the size of what was made."""
    found = wanted.maker.locate(wanted.request)
    file = _int8_static.locate(wanted.request) if wanted.maker is programs else found.onnx
    return file.stat().st_size / 2**20


if __name__ == "__main__":
    sys.exit(main())
