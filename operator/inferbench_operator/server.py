"""The operator's four pages, served in the event loop that everything else runs in: none may hold it up."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator

from aiohttp import hdrs, web

from inferbench_operator.health import Health
from inferbench_operator.metrics import Metrics
from inferbench_operator.results_page import Rendered, ResultsPage
from inferbench_operator.settings import Settings

PATHS = ("/metrics", "/results", "/healthz", "/readyz")

SHUTDOWN_SECONDS = 2.0
"""Scrapes that still run may end."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


async def serve(settings: Settings, metrics: Metrics, page: ResultsPage, health: Health) -> web.AppRunner:
    """Answer on the settings' port from now on, at every address; `cleanup` of what is returned ends it.

    Raises:
        OSError: the port cannot be had.
    """
    runner = web.AppRunner(application(metrics, page, health), access_log=None, shutdown_timeout=SHUTDOWN_SECONDS)
    await runner.setup()
    await web.TCPSite(runner, port=settings.port).start()
    return runner


def application(metrics: Metrics, page: ResultsPage, health: Health) -> web.Application:
    """Return the pages as an application."""
    results = _results(page, health.why_no_results)
    handlers = (_metrics(metrics), results, _answer(health.why_not_alive), _answer(health.why_not_ready))
    app = web.Application()
    app.add_routes([web.get(path, handler) for path, handler in zip(PATHS, handlers, strict=True)])
    app.router.add_get("/", _index)
    return app


async def _index(_: web.Request) -> web.Response:
    return web.Response(text="".join(f"{path}\n" for path in PATHS))


def _metrics(metrics: Metrics) -> Handler:
    async def handler(request: web.Request) -> web.Response:
        body, content_type = metrics.render(request.headers.get(hdrs.ACCEPT, ""))
        return web.Response(body=body, headers={hdrs.CONTENT_TYPE: content_type})

    return handler


def _results(page: ResultsPage, why_not: Callable[[], tuple[str, ...]]) -> Handler:
    async def handler(request: web.Request) -> web.StreamResponse:
        if sentences := why_not():
            return _said(503, sentences)
        rendered = page.snapshot(request.headers.get(hdrs.ACCEPT, ""))
        response = web.StreamResponse(headers={hdrs.CONTENT_TYPE: rendered.content_type})
        chunks = _encoded(rendered, response, compress="gzip" in request.headers.get(hdrs.ACCEPT_ENCODING, ""))
        await response.prepare(request)
        if request.method != hdrs.METH_HEAD:
            for chunk in chunks:
                await response.write(chunk)
                await asyncio.sleep(0)  # writing does not always wait; now everybody else has a turn
        await response.write_eof()
        return response

    return handler


def _encoded(rendered: Rendered, response: web.StreamResponse, *, compress: bool) -> Iterator[bytes]:
    """Return the chunks of a page, and say in the response what they are."""
    response.headers[hdrs.VARY] = f"{hdrs.ACCEPT}, {hdrs.ACCEPT_ENCODING}"
    if compress:
        response.headers[hdrs.CONTENT_ENCODING] = "gzip"
        return rendered.compressed_chunks()
    response.content_length = rendered.size
    return rendered.chunks()


def _answer(why_not: Callable[[], tuple[str, ...]]) -> Handler:
    async def handler(_: web.Request) -> web.Response:
        sentences = why_not()
        return _said(503, sentences) if sentences else _said(200, ("ok",))

    return handler


def _said(status: int, sentences: Iterable[str]) -> web.Response:
    return web.Response(status=status, text="".join(f"{sentence}\n" for sentence in sentences))
