"""Benchmarks for a cluster, and what is read of them there."""

from __future__ import annotations

import json

from tests.kubernetes.client import eventually

SECONDS = 60


def a_benchmark(name="resnet50", on_nodes=None, **spec):
    small = {
        "model": {"torchvision": {"name": "resnet50", "weights": "random"}},
        "device": "cpu",
        "backends": ["torch-eager", "onnxruntime"],
        "batchSizes": [1, 8],
        "cpu": {"threads": 1},
        "measurement": {"rounds": 2},
        "podTemplate": {"spec": on_nodes or {}},
    }
    head = {"apiVersion": "inferbench.dev/v1alpha1", "kind": "InferenceBenchmark", "metadata": {"name": name}}
    return {**head, "spec": {**small, **spec}}


def the_status(kubectl, name="resnet50"):
    return kubectl.get("ibench", name).get("status") or {}


def the_condition(kubectl, kind, name="resnet50"):
    told = the_status(kubectl, name).get("conditions") or []
    return next((each for each in told if each["type"] == kind), {})


def until(kubectl, kind, reason, name="resnet50", seconds=SECONDS):
    def look():
        found = the_condition(kubectl, kind, name)
        assert found.get("reason") == reason, json.dumps(the_status(kubectl, name).get("conditions"))
        return found

    return eventually(look, seconds, f"condition {kind} of {name} to have the reason {reason}")
