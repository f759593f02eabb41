"""What our timing adds to the calls of a cell, over a bare loop around the library, in a process of its own.

    python benchmarks/gpu/bias.py TASK.json SECONDS ANSWER.json

Started by `all.py`. SECONDS is the time of the bare loops together. The bare loop calls the library as its users do,
on the same model and inputs: without our events and wrappers, of PyTorch on its own stream. Where the backend has a
profiler of its own (TensorRT), or trtexec is installed, their figures of the same engine stand beside ours.
"""

from __future__ import annotations

import json
import re
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from inferbench_runner import backends, measure, stopping
from inferbench_runner.backends import Session, _torch, onnxruntime, tensorrt
from inferbench_runner.task import CellTask

PROFILED_CALLS = 100
TRTEXEC_MEDIAN = re.compile(r"GPU Compute Time:.*?median = ([0-9.]+) ms")
NANOSECONDS = 1_000_000_000

BLOCKS = 6
"""With six or more, the smallest and the largest enclose the median in 95 % of cases."""
WARM_SECONDS = 2.0


@dataclass(frozen=True)
class Loop:
    """What a loop around a session found."""

    median_ns: float
    """Of its calls."""
    iteration_ns: float
    """With everything that is between two calls."""
    device_ns: float | None = None


@contextmanager
def bare(session: Session) -> Iterator[tuple[Callable[[], Any], Callable[[], Any]]]:
    """Yield how a user of the library starts an inference of what a session has bound, and waits for it.

    Sessions of a CPU and of the fake backend put nothing around their library's call.
    """
    inner: Any = session  # what a session holds is its own business, but for this comparison
    if isinstance(session, _torch.CudaSession):
        import torch

        with torch.inference_mode():
            yield partial(inner._call, *inner._arguments), torch.cuda.synchronize  # noqa: SLF001
    elif isinstance(session, onnxruntime.CudaSession):
        call = inner._session.run_with_iobinding  # noqa: SLF001
        yield partial(call, inner._binding, inner._run_options), session.synchronize  # noqa: SLF001
    elif isinstance(session, tensorrt.TensorRtSession):
        yield inner._start, session.synchronize  # noqa: SLF001
    else:
        yield session.enqueue, session.synchronize


def bare_loop(session: Session, seconds: float) -> Loop:
    """Measure as anybody would."""
    clock, latencies = session.clock, list[int]()
    with bare(session) as (enqueue, synchronize):
        begin = clock()
        end = begin + round(seconds * NANOSECONDS)
        while clock() < end or not latencies:
            start = clock()
            enqueue()
            synchronize()
            latencies.append(clock() - start)
        return Loop(statistics.median(latencies), (clock() - begin) / len(latencies))


def our_loop(session: Session, seconds: float) -> Loop:
    """Measure as a cell's single calls are measured."""
    limit_ns = round(seconds * NANOSECONDS / stopping.LATENCY_SHARE)
    timed = measure.time_calls(session, stopping.Limits(limit_ns, warmup_max_ns=0))
    device = statistics.median(timed.device_ns) if timed.device_ns is not None else None
    return Loop(statistics.median(timed.latencies_ns), timed.elapsed_ns / len(timed.latencies_ns), device)


def compare(session: Session, seconds: float) -> dict[str, Any]:
    """Run bare, ours, ours, bare again and again, so that a drift of the card cancels within each block."""
    bare_loop(session, min(seconds, WARM_SECONDS))
    each = seconds / 2 / BLOCKS
    blocks = [[run(session, each) for run in (bare_loop, our_loop, our_loop, bare_loop)] for _ in range(BLOCKS)]
    biases = [100 * ((b.median_ns + c.median_ns) / (a.median_ns + d.median_ns) - 1) for a, b, c, d in blocks]
    added = [(b.iteration_ns + c.iteration_ns - a.iteration_ns - d.iteration_ns) / 2 for a, b, c, d in blocks]
    return {
        "bareMedianNanoseconds": statistics.median(each.median_ns for a, _, _, d in blocks for each in (a, d)),
        "ourMedianNanoseconds": statistics.median(each.median_ns for _, b, c, _ in blocks for each in (b, c)),
        "deviceMedianNanoseconds": blocks[-1][1].device_ns,
        "biasPercent": statistics.median(biases),
        "biasPercentOfBlocks": biases,
        "addedNanosecondsPerIteration": statistics.median(added),
    }


def loops_seconds(seconds: float) -> float:
    """Return how long `compare` takes, where the bare loops take so many seconds together."""
    return min(seconds, WARM_SECONDS) + 2 * seconds


def others(session: Session, task: CellTask) -> dict[str, Any]:
    """Return what TensorRT's profiler and trtexec say of the same engine, as far as they are here."""
    told: dict[str, Any] = {}
    if hasattr(session, "layers_ns"):
        told["profilerMedianNanoseconds"] = statistics.median(session.layers_ns(PROFILED_CALLS))
    plan = getattr(session, "notes", {}).get("plan")
    if plan and (trtexec := shutil.which("trtexec")):
        told["trtexecMedianNanoseconds"] = trtexec_median(trtexec, task.cache / "tensorrt-plans" / plan / "engine.plan")
    return told


def trtexec_median(program: str, plan: Path) -> int | None:
    """Let trtexec time a plan; spinning, without transfers, as we do."""
    arguments = [program, f"--loadEngine={plan}", "--noDataTransfers", "--useSpinWait", "--duration=10"]
    ended = subprocess.run(arguments, capture_output=True, text=True, check=False)
    return read_trtexec(ended.stdout)


def read_trtexec(text: str) -> int | None:
    """Read the median of its GPU Compute Time; None where it says none."""
    found = TRTEXEC_MEDIAN.search(text)
    return round(float(found[1]) * 1_000_000) if found else None


def main(task_file: str, seconds: str, answer_file: str) -> None:
    """Load, compare, write."""
    task = CellTask.model_validate_json(Path(task_file).read_bytes())
    session = backends.find(task.backend).load(task)
    told = {"cell": str(task.cell), **compare(session, float(seconds)), **others(session, task)}
    Path(answer_file).write_text(json.dumps(told, indent=1))


if __name__ == "__main__":
    main(*sys.argv[1:])
