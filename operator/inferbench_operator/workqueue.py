"""Which benchmark is looked at next: each waits at most once, and nobody works on one that somebody works on.

`Backlog` is the rule book, told the time by its caller. `Queue` lets workers wait for it in a running event loop.
"""

from __future__ import annotations

import asyncio
import heapq
import random
from collections import Counter
from collections.abc import Callable, Hashable
from contextlib import suppress
from typing import Generic, TypeVar

from inferbench_contract.errors import InferbenchError

FIRST_DELAY_SECONDS = 0.5
"""Before the first repetition: a conflict is over by then, an API server that restarts is not."""

LONGEST_DELAY_SECONDS = 60.0
"""Whatever was mended meanwhile is noticed within a minute."""

FEW = 64
"""Overtaken wishes that are not worth tidying up."""

Key = TypeVar("Key", bound=Hashable)
Clock = Callable[[], float]
"""Seconds that only go forward."""


class QueueClosed(InferbenchError):
    """The queue hands out nothing any more: the worker goes home."""


class Backlog(Generic[Key]):
    """What waits, what is worked on, and what comes later. Every verb takes the time, in seconds."""

    def __init__(self, draw: Callable[[], float] = random.random) -> None:
        """Take where the jitter comes from: numbers from 0 up to 1."""
        self._draw = draw
        self._waiting: dict[Key, float] = {}  # since when; handed out in the order of arrival
        self._busy: dict[Key, float] = {}  # since when
        self._again: dict[Key, float] = {}  # asked for while busy, and when
        self._later: dict[Key, float] = {}  # when it is due
        self._due: list[tuple[float, int, Key]] = []  # a heap of the same; what `_later` does not confirm is void
        self._failures: Counter[Key] = Counter()
        self._serial = 0

    def add(self, key: Key, now: float) -> None:
        """Ask for a look at a key: once, however often it is asked; once more if it is being looked at."""
        (self._again if key in self._busy else self._waiting).setdefault(key, now)

    def add_later(self, key: Key, due: float) -> None:
        """Ask for a look at some time; of several such wishes the earliest counts."""
        if due < self._later.get(key, float("inf")):
            self._later[key] = due
            self._serial += 1  # keys need not be ordered
            heapq.heappush(self._due, (due, self._serial, key))
            self._tidy()

    def take(self, now: float) -> Key | None:
        """Hand out the key that waits longest and keep it as busy; None when nothing waits."""
        self._wake(now)
        key = next(iter(self._waiting), None)
        if key is not None:
            del self._waiting[key]
            self._busy[key] = now
        return key

    def done(self, key: Key) -> None:
        """Take back a key whose look went well; its failures are forgotten."""
        del self._failures[key]
        self._release(key)

    def failed(self, key: Key, now: float) -> float:
        """Take back a key whose look went wrong; return in how many seconds it is looked at again."""
        if self._release(key):  # there is news that may mend it
            self._failures[key] += 1
            return 0.0
        seconds = self._delay(self._failures[key])
        self._failures[key] += 1
        self.add_later(key, now + seconds)
        return seconds

    def next_due(self) -> float | None:
        """Tell when the earliest of what comes later is due; None when nothing does."""
        while self._due and self._later.get(self._due[0][2]) != self._due[0][0]:
            heapq.heappop(self._due)
        return self._due[0][0] if self._due else None

    @property
    def depth(self) -> int:
        """How many keys wait to be taken."""
        return len(self._waiting)

    def oldest_seconds(self, now: float) -> float:
        """Tell how long the key that waits longest has waited; 0 when none does."""
        return now - min(self._waiting.values(), default=now)

    def busy_seconds(self, now: float) -> float:
        """Tell how long the key that is looked at longest has been; 0 when none is."""
        return now - min(self._busy.values(), default=now)

    def _wake(self, now: float) -> None:
        while (due := self.next_due()) is not None and due <= now:
            _, _, key = heapq.heappop(self._due)
            del self._later[key]
            self.add(key, due)

    def _release(self, key: Key) -> bool:
        """Free a key; tell whether it waits again at once."""
        del self._busy[key]
        if key not in self._again:
            return False
        self._waiting[key] = self._again.pop(key)
        return True

    def _tidy(self) -> None:
        """Drop wishes that an earlier one of the same key has overtaken, once they are most of the heap."""
        if len(self._due) > 2 * len(self._later) + FEW:
            self._due = [entry for entry in self._due if self._later.get(entry[2]) == entry[0]]
            heapq.heapify(self._due)

    def _delay(self, failures: int) -> float:
        """Double with every failure; the jitter at most doubles again, so a later delay is never the shorter one."""
        least = min(FIRST_DELAY_SECONDS * 2.0 ** min(failures, 10), LONGEST_DELAY_SECONDS / 2)
        return least * (1 + self._draw())


class Queue(Generic[Key]):
    """A backlog that workers of one event loop wait for. Made inside the running loop, whose time it takes."""

    def __init__(self, clock: Clock | None = None, backlog: Backlog[Key] | None = None) -> None:
        """Take another clock than the running loop's only where there is no loop."""
        self._clock = clock or asyncio.get_running_loop().time
        self._backlog = backlog or Backlog[Key]()
        self._news = asyncio.Event()
        self._closed = False

    def add(self, key: Key) -> None:
        """Ask for a look at a key. Never waits, so a handler of events may call it."""
        self._backlog.add(key, self._clock())
        self._news.set()

    def add_after(self, key: Key, seconds: float) -> None:
        """Ask for a look in some seconds; of several such wishes the earliest counts."""
        self._backlog.add_later(key, self._clock() + seconds)
        self._news.set()

    async def get(self) -> Key:
        """Wait for a key, which is this worker's alone until `done` or `failed`.

        Raises:
            QueueClosed: `close` was called.
        """
        while not self._closed:
            if (key := self._backlog.take(self._clock())) is not None:
                return key
            await self._something_new()
        raise QueueClosed("The queue is closed.")

    def done(self, key: Key) -> None:
        """Give a key back: the look went well."""
        self._backlog.done(key)
        self._news.set()

    def failed(self, key: Key) -> float:
        """Give a key back: the look went wrong. Return in how many seconds it is repeated."""
        seconds = self._backlog.failed(key, self._clock())
        self._news.set()
        return seconds

    def close(self) -> None:
        """Hand out nothing any more; workers that wait are told."""
        self._closed = True
        self._news.set()

    @property
    def depth(self) -> int:
        """How many keys wait to be taken."""
        return self._backlog.depth

    @property
    def oldest_seconds(self) -> float:
        """How long the key that waits longest has waited; 0 when none does."""
        return self._backlog.oldest_seconds(self._clock())

    @property
    def busy_seconds(self) -> float:
        """How long the key that is looked at longest has been; 0 when none is."""
        return self._backlog.busy_seconds(self._clock())

    async def _something_new(self) -> None:
        """Wait until somebody adds or returns something, or until the next key is due."""
        self._news.clear()  # nothing is lost: nobody else ran since the backlog was found empty
        due = self._backlog.next_due()
        with suppress(TimeoutError):
            async with asyncio.timeout(None if due is None else max(0.0, due - self._clock())):
                await self._news.wait()
