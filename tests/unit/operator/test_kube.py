"""The API server's HTTP: statuses, Retry-After, silence. A server on loopback says what the script tells it to."""

from __future__ import annotations

import asyncio
import json
import socket
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from kubernetes.aio.client.api_client import ApiClient
from kubernetes.aio.client.configuration import Configuration
from kubernetes.aio.config.config_exception import ConfigException

from inferbench_contract.errors import EnvironmentFault
from inferbench_operator import kube
from inferbench_operator.kube import Api, ApiError, Cause
from inferbench_operator.settings import Settings
from inferbench_operator.throttle import Throttle

# ---- paths ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "expected", "resource", "is_one"),
    [
        (
            kube.benchmarks("team-a", "resnet50", "status"),
            "/apis/inferbench.dev/v1alpha1/namespaces/team-a/inferencebenchmarks/resnet50/status",
            "inferencebenchmarks/status",
            True,
        ),
        (
            kube.benchmarks(None),
            "/apis/inferbench.dev/v1alpha1/inferencebenchmarks",
            "inferencebenchmarks",
            False,
        ),
        (kube.jobs("team-a"), "/apis/batch/v1/namespaces/team-a/jobs", "jobs", False),
        (kube.jobs("team-a", "j-0"), "/apis/batch/v1/namespaces/team-a/jobs/j-0", "jobs", True),
        (kube.pods("team-a"), "/api/v1/namespaces/team-a/pods", "pods", False),
        (kube.pods(None), "/api/v1/pods", "pods", False),
        (kube.config_maps("team-a", "r-0"), "/api/v1/namespaces/team-a/configmaps/r-0", "configmaps", True),
        (kube.events("team-a"), "/api/v1/namespaces/team-a/events", "events", False),
        ("/api/v1/namespaces", "/api/v1/namespaces", "namespaces", False),
        ("/api/v1/namespaces/team-a", "/api/v1/namespaces/team-a", "namespaces", True),
        ("/apis/batch/v1", "/apis/batch/v1", "discovery", False),
        ("/version", "/version", "discovery", False),
    ],
)
def test_a_path_reads_back_as_its_resource(path, expected, resource, is_one):
    assert path == expected
    assert kube.resource_of(path) == (resource, is_one)


# ---- errors --------------------------------------------------------------------------------------

FORBIDDEN = {
    "kind": "Status",
    "apiVersion": "v1",
    "status": "Failure",
    "message": "unable to create new content in namespace team-a because it is being terminated",
    "reason": "Forbidden",
    "details": {"causes": [{"reason": "NamespaceTerminating", "message": "it goes", "field": "metadata.namespace"}]},
    "code": 403,
}


def test_an_error_carries_the_servers_own_words():
    error = kube.error_of("POST /x", 403, None, json.dumps(FORBIDDEN).encode())

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
    error = kube.error_of("GET /x", 502, "3", body)

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

    assert kube.error_of("GET /x", 429, header, body).retry_after == expected


# ---- requests ------------------------------------------------------------------------------------


@dataclass
class Answer:
    """What the server says to one request; `drop` closes the connection instead."""

    status: int = 200
    body: Any = field(default_factory=lambda: {"kind": "Thing"})
    headers: dict[str, str] = field(default_factory=dict)
    drop: bool = False
    slow: bool = False


@dataclass
class Server:
    """Plays a script, the last answer for ever, and remembers what it was asked."""

    script: list[Answer]
    requests: list[Any] = field(default_factory=list)
    told: list[tuple[str, str, int]] = field(default_factory=list)
    """What `on_request` heard."""
    waits: list[float] = field(default_factory=list)
    now: float = 0.0

    async def answer(self, request):
        body = await request.read()
        self.requests.append(Asked(request.method, request.path, dict(request.query), request.headers, body))
        told = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        if told.slow:
            await asyncio.sleep(30)
        if told.drop:
            request.transport.close()
        text = told.body if isinstance(told.body, str) else json.dumps(told.body)
        return web.Response(status=told.status, text=text, headers=told.headers)

    def hear(self, verb, resource, code, seconds):
        assert 0 <= seconds < 10
        self.told.append((verb, resource, code))

    async def sleep(self, seconds):
        self.waits.append(seconds)
        self.now += seconds

    def clock(self):
        return self.now


@dataclass
class Asked:
    """A request as it arrived."""

    method: str
    path: str
    query: dict[str, str]
    headers: Any
    body: bytes

    @property
    def json(self):
        return json.loads(self.body)


@asynccontextmanager
async def served(server):
    """The server's address."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", server.answer)
    async with TestServer(app) as running:
        yield str(running.make_url("")).rstrip("/")


def ask(server, request, token=None, renew=None, timeout_seconds=5.0, before=None):
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
            api = Api(client, throttle, server.hear, renewed if renew else None, server.sleep, timeout_seconds)
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
    return api.get(kube.jobs("team-a", "j-0"))


def create(api):
    return api.create(kube.jobs("team-a"), {"kind": "Job"})


def patch(api):
    return api.merge_patch(kube.benchmarks("team-a", "b", "status"), {"status": {}})


def delete(api):
    return api.delete(kube.jobs("team-a", "j-0"))


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
            lambda api: api.json_patch(kube.jobs("team-a", "j-0"), OPERATIONS),
            "PATCH",
            "application/json-patch+json",
            OPERATIONS,
            ("patch", "jobs", 200),
        ),
        (
            lambda api: api.delete(kube.jobs("team-a", "j-0"), {"preconditions": {"uid": "u"}}),
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

    answer = ask(server, lambda api: api.create(kube.jobs("team-a"), body))

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


# ---- lists ---------------------------------------------------------------------------------------


def page(*names, more=None):
    return Answer(
        body={
            "kind": "JobList",
            "metadata": {"resourceVersion": "7", **({"continue": more} if more else {})},
            "items": [{"metadata": {"name": name}} for name in names],
        }
    )


def listed(server, **query):
    answer = ask(server, lambda api: api.list(kube.jobs("team-a"), **query))
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
    assert refused(Server([Answer(410)]), lambda api: api.list(kube.jobs("team-a"))).is_gone


# ---- watches -------------------------------------------------------------------------------------

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

        await api.watch(kube.pods("team-a"), hear, lambda: self.said.append("open"), resourceVersion="3")


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
    """The store takes 1.5 MiB; aiohttp's own buffer would hold an eighth of it."""
    large = {"type": "ADDED", "object": {"metadata": {"resourceVersion": "7"}, "filler": "x" * 1_500_000}}
    watching = Watching()

    ask(Server([lines(large, BOOKMARK)]), watching)

    assert watching.said == ["open", ("ADDED", "7"), ("BOOKMARK", "9")]


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


# ---- connecting ----------------------------------------------------------------------------------

KUBECONFIG = """\
apiVersion: v1
kind: Config
current-context: here
contexts: [{name: here, context: {cluster: c, user: u}}]
clusters: [{name: c, cluster: {server: "https://10.0.0.1:6443", insecure-skip-tls-verify: true}}]
users: [{name: u, user: {token: secret}}]
"""


def test_a_kubeconfig_says_where_the_server_is_and_who_we_are(tmp_path):
    file = tmp_path / "config"
    file.write_text(KUBECONFIG)

    configuration = asyncio.run(kube.configure({"KUBECONFIG": str(file), "KUBERNETES_SERVICE_HOST": "10.9.9.9"}))
    info = kube.connection_info(configuration)

    assert configuration.host == "https://10.0.0.1:6443"
    assert (info.server, info.scheme, info.token, info.insecure) == (configuration.host, "Bearer", "secret", True)


@pytest.fixture
def service_account(tmp_path):
    (tmp_path / "token").write_text("secret\n")
    (tmp_path / "ca.crt").write_text("certificate")
    return tmp_path


def test_a_token_that_was_exchanged_is_found_whatever_proxy_the_environment_names(tmp_path, monkeypatch):
    """A proxy of the environment is for the world outside; the API server is inside."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    server = Server([Answer(401), Answer(body={"kind": "Job"})])
    file = tmp_path / "config"

    async def main():
        async with served(server) as url:
            file.write_text(KUBECONFIG.replace("https://10.0.0.1:6443", url).replace("secret", "old"))
            api = await kube.connect(Settings(), server.hear, {"KUBECONFIG": str(file)})
            file.write_text(file.read_text().replace("old", "new"))
            try:
                return await get(api)
            finally:
                await api.close()

    assert asyncio.run(main()) == {"kind": "Job"}
    assert [asked.headers["Authorization"] for asked in server.requests] == ["Bearer old", "Bearer new"]
    assert server.told == [("get", "jobs", 401), ("get", "jobs", 200)]


IN_A_POD = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "KUBERNETES_SERVICE_PORT": "443"}


def test_in_a_pod_the_service_account_does(service_account):
    info = kube.connection_info(asyncio.run(kube.configure(IN_A_POD, service_account)))

    assert (info.server, info.scheme, info.token) == ("https://10.0.0.1:443", "Bearer", "secret")
    assert info.ca_path == str(service_account / "ca.crt")
    assert info.as_http_headers() == {"Authorization": "Bearer secret"}


def test_every_login_reads_the_token_anew(service_account):
    asyncio.run(kube.configure(IN_A_POD, service_account))
    (service_account / "token").write_text("exchanged")

    assert kube.connection_info(asyncio.run(kube.configure(IN_A_POD, service_account))).token == "exchanged"


@pytest.mark.parametrize("content", [None, "", "just text", "a: [", "kind: Config"])
def test_without_a_way_to_the_server_it_says_where_it_looked(tmp_path, content):
    file = tmp_path / "config"
    if content is not None:
        file.write_text(content)

    with pytest.raises(EnvironmentFault, match=r"There is no way to a Kubernetes API server: .*KUBECONFIG"):
        asyncio.run(kube.configure({"KUBECONFIG": str(file)}))


def test_a_pod_without_a_token_says_so(tmp_path):
    with pytest.raises(EnvironmentFault, match="token file does not exist"):
        asyncio.run(kube.configure(IN_A_POD, tmp_path))


@pytest.mark.parametrize(
    ("token", "scheme", "rest"),
    [
        ("bearer abc\n", "Bearer", "abc"),
        ("Bearer abc", "Bearer", "abc"),
        ("Basic dTpw", "Basic", "dTpw"),
        (None, None, None),
    ],
)
def test_kopf_is_told_the_same_credentials(token, scheme, rest):
    configuration = Configuration(host="https://10.0.0.1")
    configuration.api_key = {"BearerToken": token} if token else {}

    info = kube.connection_info(configuration)

    assert (info.scheme, info.token) == (scheme, rest)


def test_kopfs_own_requests_and_watches_are_heard_of():
    server = Server([Answer(), Answer(), Answer(403), Answer(drop=True), Answer(drop=True), Answer()])
    heard = []
    asked = (
        "/apis/batch/v1",
        f"{kube.jobs(None)}?watch=true",
        f"{kube.pods(None)}?watch=true",
        kube.pods(None),
        kube.jobs(None),
    )

    async def main():
        async with served(server) as url:
            configuration = Configuration(host=url)
            configuration.api_key = {"BearerToken": "bearer secret"}
            context = kube.watching_session(configuration, server.hear, heard.append)
            assert context.server == url
            async with context.aiohttp_session as session:
                for path in asked:
                    with suppress(aiohttp.ClientError):
                        async with session.get(f"{url}{path}") as response:
                            await response.read()

    asyncio.run(main())

    assert heard == ["jobs"], "the watch of pods was refused"
    assert server.told == [
        ("get", "discovery", 200),
        ("watch", "jobs", 200),
        ("watch", "pods", 403),
        ("list", "pods", 0),
        ("list", "jobs", 200),
    ]
    assert {asked.headers["Authorization"] for asked in server.requests} == {"Bearer secret"}
