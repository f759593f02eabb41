"""The operator as a whole: settings in, until somebody stops it.

It lists everything once before it decides anything, so that no decision is made of half of what there is; then the
watches tell what happens, the workers look, and now and then everything is listed again, for what a watch may have
missed.
"""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import AsyncIterator, Collection, Coroutine, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from typing import NamedTuple

import kopf

from inferbench_contract import __version__
from inferbench_operator import connection, handlers, health, logs, paths, server
from inferbench_operator import observed as observing
from inferbench_operator.api_errors import ApiError
from inferbench_operator.cache import Cache
from inferbench_operator.controller import Controller, WallClock, utc_now
from inferbench_operator.health import FirstPass, Health, WatchAges
from inferbench_operator.kube import Api, Json
from inferbench_operator.metrics import Metrics
from inferbench_operator.observed import Key
from inferbench_operator.results_page import ResultsPage
from inferbench_operator.settings import Settings
from inferbench_operator.watch import Watch
from inferbench_operator.workqueue import Queue

log = logging.getLogger(__name__)

LIST_AGAIN_SECONDS = 2.0
"""Between two tries at the first list: the definition may be installed a little after the operator."""

STUMBLED_SECONDS = 60.0
"""After an error of our own in a list: it costs the server too much to be repeated as soon as a refusal."""

ASK_AGAIN_SECONDS = 60.0
"""Between two questions whether a namespace that was refused may be served now."""

YOUNG = 10_000
"""Objects that are made before the garbage collector looks at them; Python's own 700 are five events of pods, which go
by themselves."""


@dataclass
class Parts:
    """What belongs together in one operator."""

    settings: Settings
    api: Api
    metrics: Metrics
    page: ResultsPage
    queue: Queue[Key]
    cache: Cache
    watches: WatchAges
    filled: asyncio.Event
    """Set once everything was listed."""
    first_pass: FirstPass = field(default_factory=FirstPass)
    """Over once every benchmark that had ended by then was looked at."""
    left_out: set[str] = field(default_factory=set)
    """Namespaces to be watched that the server refused at the start: the others are served without them."""
    to_begin_anew: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once one of them can be served, which takes a new start: kopf's namespaces are those that it began with."""


class Listed(NamedTuple):
    """All there is in a namespace, or everywhere."""

    benchmarks: list[Json]
    jobs: list[Json]
    pods: list[Json]
    version: int
    """The oldest resource version that it is of; it may be a little behind."""


FROM_MEMORY = {"labelSelector": handlers.SELECTOR, "resourceVersion": "0"}
"""A list of pods makes the server look at every pod of the cluster, so it may be a little old and come from its memory.
Benchmarks are fewer and larger: they are read page by page, which version 0 does not know."""


async def run(settings: Settings, clock: WallClock = utc_now) -> None:
    """Serve until somebody asks to stop. Raises EnvironmentFault without a cluster, OSError without the port."""
    asyncio.get_running_loop().set_exception_handler(logs.log_loop_error)
    log.info("inferbench-operator %s", __version__)
    for line in settings.as_lines():
        log.info("%s", line)
    parts = await _parts(settings)
    controller = Controller(parts.api, parts.cache, parts.queue, settings, parts.metrics, parts.page, clock)
    workers = [_worker(parts, controller) for _ in range(settings.workers)]
    try:
        async with (
            _in_the_background(*workers, *_for_ever(parts)) as busy,
            _served(parts, _health(parts, busy)),
        ):
            await _watch(parts)
    finally:
        parts.queue.close()
        await parts.api.close()


async def _parts(settings: Settings) -> Parts:
    metrics = Metrics()
    page = ResultsPage(settings.results_detail, settings.max_result_series)
    owned = product((handlers.JOBS, handlers.PODS), settings.watch_namespaces or (None,))
    queue: Queue[Key] = Queue()
    parts = Parts(
        settings,
        await connection.connect(settings, metrics.count_request),
        metrics,
        page,
        queue,
        Cache(),
        WatchAges([(handlers.BENCHMARKS, None), *owned]),
        asyncio.Event(),
    )
    metrics.follow_queue(queue)
    metrics.follow_page(page)
    ages = parts.watches.seconds
    metrics.follow("watch_age_seconds", "Time since a watch last gave a sign of life.", "resource", ages)
    metrics.follow("benchmarks", "Benchmarks in the cluster by state.", "state", parts.cache.count_benchmarks)
    metrics.follow("jobs", "Jobs of benchmarks by state.", "state", parts.cache.count_jobs)
    return parts


def _health(parts: Parts, workers: list[asyncio.Task[None]]) -> Health:
    def is_filled() -> str | None:
        return None if parts.filled.is_set() else "The cluster has not been listed yet."

    alive = {
        "workers": health.workers_alive(workers),
        "queue": health.not_stuck(parts.queue),
        "watches": health.watches_alive(parts.watches),
        "loop": health.loop_in_time(parts.metrics),
    }
    return Health(alive, {"caches": is_filled}, {"results": parts.first_pass.why_not_over})


@asynccontextmanager
async def _served(parts: Parts, answers: Health) -> AsyncIterator[None]:
    served = await server.serve(parts.settings, parts.metrics, parts.page, answers)
    try:
        yield
    finally:
        await served.cleanup()


def _for_ever(parts: Parts) -> Iterator[Coroutine[None, None, None]]:
    """Yield what goes on beside the workers until the operator ends, and is missed if it ends before."""
    yield _relist_for_ever(parts)
    yield _watch_owned(parts)
    yield _ask_for_left_out(parts)
    yield parts.metrics.watch_lag()


async def _worker(parts: Parts, controller: Controller) -> None:
    """Wait until the cache is filled, then work."""
    await parts.filled.wait()
    await controller.work(parts.first_pass.looked_at)


async def _relist_for_ever(parts: Parts) -> None:
    """List everything, first until it works, then every few minutes."""
    while True:
        try:
            await _relist(parts)
        except ApiError as error:
            log.warning("The cluster cannot be listed: %s. %s", error, _advice(error))
            await asyncio.sleep(LIST_AGAIN_SECONDS)
        except Exception:
            log.exception("An error of the operator itself in the list of everything.")
            await asyncio.sleep(STUMBLED_SECONDS)
        else:
            await asyncio.sleep(parts.settings.resync_seconds)


async def _relist(parts: Parts) -> None:
    """List everything, take it for truth, and look at all that it changes."""
    listed, refused = await _list_served(parts)
    benchmarks = [raw for each in listed for raw in each.benchmarks]
    jobs, pods = [raw for each in listed for raw in each.jobs], [raw for each in listed for raw in each.pods]
    changed = parts.cache.renew(benchmarks, jobs, pods, min(each.version for each in listed), refused)
    if not parts.filled.is_set():
        _spare_the_collector()
        _leave_out(parts, refused)
        changed |= parts.cache.benchmarks.keys()  # the finished ones too, to be shown on /results
        parts.first_pass.expect(key for key in parts.cache.benchmarks if parts.cache.is_finished(key))
        log.info("%d benchmarks, %d Jobs, %d pods", len(benchmarks), len(jobs), len(pods))
    for key in sorted(changed, key=parts.cache.is_finished):  # those that wait for something go first
        parts.queue.add(key)
    parts.filled.set()


def _leave_out(parts: Parts, refused: Collection[str]) -> None:
    """Serve the others only."""
    parts.left_out |= set(refused)
    for namespace in refused:
        parts.watches.forget(namespace)


def _spare_the_collector() -> None:
    """Let the garbage collector pass over what stays: libraries and cache, which it would search again and again.

    It took a tenth of the CPU time of a busy operator.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG)


async def _list_served(parts: Parts) -> tuple[list[Listed], set[str]]:
    """List every namespace; return also which of several the server refuses, as it does once one was deleted.

    Raises:
        ApiError: there is another reason, or all are refused.
    """
    listed: list[Listed] = []
    refused: dict[str, ApiError] = {}
    for namespace in _namespaces(parts):
        try:
            listed.append(await _list(parts, namespace))
        except ApiError as error:
            if namespace is None or not error.is_forbidden:
                raise
            refused[namespace] = error
    if not listed:
        raise next(iter(refused.values()))
    for name, refusal in refused.items():
        log.warning("Namespace %s is not served: %s. %s", name, refusal, _advice(refusal))
    return listed, set(refused)


async def _list(parts: Parts, namespace: str | None) -> Listed:
    """List pods, Jobs and benchmarks, the owners last, so that nothing seems to be an orphan."""
    pods, pods_version = await _all(parts, paths.pods(namespace), **FROM_MEMORY)
    jobs, jobs_version = await _all(parts, paths.jobs(namespace), **FROM_MEMORY)
    benchmarks, version = await _all(parts, paths.benchmarks(namespace))
    return Listed(benchmarks, jobs, pods, min(pods_version, jobs_version, version))


async def _all(parts: Parts, path: str, **query: str) -> tuple[list[Json], int]:
    answer = await parts.api.list(path, _pruned, **query)
    return answer["items"], int(answer["metadata"]["resourceVersion"])


def _pruned(raw: Json) -> Json:
    """Drop what is large and not looked at: who wrote which field, and the summary of a benchmark that has ended."""
    metadata, status = raw.get("metadata") or {}, raw.get("status") or {}
    metadata.pop("managedFields", None)
    if observing.condition_status(status, "Finished") == "True":
        status.pop("summary", None)
    return raw


def _advice(error: ApiError) -> str:
    if error.is_not_found:
        return "The definition is not installed: kubectl apply --server-side -f crds/."
    return "The service account lacks a right: see charts/inferbench." if error.is_forbidden else "It is tried again."


async def _watch_owned(parts: Parts) -> None:
    """Wait until it is known which benchmarks there are, then watch what belongs to them."""
    await parts.filled.wait()
    async with asyncio.TaskGroup() as group:
        for watch in _watches(parts):
            group.create_task(watch.run())


def _watches(parts: Parts) -> Iterator[Watch]:
    """Yield a watch of Jobs and one of pods for each namespace."""
    hear_job = handlers.on_job(parts.cache, parts.queue)
    hear_pod = handlers.on_pod(parts.cache, parts.queue, parts.settings)
    for namespace in _namespaces(parts):
        for resource, path, hear in ((handlers.JOBS, paths.jobs, hear_job), (handlers.PODS, paths.pods, hear_pod)):
            heard = partial(parts.watches.heard, resource, namespace)
            yield Watch(parts.api, path(namespace), handlers.SELECTOR, hear, heard)


async def _ask_for_left_out(parts: Parts) -> None:
    """Ask now and then for the namespaces that were left out; once one is back, the operator is to be started anew."""
    while True:
        await asyncio.sleep(ASK_AGAIN_SECONDS)
        for namespace in sorted(parts.left_out):
            with suppress(ApiError):
                await _list(parts, namespace)
                log.info("Namespace %s can be served: the operator ends, to be started anew.", namespace)
                parts.to_begin_anew.set()


def _namespaces(parts: Parts) -> tuple[str | None, ...]:
    """Return the namespaces that are watched; None stands for all at once."""
    chosen = parts.settings.watch_namespaces
    return tuple(name for name in chosen if name not in parts.left_out) if chosen else (None,)


async def _watch(parts: Parts) -> None:
    """Let kopf watch benchmarks until it is told to stop; if it ends with an error, the pod starts again.

    A namespace that is refused is such an error, so of several only those are watched that could be listed.
    """
    if parts.settings.watch_namespaces:
        await parts.filled.wait()
    heard, counted = parts.watches.heard, parts.metrics.count_request

    async def login() -> kopf.AiohttpSession:
        return connection.watching_session(await connection.configure(), counted, heard)

    await kopf.operator(
        registry=handlers.registry(parts.cache, parts.queue, heard, login),
        settings=handlers.kopf_settings(),
        standalone=True,
        clusterwide=not parts.settings.watch_namespaces,
        namespaces=[name for name in _namespaces(parts) if name is not None],
        stop_flag=parts.to_begin_anew,
    )


@asynccontextmanager
async def _in_the_background(*coroutines: Coroutine[None, None, None]) -> AsyncIterator[list[asyncio.Task[None]]]:
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
