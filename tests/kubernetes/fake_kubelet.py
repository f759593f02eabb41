"""Plays the kubelet: pods that are bound to a node run for a while and end as a function of the test says.

    with FakeKubelet(access, ending=lambda pod: Ending(message="{}", seconds=0.1), namespace="mine") as kubelet:
        ...
        kubelet.started    # what ran, in order

API server, controllers and scheduler are the real ones; what is played is only what happens on a node. A real kubelet's
ways that matter here were seen on one: what a pod has written before it is stopped is in its termination message, and a
pod of a Job that is deleted shows its end before it goes.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, Self

import aiohttp

from tests.kubernetes.access import Access
from tests.kubernetes.client import Object
from tests.kubernetes.loops import wait_for_connections

MAX_MESSAGE_BYTES = 4096
"""A kubelet keeps the last so many bytes of a termination message."""

KILLED = 137
INDEX = "batch.kubernetes.io/job-completion-index"

AGAIN_SECONDS = 0.1
"""How soon a request is tried again that the server could not answer, and a watch that broke."""

READY_SECONDS = 30
TIMEOUT_SECONDS = 30
CONNECTIONS = 32
"""Requests at once: more only makes the API server queue them."""


@dataclass(frozen=True)
class Ending:
    """How a pod runs and ends. What is not given is that of a pod that does its work at once and well."""

    message: str | bytes = ""
    """What stands in its termination message at its end."""
    exit_code: int = 0
    reason: str = ""
    """Of the container: `OOMKilled`; by default `Completed` or `Error`."""
    seconds: float = 0
    """From its start to its end. 0: it is never seen running, which halves the requests. inf: it ends when stopped."""
    pod_reason: str = ""
    """Of the pod: `Evicted`, for example."""
    is_disrupted: bool = False
    """Whether the pod has the condition DisruptionTarget, as one that was evicted has."""
    so_far: str | bytes = ""
    """What stands in its termination message when it is stopped before its end."""
    waiting: str = ""
    """A reason such as `ImagePullBackOff`: its container never starts; `message` says why."""


@dataclass(frozen=True)
class Started:
    """A pod that was started. `at` is the event loop's clock in seconds."""

    namespace: str
    name: str
    index: int | None
    """Its completion index, if it is of an Indexed Job."""
    at: float


Play = Callable[[Object], Ending]


def works_at_once(_: Object) -> Ending:
    """End well without a word."""
    return Ending()


class FakeKubelet:
    """Plays all pods that are bound to a node, or those of one namespace, while the `with` block lasts."""

    def __init__(self, access: Access, ending: Play = works_at_once, namespace: str = "") -> None:
        """`ending` is called for every pod when it starts, in the kubelet's own thread; it may be replaced later."""
        self.ending = ending
        self.started: list[Started] = []
        self.faults: list[BaseException] = []
        """What went wrong in here, above all in `ending`; raised at the end of the block."""
        self._access = access
        self._pods = f"/api/v1/namespaces/{namespace}/pods" if namespace else "/api/v1/pods"
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._endings: dict[str, Ending] = {}
        self._deleted: set[str] = set()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="fake kubelet", daemon=True)

    def __enter__(self) -> Self:
        """Start to play, and wait until pods are seen."""
        self._thread.start()
        is_ready = self._ready.wait(READY_SECONDS)
        if self.faults:
            raise self.faults[0]
        if not is_ready:
            raise TimeoutError(f"the fake kubelet sees no pods of {self._access.url} after {READY_SECONDS} s")
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Stop to play; pods that run are left as they are."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._main.cancel)
        self._thread.join()
        if self.faults and kind is None:
            raise self.faults[0]

    @property
    def indexes(self) -> list[int | None]:
        """The completion indexes of what was started, in order."""
        return [pod.index for pod in self.started]

    def _run(self) -> None:
        try:
            asyncio.run(self._watch())
        except asyncio.CancelledError:
            pass
        except Exception as fault:  # noqa: BLE001 - a thread has nobody to raise to
            self.faults.append(fault)
            self._ready.set()

    async def _watch(self) -> None:
        self._loop, self._main = asyncio.get_running_loop(), _this_task()
        trusted = ssl.create_default_context(cafile=str(self._access.ca_file))
        headers = {"Authorization": f"Bearer {self._access.token('fake-kubelet')}", "User-Agent": "fake-kubelet"}
        connector = aiohttp.TCPConnector(ssl=trusted, limit=CONNECTIONS)
        patience = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)
        session = aiohttp.ClientSession(self._access.url, connector=connector, headers=headers, timeout=patience)
        try:
            async with session as self._session:
                await self._go_on()
        finally:
            await wait_for_connections()

    async def _go_on(self) -> None:
        try:
            while True:
                with contextlib.suppress(aiohttp.ClientError, TimeoutError, _Again):
                    await self._follow(await self._list())
                await asyncio.sleep(AGAIN_SECONDS)
        finally:
            for task in self._tasks.values():
                task.cancel()
            await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def _list(self) -> str:
        """See what there is, and return the version to watch from."""
        bound = {"fieldSelector": "spec.nodeName!="}
        found = await self._request("GET", self._pods, params=bound)
        for pod in found["items"]:
            self._see(pod)
        self._ready.set()
        version: str = found["metadata"]["resourceVersion"]
        return version

    async def _follow(self, version: str) -> None:
        asked = {"watch": "true", "resourceVersion": version, "fieldSelector": "spec.nodeName!="}
        endless = aiohttp.ClientTimeout(total=None)
        async with self._session.get(self._pods, params=asked, timeout=endless) as answer:
            if answer.status != 200:
                raise _Again
            buffer = b""
            async for piece in answer.content.iter_any():
                *lines, buffer = (buffer + piece).split(b"\n")
                for line in lines:
                    self._event(json.loads(line))

    def _event(self, event: Object) -> None:
        if event["type"] == "ERROR":
            raise _Again
        if event["type"] == "DELETED":
            self._forget(event["object"]["metadata"]["uid"])
        else:
            self._see(event["object"])

    def _see(self, pod: Object) -> None:
        """Start to play a pod, or stop to."""
        uid, is_over = pod["metadata"]["uid"], pod["status"].get("phase") in {"Succeeded", "Failed"}
        if "deletionTimestamp" in pod["metadata"]:
            if uid not in self._deleted:
                self._deleted.add(uid)
                self._stop(uid, pod, is_over=is_over)
        elif uid not in self._tasks and not is_over:
            self._tasks[uid] = self._loop.create_task(self._guarded(partial(self._play, pod)))

    def _stop(self, uid: str, pod: Object, *, is_over: bool) -> None:
        played = self._tasks.pop(uid, None)
        if played is not None:
            played.cancel()
        self._tasks[uid] = self._loop.create_task(self._guarded(partial(self._remove, pod, is_over=is_over)))

    def _forget(self, uid: str) -> None:
        self._deleted.discard(uid)
        self._endings.pop(uid, None)
        if task := self._tasks.pop(uid, None):
            task.cancel()

    async def _guarded(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Keep what a test's function raises: a pod that nobody plays would only look like a slow one."""
        try:
            await work()
        except Exception as fault:  # noqa: BLE001 - a test's function may raise anything
            self.faults.append(fault)

    async def _play(self, pod: Object) -> None:
        meta = pod["metadata"]
        ending = self._endings[meta["uid"]] = self.ending(pod)
        if ending.waiting:
            await self._report(pod, _waiting(pod, ending))
            return
        index = meta.get("annotations", {}).get(INDEX)
        self.started.append(
            Started(meta["namespace"], meta["name"], None if index is None else int(index), self._loop.time())
        )
        started_at = _now()
        if ending.seconds:
            await self._report(pod, _running(pod, started_at))
        await self._report(pod, await self._outcome(pod, ending, started_at))

    async def _outcome(self, pod: Object, ending: Ending, started_at: str) -> Object:
        """Wait for the pod's end, or for its deadline if that comes first."""
        deadline = pod["spec"].get("activeDeadlineSeconds")
        if deadline is not None and deadline < ending.seconds:
            await asyncio.sleep(deadline)
            return _ended(pod, _killed(ending), started_at, "DeadlineExceeded")
        await asyncio.sleep(min(ending.seconds, LONGEST_SECONDS))
        return _ended(pod, ending, started_at, ending.pod_reason)

    async def _remove(self, pod: Object, *, is_over: bool) -> None:
        """End a pod that was deleted: its end is seen, then it goes, unless somebody's finalizer holds it."""
        if not is_over:
            started = [status["state"].get("running") for status in pod["status"].get("containerStatuses", [])]
            started_at = started[0]["startedAt"] if started and started[0] else _now()
            ending = self._endings.get(pod["metadata"]["uid"], Ending())
            await self._report(pod, _ended(pod, _killed(ending), started_at, ""))
        meta = pod["metadata"]
        body = {"gracePeriodSeconds": 0, "preconditions": {"uid": meta["uid"]}}
        await self._insist("DELETE", f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}", body)

    async def _report(self, pod: Object, status: Object) -> None:
        meta = pod["metadata"]
        path = f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}/status"
        await self._insist("PATCH", path, {"metadata": {"uid": meta["uid"]}, "status": status})

    async def _insist(self, method: str, path: str, body: Object) -> None:
        """Send a request until the server takes it; a pod that is gone, or another one by now, needs none."""
        while True:
            try:
                await self._request(method, path, data=json.dumps(body))
                return
            except (aiohttp.ClientError, TimeoutError, _Again):
                await asyncio.sleep(AGAIN_SECONDS)

    async def _request(self, method: str, path: str, **more: Any) -> Object:
        kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
        async with self._session.request(method, path, headers={"Content-Type": kind}, **more) as answer:
            if answer.status == 404 or (answer.status == 409 and "UID" in await answer.text()):
                return {}
            if answer.status in TRY_AGAIN or answer.status >= 500:
                raise _Again
            if answer.status >= 300:
                raise AssertionError(f"{method} {path} was answered {answer.status}: {await answer.text()}")
            found: Object = await answer.json()
            return found


TRY_AGAIN = frozenset({401, 409, 429})
"""A server that has just started may not know its users yet; a conflict and too many requests pass."""

LONGEST_SECONDS = 10 * 24 * 3600
"""For ever, to a test."""


class _Again(Exception):
    """The server could not answer; it may the next time."""


def _this_task() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None
    return task


def _killed(ending: Ending) -> Ending:
    return Ending(message=ending.so_far, exit_code=KILLED)


def _waiting(pod: Object, ending: Ending) -> Object:
    state = {"waiting": {"reason": ending.waiting, "message": _text(ending.message)}}
    conditions = _conditions(pod, {"Initialized": "True", "Ready": "False", "ContainersReady": "False"})
    return {
        "phase": "Pending",
        "startTime": _now(),
        "conditions": conditions,
        **_containers(pod, state, is_ready=False),
    }


def _running(pod: Object, started_at: str) -> Object:
    state = {"running": {"startedAt": started_at}}
    conditions = _conditions(pod, {"Initialized": "True", "Ready": "True", "ContainersReady": "True"})
    address = {"podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}]}
    told = {"phase": "Running", "startTime": started_at, "conditions": conditions, **address}
    return {**told, **_containers(pod, state, is_ready=True)}


def _ended(pod: Object, ending: Ending, started_at: str, pod_reason: str) -> Object:
    terminated = {
        "exitCode": ending.exit_code,
        "reason": ending.reason or ("Error" if ending.exit_code else "Completed"),
        "message": _text(ending.message),
        "startedAt": started_at,
        "finishedAt": _now(),
    }
    conditions = _conditions(pod, {"Initialized": "True", "Ready": "False", "ContainersReady": "False"})
    if ending.is_disrupted:
        conditions.append(_condition("DisruptionTarget", "True", "TerminationByKubelet"))
    has_failed = ending.exit_code != 0 or pod_reason
    status = {"phase": "Failed" if has_failed else "Succeeded", "startTime": started_at, "conditions": conditions}
    told = {"reason": pod_reason} if pod_reason else {}
    return {**status, **told, **_containers(pod, {"terminated": terminated}, is_ready=False)}


def _containers(pod: Object, state: Object, *, is_ready: bool) -> Object:
    statuses = [
        {
            "name": container["name"],
            "image": container["image"],
            "imageID": "",
            "containerID": f"fake://{pod['metadata']['uid']}",
            "ready": is_ready,
            "started": "running" in state,
            "restartCount": 0,
            "state": state,
        }
        for container in pod["spec"]["containers"]
    ]
    return {"containerStatuses": statuses}


def _conditions(pod: Object, told: dict[str, str]) -> list[Object]:
    """Return the pod's conditions, with ours in place of theirs; those of others stay."""
    kept = [condition for condition in pod["status"].get("conditions", []) if condition["type"] not in told]
    return [*kept, *(_condition(kind, status) for kind, status in told.items())]


def _condition(kind: str, status: str, reason: str = "") -> Object:
    return {"type": kind, "status": status, "lastTransitionTime": _now(), **({"reason": reason} if reason else {})}


def _text(message: str | bytes) -> str:
    payload = message.encode() if isinstance(message, str) else message
    return payload[-MAX_MESSAGE_BYTES:].decode(errors="replace")


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
