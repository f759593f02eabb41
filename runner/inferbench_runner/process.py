"""Runs one child process and watches it: its time, its memory, what it prints and how it ends.

The watch sleeps in `select` and looks four times a second, so that it does not disturb what the child measures; more
often only while the child is near its memory limit.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from inferbench_runner import lifeline, memory

LOOK_SECONDS = 0.25
"""How often the watch looks while there is memory to spare."""

SHORTEST_LOOK_SECONDS = 0.01
EATEN_BYTES_PER_SECOND = 4 << 30
"""Memory is eaten at a few GB/s at most, so the watch looks again before what is left can be gone."""

READ_BYTES = 1 << 16
TAIL_BYTES = 1 << 16
"""How much of the end of a child's output is kept; a child that prints a gigabyte costs no more."""

PROGRESS_FD = "INFERBENCH_PROGRESS_FD"
"""Environment variable with the file descriptor that a child writes its progress to, a line of JSON each."""

MAX_LINE_BYTES = 4096


class Stopped(StrEnum):
    """Why the watch ended a child."""

    TIME = "time"
    MEMORY = "memory"
    ASKED = "asked"


@dataclass(frozen=True, slots=True)
class Ended:
    """How a child ended."""

    status: int
    """Exit status; negative: the signal that killed it."""
    stopped: Stopped | None
    """Set when it was the watch that ended it."""
    output: str
    """The end of what it printed, standard output and error together."""
    seconds: float
    peak_bytes: int

    @property
    def signal_name(self) -> str:
        """Name the signal that killed it; empty when it ended by itself."""
        if self.status >= 0:
            return ""
        with contextlib.suppress(ValueError):
            return signal.Signals(-self.status).name
        return f"signal {-self.status}"


@dataclass(frozen=True, slots=True)
class Watch:
    """What a child may take, who hears of its progress, and who may ask to end it."""

    seconds: float
    on_progress: Callable[[bytes], None]
    is_asked_to_stop: Callable[[], bool]


def run(arguments: Sequence[str], environment: Mapping[str, str], watch: Watch) -> Ended:
    """Run a child in a session of its own until it ends or must be ended; nothing of it is left afterwards."""
    progress_in, progress_out = os.pipe()
    output_in, output_out = os.pipe()
    begin, killed_before = time.monotonic(), memory.kernel_kills()
    try:
        child = subprocess.Popen(
            arguments,
            env={**environment, **lifeline.environment(), PROGRESS_FD: str(progress_out)},
            stdin=subprocess.DEVNULL,
            stdout=output_out,
            stderr=output_out,
            pass_fds=(progress_out,),
            start_new_session=True,
        )
    finally:
        os.close(progress_out)
        os.close(output_out)
    with _Ears(output_in, progress_in, watch.on_progress) as ears, _nothing_left_of(child):
        stopped, peak_bytes = _watch(child, ears, watch, begin)
        _end(child)
        ears.listen(0)
    if stopped is None and child.returncode == -signal.SIGKILL and memory.kernel_kills() > killed_before:
        stopped = Stopped.MEMORY  # the kernel was quicker than the watch
    return Ended(child.returncode, stopped, ears.heard, time.monotonic() - begin, peak_bytes)


def _watch(child: subprocess.Popen[bytes], ears: _Ears, watch: Watch, begin: float) -> tuple[Stopped | None, int]:
    """Wait until the child has ended, or say why it must be."""
    peak_bytes, next_look = 0, begin
    while child.poll() is None:
        pause = max(0.0, next_look - time.monotonic())
        if not ears.listen(pause):
            _wait(child, pause)
        if time.monotonic() < next_look:
            continue
        usage = memory.usage(child.pid)
        next_look = time.monotonic() + _pause(usage)
        peak_bytes = max(peak_bytes, usage.taken if usage else 0)
        if (reason := _reason_to_stop(usage, watch, time.monotonic() - begin)) is not None:
            return reason, peak_bytes
    return None, peak_bytes


def _pause(usage: memory.Usage | None) -> float:
    """Tell how long the watch may look away."""
    if usage is None:
        return LOOK_SECONDS
    return min(LOOK_SECONDS, max(SHORTEST_LOOK_SECONDS, usage.left / EATEN_BYTES_PER_SECOND))


def _wait(child: subprocess.Popen[bytes], seconds: float) -> None:
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(seconds)


def _reason_to_stop(usage: memory.Usage | None, watch: Watch, seconds: float) -> Stopped | None:
    if watch.is_asked_to_stop():
        return Stopped.ASKED
    if usage is not None and usage.is_near_limit:
        return Stopped.MEMORY
    return Stopped.TIME if seconds > watch.seconds else None


@contextlib.contextmanager
def _nothing_left_of(child: subprocess.Popen[bytes]) -> Iterator[None]:
    try:
        yield
    finally:
        _end(child)


def _end(child: subprocess.Popen[bytes]) -> None:
    """Kill the child and whatever it started in its session, and wait for it."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


class _Ears:
    """Listens to a child's output and progress; keeps the end of the one, passes on the lines of the other."""

    def __init__(self, output: int, progress: int, on_progress: Callable[[bytes], None]) -> None:
        self._tail = bytearray()
        self._line = bytearray()
        self._on_progress = on_progress
        self._selector = selectors.DefaultSelector()
        for descriptor, hear in ((output, self._hear_output), (progress, self._hear_progress)):
            os.set_blocking(descriptor, False)
            self._selector.register(descriptor, selectors.EVENT_READ, hear)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for key in tuple(self._selector.get_map().values()):
            os.close(key.fd)
        self._selector.close()

    @property
    def heard(self) -> str:
        """The end of the output."""
        return self._tail.decode(errors="replace")

    def listen(self, seconds: float) -> bool:
        """Take what is said within `seconds`; False when the child has closed its mouth and nothing more can come."""
        if not self._selector.get_map():
            return False
        for key, _ in self._selector.select(seconds):
            data = _read(key.fd)
            if data == b"":
                self._selector.unregister(key.fd)
                os.close(key.fd)
            elif data is not None:
                key.data(data)
        return True

    def _hear_output(self, data: bytes) -> None:
        self._tail += data
        del self._tail[:-TAIL_BYTES]

    def _hear_progress(self, data: bytes) -> None:
        self._line += data
        *lines, rest = self._line.split(b"\n")
        self._line = bytearray(rest[:MAX_LINE_BYTES])
        for line in lines:
            self._on_progress(bytes(line))


def _read(descriptor: int) -> bytes | None:
    """Read what is there; b"" at the end, None when there was nothing after all."""
    try:
        return os.read(descriptor, READ_BYTES)
    except BlockingIOError:
        return None
