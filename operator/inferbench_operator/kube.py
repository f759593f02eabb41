"""The API server, spoken to in plain JSON, by requests that wait rather than fail.

`Api` stands on the ApiClient of the official client for what is hard to get right (TLS, tokens, proxies) and leaves its
generated models alone: importing `CoreV1Api` costs 90 MiB, and a model refuses fields that are newer than itself.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import aiohttp
import orjson
from kubernetes.aio.config.config_exception import ConfigException

from inferbench_contract import __version__
from inferbench_contract.errors import EnvironmentFault
from inferbench_operator.api_errors import ApiError, error_of
from inferbench_operator.paths import resource_of
from inferbench_operator.throttle import Throttle

log = logging.getLogger(__name__)

USER_AGENT = f"inferbench-operator/{__version__}"

TIMEOUT_SECONDS = 30.0
"""For one answer. The API server itself gives up after 60 s, and a write that takes 30 s will be seen by the watch."""

RETRY_DELAYS_SECONDS = (0.2, 0.5, 1.0)
"""Before each repetition of a read that got no answer; an API server that changes over is back within them."""

MAX_BUSY_SECONDS = 60.0
"""What one request waits at most because the server is busy; after that its benchmark waits in the queue."""

DEFAULT_RETRY_AFTER_SECONDS = 1.0
"""What the API server itself says when it says anything."""

PAGE = 500
"""Objects that a page of a list holds: kubectl's number, and some ten milliseconds of a blocked event loop."""

WATCH_SECONDS = 240
"""After which the server ends a watch and it is opened again: so often at least a live watch gives a sign of life."""

WATCH_GRACE_SECONDS = 30
"""By which a server may end a watch too late, before it is given up."""

WATCH_CONNECT_SECONDS = 10
"""For a connection; a server that is there takes it at once."""

WATCH_SILENT_SECONDS = 70
"""kopf's own patience: the server sends a bookmark each minute, so a watch without one leads nowhere any more."""

MAX_LINE_BYTES = 16 * 2**20
"""Of one event of a watch. The store takes objects of 1.5 MiB, and a character becomes at most six (\\u003c)."""

JSON = "application/json"
JSON_PATCH = "application/json-patch+json"
MERGE_PATCH = "application/merge-patch+json"

Json = dict[str, Any]
OnRequest = Callable[[str, str, int, float], None]
"""Hears of every request: verb, resource, status (0: no answer), seconds."""
OnEvent = Callable[[str, Json], None]
"""Hears of an event of a watch: ADDED, MODIFIED, DELETED or BOOKMARK, and the object."""

Answer = TypeVar("Answer")


@dataclass
class _Tries:
    """What one request may still try."""

    delays: Iterator[float]
    patience_seconds: float = MAX_BUSY_SECONDS
    renewed: bool = False


@dataclass
class _Counted:
    """How one request went; 0: there was no answer."""

    status: int = 0


WATCH_TIMEOUT = aiohttp.ClientTimeout(total=WATCH_SECONDS + WATCH_GRACE_SECONDS, sock_connect=WATCH_CONNECT_SECONDS)


class _Silence:
    """Gives a stream up in which nothing is heard for so long, by one timer: aiohttp sets its own anew at each read."""

    def __init__(self, seconds: float, give_up: Callable[[], object]) -> None:
        """Begin to listen."""
        self._loop, self._seconds, self._give_up = asyncio.get_running_loop(), seconds, give_up
        self.broken()
        self._timer = self._loop.call_later(seconds, self._look)

    def broken(self) -> None:
        """Hear something."""
        self._heard = self._loop.time()

    def end(self) -> None:
        """Listen no more."""
        self._timer.cancel()

    def _look(self) -> None:
        left = self._heard + self._seconds - self._loop.time()
        if left > 0:
            self._timer = self._loop.call_later(left, self._look)
        else:
            self._give_up()


class _Lines:
    """Cuts a stream into lines, and skips endless ones. aiohttp itself gives up at 4 MiB, which a pod may have."""

    def __init__(self, request: str) -> None:
        """Take what was asked for, to name it."""
        self._request = request
        self._begun: list[bytes] = []
        self._size = 0

    def take(self, chunk: bytes) -> list[bytes]:
        """Take the next bytes; return the lines that end in them."""
        first, *more = chunk.split(b"\n")
        self._keep(first)
        if not more:
            return []
        lines = [*self.end(), *more[:-1]]
        self._keep(more[-1])
        return lines

    def end(self) -> list[bytes]:
        """Return the line that has begun, if there is one."""
        begun, size, self._begun, self._size = self._begun, self._size, [], 0
        if size > MAX_LINE_BYTES:
            told = f"{size:,} bytes, expected at most {MAX_LINE_BYTES:,}"
            log.warning("%s: an event of %s, is skipped.", self._request, told)
            return []
        return [b"".join(begun)] if size else []

    def _keep(self, piece: bytes) -> None:
        self._size += len(piece)
        if self._size <= MAX_LINE_BYTES:
            self._begun.append(piece)


class Api:
    """Requests to one API server. All wait for the throttle; a busy server is waited for, reads are repeated.

    A write that got no answer is not repeated: whether it was done is what the next look at the benchmark finds out.
    (aiohttp sends a GET or DELETE whose connection broke a second time by itself; both do the same twice as once.)
    Every method raises ApiError, and nothing else, when there is no good answer.
    """

    def __init__(
        self,
        client: Any,
        throttle: Throttle,
        on_request: OnRequest = lambda *_: None,
        renew: Callable[[], Awaitable[object]] | None = None,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        timeout_seconds: float = TIMEOUT_SECONDS,
        silent_seconds: float = WATCH_SILENT_SECONDS,
    ) -> None:
        """Take an ApiClient. `renew` makes it read its credentials again, after the server has refused them."""
        self._client = client
        self._client.user_agent = USER_AGENT
        self._throttle = throttle
        self._on_request = on_request
        self._renew = renew
        self._sleep = sleep
        self._timeout_seconds = timeout_seconds
        self._silent_seconds = silent_seconds

    async def get(self, path: str, **query: str | int) -> Json:
        """Read one object."""
        return await self._request("get", "GET", path, query)

    async def list(self, path: str, each: Callable[[Json], Json] | None = None, **query: str | int) -> Json:
        """Read all objects, page by page where there are pages; `items` of the answer holds them all.

        `each` makes an object smaller as soon as its page is there, so that all pages together are never in memory.
        (A list at resourceVersion 0 has no pages.) A page that has become too old while the ones before it were read
        is no error: then all is read at once.
        """
        try:
            return await self._list_pages(path, {"limit": PAGE, **query}, each)
        except ApiError as error:
            if not error.is_gone or query.get("limit") == 0:
                raise
            return await self.list(path, each, **{**query, "limit": 0})

    async def create(self, path: str, body: Json, **query: str | int) -> Json:
        """Make an object; `path` is that of all of them. Returns it as stored."""
        return await self._request("create", "POST", path, query, body=body)

    async def json_patch(self, path: str, operations: Sequence[Json]) -> Json:
        """Change an object by JSON Patch, whose `test` operations must hold. Returns it as stored."""
        return await self._request("patch", "PATCH", path, body=list(operations), content_type=JSON_PATCH)

    async def merge_patch(self, path: str, body: Json) -> Json:
        """Change an object by JSON Merge Patch: null removes a field, a list is replaced. Returns it as stored."""
        return await self._request("patch", "PATCH", path, body=body, content_type=MERGE_PATCH)

    async def delete(self, path: str, body: Json | None = None) -> Json:
        """Delete an object; `body` are DeleteOptions, such as preconditions."""
        return await self._request("delete", "DELETE", path, body=body)

    async def watch(self, path: str, on_event: OnEvent, on_open: Callable[[], None], **query: str | int) -> None:
        """Tell of everything that happens to the objects of a kind, bookmarks included, until the server ends it.

        An ERROR in the stream is raised like any other answer; `is_unreachable` tells that the stream was cut, or that
        nothing was heard in it for too long.
        """
        query = {"watch": "true", "allowWatchBookmarks": "true", "timeoutSeconds": WATCH_SECONDS, **query}
        response = await self._repeated(partial(self._open_watch, path, query), RETRY_DELAYS_SECONDS)
        request, silence = f"WATCH {path}", _Silence(self._silent_seconds, response.close)
        lines = _Lines(request)
        try:
            on_open()
            with _as_api_error(request):
                async for chunk in response.content.iter_any():
                    silence.broken()
                    for line in lines.take(chunk):
                        on_event(*_event(request, line))
            for line in lines.end():  # of a stream that ends without a newline: a proxy's page
                on_event(*_event(request, line))
        finally:
            silence.end()
            response.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def _list_pages(self, path: str, query: Mapping[str, str | int], each: Callable[[Json], Json] | None) -> Json:
        answer = page = await self._request("list", "GET", path, query)
        items = answer["items"] = _items(page, each)
        while token := (page.get("metadata") or {}).get("continue"):
            # The server wants the token alone; the version that it stands for is in it.
            more = {key: value for key, value in query.items() if not key.startswith("resourceVersion")}
            page = await self._request("list", "GET", path, {**more, "continue": token})
            items += _items(page, each)
        return answer

    async def _request(
        self,
        verb: str,
        method: str,
        path: str,
        query: Mapping[str, str | int] | None = None,
        body: object = None,
        content_type: str = JSON,
    ) -> Json:
        """Send a request as often as it is right to."""
        send = partial(self._send, verb, method, path, query or {}, body, content_type)
        return await self._repeated(send, RETRY_DELAYS_SECONDS if method == "GET" else ())

    async def _repeated(self, send: Callable[[], Awaitable[Answer]], delays: Iterable[float]) -> Answer:
        tries = _Tries(iter(delays))
        while True:
            await self._throttle.acquire()
            try:
                return await send()
            except ApiError as error:
                if not await self._may_repeat(error, tries):
                    raise

    async def _may_repeat(self, error: ApiError, tries: _Tries) -> bool:
        """Do what has to be done before the same request may be sent again; tell whether it may."""
        if error.is_busy:
            return self._wait_for_server(error, tries)
        if error.is_unauthorized and self._renew is not None and not tries.renewed:
            tries.renewed = True
            return await self._renewed(self._renew)
        if (error.is_unreachable or error.status >= 500) and (delay := next(tries.delays, None)) is not None:
            await self._sleep(delay)
            return True
        return False

    def _wait_for_server(self, error: ApiError, tries: _Tries) -> bool:
        """Hold up every request as long as the server wants, this one too, if it still has the patience."""
        seconds = DEFAULT_RETRY_AFTER_SECONDS if error.retry_after is None else error.retry_after
        tries.patience_seconds -= max(seconds, 1.0)  # "0 s" for ever must end too
        if tries.patience_seconds < 0:
            return False
        self._throttle.pause(seconds)
        return True

    @staticmethod
    async def _renewed(renew: Callable[[], Awaitable[object]]) -> bool:
        try:
            await renew()
        except EnvironmentFault:
            return False
        return True

    async def _send(
        self, verb: str, method: str, path: str, query: Mapping[str, str | int], body: object, content_type: str
    ) -> Json:
        """Send a request once and tell how it went."""
        with self._counted(verb, method, path) as counted:
            response = await self._exchange(method, path, query, body, content_type, self._timeout_seconds)
            answer = await response.read()
            counted.status = response.status
        if not 200 <= response.status < 300:
            raise error_of(f"{method} {path}", response.status, response.headers.get("Retry-After"), answer)
        return _object(f"{method} {path}", answer)

    async def _open_watch(self, path: str, query: Mapping[str, str | int]) -> aiohttp.ClientResponse:
        """Begin a watch; its stream is still to be read."""
        with self._counted("watch", "WATCH", path) as counted:
            answer = await self._exchange("GET", path, query, None, JSON, WATCH_TIMEOUT)
            refusal = b"" if answer.status == 200 else await answer.read()
            counted.status = answer.status
        if answer.status != 200:
            raise error_of(f"WATCH {path}", answer.status, answer.headers.get("Retry-After"), refusal)
        response: aiohttp.ClientResponse = answer.response
        return response

    @contextmanager
    def _counted(self, verb: str, method: str, path: str) -> Iterator[_Counted]:
        """Tell how a request went, once it has an answer or none."""
        clock = asyncio.get_running_loop().time
        began, counted = clock(), _Counted()
        try:
            with _as_api_error(f"{method} {path}"):
                yield counted
        finally:
            self._on_request(verb, resource_of(path)[0], counted.status, clock() - began)

    async def _exchange(
        self,
        method: str,
        path: str,
        query: Mapping[str, str | int],
        body: object,
        content_type: str,
        patience: float | aiohttp.ClientTimeout,
    ) -> Any:
        """Return the client's answer, whose body is still to be read."""
        # The body goes past `param_serialize`, which would look for models in it.
        _, url, headers, *_ = await self._client.param_serialize(
            method=method,
            resource_path=path,
            query_params=[(key, str(value)) for key, value in query.items()],
            header_params={"Accept": JSON, "Content-Type": content_type},
            auth_settings=["BearerToken"],
        )
        return await self._client.call_api(method, url, headers, body, _request_timeout=patience)


@contextmanager
def _as_api_error(request: str) -> Iterator[None]:
    """Raise what the libraries raise as what callers expect: a timeout, a token file that is not there, a cut."""
    try:
        yield
    except (aiohttp.ClientError, OSError, ConfigException) as error:
        raise ApiError(request, 0, "Unreachable", repr(error)) from error


def _items(page: Json, each: Callable[[Json], Json] | None) -> list[Json]:
    items: list[Json] = page.get("items") or []
    return items if each is None else [each(item) for item in items]


def _object(request: str, answer: bytes) -> Json:
    try:
        told = orjson.loads(answer)
    except ValueError:
        told = None
    if not isinstance(told, dict):
        raise ApiError(request, 0, "NoObject", f"the answer is no JSON object: {answer[:200].decode(errors='replace')}")
    return told


def _event(request: str, line: bytes) -> tuple[str, Json]:
    """Read a line of a watch."""
    try:
        told = orjson.loads(line)
        kind, thing = told["type"], told["object"]
    except (ValueError, KeyError, TypeError):
        kind = thing = None
    if not isinstance(kind, str) or not isinstance(thing, dict):
        raise ApiError(request, 200, "NoEvent", f"the line is no event: {line[:200].decode(errors='replace')}")
    if kind == "ERROR":
        raise error_of(request, int(thing.get("code") or 500), None, orjson.dumps(thing))
    return kind, thing
