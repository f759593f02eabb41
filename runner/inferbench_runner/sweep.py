"""The supervisor of a sweep: prepares, runs each cell in a process of its own, and tells what became of it.

It is the same in a pod and in local mode; only what `deliver` does with the result differs. It delivers before a cell
starts, naming it as in flight, and after it has ended, so that a killed sweep still says what it had.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import TypeAdapter, ValidationError

from inferbench_contract.errors import EnvironmentFault
from inferbench_contract.handshake import ENVIRONMENT_FAULT_STATUS
from inferbench_contract.plan import Plan, Sweep
from inferbench_contract.result import CellResult, SweepResult, cut_in_the_middle
from inferbench_contract.sentences import counted
from inferbench_contract.words import Backend, Cell, Device, Outcome
from inferbench_runner import (
    answers,
    backends,
    circumstances,
    environment,
    gpu,
    privacy,
    process,
    sinks,
    watching,
    work,
)
from inferbench_runner.environment import Environment
from inferbench_runner.guards import Seen
from inferbench_runner.process import Ended, Stopped, Watch
from inferbench_runner.task import Artifacts, CellTask

if TYPE_CHECKING:
    from inferbench_runner import prepare

Deliver = Callable[[SweepResult], None]

ROOT_CAUSE_CHARS = 300
"""The end of a dead process's output that goes into its reason; all of the kept tail goes into its log."""

FAULT_CHARS = 1_000
"""The same where the process says what the machine lacks: it names folders and what to do."""

MAX_RESULT_BYTES = 1 << 16
"""A cell's result is a few hundred bytes and a reason; its process may be out of its mind."""

PROBE_SECONDS = 60.0
"""A probe takes seconds, most of them for importing PyTorch; one that hangs costs no more than this."""

CELL_RESULT = TypeAdapter(CellResult)


@dataclass(frozen=True)
class Place:
    """Where a sweep works: the folders it reads and writes, who hears of its progress, who may ask it to stop."""

    model_folder: Path
    cache: Path
    samples: Path | None
    """Folder for raw samples; None: they are not kept."""
    logs: Path | None
    """Folder for what cells printed that went wrong; None: it goes to standard error."""
    tell: Callable[[Mapping[str, Any]], None]
    is_asked_to_stop: Callable[[], bool]
    see: watching.See = watching.look_away
    """Who sees each reading of the GPU while a cell runs."""


class AskedToStop(Exception):
    """The sweep ended before its end, because it was told to; what it had is delivered."""


def run(plan: Plan, sweep: Sweep, deliver: Deliver, place: Place, previous: SweepResult | None = None) -> SweepResult:
    """Measure the cells of a sweep that `previous` has no outcome for, and return its result.

    Raises:
        EnvironmentFault: the machine cannot do it, and no retry would help.
        AskedToStop: somebody asked; delivered results stay.
    """
    result = _begin(plan, sweep, previous)
    deliver(result)
    reason = unsupported_here(plan, sweep)
    if reason is None:
        result = _measure(plan, sweep, deliver, place, result)
    else:
        result = result.filled(sweep, Outcome.UNSUPPORTED, reason)
    result = replace(result, finished_ms=_now_ms())
    deliver(result)
    return result


def _begin(plan: Plan, sweep: Sweep, previous: SweepResult | None) -> SweepResult:
    machine = environment.describe()
    fresh = SweepResult(
        plan=plan.short_hash,
        sweep=sweep.index,
        hardware=_hardware(machine, plan),
        fingerprint=machine.fingerprint,
        started_ms=_now_ms(),
    )
    return fresh if previous is None else _continued(previous, fresh)


def _continued(previous: SweepResult, fresh: SweepResult) -> SweepResult:
    """Keep what an interrupted sweep has, and the time that it took; the pause since then is nobody's time."""
    spent_ms = (previous.finished_ms or 0) - (previous.started_ms or 0)
    started_ms = (fresh.started_ms or 0) - max(0, spent_ms)
    return replace(fresh, cells=previous.cells, started_ms=started_ms, prepare_ms=previous.prepare_ms)


def _hardware(machine: Environment, plan: Plan) -> str:
    """Name what the numbers are of: the GPU that is measured, or the processor and how many threads."""
    if plan.work.device is Device.GPU and (card := watching.card()) is not None:
        return card.in_words
    return f"{machine.cpu_model}, {counted(_threads(plan), 'thread')}"


def unsupported_here(plan: Plan, sweep: Sweep) -> str | None:
    """Ask the backend what it lacks on this machine. Raises EnvironmentFault where it lacks the device."""
    return backends.find(sweep.strategy.backend).missing(sweep.strategy.precision, plan.work.device)


def _measure(plan: Plan, sweep: Sweep, deliver: Deliver, place: Place, result: SweepResult) -> SweepResult:
    deadline = time.monotonic() + plan.work.timeout_seconds_per_sweep
    begin = time.monotonic()
    prepared = _artifacts(plan, sweep, place, deadline)
    result = replace(result, prepare_ms=(result.prepare_ms or 0) + round(1000 * (time.monotonic() - begin)))
    if isinstance(prepared, _Failure):
        return result.filled(sweep, prepared.outcome, prepared.reason)
    missing = [cell for cell in sweep.cells if cell.batch_size not in {done.batch_size for done in result.cells}]
    with _watcher(plan, sweep, place) as watcher:
        for place_in_line, cell in enumerate(missing):
            if (done := _after_out_of_memory(result, cell)) is None:
                deliver(replace(result, in_flight=cell.batch_size))
                seconds = max(0.0, deadline - time.monotonic()) / (len(missing) - place_in_line)
                with _scratch() as scratch:
                    task = _task(plan, cell, prepared, place, scratch)
                    task = _in_round(task, sweep, place, counts_energy=watcher.counts_energy)
                    run_cell, least = partial(_run_cell, task, place, seconds), work.read(prepared.reference)
                    done = watcher.around(run_cell, task.precision, least, partial(keep_seen, task.samples))
            result = replace(result.with_cell(done), finished_ms=_now_ms())
            deliver(result)
            place.tell(_ended(done))
    return result


def _ended(cell: CellResult) -> Mapping[str, Any]:
    return {
        "event": "cell",
        "batchSize": cell.batch_size,
        "outcome": cell.outcome,
        "reason": cell.reason,
        "latencyNanoseconds": cell.latency_median_ns,
    }


def _watcher(plan: Plan, sweep: Sweep, place: Place) -> watching.Watcher:
    """Watch the GPU, where there is one that computes."""

    def run_probe(arguments: Sequence[str]) -> None:
        process.run(arguments, child_environment(_threads(plan)), _watch(place, PROBE_SECONDS))

    is_wanted = plan.work.device is Device.GPU and sweep.strategy.backend is not Backend.FAKE
    return watching.watcher(run_probe, place.cache, is_wanted=is_wanted, see=place.see)


@dataclass(frozen=True)
class _Failure:
    """Why nothing of a sweep could be measured."""

    outcome: Outcome
    reason: str


class _Maker(Protocol):
    """A module whose process makes files for the cache: `prepare`, `convert` or `programs`."""

    def locate(self, request: Any) -> Artifacts | None:
        """Find what is made already."""

    def command(self, request: Any, request_file: Path, answer_file: Path) -> Sequence[str]:
        """Return the command line that makes it."""


def _artifacts(plan: Plan, sweep: Sweep, place: Place, deadline: float) -> Artifacts | _Failure:
    """Find the files that the backend reads, or have them made: the model's, then what this precision wants of it."""
    backend = sweep.strategy.backend
    if not backends.find(backend).ARTIFACTS:
        return Artifacts()
    from inferbench_runner import convert, prepare, programs

    model, cache = plan.work.model, place.cache
    needed = prepare.needed(model, [backend])
    request = prepare.Request(model=model, model_folder=place.model_folder, cache=cache, artifacts=needed)
    prepared = _made(prepare, request, "preparing the model", plan, place, deadline)
    if isinstance(prepared, _Failure):
        if _fails_for_all(plan, request, prepared):
            place.tell({"event": "model", "reason": prepared.reason})
        return prepared
    if programs.is_needed(sweep.strategy):
        with _scratch() as scratch:
            task = _task(plan, sweep.cells[0], prepared, place, scratch)
            return _made(programs, task, "quantising the model for PyTorch", plan, place, deadline)
    wanted = convert.request_for(sweep.strategy, plan.work, prepared, cache)
    if wanted is None:
        return prepared
    graph = _made(convert, wanted, f"converting the graph to {sweep.strategy.precision}", plan, place, deadline)
    return graph if isinstance(graph, _Failure) else prepared.model_copy(update={"onnx": graph.onnx})


def _fails_for_all(plan: Plan, request: prepare.Request, failure: _Failure) -> bool:
    """Tell whether a model could not be prepared for any of a plan's strategies, and another try would end the same.

    What all of them read is made first. When it is there, only what is this strategy's own is missing.
    """
    from inferbench_runner import prepare

    shared = prepare.SHARED
    all_read_it = all(shared <= backends.find(sweep.strategy.backend).ARTIFACTS for sweep in plan.sweeps)
    is_there = prepare.locate(request.model_copy(update={"artifacts": shared})) is not None
    return failure.outcome is Outcome.FAILED and all_read_it and not is_there


def _made(maker: _Maker, request: Any, what: str, plan: Plan, place: Place, deadline: float) -> Artifacts | _Failure:
    """Find what a request asks for in the cache, or have it made by a process of its own."""
    if (found := maker.locate(request)) is not None:
        return found
    place.tell({"event": "progress", "stage": what})
    with _scratch() as scratch:
        answer = scratch / "answer.json"
        with sinks.words_for_the_disk(scratch, sinks.SCRATCH):
            arguments = maker.command(request, scratch / "request.json", answer)
        left = max(0.0, deadline - time.monotonic())
        ended = process.run(arguments, child_environment(_threads(plan)), _watch(place, left))
        failure = _why_not_made(ended, what, answer)
    if failure is not None:
        _keep_log(place, what.split(maxsplit=1)[0], ended)
        return failure
    return maker.locate(request) or _Failure(Outcome.FAILED, f"NotMade: {what} left nothing in the cache")


def _why_not_made(ended: Ended, what: str, answer: Path) -> _Failure | None:
    if ended.stopped is Stopped.ASKED:
        raise AskedToStop
    outcome, reason = _fate(ended, what)
    if outcome is not None:
        return _Failure(outcome, reason)
    told = answers.read_answer(answer)
    return None if isinstance(told, Artifacts) else _Failure(told.outcome, told.message)


@contextmanager
def _scratch() -> Iterator[Path]:
    """Make a folder of this process's own for what it and a child hand each other."""
    with sinks.words_for_the_disk(Path(tempfile.gettempdir()), sinks.SCRATCH):
        folder = Path(tempfile.mkdtemp(prefix="inferbench-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _task(plan: Plan, cell: Cell, prepared: Artifacts, place: Place, scratch: Path) -> CellTask:
    return CellTask.of(cell, plan.work, prepared, model_folder=place.model_folder, cache=place.cache, scratch=scratch)


def _in_round(task: CellTask, sweep: Sweep, place: Place, *, counts_energy: bool) -> CellTask:
    """Let a task belong to a round, whose samples are kept."""
    samples = None if place.samples is None else place.samples / f"{sweep.index}-{task.batch_size}.json.gz"
    return task.model_copy(update={"round": sweep.round, "samples": samples, "counts_energy": counts_energy})


def _threads(plan: Plan) -> int:
    return plan.work.threads or circumstances.threads_default()


def _run_cell(task: CellTask, place: Place, seconds: float, hear: watching.Hear) -> CellResult:
    """Run one cell in its process; its result, or what its end says."""
    task_file = task.result.with_name("task.json")
    sinks.write_whole(task_file, task.model_dump_json().encode(), sinks.SCRATCH)
    arguments = [sys.executable, "-m", "inferbench_runner.cell", str(task_file)]
    ended = process.run(arguments, child_environment(task.threads), _watch(place, seconds, task, hear))
    result = _cell_result(task, ended)
    if result.outcome not in (Outcome.MEASURED, Outcome.UNSUPPORTED):
        _keep_log(place, f"{task.backend}-{task.precision}-b{task.batch_size}-round{task.round + 1}", ended)
    return result


def child_environment(threads: int) -> dict[str, str]:
    """Return a child's environment. PYTHONSAFEPATH: no module of the current folder may stand in for a library's."""
    told = dict.fromkeys(THREAD_VARIABLES, str(threads))
    return {**os.environ, **privacy.VARIABLES, "PYTHONSAFEPATH": "1", **told}


def keep_seen(samples: Path | None, seen: Seen) -> None:
    """Write what was read of the GPU beside the raw calls of a cell that has any."""
    if samples is None or not samples.exists():
        return
    when = {} if seen.window is None else seen.window.told()
    sinks.write_readings(_readings_file(samples), when, gpu.columns(seen.readings))


def _readings_file(samples: Path) -> Path:
    """Name the file for what was read of the GPU after that of the raw calls: `0-8.json.gz`, `0-8-gpu.json.gz`."""
    return samples.with_name(samples.name.replace(".", "-gpu.", 1))


def _cell_result(task: CellTask, ended: Ended) -> CellResult:
    """Read what the cell left; its end decides when it was torn down or left nothing that can be read."""
    if ended.stopped is Stopped.ASKED:
        raise AskedToStop
    if ended.status == ENVIRONMENT_FAULT_STATUS:
        raise EnvironmentFault(f"{task.cell}: {_last_words(ended, FAULT_CHARS)}")
    outcome, reason = _fate(ended, str(task.cell))
    if outcome is not None:
        return CellResult(task.batch_size, outcome, reason)
    try:
        return read_cell_result(task.result, task.batch_size)
    except FileNotFoundError:
        return _no_result(task, ended, "left no result")
    except ValueError as error:
        what = "JSON of another form" if isinstance(error, ValidationError) else error
        return _no_result(task, ended, f"left a result that cannot be read: {what}")


def _no_result(task: CellTask, ended: Ended, what: str) -> CellResult:
    reason = f"NoResult: the process ended with status 0 but {what}. {_last_words(ended)}"
    return CellResult(task.batch_size, Outcome.CRASHED, reason.strip())


def read_cell_result(file: Path, batch_size: int) -> CellResult:
    """Read what a cell process wrote. Raises ValueError where it is not the result of this cell."""
    with file.open("rb") as stream:
        payload = stream.read(MAX_RESULT_BYTES + 1)
    if len(payload) > MAX_RESULT_BYTES:
        raise ValueError(f"it is larger than {MAX_RESULT_BYTES} bytes")
    result = CELL_RESULT.validate_json(payload, strict=True)
    if result.batch_size != batch_size:
        raise ValueError(f"it is of batch size {result.batch_size}")
    if result.outcome is Outcome.MEASURED and (result.latency_median_ns or 0) <= 0:
        raise ValueError("it is Measured but has no latency")
    return result


def _fate(ended: Ended, what: str) -> tuple[Outcome | None, str]:
    """Say what the end of a process means; (None, "") when it ended well."""
    words = _last_words(ended)
    if ended.stopped is Stopped.TIME:
        return Outcome.TIMED_OUT, f"TimeLimit: {what} took more than its {ended.seconds:.0f} s. {words}".strip()
    if ended.stopped is Stopped.MEMORY:
        taken = f"{ended.peak_bytes >> 20} MiB"
        return Outcome.OUT_OF_MEMORY, f"HostMemory: {what} held {taken} when memory was used up"
    if ended.status < 0:
        return Outcome.CRASHED, f"{ended.signal_name}: {what} was killed by a signal. {words}".strip()
    if ended.status != 0:
        return Outcome.CRASHED, f"ExitStatus: {what} ended with status {ended.status}. {words}".strip()
    return None, ""


def _last_words(ended: Ended, limit: int = ROOT_CAUSE_CHARS) -> str:
    lines = [line.strip() for line in ended.output.splitlines() if line.strip()]
    return cut_in_the_middle(" | ".join(lines[-3:]), limit)


def _after_out_of_memory(result: SweepResult, cell: Cell) -> CellResult | None:
    """Spare a batch size larger than one that was out of memory."""
    smaller = [done.batch_size for done in result.cells if done.outcome is Outcome.OUT_OF_MEMORY]
    if not smaller or cell.batch_size < min(smaller):
        return None
    reason = f"AfterOutOfMemory: batch size {min(smaller)} was out of memory already"
    return CellResult(cell.batch_size, Outcome.OUT_OF_MEMORY, reason)


def _watch(place: Place, seconds: float, task: CellTask | None = None, hear: watching.Hear | None = None) -> Watch:
    def on_progress(line: bytes) -> None:
        try:
            said = json.loads(line)
        except ValueError:
            return
        if isinstance(said, dict):
            if hear is not None:
                hear(said)
            place.tell({**said, "event": "progress", "batchSize": task.batch_size if task else None})

    return Watch(seconds, on_progress, place.is_asked_to_stop)


THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
"""Numeric libraries read these when they are loaded, before any of our code could tell them how many threads to use."""


def _keep_log(place: Place, name: str, ended: Ended) -> None:
    if not ended.output:
        return
    if place.logs is None:
        sys.stderr.write(f"{name}, the end of its output:\n{ended.output}\n")
    else:
        sinks.write_whole(place.logs / f"{name}.log", ended.output.encode())


def _now_ms() -> int:
    """Wall clock: sweeps of one benchmark run in many processes, whose monotonic clocks have nothing in common."""
    return time.time_ns() // 1_000_000
