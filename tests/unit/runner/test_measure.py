import gc
import random
from itertools import chain, pairwise, repeat

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inferbench_runner import measure, stopping
from inferbench_runner.measure import BackToBack, Stage
from inferbench_runner.stopping import Limits, Settling, StopReason
from tests.fakes import MILLISECOND, SECOND, ScriptedSession

LIMITS = Limits.of_seconds(3, 8)


def test_a_steady_cell_takes_the_least_there_is():
    """A first call, four windows of 250 ms, 0.6 s of single calls, 0.6 s back to back."""
    session = ScriptedSession([MILLISECOND])

    measured = measure.measure(session, LIMITS)

    assert measured.warm_up == measure.WarmUp(1000, SECOND, Settling.STEADY)
    assert list(measured.timed.latencies_ns) == [MILLISECOND] * 600
    assert measured.timed.elapsed_ns == 600 * MILLISECOND
    assert measured.timed.stop_reason is StopReason.STEADY
    assert measured.back_to_back == BackToBack(600, 600 * MILLISECOND)
    assert session.calls == 1 + 1000 + 600 + 600


def test_the_first_call_is_told_apart_and_takes_no_warm_up_time():
    """Compiling for a minute must not use up the seconds in which calls settle."""
    session = ScriptedSession([60 * SECOND, MILLISECOND])

    measured = measure.measure(session, LIMITS)

    assert measured.first_call_ns == 60 * SECOND
    assert measured.warm_up.settling is Settling.STEADY


def test_warming_up_goes_on_while_calls_get_faster():
    """Calls that start at 2 ms and get 0.1 % faster each time: they are never steady, until they stop falling."""
    falling = [round(2 * MILLISECOND * 0.999**i) for i in range(2000)]

    measured = measure.measure(ScriptedSession(falling), LIMITS)

    assert measured.warm_up.calls > 2000
    assert measured.latency_median_ns == falling[-1]


def test_a_cell_that_never_settles_is_measured_all_the_same():
    ever_faster = (10 * MILLISECOND - i * 1000 for i in range(9000))

    measured = measure.measure(ScriptedSession(ever_faster), LIMITS)

    assert measured.warm_up.settling is None
    assert 8 * SECOND <= measured.warm_up.elapsed_ns <= 8 * SECOND + 10 * MILLISECOND
    assert measured.timed.latencies_ns


@pytest.mark.parametrize(
    ("call_ms", "warm_up_calls", "settling"),
    [
        pytest.param(100, 20, Settling.STEADY, id="a window waits for five calls"),
        pytest.param(400, 20, Settling.STEADY, id="four windows of five calls just fit into 8 s"),
        pytest.param(500, 16, None, id="longer calls cannot show that they are settled"),
        pytest.param(9000, 3, None, id="three calls are made even if each takes longer than all the time"),
    ],
)
def test_long_calls_warm_up_within_the_limit(call_ms, warm_up_calls, settling):
    measured = measure.measure(ScriptedSession([call_ms * MILLISECOND]), LIMITS)

    assert measured.warm_up.calls == warm_up_calls
    assert measured.warm_up.settling is settling


@pytest.mark.parametrize(
    ("call_ms", "timed_calls"),
    [
        pytest.param(1, 600, id="short calls fill 0.6 s"),
        pytest.param(50, 30, id="longer ones come to 30"),
        pytest.param(200, 12, id="or to as many as fit into the limit"),
        pytest.param(1000, 5, id="never fewer than five"),
    ],
)
def test_the_number_of_timed_calls_follows_from_their_length(call_ms, timed_calls):
    measured = measure.measure(ScriptedSession([call_ms * MILLISECOND]), LIMITS)

    assert len(measured.timed.latencies_ns) == timed_calls


def test_calls_that_scatter_use_all_of_the_cells_seconds():
    rng = random.Random(1)
    scatter = [round(20 * MILLISECOND * rng.lognormvariate(0, 0.3)) for _ in range(2000)]

    measured = measure.measure(ScriptedSession(scatter), LIMITS)

    assert measured.timed.stop_reason is StopReason.TIME_IS_UP
    assert measured.timed.elapsed_ns >= LIMITS.latency_max_ns
    total_ns = measured.timed.elapsed_ns + measured.back_to_back.elapsed_ns
    assert total_ns <= LIMITS.max_ns + 10 * max(scatter)


def test_a_device_with_events_gives_four_numbers():
    """Enqueueing takes 1 ms and the device 4 ms, so one call takes 5 ms but a row of them 4 ms each."""
    session = ScriptedSession([4 * MILLISECOND], enqueue_ns=MILLISECOND)

    measured = measure.measure(session, LIMITS)

    assert measured.latency_median_ns == 5 * MILLISECOND
    assert measured.enqueue_median_ns == MILLISECOND
    assert measured.device_median_ns == 4 * MILLISECOND
    calls = measured.back_to_back.calls
    assert measured.back_to_back.elapsed_ns == (1 + 4 * calls) * MILLISECOND
    assert len(measured.timed.enqueue_ns) == len(measured.timed.device_ns) == len(measured.timed.latencies_ns)


def test_a_cpu_gives_two_numbers():
    measured = measure.measure(ScriptedSession([MILLISECOND]), LIMITS)

    assert measured.timed.enqueue_ns is None
    assert measured.timed.device_ns is None
    assert measured.enqueue_median_ns is None
    assert measured.device_median_ns is None


def test_back_to_back_calls_are_waited_for_once():
    session = ScriptedSession([4 * MILLISECOND], enqueue_ns=MILLISECOND)

    measured = measure.measure(session, LIMITS)

    single_calls = session.calls - measured.back_to_back.calls
    assert session.synchronizations == single_calls + 1


def test_where_energy_is_counted_back_to_back_calls_last_for_5_6_s():
    """Single calls take 5 ms, those in a row 4 ms each: rows of 1.6 / 0.005 = 320 calls, and a last one of the rest."""
    session = ScriptedSession([4 * MILLISECOND], enqueue_ns=MILLISECOND)

    measured = measure.measure(session, Limits.of_seconds(8, 8, counts_energy=True))

    back_to_back = measured.back_to_back
    assert stopping.ENERGY_NS <= back_to_back.elapsed_ns <= stopping.ENERGY_NS + 10 * MILLISECOND
    assert session.synchronizations == session.calls - back_to_back.calls + 5
    assert measured.timed.elapsed_ns + back_to_back.elapsed_ns <= 8 * SECOND


def test_two_calls_that_last_longer_than_the_counter_needs_are_enough():
    measured = measure.measure(ScriptedSession([4 * SECOND]), Limits.of_seconds(8, 8, counts_energy=True))

    assert measured.back_to_back == BackToBack(2, 8 * SECOND)


def test_throughput_counts_inputs_not_calls():
    """250 calls of 8 inputs in 2 s are 1,000 inputs per second."""
    assert BackToBack(250, 2 * SECOND).inputs_milli_per_second(batch_size=8) == 1_000_000


def test_throughput_of_very_long_calls_comes_from_two_of_them():
    measured = measure.measure(ScriptedSession([10 * SECOND]), LIMITS)

    assert measured.back_to_back == BackToBack(2, 20 * SECOND)


def test_progress_is_told_at_most_twice_a_second():
    session = ScriptedSession([60 * MILLISECOND, *alternating(50 * MILLISECOND)])
    seen = []

    measure.measure(session, LIMITS, lambda progress: seen.append((progress.stage, session.clock())))

    for stage in Stage:
        times = [told_ns for told, told_ns in seen if told is stage]
        assert len(times) > 1
        assert all(later - earlier >= SECOND // 2 for earlier, later in pairwise(times))


def test_progress_tells_the_calls_so_far_and_their_time():
    seen = []

    measure.measure(ScriptedSession([MILLISECOND]), LIMITS, seen.append)

    assert seen[0] == measure.Progress(Stage.WARMING_UP, calls=500, latency_ns=MILLISECOND)
    assert seen[-1] == measure.Progress(Stage.MEASURING, calls=500, latency_ns=MILLISECOND)


def test_a_slow_listener_is_in_no_call_time():
    session = ScriptedSession(alternating(MILLISECOND))

    measured = measure.measure(session, LIMITS, lambda _: session.scripted_clock.advance(SECOND // 10))

    assert max(measured.timed.latencies_ns) <= 2 * MILLISECOND


@pytest.mark.parametrize("enabled", [True, False])
def test_no_garbage_is_collected_while_measuring_and_the_collector_is_left_as_it_was(enabled):
    was_enabled = gc.isenabled()
    seen = []
    try:
        (gc.enable if enabled else gc.disable)()

        measure.measure(ScriptedSession([MILLISECOND]), LIMITS, lambda _: seen.append(gc.isenabled()))

        assert seen
        assert not any(seen)
        assert gc.isenabled() is enabled
    finally:
        (gc.enable if was_enabled else gc.disable)()


def test_the_collector_is_left_as_it_was_when_a_call_fails():
    def failing():
        yield MILLISECOND
        raise RuntimeError("CUDA error")

    with pytest.raises(RuntimeError, match="CUDA error"):
        measure.measure(ScriptedSession(failing()), LIMITS)

    assert gc.isenabled()


def test_a_call_that_takes_no_time_at_all_ends_too():
    """A clock that only moves between calls: nothing divides by a latency of 0."""
    session = ScriptedSession([0])
    session.synchronize = lambda: session.scripted_clock.advance(0 if session.calls % 2 else MILLISECOND)

    measured = measure.measure(session, Limits.of_seconds(1, 1))

    assert measured.timed.latencies_ns


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(MILLISECOND, 3 * SECOND), min_size=1, max_size=300),
    st.none() | st.integers(1, MILLISECOND),
    st.integers(1, 10),
    st.integers(1, 10),
    st.booleans(),
)
def test_whatever_calls_take_every_one_is_counted_and_the_limits_hold(
    durations, enqueue_ns, seconds, warm_up_seconds, counts_energy
):
    session = ScriptedSession(durations, enqueue_ns)
    limits = Limits.of_seconds(seconds, warm_up_seconds, counts_energy=counts_energy)

    measured = measure.measure(session, limits)

    timed, warm_up = measured.timed, measured.warm_up
    longest = max(durations) + (enqueue_ns or 0)
    assert session.calls == 1 + warm_up.calls + len(timed.latencies_ns) + measured.back_to_back.calls
    assert len(timed.latencies_ns) >= stopping.FLOOR_CALLS
    assert warm_up.calls >= stopping.WARMUP_MIN_CALLS
    assert warm_up.elapsed_ns <= max(limits.warmup_max_ns, 2 * longest, SECOND // 2) + longest
    assert timed.elapsed_ns <= max(limits.latency_max_ns, 4 * longest) + longest
    assert timed.elapsed_ns == sum(timed.latencies_ns)
    assert measured.back_to_back.elapsed_ns >= limits.energy_ns


def alternating(duration_ns):
    """Calls that never agree within 0.5 %, half of them twice as long."""
    return chain.from_iterable(repeat((duration_ns, 2 * duration_ns), 20_000))
