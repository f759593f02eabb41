"""Answers in scripted time: the whole of inferbench runs with it anywhere, and its faults are to order.

Its clock is the script's, so a second of measuring takes a few milliseconds; `realTime` makes it sleep instead.
"""

from __future__ import annotations

import math
import os
import random
import signal
import sys
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

from inferbench_contract.errors import EnvironmentFault
from inferbench_contract.script import Fault, Script, share
from inferbench_contract.words import Device, Precision
from inferbench_runner import artifacts
from inferbench_runner.backends import Arrays, Artifact, FellBack, Session, Unsupported
from inferbench_runner.clocks import HOST_CLOCK, Clock
from inferbench_runner.task import Artifacts, CellTask

ARTIFACTS: frozenset[Artifact] = frozenset()

WARMUP_FACTOR = 3.0
"""The first calls take this much longer, about what a first eager call of ResNet-50 on a CPU was measured to take."""

SLOW_FACTOR = 10
FEATURES = 10
EXAMPLES = 32
WRONG_BY = 4 / 3
FLOOD_BYTES = 1 << 30
MEBIBYTE = 1 << 20


def missing(precision: Precision, device: Device) -> str | None:  # noqa: ARG001 (it works everywhere)
    """Nothing can be missing."""
    return None


def versions() -> Mapping[str, str]:
    """Return its own version: there is nothing else to it."""
    return {"inferbench": version("inferbench")}


def write_examples(folder: Path) -> Artifacts:
    """Write evaluation inputs, and what the reference answers to them: it doubles them."""
    import numpy as np

    inputs = np.random.default_rng(0).standard_normal((EXAMPLES, FEATURES), dtype=np.float32)
    for name, arrays in (("inputs", {"input": inputs}), ("reference", {"output": 2 * inputs})):
        (folder / name).mkdir()
        artifacts.write_arrays(folder / name, arrays)
    return Artifacts(inputs=folder / "inputs", reference=folder / "reference")


class FakeSession:
    """A session whose calls advance a clock of its own."""

    def __init__(self, script: Script, task: CellTask) -> None:
        """Draw what this process has in common with its round, and what is its own."""
        import numpy as np

        self._script = script
        self._fault = script.fault_of(task.precision, task.batch_size, task.round)
        shared = random.Random(f"{script.seed} round {task.round}")
        own = random.Random(f"{script.seed} {task.cell} round {task.round}")
        effect = shared.gauss(0, share(script.drift_sd)) + own.gauss(0, share(script.process_sd))
        slowed = SLOW_FACTOR if self._fault is Fault.SLOW else 1
        self._typical_ns = 1_000 * math.exp(effect) * slowed * _microseconds(script, task.precision, task.batch_size)
        self._own = own
        self._deviation = 0.0
        self._calls = 0
        self._now_ns = 0
        self._bound = np.zeros((task.batch_size, FEATURES), dtype=np.float32)
        self._answer = self._bound

    @property
    def clock(self) -> Clock:
        """The script's clock, or the host's when it sleeps for real."""
        return HOST_CLOCK if self._script.real_time else lambda: self._now_ns

    def enqueue(self) -> None:
        """Take the scripted time for one call."""
        duration_ns = self._next_ns()
        if self._fault is Fault.HANG:
            time.sleep(10**6)
        if self._script.real_time:
            time.sleep(duration_ns / 1e9)
        self._now_ns += duration_ns
        self._answer = self._bound * 2

    def synchronize(self) -> None:
        """Nothing is ever under way."""

    def device_time_ns(self) -> int | None:
        """There is no device."""
        return None

    def load_batch(self, inputs: Arrays) -> None:
        """Take a batch."""
        self._bound[...] = inputs["input"]

    def inputs(self) -> Arrays:
        """Return the batch."""
        return {"input": self._bound.copy()}

    def outputs(self) -> Arrays:
        """Return twice the inputs, or something wrong where the script says so."""
        answer = self._answer * (WRONG_BY if self._fault is Fault.INACCURATE else 1)
        if self._fault is Fault.NOT_FINITE:
            answer[0, 0] = math.nan
        return {"output": answer}

    def _next_ns(self) -> int:
        """Draw one call: an autoregressive process of order one around the process's own level."""
        carry = share(self._script.autocorrelation)
        innovation = share(self._script.call_sd) * math.sqrt(max(0.0, 1 - carry * carry))
        self._deviation = carry * self._deviation + self._own.gauss(0, innovation)
        self._calls += 1
        slow = WARMUP_FACTOR if self._calls <= self._script.warmup_calls else 1.0
        return max(1, round(self._typical_ns * math.exp(self._deviation) * slow))


def load(task: CellTask) -> Session:
    """Start a scripted session, or end as its fault says."""
    script = Script.model_validate(dict(task.options))
    time.sleep(script.start_seconds)
    _strike(script.fault_of(task.precision, task.batch_size, task.round), task)
    return FakeSession(script, task)


def _microseconds(script: Script, precision: Precision, batch_size: int) -> float:
    speedup = float(script.speedups.get(precision, "1x").removesuffix("x"))
    return (script.call_microseconds + batch_size * script.item_microseconds) / speedup


def _strike(fault: Fault | None, task: CellTask) -> None:
    """Do what the fault says; those of calls and outputs strike later, in the session."""
    if fault in ERRORS:
        raise ERRORS[fault](f"Scripted: {task.cell} was to end as {fault}.")
    match fault:
        case Fault.CRASH:
            _last_words("about to crash, as scripted")
            os.kill(os.getpid(), signal.SIGSEGV)
        case Fault.EAT_MEMORY:
            _eat_memory()
        case Fault.GARBAGE:
            task.result.write_bytes(b'{"outcome": "Measured", \xff\x00 nonsense')
            os._exit(0)
        case Fault.NO_RESULT:
            os._exit(0)
        case Fault.EXIT:
            _last_words("giving up, as scripted")
            os._exit(7)
        case Fault.FLOOD:
            _flood()


ERRORS: Mapping[Fault | None, type[Exception]] = {
    Fault.OUT_OF_MEMORY: MemoryError,
    Fault.RAISE: RuntimeError,
    Fault.UNSUPPORTED: Unsupported,
    Fault.FELL_BACK: FellBack,
    Fault.ENVIRONMENT: EnvironmentFault,
}
"""The faults that are errors of a library, or of ours."""


def _last_words(text: str) -> None:
    """Say something as a dying library does: at once, and not by an error."""
    os.write(sys.stderr.fileno(), text.encode() + b"\n")


def _eat_memory() -> None:
    eaten = []
    while True:
        eaten.append(bytearray(os.urandom(MEBIBYTE)) * 16)
        time.sleep(0.01)


def _flood() -> None:
    line = b"x" * (MEBIBYTE - 1) + b"\n"
    for _ in range(FLOOD_BYTES // MEBIBYTE):
        sys.stdout.buffer.write(line)
    sys.stdout.flush()
