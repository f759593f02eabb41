"""What the benchmarks share that start processes: sweeps through the real runner, bare processes, and tables."""

from __future__ import annotations

import inspect
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from inferbench_cli.folder import Folder
from inferbench_contract import cells, document, evidence, plan, result
from inferbench_contract.cells import Table
from inferbench_contract.evidence import Estimate
from inferbench_contract.plan import Plan
from inferbench_contract.result import CellResult
from inferbench_contract.words import Backend, Cell, Doubt, Outcome, Precision, Strategy
from inferbench_runner import answers, circumstances, environment, lifeline, prepare
from inferbench_runner import artifacts as cache
from inferbench_runner.sweep import child_environment
from inferbench_runner.task import Artifacts, CellTask

HERE = Path(__file__).resolve().parent
PROGRAM = Path(sys.executable).with_name("inferbench")
CACHE = cache.default_folder(os.environ).with_name("inferbench-benchmarks")
"""What the benchmarks keep from one run to the next: beside the cache of inferbench, never in it."""

LOOK_SECONDS = 3
QUIET_CPUS = 0.1
"""Other processes that take more of a CPU than this are work, not the system's housekeeping."""

RESNET50 = "resnet50"

HUGE = 100
"""An interval that ends beyond this has no use for digits behind the point."""


def torchvision(name: str) -> Mapping[str, Any]:
    """Return the model of a spec: torchvision's of this name, with random weights."""
    return {"torchvision": {"name": name, "weights": "random"}}


def planned(
    model: Mapping[str, Any],
    backends: Iterable[Backend],
    measurement: Mapping[str, int],
    threads: int,
    precisions: Iterable[Precision] = (Precision.FP32,),
    batch_size: int = 1,
) -> Plan:
    """Plan cells on the CPU. `measurement`: rounds, maxSecondsPerCell, warmupMaxSeconds."""
    spec = {
        "model": dict(model),
        "device": "cpu",
        "backends": [str(backend) for backend in backends],
        "precisions": [str(precision) for precision in precisions],
        "batchSizes": [batch_size],
        "cpu": {"threads": threads},
        "measurement": dict(measurement),
    }
    head = {"apiVersion": "inferbench.dev/v1alpha1", "kind": "InferenceBenchmark", "metadata": {"name": "benchmark"}}
    return plan.expand(document.from_object({**head, "spec": spec}, "the benchmark's spec"))


@dataclass(frozen=True)
class Bench:
    """A plan in a folder. What is measured there stays, so a benchmark that is started again goes on."""

    plan: Plan
    folder: Path
    python: str = sys.executable

    def measure(self, backend: Backend, round_: int) -> CellResult:
        """Run one sweep at fp32; ends the benchmark if it is not `Measured`."""
        strategy = Strategy(backend, Precision.FP32)
        cell = self.cell(strategy, round_)
        if cell.outcome is not Outcome.MEASURED:
            raise SystemExit(f"{strategy} came out as {cell.outcome}: {cell.reason}")
        return cell

    def cell(self, strategy: Strategy, round_: int) -> CellResult:
        """Run one sweep through the real supervisor and cell process, whatever comes out."""
        sweep = next(s for s in self.plan.sweeps if (s.strategy, s.round) == (strategy, round_))
        file = self.folder / "results" / f"{sweep.index}.json"
        if not file.exists() or not result.decode(file.read_bytes(), self.plan, sweep).result.is_complete(sweep):
            self._run(sweep.index)
        return result.decode(file.read_bytes(), self.plan, sweep).result.cells[0]

    def _run(self, index: int) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        plan_file = self.folder / "plan.json"
        plan_file.write_text(self.plan.dump())
        command = [self.python, "-P", "-m", "inferbench_runner", "sweep", "--plan", plan_file, "--index", str(index)]
        places = ["--output", self.folder, "--model-folder", HERE]
        run([*command, *places], dict(os.environ))


def whole_run(output: Path, spec: Mapping[str, Any], baseline: Strategy, *, is_fresh: bool) -> Table:
    """Run a benchmark with the program that users run, or what is left of it, and return its rows.

    `output` is where below CACHE its results stay. Strategies that are not accurate enough are ranked too.
    """
    compared = {"baseline": {"backend": str(baseline.backend), "precision": str(baseline.precision)}}
    folder = CACHE / output
    folder.parent.mkdir(parents=True, exist_ok=True)
    head = {"apiVersion": "inferbench.dev/v1alpha1", "kind": "InferenceBenchmark", "metadata": {"name": "benchmark"}}
    file = folder.with_suffix(".yaml")
    file.write_text(yaml.safe_dump({**head, "spec": {**spec, **compared}}, sort_keys=False))
    command = [PROGRAM, "run", file, "--output", folder, *(["--fresh"] if is_fresh else [])]
    importable = {"PYTHONPATH": f"{HERE}:{os.environ.get('PYTHONPATH', '')}"}
    subprocess.run(command, env={**os.environ, **importable}, stdout=sys.stderr, check=True)
    kept = Folder(folder)
    planned = kept.plan()
    return cells.tabulate(planned, kept.results(planned), baseline, rank_inaccurate=True)


def paired(table: Table, slower: Strategy, faster: Strategy, batch_size: int) -> Estimate | None:
    """Return how many times as long the one takes as the other, paired by round."""
    a, b = (table.medians(Cell(each, batch_size)) for each in (slower, faster))
    return evidence.paired_ratio(a, b)


def cell_header(baseline: Strategy) -> Sequence[str]:
    """Return the head of a table of cells."""
    return "batch", "strategy", "outcome", "ms", f"times as fast as {baseline}", "relative L2", "top-1", "doubts"


def cell_row(table: Table, cell: Cell, baseline: Strategy) -> Sequence[str]:
    """Return a cell as a row of such a table."""
    row = table.rows[cell]
    errors, agreements = row.values("relative_l2_parts_per_billion"), row.values("top1_agreement_basis_points")
    return [
        str(cell.batch_size),
        str(cell.strategy),
        str(row.outcome),
        milliseconds(row.latency.value) if row.latency is not None else "-",
        ratio(paired(table, baseline, cell.strategy, cell.batch_size)),
        f"{max(errors) / 1e9:.2g}" if errors else "-",
        f"{agreements[0] / 100:.1f} %" if agreements else "-",
        ", ".join(row.lasting_doubts) or "none",
    ]


def artifacts(of: Plan, backends: Iterable[Backend], python: str = sys.executable) -> Artifacts:
    """Return the files that the cells of a plan read, made now if need be: no measurement pays for it."""
    request = prepare.Request(
        model=of.work.model,
        model_folder=HERE,
        cache=cache.default_folder(os.environ),
        artifacts=prepare.needed(of.work.model, list(backends)),
    )
    if (found := prepare.locate(request)) is not None:
        return found
    print("Preparing the model (once; it stays in the cache) ...", file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder, "answer.json")
        _, *arguments = prepare.command(request, Path(folder, "request.json"), answer)
        run([python, *arguments], child_environment(circumstances.threads_default()))
        made = answers.read_answer(answer)
    if isinstance(made, answers.Refusal):
        raise SystemExit(f"The model cannot be prepared: {made.message}")
    return made


def task(of: Plan, strategy: Strategy, files: Artifacts, kept: Path, folder: Path) -> CellTask:
    """Return the task of a cell at batch 1 that reads these files, keeps what it makes, and writes into a folder."""
    return CellTask.of(Cell(strategy, 1), of.work, files, model_folder=HERE, cache=kept, scratch=folder)


def alone(function: Callable[..., Any], *arguments: Any, threads: int) -> Any:
    """Run a function in a process that has imported nothing of ours, and return its answer."""
    return answer_of(run(alone_command(function, *arguments), child_environment(threads)))


def alone_command(function: Callable[..., Any], *arguments: Any) -> Sequence[str]:
    """Return the command line of a process that runs a function and prints its answer.

    Its source is all that the process gets, so it imports what it needs itself; arguments and answer are JSON.
    """
    source = "from __future__ import annotations\n" + inspect.getsource(function)
    call = f"import json, sys\nprint(json.dumps({function.__name__}(*json.loads(sys.argv[1]))))\n"
    return sys.executable, "-P", "-c", source + call, json.dumps(arguments, default=str)


def answer_of(output: str) -> Any:
    """Read the answer of a function off what its process printed."""
    return json.loads(output.splitlines()[-1])


def run(command: Sequence[str | Path], variables: Mapping[str, str], folder: Path | None = None) -> str:
    """Run a command to its end; what it prints comes back, and ends the benchmark if it fails."""
    done = subprocess.run(
        [str(word) for word in command],
        env={**variables, **lifeline.environment()},
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        words = " ".join(str(word) for word in command)[:300]
        raise SystemExit(f"{words}\nended with status {done.returncode}:\n{(done.stdout + done.stderr)[-3000:]}")
    return done.stdout


def threads() -> int:
    """Return how many threads inferbench would take here."""
    return circumstances.threads_default()


# ---- what is printed -----------------------------------------------------------------------------


@contextmanager
def report(title: str, *libraries: str) -> Iterator[None]:
    """Print a head with the machine and its versions, then, when all is done, how long it took."""
    begin = time.monotonic()
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in libraries)
    print(f"### {title}\n\n{machine()}; {versions}.\n{quiet()}\n", flush=True)
    yield
    print(f"\nTook {(time.monotonic() - begin) / 60:.1f} minutes. Afterwards: load average {os.getloadavg()[0]:.2f}.")


def machine() -> str:
    """Name this machine in a line."""
    here = environment.describe()
    memory = f", {here.memory_bytes / 2**30:.0f} GiB" if here.memory_bytes else ""
    return f"{here.hardware}{memory}, Linux {here.kernel}, Python {platform.python_version()}"


def quiet() -> str:
    """Look for a few seconds whether others work on this machine; return the sentence, and warn if they do."""
    before = circumstances.snapshot()
    time.sleep(LOOK_SECONDS)
    seen = circumstances.difference(before, circumstances.snapshot())
    per_cpu = seen.total_ticks / (os.cpu_count() or 1) or 1
    others, stolen = seen.others_ticks / per_cpu, seen.steal_ticks / per_cpu
    sentence = f"Before: other processes took {others:.2f} CPUs, the hypervisor {stolen:.2f}"
    sentence += f", load average {os.getloadavg()[0]:.2f}."
    if others + stolen <= QUIET_CPUS:
        return sentence
    print("This machine is busy with something else: what is measured now is worth little.", file=sys.stderr)
    return f"{sentence} **Not quiet: these are no results.**"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table in Markdown; a column whose first row begins with a digit stands on the right."""
    for number, row in enumerate(rows):
        if number == 0:
            marks = ["---:" if cell[:1].isdigit() else "---" for cell in row]
            print(f"| {' | '.join(header)} |\n| {' | '.join(marks)} |")
        print(f"| {' | '.join(row)} |", flush=True)


def progress(text: str) -> None:
    """Say what is going on, apart from the result."""
    print(text, file=sys.stderr, flush=True)


def ratio(estimate: Estimate | None) -> str:
    """Write a ratio with its 95 % interval."""
    if estimate is None:
        return "-"
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:.4f}"
    return f"{estimate.value:.4f} ({estimate.low:.4f} to {estimate.high:.{4 if estimate.high < HUGE else 0}f})"


def milliseconds(nanoseconds: float) -> str:
    """Write a latency."""
    return f"{nanoseconds / 1e6:.2f}"


def doubts(cells: Iterable[CellResult]) -> str:
    """Count the doubts of some cells."""
    every = [doubt for cell in cells for doubt in cell.doubts]
    return ", ".join(f"{doubt} in {every.count(doubt)}" for doubt in Doubt if doubt in every) or "none"
