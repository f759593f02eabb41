"""The work queue: its rules on a model with a free hand over time, and workers that wait in virtual time."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, precondition, rule

from inferbench_operator.workqueue import FEW, LONGEST_DELAY_SECONDS, Backlog, Queue, QueueClosed
from tests import virtual_time

KEYS = st.sampled_from("abcd")
SECONDS = st.floats(0, 100)


class AnyOrderOfEvents(RuleBasedStateMachine):
    """Whatever happens in whatever order, no key is handed out twice at a time, and no wish is forgotten."""

    taken = Bundle("taken")

    def __init__(self):
        super().__init__()
        self.now = 0.0
        self.backlog = Backlog(draw=lambda: 0.5)
        self.busy = set()
        self.owed = set()  # keys that have to be handed out
        self.later = {}  # when they will be owed
        self.delays = {}  # by key, those since it last went well

    def wish(self, key, due):
        self.later[key] = min(due, self.later.get(key, due))

    def settle(self):
        self.owed |= {key for key, due in self.later.items() if due <= self.now}
        self.later = {key: due for key, due in self.later.items() if due > self.now}

    @rule(seconds=SECONDS)
    def time_passes(self, seconds):
        self.now += seconds

    @rule(key=KEYS)
    def add(self, key):
        self.backlog.add(key, self.now)
        self.owed.add(key)

    @rule(key=KEYS, seconds=SECONDS)
    def add_later(self, key, seconds):
        self.backlog.add_later(key, self.now + seconds)
        self.wish(key, self.now + seconds)

    @rule(target=taken)
    def take(self):
        self.settle()
        key = self.backlog.take(self.now)
        if key is None:
            assert self.owed <= self.busy, "a wish that is due was forgotten"
            return multiple()
        assert key in self.owed, "nobody wished it, or not yet"
        assert key not in self.busy
        self.owed.remove(key)
        self.busy.add(key)
        return key

    @rule(key=consumes(taken))
    def done(self, key):
        self.backlog.done(key)
        self.busy.remove(key)
        self.delays.pop(key, None)

    @rule(key=consumes(taken))
    def failed(self, key):
        seconds = self.backlog.failed(key, self.now)
        self.busy.remove(key)
        before = self.delays.setdefault(key, [])
        if seconds == 0:
            assert key in self.owed, "it is repeated at once only for news"
        else:
            assert max(before, default=0.5) <= seconds <= LONGEST_DELAY_SECONDS
            self.wish(key, self.now + seconds)
            before.append(seconds)

    @invariant()
    def what_is_told_of_it_is_true(self):
        assert self.backlog.depth <= len(self.owed)
        assert 0 <= self.backlog.oldest_seconds(self.now) <= self.now
        assert (self.backlog.next_due() or 0) >= min(self.later.values(), default=0)

    @precondition(lambda self: not self.busy)
    @rule()
    def in_the_end_every_wish_comes_true(self):
        self.now = max([self.now, *self.later.values()])
        self.settle()
        while (key := self.backlog.take(self.now)) is not None:
            self.owed.remove(key)
            self.backlog.done(key)
            self.delays.pop(key, None)

        assert self.owed == set()


TestAnyOrderOfEvents = AnyOrderOfEvents.TestCase


def test_keys_are_handed_out_in_the_order_of_arrival():
    backlog = Backlog()
    for key in "bac":
        backlog.add(key, 0)

    assert [backlog.take(1) for _ in "bac"] == ["b", "a", "c"]


def test_a_key_that_is_asked_for_while_it_is_busy_comes_once_more():
    backlog = Backlog()
    backlog.add("a", 0)
    backlog.take(0)
    backlog.add("a", 1)
    backlog.add("a", 2)

    assert backlog.take(3) is None

    backlog.done("a")

    assert backlog.take(3) == "a"
    backlog.done("a")
    assert backlog.take(3) is None


def test_of_several_wishes_for_later_the_earliest_counts():
    backlog = Backlog()
    for due in (60, 30, 90):
        backlog.add_later("a", due)

    assert backlog.next_due() == 30
    assert backlog.take(29) is None
    assert backlog.take(30) == "a"
    backlog.done("a")
    assert backlog.take(1_000) is None


def test_the_delay_doubles_with_every_failure_up_to_a_minute():
    backlog = Backlog(draw=lambda: 0)
    delays = [fail(backlog) for _ in range(9)]

    assert delays == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]


def test_the_jitter_at_most_doubles_a_delay():
    backlog = Backlog(draw=lambda: 0.999)

    delays = [fail(backlog) for _ in range(9)]

    assert delays == pytest.approx([1, 2, 4, 8, 16, 32, 60, 60, 60], rel=0.001)


def test_failures_are_forgotten_after_a_success():
    backlog = Backlog(draw=lambda: 0)
    for _ in range(5):
        fail(backlog)
    backlog.add("a", 0)
    backlog.take(0)
    backlog.done("a")

    assert fail(backlog) == 0.5


def test_news_during_a_look_that_fails_is_worth_another_look_at_once():
    """A conflict's cause usually arrives as an event before the conflict itself has been answered."""
    backlog = Backlog(draw=lambda: 0)
    backlog.add("a", 0)
    backlog.take(0)
    backlog.add("a", 0)

    assert backlog.failed("a", 0) == 0
    assert backlog.take(0) == "a"
    assert backlog.failed("a", 0) == 1, "the failure counted all the same"


def test_how_long_it_took_is_told_of_what_waits_and_of_what_is_looked_at():
    backlog = Backlog()
    backlog.add("a", 10)
    backlog.add("b", 12)
    backlog.take(15)

    assert (backlog.depth, backlog.oldest_seconds(20), backlog.busy_seconds(20)) == (1, 8, 5)
    backlog.take(20)
    assert (backlog.depth, backlog.oldest_seconds(20), backlog.busy_seconds(20)) == (0, 0, 5)


def test_wishes_that_were_overtaken_do_not_pile_up():
    """A benchmark that is looked at every few seconds leaves a wish for tomorrow behind each time."""
    backlog = Backlog()

    for second in range(10 * FEW):
        backlog.add_later("a", second + 86_400)
        backlog.add_later("a", second)
        assert backlog.take(second) == "a"
        backlog.done("a")

    assert len(backlog._due) <= FEW
    assert backlog.next_due() is None


def fail(backlog):
    """Ask for a, fail, and let the repetition's time come."""
    backlog.add("a", 0)
    assert backlog.take(0) == "a"
    seconds = backlog.failed("a", 0)
    backlog.take(seconds)
    backlog._release("a")
    return seconds


# ---- workers in an event loop --------------------------------------------------------------------


def test_a_worker_wakes_when_a_key_is_added():
    async def main():
        queue = Queue()
        asyncio.get_running_loop().call_later(5, queue.add, "a")
        return await queue.get(), asyncio.get_running_loop().time()

    assert virtual_time.run(main()) == ("a", 5)


def test_a_worker_wakes_when_a_key_is_due_to_the_second():
    async def main():
        queue = Queue()
        queue.add_after("late", 30)
        queue.add_after("early", 10)
        return [(await queue.get(), asyncio.get_running_loop().time()) for _ in range(2)]

    assert virtual_time.run(main()) == [("early", 10), ("late", 30)]


def test_a_worker_that_waits_for_a_late_key_wakes_for_an_earlier_one():
    async def main():
        queue = Queue()
        queue.add_after("late", 3_600)
        asyncio.get_running_loop().call_later(1, queue.add_after, "early", 1)
        return await queue.get(), asyncio.get_running_loop().time()

    assert virtual_time.run(main()) == ("early", 2)


def test_workers_never_share_a_key_and_miss_none():
    """Four workers take what a noisy source adds; each key is looked at after its last event, by one at a time."""

    async def main():
        queue, looked, busy, added = Queue(), {}, set(), {}

        async def work():
            while True:
                key = await queue.get()
                assert key not in busy
                busy.add(key)
                looked[key] = asyncio.get_running_loop().time()
                await asyncio.sleep(0.7)
                busy.remove(key)
                queue.done(key)

        async with asyncio.TaskGroup() as group:
            workers = [group.create_task(work()) for _ in range(4)]
            for i in range(200):
                queue.add(i % 7)
                added[i % 7] = asyncio.get_running_loop().time()
                await asyncio.sleep(0.05)
            await asyncio.sleep(60)
            for worker in workers:
                worker.cancel()
        return added, looked, queue.depth

    added, looked, depth = virtual_time.run(main())

    assert sorted(looked) == list(range(7))
    assert all(looked[key] >= when for key, when in added.items())
    assert depth == 0


def test_a_failed_key_comes_again_after_its_delay():
    async def main():
        queue = Queue(backlog=Backlog(draw=lambda: 0))
        queue.add("a")
        times = []
        for _ in range(3):
            key = await queue.get()
            times.append(asyncio.get_running_loop().time())
            queue.failed(key)
        return times

    assert virtual_time.run(main()) == [0, 0.5, 1.5]


def test_closing_sends_all_workers_home():
    async def main():
        queue = Queue()
        workers = [asyncio.create_task(queue.get()) for _ in range(3)]
        await asyncio.sleep(1)
        queue.add("a")
        queue.close()
        return await asyncio.gather(*workers, return_exceptions=True)

    assert all(isinstance(answer, QueueClosed) for answer in virtual_time.run(main()))


def test_a_worker_that_is_cancelled_takes_no_key_with_it():
    async def main():
        queue = Queue()
        waiting = asyncio.create_task(queue.get())
        await asyncio.sleep(1)
        queue.add("a")
        waiting.cancel()
        await asyncio.wait([waiting])
        return queue.depth, await queue.get()

    assert virtual_time.run(main()) == (1, "a")
