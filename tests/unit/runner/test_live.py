"""What a pod shows of itself while it runs, as its sweep tells it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferbench_contract.words import Outcome
from inferbench_runner import live
from inferbench_runner.gpu import Reading
from inferbench_runner.live import Calls, Live, Moment
from tests.results import a_plan, a_result, ended, measured

PLAN = a_plan(batch_sizes=[1, 8])
MS = 1_000_000


def a_live():
    """A sweep of two cells that has just begun."""
    return Live(PLAN.sweeps[0], a_result(PLAN))


def measuring(calls, latency_ms, batch_size=1):
    return {
        "event": "progress",
        "batchSize": batch_size,
        "stage": "measuring",
        "calls": calls,
        "latencyNanoseconds": latency_ms * MS,
    }


class TestCalls:
    @pytest.mark.parametrize(
        ("latency_ns", "bucket"),
        [(1, 0), (100_000, 0), (100_001, 1), (300_000, 1), (MS, 2), (10_000 * MS, 10), (10_000 * MS + 1, 11)],
    )
    def test_a_call_is_counted_up_to_the_first_bound_that_it_does_not_exceed(self, latency_ns, bucket):
        counts = Calls().plus(1, latency_ns).counts

        assert [place for place, count in enumerate(counts) if count] == [bucket]

    def test_there_are_at_most_12_buckets_evenly_spaced_for_a_logarithm(self):
        steps = [high / low for low, high in zip(live.BOUNDS_NS, live.BOUNDS_NS[1:], strict=False)]

        assert len(Calls().counts) == 12
        assert (live.BOUNDS_NS[0], live.BOUNDS_NS[-1]) == (100_000, 10 * 10**9)
        assert all(3 <= step <= 10 / 3 for step in steps)

    @given(st.lists(st.tuples(st.integers(1, 10**6), st.integers(1, 10**12))))
    def test_no_call_is_lost(self, added):
        calls = Calls()
        for count, latency_ns in added:
            calls = calls.plus(count, latency_ns)

        assert sum(calls.counts) == sum(count for count, _ in added)
        assert calls.total_ns == sum(count * latency_ns for count, latency_ns in added)


class TestCallsOfACell:
    def test_each_call_is_counted_once_with_the_latency_of_the_report_that_told_of_it(self):
        shown = a_live()

        shown.hear(measuring(100, 2))
        shown.hear(measuring(250, 4))

        assert shown.calls[1].total_ns == (100 * 2 + 150 * 4) * MS
        assert sum(shown.calls[1].counts) == 250

    def test_what_a_cell_did_not_report_is_added_when_it_has_ended(self):
        """Short cells end before their first report."""
        shown = a_live()
        shown.hear(measuring(100, 2))

        shown.deliver(a_result(PLAN, 0, [measured(1, latency_ms=3, samples=120)]))
        shown.deliver(a_result(PLAN, 0, [measured(1, latency_ms=3, samples=120), measured(8, 20, samples=50)]))

        assert sum(shown.calls[1].counts) == 120
        assert shown.calls[1].total_ns == (100 * 2 + 20 * 3) * MS
        assert sum(shown.calls[8].counts) == 50

    def test_the_next_cell_counts_from_zero(self):
        shown = a_live()
        shown.deliver(a_result(PLAN, 0, [measured(1, samples=120)]))

        shown.hear(measuring(100, 2, batch_size=8))

        assert sum(shown.calls[8].counts) == 100

    def test_calls_that_warm_up_do_not_count(self):
        shown = a_live()

        shown.hear(measuring(100, 2) | {"stage": "warming up"})

        assert shown.calls == {}

    @pytest.mark.parametrize(
        "said",
        [
            pytest.param({"calls": -1}, id="less than none"),
            pytest.param({"calls": "100"}, id="a text"),
            pytest.param({"calls": True}, id="a boolean"),
            pytest.param({"calls": 10**30}, id="more than a process can make"),
            pytest.param({"latencyNanoseconds": 0}, id="calls that took no time"),
            pytest.param({"latencyNanoseconds": None}, id="calls without a time"),
            pytest.param({"batchSize": None}, id="calls of no cell"),
        ],
    )
    def test_a_report_that_cannot_be_is_passed_over(self, said):
        shown = a_live()

        shown.hear(measuring(100, 2) | said)

        assert shown.calls == {}


class TestMoment:
    def test_a_cell_is_shown_from_the_moment_on_that_it_is_in_flight_until_it_has_ended(self):
        shown = a_live()
        seen = [shown.moment]

        shown.deliver(a_result(PLAN, 0, in_flight=8))
        seen.append(shown.moment)
        shown.hear({"stage": "loading", "batchSize": 8})
        seen.append(shown.moment)
        shown.deliver(a_result(PLAN, 0, [measured(8)]))
        seen.append(shown.moment)

        assert seen == [Moment(), Moment("starting", 8), Moment("loading", 8), Moment()]

    def test_what_all_cells_need_has_no_batch_size(self):
        assert Moment.heard({"stage": "preparing the model", "batchSize": None}) == Moment("preparing the model")

    @given(st.text() | st.none() | st.integers() | st.binary() | st.lists(st.text()))
    def test_whatever_a_process_says_is_a_short_line_that_can_be_written(self, said):
        stage = Moment.heard({"stage": said}).stage

        stage.encode()
        assert stage == "" or stage.isprintable()
        assert len(stage) <= live.MAX_STAGE_CHARS


def test_progress_is_the_share_of_cells_that_have_an_outcome():
    shown = a_live()
    seen = [shown.progress]
    for cells in ([measured(1)], [measured(1), ended(Outcome.CRASHED, 8)]):
        shown.deliver(a_result(PLAN, 0, cells))
        seen.append(shown.progress)

    assert seen == [0, 0.5, 1]
    assert {outcome: count for outcome, count in shown.outcomes.items() if count} == {
        Outcome.MEASURED: 1,
        Outcome.CRASHED: 1,
    }


def test_the_gpu_is_shown_while_a_cell_runs_and_not_between_cells():
    """Nobody reads it between cells, and an old number would pass for a new one."""
    shown = a_live()

    shown.see(Reading(at_ns=1, busy_percent=97))
    seen = shown.gpu
    shown.deliver(replace(shown.result, cells=(measured(1),)))

    assert seen.busy_percent == 97
    assert shown.gpu is None


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("one\ntwo\tthree", "one two three"),
        ("\x1b[31mred\x1b[0m", "[31mred[0m"),
        ("half \ud800 a letter", "half  a letter"),
        (None, ""),
        (7, ""),
    ],
)
def test_words_of_a_process_become_one_line_that_any_terminal_takes(said, shown):
    assert live.printable(said) == shown
