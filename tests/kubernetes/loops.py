"""What helpers that run an event loop in a thread of their own have in common."""

from __future__ import annotations

import asyncio

LEAVES_SECONDS = 2
"""How long connections may take to say goodbye; the other end of one that is gone never answers."""


async def wait_for_connections() -> None:
    """Wait until the loop's connections are closed: TLS says goodbye after whoever used them is done.

    A loop that ends before leaves its sockets to the garbage collector, and a test that has nothing to do with them
    gets the warning.
    """
    loop = asyncio.get_running_loop()
    own = 1  # the pipe by which other threads wake the loop
    deadline = loop.time() + LEAVES_SECONDS
    while len(loop._selector.get_map()) > own and loop.time() < deadline:  # type: ignore[attr-defined] # noqa: ASYNC110 - the loop tells nobody
        await asyncio.sleep(0.01)
