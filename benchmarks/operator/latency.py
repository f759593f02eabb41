"""How long the operator takes to begin a benchmark and to end it, beside the same Job made with no operator.

    python -m benchmarks.operator.latency [--benchmarks 50] [--seconds 0]

Must be reached, over benchmarks of 192 cells in 12 pods side by side, one after the other on a cluster that does
nothing else: from the moment that an InferenceBenchmark is stored until its Job is, p50 less than 30 ms and p99 less
than 500 ms; from creating it until its first container starts, p50 at most 100 ms more than from creating the same Job;
from the end of the Job, as the Job controller writes it, until the status says Succeeded, p50 less than 150 ms and p99
less than 1 s.

Stored, ended and said are the times at which the API server had answered, from its audit log. A container starts when
the node, which is played, begins its pod. Benchmarks and plain Jobs take turns, and everything of one is deleted before
the next. About 6 s for each pair: 6 minutes for 50. Exit status 1 if something is not reached.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence

from benchmarks import lab
from benchmarks.operator import cluster
from benchmarks.operator.cluster import Verdicts
from tests.kubernetes.access import Request
from tests.kubernetes.client import Api, Object, eventually
from tests.kubernetes.fake_kubelet import FakeKubelet
from tests.kubernetes.nodes import some_nodes
from tests.kubernetes.sweeps import Sweeps

FEWEST = 50
"""Fewer say nothing about a p99."""

MOST_TO_JOB = (0.030, 0.500)
MOST_MORE_TO_START = 0.100
MOST_TO_SUCCEEDED = (0.150, 1.0)
"""Seconds: p50 and p99."""

PODS = "/api/v1/namespaces/{}/pods"
PATIENCE_SECONDS = 120
SETTLED_SECONDS = 0.3
"""Before it is deleted: its event and the last word about its Job follow the status."""


def main() -> int:
    """Run benchmarks and Jobs in turn, print the times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--benchmarks", type=int, default=50, help="at least 50 for a result; default: %(default)s")
    parser.add_argument("--seconds", type=float, default=0, help="that each pod runs; default: %(default)s")
    options = parser.parse_args()
    verdicts = Verdicts()
    with lab.report("How soon the operator acts", "kopf", "kubernetes"), cluster.control_plane() as plane:
        access, api = plane.access, plane.api()
        with some_nodes(api, gpus=cluster.GPUS), FakeKubelet(access, Sweeps(api, seconds=options.seconds)) as kubelet:
            namespace = cluster.new_namespace(api, "latency")
            with cluster.an_operator(access, namespace):
                one_after_the_other(api, kubelet, namespace, 3)  # the first ones load what is loaded late
                since = access.audit_position()
                started = one_after_the_other(api, kubelet, namespace, options.benchmarks)
        tell(started, cluster.requests(access, since), verdicts)
    if options.benchmarks < FEWEST:
        print(f"\n{options.benchmarks} are too few for a result; {FEWEST} are needed.")
    return verdicts.end()


Started = tuple[list[float], list[float]]
"""Seconds from creating until the first container starts: of benchmarks, and of plain Jobs."""


def one_after_the_other(api: Api, kubelet: FakeKubelet, namespace: str, count: int) -> Started:
    """Run benchmarks and plain Jobs in turn, each alone."""
    started: Started = ([], [])
    benchmarks, jobs = cluster.BENCHMARKS.format(namespace), cluster.JOBS.format(namespace)
    for place in range(count):
        made = cluster.a_benchmark(f"b{count}-{place}")
        started[0].append(until_started(api, kubelet, benchmarks, made))
        ended(api, namespace, f"{benchmarks}/{made['metadata']['name']}", cluster.has_succeeded)
        plain = cluster.a_plain_job(cluster.a_benchmark(f"p{count}-{place}"), namespace)
        started[1].append(until_started(api, kubelet, jobs, plain))
        ended(api, namespace, f"{jobs}/{plain['metadata']['name']}", cluster.is_complete)
        if place % 10 == 9:
            lab.progress(f"{place + 1} of {count}")
    return started


def until_started(api: Api, kubelet: FakeKubelet, path: str, made: Object) -> float:
    """Create something; return how long it took until its first container started."""
    before, began = len(kubelet.started), time.monotonic()
    api.create(path, made)
    first = eventually(lambda: kubelet.started[before:], PATIENCE_SECONDS, f"{path} to start")[0]
    return first.at - began  # the played node's clock is its event loop's, which is time.monotonic


def ended(api: Api, namespace: str, path: str, is_so: Callable[[Object], bool]) -> None:
    """Wait until something has ended, and delete it with all that it owns."""
    eventually(lambda: is_so(api.get(path)), PATIENCE_SECONDS, f"{path} to end")
    time.sleep(SETTLED_SECONDS)
    api.delete(path, {"propagationPolicy": "Background"})
    eventually(lambda: not api.items(PODS.format(namespace), limit=1), PATIENCE_SECONDS, "pods to go")


def tell(started: Started, seen: Sequence[Request], verdicts: Verdicts) -> None:
    """Print the times, and what was reached."""
    to_job, to_succeeded = until_job(seen), until_succeeded(seen)
    rows = (
        ["benchmark stored -> its Job stored", *cluster.spread(to_job), str(len(to_job))],
        ["benchmark created -> first container starts", *cluster.spread(started[0]), str(len(started[0]))],
        ["the same Job created -> first container starts", *cluster.spread(started[1]), str(len(started[1]))],
        ["Job ended -> Succeeded", *cluster.spread(to_succeeded), str(len(to_succeeded))],
    )
    lab.table(["from -> to", "p50, ms", "p90, ms", "p99, ms", "max, ms", "of"], rows)
    print()
    for what, values, limits in (
        ("stored to Job stored,", to_job, MOST_TO_JOB),
        ("Job ended to Succeeded,", to_succeeded, MOST_TO_SUCCEEDED),
    ):
        verdicts.check(f"{what} p50, takes", 1000 * statistics.median(values), 1000 * limits[0], " ms")
        verdicts.check(f"{what} p99, takes", 1000 * cluster.quantile(values, 0.99), 1000 * limits[1], " ms")
    more = statistics.median(started[0]) - statistics.median(started[1])
    verdicts.check(
        "its first container, p50, is later than the plain Job's by", 1000 * more, 1000 * MOST_MORE_TO_START, " ms"
    )


def until_job(seen: Sequence[Request]) -> list[float]:
    """Return, of each benchmark, the seconds from its being stored to its Job's."""
    stored = {each.name: cluster.ended(each) for each in seen if is_made(each, "inferencebenchmarks")}
    made = {of(each): cluster.ended(each) for each in seen if is_made(each, "jobs") and cluster.is_operators(each)}
    return [(made[name] - stored[name]).total_seconds() for name in stored.keys() & made.keys()]


def until_succeeded(seen: Sequence[Request]) -> list[float]:
    """Return, of each benchmark, the seconds from the Job controller's last word to the operator's."""
    said = {each.name: each for each in seen if each.resource == "inferencebenchmarks/status" and is_well(each)}
    times = []
    for name, last in said.items():
        words = [
            cluster.ended(each)
            for each in seen
            if each.resource == "jobs/status" and is_well(each) and of(each) == name
        ]
        before = [word for word in words if word < cluster.ended(last)]
        times.append((cluster.ended(last) - max(before)).total_seconds())
    return times


def is_made(request: Request, resource: str) -> bool:
    """Tell whether something of a kind was created."""
    return (request.verb, request.resource) == ("create", resource) and is_well(request)


def is_well(request: Request) -> bool:
    """Tell whether the answer was good."""
    return 200 <= request.status < 300


def of(request: Request) -> str:
    """Return the benchmark whose Job a request is about: <benchmark>-<hash>-<stage>."""
    return request.name.rsplit("-", 2)[0]


if __name__ == "__main__":
    sys.exit(main())
