"""How many requests the operator sends to the API server, beside those that the cluster sends itself.

    python -m benchmarks.operator.writes [--seconds 5] [--idle 290] [--skip-long]

Must be reached, for a benchmark of 192 cells in 12 pods: at most 10 writes with the pods side by side, at most 18 with
one after the other; of its status at most 2 and one for each 5 seconds, however long it runs; from an operator that has
nothing to do no write, and at most one read a minute for each watch; and no LIST of pods but at its start.

Counted from the API server's audit log. Each kind of benchmark has a namespace, so that what controllers, scheduler and
nodes write for it is counted too; beside it the same Job, made with no operator. Pods are played: each runs for so many
seconds, which is long enough for every one to be worth a line in the status, and hands over a real result. A second
operator, with benchmarks in its namespace that have ended, is idle meanwhile, for longer than a watch lasts (240 s).
48 pods one after the other are the longest part: about 5 minutes; --skip-long leaves them out. 6 minutes in all.
Exit status 1 if something is not reached.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks import lab
from benchmarks.operator import cluster
from benchmarks.operator.cluster import Verdicts
from tests.kubernetes.access import Access, Request
from tests.kubernetes.client import Api
from tests.kubernetes.fake_kubelet import FakeKubelet
from tests.kubernetes.nodes import some_nodes
from tests.kubernetes.sweeps import Sweeps

MOST = {("side by side", 1): 10, ("one after the other", 1): 18}
"""Writes of the operator, by pods and rounds."""
MOST_STATUS, STATUS_SECONDS = 2, 5
"""Of the status: so many, and one more for each so many seconds."""
MOST_IDLE_READS = 1.0
"""A minute and watch."""
WATCHES = 3

IDLE_BENCHMARKS = 5
PATIENCE_SECONDS = 900


@dataclass(frozen=True)
class Kind:
    """A benchmark to count."""

    pods: str
    rounds: int
    parallelism: int
    has_operator: bool = True

    @property
    def name(self) -> str:
        """What its namespace is called."""
        return f"{self.pods.replace(' ', '-')}-{self.rounds}{'' if self.has_operator else '-plain'}"


LONG = Kind("one after the other", 4, 1)
KINDS = (
    Kind("side by side", 1, 12),
    Kind("one after the other", 1, 1),
    Kind("side by side", 4, 48),
    LONG,
    Kind("side by side", 1, 12, has_operator=False),
    Kind("one after the other", 1, 1, has_operator=False),
)


def main() -> int:
    """Run all kinds side by side, count, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5, help="that each pod runs; default: %(default)s")
    parser.add_argument("--idle", type=float, default=290, help="seconds without work; default: %(default)s")
    parser.add_argument("--skip-long", action="store_true", help="leave out 48 pods one after the other")
    options = parser.parse_args()
    kinds = [kind for kind in KINDS if not (options.skip_long and kind is LONG)]
    verdicts = Verdicts()
    with lab.report("Requests of the operator", "kopf", "kubernetes"), cluster.control_plane() as plane:
        access, api = plane.access, plane.api()
        with some_nodes(api, gpus=cluster.GPUS), FakeKubelet(access, Sweeps(api)) as kubelet:
            idle = finished_benchmarks(access, api)
            kubelet.ending = Sweeps(api, seconds=options.seconds)
            with cluster.an_operator(access, idle):
                measure(access, api, kinds, idle, options.idle, verdicts)
    return verdicts.end()


def finished_benchmarks(access: Access, api: Api) -> str:
    """Let an operator finish a few benchmarks, and return their namespace."""
    namespace = cluster.new_namespace(api, "idle")
    path = cluster.BENCHMARKS.format(namespace)
    with cluster.an_operator(access, namespace):
        cluster.create_all(api, path, [cluster.a_benchmark(f"b{place}") for place in range(IDLE_BENCHMARKS)])
        cluster.wait_for(api, path, IDLE_BENCHMARKS, cluster.has_succeeded, PATIENCE_SECONDS)
        time.sleep(3)  # events and Jobs follow the status
    return namespace


def measure(
    access: Access, api: Api, kinds: Sequence[Kind], idle: str, idle_seconds: float, verdicts: Verdicts
) -> None:
    """Run the benchmarks, each kind with an operator of its own, while another one rests."""
    time.sleep(3)  # the resting one has opened its watches
    since, began = access.audit_position(), time.monotonic()
    places = {kind: cluster.new_namespace(api, kind.name) for kind in kinds}
    operators = [cluster.an_operator(access, place) for kind, place in places.items() if kind.has_operator]
    try:
        for operator in operators:
            operator.__enter__()
        lab.progress(f"{len(operators)} operators are ready; creating {len(kinds)} benchmarks ...")
        seconds = run(api, places)
        time.sleep(max(3.0, idle_seconds - (time.monotonic() - began)))
        minutes = (time.monotonic() - began) / 60
    finally:
        for operator in operators:
            operator.__exit__()
    seen = cluster.requests(access, since)
    tell(places, seconds, seen, verdicts)
    tell_idle([each for each in seen if is_of(each, idle)], minutes, verdicts)


def run(api: Api, places: dict[Kind, str]) -> dict[Kind, float]:
    """Create one benchmark, or its Job, of each kind, and return how long each took."""
    started = time.monotonic()
    for kind, namespace in places.items():
        made = cluster.a_benchmark("resnet50", rounds=kind.rounds, parallelism=kind.parallelism)
        if kind.has_operator:
            api.create(cluster.BENCHMARKS.format(namespace), made)
        else:
            api.create(cluster.JOBS.format(namespace), cluster.a_plain_job(made, namespace))
    took: dict[Kind, float] = {}
    while len(took) < len(places):
        time.sleep(0.5)
        for kind in places.keys() - took.keys():
            if is_done(api, kind, places[kind]):
                took[kind] = time.monotonic() - started
                lab.progress(f"{kind.name}: {took[kind]:.0f} s")
        if time.monotonic() - started > PATIENCE_SECONDS:
            cluster.stop_here(f"After {PATIENCE_SECONDS} s not all have ended: {places.keys() - took.keys()}")
    return took


def is_done(api: Api, kind: Kind, namespace: str) -> bool:
    """Tell whether a kind's benchmark or Job has ended well."""
    path = cluster.BENCHMARKS if kind.has_operator else cluster.JOBS
    is_so = cluster.has_succeeded if kind.has_operator else cluster.is_complete
    return all(is_so(each) for each in api.items(path.format(namespace)))


def tell(places: dict[Kind, str], seconds: dict[Kind, float], seen: Sequence[Request], verdicts: Verdicts) -> None:
    """Print a row for each kind, and what was reached."""
    found = {kind: Found.of(places[kind], seen) for kind in places}
    header = ["pods", "at once", "operator", "seconds", "its writes", "of the status", "its reads", "the cluster's"]
    rows = (
        [
            f"{cluster.SWEEPS * kind.rounds}",
            kind.pods,
            "yes" if kind.has_operator else "no",
            f"{seconds[kind]:.0f}",
            f"{len(each.writes)}",
            f"{each.of_status}",
            f"{len(each.reads)}",
            f"{each.cluster_writes}",
        ]
        for kind, each in found.items()
    )
    lab.table(header, rows)
    print("\nThe writes, by kind:\n")
    for kind, each in found.items():
        if kind.has_operator:
            print(f"- {kind.name}: {each.told}")
    print()
    for kind, each in found.items():
        if (most := MOST.get((kind.pods, kind.rounds))) and kind.has_operator:
            verdicts.check(f"writes of 12 pods {kind.pods} are", len(each.writes), most)
        if kind.has_operator:
            bound = MOST_STATUS + seconds[kind] / STATUS_SECONDS
            verdicts.check(f"writes of the status in {seconds[kind]:.0f} s ({kind.name}) are", each.of_status, bound)
            lists = sum((each_.verb, each_.resource) == ("list", "pods") for each_ in each.reads_after_start)
            verdicts.check(f"LISTs of pods after its start ({kind.name}) are", lists, 0)


@dataclass(frozen=True)
class Found:
    """What was asked for in one namespace."""

    writes: Sequence[Request]
    reads: Sequence[Request]
    reads_after_start: Sequence[Request]
    cluster_writes: int

    @classmethod
    def of(cls, namespace: str, seen: Sequence[Request]) -> Found:
        """Sort the requests of a namespace; those before its benchmark are the operator's start."""
        here = [each for each in seen if each.namespace == namespace]
        own = [each for each in here if cluster.is_operators(each)]
        made = [cluster.ended(each) for each in here if (each.verb, each.resource) == ("create", "inferencebenchmarks")]
        reads = [each for each in own if not each.writes]
        after = [each for each in reads if made and cluster.began(each) > made[0]]
        others = sum(each.writes and not cluster.is_operators(each) and not is_ours(each) for each in here)
        return cls([each for each in own if each.writes], after, after, others)

    @property
    def of_status(self) -> int:
        """Writes of the status."""
        return sum(each.resource == "inferencebenchmarks/status" for each in self.writes)

    @property
    def told(self) -> str:
        """The writes by verb and resource."""
        counts = Counter(f"{each.verb} {each.resource}" for each in self.writes)
        return ", ".join(f"{count} {what}" for what, count in counts.most_common())


def is_ours(request: Request) -> bool:
    """Tell whether this program or its kubectl asked."""
    return request.user == "admin"


def is_of(request: Request, namespace: str) -> bool:
    """Tell whether the operator of a namespace asked."""
    return cluster.is_operators(request) and request.user == f"system:serviceaccount:{namespace}:inferbench"


def tell_idle(seen: Sequence[Request], minutes: float, verdicts: Verdicts) -> None:
    """Say what the idle operator asked for."""
    reads = Counter(f"{each.verb} {each.resource}" for each in seen if not each.writes)
    told = ", ".join(f"{count} {what}" for what, count in reads.most_common()) or "nothing"
    print(f"\nIdle for {minutes:.1f} minutes, with {IDLE_BENCHMARKS} benchmarks that have ended, it read: {told}.\n")
    verdicts.check("writes of an idle operator are", sum(each.writes for each in seen), 0)
    rate = sum(reads.values()) / minutes / WATCHES
    verdicts.check("reads of an idle operator, a minute and watch, are", rate, MOST_IDLE_READS)


if __name__ == "__main__":
    sys.exit(main())
