"""The throttle: arithmetic with a free hand over time, and requests that wait in virtual time."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferbench_operator.throttle import Bucket, Throttle
from tests import virtual_time


def test_a_burst_goes_at_once_and_what_follows_at_the_rate():
    bucket = Bucket(per_second=10, burst=3, now=0)

    waits = [bucket.reserve(0) for _ in range(6)]

    assert waits == pytest.approx([0, 0, 0, 0.1, 0.2, 0.3])


def test_a_quiet_time_gives_back_no_more_than_the_burst():
    bucket = Bucket(per_second=10, burst=3, now=0)
    for _ in range(3):
        bucket.reserve(0)

    waits = [bucket.reserve(3_600) for _ in range(4)]

    assert waits == pytest.approx([0, 0, 0, 0.1])


@given(
    st.integers(1, 100), st.integers(1, 50), st.lists(st.floats(0, 0.2, allow_subnormal=False), min_size=1, max_size=60)
)
def test_in_no_stretch_of_time_go_more_than_the_burst_and_the_rate_allow(per_second, burst, pauses):
    bucket, now, gone = Bucket(per_second, burst, 0), 0.0, []
    for pause in pauses:
        now += pause
        gone.append(now + bucket.reserve(now))

    for i, first in enumerate(gone):
        for n, last in enumerate(gone[i:], start=1):
            assert n <= burst + per_second * (last - first) + 1e-6


def test_of_several_pauses_the_one_that_ends_last_counts():
    bucket = Bucket(10, 10, now=0)

    bucket.pause(5, now=0)
    bucket.pause(1, now=1)

    assert [bucket.paused_seconds(now) for now in (0, 1, 5, 6)] == [5, 4, 0, 0]


def test_requests_go_in_the_order_in_which_they_came():
    async def main():
        throttle, gone = Throttle(per_second=2, burst=1), []

        async def request(name):
            await throttle.acquire()
            gone.append((name, asyncio.get_running_loop().time()))

        async with asyncio.TaskGroup() as group:
            for name in "abc":
                group.create_task(request(name))
        return gone

    assert virtual_time.run(main()) == [("a", 0), ("b", 0.5), ("c", 1)]


def test_a_pause_holds_up_those_that_already_wait():
    async def main():
        throttle = Throttle(per_second=1, burst=1)
        await throttle.acquire()
        asyncio.get_running_loop().call_later(0.5, throttle.pause, 7)
        await throttle.acquire()
        return asyncio.get_running_loop().time()

    assert virtual_time.run(main()) == 7.5
