"""Are our medians true? What inferbench reports over what the libraries' own benchmarks report, round by round.

    python benchmarks/truth.py [--rounds 8] [--seconds 3] [--model resnet50]

Method: torchvision's ResNet-50 (random weights, fp32, batch 1, CPU). In every round, each in a process of its own:

- `onnxruntime` through inferbench (`inferbench_runner sweep`: the real supervisor and cell), then the loop of ONNX
  Runtime's own onnxruntime_perf_test: one run to warm up, then runs on preloaded inputs into reused outputs, each
  between two reads of a high-resolution clock, until their sum is 3 s; P50 of them. Its binary is not in the wheel, so
  the loop is here in Python, with the same file, threads, inputs and fixed batch dimension (`-x 2 -f batch:1 -t 3`).
- `torch-eager` through inferbench, then torch.utils.benchmark.Timer.blocked_autorange(min_run_time=3), its median, with
  the same weights, input and threads.

Every second round runs in reversed order. The ratios are paired by round, with the t-interval of their logarithms, by
inferbench's own evidence.paired_ratio. There is no limit to keep: a ratio within a few per cent of 1, whose interval
holds 1 or lies close to it, is what was hoped for.

Takes 6 to 8 minutes with 8 rounds, and one more where the model is not yet in the cache. To try it: --rounds 2
--seconds 1 --model mobilenet_v3_small.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import lab

from inferbench_contract import evidence
from inferbench_contract.plan import Plan
from inferbench_contract.words import Backend
from inferbench_runner.task import Artifacts

BACKENDS = (Backend.ONNXRUNTIME, Backend.TORCH_EAGER)
WARMUP_SECONDS = 8
PERF_TEST, TIMER = "onnxruntime_perf_test's loop", "torch.utils.benchmark.Timer"
OWN = {Backend.ONNXRUNTIME: PERF_TEST, Backend.TORCH_EAGER: TIMER}
"""What each library brings along to measure itself."""


def perf_test_p50_ns(model: str, inputs: str, threads: int, seconds: float) -> int:
    """Do what onnxruntime_perf_test does (performance_runner.h, ort_test_session.cc, performance_result.h)."""
    from pathlib import Path
    from time import perf_counter_ns

    import numpy as np
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_free_dimension_override_by_name("batch", 1)
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    for tensor in session.get_inputs():
        array = np.load(Path(inputs, f"{tensor.name}.npy"), mmap_mode="r")[:1]
        binding.bind_ortvalue_input(tensor.name, ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array)))
    names = [output.name for output in session.get_outputs()]
    for name in names:
        binding.bind_output(name, "cpu")
    session.run_with_iobinding(binding)
    for name, value in zip(names, binding.get_outputs(), strict=True):
        binding.bind_ortvalue_output(name, value)
    latencies: list[int] = []
    total, limit = 0, round(seconds * 1e9)
    while total < limit:
        begin = perf_counter_ns()
        session.run_with_iobinding(binding)
        latencies.append(perf_counter_ns() - begin)
        total += latencies[-1]
    return sorted(latencies)[len(latencies) // 2]


def timer_median_ns(model: str, weights: str, inputs: str, threads: int, seconds: float) -> int:
    """Time eager PyTorch as its own documentation says."""
    from pathlib import Path

    import numpy as np
    import torch
    from torch.utils.benchmark import Timer

    from inferbench_contract.spec import ModelSpec
    from inferbench_runner import models

    module = models.build(ModelSpec.model_validate_json(model), Path.cwd(), Path(weights))
    batch = torch.from_numpy(np.load(Path(inputs, "input.npy"), mmap_mode="r")[:1].copy())
    timer = Timer("model(batch)", globals={"model": module, "batch": batch}, num_threads=threads)
    with torch.inference_mode():
        return round(1e9 * timer.blocked_autorange(min_run_time=seconds).median)


@dataclass(frozen=True)
class Contest:
    """One round: each contestant by its name, and how to get its median in nanoseconds."""

    plan: Plan
    folder: Path
    prepared: Artifacts
    threads: int
    seconds: int

    def contestants(self, round_: int) -> dict[str, Callable[[], int]]:
        """Return them in the order of an even round."""
        return {
            str(Backend.ONNXRUNTIME): lambda: self._ours(Backend.ONNXRUNTIME, round_),
            PERF_TEST: self._perf_test,
            str(Backend.TORCH_EAGER): lambda: self._ours(Backend.TORCH_EAGER, round_),
            TIMER: self._timer,
        }

    def _ours(self, backend: Backend, round_: int) -> int:
        return lab.Bench(self.plan, self.folder).measure(backend, round_).latency_median_ns or 0

    def _perf_test(self) -> int:
        files = self.prepared.onnx, self.prepared.inputs
        return lab.alone(perf_test_p50_ns, *files, self.threads, self.seconds, threads=self.threads)

    def _timer(self) -> int:
        model = self.plan.work.model.model_dump_json(by_alias=True, exclude_none=True)
        files = self.prepared.weights, self.prepared.inputs
        return lab.alone(timer_median_ns, model, *files, self.threads, self.seconds, threads=self.threads)


def contest(plan: Plan, seconds: int, threads: int) -> dict[str, dict[int, float]]:
    """Run all rounds; return the medians in nanoseconds by contestant and round."""
    prepared = lab.artifacts(plan, BACKENDS)
    medians: dict[str, dict[int, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for round_ in range(plan.rounds):
            ordered = list(Contest(plan, Path(folder), prepared, threads, seconds).contestants(round_).items())
            for name, measure in reversed(ordered) if round_ % 2 else ordered:
                medians.setdefault(name, {})[round_] = measure()
                lab.progress(f"round {round_ + 1}/{plan.rounds}: {name} {lab.milliseconds(medians[name][round_])} ms")
    return medians


def main() -> None:
    """Print two tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=8, help="an even number (default: 8)")
    parser.add_argument("--seconds", type=int, default=3, help="each one's time to measure in a round (default: 3)")
    parser.add_argument("--model", default=lab.RESNET50, help="a model of torchvision (default: resnet50)")
    parser.add_argument("--threads", type=int, default=lab.threads(), help="default: as many CPUs as may be used")
    given = parser.parse_args()
    measurement = {
        "rounds": given.rounds,
        "maxSecondsPerCell": given.seconds,
        "warmupMaxSeconds": WARMUP_SECONDS,
    }
    plan = lab.planned(lab.torchvision(given.model), BACKENDS, measurement, given.threads)
    title = f"Truth: {given.model} fp32, batch 1, {given.threads} threads, {given.rounds} rounds"
    with lab.report(title, "onnxruntime-gpu", "torch", "torchvision"):
        medians = contest(plan, given.seconds, given.threads)
        rows = []
        for backend, own in OWN.items():
            ours, theirs = medians[backend], medians[own]
            both = [evidence.geometric_mean(list(side.values())) for side in (ours, theirs)]
            latencies = [lab.milliseconds(each.value) if each else "-" for each in both]
            rows.append([f"`{backend}` over {own}", *latencies, lab.ratio(evidence.paired_ratio(ours, theirs))])
        lab.table(["", "ours, ms", "theirs, ms", "ratio (95 % interval)"], rows)
        print("\nMedians of each round in milliseconds:\n")
        numbers = [str(round_ + 1) for round_ in range(plan.rounds)]
        lab.table(["", *numbers], ([name, *map(lab.milliseconds, found.values())] for name, found in _sorted(medians)))


def _sorted(medians: dict[str, dict[int, float]]) -> list[tuple[str, dict[int, float]]]:
    return [(name, dict(sorted(found.items()))) for name, found in medians.items()]


if __name__ == "__main__":
    main()
