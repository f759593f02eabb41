"""A benchmark in a cluster: the resource and its shards as the API server hands them out, made without an operator."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Self

from inferbench_cli import resource
from inferbench_cli.resource import Found
from inferbench_contract import plan as plans
from inferbench_contract import shards
from inferbench_contract.result import SweepResult
from inferbench_contract.spec import InferenceBenchmark
from inferbench_contract.words import Strategy
from tests.documents import rounds, scripted
from tests.results import Told, results_for

Saying = tuple[str, str, str, str]
"""A condition: type, status, reason, message."""

TWO = {"precisions": ["fp32", "fp16"], "measurement": rounds(2)}
"""Two strategies in two rounds: four sweeps. The first is the baseline."""

FINISHED = ("Finished", "True", "AllMeasured", "")
SUCCEEDED = ("Succeeded", "True", "AllMeasured", "")
RUNNING = ("Running", "True", "SweepsRunning", "")

NAME = "example"
NOW = "2026-11-25T12:00:00Z"
COUNTS = ("planned", "measured", "unsupported", "inaccurate", "failed", "missing")


def conditions(*told: Saying) -> list[dict[str, str]]:
    """Write conditions as a status holds them."""
    keys = ("type", "status", "reason", "message")
    return [dict(zip(keys, each, strict=True)) | {"lastTransitionTime": NOW} for each in told]


def twice_as_fast_at_fp16(strategy: Strategy, *_: int) -> Told:
    """Let fp32 take 10 ms and fp16 take 5 ms, in every round."""
    return 10 if strategy.precision == "fp32" else 5


class InCluster:
    """A benchmark of two strategies and what its pods have handed over, with `per_shard` results in a ConfigMap."""

    def __init__(self, *told: Saying, per_shard: int = 64, **spec: Any) -> None:
        """Take what the conditions say, and fields of the spec."""
        self.manifest = scripted(name=NAME, **{**TWO, **spec})
        self.benchmark = InferenceBenchmark.model_validate(self.manifest)
        self.plan = plans.expand(self.benchmark)
        self.told = told
        self.per_shard = per_shard
        self.results: tuple[SweepResult, ...] = ()

    def measured(self, latency_of: Callable[..., Told] = twice_as_fast_at_fp16, **fields: Any) -> Self:
        """Let all sweeps hand over their results."""
        known = {"fingerprint": "f" * 16, "hardware": "A processor, 4 CPUs"}
        self.results = results_for(self.plan, latency_of, **(known | fields))
        return self

    @property
    def stored(self) -> dict[str, dict[str, str]]:
        """The data of the ConfigMaps, by their names."""
        pieces = [self.results[at : at + self.per_shard] for at in range(0, len(self.results), self.per_shard)]
        return {
            f"{NAME}-{self.plan.short_hash}-r{number}": shards.pack(piece, None if number else self.plan)
            for number, piece in enumerate(pieces)
        }

    @property
    def status(self) -> dict[str, Any]:
        """What the operator would have written."""
        told = [
            {"configMap": name, "sweeps": data[shards.RESULTS].count("\n"), "sha256": shards.checksum(data)}
            for name, data in self.stored.items()
        ]
        counted = {
            "plan": {"hash": self.plan.short_hash, "rounds": self.plan.rounds},
            "sweeps": {"planned": len(self.plan.sweeps), "finished": len(self.results)},
            "cells": dict.fromkeys(COUNTS, 0),
        }
        return {"observedGeneration": 1, "conditions": conditions(*self.told), **counted, "shards": told}

    @property
    def item(self) -> dict[str, Any]:
        """The resource, with what the server and kubectl add to it."""
        server = {"uid": "1234", "generation": 1, "resourceVersion": "77", "managedFields": [{"manager": "kubectl"}]}
        noted = {"annotations": {resource.LAST_APPLIED: "{}", "example.com/why": "a test"}}
        metadata = {**self.manifest["metadata"], "namespace": "team", **server, **noted}
        return {**self.manifest, "metadata": metadata, "status": self.status}

    def found(self, stored: Mapping[str, Mapping[str, str]] | None = None) -> Found:
        """What `inferbench get` makes of it, with all shards or with these."""
        return resource.understand(self.item, self.stored if stored is None else stored)


def a_finished(**spec: Any) -> InCluster:
    """Return one that has measured everything."""
    return InCluster(FINISHED, SUCCEEDED, **spec).measured()
