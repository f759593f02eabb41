"""The API server's HTTP: statuses, Retry-After, silence. A server on loopback says what the script tells it to."""

from __future__ import annotations

import asyncio
import json
import socket
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web
from kubernetes.aio.client.api_client import ApiClient
from kubernetes.aio.client.configuration import Configuration
from kubernetes.aio.config.config_exception import ConfigException

from inferbench_contract.errors import EnvironmentFault
from inferbench_operator import paths
from inferbench_operator.api_errors import ApiError
from inferbench_operator.kube import MAX_LINE_BYTES, Api
from inferbench_operator.throttle import Throttle
from tests.scripted_server import FORBIDDEN, Answer, Server, served

# ---- requests --------------------------------------------------------------------------------------


def ask(server, request, token=None, renew=None, before=None, **patience):
    """Let `request(api)` ask the server; the time that the client waits only passes in the script."""

    async def main():
        async with served(server) as url:
            configuration = Configuration(host=url)
            configuration.api_key = {"BearerToken": token} if token else {}
            configuration.refresh_api_key_hook = before

            async def renewed():
                configuration.api_key = {"BearerToken": renew()}

            throttle = Throttle(1_000, 1_000, server.clock, server.sleep)
            client = ApiClient(configuration)
            how = {"timeout_seconds": 5.0, **patience}
            api = Api(client, throttle, server.hear, renewed if renew else None, server.sleep, **how)
            try:
                return await request(api)
            finally:
                await api.close()

    return asyncio.run(main())


def refused(server, request, **how):
    with pytest.raises(ApiError) as caught:
        ask(server, request, **how)
    return caught.value


def get(api):
    return api.get(paths.jobs("team-a", "j-0"))


def create(api):
    return api.create(paths.jobs("team-a"), {"kind": "Job"})


def patch(api):
    return api.merge_patch(paths.benchmarks("team-a", "b", "status"), {"status": {}})


def delete(api):
    return api.delete(paths.jobs("team-a", "j-0"))


VERBS = pytest.mark.parametrize("request_", [get, create, patch, delete])


def test_a_request_says_who_asks():
    server = Server([Answer(body={"kind": "Job", "x": [1]})])

    assert ask(server, get, token="Bearer secret") == {"kind": "Job", "x": [1]}
    (asked,) = server.requests
    assert (asked.method, asked.path) == ("GET", "/apis/batch/v1/namespaces/team-a/jobs/j-0")
    assert asked.headers["User-Agent"].startswith("inferbench-operator/")
    assert asked.headers["Authorization"] == "Bearer secret"
    assert asked.headers["Accept"] == "application/json"
    assert server.told == [("get", "jobs", 200)]


OPERATIONS = [{"op": "test", "path": "/metadata/uid", "value": "u"}, {"op": "remove", "path": "/spec/suspend"}]


@pytest.mark.parametrize(
    ("request_", "method", "content_type", "body", "told"),
    [
        (create, "POST", "application/json", {"kind": "Job"}, ("create", "jobs", 200)),
        (patch, "PATCH", "application/merge-patch+json", {"status": {}}, ("patch", "inferencebenchmarks/status", 200)),
        (
            lambda api: api.json_patch(paths.jobs("team-a", "j-0"), OPERATIONS),
            "PATCH",
            "application/json-patch+json",
            OPERATIONS,
            ("patch", "jobs", 200),
        ),
        (
            lambda api: api.delete(paths.jobs("team-a", "j-0"), {"preconditions": {"uid": "u"}}),
            "DELETE",
            "application/json",
            {"preconditions": {"uid": "u"}},
            ("delete", "jobs", 200),
        ),
    ],
)
def test_a_write_is_sent_as_what_it_is(request_, method, content_type, body, told):
    server = Server([Answer()])

    ask(server, request_)

    (asked,) = server.requests
    assert (asked.method, asked.headers["Content-Type"], asked.json) == (method, content_type, body)
    assert server.told == [told]


def test_a_field_that_no_model_knows_travels_unchanged():
    body = {"spec": {"newerThanTheClient": {"a": None, "b": [True, 1.5]}}}
    server = Server([Answer(body=body)])

    answer = ask(server, lambda api: api.create(paths.jobs("team-a"), body))

    assert server.requests[0].json == answer == body


@pytest.mark.parametrize(
    ("troubles", "code"),
    [
        pytest.param([Answer(500)] * 3, 500, id="500"),
        pytest.param([Answer(503)] * 3, 503, id="503"),
        pytest.param([Answer(drop=True)] * 6, 0, id="no answer, each of which aiohttp asks for twice"),
    ],
)
def test_a_read_is_repeated(troubles, code):
    server = Server([*troubles, Answer()])

    assert ask(server, get) == {"kind": "Thing"}
    assert server.waits == [0.2, 0.5, 1.0]
    assert [code for _, _, code in server.told] == [code] * 3 + [200]


def test_a_read_is_repeated_three_times_at_most():
    server = Server([Answer(500, {"kind": "Status", "reason": "InternalError", "message": "etcd is away"})])

    error = refused(server, get)

    assert (error.status, error.message) == (500, "etcd is away")
    assert len(server.told) == 4


@pytest.mark.parametrize(
    ("request_", "trouble"),
    [
        pytest.param(create, Answer(500), id="create, 500"),
        pytest.param(patch, Answer(500), id="patch, 500"),
        pytest.param(delete, Answer(500), id="delete, 500"),
        pytest.param(create, Answer(drop=True), id="create, no answer"),
        pytest.param(patch, Answer(drop=True), id="patch, no answer"),
    ],
)
def test_a_write_is_not_repeated(request_, trouble):
    """Nobody knows whether it was done; the next look at the benchmark does."""
    server = Server([trouble, Answer()])

    error = refused(server, request_)

    assert error.is_unreachable == trouble.drop
    assert len(server.requests) == 1
    assert server.waits == []


def test_a_deletion_may_be_asked_for_twice():
    """Aiohttp does it, for methods that do the same twice as once."""
    server = Server([Answer(drop=True)])

    assert refused(server, delete).is_unreachable
    assert len(server.requests) == 2


@VERBS
@pytest.mark.parametrize("status", [400, 403, 404, 409, 410, 422])
def test_what_is_refused_is_not_asked_again(request_, status):
    server = Server([Answer(status), Answer()])

    assert refused(server, request_).status == status
    assert len(server.requests) == 1


@VERBS
def test_a_busy_server_is_waited_for(request_):
    server = Server([Answer(429, headers={"Retry-After": "3"}), Answer(429), Answer()])

    ask(server, request_)

    assert server.waits == [3, 1], "it said 3 s, then nothing"
    assert [code for _, _, code in server.told] == [429, 429, 200]


def test_a_busy_server_holds_up_every_request():
    server = Server([Answer(429, headers={"Retry-After": "7"}), Answer()])

    async def two(api):
        await get(api)
        api._throttle.pause(5)
        await get(api)

    ask(server, two)

    assert server.waits == [7, 5]


def test_a_busy_server_is_waited_for_a_minute_at_most():
    server = Server([Answer(429, headers={"Retry-After": "25"})])

    assert refused(server, create).is_busy
    assert server.waits == [25, 25]


def test_a_server_that_wants_to_be_left_alone_for_long_is_reported_at_once():
    server = Server([Answer(429, headers={"Retry-After": "600"})])

    error = refused(server, create)

    assert (error.is_busy, error.retry_after) == (True, 600)
    assert server.waits == []


def test_a_server_that_never_says_how_long_is_given_up():
    server = Server([Answer(429, headers={"Retry-After": "0"})])

    assert refused(server, create).is_busy
    assert len(server.told) == 61


def test_where_nobody_listens_there_is_no_answer():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # taken, and nobody listens
        port = taken.getsockname()[1]

        async def main():
            throttle = Throttle(1_000, 1_000)
            api = Api(ApiClient(Configuration(host=f"http://127.0.0.1:{port}")), throttle)
            try:
                await create(api)
            finally:
                await api.close()

        with pytest.raises(ApiError) as caught:
            asyncio.run(main())

    assert caught.value.is_unreachable
    assert str(caught.value).startswith("POST /apis/batch/v1/namespaces/team-a/jobs: no answer Unreachable: ")


def test_a_server_that_keeps_silent_is_given_up():
    server = Server([Answer(slow=True)])

    error = refused(server, create, timeout_seconds=0.05)

    assert error.is_unreachable
    assert "Timeout" in error.message
    assert server.told == [("create", "jobs", 0)]


@pytest.mark.parametrize("body", ["[]", "not JSON", ""])
def test_a_good_answer_that_is_no_object_is_an_error(body):
    error = refused(Server([Answer(body=body)]), create)

    assert (error.status, error.reason) == (0, "NoObject")


def test_credentials_that_were_refused_are_read_again():
    server = Server([Answer(401), Answer()])

    ask(server, patch, token="Bearer old", renew=lambda: "Bearer new")

    assert [asked.headers["Authorization"] for asked in server.requests] == ["Bearer old", "Bearer new"]


def test_credentials_are_read_again_once():
    server = Server([Answer(401)])

    assert refused(server, get, token="Bearer old", renew=lambda: "Bearer new").is_unauthorized
    assert len(server.requests) == 2


def test_credentials_that_cannot_be_read_again_are_refused():
    def gone():
        raise EnvironmentFault("no token")

    assert refused(Server([Answer(401)]), get, token="Bearer old", renew=gone).is_unauthorized


@pytest.mark.parametrize("error", [FileNotFoundError("token"), ConfigException("Token file exists but empty.")])
def test_a_token_that_cannot_be_read_just_now_is_no_answer(error):
    """It is exchanged every hour, and there is a moment in between."""

    def read_token(_):
        raise error

    found = refused(Server([Answer()]), create, token="Bearer old", before=read_token)

    assert found.is_unreachable
    assert type(error).__name__ in found.message


# ---- lists -----------------------------------------------------------------------------------------


def page(*names, more=None):
    return Answer(
        body={
            "kind": "JobList",
            "metadata": {"resourceVersion": "7", **({"continue": more} if more else {})},
            "items": [{"metadata": {"name": name}} for name in names],
        }
    )


def listed(server, **query):
    answer = ask(server, lambda api: api.list(paths.jobs("team-a"), **query))
    return [item["metadata"]["name"] for item in answer["items"]], answer["metadata"]["resourceVersion"]


def test_a_list_is_read_page_by_page():
    server = Server([page("a", "b", more="token"), page("c")])

    assert listed(server, labelSelector="x=y", resourceVersion="0") == (["a", "b", "c"], "7")
    assert [asked.query for asked in server.requests] == [
        {"limit": "500", "labelSelector": "x=y", "resourceVersion": "0"},
        {"limit": "500", "labelSelector": "x=y", "continue": "token"},
    ]
    assert server.told == [("list", "jobs", 200)] * 2


def test_an_empty_list_has_no_items():
    assert listed(Server([Answer(body={"kind": "JobList", "metadata": {"resourceVersion": "7"}, "items": None})])) == (
        [],
        "7",
    )


def test_a_page_that_has_become_too_old_makes_the_whole_list_be_read_at_once():
    server = Server([page("a", more="token"), Answer(410), page("a", "b")])

    assert listed(server) == (["a", "b"], "7")
    assert [asked.query.get("limit") for asked in server.requests] == ["500", "500", "0"]


def test_a_list_that_is_gone_even_in_one_piece_is_an_error():
    assert refused(Server([Answer(410)]), lambda api: api.list(paths.jobs("team-a"))).is_gone


# ---- watches ---------------------------------------------------------------------------------------

ADDED = {"type": "ADDED", "object": {"kind": "Pod", "metadata": {"resourceVersion": "7"}}}
BOOKMARK = {"type": "BOOKMARK", "object": {"kind": "Pod", "metadata": {"resourceVersion": "9"}}}


def in_stream(status, reason):
    return {"type": "ERROR", "object": {"kind": "Status", "code": status, "reason": reason, "message": "so"}}


def lines(*events):
    return Answer(body="".join(f"{json.dumps(event)}\n" for event in events))


@dataclass
class Watching:
    """Watches pods once, and remembers what it was told."""

    said: list[Any] = field(default_factory=list)

    async def __call__(self, api):
        def hear(kind, thing):
            self.said.append((kind, thing["metadata"]["resourceVersion"]))

        await api.watch(paths.pods("team-a"), hear, lambda: self.said.append("open"), resourceVersion="3")


def test_a_watch_tells_of_its_opening_and_of_each_event_until_the_server_ends_it():
    server, watching = Server([lines(ADDED, BOOKMARK)]), Watching()

    ask(server, watching)

    assert watching.said == ["open", ("ADDED", "7"), ("BOOKMARK", "9")]
    (asked,) = server.requests
    assert (asked.method, asked.path) == ("GET", "/api/v1/namespaces/team-a/pods")
    assert asked.query == {
        "watch": "true",
        "allowWatchBookmarks": "true",
        "timeoutSeconds": "240",
        "resourceVersion": "3",
    }
    assert server.told == [("watch", "pods", 200)]


def test_an_event_may_be_as_large_as_an_object_of_the_cluster():
    """The store takes 1.5 MiB, a character becomes at most six in JSON, and aiohttp itself reads lines up to 4 MiB."""
    large = {"type": "ADDED", "object": {"metadata": {"resourceVersion": "7"}, "filler": "\x01" * 1_500_000}}
    watching = Watching()

    ask(Server([lines(large, BOOKMARK)]), watching)

    assert watching.said == ["open", ("ADDED", "7"), ("BOOKMARK", "9")]


def test_an_event_that_no_object_can_have_is_skipped_and_what_follows_is_told(caplog):
    endless = {"type": "ADDED", "object": {"metadata": {"resourceVersion": "8"}, "filler": "x" * MAX_LINE_BYTES}}
    watching = Watching()

    ask(Server([lines(ADDED, endless, BOOKMARK)]), watching)

    assert watching.said == ["open", ("ADDED", "7"), ("BOOKMARK", "9")]
    assert "WATCH /api/v1/namespaces/team-a/pods: an event of 16,777,2" in caplog.text


def test_an_error_in_the_stream_is_raised_after_what_came_before_it():
    watching = Watching()

    error = refused(Server([lines(ADDED, in_stream(410, "Expired"))]), watching)

    assert watching.said == ["open", ("ADDED", "7")]
    assert (error.is_gone, error.reason, error.message) == (True, "Expired", "so")


@pytest.mark.parametrize("line", ["<html>Bad gateway</html>", "[]", '{"type": "ADDED"}', '{"type": 1, "object": {}}'])
def test_what_is_no_event_is_quoted_and_taken_for_a_refusal(line):
    error = refused(Server([Answer(body=f"{line}\n")]), Watching())

    assert (error.reason, error.is_unreachable) == ("NoEvent", False)
    assert line in error.message


def test_a_watch_that_is_refused_does_not_open():
    server, watching = Server([Answer(403, FORBIDDEN)]), Watching()

    error = refused(server, watching)

    assert (error.is_forbidden, watching.said) == (True, [])
    assert server.told == [("watch", "pods", 403)]


def test_a_watch_waits_for_a_busy_server_and_asks_a_broken_one_again():
    server = Server([Answer(429, headers={"Retry-After": "2"}), Answer(500), lines(ADDED)])
    watching = Watching()

    ask(server, watching)

    assert watching.said == ["open", ("ADDED", "7")]
    assert server.waits == [2, 0.2]


def test_a_watch_renews_its_credentials_once_they_are_refused():
    server, watching = Server([Answer(401), lines(ADDED)]), Watching()

    ask(server, watching, token="Bearer old", renew=lambda: "Bearer new")

    assert [asked.headers["Authorization"] for asked in server.requests] == ["Bearer old", "Bearer new"]


def test_a_stream_that_is_cut_is_told_from_a_refusal():
    server, watching = Server([]), Watching()

    async def cut(request):
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(json.dumps(ADDED).encode() + b"\n" + json.dumps(BOOKMARK).encode()[:20])
        request.transport.close()
        return response

    server.answer = cut
    error = refused(server, watching)

    assert watching.said == ["open", ("ADDED", "7")]
    assert error.is_unreachable


def test_a_stream_in_which_nothing_is_heard_any_more_is_given_up():
    server, watching = Server([]), Watching()

    async def fall_silent(request):
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(3):
            await asyncio.sleep(0.1)
            await response.write(json.dumps(ADDED).encode() + b"\n")
        await asyncio.sleep(30)
        return response

    server.answer = fall_silent
    error = refused(server, watching, silent_seconds=0.2)

    assert watching.said == ["open", *[("ADDED", "7")] * 3]
    assert error.is_unreachable
