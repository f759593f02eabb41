"""What a runner's pod would have handed over: real results of the pod's own sweep, with latencies known in closed form.

    FakeKubelet(access, ending=Sweeps(access.api()), namespace=...)

A test that wants something else for some pods asks for the sweep and answers by itself:

    sweeps = Sweeps(api)
    def ending(pod):
        plan, sweep = sweeps.of(pod)
        return Ending(exit_code=137, reason="OOMKilled") if sweep.index == 3 else sweeps(pod)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from inferbench_contract import plan as plans
from inferbench_contract import ranges, result
from inferbench_contract.plan import Plan, Sweep
from inferbench_contract.result import CellResult, SweepResult
from inferbench_contract.words import SIMPLEST_BACKENDS, SIMPLEST_PRECISIONS, Outcome, Strategy
from tests.kubernetes.client import Api, Object
from tests.kubernetes.fake_kubelet import INDEX, Ending

HARDWARE = "Fake GPU 80GB, driver 1.2.3"
FINGERPRINT = "0123456789"
RUNNER = "runner"

Latency = Callable[[Strategy, int], int]


def latency_ns(strategy: Strategy, batch_size: int) -> int:
    """Return the latency that every round measures: no two strategies have the same, and later backends are faster.

    (1000 us + 250 us * batch size) * (100 - 10 * the backend's place - the precision's place) / 10, with the places of
    `words.SIMPLEST_BACKENDS` and `words.SIMPLEST_PRECISIONS`: torch-eager/fp32@1 takes 12.5 ms.
    """
    weight = 100 - 10 * SIMPLEST_BACKENDS.index(strategy.backend) - SIMPLEST_PRECISIONS.index(strategy.precision)
    return (1_000_000 + 250_000 * batch_size) * weight // 10


def a_cell(batch_size: int, latency: int) -> CellResult:
    """Return a cell that was measured, with everything that a summary looks at."""
    return CellResult(
        batch_size,
        Outcome.MEASURED,
        latency_median_ns=latency,
        latency_p90_ns=latency,
        latency_p99_ns=latency,
        throughput_milli_per_second=round(10**12 * batch_size / latency),
        samples=1000,
        relative_l2_parts_per_billion=100,
        top1_agreement_basis_points=10_000,
        prepare_ms=1000,
        warmup_ms=100,
        measure_ms=1000,
    )


def a_result(plan: Plan, sweep: Sweep, latency: Latency = latency_ns, seconds: float = 0) -> SweepResult:
    """Return the whole result of a sweep that starts now."""
    now = round(time.time() * 1000)
    cells = tuple(a_cell(size, latency(sweep.strategy, size)) for size in sweep.batch_sizes)
    return SweepResult(
        plan.short_hash,
        sweep.index,
        cells,
        hardware=HARDWARE,
        fingerprint=FINGERPRINT,
        started_ms=now,
        finished_ms=now + round(1000 * seconds),
    )


@dataclass
class Sweeps:
    """Answers every runner pod with the result of its sweep; any other pod ends well without a word."""

    api: Api
    """Reads the ConfigMap of a plan that is too long for the environment."""
    latency: Latency = latency_ns
    seconds: float = 0
    """How long each pod runs."""
    _plans: dict[str, Plan] = field(default_factory=dict)

    def __call__(self, pod: Object) -> Ending:
        """Tell how a pod ends; a pod whose plan is not there waits for its volume, as on a node."""
        if not _variables(pod):
            return Ending(seconds=self.seconds)
        plan, sweep = self.of(pod)
        whole = result.encode(a_result(plan, sweep, self.latency, self.seconds))
        return Ending(message=whole, seconds=self.seconds, so_far=_first_cell(plan, sweep, self.latency))

    def of(self, pod: Object) -> tuple[Plan, Sweep]:
        """Return the plan of a pod and the sweep that it is for."""
        variables = _variables(pod)
        plan = self._plan(pod, variables)
        place = int(pod["metadata"]["annotations"][INDEX])
        later = variables.get("INFERBENCH_SWEEPS")
        return plan, plan.sweeps[ranges.parse_sweeps(later)[place] if later else place]

    def _plan(self, pod: Object, variables: Mapping[str, str]) -> Plan:
        text = variables.get("INFERBENCH_PLAN")
        if text is None:
            return self._mounted_plan(pod)
        if text not in self._plans:
            self._plans[text] = plans.load(text, f"INFERBENCH_PLAN of {pod['metadata']['name']}")
        return self._plans[text]

    def _mounted_plan(self, pod: Object) -> Plan:
        volume = next(v for v in pod["spec"]["volumes"] if v["name"] == "plan")
        path = f"/api/v1/namespaces/{pod['metadata']['namespace']}/configmaps/{volume['configMap']['name']}"
        if path not in self._plans:
            self._plans[path] = plans.load(self.api.get(path)["data"]["plan.json"], path)
        return self._plans[path]


def _first_cell(plan: Plan, sweep: Sweep, latency: Latency) -> bytes:
    """Return what a runner has written when it is stopped while it measures its second cell."""
    whole = a_result(plan, sweep, latency)
    in_flight = sweep.batch_sizes[1] if len(sweep.batch_sizes) > 1 else None
    return result.encode(SweepResult(plan.short_hash, sweep.index, whole.cells[:1], in_flight, HARDWARE, FINGERPRINT))


def _variables(pod: Object) -> dict[str, str]:
    """Return the environment of a runner's container; nothing for a pod that is no runner's."""
    found = (c for c in pod["spec"]["containers"] if c["name"] == RUNNER)
    told = {entry["name"]: entry.get("value", "") for container in found for entry in container.get("env", [])}
    return told if {"INFERBENCH_PLAN", "INFERBENCH_PLAN_FILE"} & told.keys() else {}
