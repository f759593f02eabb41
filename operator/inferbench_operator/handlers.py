"""What the watches tell is kept in the cache, and the benchmark to look at is named, no more.

kopf watches the benchmarks, with one `on.event` handler that returns None: it then writes nothing, neither finalizer
nor annotation nor status. Their Jobs and pods have too many events for it: see `watch`.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

import kopf

from inferbench_contract import crd
from inferbench_operator import observed as observing
from inferbench_operator.cache import Cache
from inferbench_operator.kube import WATCH_CONNECT_SECONDS, WATCH_GRACE_SECONDS, WATCH_SECONDS, OnEvent
from inferbench_operator.observed import MANAGED_BY, Json, Key
from inferbench_operator.settings import Settings
from inferbench_operator.workqueue import Queue

SELECTOR = "=".join(MANAGED_BY)
"""Of Jobs and pods, on the server: a cluster has many that are nobody's business here."""

BENCHMARKS, JOBS, PODS = crd.PLURAL, "jobs", "pods"

PODS_SECONDS = 2.0
"""News of pods wait so long for each other while their Job runs: what keeps a dozen from starting costs one look. Ends
wait as long as the status does, of which they only move a counter. The end of a Job waits for nothing."""

PAGE = 100
"""Objects that kopf lists at once. It keeps the last page for as long as it watches: 45 kB for each benchmark."""

IDLE_SECONDS = 0.1
"""kopf keeps the last event of an object in memory for so long (by itself: 5 s): at the start, that is all of them."""

Login = Callable[[], Awaitable[kopf.AiohttpSession]]


def registry(cache: Cache, queue: Queue[Key], heard: Callable[[str], None], login: Login) -> kopf.OperatorRegistry:
    """Return kopf's registry; `heard` is told of every event's resource."""
    handlers = kopf.OperatorRegistry()

    async def handler(event: Any, **_: Any) -> None:
        heard(BENCHMARKS)
        if (key := cache.heard_benchmark(event["type"], event["object"])) is not None:
            queue.add(key)

    kopf.on.event(crd.GROUP, crd.VERSION, BENCHMARKS, id="benchmark-changed", registry=handlers)(handler)

    async def log_in(**_: Any) -> kopf.AiohttpSession:
        return await login()

    kopf.on.login(id="log-in", registry=handlers)(log_in)
    return handlers


def on_job(cache: Cache, queue: Queue[Key]) -> OnEvent:
    """Return who hears of Jobs."""

    def hear(kind: str, raw: Json) -> None:
        if (key := cache.heard_job(kind, raw)) is not None:
            queue.add(key)

    return hear


def on_pod(cache: Cache, queue: Queue[Key], settings: Settings) -> OnEvent:
    """Return who hears of pods."""

    def hear(kind: str, raw: Json) -> None:
        if (key := cache.heard_pod(kind, raw)) is None:
            return
        if cache.is_running(key):
            ended_seconds = settings.counters_interval(cache.running).total_seconds()
            queue.add_after(key, ended_seconds if observing.has_pod_ended(raw) else PODS_SECONDS)
        else:
            queue.add(key)

    return hear


def kopf_settings() -> kopf.OperatorSettings:
    """Return kopf's settings: no scan for resources, short watches, nothing kept in objects, no line for each event."""
    logging.getLogger("kopf.objects").setLevel(logging.WARNING)
    chosen = kopf.OperatorSettings()
    chosen.scanning.disabled = True
    chosen.posting.enabled = False
    chosen.peering.standalone = True
    chosen.watching.server_timeout = WATCH_SECONDS
    chosen.watching.client_timeout = WATCH_SECONDS + WATCH_GRACE_SECONDS
    chosen.watching.connect_timeout = WATCH_CONNECT_SECONDS
    chosen.watching.chunk_size = PAGE
    chosen.networking.request_timeout = 30
    chosen.queueing.idle_timeout = IDLE_SECONDS
    chosen.process.ultimate_exiting_timeout = 10
    chosen.persistence.diffbase_storage = _NoDiffBase()
    chosen.persistence.progress_storage = _NoProgress()
    return chosen


class _NoDiffBase(kopf.DiffBaseStorage):
    """Keeps nothing: kopf would copy the whole object for each event, to compare it with what it never stored."""

    def build(self, **_: Any) -> Any:
        return {}

    def fetch(self, **_: Any) -> None:
        return None

    def store(self, **_: Any) -> None:
        return None


class _NoProgress(kopf.ProgressStorage):
    """Keeps nothing: handlers of events have no progress."""

    def fetch(self, **_: Any) -> None:
        return None

    def store(self, **_: Any) -> None:
        return None

    def purge(self, **_: Any) -> None:
        return None

    def touch(self, **_: Any) -> None:
        return None

    def clear(self, *, essence: Any) -> Any:
        return essence

    def flush(self) -> None:
        return None
