"""The host clock. Everything that measures takes one as a value, so that a script can stand in for it."""

from __future__ import annotations

import time
from collections.abc import Callable

Clock = Callable[[], int]
"""Monotonic nanoseconds since some fixed moment."""

HOST_CLOCK: Clock = time.perf_counter_ns
