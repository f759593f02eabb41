"""Which cluster this process belongs to, and as whom: found out once, and said to both clients, ours and kopf's."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import kopf
from kubernetes.aio import config as kubernetes_config
from kubernetes.aio.client.api_client import ApiClient
from kubernetes.aio.client.configuration import Configuration
from kubernetes.aio.config.incluster_config import InClusterConfigLoader

from inferbench_contract.errors import EnvironmentFault
from inferbench_operator.kube import USER_AGENT, Api, OnRequest
from inferbench_operator.paths import resource_of
from inferbench_operator.settings import Settings
from inferbench_operator.throttle import Throttle

TRUST_ENVIRONMENT = False
"""Whether HTTPS_PROXY and .netrc are heeded. An API server is behind no proxy but the kubeconfig's, and aiohttp would
have a thread look into .netrc for each request, at twice the CPU time of the request itself (0.4 and 0.2 ms)."""

MAX_CONNECTIONS = 0
"""No limit: each namespace that is watched has two open for ever. What is asked besides, the throttle bounds."""

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where Kubernetes mounts a pod's token."""

OnWatch = Callable[[str], None]
"""Hears that the watch of a resource is open."""


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
