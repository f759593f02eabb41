"""What converting a model to every precision costs, and what finding all of it again costs.

    python benchmarks/converting.py [--model resnet50]

Method: the fp32 graph, the weights and the evaluation inputs are prepared beforehand. Into an empty cache folder, every
graph that any backend wants is made as a sweep makes it: one convert process each, one after the other, watched for its
time and its largest resident set (ru_maxrss). Then PyTorch's own int8-static program, where this processor can run one:
a sweep makes it in the process of the first cell that wants it, so here a process does what a cell does, from its start
to the program's being in the cache, and ends. Then the supervisor's question, whether each graph is there and sound, is
asked anew, and a cell's, whether the program is.

A cell would import PyTorch without the program, too; the same process, once it finds the program, tells how long that
takes. Nobody waits for all of it: a run on a CPU makes the graphs for CPUs and the program, a run on a GPU the others.

Must be reached: all graphs in 30 s, the largest process 2 GiB, all found again in 1 s. Exit status 1 if one is not.
What the two kinds of run wait for is told beside it. Takes a minute, and one minute more where the model is not yet in
the cache.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import lab

from inferbench_contract.words import Backend, Precision, Strategy
from inferbench_runner import backends, convert, lifeline
from inferbench_runner.backends import _int8_static
from inferbench_runner.convert import Request
from inferbench_runner.prepare import Refusal
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


@dataclass(frozen=True)
class Ended:
    """What a process took, and what it printed."""

    seconds: float
    memory_mib: int
    output: str


@dataclass(frozen=True)
class Cost:
    """What one conversion took."""

    target: str
    precision: Precision
    process: Ended
    file_mib: float


def requests(files: Artifacts, folder: Path) -> Sequence[Request]:
    """Return one request for each graph that there is."""
    if files.onnx is None or files.inputs is None:
        raise SystemExit("The plan prepared no graph or no inputs.")
    wanted = [(target, precision) for target in Target for precision in Precision]
    return [
        Request(onnx=files.onnx, inputs=files.inputs, cache=folder, precision=precision, target=target)
        for target, precision in wanted
        if (target, precision) not in AS_PREPARED and (target, precision) not in IMPOSSIBLE
    ]


def converted(request: Request, threads: int) -> Cost:
    """Convert a graph in a process, as a sweep does."""
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder, "answer.json")
        process = watched(convert.command(request, Path(folder, "request.json"), answer), threads)
        made = convert.read_answer(answer)
    if isinstance(made, Refusal) or made.onnx is None:
        raise SystemExit(f"{request.target} at {request.precision}: {made}")
    return Cost(request.target, request.precision, process, _mib(made.onnx))


def quantised(task: CellTask) -> Cost | str:
    """Make PyTorch's program in a process, as a cell does; or say why there is none."""
    lacking = backends.find(task.backend).missing(task.precision, task.device)
    if lacking is not None:
        return lacking
    process = cell_until_program(task)
    made = _int8_static.locate(task)
    if made is None:
        return str(lab.answer_of(process.output))
    return Cost("torch, compiled", task.precision, process, _mib(made))


def cell_until_program(task: CellTask) -> Ended:
    """Run what a cell's process does until it has the program."""
    return watched(lab.alone_command(cell_process, task.model_dump_json()), task.threads)


def cell_process(task_json: str) -> str | None:
    """Set PyTorch up, and make the program or find it; return why that cannot be."""
    from inferbench_runner import lifeline
    from inferbench_runner.backends import Unsupported, _torch
    from inferbench_runner.task import CellTask

    lifeline.hold()
    task = CellTask.model_validate_json(task_json)
    _torch.set_up(task)
    try:
        _torch.program(task)
    except Unsupported as reason:
        return str(reason)
    return None


def watched(command: Sequence[str], threads: int) -> Ended:
    """Run a process to its end."""
    with tempfile.TemporaryFile("w+") as stream:
        begin = time.monotonic()
        child = subprocess.Popen(
            command,
            env={**lab.child_environment(threads), **lifeline.environment()},
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
        )
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.monotonic() - begin
        stream.seek(0)
        output = stream.read()
    if child.returncode != 0:
        raise SystemExit(f"The process ended with status {child.returncode}:\n{output[-3000:]}")
    return Ended(seconds, usage.ru_maxrss >> 10, output)


def found_again(questions: Sequence[Callable[[], Any]]) -> float:
    """Return how long it takes to find all of it; ends the benchmark if one is missing."""
    begin = time.monotonic()
    found = [ask() for ask in questions]
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
        files, kept = lab.artifacts(plan, READERS), Path(folder)
        wanted, task = requests(files, kept), lab.task(plan, PROGRAM, files, kept, kept)
        graphs, program = [converted(request, given.threads) for request in wanted], quantised(task)
        questions: list[Callable[[], Any]] = [partial(convert.locate, request) for request in wanted]
        if isinstance(program, Cost):
            questions.append(partial(_int8_static.locate, task))
        again = found_again(questions)
        costs = [*graphs, program] if isinstance(program, Cost) else graphs
        lab.table(["for", "precision", "s", "largest, MiB", "file, MiB"], (_row(cost) for cost in costs))
        print(f"\n{_about_program(program, task)}\n")
        on_cpu = [cost for cost in costs if cost.target not in ON_GPU]
        print(f"A run on a CPU waits for {_seconds(on_cpu):.1f} s of all this, a run on a GPU for ", end="")
        print(f"{_seconds(costs) - _seconds(on_cpu):.1f} s.\n")
        return judged(_seconds(graphs), max(cost.process.memory_mib for cost in costs), again)


def judged(seconds: float, memory_mib: int, again: float) -> int:
    """Print what must be reached; return the exit status."""
    print(f"All graphs: {seconds:.1f} s (must be <= {MAX_SECONDS}), largest process {memory_mib} MiB ", end="")
    print(f"(must be <= {MAX_MIB}), found again in {again:.2f} s (must be <= {MAX_SECONDS_AGAIN}).")
    return 0 if seconds <= MAX_SECONDS and memory_mib <= MAX_MIB and again <= MAX_SECONDS_AGAIN else 1


def _about_program(program: Cost | str, task: CellTask) -> str:
    """Say what the row of PyTorch's program is, and how much of it a cell would take anyway."""
    if isinstance(program, str):
        return f"PyTorch's int8-static program is not among them: {program}"
    finding = cell_until_program(task).seconds
    return (
        "PyTorch's int8-static program is made in the first cell that wants it. Its row is of a process that makes it "
        f"and ends; once the program is there that process takes {finding:.1f} s, nearly all of them for importing "
        "PyTorch."
    )


def _row(cost: Cost) -> list[str]:
    process = cost.process
    return [
        cost.target,
        cost.precision,
        f"{process.seconds:.1f}",
        str(process.memory_mib),
        f"{cost.file_mib:.1f}",
    ]


def _seconds(costs: Sequence[Cost]) -> float:
    return sum(cost.process.seconds for cost in costs)


def _mib(file: Path) -> float:
    return file.stat().st_size / 2**20


if __name__ == "__main__":
    sys.exit(main())
