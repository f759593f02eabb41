"""Stands between a client and the API server, passes everything on, and makes trouble when it is told to.

with FaultProxy(access) as proxy:
    operator = start(KUBECONFIG=proxy.kubeconfig("operator", token))
    proxy.inject(Fault(status=409, verb="create", path="*/jobs"))
    proxy.cut_watches()
"""

from __future__ import annotations

import asyncio
import contextlib
import fnmatch
import json
import ssl
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import aiohttp
from aiohttp import web

from tests.kubernetes import pki
from tests.kubernetes.access import Access, write_kubeconfig
from tests.kubernetes.loops import wait_for_connections

REASONS = {
    400: "BadRequest",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    409: "Conflict",
    410: "Expired",
    422: "Invalid",
    429: "TooManyRequests",
    500: "InternalError",
    503: "ServiceUnavailable",
    504: "Timeout",
}
"""The words that the API server has for its answers (apimachinery, meta/v1: StatusReason)."""

VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete", "GET": "get", "HEAD": "get"}
HOP_BY_HOP = frozenset({"connection", "content-length", "host", "keep-alive", "transfer-encoding", "upgrade"})
"""Headers that are about one connection."""

READY_SECONDS = 30
NO_LIMIT = 64 * 2**20
"""Larger than any request that the API server takes."""


@dataclass
class Fault:
    """Trouble for the next `count` requests that match. Without status, delay or cut it is none."""

    verb: str = "*"
    """get, list, watch, create, update, patch, delete, or * for all; several with a comma."""
    path: str = "*"
    """A pattern for the path, as in a shell: `*/jobs`, `*/namespaces/mine/*`, `*/status`."""
    containing: str = ""
    """Only requests whose body has this in it."""
    count: int = 1
    """How many requests meet it; -1: all, until `clear`."""
    status: int = 0
    """Answer with this HTTP status instead of asking the server."""
    is_late: bool = False
    """Ask the server first, and only then answer with the status or cut: what was asked for has happened."""
    in_stream: bool = False
    """For a watch: begin it well, then send the status as an event ERROR, as the server does with 410."""
    retry_after: int | None = None
    delay: float = 0
    """Wait so many seconds first."""
    cut: bool = False
    """Close the connection without an answer; a watch after its first events, if `cut_after` says so."""
    cut_after: float = 0
    """Seconds after which a connection is cut: a watch then has begun."""
    message: str = "a fault that a test has ordered"
    hits: int = 0
    """How many requests have met it so far."""

    def matches(self, verb: str, path: str, body: bytes) -> bool:
        """Tell whether a request meets it."""
        is_verb = self.verb == "*" or verb in self.verb.split(",")
        is_asked = is_verb and fnmatch.fnmatchcase(path, self.path) and self.containing.encode() in body
        return self.count != 0 and is_asked


@dataclass(frozen=True)
class Passed:
    """A request that came by, and what was answered; 0: nothing, the connection was cut."""

    verb: str
    path: str
    agent: str
    status: int
    fault: Fault | None


@dataclass
class FaultProxy:
    """A reverse proxy on the loopback interface, running for as long as the `with` block lasts."""

    access: Access
    requests: list[Passed] = field(default_factory=list)
    """What came by, in the order of the answers; a watch when it begins."""

    def __enter__(self) -> Self:
        """Start to listen."""
        self._faults: list[Fault] = []
        self._watches: set[asyncio.Task[None]] = set()
        self._failure: list[BaseException] = []
        self._ready = threading.Event()
        self._folder = tempfile.TemporaryDirectory(prefix="inferbench-proxy-")
        self.folder = Path(self._folder.name)
        self._thread = threading.Thread(target=self._run, name="fault proxy", daemon=True)
        self._thread.start()
        if not self._ready.wait(READY_SECONDS) or self._failure:
            raise RuntimeError("the fault proxy does not start") from next(iter(self._failure), None)
        return self

    def __exit__(self, *_: object) -> None:
        """Cut what is open and end."""
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join()
        self._folder.cleanup()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"https://127.0.0.1:{self.port}"

    def kubeconfig(self, name: str = "admin", token: str = "") -> Path:
        """Write a kubeconfig that goes through here: of a user of the cluster, or with any other token."""
        file = self.folder / f"{name}.kubeconfig"
        return write_kubeconfig(file, self.url, self.folder / "ca.crt", token or self.access.token(name))

    def through(self) -> Access:
        """Return the cluster as it is seen through here."""
        return Access(self.url, self.folder / "ca.crt", self.access.tokens, self.folder, self.access.audit_file)

    def inject(self, fault: Fault) -> Fault:
        """Order a fault; of several that match, the one that was ordered first is met."""
        self._faults.append(fault)
        return fault

    def clear(self) -> None:
        """Take back all faults."""
        self._faults.clear()

    def cut_watches(self) -> int:
        """Cut every watch that is open now, in the middle of whatever it sends; return how many there were."""
        done = asyncio.run_coroutine_threadsafe(self._cut_watches(), self._loop)
        return done.result(READY_SECONDS)

    async def _cut_watches(self) -> int:
        watches = list(self._watches)
        for watch in watches:
            watch.cancel()
        return len(watches)

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except Exception as error:  # noqa: BLE001 - a thread has nobody to raise to
            self._failure.append(error)
            self._ready.set()

    async def _serve(self) -> None:
        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        trusted = ssl.create_default_context(cafile=str(self.access.ca_file))
        endless = aiohttp.ClientTimeout(total=None)
        connector = aiohttp.TCPConnector(ssl=trusted, limit=0)
        async with aiohttp.ClientSession(connector=connector, timeout=endless, auto_decompress=False) as self._session:
            application = web.Application(client_max_size=NO_LIMIT)
            application.router.add_route("*", "/{path:.*}", self._answer)
            runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
            await runner.setup()
            await self._listen(runner)
            self._ready.set()
            await self._over.wait()
            await self._cut_watches()
            await runner.cleanup()
        await wait_for_connections()

    async def _listen(self, runner: web.AppRunner) -> None:
        certificate, key = pki.authority(self.folder).sign("proxy", ["IP:127.0.0.1", "DNS:localhost"])
        own = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        own.load_cert_chain(certificate, key)
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=own).start()
        self.port: int = runner.addresses[0][1]

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        verb = verb_of(request.method, request.path, request.query)
        body = await request.read()
        fault = next((fault for fault in self._faults if fault.matches(verb, request.path, body)), None)
        if fault is None:
            return await self._pass_on(request, verb, None)
        fault.count -= fault.count > 0
        fault.hits += 1
        await asyncio.sleep(fault.delay)
        if not (fault.status or fault.cut) or fault.in_stream or fault.cut_after:
            return await self._pass_on(request, verb, fault)
        if fault.is_late:
            await self._ask(request)
        self._note(request, verb, fault.status, fault)
        return _cut(request) if fault.cut else _refusal(fault)

    async def _ask(self, request: web.Request) -> None:
        async with self._upstream(request, await request.read()) as answer:
            await answer.read()

    async def _pass_on(self, request: web.Request, verb: str, fault: Fault | None) -> web.StreamResponse:
        try:
            async with self._upstream(request, await request.read()) as answer:
                self._note(request, verb, answer.status, fault)
                response = web.StreamResponse(status=answer.status, headers=_ours(answer.headers))
                await response.prepare(request)
                return await self._stream(request, response, answer, verb, fault)
        except aiohttp.ClientError:  # the server is away: so is the proxy
            self._note(request, verb, 0, fault)
            return _cut(request)

    async def _stream(
        self,
        request: web.Request,
        response: web.StreamResponse,
        answer: aiohttp.ClientResponse,
        verb: str,
        fault: Fault | None,
    ) -> web.StreamResponse:
        is_to_be_told = fault is not None and fault.in_stream
        copying = asyncio.ensure_future(_copy_lines(answer, response) if is_to_be_told else _copy(answer, response))
        if verb == "watch":
            self._watches.add(copying)
            copying.add_done_callback(self._watches.discard)
        try:
            patience = fault.cut_after if fault is not None and (fault.cut or fault.in_stream) else None
            await asyncio.wait_for(copying, patience if patience is None else max(patience, FIRST_EVENTS_SECONDS))
        except TimeoutError:
            if fault is not None and fault.in_stream:
                await response.write(_event(fault))
                await response.write_eof()
                return response
            return _cut(request, response)
        except asyncio.CancelledError:
            if copying.cancelled() and not self._over.is_set() and not _is_cancelling():
                return _cut(request, response)
            raise
        except (aiohttp.ClientError, ConnectionError):
            return _cut(request, response)
        finally:
            copying.cancel()
        await response.write_eof()
        return response

    def _upstream(
        self, request: web.Request, body: bytes
    ) -> contextlib.AbstractAsyncContextManager[aiohttp.ClientResponse]:
        return self._session.request(
            request.method,
            f"{self.access.url}{request.raw_path}",
            headers=_ours(request.headers),
            data=body or None,
            allow_redirects=False,
        )

    def _note(self, request: web.Request, verb: str, status: int, fault: Fault | None) -> None:
        agent = request.headers.get("User-Agent", "")
        self.requests.append(Passed(verb, request.path, agent, status, fault))


FIRST_EVENTS_SECONDS = 0.05
"""A watch that is to break after its beginning gets this long to begin."""


def verb_of(method: str, path: str, query: Mapping[str, str]) -> str:
    """Return the word that RBAC has for a request."""
    if method != "GET":
        return VERBS.get(method, method.lower())
    if query.get("watch") in {"true", "1"}:
        return "watch"
    return "list" if _is_collection(path) else "get"


def _is_collection(path: str) -> bool:
    """Tell whether a path names many: /api/v1/pods, /apis/batch/v1/namespaces/mine/jobs."""
    match path.strip("/").split("/"):
        case ["api", _, *rest] | ["apis", _, _, *rest]:
            return len(rest) in {1, 3} if rest[:1] == ["namespaces"] else len(rest) == 1
        case _:
            return False


async def _copy(answer: aiohttp.ClientResponse, response: web.StreamResponse) -> None:
    async for piece in answer.content.iter_any():
        await response.write(piece)


async def _copy_lines(answer: aiohttp.ClientResponse, response: web.StreamResponse) -> None:
    """Pass on whole lines only, so that an event of ours may follow at any time, as it would from the server."""
    rest = b""
    async for piece in answer.content.iter_any():
        lines, newline, rest = (rest + piece).rpartition(b"\n")
        if newline:
            await response.write(lines + newline)


def _ours(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name.lower() not in HOP_BY_HOP}


def _refusal(fault: Fault) -> web.Response:
    after = {} if fault.retry_after is None else {"Retry-After": str(fault.retry_after)}
    return web.json_response(_status(fault), status=fault.status, headers=after)


def _event(fault: Fault) -> bytes:
    return json.dumps({"type": "ERROR", "object": _status(fault)}).encode() + b"\n"


def _status(fault: Fault) -> dict[str, object]:
    reason = REASONS.get(fault.status, "Unknown")
    details = {} if fault.retry_after is None else {"details": {"retryAfterSeconds": fault.retry_after}}
    head = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure"}
    return {**head, "message": fault.message, "reason": reason, "code": fault.status, **details}


def _cut(request: web.Request, response: web.StreamResponse | None = None) -> web.StreamResponse:
    """Close the connection; whoever waits for an answer sees it reset."""
    if request.transport is not None:
        request.transport.abort()
    return response or web.Response()


def _is_cancelling() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
