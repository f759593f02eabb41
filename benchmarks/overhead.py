"""What our timing loop costs: time per iteration over a bare loop around the same callable, in one process.

    python benchmarks/overhead.py [--blocks 16]

Each block runs ours, bare, bare, ours (ABBA), so that a drift of the machine cancels. Must be reached, by the upper end
of the 95 % interval: at most 1 % or 15 us added per iteration, whichever is larger. Exit status 1 if it is not.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import repeat

from inferbench_runner import environment, measure
from inferbench_runner.backends import Arrays, Session
from inferbench_runner.clocks import HOST_CLOCK, Clock
from inferbench_runner.stopping import Limits

LIMITS = Limits.of_seconds(max_seconds_per_cell=1, warmup_max_seconds=1)
DURATIONS_US = (0, 20, 200, 2000)
ALLOWED_SHARE = 0.01
ALLOWED_NS = 15_000
MIN_BLOCKS = 6
"""With fewer not even the smallest and the largest enclose the median in 95 %."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A median over blocks with its 95 % interval from order statistics: one disturbed block moves neither."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Interval:
        """Estimate it from one value per block: leave out as many at each end as a fair coin allows."""
        count, ordered = len(values), sorted(values)
        outside = max(
            (k for k in range(count // 2) if 2 * sum(math.comb(count, i) for i in range(k + 1)) <= 0.05 * 2**count),
            default=0,
        )
        return cls(statistics.median(values), ordered[outside], ordered[-outside - 1])


@dataclass(frozen=True, slots=True)
class Spinner:
    """A session whose call reads the clock until its time is over, whatever the speed of the machine."""

    duration_ns: int
    clock: Clock = HOST_CLOCK

    def enqueue(self) -> None:
        """Take the time."""
        if not self.duration_ns:
            return
        clock = self.clock
        end = clock() + self.duration_ns
        while clock() < end:
            pass

    def synchronize(self) -> None:
        """Nothing is under way."""

    def device_time_ns(self) -> int | None:
        """There is no device."""

    def load_batch(self, inputs: Arrays) -> None:
        """Take nothing."""

    def inputs(self) -> Arrays:
        """Have nothing."""
        return {}

    def outputs(self) -> Arrays:
        """Have nothing."""
        return {}


def bare_loop_ns(call: Callable[[], None], calls: int) -> float:
    """Return the time per iteration of what anybody would write."""
    clock = HOST_CLOCK
    latencies: list[int] = []
    append = latencies.append
    begin = clock()
    for _ in repeat(None, calls):
        start = clock()
        call()
        append(clock() - start)
    return (clock() - begin) / calls


def our_loop_ns(session: Session) -> tuple[float, int]:
    """Return the time per iteration of ours, with everything between the calls, and how many there were."""
    timed = measure.time_calls(session, LIMITS)
    return timed.elapsed_ns / len(timed.latencies_ns), len(timed.latencies_ns)


def block(session: Spinner) -> tuple[float, float]:
    """Return bare and added time per iteration of one ABBA block."""
    ours, calls = our_loop_ns(session)
    bare = bare_loop_ns(session.enqueue, calls) + bare_loop_ns(session.enqueue, calls)
    ours += our_loop_ns(session)[0]
    return bare / 2, (ours - bare) / 2


def row(duration_us: int, blocks: int) -> tuple[str, bool]:
    """Measure one duration; return its line of the table and whether it is within what is allowed."""
    session = Spinner(duration_us * 1000)
    pairs = [block(session) for _ in range(blocks)]
    bare_ns = statistics.median(bare for bare, _ in pairs)
    added_us = Interval.of([added / 1000 for _, added in pairs])
    ratio = Interval.of([1 + added / bare for bare, added in pairs])
    reached = added_us.high * 1000 <= max(ALLOWED_SHARE * bare_ns, ALLOWED_NS)
    line = (
        f"| {duration_us} | {bare_ns / 1000:.3f} "
        f"| {added_us.median:+.3f} ({added_us.low:+.3f} to {added_us.high:+.3f}) "
        f"| {ratio.median:.4f} ({ratio.low:.4f} to {ratio.high:.4f}) | {'yes' if reached else 'no'} |"
    )
    return line, reached


def main() -> int:
    """Print the table; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=16, help="ABBA blocks per duration, at least 6 (default: 16)")
    blocks = max(MIN_BLOCKS, parser.parse_args().blocks)
    machine = environment.describe()
    print(
        f"{machine.cpu_model}, {len(machine.affinity)} of {machine.logical_cpus} CPUs, "
        f"Linux {machine.kernel}, Python {machine.python}; {blocks} ABBA blocks per line, median (95 % interval)\n"
    )
    print("| callable, us | bare loop, us per iteration | added, us per iteration | ratio | within 1 % or 15 us |")
    print("| ---: | ---: | ---: | ---: | --- |")
    all_reached = True
    for duration_us in DURATIONS_US:
        line, reached = row(duration_us, blocks)
        print(line, flush=True)
        all_reached &= reached
    return 0 if all_reached else 1


if __name__ == "__main__":
    sys.exit(main())
