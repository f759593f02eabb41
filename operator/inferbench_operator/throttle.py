"""How fast the API server is asked: a token bucket, and a pause for all when the server asks for one.

`Bucket` does the arithmetic, told the time by its caller. `Throttle` lets requests wait for it in an event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable


class Bucket:
    """Tokens that come back at a rate; one request takes one. Time is in seconds."""

    def __init__(self, per_second: float, burst: int, now: float) -> None:
        """Start full: `burst` requests may go at once, after that `per_second`."""
        self._per_second = per_second
        self._burst = burst
        self._tokens = float(burst)
        self._counted = now
        self._paused_until = now

    def reserve(self, now: float) -> float:
        """Take a token, if need be one that is still to come; return the seconds until the request may go.

        Whoever reserves first goes first, so nobody waits for ever.
        """
        self._tokens = min(self._burst, self._tokens + (now - self._counted) * self._per_second) - 1
        self._counted = now
        return max(0.0, -self._tokens / self._per_second)

    def pause(self, seconds: float, now: float) -> None:
        """Let nothing go for some seconds; of several pauses the one that ends last counts."""
        self._paused_until = max(self._paused_until, now + seconds)

    def paused_seconds(self, now: float) -> float:
        """Tell how long the pause still lasts; 0 when there is none."""
        return max(0.0, self._paused_until - now)


class Throttle:
    """A bucket that requests of one event loop wait for. Made inside the running loop, whose time it takes."""

    def __init__(
        self,
        per_second: float,
        burst: int,
        clock: Callable[[], float] | None = None,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        """Take another clock than the running loop's, with the sleep that goes with it, only where there is no loop."""
        self._clock = clock or asyncio.get_running_loop().time
        self._sleep = sleep
        self._bucket = Bucket(per_second, burst, self._clock())

    async def acquire(self) -> None:
        """Wait until a request may go."""
        if wait := self._bucket.reserve(self._clock()):
            await self._sleep(wait)
        while wait := self._bucket.paused_seconds(self._clock()):
            await self._sleep(wait)

    def pause(self, seconds: float) -> None:
        """Let no request go for some seconds: the server is busy, and asked for it."""
        self._bucket.pause(seconds, self._clock())
