"""What the operator lists before it begins, and what it makes of namespaces that it may not list."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from inferbench_operator import app
from inferbench_operator.api_errors import ApiError
from inferbench_operator.cache import Cache
from inferbench_operator.health import WatchAges
from inferbench_operator.metrics import Metrics
from inferbench_operator.results_page import ResultsPage
from inferbench_operator.settings import Settings
from inferbench_operator.workqueue import Queue
from tests import virtual_time

TEAMS = ("team-a", "team-b")
EMPTY = {"metadata": {"resourceVersion": "7"}, "items": []}


@dataclass
class Server:
    """Lists nothing, and refuses some namespaces as it does once somebody deleted them."""

    refused: set[str] = field(default_factory=set)
    answer: dict[str, object] = field(default_factory=lambda: EMPTY)
    asked: list[str] = field(default_factory=list)

    async def list(self, path, each=None, **query):
        self.asked.append(path)
        if any(f"/namespaces/{name}/" in path for name in self.refused):
            raise ApiError(f"GET {path}", 403, "Forbidden", "cannot list resource")
        return dict(self.answer)


def parts_of(server):
    settings = Settings(runner_image="runner:test", watch_namespaces=TEAMS)
    ages = WatchAges([(resource, team) for team in TEAMS for resource in ("jobs", "pods")])
    page = ResultsPage("cells", 1_000)
    return app.Parts(settings, server, Metrics(), page, Queue(), Cache(), ages, asyncio.Event())


def served(server, *steps):
    """Let the operator list for ten minutes and more, do the steps in between, and return what it is made of."""

    async def main():
        parts = parts_of(server)
        tasks = [asyncio.create_task(work) for work in (app._relist_for_ever(parts), app._ask_for_left_out(parts))]
        for step in steps:
            await asyncio.sleep(200)
            step()
        await asyncio.sleep(200)
        for task in tasks:
            assert not task.done(), "nothing ends it"
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return parts

    return virtual_time.run(main())


def test_of_several_namespaces_the_one_that_is_refused_is_left_out_and_the_others_are_served(caplog):
    parts = served(Server({"team-b"}))

    assert parts.filled.is_set()
    assert parts.left_out == {"team-b"}
    assert [watch._path for watch in app._watches(parts)] == [
        "/apis/batch/v1/namespaces/team-a/jobs",
        "/api/v1/namespaces/team-a/pods",
    ]
    assert "Namespace team-b is not served: GET /api/v1/namespaces/team-b/pods: 403 Forbidden" in caplog.text
    assert not parts.to_begin_anew.is_set()


def test_nobody_expects_signs_of_life_from_a_namespace_that_is_left_out():
    async def main():
        parts = parts_of(Server({"team-b"}))
        await app._relist(parts)
        await asyncio.sleep(500)
        for resource in ("jobs", "pods"):
            parts.watches.heard(resource, "team-a")
        return parts.watches.seconds()

    assert virtual_time.run(main()) == {"jobs": 0, "pods": 0}


def test_a_namespace_that_is_back_has_the_operator_started_anew():
    server = Server({"team-b"})

    assert served(server, server.refused.clear).to_begin_anew.is_set()


def test_where_every_namespace_is_refused_it_waits_for_a_right():
    server = Server(set(TEAMS))

    assert not served(server).filled.is_set()
    parts = served(server, server.refused.clear)

    assert parts.filled.is_set()
    assert parts.left_out == set()


def test_a_namespace_that_is_refused_later_takes_nothing_along(caplog):
    server = Server()

    parts = served(server, lambda: None, lambda: server.refused.add("team-b"), lambda: None)

    assert parts.left_out == set()
    assert "Namespace team-b is not served" in caplog.text


def test_an_error_of_the_operator_itself_in_a_list_is_logged_and_it_is_listed_again(caplog):
    server = Server(answer={"metadata": {}, "items": []})

    parts = served(server, lambda: server.answer.update(EMPTY))

    assert parts.filled.is_set()
    assert "An error of the operator itself in the list of everything." in caplog.text
    assert "KeyError: 'resourceVersion'" in caplog.text


def test_the_probe_of_the_workers_counts_the_lists_the_watches_and_the_look_at_the_clock_too():
    async def main():
        works = list(app._for_ever(parts_of(Server())))
        for work in works:
            work.close()
        return {work.__name__ for work in works}

    assert virtual_time.run(main()) == {"_relist_for_ever", "_watch_owned", "_ask_for_left_out", "watch_lag"}
