"""plan -> Jobs: the Indexed Job of a stage, the ConfigMaps beside it, and their names, which follow from the plan.

Names are deterministic, so an operator that was killed in the middle makes nothing twice: it gets 409 and finds out
that the object is its own.
"""

from __future__ import annotations

from collections.abc import Mapping

from inferbench_contract import crd
from inferbench_contract.handshake import (
    BAD_CONFIGURATION_STATUS,
    ENVIRONMENT_FAULT_STATUS,
    PLAN_FILE_VARIABLE,
    PLAN_VARIABLE,
    SWEEPS_VARIABLE,
)
from inferbench_contract.plan import Plan
from inferbench_contract.ranges import format_sweeps
from inferbench_contract.spec import BenchmarkSpec
from inferbench_operator import pods
from inferbench_operator.collect import MAX_STAGES
from inferbench_operator.observed import (
    BENCHMARK_LABEL,
    MANAGED_BY,
    QUEUE_LABEL,
    RUNNER,
    STAGE_LABEL,
    SeenBenchmark,
    SeenJob,
)
from inferbench_operator.pods import Manifest
from inferbench_operator.settings import Settings

MAX_PLAN_BYTES = 8_192
"""Of a plan in the Job's environment, which is copied into every pod; a longer one travels in a ConfigMap."""

FAIL_INDEX = (BAD_CONFIGURATION_STATUS, 137)
"""Runner statuses that no second try mends: a wrong plan; a kill, whose meaning the operator reads from the message."""

FAIL_JOB = (ENVIRONMENT_FAULT_STATUS,)
"""Runner status: the machines lack something that every other sweep would miss too."""


def job_name(benchmark: SeenBenchmark, plan: Plan, stage: int) -> str:
    """Return the name of a stage's Job: at most 45 + 1 + 10 + 1 + 1 characters."""
    return f"{benchmark.key.name}-{plan.short_hash}-{stage}"


def is_stage(job: SeenJob, benchmark: SeenBenchmark, plan: Plan) -> bool:
    """Tell whether a Job can be a stage of this plan: any Job may carry our labels and name the benchmark as owner."""
    planned = len(plan.sweeps)
    is_known = job.stage in range(MAX_STAGES) and job.name == job_name(benchmark, plan, job.stage)
    if job.sweeps is None:
        return is_known and job.stage == 0 and job.completions == planned
    return is_known and job.stage > 0 and job.completions == len(job.sweeps) and job.sweeps[-1] < planned


def shard_name(benchmark: SeenBenchmark, plan: Plan, number: int) -> str:
    """Return the name of a shard's ConfigMap."""
    return f"{benchmark.key.name}-{plan.short_hash}-r{number}"


def plan_map_name(benchmark: SeenBenchmark, plan: Plan) -> str | None:
    """Return the name of the plan's ConfigMap; None where the plan travels in the Job itself."""
    return f"{benchmark.key.name}-{plan.short_hash}-plan" if len(plan.dump()) > MAX_PLAN_BYTES else None


def job(
    benchmark: SeenBenchmark,
    spec: BenchmarkSpec,
    plan: Plan,
    stage: int,
    sweeps: tuple[int, ...] | None,
    settings: Settings,
) -> Manifest:
    """Return the Job of a stage. `sweeps`: those of a later stage; None for all, in stage 0."""
    name, completions = job_name(benchmark, plan, stage), len(plan.sweeps) if sweeps is None else len(sweeps)
    labels = own_labels(benchmark) | {STAGE_LABEL: str(stage)}
    plan_map = plan_map_name(benchmark, plan)
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": _metadata(benchmark, name, labels | _queue(spec)),
        "spec": {
            "completionMode": "Indexed",
            "completions": completions,
            "parallelism": min(spec.parallelism, completions),
            "suspend": spec.suspend or spec.queue_name is not None,
            "backoffLimitPerIndex": spec.retries,
            "maxFailedIndexes": completions,
            "podReplacementPolicy": "Failed",
            "podFailurePolicy": {"rules": _failure_rules()},
            "template": pods.template(spec, labels, _variables(plan, sweeps, plan_map), plan_map, settings),
        },
    }


def config_map(benchmark: SeenBenchmark, name: str, data: Mapping[str, str]) -> Manifest:
    """Return an immutable ConfigMap that goes when the benchmark goes."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": _metadata(benchmark, name, own_labels(benchmark)),
        "immutable": True,
        "data": dict(data),
    }


def owner(benchmark: SeenBenchmark) -> Manifest:
    """Return the reference by which the garbage collector knows whose an object is."""
    return {
        "apiVersion": crd.API_VERSION,
        "kind": crd.KIND,
        "name": benchmark.key.name,
        "uid": benchmark.uid,
        "controller": True,
        "blockOwnerDeletion": False,  # nothing waits for it, and some clusters ask a right of whoever sets it
    }


def own_labels(benchmark: SeenBenchmark) -> dict[str, str]:
    """Return the labels of everything that belongs to a benchmark."""
    return {
        "app.kubernetes.io/name": "inferbench-runner",
        MANAGED_BY[0]: MANAGED_BY[1],
        BENCHMARK_LABEL: benchmark.key.name,
    }


def _metadata(benchmark: SeenBenchmark, name: str, labels: Mapping[str, str]) -> Manifest:
    return {
        "name": name,
        "namespace": benchmark.key.namespace,
        "labels": dict(labels),
        "ownerReferences": [owner(benchmark)],
    }


def _queue(spec: BenchmarkSpec) -> dict[str, str]:
    return {} if spec.queue_name is None else {QUEUE_LABEL: spec.queue_name}


def _variables(plan: Plan, sweeps: tuple[int, ...] | None, plan_map: str | None) -> Mapping[str, str]:
    where = {PLAN_VARIABLE: plan.dump()} if plan_map is None else {PLAN_FILE_VARIABLE: pods.PLAN_FILE}
    return where if sweeps is None else {**where, SWEEPS_VARIABLE: format_sweeps(sweeps)}


def _failure_rules() -> list[Manifest]:
    def on_exit(action: str, statuses: tuple[int, ...]) -> Manifest:
        codes = {"containerName": RUNNER, "operator": "In", "values": list(statuses)}
        return {"action": action, "onExitCodes": codes}

    disrupted = {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
    return [disrupted, on_exit("FailJob", FAIL_JOB), on_exit("FailIndex", FAIL_INDEX)]
