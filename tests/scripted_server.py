"""A server on loopback that says what a script tells it to, in the place of the API server's HTTP."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer

FORBIDDEN = {
    "kind": "Status",
    "apiVersion": "v1",
    "status": "Failure",
    "message": "unable to create new content in namespace team-a because it is being terminated",
    "reason": "Forbidden",
    "details": {"causes": [{"reason": "NamespaceTerminating", "message": "it goes", "field": "metadata.namespace"}]},
    "code": 403,
}


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
