"""How far to trust one figure: optimum-benchmark's and ours, of the same model, five times over.

    python benchmarks/peer.py [--repeats 5] [--seconds 3] [--peer-seconds 10] [--small]

The peer is optimum-benchmark 0.6.0 with its backend pytorch on the CPU and its own defaults: a process, 10 calls to
warm up, at least 10 s, the mean (from which it derives throughput) and p50. It runs twice: with its launcher `process`,
which is its default and whose parent spins on a CPU while the child is measured, and `inline`, which does not.

Both measure the very same thing: ResNet-50 of transformers (random weights, saved to a folder; there is no model hub
here), PyTorch eager in inference mode, fp32, batch 1, as many threads, the same Python, the same files of torch. For
that a venv of its own is made below the cache folder (inferbench-benchmarks/peer-venv): optimum-benchmark, transformers
and the rest, pinned here, and behind them the packages of this venv. Our runner runs in it too, and reads the same
folder through its `python` model source (peer_resnet.py). OMP_NUM_THREADS sets the threads of both: in 0.6.0 the peer's
option intra_op_num_threads sets PyTorch's inter-op threads, and the other way round (backends/pytorch/backend.py).

Method: five repeats of its figure and of ours from one round (a look), in turn, every second repeat in reversed order.
Then two identical strategies, A and B: ours are measured as strategies of one plan are, 4 rounds, A B, B A, A B, B A,
and judged with their interval. The peer has no rounds and no intervals: a reader compares two of its figures, so its
neighbouring repeats are what it says of A and B.

Takes 11 minutes (17 s of each of our looks are its accuracy check), and two more the first time (packages, preparing).
To try it: --repeats 2 --seconds 1 --peer-seconds 1 --small.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import statistics
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import pairwise
from pathlib import Path

import lab

from inferbench_contract import evidence
from inferbench_contract.words import Backend
from inferbench_runner.sweep import child_environment

PINS = (
    "accelerate==1.15.0",
    "antlr4-python3-runtime==4.9.3",
    "anyio==4.16.0",
    "colorlog==6.12.0",
    "datasets==4.8.5",
    "dill==0.4.1",
    "flatten-dict==0.5.0",
    "fsspec==2026.2.0",
    "h11==0.16.0",
    "hf-xet==1.8.0",
    "httpcore==1.0.9",
    "httpx==0.28.1",
    "huggingface-hub==0.36.2",
    "hydra-core==1.3.8",
    "multiprocess==0.70.19",
    "nvidia-ml-py==13.615.71",
    "omegaconf==2.3.1",
    "optimum-benchmark==0.6.0",
    "pandas==3.1.1",
    "psutil==7.2.2",
    "pyarrow==26.0.1",
    "regex==2026.11.15",
    "safetensors==0.8.0",
    "tokenizers==0.22.2",
    "tqdm==4.70.1",
    "transformers==4.57.6",
    "xxhash==4.1.0",
)
"""What `uv pip compile` found for optimum-benchmark with transformers 4, whose time it is of, and torch as here."""

RESNET18 = {"depths": [2, 2, 2, 2], "layer_type": "basic", "hidden_sizes": [64, 128, 256, 512]}
WARMUP_SECONDS = 8
ROUNDS = 4
LAUNCHERS = ("process", "inline")
OURS = "inferbench, 1 round"
LOOK = "**Inconclusive**: with one round there are no verdicts"

CONFIG = """
defaults: [benchmark, {{scenario: inference}}, {{launcher: {launcher}}}, {{backend: pytorch}}, _self_]
name: peer
scenario:
  duration: {seconds}
  input_shapes: {{batch_size: 1, num_channels: 3, height: 224, width: 224}}
backend: {{device: cpu, model: {model}, library: transformers, task: image-classification, model_type: resnet}}
hydra: {{run: {{dir: {output}}}, job: {{chdir: true}}}}
"""


@dataclass(frozen=True)
class Figure:
    """What a tool says of the latency, in nanoseconds, and how long a person waited for it."""

    value: float
    p50: float
    seconds: float


@dataclass(frozen=True)
class Rivals:
    """The two tools, set up to measure the same."""

    python: Path
    model: Path
    threads: int
    seconds: int
    peer_seconds: int

    def peer(self, launcher: str) -> Figure:
        """Run optimum-benchmark as its README says, on its command line."""
        with tempfile.TemporaryDirectory() as folder:
            config = {"launcher": launcher, "seconds": self.peer_seconds, "model": self.model, "output": folder}
            Path(folder, "peer.yaml").write_text(CONFIG.format(**config))
            program = self.python.with_name("optimum-benchmark")
            begin = time.monotonic()
            lab.run([program, "--config-dir", folder, "--config-name", "peer"], self._environment(), Path(folder))
            seconds = time.monotonic() - begin
            latency = json.loads(Path(folder, "benchmark_report.json").read_text())["forward"]["latency"]
        return Figure(1e9 * latency["mean"], 1e9 * latency["p50"], seconds)

    def ours(self) -> Figure:
        """Run inferbench for a look: one round."""
        with tempfile.TemporaryDirectory() as folder:
            begin = time.monotonic()
            cell = self.bench(1, Path(folder)).measure(Backend.TORCH_EAGER, 0)
            median = float(cell.latency_median_ns or 0)
            return Figure(median, median, time.monotonic() - begin)

    def bench(self, rounds: int, folder: Path) -> lab.Bench:
        """Plan rounds of torch-eager on the folder's model, to run in the peer's venv."""
        model = {
            "python": {"factory": "peer_resnet:load", "kwargs": {"folder": str(self.model)}},
            "inputs": [{"name": "pixel_values", "shape": [3, 224, 224], "dtype": "float32"}],
        }
        measurement = {"rounds": rounds, "maxSecondsPerCell": self.seconds, "warmupMaxSeconds": WARMUP_SECONDS}
        plan = lab.planned(model, [Backend.TORCH_EAGER], measurement, self.threads)
        return lab.Bench(plan, folder, str(self.python))

    def _environment(self) -> Mapping[str, str]:
        return {**child_environment(self.threads), "HF_HUB_OFFLINE": "1", "LOG_TO_FILE": "0"}


def set_up(*, small: bool) -> tuple[Path, Path]:
    """Make the venv and the model's folder, once; return its Python and the folder."""
    pins = "\n".join(PINS)
    venv = lab.CACHE / "peer-venv"
    python, done = venv / "bin" / "python", venv / "pins.txt"
    if not done.exists() or done.read_text() != pins:
        lab.progress(f"Installing optimum-benchmark into {venv} ...")
        shutil.rmtree(venv, ignore_errors=True)
        uv, packages = Path(sys.executable).with_name("uv"), sysconfig.get_path("purelib")
        variables = child_environment(lab.threads())
        lab.run([uv, "venv", "--python", sys.executable, venv], variables)
        lab.run([uv, "pip", "install", "--no-deps", "--python", python, *PINS], variables)
        behind = Path(sysconfig.get_path("purelib", vars={"base": str(venv)}), "behind.pth")
        behind.write_text(f"import site; site.addsitedir({packages!r})\n")
        done.write_text(pins)
    config = json.dumps(RESNET18 if small else {})
    model = lab.CACHE / f"peer-resnet-{sha256(config.encode()).hexdigest()[:8]}"
    if not (model / "preprocessor_config.json").exists():
        lab.progress(f"Making the model in {model} ...")
        maker = Path(__file__).with_name("peer_resnet.py")
        lab.run([python, maker, model, config], child_environment(lab.threads()))
    return python, model


def repeated(rivals: Rivals, repeats: int) -> dict[str, list[Figure]]:
    """Let every rival give its figure, again and again, in turn."""
    rows: dict[str, Callable[[], Figure]] = {
        _name(launcher): lambda launcher=launcher: rivals.peer(launcher) for launcher in LAUNCHERS
    }
    rows[OURS] = rivals.ours
    figures: dict[str, list[Figure]] = {name: [] for name in rows}
    for repeat in range(repeats):
        ordered = list(rows.items())
        for name, measure in reversed(ordered) if repeat % 2 else ordered:
            figures[name].append(measure())
            lab.progress(f"repeat {repeat + 1}/{repeats}: {name} {lab.milliseconds(figures[name][-1].value)} ms")
    return figures


def identical(rivals: Rivals) -> tuple[dict[int, float], dict[int, float]]:
    """Measure the same strategy as two of one plan; return the medians of both by round."""
    medians: tuple[dict[int, float], dict[int, float]] = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        sides = [rivals.bench(ROUNDS, Path(folder, name)) for name in "AB"]
        for round_ in range(ROUNDS):
            for side in (1, 0) if round_ % 2 else (0, 1):
                cell = sides[side].measure(Backend.TORCH_EAGER, round_)
                medians[side][round_] = float(cell.latency_median_ns or 0)
                lab.progress(f"A/A round {round_ + 1}/{ROUNDS}: {'AB'[side]} {cell.latency_median_ns}")
    return medians


def main() -> None:
    """Print two tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="at least 2 (default: 5)")
    parser.add_argument("--seconds", type=int, default=3, help="our maxSecondsPerCell (default: 3)")
    parser.add_argument("--peer-seconds", type=int, default=10, help="its scenario.duration (default: 10)")
    parser.add_argument("--small", action="store_true", help="ResNet-18 in place of ResNet-50, to try it")
    parser.add_argument("--threads", type=int, default=lab.threads(), help="default: as many CPUs as may be used")
    given = parser.parse_args()
    python, model = set_up(small=given.small)
    rivals = Rivals(python, model, given.threads, given.seconds, given.peer_seconds)
    lab.artifacts(rivals.bench(1, Path()).plan, [Backend.TORCH_EAGER], str(python))
    name = "ResNet-18" if given.small else "ResNet-50"
    title = f"Peer: torch eager, {name} of transformers, fp32, batch 1, {given.threads} threads"
    with lab.report(title, "torch"):
        print(f"{_pin('optimum-benchmark')}, {_pin('transformers')}.\n")
        figures = repeated(rivals, max(2, given.repeats))
        a, b = identical(rivals)
        _print_spread(figures, a, b)
        _print_identical(figures, a, b)


def _print_spread(figures: Mapping[str, Sequence[Figure]], a: Mapping[int, float], b: Mapping[int, float]) -> None:
    repeats = len(figures[OURS])
    rows = []
    for name, found in figures.items():
        rows.append(_spread(name if name == OURS else f"{name}, mean", [f.value for f in found], found))
        if name != OURS:
            rows.append(_spread(f"{name}, p50", [f.p50 for f in found], found))
    both = [estimate.value for side in (a, b) if (estimate := evidence.geometric_mean(list(side.values())))]
    pad = [""] * max(0, repeats - len(both))
    rows.append([f"inferbench, {ROUNDS} rounds (A and B)", *map(lab.milliseconds, both), *pad, _apart(both), "-", "-"])
    numbers = [f"{i + 1}, ms" for i in range(max(repeats, len(both)))]
    lab.table(["figure", *numbers, "largest over smallest", "sd", "s each"], rows)


def _spread(name: str, values: Sequence[float], found: Sequence[Figure]) -> list[str]:
    sd = statistics.stdev(map(math.log, values))
    seconds = statistics.median(figure.seconds for figure in found)
    return [name, *map(lab.milliseconds, values), _apart(values), f"{100 * sd:.1f} %", f"{seconds:.0f}"]


def _print_identical(figures: Mapping[str, Sequence[Figure]], a: Mapping[int, float], b: Mapping[int, float]) -> None:
    print("\nTwo identical strategies, A and B:\n")
    rows = []
    for name, found in figures.items():
        apart = ", ".join(f"{100 * (float(_apart([x.value, y.value])) - 1):.1f} %" for x, y in pairwise(found))
        rows.append([name, f"two figures, {apart} apart", LOOK if name == OURS else "a winner, without an interval"])
    ratio = evidence.paired_ratio(a, b)
    (verdict,) = evidence.family_verdicts([ratio])
    rows.append([f"inferbench, {ROUNDS} rounds", f"A / B = {lab.ratio(ratio)}", f"**{verdict}**"])
    lab.table(["", "says", "which means"], rows)
    print("\nOf what gives one figure: its neighbouring repeats, about a minute apart. The peer's figure is the mean.")


def _apart(values: Sequence[float]) -> str:
    return f"{max(values) / min(values):.3f}"


def _name(launcher: str) -> str:
    return f"optimum-benchmark, {launcher}"


def _pin(package: str) -> str:
    return next(pin for pin in PINS if pin.startswith(package + "==")).replace("==", " ")


if __name__ == "__main__":
    main()
