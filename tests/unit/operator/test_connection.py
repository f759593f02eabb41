"""Where the API server is, and who we are to it."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import aiohttp
import pytest
from kubernetes.aio.client.configuration import Configuration

from inferbench_contract.errors import EnvironmentFault
from inferbench_operator import connection, paths
from inferbench_operator.settings import Settings
from tests.scripted_server import Answer, Server, served

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

    configuration = asyncio.run(connection.configure({"KUBECONFIG": str(file), "KUBERNETES_SERVICE_HOST": "10.9.9.9"}))
    info = connection.connection_info(configuration)

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
            api = await connection.connect(Settings(), server.hear, {"KUBECONFIG": str(file)})
            file.write_text(file.read_text().replace("old", "new"))
            try:
                return await api.get(paths.jobs("team-a", "j-0"))
            finally:
                await api.close()

    assert asyncio.run(main()) == {"kind": "Job"}
    assert [asked.headers["Authorization"] for asked in server.requests] == ["Bearer old", "Bearer new"]
    assert server.told == [("get", "jobs", 401), ("get", "jobs", 200)]


IN_A_POD = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "KUBERNETES_SERVICE_PORT": "443"}


def test_in_a_pod_the_service_account_does(service_account):
    info = connection.connection_info(asyncio.run(connection.configure(IN_A_POD, service_account)))

    assert (info.server, info.scheme, info.token) == ("https://10.0.0.1:443", "Bearer", "secret")
    assert info.ca_path == str(service_account / "ca.crt")
    assert info.as_http_headers() == {"Authorization": "Bearer secret"}


def test_every_login_reads_the_token_anew(service_account):
    asyncio.run(connection.configure(IN_A_POD, service_account))
    (service_account / "token").write_text("exchanged")

    assert connection.connection_info(asyncio.run(connection.configure(IN_A_POD, service_account))).token == "exchanged"


@pytest.mark.parametrize("content", [None, "", "just text", "a: [", "kind: Config"])
def test_without_a_way_to_the_server_it_says_where_it_looked(tmp_path, content):
    file = tmp_path / "config"
    if content is not None:
        file.write_text(content)

    with pytest.raises(EnvironmentFault, match=r"There is no way to a Kubernetes API server: .*KUBECONFIG"):
        asyncio.run(connection.configure({"KUBECONFIG": str(file)}))


def test_a_pod_without_a_token_says_so(tmp_path):
    with pytest.raises(EnvironmentFault, match="token file does not exist"):
        asyncio.run(connection.configure(IN_A_POD, tmp_path))


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

    info = connection.connection_info(configuration)

    assert (info.scheme, info.token) == (scheme, rest)


def test_kopfs_own_requests_and_watches_are_heard_of():
    server = Server([Answer(), Answer(), Answer(403), Answer(drop=True), Answer(drop=True), Answer()])
    heard = []
    asked = (
        "/apis/batch/v1",
        f"{paths.jobs(None)}?watch=true",
        f"{paths.pods(None)}?watch=true",
        paths.pods(None),
        paths.jobs(None),
    )

    async def main():
        async with served(server) as url:
            configuration = Configuration(host=url)
            configuration.api_key = {"BearerToken": "bearer secret"}
            context = connection.watching_session(configuration, server.hear, heard.append)
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
