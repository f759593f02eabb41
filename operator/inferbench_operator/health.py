"""Whether the operator does its work: /healthz asks what a restart would mend, /readyz besides whether it has begun.

A probe is a question with a short answer: None, or the sentence that says what is wrong.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping
from typing import Any

from inferbench_operator.kube import WATCH_SECONDS
from inferbench_operator.metrics import Metrics
from inferbench_operator.workqueue import Clock, Queue

Probe = Callable[[], str | None]

STUCK_SECONDS = 300.0
"""Of one look at a benchmark. A read that an API server leaves without an answer takes 122 s before it is given up
(`kube.TIMEOUT_SECONDS`, four times), and a restart would not mend that server."""

MAX_WATCH_AGE_SECONDS = 2 * WATCH_SECONDS + 60.0
"""A live watch is opened again every `WATCH_SECONDS`; once that failed for a minute (kopf's own patience) twice. Those
of Jobs and pods, which are told of each bookmark, are never as old as that."""

MAX_LAG_SECONDS = 5.0
"""A loop that is this late answers no probe in time either; usually something computes where it should not."""


class WatchAges:
    """When each watch last gave a sign of life: it was opened, or brought something."""

    def __init__(self, watches: Iterable[tuple[str, str | None]], clock: Clock | None = None) -> None:
        """Take the resources and namespaces (None: all) that are to be watched, as if all had just been opened.

        Made inside the running loop.
        """
        self._clock = clock or asyncio.get_running_loop().time
        self._heard = dict.fromkeys(watches, self._clock())

    def heard(self, resource: str, namespace: str | None = None) -> None:
        """Note a sign of life; this is what `connection.watching_session` wants for `on_watch`."""
        if (resource, namespace) in self._heard:
            self._heard[resource, namespace] = self._clock()

    def forget(self, namespace: str) -> None:
        """Expect nothing of a namespace's watches any more."""
        self._heard = {watch: heard for watch, heard in self._heard.items() if watch[1] != namespace}

    def seconds(self) -> dict[str, float]:
        """Return the age of each resource's last sign of life; of several namespaces, of the one that is silent."""
        now, ages = self._clock(), dict[str, float]()
        for (resource, _), heard in self._heard.items():
            ages[resource] = max(now - heard, ages.get(resource, 0.0))
        return ages


class FirstPass:
    """Benchmarks that had ended before the operator started: each is read once, before /results tells of any."""

    def __init__(self) -> None:
        """Know of none: the cluster has not been listed yet."""
        self._unread: set[Hashable] | None = None
        self._count = 0

    def expect(self, ended: Iterable[Hashable]) -> None:
        """Take those that the first list has."""
        self._unread = set(ended)
        self._count = len(self._unread)

    def looked_at(self, key: Hashable) -> None:
        """Note a look, whatever came of it: one that cannot be read holds up no other."""
        if self._unread is not None:
            self._unread.discard(key)

    def why_not_over(self) -> str | None:
        """Say how many are still to be read; this is a probe."""
        if self._unread is None:
            return "The cluster has not been listed yet."
        if not self._unread:
            return None
        of = f"{len(self._unread):,} of {self._count:,} benchmarks that had ended before the operator started"
        return f"{of} are still to be read. A part of the results could be taken for all: ask again."


class Health:
    """The answers to /healthz and /readyz, and whether /results may be told, from named probes."""

    def __init__(
        self, alive: Mapping[str, Probe], ready: Mapping[str, Probe], results: Mapping[str, Probe] | None = None
    ) -> None:
        """Take the probes of /healthz, those that /readyz asks besides, and those of /results."""
        self._alive = dict(alive)
        self._ready = {**alive, **ready}
        self._results = dict(results or {})

    def why_not_alive(self) -> tuple[str, ...]:
        """Say what a restart would mend; nothing when all is well."""
        return _asked(self._alive)

    def why_not_ready(self) -> tuple[str, ...]:
        """Say why it does not do its work (yet); nothing when it does."""
        return _asked(self._ready)

    def why_no_results(self) -> tuple[str, ...]:
        """Say why /results would not tell all that there is (yet); nothing when it does."""
        return _asked(self._results)


def workers_alive(workers: Collection[asyncio.Task[object]]) -> Probe:
    """Ask whether every worker and watch is still there: they end with the operator only."""

    def probe() -> str | None:
        ended = sum(worker.done() for worker in workers)
        return f"{ended} of {len(workers)} workers have ended." if ended else None

    return probe


def not_stuck(queue: Queue[Any], most_seconds: float = STUCK_SECONDS) -> Probe:
    """Ask whether some look at a benchmark does not end."""

    def probe() -> str | None:
        if (seconds := queue.busy_seconds) <= most_seconds:
            return None
        return f"A look at a benchmark has lasted {seconds:.0f} s; expected at most {most_seconds:.0f} s."

    return probe


def watches_alive(watches: WatchAges, most_seconds: float = MAX_WATCH_AGE_SECONDS) -> Probe:
    """Ask whether every watch still gives signs of life."""

    def probe() -> str | None:
        old = {resource: seconds for resource, seconds in watches.seconds().items() if seconds > most_seconds}
        told = " and ".join(f"of {resource} was last heard {seconds:.0f} s ago" for resource, seconds in old.items())
        return f"The watch {told}; expected at most {most_seconds:.0f} s." if old else None

    return probe


def loop_in_time(metrics: Metrics, most_seconds: float = MAX_LAG_SECONDS) -> Probe:
    """Ask whether the event loop does what it is to do when it is to do it."""

    def probe() -> str | None:
        if (seconds := metrics.last_lag_seconds) <= most_seconds:
            return None
        return f"The event loop was {seconds:.1f} s late; expected at most {most_seconds:.0f} s."

    return probe


def _asked(probes: Mapping[str, Probe]) -> tuple[str, ...]:
    return tuple(f"{name}: {answer}" for name, probe in probes.items() if (answer := probe()) is not None)
