"""What the API server says when it refuses, and that it said nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from inferbench_contract.errors import InferbenchError


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
