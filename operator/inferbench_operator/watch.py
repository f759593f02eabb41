"""A watch of our own, for Jobs and pods: a pod brings six events or more, and most of them change nothing.

kopf has a task, a queue, timers and loggers for each object, and looks up its handlers for each event. For the pods of
a benchmark of twelve sweeps that took a third of the operator's CPU time; here an event is one call.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from inferbench_operator.api_errors import ApiError
from inferbench_operator.kube import Api, Json, OnEvent

log = logging.getLogger(__name__)

FROM_THE_START = "0"
"""A watch from this version first tells of all that there is, from the server's memory, and then of what happens."""

PAUSE_SECONDS = 0.1
"""Before a watch that the server has ended is opened again; kopf's own pause."""

FIRST_DELAY_SECONDS = 0.5
LONGEST_DELAY_SECONDS = 30.0
"""After a watch that broke; doubled from one to the next while none could be opened."""

Sleep = Callable[[float], Awaitable[object]]


class Watch:
    """One watch for ever: it goes on where it was cut, and begins anew where that place is not known."""

    def __init__(
        self,
        api: Api,
        path: str,
        selector: str,
        on_event: OnEvent,
        on_sign: Callable[[], None],
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        """Take what to watch, who hears of events, and who of every sign of life: the opening, bookmarks, events.

        After a watch that opened and broke, the next one shows life only once it brings more than what there is: a
        bookmark, or what happens. Else one that breaks again and again at the same place would seem to be alive.
        """
        self._api, self._path, self._selector = api, path, selector
        self._on_event, self._on_sign = on_event, on_sign
        self._sleep = sleep
        self._version = FROM_THE_START
        self._is_complete = False
        """Whether all that there was at the start has been told. That comes as added, in no order of versions: only
        what is told otherwise is a place to go on from."""
        self._is_open = False
        self._is_broken = False
        """Whether the last watch opened and then broke, by a refusal or an error; a cut is everyday life."""
        self._delay = FIRST_DELAY_SECONDS

    async def run(self) -> None:
        """Watch until somebody cancels it; whatever goes wrong is logged, and it is opened again."""
        while True:
            self._is_open = False
            try:
                await self._api.watch(self._path, self._hear, self._open, **self._query)
            except ApiError as error:
                await self._broke(error)
            except Exception:
                log.exception("An error of the operator itself in its watch of %s.", self._path)
                self._begin_anew()
                await self._wait()
            else:
                self._is_broken = False
                await self._sleep(PAUSE_SECONDS)

    @property
    def _query(self) -> dict[str, str]:
        version = self._version if self._is_complete else FROM_THE_START
        return {"labelSelector": self._selector, "resourceVersion": version}

    def _open(self) -> None:
        self._is_open = True
        self._lives()

    def _hear(self, kind: str, thing: Json) -> None:
        self._version = thing["metadata"]["resourceVersion"]
        if kind != "ADDED":
            self._is_complete, self._is_broken = True, False
        self._lives()
        if kind != "BOOKMARK":
            self._on_event(kind, thing)

    def _lives(self) -> None:
        """Tell of a sign of life, if it is one."""
        if not self._is_broken:
            self._delay = FIRST_DELAY_SECONDS
            self._on_sign()

    async def _broke(self, error: ApiError) -> None:
        """Wait; after a refusal (410: the place is too old) begin anew, after a cut go on."""
        if not error.is_unreachable:
            self._begin_anew()
        elif self._is_open:
            self._is_broken, self._delay = False, FIRST_DELAY_SECONDS
        level = logging.DEBUG if error.is_gone or error.is_unreachable else logging.WARNING
        log.log(level, "%s. It is opened again in %.1f s.", error, self._delay)
        await self._wait()

    def _begin_anew(self) -> None:
        self._is_complete = False
        self._is_broken |= self._is_open

    async def _wait(self) -> None:
        delay, self._delay = self._delay, min(2 * self._delay, LONGEST_DELAY_SECONDS)
        await self._sleep(delay)
