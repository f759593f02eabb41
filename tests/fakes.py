"""Stand-ins for what a test cannot wait for: a clock that a script moves, a session whose calls take scripted time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import repeat

from inferbench_runner.backends import Arrays
from inferbench_runner.clocks import Clock

MILLISECOND = 1_000_000
SECOND = 1_000_000_000


class ScriptedClock:
    """Stands still until somebody lets time pass."""

    def __init__(self, now_ns: int = 0) -> None:
        self.now_ns = now_ns

    def __call__(self) -> int:
        return self.now_ns

    def advance(self, duration_ns: int) -> None:
        """Let time pass."""
        self.now_ns += duration_ns


class ScriptedSession:
    """A session for `measure`: the n-th call takes the n-th duration, and the last one is repeated for ever.

    Without `enqueue_ns` it is a CPU: `enqueue` takes all the time. With it, it is a device with events: `enqueue` takes
    that long, the device works the call's duration from when it is free, and `synchronize` waits for it.
    """

    def __init__(self, durations_ns: Iterable[int], enqueue_ns: int | None = None) -> None:
        self.scripted_clock = ScriptedClock()
        self.calls = 0
        self.synchronizations = 0
        self._durations_ns = _repeating_the_last(durations_ns)
        self._enqueue_ns = enqueue_ns
        self._device_free_ns = 0
        self._last_ns = 0

    @property
    def clock(self) -> Clock:
        """The script's clock."""
        return self.scripted_clock

    def enqueue(self) -> None:
        """Start a call."""
        self.calls += 1
        self._last_ns = next(self._durations_ns)
        if self._enqueue_ns is None:
            self.scripted_clock.advance(self._last_ns)
        else:
            self.scripted_clock.advance(self._enqueue_ns)
            self._device_free_ns = max(self._device_free_ns, self.clock()) + self._last_ns

    def synchronize(self) -> None:
        """Wait until the device is free."""
        self.synchronizations += 1
        self.scripted_clock.advance(max(0, self._device_free_ns - self.clock()))

    def device_time_ns(self) -> int | None:
        """What the device took for the last call."""
        return None if self._enqueue_ns is None else self._last_ns

    def load_batch(self, inputs: Arrays) -> None:
        """Take no batch: only time passes here."""

    def inputs(self) -> Arrays:
        """Have no inputs."""
        return {}

    def outputs(self) -> Arrays:
        """Have no outputs."""
        return {}


def _repeating_the_last(durations_ns: Iterable[int]) -> Iterator[int]:
    last = 0
    for duration_ns in durations_ns:
        last = duration_ns
        yield duration_ns
    yield from repeat(last)
