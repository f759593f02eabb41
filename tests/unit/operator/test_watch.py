"""A watch for ever: where it goes on after each end, how long it waits, and that nothing ends it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest

from inferbench_operator import paths
from inferbench_operator.api_errors import ApiError
from inferbench_operator.watch import Watch

PODS = paths.pods("team-a")
CUT = ApiError(f"WATCH {PODS}", 0, "Unreachable", "ServerDisconnectedError()")
TOO_OLD = ApiError(f"WATCH {PODS}", 410, "Expired", "too old resource version: 7 (900)")


def refused(status):
    return ApiError(f"WATCH {PODS}", status, "So", "it is")


def event(kind, version):
    return kind, {"metadata": {"resourceVersion": str(version)}}


@dataclass
class Opened:
    """A watch that opens, brings events, and ends, by an error if there is one."""

    events: tuple[tuple[str, object], ...] = ()
    error: ApiError | None = None


@dataclass
class Server:
    """Plays a script, one entry for each watch, and stops the watching when it is at its end."""

    script: list[Opened | ApiError]
    queries: list[dict[str, str]] = field(default_factory=list)
    heard: list[tuple[str, str]] = field(default_factory=list)
    signs: int = 0
    waits: list[float] = field(default_factory=list)

    async def watch(self, path, on_event, on_open, **query):
        assert path == PODS
        if not self.script:
            raise asyncio.CancelledError
        self.queries.append(query)
        told = self.script.pop(0)
        if isinstance(told, ApiError):
            raise told
        on_open()
        for kind, thing in told.events:
            on_event(kind, thing)
        if told.error is not None:
            raise told.error

    def keep(self, kind, thing):
        self.heard.append((kind, thing["metadata"]["resourceVersion"]))

    def sign(self):
        self.signs += 1

    async def sleep(self, seconds):
        self.waits.append(seconds)

    @property
    def versions(self):
        return [query["resourceVersion"] for query in self.queries]


def played(*script, hear=None):
    server = Server(list(script))

    async def main():
        watch = Watch(server, PODS, "a=b", hear or server.keep, server.sign, server.sleep)
        with pytest.raises(asyncio.CancelledError):
            await watch.run()

    asyncio.run(main())
    return server


def test_it_begins_with_all_that_there_is():
    server = played(Opened((event("ADDED", 7), event("ADDED", 3))))

    assert server.queries == [{"labelSelector": "a=b", "resourceVersion": "0"}]
    assert server.heard == [("ADDED", "7"), ("ADDED", "3")]


@pytest.mark.parametrize("end", [None, CUT], ids=["ended by the server", "cut"])
@pytest.mark.parametrize("kind", ["MODIFIED", "DELETED", "BOOKMARK"])
def test_it_goes_on_where_it_ended(kind, end):
    server = played(Opened((event("ADDED", 3), event(kind, 8)), end), Opened((event("ADDED", 9),), end), Opened())

    assert server.versions == ["0", "8", "9"]


def test_what_there_is_comes_in_no_order_so_it_begins_anew_when_it_was_cut_in_the_middle_of_it():
    server = played(Opened((event("ADDED", 7),), CUT), Opened())

    assert server.versions == ["0", "0"]


@pytest.mark.parametrize("refusal", [TOO_OLD, refused(403), refused(500)], ids=["too old", "forbidden", "broken"])
@pytest.mark.parametrize("in_stream", [False, True], ids=["answered", "in the stream"])
def test_it_begins_anew_after_a_refusal(refusal, in_stream):
    then = Opened((), refusal) if in_stream else refusal

    server = played(Opened((event("MODIFIED", 7),)), then, Opened())

    assert server.versions == ["0", "7", "0"]


def test_bookmarks_are_signs_of_life_and_nothing_else():
    server = played(Opened((event("ADDED", 1), event("BOOKMARK", 2), event("BOOKMARK", 3))))

    assert server.heard == [("ADDED", "1")]
    assert server.signs == 1 + 3


def test_a_watch_that_cannot_be_opened_gives_no_sign_of_life():
    assert played(CUT, refused(403)).signs == 0


BAD = event("ADDED", "bad")


def stumble_over_the_bad(kind, thing):
    if thing["metadata"]["resourceVersion"] == "bad":
        raise KeyError("labels")


def test_a_watch_that_breaks_again_and_again_at_the_same_place_gives_no_more_signs_of_life():
    told = Opened((event("ADDED", 1), BAD))

    assert played(*[told] * 9, hear=stumble_over_the_bad).signs == played(told, hear=stumble_over_the_bad).signs == 3


def test_a_watch_that_breaks_again_and_again_is_opened_less_and_less_often():
    assert played(*[Opened((BAD,))] * 8, hear=stumble_over_the_bad).waits == [0.5, 1, 2, 4, 8, 16, 30, 30]


@pytest.mark.parametrize(
    ("kind", "end"), [("BOOKMARK", None), ("MODIFIED", None), ("ADDED", CUT)], ids=["bookmark", "news", "everyday cut"]
)
def test_after_a_watch_that_broke_life_shows_in_what_comes_after_the_beginning(kind, end):
    server = played(
        Opened((BAD,)), Opened((event("ADDED", 1), event(kind, 2)), end), Opened(), hear=stumble_over_the_bad
    )

    assert server.signs == 2 + (kind != "ADDED") + 1


def test_it_waits_longer_and_longer_until_it_is_open_again():
    server = played(*[refused(503)] * 8, Opened((), CUT), refused(503), Opened())

    assert server.waits == [0.5, 1, 2, 4, 8, 16, 30, 30, 0.5, 1, 0.1]


def test_an_error_of_whoever_hears_is_logged_and_everything_is_told_anew(caplog):
    def stumble(kind, thing):
        raise KeyError("labels")

    server = played(Opened((event("MODIFIED", 7),)), Opened(), hear=stumble)

    assert server.versions == ["0", "0"]
    assert "An error of the operator itself" in caplog.text
    assert "KeyError: 'labels'" in caplog.text


@pytest.mark.parametrize(
    ("error", "is_told"),
    [
        pytest.param(refused(403), True, id="a refusal is something that a person mends"),
        pytest.param(TOO_OLD, False, id="too old is what servers say now and then"),
        pytest.param(CUT, False, id="a cut is everyday life"),
    ],
)
def test_only_what_a_person_can_mend_is_a_warning(error, is_told, caplog):
    played(error)

    assert any(record.levelname == "WARNING" for record in caplog.records) is is_told
