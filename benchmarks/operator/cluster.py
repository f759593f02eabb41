"""What the operator's benchmarks share: a real control plane with played nodes, benchmarks of 192 cells, the audit log.

Run them as modules, `python -m benchmarks.operator.writes`, from the root of the repository: they use the tests' kit.
"""

from __future__ import annotations

import math
import os
import secrets
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

from benchmarks import lab
from inferbench_contract import document
from inferbench_contract import plan as plans
from inferbench_operator import jobs
from inferbench_operator import observed as observing
from inferbench_operator.observed import MANAGED_BY
from inferbench_operator.settings import Settings
from tests.kubernetes import control_plane as control_planes
from tests.kubernetes import tools
from tests.kubernetes.access import Access, Request
from tests.kubernetes.client import Api, Object, eventually
from tests.kubernetes.control_plane import ControlPlane
from tests.kubernetes.nodes import SELECTOR
from tests.kubernetes.operators import READY_SECONDS, Operator

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = "/apis/inferbench.dev/v1alpha1/namespaces/{}/inferencebenchmarks"
JOBS = "/apis/batch/v1/namespaces/{}/jobs"

GPUS = 10_000
"""Of a played node: nothing waits for a GPU here."""

SPEC: Mapping[str, Any] = {
    "model": {"torchvision": {"name": "resnet50", "weights": "random"}},
    "device": "gpu",
    "backends": ["torch-eager", "torch-compile", "torch-compile-max-autotune"],
    "precisions": ["fp32", "tf32", "bf16", "fp16"],
    "batchSizes": [1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 160, 192, 224, 256],
    "podTemplate": {"spec": {"nodeSelector": SELECTOR}},
}
"""Twelve strategies at sixteen batch sizes: 192 cells in twelve pods for each round."""

SWEEPS = 12
"""Of SPEC, in one round."""

AS_SHIPPED = {
    "INFERBENCH_OPERATOR_RUNNER_IMAGE": "inferbench-runner:played",
    "INFERBENCH_OPERATOR_RUNNER_CPU": "100m",
    "INFERBENCH_OPERATOR_RUNNER_MEMORY": "64Mi",
    "INFERBENCH_OPERATOR_STATUS_INTERVAL_SECONDS": "5",
    "INFERBENCH_OPERATOR_LOST_AFTER_SECONDS": "10",
    "INFERBENCH_OPERATOR_JOB_TTL_SECONDS": "3600",
    "INFERBENCH_OPERATOR_API_QPS": "50",
    "INFERBENCH_OPERATOR_API_BURST": "100",
}
"""The operator's defaults, but for small pods, and Jobs that stay until all is counted."""

COLLECT_SECONDS = 180
LOOK_SECONDS = 1.0
"""Whoever looks more often at a hundred objects takes a part of the machine himself."""
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")


# ---- the cluster ---------------------------------------------------------------------------------


@contextmanager
def control_plane(settings: control_planes.Settings | None = None) -> Iterator[ControlPlane]:
    """Run a control plane that knows the definitions; by default its controllers may ask as often as they like."""
    tools.tool("kubectl")
    lab.progress("Starting a control plane ...")
    with ControlPlane(settings=settings) as plane:
        plane.kubectl().apply(ROOT / "crds")
        served, api = "/apis/inferbench.dev/v1alpha1/inferencebenchmarks", plane.api()
        eventually(lambda: api.get(served), READY_SECONDS, "the definitions to be served")
        yield plane


def new_namespace(api: Api, name: str) -> str:
    """Make a namespace in which pods can be created; a few letters are added to the name."""
    name = f"{name}-{secrets.token_hex(2)}"
    api.create("/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    eventually(lambda: api.find(f"/api/v1/namespaces/{name}/serviceaccounts/default"), 30, f"the accounts of {name}")
    return name


def clear(api: Api, namespace: str) -> None:
    """Delete a namespace and wait until all of it is gone, so that its end does not cost the next measurement."""
    api.delete(f"/api/v1/namespaces/{namespace}")
    api.delete(f"/api/v1/namespaces/{namespace}/pods", gracePeriodSeconds=0)
    eventually(lambda: api.find(f"/api/v1/namespaces/{namespace}") is None, COLLECT_SECONDS, f"{namespace} to go")


def an_operator(access: Access, namespace: str = "", **settings: str) -> Operator:
    """Return an operator with the settings that it is shipped with."""
    return Operator(access, namespace, {**AS_SHIPPED, **settings})


# ---- benchmarks and the same Jobs without them ---------------------------------------------------


def a_benchmark(name: str, *, rounds: int = 1, parallelism: int = SWEEPS) -> Object:
    """Return a benchmark of 192 cells. `parallelism`: pods side by side."""
    head = {"apiVersion": "inferbench.dev/v1alpha1", "kind": "InferenceBenchmark", "metadata": {"name": name}}
    return {**head, "spec": {**SPEC, "parallelism": parallelism, "measurement": {"rounds": rounds}}}


def the_plan(benchmark: Object) -> plans.Plan:
    """Return its plan."""
    return plans.expand(document.from_object(benchmark, "the benchmark"))


def a_plain_job(benchmark: Object, namespace: str) -> Object:
    """Return the Job that the operator would make, as one that belongs to nobody and that no operator looks at."""
    read, metadata = document.from_object(benchmark, "the benchmark"), benchmark["metadata"]
    seen = observing.benchmark({**benchmark, "metadata": {**metadata, "namespace": namespace, "uid": "nobody"}})
    settings = Settings(runner_image="inferbench-runner:played", runner_cpu="100m", runner_memory="64Mi")
    made = jobs.job(seen, read.spec, plans.expand(read), 0, None, settings)
    del made["metadata"]["ownerReferences"]
    for labels in (made["metadata"]["labels"], made["spec"]["template"]["metadata"]["labels"]):
        labels[MANAGED_BY[0]] = "nobody"
    return made


def create_all(api: Api, path: str, objects: Sequence[Object], threads: int = 4) -> None:
    """Create objects, several at a time."""
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda each: api.create(path, each), objects))


def is_finished(benchmark: Object) -> bool:
    """Tell whether the operator has said its last word."""
    return observing.condition_status(benchmark.get("status") or {}, "Finished") == "True"


def has_succeeded(benchmark: Object) -> bool:
    """Tell whether the benchmark has the answer."""
    return observing.condition_status(benchmark.get("status") or {}, "Succeeded") == "True"


def is_complete(job: Object) -> bool:
    """Tell whether a Job has ended well."""
    return observing.condition_status(job.get("status") or {}, "Complete") == "True"


# ---- the audit log -------------------------------------------------------------------------------


def requests(access: Access, since: int = 0) -> list[Request]:
    """Read the audit log once it has stood still for a moment: a record is written a little after its answer."""
    before, now = -1, access.audit_position()
    while before != now:
        time.sleep(0.5)
        before, now = now, access.audit_position()
    return list(access.audit(since))


def is_operators(request: Request) -> bool:
    """Tell whether an operator asked, its watches included."""
    return request.agent.startswith("inferbench-operator/")


def began(request: Request) -> datetime:
    """Return when the API server got a request."""
    return datetime.fromisoformat(request.record["requestReceivedTimestamp"])


def ended(request: Request) -> datetime:
    """Return when it had answered."""
    return datetime.fromisoformat(request.record["stageTimestamp"])


# ---- processes -----------------------------------------------------------------------------------


def pid(operator: Operator) -> int:
    """Return the operator's process."""
    assert operator.process is not None
    return operator.process.pid


def cpu_seconds(process: int) -> float:
    """Return the CPU time that a process has taken, in user and in kernel mode."""
    fields = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / CLOCK_TICKS  # utime and stime, proc_pid_stat(5)


def memory_mib(process: int, what: str = "VmRSS") -> float:
    """Return the memory that a process has resident; VmHWM: the most that it ever had."""
    lines = Path(f"/proc/{process}/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{what}:")) / 1024


def start_time(process: int) -> float:
    """Return when a process was started, in seconds since the epoch."""
    fields = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    up = float(Path("/proc/uptime").read_text(encoding="utf-8").split()[0])
    return time.time() - up + int(fields[19]) / CLOCK_TICKS  # starttime, proc_pid_stat(5)


def metric(operator: Operator, name: str) -> float:
    """Read one value of the operator's own metrics; all of its labels are added up."""
    lines = (line for line in operator.get("/metrics").splitlines() if line.startswith((f"{name} ", f"{name}{{")))
    return sum(float(line.rpartition(" ")[2]) for line in lines)


# ---- figures -------------------------------------------------------------------------------------


def quantile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least this share of the values does not exceed."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def spread(values: Sequence[float]) -> list[str]:
    """Write median, p90, p99 and the largest, in whole milliseconds, of seconds."""
    told = [statistics.median(values), *(quantile(values, share) for share in (0.9, 0.99)), max(values)]
    return [f"{1000 * value:.0f}" for value in told]


class Verdicts:
    """What must be reached, said line by line; the exit status of the benchmark follows."""

    def __init__(self) -> None:
        """Start with nothing missed."""
        self.has_missed = False

    def check(self, what: str, found: float, limit: float, unit: str = "", *, at_least: bool = False) -> None:
        """Print whether a figure is within its limit."""
        is_reached = found >= limit if at_least else found <= limit
        self.has_missed |= not is_reached
        word, bound = "Reached" if is_reached else "**Missed**", "at least" if at_least else "at most"
        print(f"- {word}: {what} {_number(found)}{unit}; it must be {bound} {_number(limit)}{unit}.")

    def end(self) -> int:
        """Return the exit status."""
        return int(self.has_missed)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) or abs(value) >= 1000 else f"{value:.3g}"


def wait_for(api: Api, path: str, count: int, is_so: Callable[[Object], bool], seconds: float) -> None:
    """Look now and then until so many objects are as they should be."""
    deadline = time.monotonic() + seconds
    while (so_far := sum(is_so(each) for each in api.items(path, resourceVersion=0))) < count:
        if time.monotonic() > deadline:
            stop_here(f"After {seconds:.0f} s {so_far} of {count} have ended in {path}.")
        time.sleep(LOOK_SECONDS)


def stop_here(reason: str) -> NoReturn:
    """End the benchmark with a sentence."""
    sys.exit(reason)
