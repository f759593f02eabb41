"""The four pages over HTTP, on loopback."""

from __future__ import annotations

import asyncio
import gzip
import socket

import aiohttp
import pytest
from aiohttp.test_utils import TestClient, TestServer
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics

from inferbench_operator import server
from inferbench_operator.health import Health
from inferbench_operator.metrics import Metrics
from inferbench_operator.results_page import CHUNK_BYTES, Published, ResultsPage
from inferbench_operator.settings import ResultsDetail, Settings
from tests.builders import a_benchmark

OPENMETRICS = {"Accept": "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"}


def a_page(benchmarks=1):
    page = ResultsPage(ResultsDetail.CELLS, 1_000)
    for i in range(benchmarks):
        page.put("team-a", f"b{i}", Published(a_benchmark().spec, conditions={"Finished": "True"}))
    return page


def probes(letter, sentences):
    return {f"{letter}{i}": lambda sentence=sentence: sentence for i, sentence in enumerate(sentences)}


def answered(ask, page=None, alive=(), ready=(), results=(), **session):
    """Let `ask(client)` ask a server whose probes complain so."""
    health = Health(probes("p", alive), probes("r", ready), probes("s", results))

    async def main():
        app = server.application(Metrics(), page or a_page(), health)
        async with TestClient(TestServer(app), **session) as client:
            return await ask(client)

    return asyncio.run(main())


def get(path, **how):
    async def ask(client):
        async with client.get(path, **how) as response:
            return response.status, response.headers["Content-Type"], await response.text()

    return ask


def test_metrics_are_the_operators_own():
    status, content_type, text = answered(get("/metrics"))

    assert (status, content_type) == (200, "text/plain; version=0.0.4; charset=utf-8")
    assert "inferbench_operator_build_info{" in text
    assert "inferbench_benchmark_" not in text


def test_results_are_the_page():
    page = a_page()

    status, content_type, text = answered(get("/results"), page)

    assert (status, content_type) == (200, "text/plain; version=0.0.4; charset=utf-8")
    assert text == page.render().decode()


def test_results_are_not_told_by_halves():
    status, content_type, text = answered(get("/results"), results=("Not all yet.",))

    assert (status, content_type, text) == (503, "text/plain; charset=utf-8", "s0: Not all yet.\n")
    assert answered(get("/readyz"), results=("Not all yet.",))[0] == 200


@pytest.mark.parametrize("path", ["/metrics", "/results"])
def test_who_accepts_openmetrics_gets_it(path):
    _, content_type, text = answered(get(path, headers=OPENMETRICS))

    assert content_type.startswith("application/openmetrics-text; version=1.0.0; charset=utf-8")
    assert list(parse_openmetrics(text))


def test_a_page_of_many_chunks_arrives_whole():
    page = a_page(3_000)

    _, _, text = answered(get("/results"), page)

    assert len(text) > 2 * CHUNK_BYTES
    assert text == page.render().decode()


@pytest.mark.parametrize("encoding", ["gzip", "identity", "deflate, br"])
def test_who_accepts_gzip_gets_it(encoding):
    page = a_page(3_000)

    async def ask(client):
        async with client.get("/results", headers={"Accept-Encoding": encoding}) as response:
            return response.headers.get("Content-Encoding"), response.headers["Vary"], await response.read()

    told, vary, body = answered(ask, page, auto_decompress=False)

    assert (told, vary) == ("gzip" if encoding == "gzip" else None, "Accept, Accept-Encoding")
    assert (gzip.decompress(body) if told else body) == page.render()


@pytest.mark.parametrize("encoding", ["gzip", "identity"])
def test_while_a_large_page_is_written_everybody_else_has_a_turn(encoding):
    page = a_page(3_000)
    chunks = len(list(page.snapshot().chunks()))

    async def ask(client):
        async with client.get("/results", headers={"Accept-Encoding": encoding}) as response:
            before = asyncio.get_running_loop().create_future()
            turns = [0]

            async def count():
                while not before.done():
                    turns[0] += 1
                    await asyncio.sleep(0)

            counting = asyncio.create_task(count())
            await response.read()
            before.set_result(None)
            await counting
            return turns[0]

    assert answered(ask, page) >= chunks - 1  # the first is on its way when the headers are read


def test_asked_for_the_head_of_the_page_it_says_how_long_it_would_be():
    page = a_page()

    async def ask(client):
        async with client.head("/results", headers={"Accept-Encoding": "identity"}) as response:
            return response.status, response.content_length, await response.read()

    assert answered(ask, page) == (200, len(page.render()), b"")


def test_who_hangs_up_in_the_middle_harms_nobody():
    page = a_page(3_000)

    async def ask(client):
        async with client.get("/results") as response:
            response.close()
        return await get("/healthz")(client)

    assert answered(ask, page)[0] == 200


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_all_is_well(path):
    assert answered(get(path)) == (200, "text/plain; charset=utf-8", "ok\n")


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/healthz", (503, "p0: It hurts.\np1: Here too.\n")),
        ("/readyz", (503, "p0: It hurts.\np1: Here too.\nr0: Not yet.\n")),
    ],
)
def test_what_is_wrong_is_said_in_sentences(path, expected):
    status, _, text = answered(get(path), alive=("It hurts.", "Here too."), ready=("Not yet.",))

    assert (status, text) == expected


def test_the_root_lists_the_pages():
    assert answered(get("/"))[2].split() == ["/metrics", "/results", "/healthz", "/readyz"]


def test_it_listens_where_the_settings_say_until_it_is_cleaned_up():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    async def main():
        runner = await server.serve(Settings(port=port), Metrics(), a_page(), Health({}, {}))
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://127.0.0.1:{port}/healthz") as response:
                first = response.status
            await runner.cleanup()
            with pytest.raises(aiohttp.ClientConnectorError):
                await session.get(f"http://127.0.0.1:{port}/healthz")
        return first

    assert asyncio.run(main()) == 200
