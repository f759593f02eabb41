"""What converting a model to every precision costs, and what finding all of it again costs.

    python benchmarks/converting.py [--model resnet50]

Method: the fp32 graph and the evaluation inputs are prepared beforehand. Into an empty cache folder, every graph that
any backend wants is made as a sweep makes it: one convert process each, one after the other, watched for its time and
its largest resident set (ru_maxrss). Then the supervisor's question, whether each is there and sound, is asked anew.

Must be reached: all conversions in 30 s, the largest process 2 GiB, all found again in 1 s. Exit status 1 if one
is not. Takes half a minute, and one minute more where the model is not yet in the cache.
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

import lab

from inferbench_contract.words import Backend, Precision
from inferbench_runner import convert, lifeline
from inferbench_runner.convert import Request
from inferbench_runner.prepare import Refusal
from inferbench_runner.targets import AS_PREPARED, IMPOSSIBLE, Target
from inferbench_runner.task import Artifacts

MEASUREMENT = {"rounds": 1, "maxSecondsPerCell": 1, "warmupMaxSeconds": 1}
"""Nothing is measured; the plan only says what to prepare."""

MAX_SECONDS = 30
MAX_MIB = 2048
MAX_SECONDS_AGAIN = 1


@dataclass(frozen=True)
class Cost:
    """What one conversion took."""

    request: Request
    seconds: float
    memory_mib: int
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
    """Run the process to its end."""
    with tempfile.TemporaryDirectory() as folder:
        answer, output = Path(folder, "answer.json"), Path(folder, "output.txt")
        command = convert.command(request, Path(folder, "request.json"), answer)
        begin = time.monotonic()
        with output.open("w") as stream:
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
        if child.returncode != 0:
            raise SystemExit(f"The process ended with status {child.returncode}:\n{output.read_text()[-3000:]}")
        made = convert.read_answer(answer)
    if isinstance(made, Refusal) or made.onnx is None:
        raise SystemExit(f"{request.target} at {request.precision}: {made}")
    return Cost(request, seconds, usage.ru_maxrss >> 10, made.onnx.stat().st_size / 2**20)


def found_again(wanted: Sequence[Request]) -> float:
    """Return how long it takes to find all of it; ends the benchmark if one is missing."""
    begin = time.monotonic()
    found = [convert.locate(request) for request in wanted]
    seconds = time.monotonic() - begin
    if None in found:
        raise SystemExit("A converted graph is not found again.")
    return seconds


def main() -> int:
    """Print the table; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=lab.RESNET50, help="a model of torchvision (default: resnet50)")
    parser.add_argument("--threads", type=int, default=lab.threads(), help="default: as many CPUs as may be used")
    given = parser.parse_args()
    plan = lab.planned(lab.torchvision(given.model), [Backend.ONNXRUNTIME], MEASUREMENT, given.threads)
    title = f"Converting {given.model} to every precision, {given.threads} threads"
    with lab.report(title, "onnx", "onnxruntime-gpu", "numpy"), tempfile.TemporaryDirectory() as folder:
        wanted = requests(lab.artifacts(plan, [Backend.ONNXRUNTIME]), Path(folder))
        costs = [converted(request, given.threads) for request in wanted]
        again = found_again(wanted)
        rows = ([c.request.target, c.request.precision, *_numbers(c)] for c in costs)
        lab.table(["for", "precision", "s", "largest, MiB", "file, MiB"], rows)
        seconds, memory_mib = sum(cost.seconds for cost in costs), max(cost.memory_mib for cost in costs)
        print(f"\nAll of them: {seconds:.1f} s (must be <= {MAX_SECONDS}), largest process {memory_mib} MiB ", end="")
        print(f"(must be <= {MAX_MIB}), found again in {again:.2f} s (must be <= {MAX_SECONDS_AGAIN}).")
    return 0 if seconds <= MAX_SECONDS and memory_mib <= MAX_MIB and again <= MAX_SECONDS_AGAIN else 1


def _numbers(cost: Cost) -> list[str]:
    return [f"{cost.seconds:.1f}", str(cost.memory_mib), f"{cost.file_mib:.1f}"]


if __name__ == "__main__":
    sys.exit(main())
