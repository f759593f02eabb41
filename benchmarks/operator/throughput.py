"""How many benchmarks a cluster finishes in a minute, beside the same Jobs with no operator.

    python -m benchmarks.operator.throughput [--benchmarks 40] [--turns 3] [--controllers as-shipped] [--node kwok]

Must be reached: with the operator at least 90 % of the Jobs per minute that the same control plane on the same machine
finishes without it, for benchmarks of 12 sweeps with all pods side by side, and at most 60 ms of the operator's CPU
time for each benchmark.

A turn creates so many benchmarks, or so many Jobs as the operator would make, at once, and lasts until the last has
ended: the benchmarks when their status says so. Turns alternate, so that both see the same machine; while Jobs run
alone there is no operator; everything is deleted between two turns, which is not counted. Pods are played by kwok, or
by the tests' kubelet (--node fake): they run for so many seconds and hand over a result of 16 cells. The median of the
turns counts.

The ceiling is the Job controller's as Kubernetes ships it: 20 requests a second for all Jobs together. With
--controllers raised it is this machine's CPU, and every millisecond that the operator takes, and the API server for
it, is taken from the Jobs: 60 ms of some 600 are 10 % already. That says what the operator costs; only the CPU time has
to be reached there. About a minute a turn: 7 minutes for three of each. Exit status 1 if it is not reached.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from benchmarks import lab
from benchmarks.operator import cluster
from benchmarks.operator.cluster import Verdicts
from tests.kubernetes.access import Access
from tests.kubernetes.client import Api, Object
from tests.kubernetes.control_plane import AS_SHIPPED, COMPONENTS, ControlPlane, Settings
from tests.kubernetes.fake_kubelet import FakeKubelet
from tests.kubernetes.kwok import Kwok, sweep_message
from tests.kubernetes.nodes import some_nodes
from tests.kubernetes.sweeps import Sweeps

LEAST_SHARE = 0.90
MOST_CPU_SECONDS = 0.060
PATIENCE_SECONDS = 900
NODES = 10

SHIPPED, RAISED = "as-shipped", "raised"
CONTROLLERS = {SHIPPED: AS_SHIPPED, RAISED: Settings()}


@dataclass(frozen=True)
class Turn:
    """What came of one turn."""

    has_operator: bool
    count: int
    seconds: float
    first_seconds: float
    cpu_seconds: float
    control_plane_seconds: float

    @property
    def per_minute(self) -> float:
        """Benchmarks or Jobs that ended in a minute."""
        return 60 * self.count / self.seconds


def main() -> int:
    """Take turns, print a row for each, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--benchmarks", type=int, default=40, help="at once; default: %(default)s")
    parser.add_argument("--turns", type=int, default=3, help="of each; default: %(default)s")
    parser.add_argument("--controllers", choices=CONTROLLERS, default=SHIPPED, help="default: %(default)s")
    parser.add_argument("--node", choices=("kwok", "fake"), default="kwok", help="who plays pods; default: %(default)s")
    parser.add_argument("--seconds", type=float, default=1, help="that each pod runs; default: %(default)s")
    options = parser.parse_args()
    title = f"Throughput, controllers {options.controllers}, pods played by {options.node}"
    with lab.report(title, "kopf", "kubernetes"), ExitStack() as stack:
        plane = stack.enter_context(cluster.control_plane(CONTROLLERS[options.controllers]))
        stack.enter_context(nodes(plane.access, options.node, options.seconds))
        warm_up(plane)
        turns = list(alternate(plane, options.benchmarks, options.turns))
        return tell(turns, is_share_due=options.controllers == SHIPPED)


@contextmanager
def nodes(access: Access, kind: str, seconds: float) -> Iterator[None]:
    """Play nodes on which pods end with a result."""
    if kind == "kwok":
        message = sweep_message(cluster.the_plan(cluster.a_benchmark("any")))
        with Kwok(access, NODES, gpus=cluster.GPUS, seconds=seconds, message=message):
            yield
    else:
        api = access.api()
        with some_nodes(api, NODES, gpus=cluster.GPUS), FakeKubelet(access, Sweeps(api, seconds=seconds)):
            yield


def warm_up(plane: ControlPlane) -> None:
    """Run a few of each that do not count."""
    for has_operator in (True, False):
        take_turn(plane, has_operator, 5)


def alternate(plane: ControlPlane, count: int, turns: int) -> Iterator[Turn]:
    """Take turns: with the operator, without, without, with, and so on."""
    for place in range(2 * turns):
        has_operator = place % 4 in {0, 3}
        turn = take_turn(plane, has_operator, count)
        lab.progress(f"{'with' if has_operator else 'without'} operator: {turn.per_minute:.0f} a minute")
        yield turn


def take_turn(plane: ControlPlane, has_operator: bool, count: int) -> Turn:  # noqa: FBT001
    """Create them all, wait for the last, delete all."""
    api = plane.api()
    namespace = cluster.new_namespace(api, "turn")
    try:
        return with_operator(plane, api, namespace, count) if has_operator else without(plane, api, namespace, count)
    finally:
        cluster.clear(api, namespace)


def with_operator(plane: ControlPlane, api: Api, namespace: str, count: int) -> Turn:
    """Measure benchmarks."""
    path = cluster.BENCHMARKS.format(namespace)
    with cluster.an_operator(plane.access, namespace) as operator:
        time.sleep(2)  # its watches are open
        before, others = cluster.cpu_seconds(cluster.pid(operator)), control_plane_seconds(plane)
        began = time.monotonic()
        cluster.create_all(api, path, [cluster.a_benchmark(f"b{place}") for place in range(count)])
        first = until(api, path, 1, cluster.has_succeeded, began)
        took = until(api, path, count, cluster.has_succeeded, began)
        spent = control_plane_seconds(plane) - others
        time.sleep(3)  # events and the Jobs' time to live follow the status, and are paid for too
        return Turn(True, count, took, first, cluster.cpu_seconds(cluster.pid(operator)) - before, spent)


def without(plane: ControlPlane, api: Api, namespace: str, count: int) -> Turn:
    """Measure the same Jobs alone."""
    path = cluster.JOBS.format(namespace)
    others, began = control_plane_seconds(plane), time.monotonic()
    made = [cluster.a_plain_job(cluster.a_benchmark(f"b{place}"), namespace) for place in range(count)]
    cluster.create_all(api, path, made)
    first = until(api, path, 1, cluster.is_complete, began)
    took = until(api, path, count, cluster.is_complete, began)
    return Turn(False, count, took, first, 0.0, control_plane_seconds(plane) - others)


def until(api: Api, path: str, count: int, is_so: Callable[[Object], bool], began: float) -> float:
    """Return the seconds until so many have ended, to a second."""
    cluster.wait_for(api, path, count, is_so, PATIENCE_SECONDS)
    return time.monotonic() - began


def control_plane_seconds(plane: ControlPlane) -> float:
    """Return the CPU time that the control plane has taken."""
    return sum(cluster.cpu_seconds(plane.pid(component)) for component in COMPONENTS)


def tell(turns: list[Turn], *, is_share_due: bool) -> int:
    """Print all turns and what was reached; the share only where the machine's CPU is not what limits both."""
    header = ["operator", "benchmarks a minute", "seconds", "first, s", "operator's CPU, ms", "control plane's CPU, ms"]
    rows = (
        [
            "yes" if turn.has_operator else "no",
            f"{turn.per_minute:.1f}",
            f"{turn.seconds:.1f}",
            f"{turn.first_seconds:.1f}",
            f"{1000 * turn.cpu_seconds / turn.count:.0f}",
            f"{1000 * turn.control_plane_seconds / turn.count:.0f}",
        ]
        for turn in turns
    )
    lab.table(header, rows)
    print("\nCPU times are for one benchmark.\n")
    ours, plain = (
        statistics.median(turn.per_minute for turn in turns if turn.has_operator is has) for has in (True, False)
    )
    share, verdicts = 100 * ours / plain, Verdicts()
    print(f"With the operator {ours:.1f} benchmarks a minute, without it {plain:.1f}: {share:.0f} %.\n")
    if is_share_due:
        verdicts.check("of the Jobs' rate the benchmarks come to", share, 100 * LEAST_SHARE, " %", at_least=True)
    spent = statistics.median(turn.cpu_seconds / turn.count for turn in turns if turn.has_operator)
    verdicts.check("the operator's CPU time for a benchmark is", 1000 * spent, 1000 * MOST_CPU_SECONDS, " ms")
    return verdicts.end()


if __name__ == "__main__":
    sys.exit(main())
