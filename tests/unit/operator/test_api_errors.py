"""What the API server refuses, read back."""

from __future__ import annotations

import json

import pytest

from inferbench_operator import api_errors
from inferbench_operator.api_errors import ApiError, Cause
from tests.scripted_server import FORBIDDEN


def test_an_error_carries_the_servers_own_words():
    error = api_errors.error_of("POST /x", 403, None, json.dumps(FORBIDDEN).encode())

    assert (error.status, error.reason) == (403, "Forbidden")
    assert error.causes == (Cause("metadata.namespace", "NamespaceTerminating", "it goes"),)
    assert error.is_terminating
    assert str(error) == f"POST /x: 403 Forbidden: {FORBIDDEN['message']}"


@pytest.mark.parametrize(
    ("status", "reason", "question"),
    [
        (0, "Unreachable", "is_unreachable"),
        (401, "Unauthorized", "is_unauthorized"),
        (403, "Forbidden", "is_forbidden"),
        (404, "NotFound", "is_not_found"),
        (409, "Conflict", "is_conflict"),
        (410, "Expired", "is_gone"),
        (429, "TooManyRequests", "is_busy"),
    ],
)
def test_a_status_answers_one_question_with_yes(status, reason, question):
    error = ApiError("GET /x", status, reason, "so")
    questions = ("unreachable", "unauthorized", "forbidden", "not_found", "conflict", "gone", "busy")

    assert [f"is_{name}" for name in questions if getattr(error, f"is_{name}")] == [question]


def test_what_exists_already_is_a_conflict_of_its_own_kind():
    assert ApiError("POST /x", 409, "AlreadyExists", "").already_exists
    assert not ApiError("POST /x", 409, "Conflict", "").already_exists


@pytest.mark.parametrize("body", [b"<html>Bad gateway</html>", b"[1]", b'{"kind": "Pod"}'])
def test_what_is_no_status_is_quoted(body):
    error = api_errors.error_of("GET /x", 502, "3", body)

    assert (error.status, error.reason, error.message, error.retry_after) == (502, "NoStatus", body.decode(), 3)


@pytest.mark.parametrize(
    ("header", "details", "expected"),
    [
        ("2", {}, 2),
        (None, {"retryAfterSeconds": 5}, 5),
        ("2", {"retryAfterSeconds": 5}, 2),
        (None, {}, None),
        ("Wed, 21 Oct 2026 07:28:00 GMT", {}, None),
    ],
)
def test_when_to_come_back_stands_in_the_header_or_in_the_status(header, details, expected):
    body = json.dumps({"kind": "Status", "details": details}).encode()

    assert api_errors.error_of("GET /x", 429, header, body).retry_after == expected
