"""Small benchmarks of the fake backend, as files: a cell of theirs costs its process's start and little more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from inferbench_contract import plan as plans
from inferbench_contract.plan import Plan
from inferbench_contract.spec import InferenceBenchmark

SLOW_CALLS = {"callMicroseconds": 40_000}
"""Twenty calls fill the scripted second, so that simulating them takes no time."""


def scripted(
    *, faults: Sequence[Mapping[str, Any]] = (), script: Mapping[str, Any] | None = None, **spec: Any
) -> dict[str, Any]:
    """Return a benchmark as YAML holds it: one cell, one round, unless `spec` says otherwise. `name` names it."""
    name = spec.pop("name", "scripted")
    options = {**SLOW_CALLS, **(script or {}), **({"faults": [dict(fault) for fault in faults]} if faults else {})}
    small = {
        "model": {"torchvision": {"name": "resnet50", "weights": "random"}},
        "backends": ["fake"],
        "precisions": ["fp32"],
        "batchSizes": [1],
        "device": "cpu",
        "measurement": {"rounds": 1, "maxSecondsPerCell": 1, "warmupMaxSeconds": 1},
        "backendOptions": {"fake": options},
    }
    head = {"apiVersion": "inferbench.dev/v1alpha1", "kind": "InferenceBenchmark", "metadata": {"name": name}}
    return {**head, "spec": {**small, **spec}}


def scripted_text(**said: Any) -> str:
    """Return `scripted` as the text of a file."""
    return yaml.safe_dump(scripted(**said), sort_keys=False)


def scripted_benchmark(**said: Any) -> InferenceBenchmark:
    """Return `scripted` as it is read."""
    return InferenceBenchmark.model_validate(scripted(**said))


def scripted_plan(**said: Any) -> Plan:
    """Return the plan of `scripted`."""
    return plans.expand(scripted_benchmark(**said))


def rounds(count: int) -> dict[str, int]:
    """Return a measurement of so many short rounds."""
    return {"rounds": count, "maxSecondsPerCell": 1, "warmupMaxSeconds": 1}
