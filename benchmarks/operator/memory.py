"""How much memory the operator takes, and how soon it is back, with many benchmarks that have ended.

    python -m benchmarks.operator.memory [--counts 1000] [--counts 1000,10000]

Must be reached: at most 100 MiB at its start in an empty cluster, 150 MiB with 1,000 benchmarks of 192 cells that have
ended, 600 MiB with 10,000; and after a restart among 1,000 it is ready in less than 10 s and writes nothing.

One benchmark is run, its pods played. Then the operator is stopped, and so many copies of it, of its status and of its
shard are stored as if they had been run. The operator is started, and looked at once it has shown all of them on
/results, for which it reads their shards at the rate that it allows itself (50 a second). Memory is what the process
has resident (VmRSS) after that, and the most that it ever had (VmHWM). Beside it stand a Python that has only loaded
the same libraries, and the API server. 2 minutes for 1,000, about 8 more for 10,000. Exit status 1 if it is not
reached.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from benchmarks import lab
from benchmarks.operator import cluster
from benchmarks.operator.cluster import Verdicts
from inferbench_operator import jobs
from inferbench_operator import observed as observing
from tests.kubernetes.client import Api, Object, eventually
from tests.kubernetes.control_plane import APISERVER, ControlPlane
from tests.kubernetes.fake_kubelet import FakeKubelet
from tests.kubernetes.nodes import some_nodes
from tests.kubernetes.operators import Operator
from tests.kubernetes.sweeps import Sweeps

MOST_MIB: Mapping[int, float] = {0: 100, 1_000: 150, 10_000: 600}
MOST_READY_SECONDS = 10.0
READY_AT = 1_000
"""Among so many."""

LIBRARIES = "import aiohttp, kopf, kubernetes.aio.client, prometheus_client, pydantic, yaml"
CONFIG_MAPS = "/api/v1/namespaces/{}/configmaps"

THREADS = 4
PATIENCE_SECONDS = 120
SHOWN_A_SECOND = 10
"""Slower than this, something is wrong: it shows 50 a second."""
SETTLED_SECONDS = 5


@dataclass(frozen=True)
class Found:
    """What one start of the operator came to."""

    count: int
    ready_seconds: float
    shown_seconds: float
    resident_mib: float
    most_mib: float
    writes: int
    apiserver_mib: float


def main() -> int:
    """Measure at the start and at each count, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", default="1000", help="of benchmarks, separated by commas; default: %(default)s")
    options = parser.parse_args()
    counts = sorted(int(count) for count in options.counts.split(","))
    with lab.report("Memory of the operator", "kopf", "kubernetes"), cluster.control_plane() as plane:
        namespace = cluster.new_namespace(plane.api(), "memory")
        found = [started(plane, namespace, 0)]
        model = finished(plane, namespace)
        for before, count in zip([1, *counts], counts, strict=False):
            fill(plane.api(), namespace, model, range(before, count))
            found.append(started(plane, namespace, count))
        return tell(found)


# ---- what there is to remember -------------------------------------------------------------------


@dataclass(frozen=True)
class Model:
    """A benchmark that was run, for others to be copies of."""

    benchmark: Object
    shard: Object


def finished(plane: ControlPlane, namespace: str) -> Model:
    """Run one benchmark; return it with its shard. Its Job is deleted, as it would be in time."""
    api, path = plane.api(), cluster.BENCHMARKS.format(namespace)
    with some_nodes(api, gpus=cluster.GPUS), FakeKubelet(plane.access, Sweeps(api), namespace):
        with cluster.an_operator(plane.access, namespace):
            api.create(path, cluster.a_benchmark("b0"))
            cluster.wait_for(api, path, 1, cluster.has_succeeded, PATIENCE_SECONDS)
            time.sleep(SETTLED_SECONDS)  # event and time to live follow the status
        api.delete(cluster.JOBS.format(namespace), propagationPolicy="Background")
        gone = f"/api/v1/namespaces/{namespace}/pods"
        eventually(lambda: not api.items(gone, limit=1), PATIENCE_SECONDS, "the pods to go")
    benchmark = api.get(f"{path}/b0")
    (named,) = benchmark["status"]["shards"]
    return Model(benchmark, api.get(f"{CONFIG_MAPS.format(namespace)}/{named['configMap']}"))


def fill(api: Api, namespace: str, model: Model, places: range) -> None:
    """Store copies."""
    lab.progress(f"Storing {len(places):,} benchmarks that have ended ...")
    with ThreadPoolExecutor(THREADS) as pool:
        for done, _ in enumerate(pool.map(lambda place: copy(api, namespace, model, f"b{place}"), places), 1):
            if done % 1000 == 0:
                lab.progress(f"{done:,} of {len(places):,}")


def copy(api: Api, namespace: str, model: Model, name: str) -> None:
    """Store a benchmark, its shard and its status."""
    path, old = cluster.BENCHMARKS.format(namespace), model.benchmark["metadata"]["name"]
    made = api.create(path, {**cluster.a_benchmark(name), "spec": model.benchmark["spec"]})
    shard = model.shard["metadata"]["name"].replace(f"{old}-", f"{name}-", 1)
    api.create(CONFIG_MAPS.format(namespace), jobs.config_map(observing.benchmark(made), shard, model.shard["data"]))
    status = model.benchmark["status"]
    status = {**status, "shards": [{**each, "configMap": shard} for each in status["shards"]]}
    api.patch(f"{path}/{name}/status", {"status": status})


# ---- the operator among them ---------------------------------------------------------------------


def started(plane: ControlPlane, namespace: str, count: int) -> Found:
    """Start the operator among so many, wait until it has shown all, measure."""
    since, operator = plane.access.audit_position(), cluster.an_operator(plane.access, namespace)
    with operator:
        ready = ready_seconds(operator)
        shown = eventually(lambda: shown_seconds(operator, count), PATIENCE_SECONDS + count / SHOWN_A_SECOND, "all")
        time.sleep(SETTLED_SECONDS)
        process = cluster.pid(operator)
        resident, most = cluster.memory_mib(process), cluster.memory_mib(process, "VmHWM")
        apiserver = cluster.memory_mib(plane.pid(APISERVER))
    asked = [each for each in cluster.requests(plane.access, since) if cluster.is_operators(each)]
    lab.progress(f"{count:,}: ready in {ready:.1f} s, {resident:.0f} MiB")
    return Found(count, ready, shown, resident, most, sum(each.writes for each in asked), apiserver)


def ready_seconds(operator: Operator) -> float:
    """Start it once more, from nothing but its command, and return how long it takes to be ready.

    The first start also renders the chart for its rights, which a restart does not.
    """
    operator.stop()
    operator.start()
    return time.time() - cluster.start_time(cluster.pid(operator))


def shown_seconds(operator: Operator, count: int) -> float:
    """Return since when the process runs, once it has looked at all; 0 before that."""
    looked = cluster.metric(operator, "inferbench_operator_reconcile_duration_seconds_count")
    waiting = cluster.metric(operator, "inferbench_operator_queue_depth")
    is_done = looked >= count and waiting == 0
    return time.time() - cluster.start_time(cluster.pid(operator)) if is_done else 0.0


def libraries_mib() -> float:
    """Return the memory of a Python that has loaded the operator's libraries and nothing else."""
    program = f"{LIBRARIES}\nimport sys\nprint('loaded', flush=True)\nsys.stdin.read()"
    command = [sys.executable, "-P", "-c", program]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path("/")) as bare:
        assert bare.stdin is not None
        assert bare.stdout is not None
        bare.stdout.readline()
        found = cluster.memory_mib(bare.pid)
        bare.stdin.close()
    return found


def tell(found: Sequence[Found]) -> int:
    """Print a row for each start, and what was reached."""
    header = [
        "benchmarks that have ended",
        "ready, s",
        "all shown, s",
        "MiB",
        "at most, MiB",
        "writes",
        "API server, MiB",
    ]
    rows = (
        [
            f"{each.count:,}",
            f"{each.ready_seconds:.1f}",
            f"{each.shown_seconds:.0f}",
            f"{each.resident_mib:.0f}",
            f"{each.most_mib:.0f}",
            str(each.writes),
            f"{each.apiserver_mib:,.0f}",
        ]
        for each in found
    )
    lab.table(header, rows)
    print(f"\nA Python that has only loaded the same libraries has {libraries_mib():.0f} MiB.\n")
    verdicts = Verdicts()
    for each in found:
        if each.count in MOST_MIB:
            verdicts.check(f"MiB with {each.count:,} benchmarks are", each.resident_mib, MOST_MIB[each.count])
        if each.count == READY_AT:
            verdicts.check("a restart among 1,000 takes", each.ready_seconds, MOST_READY_SECONDS, " s")
            verdicts.check("writes after it are", each.writes, 0)
    return verdicts.end()


if __name__ == "__main__":
    sys.exit(main())
