"""The folder of one benchmark on this machine: its plan, what was measured, and who may write to it just now.

plan.json  environment.json  results/<sweep>.json  samples/  logs/  summary.json  cells.csv  report.html
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import gzip
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from inferbench_contract import plan as plans
from inferbench_contract import result as results
from inferbench_contract.errors import EnvironmentFault, InferbenchError, PlanError, ResultError
from inferbench_contract.plan import Plan, Sweep
from inferbench_contract.result import SweepResult
from inferbench_contract.words import Cell

PLAN = "plan.json"
BENCHMARK = "benchmark.yaml"
REPORT = "report.html"
LOGS = "logs"

OURS = ("environment.json", "results", "samples", LOGS, "summary.json", "cells.csv", REPORT, PLAN, BENCHMARK)
"""What --fresh removes, in this order; anything else in the folder is somebody else's."""

LOCK = ".lock"

HALF = re.compile(r"\..+\.[0-9]+\.tmp")
"""A file that was being written when its process was killed."""


class FolderInUseError(InferbenchError):
    """Another run is writing to the folder."""

    exit_status = 3


@dataclass(frozen=True)
class Folder:
    """A results folder. Reading it needs no lock; `opened` gives one that may be written."""

    path: Path

    @property
    def plan_file(self) -> Path:
        """The frozen plan."""
        return self.path / PLAN

    @property
    def benchmark_file(self) -> Path:
        """A copy of the YAML that was run, so that the report can be made again from the folder alone."""
        return self.path / BENCHMARK

    @property
    def has_logs(self) -> bool:
        """Tell whether some process went wrong and printed something."""
        logs = self.path / LOGS
        return logs.is_dir() and any(logs.iterdir())

    def plan(self) -> Plan:
        """Read the plan. Raises PlanError when there is none or it was changed."""
        try:
            return plans.load(self.plan_file.read_text(encoding="utf-8"), str(self.plan_file))
        except FileNotFoundError as error:
            raise PlanError(f"{self.path} holds no plan.json, so it is not a folder of results.") from error
        except NotADirectoryError as error:
            raise PlanError(
                f"{self.path} is a file, expected a folder of results. `inferbench run {self.path}` measures a "
                "benchmark, and prints the folder that holds its results."
            ) from error
        except (OSError, UnicodeDecodeError) as error:
            raise PlanError(f"{self.plan_file} cannot be read: {error}. {plans.START_OVER}") from error

    def results(self, plan: Plan) -> tuple[SweepResult, ...]:
        """Read what was delivered so far; what cannot be read counts as not measured."""
        return tuple(found for sweep in plan.sweeps if (found := self.result(plan, sweep)) is not None)

    def result(self, plan: Plan, sweep: Sweep) -> SweepResult | None:
        """Read one sweep's result; None when there is none that can be read."""
        try:
            return results.decode((self.path / "results" / f"{sweep.index}.json").read_bytes(), plan, sweep).result
        except (OSError, ResultError):
            return None

    def samples(self, plan: Plan) -> Mapping[tuple[Cell, int], Sequence[int]]:
        """Read the raw calls of every cell and round that kept them, in nanoseconds."""
        found = {(c, s.round): self._calls(s.index, c.batch_size) for s in plan.sweeps for c in s.cells}
        return {place: calls for place, calls in found.items() if calls}

    def environment(self) -> Mapping[str, Any]:
        """Read what machine it was; empty when nobody wrote it down."""
        try:
            content = json.loads((self.path / "environment.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}

    def write(self, name: str, content: str) -> None:
        """Write a file whole or not at all. Raises EnvironmentFault that names the folder."""
        write_whole(self.path / name, content)

    def _calls(self, sweep: int, batch_size: int) -> Sequence[int]:
        try:
            content = json.loads(
                gzip.decompress((self.path / "samples" / f"{sweep}-{batch_size}.json.gz").read_bytes())
            )
            return [int(call) for call in content["latenciesNanoseconds"]]
        except (OSError, EOFError, ValueError, KeyError, TypeError):
            return []


def default_path(name: str, plan: Plan) -> Path:
    """Name the folder after the benchmark and its plan: another plan is another folder."""
    return Path("inferbench-results", f"{name}-{plan.short_hash}")


@contextmanager
def opened(path: Path, plan: Plan, benchmark: str, *, fresh: bool) -> Iterator[Folder]:
    """Open a folder for writing this plan's results, and nobody else's.

    Raises:
        FolderInUseError: another run has it open.
        PlanError: it holds results of another plan, or somebody's files.
        EnvironmentFault: it cannot be written.
    """
    folder = Folder(path)
    with _words_for_the_disk(path):
        path.mkdir(parents=True, exist_ok=True)
        _require_no_strangers(path)
        lock = (path / LOCK).open("a+", encoding="utf-8")
    with lock:
        _hold(lock, path)
        with _words_for_the_disk(path):
            if fresh:
                _remove_ours(path)
            _remove_halves(path)
        if folder.plan_file.exists():
            _require_same(folder, plan)
        folder.write(BENCHMARK, benchmark)
        folder.write(PLAN, plan.dump() + "\n")
        yield folder


def write_whole(path: Path, content: str) -> None:
    """Write a file by a rename, so that nobody ever reads half of it."""
    with _words_for_the_disk(path.parent):
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            temporary.write_text(content, encoding="utf-8")
            temporary.replace(path)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


def _hold(lock: TextIO, path: Path) -> None:
    """Take the folder's lock; the kernel lets it go however this process ends."""
    with _words_for_the_disk(path):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            owner = lock.read().strip() or "unknown"
            raise FolderInUseError(
                f"Another run (process {owner}) is writing to {path}. "
                "Wait for it, stop it, or give --output another folder."
            ) from error
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()


def _require_same(folder: Folder, plan: Plan) -> None:
    found = folder.plan()
    if found.hash != plan.hash:
        raise PlanError(
            f"{folder.path} holds results of plan {found.short_hash}, and this benchmark's plan is {plan.short_hash}. "
            "Give --output another folder, or throw those results away with `inferbench run --fresh`."
        )


def _require_no_strangers(path: Path) -> None:
    """Refuse a folder that holds somebody's files: `--output ~` must not mix with them, nor --fresh remove them.

    A folder is ours when both files are there that are written first and removed last.
    """
    if (path / PLAN).exists() and (path / BENCHMARK).exists():
        return
    strangers = sorted(entry.name for entry in path.iterdir() if entry.name not in {LOCK, BENCHMARK})
    strangers = [name for name in strangers if not HALF.fullmatch(name)]
    if strangers:
        raise PlanError(
            f"{path} is not empty and no folder of results (it holds {', '.join(strangers[:3])}). "
            "Give --output a new folder."
        )


def _remove_ours(path: Path) -> None:
    for name in OURS:
        target = path / name
        if target.is_dir():
            shutil.rmtree(target)
        else:
            target.unlink(missing_ok=True)


def _remove_halves(path: Path) -> None:
    """Remove what a killed run had not finished writing."""
    for file in (*path.iterdir(), *(path / "results").glob("*"), *(path / "samples").glob("*")):
        if HALF.fullmatch(file.name):
            file.unlink(missing_ok=True)


@contextmanager
def _words_for_the_disk(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        advice = "Make room there or give" if error.errno in {errno.ENOSPC, errno.EDQUOT} else "Give"
        raise EnvironmentFault(
            f"{path} cannot be written: {error.strerror or error}. {advice} --output another folder; "
            "what is already measured stays, and the same command goes on from it."
        ) from error
