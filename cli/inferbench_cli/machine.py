"""Starts the runner on this machine, as a cluster would start a pod, and asks it about this machine."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from inferbench_cli import folder
from inferbench_contract.errors import EnvironmentFault, InferbenchError, PlanError, how_to_install
from inferbench_contract.handshake import BAD_CONFIGURATION_STATUS, ENVIRONMENT_FAULT_STATUS, PARENT_VARIABLE

TAIL_CHARS = 2_000
KEPT_LINES = 1_000
"""Of what a runner says on standard error: all of it goes into the log, the end into a message."""

LOOK_SECONDS = 120
"""The largest ONNX file, of 2 GB, takes 21 s on two busy CPUs, and a slow disk a minute more. A network disk that does
not answer would take for ever."""

REQUIRED = ("inferbench_runner", "numpy")
"""What every runner imports. The libraries of a backend are its own to ask for."""

SENTENCES = (BAD_CONFIGURATION_STATUS, ENVIRONMENT_FAULT_STATUS)
"""With these the runner has said what is wrong in a sentence."""

Hear = Callable[[Mapping[str, Any]], None]


@dataclass(frozen=True)
class Model:
    """Where a model is, and what it was when the run was begun."""

    folder: Path
    """What relative paths of the model start from."""
    sha256: str | None
    """Of its files; None where it has none."""


class RunnerDiedError(InferbenchError):
    """The runner itself ended without finishing its sweep; running it again may help."""


class InterruptedRun(Exception):
    """The person at the terminal wants it to end."""


def ask(*arguments: str) -> Any:
    """Run the runner for an answer in JSON. Raises EnvironmentFault when it cannot give one."""
    done = subprocess.run(
        _command(*arguments), env=_environment(), capture_output=True, encoding="utf-8", errors="replace", check=False
    )
    words = done.stderr[-TAIL_CHARS:].strip()
    if done.returncode in SENTENCES:
        raise EnvironmentFault(words)
    if done.returncode != 0:
        raise EnvironmentFault(f"The runner cannot tell about this machine: {words}")
    return json.loads(done.stdout)


def describe(plan_file: Path, model_folder: Path) -> Mapping[str, Any]:
    """Return what machine this is, and the hash of a plan's model. Raises EnvironmentFault where its files are not."""
    described: Mapping[str, Any] = ask("environment", "--plan", str(plan_file), "--model-folder", str(model_folder))
    return described


def hand_over(request: str) -> Any:
    """Let the runner write what a request in JSON asks for, and return its answer.

    Raises:
        EnvironmentFault: this machine cannot do it.
        InferbenchError: it cannot be done.
    """
    return _asked("export", request)


def look_into(request: str, within_seconds: float = LOOK_SECONDS) -> Any:
    """Let the runner look at the files of the model that a request in JSON names, and return what is wrong with them.

    Raises:
        EnvironmentFault: this machine cannot do it.
        InferbenchError: it cannot be done, or not in time; the runner is gone then.
    """
    try:
        return _asked("look", request, within_seconds)
    except subprocess.TimeoutExpired as error:
        raise InferbenchError(
            f"that could not be done within {within_seconds:g} s, and `inferbench run` gives it as long as "
            "spec.timeoutSecondsPerSweep says."
        ) from error


def _asked(command: str, request: str, within_seconds: float | None = None) -> Any:
    done = subprocess.run(
        _command(command),
        env=_environment(),
        input=request,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=False,
        timeout=within_seconds,
    )
    words = done.stderr[-TAIL_CHARS:].strip()
    if done.returncode == ENVIRONMENT_FAULT_STATUS:
        raise EnvironmentFault(words)
    if done.returncode != 0:
        raise InferbenchError(words or f"The runner ended with status {done.returncode} and said nothing.")
    return json.loads(done.stdout.splitlines()[-1])


def measure(plan_file: Path, index: int, output: Path, model: Model, hear: Hear) -> None:
    """Run one sweep in a runner process, and pass on what it tells.

    Ctrl-C asks it to stop, and it delivers what it has; a second Ctrl-C kills it.

    Raises:
        InterruptedRun: Ctrl-C was pressed.
        EnvironmentFault: the runner says that this machine cannot do it, or that the model is another one now.
        RunnerDiedError: the runner ended otherwise without finishing the sweep.
        PlanError: the runner cannot read the plan.
    """
    places = ("--plan", str(plan_file), "--output", str(output), "--model-folder", str(model.folder))
    hashed = () if model.sha256 is None else ("--model-sha256", model.sha256)
    with _started(_command("sweep", "--index", str(index), *places, *hashed)) as runner, _stopping(runner) as asked:
        errors = _Errors(runner.stderr)
        _hear_all(runner, hear)
        status = runner.wait()
        errors.join()
    if asked:
        raise InterruptedRun
    _judge(status, errors.heard, output / "logs" / f"sweep-{index}.log")


def _started(command: list[str]) -> subprocess.Popen[str]:
    """Start it in a session of its own: the terminal's Ctrl-C is for us alone."""
    return subprocess.Popen(
        command,
        env=_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
    )


class _Errors(threading.Thread):
    """Hears what the runner says on standard error. Through a pipe, because the disk may be what it complains about."""

    def __init__(self, stream: IO[str] | None) -> None:
        super().__init__(daemon=True)
        self._stream = stream
        self._lines: deque[str] = deque(maxlen=KEPT_LINES)
        self.start()

    def run(self) -> None:
        """Listen until the runner has ended."""
        self._lines.extend(self._stream or ())

    @property
    def heard(self) -> str:
        """The end of what it said."""
        return "".join(self._lines)


def _keep(words: str, log: Path) -> None:
    """Leave the whole of it where a person finds it, if there is room for that."""
    if words:
        with contextlib.suppress(OSError, EnvironmentFault):
            log.parent.mkdir(parents=True, exist_ok=True)
            folder.write_whole(log, words)


@contextmanager
def _stopping(runner: subprocess.Popen[str]) -> Iterator[Sequence[int]]:
    """Pass Ctrl-C (or SIGTERM) on: ask the runner to stop, and kill it when asked again. Yields what was asked."""
    asked: list[int] = []

    def stop(number: int, _: object) -> None:
        asked.append(number)
        runner.send_signal(signal.SIGTERM if len(asked) == 1 else signal.SIGKILL)

    heeded = [number for number in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, stop) for number in heeded}
    try:
        yield asked
    except BaseException:
        runner.kill()
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _hear_all(runner: subprocess.Popen[str], hear: Hear) -> None:
    for line in runner.stdout or ():
        try:
            said = json.loads(line)
        except ValueError:
            continue
        if isinstance(said, dict):
            hear(said)


def _judge(status: int, words: str, log: Path) -> None:
    """Say what the end of a runner means. What it says of the machine or the plan is a message; the rest is logged."""
    end = words[-TAIL_CHARS:].strip()
    if status == ENVIRONMENT_FAULT_STATUS:
        raise EnvironmentFault(end)
    if status == BAD_CONFIGURATION_STATUS:
        raise PlanError(end)
    _keep(words, log)
    if status != 0:
        raise RunnerDiedError(
            f"The runner of {log.stem} ended with status {status}: {end or 'it said nothing'}. "
            "What was measured stays; the same command goes on from it."
        )


def _command(*arguments: str) -> list[str]:
    """Return the runner's command line: the same Python, and no module of the current folder by accident (-P)."""
    if any(importlib.util.find_spec(name) is None for name in REQUIRED):
        raise EnvironmentFault(f"The runner is not installed. {how_to_install('runner')}")
    return [sys.executable, "-P", "-m", "inferbench_runner", *arguments]


def _environment() -> dict[str, str]:
    """Let the runner die with this process, and speak UTF-8 whatever this terminal's locale is."""
    return {**os.environ, PARENT_VARIABLE: str(os.getpid()), "PYTHONUTF8": "1"}
