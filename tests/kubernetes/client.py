"""Talks to an API server in plain JSON: what tests look at often, without starting a program for each look."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlencode

import urllib3

T = TypeVar("T")
Object = dict[str, Any]

PATCHES = {
    "json": "application/json-patch+json",
    "merge": "application/merge-patch+json",
    "strategic": "application/strategic-merge-patch+json",
    "apply": "application/apply-patch+yaml",
}
"""The kinds of patch that the API knows, by a short word."""

TIMEOUT_SECONDS = 30
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.02, 0.25


class ApiError(Exception):
    """The API server said no; `status` is the HTTP status, `reason` its CamelCase word."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(f"{status} {reason}: {message}")
        self.status = status
        self.reason = reason


class Api:
    """The API server as one user. Paths are the API's own: `/api/v1/namespaces/default/pods`."""

    def __init__(self, url: str, ca_file: Path, token: str, agent: str = "inferbench-tests") -> None:
        self._url = url
        headers = {"Authorization": f"Bearer {token}", "User-Agent": agent, "Accept": "application/json"}
        self._pool = urllib3.PoolManager(ca_certs=str(ca_file), headers=headers, maxsize=8, retries=False)

    def get(self, path: str, **query: object) -> Object:
        """Read an object or a list."""
        return self.request("GET", path, query=query)

    def items(self, path: str, **query: object) -> list[Object]:
        """Read the items of a list."""
        found: list[Object] = self.get(path, **query)["items"]
        return found

    def find(self, path: str) -> Object | None:
        """Read an object that need not be there."""
        try:
            return self.get(path)
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    def create(self, path: str, body: Object, **query: object) -> Object:
        """Create an object in a collection."""
        return self.request("POST", path, body, query=query)

    def replace(self, path: str, body: Object) -> Object:
        """Replace an object."""
        return self.request("PUT", path, body)

    def patch(self, path: str, body: object, kind: str = "merge", **query: object) -> Object:
        """Patch an object; `kind` is a key of PATCHES."""
        return self.request("PATCH", path, body, PATCHES[kind], query)

    def apply(self, path: str, body: Object) -> Object:
        """Create an object or bring it in step, as `kubectl apply --server-side` does."""
        return self.patch(path, body, "apply", fieldManager="inferbench-tests", force="true")

    def delete(self, path: str, body: Object | None = None, **query: object) -> Object:
        """Delete an object, or all of a collection."""
        return self.request("DELETE", path, body, query=query)

    def watch(self, path: str, seconds: int = TIMEOUT_SECONDS, **query: object) -> Iterator[Object]:
        """Read the events of a collection as they come, until the time is over."""
        query |= {"watch": "true", "timeoutSeconds": seconds}
        answer = self._send("GET", path, None, "application/json", query, stream=True)
        buffer = b""
        for piece in answer.stream(65536):
            *lines, buffer = (buffer + piece).split(b"\n")
            yield from (json.loads(line) for line in lines if line)

    def token_of(self, namespace: str, service_account: str, seconds: int = 24 * 3600) -> str:
        """Return a token of a service account, as its pods have one."""
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{service_account}/token"
        body = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"expirationSeconds": seconds},
        }
        token: str = self.create(path, body)["status"]["token"]
        return token

    def text(self, path: str) -> str:
        """Read something that is no JSON, such as /metrics."""
        return self._send("GET", path, None, "application/json", {}).data.decode()

    def request(
        self,
        method: str,
        path: str,
        body: object = None,
        content_type: str = "application/json",
        query: dict[str, object] | None = None,
    ) -> Object:
        """Send any request and return the object that answers it."""
        answer: Object = json.loads(self._send(method, path, body, content_type, query or {}).data)
        return answer

    def _send(
        self, method: str, path: str, body: object, content_type: str, query: dict[str, object], *, stream: bool = False
    ) -> urllib3.BaseHTTPResponse:
        asked = f"?{urlencode(query)}" if query else ""
        answer = self._pool.request(
            method,
            f"{self._url}{path}{asked}",
            body=None if body is None else json.dumps(body).encode(),
            headers={**self._pool.headers, "Content-Type": content_type},
            timeout=urllib3.Timeout(connect=TIMEOUT_SECONDS, read=None if stream else TIMEOUT_SECONDS),
            preload_content=not stream,
        )
        if answer.status >= 300:
            raise _error(answer.status, answer.data)
        return answer


def _error(status: int, payload: bytes) -> ApiError:
    try:
        told = json.loads(payload)
        return ApiError(status, told.get("reason", ""), told.get("message", ""))
    except (ValueError, AttributeError):
        return ApiError(status, "", payload.decode(errors="replace").strip())


def eventually(look: Callable[[], T], seconds: float = 30, what: str = "") -> T:
    """Look again and again until there is something to see, and return it.

    Raises:
        AssertionError: the time was over; it shows what was seen last, or why looking failed.
    """
    deadline = time.monotonic() + seconds
    pause = FIRST_PAUSE_SECONDS
    while True:
        seen: object
        try:
            if answer := look():
                return answer
            seen = answer
        except (ApiError, AssertionError, LookupError, OSError, urllib3.exceptions.HTTPError) as error:
            seen = f"{type(error).__name__}: {error}"
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds} s for {what or look.__name__}; seen last: {seen}")
        time.sleep(pause)
        pause = min(pause * 1.3, LONGEST_PAUSE_SECONDS)
