"""What kopf is used for: watching. Its handlers keep the cache in step and name the benchmark to look at, no more.

Only `on.event` handlers that return None: kopf then writes nothing, neither finalizer nor annotation nor status.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

import kopf

from inferbench_operator.cache import Cache
from inferbench_operator.kube import GROUP, VERSION, WATCH_SECONDS
from inferbench_operator.observed import MANAGED_BY, Json, Key
from inferbench_operator.workqueue import Queue

SELECTOR = "=".join(MANAGED_BY)
"""Of Jobs and pods, on the server: a cluster has many that are nobody's business here."""

BENCHMARKS = (GROUP, VERSION, "inferencebenchmarks")
JOBS = ("batch", "v1", "jobs")
PODS = ("", "v1", "pods")
WATCHED = ("inferencebenchmarks", "jobs", "pods")

PODS_SECONDS = 2.0
"""News of pods wait so long for each other while their Job runs: a dozen that end together cost one look, and the
status is not written more often anyway. The end of a Job waits for nothing."""

PAGE = 100
"""Objects that kopf lists at once. It keeps the last page for as long as it watches: 45 kB for each benchmark."""

IDLE_SECONDS = 0.1
"""kopf keeps the last event of an object in memory for so long (by itself: 5 s): at the start, that is all of them."""

Login = Callable[[], Awaitable[kopf.AiohttpSession]]


def registry(cache: Cache, queue: Queue[Key], heard: Callable[[str], None], login: Login) -> kopf.OperatorRegistry:
    """Return kopf's registry; `heard` is told of every event's resource."""
    handlers = kopf.OperatorRegistry()

    def watch(resource: tuple[str, str, str], hear: Callable[[str | None, Json], Key | None]) -> None:
        async def handler(event: Any, **_: Any) -> None:
            heard(resource[2])
            if (key := hear(event["type"], event["object"])) is None:
                return
            if resource is PODS and cache.has_open_job(key):
                queue.add_after(key, PODS_SECONDS)
            else:
                queue.add(key)

        kopf.on.event(*resource, id=f"{resource[2]}-changed", registry=handlers)(handler)

    watch(BENCHMARKS, cache.heard_benchmark)
    watch(JOBS, cache.heard_job)
    watch(PODS, cache.heard_pod)

    async def log_in(**_: Any) -> kopf.AiohttpSession:
        return await login()

    kopf.on.login(id="log-in", registry=handlers)(log_in)
    return handlers


def settings() -> kopf.OperatorSettings:
    """Return kopf's settings: no scan for resources, short watches, nothing kept in objects, no line for each event."""
    logging.getLogger("kopf.objects").setLevel(logging.WARNING)
    chosen = kopf.OperatorSettings()
    chosen.scanning.disabled = True
    chosen.posting.enabled = False
    chosen.peering.standalone = True
    chosen.watching.server_timeout = WATCH_SECONDS
    chosen.watching.client_timeout = WATCH_SECONDS + 30
    chosen.watching.connect_timeout = 10
    chosen.watching.chunk_size = PAGE
    chosen.watching.label_selectors[JOBS] = SELECTOR
    chosen.watching.label_selectors[PODS] = SELECTOR
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
