"""The API server, spoken to in plain JSON: paths, requests that wait rather than fail, and errors that say what to do.

`Api` stands on the ApiClient of the official client for what is hard to get right (TLS, tokens, proxies) and leaves its
generated models alone: importing `CoreV1Api` costs 90 MiB, and a model refuses fields that are newer than itself.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import aiohttp
import kopf
import orjson
from kubernetes.aio import config as kubernetes_config
from kubernetes.aio.client.api_client import ApiClient
from kubernetes.aio.client.configuration import Configuration
from kubernetes.aio.config.config_exception import ConfigException
from kubernetes.aio.config.incluster_config import InClusterConfigLoader

from inferbench_contract import __version__
from inferbench_contract.errors import EnvironmentFault, InferbenchError
from inferbench_operator.settings import Settings
from inferbench_operator.throttle import Throttle

GROUP = "inferbench.dev"
VERSION = "v1alpha1"
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

TRUST_ENVIRONMENT = False
"""Whether HTTPS_PROXY and .netrc are heeded. An API server is behind no proxy but the kubeconfig's, and aiohttp would
have a thread look into .netrc for each request, at twice the CPU time of the request itself (0.4 and 0.2 ms)."""

MAX_CONNECTIONS = 0
"""No limit: each namespace that is watched has two open for ever. What is asked besides, the throttle bounds."""

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where Kubernetes mounts a pod's token."""

JSON = "application/json"
JSON_PATCH = "application/json-patch+json"
MERGE_PATCH = "application/merge-patch+json"

Json = dict[str, Any]
OnRequest = Callable[[str, str, int, float], None]
"""Hears of every request: verb, resource, status (0: no answer), seconds."""
OnWatch = Callable[[str], None]
"""Hears that the watch of a resource is open."""
OnEvent = Callable[[str, Json], None]
"""Hears of an event of a watch: ADDED, MODIFIED, DELETED or BOOKMARK, and the object."""

Answer = TypeVar("Answer")


# ---- paths ---------------------------------------------------------------------------------------


def benchmarks(namespace: str | None, name: str | None = None, subresource: str | None = None) -> str:
    """Return the path of one benchmark, of all in a namespace, or (None) of all in the cluster."""
    return _path(f"/apis/{GROUP}/{VERSION}", namespace, "inferencebenchmarks", name, subresource)


def jobs(namespace: str | None, name: str | None = None, subresource: str | None = None) -> str:
    """Return the path of one Job, or of all."""
    return _path("/apis/batch/v1", namespace, "jobs", name, subresource)


def pods(namespace: str | None, name: str | None = None, subresource: str | None = None) -> str:
    """Return the path of one pod, or of all."""
    return _path("/api/v1", namespace, "pods", name, subresource)


def config_maps(namespace: str | None, name: str | None = None) -> str:
    """Return the path of one ConfigMap, or of all."""
    return _path("/api/v1", namespace, "configmaps", name)


def events(namespace: str | None, name: str | None = None) -> str:
    """Return the path of one event, or of all: core/v1, which `kubectl describe` shows."""
    return _path("/api/v1", namespace, "events", name)


def _path(
    root: str, namespace: str | None, plural: str, name: str | None = None, subresource: str | None = None
) -> str:
    place = [root, *(["namespaces", namespace] if namespace else []), plural]
    return "/".join([*place, *([name] if name else []), *([subresource] if subresource else [])])


def resource_of(path: str) -> tuple[str, bool]:
    """Read a path back: `jobs` or `inferencebenchmarks/status`, and whether it names one object."""
    parts = path.strip("/").split("/")
    rest = parts[3:] if parts[0] == "apis" else parts[2:]
    if len(rest) > 2 and rest[0] == "namespaces":
        rest = rest[2:]
    return "/".join([*rest[:1], *rest[2:3]]) or "discovery", len(rest) > 1


# ---- errors --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cause:
    """One of the reasons in a Status: which field, what kind of mistake, and the sentence about it."""

    field: str
    reason: str
    message: str


class ApiError(InferbenchError):
    """The API server refused, or did not answer (`status` is 0). `reason` and `message` are its own words."""

    def __init__(
        self,
        request: str,
        status: int,
        reason: str,
        message: str,
        retry_after: float | None = None,
        causes: Sequence[Cause] = (),
    ) -> None:
        """Name the request (`POST /apis/...`) in the sentence."""
        super().__init__(f"{request}: {status or 'no answer'} {reason}: {message}")
        self.status = status
        self.reason = reason
        self.message = message
        self.retry_after = retry_after
        self.causes = tuple(causes)

    @property
    def is_unreachable(self) -> bool:
        """Whether there was no answer, so that nobody knows what became of the request."""
        return self.status == 0

    @property
    def is_unauthorized(self) -> bool:
        """Whether the credentials are not valid (any more)."""
        return self.status == 401

    @property
    def is_forbidden(self) -> bool:
        """Whether it is not allowed: by RBAC, a quota, an admission policy, or because the namespace is going."""
        return self.status == 403

    @property
    def is_terminating(self) -> bool:
        """Whether the namespace is being deleted, so that nothing can be made in it."""
        return any(cause.reason == "NamespaceTerminating" for cause in self.causes)

    @property
    def is_not_found(self) -> bool:
        """Whether the object, or its namespace, is not there."""
        return self.status == 404

    @property
    def is_conflict(self) -> bool:
        """Whether the object has changed since it was read, or exists already."""
        return self.status == 409

    @property
    def already_exists(self) -> bool:
        """Whether the object to be made exists."""
        return self.status == 409 and self.reason == "AlreadyExists"

    @property
    def is_gone(self) -> bool:
        """Whether the page or version that was asked for is too old."""
        return self.status == 410

    @property
    def is_busy(self) -> bool:
        """Whether the server asked to come back later."""
        return self.status == 429

    @property
    def is_lasting(self) -> bool:
        """Whether the same request would be refused again, whoever sends it whenever: it has to be another one."""
        return self.status in {400, 405, 413, 415, 422}


def error_of(request: str, status: int, retry_after: str | None, body: bytes) -> ApiError:
    """Read an answer that is none of 2xx; what is no Status (a proxy's page) is quoted."""
    try:
        told = orjson.loads(body)
    except ValueError:
        told = None
    if not isinstance(told, dict) or told.get("kind") != "Status":
        quoted = body[:200].decode(errors="replace").strip() or "no text"
        return ApiError(request, status, "NoStatus", quoted, _seconds(retry_after))
    details = told.get("details") or {}
    causes = [_cause(cause) for cause in details.get("causes") or ()]
    reason, message = str(told.get("reason") or "Unknown"), str(told.get("message") or "no message")
    return ApiError(request, status, reason, message, _seconds(retry_after, details.get("retryAfterSeconds")), causes)


def _cause(told: Mapping[str, Any]) -> Cause:
    return Cause(*(str(told.get(key) or "") for key in ("field", "reason", "message")))


def _seconds(*told: object) -> float | None:
    """Read the first that is a number of seconds; a date, which HTTP allows too, is not what Kubernetes sends."""
    for value in told:
        if isinstance(value, int | str) and str(value).isdigit():
            return float(value)
    return None


# ---- requests ------------------------------------------------------------------------------------


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


WATCH_TIMEOUT = aiohttp.ClientTimeout(
    total=WATCH_SECONDS + WATCH_GRACE_SECONDS, sock_connect=WATCH_CONNECT_SECONDS, sock_read=WATCH_SILENT_SECONDS
)


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
    ) -> None:
        """Take an ApiClient. `renew` makes it read its credentials again, after the server has refused them."""
        self._client = client
        self._client.user_agent = USER_AGENT
        self._throttle = throttle
        self._on_request = on_request
        self._renew = renew
        self._sleep = sleep
        self._timeout_seconds = timeout_seconds

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

        An ERROR in the stream is raised like any other answer; `is_unreachable` tells that the stream was cut.
        """
        query = {"watch": "true", "allowWatchBookmarks": "true", "timeoutSeconds": WATCH_SECONDS, **query}
        response = await self._repeated(partial(self._open_watch, path, query), RETRY_DELAYS_SECONDS)
        try:
            on_open()
            with _as_api_error(f"WATCH {path}"):
                async for line in response.content:
                    on_event(*_event(f"WATCH {path}", line))
        finally:
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


# ---- connecting ----------------------------------------------------------------------------------


async def connect(
    settings: Settings, on_request: OnRequest = lambda *_: None, environment: Mapping[str, str] = os.environ
) -> Api:
    """Return the API of the cluster that this process belongs to, or that the kubeconfig names.

    Raises:
        EnvironmentFault: neither is there; says where it looked.
    """
    configuration = await configure(environment)

    async def renew() -> None:
        _copy_credentials(await configure(environment), configuration)

    throttle = Throttle(settings.api_qps, settings.api_burst)
    return Api(ApiClient(configuration), throttle, on_request, renew)


async def configure(environment: Mapping[str, str] = os.environ, service_account: Path = SERVICE_ACCOUNT) -> Any:
    """Read where the API server is and who we are: $KUBECONFIG, else the pod's service account, else ~/.kube/config.

    In a pod the token is read again every minute, as it is exchanged every hour.

    Raises:
        EnvironmentFault: none of the three can be read.
    """
    configuration = Configuration(
        client_session_kwargs={"trust_env": TRUST_ENVIRONMENT}, connection_pool_maxsize=MAX_CONNECTIONS
    )
    try:
        if not environment.get("KUBECONFIG") and environment.get("KUBERNETES_SERVICE_HOST"):
            token, authority = str(service_account / "token"), str(service_account / "ca.crt")
            InClusterConfigLoader(token, authority, environ=environment).load_and_set(configuration)
        else:
            file = environment.get("KUBECONFIG") or str(Path.home() / ".kube/config")
            await kubernetes_config.load_kube_config(
                config_file=file, client_configuration=configuration, persist_config=False
            )
    except Exception as error:  # the loader raises whatever a malformed file makes it stumble over
        why = " ".join(str(error).split())
        raise EnvironmentFault(
            f"There is no way to a Kubernetes API server: {why}. Run the operator in a pod with a service account, "
            "or let KUBECONFIG name a kubeconfig file."
        ) from error
    return configuration


def _copy_credentials(source: Any, target: Any) -> None:
    """Give a configuration that is in use the token of one that was just read."""
    target.api_key = source.api_key
    target.refresh_api_key_hook = source.refresh_api_key_hook


def connection_info(configuration: Any) -> kopf.ConnectionInfo:
    """Say the same to kopf, for its `on.login`; call `configure` anew for each login, so that the token is fresh."""
    scheme, _, token = configuration.api_key.get("BearerToken", "").strip().partition(" ")
    return kopf.ConnectionInfo(
        server=configuration.host,
        ca_path=configuration.ssl_ca_cert,
        insecure=not configuration.verify_ssl,
        scheme=scheme.capitalize() or None,
        token=token or None,
        certificate_path=configuration.cert_file,
        private_key_path=configuration.key_file,
        proxy_url=configuration.proxy,
        trust_env=TRUST_ENVIRONMENT,
    )


def watching_session(configuration: Any, on_request: OnRequest, on_watch: OnWatch) -> kopf.AiohttpSession:
    """Return the same with kopf's session in it, which tells of kopf's own requests and of each watch that opens.

    kopf tells of none of them. It owns the session, closes it and asks for another after the server refused its token.
    """
    info = connection_info(configuration)
    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, ssl=info.as_ssl_context()),
        headers={"User-Agent": USER_AGENT, **info.as_http_headers()},
        proxy=info.proxy_url,
        trust_env=info.trust_env,
        trace_configs=[_trace(on_request, on_watch)],
    )
    return kopf.AiohttpSession(server=info.server, aiohttp_session=session)


def _trace(on_request: OnRequest, on_watch: OnWatch) -> aiohttp.TraceConfig:
    def tell(context: SimpleNamespace, method: str, url: Any, status: int) -> None:
        resource, _ = resource_of(url.path)
        verb = _verb(method, url)
        on_request(verb, resource, status, asyncio.get_running_loop().time() - context.began)
        if verb == "watch" and status == 200:
            on_watch(resource)

    async def start(_: object, context: SimpleNamespace, __: object) -> None:
        context.began = asyncio.get_running_loop().time()

    async def end(_: object, context: SimpleNamespace, params: aiohttp.TraceRequestEndParams) -> None:
        tell(context, params.method, params.url, params.response.status)

    async def failed(_: object, context: SimpleNamespace, params: aiohttp.TraceRequestExceptionParams) -> None:
        tell(context, params.method, params.url, 0)

    trace = aiohttp.TraceConfig()
    trace.on_request_start.append(start)
    trace.on_request_end.append(end)
    trace.on_request_exception.append(failed)
    return trace


def _verb(method: str, url: Any) -> str:
    """Return Kubernetes' verb of a request; discovery, which names no resource, is a get."""
    if url.query.get("watch") == "true":
        return "watch"
    resource, is_one = resource_of(url.path)
    if method == "GET":
        return "get" if is_one or resource == "discovery" else "list"
    return {"POST": "create", "PUT": "update"}.get(method, method.lower())
