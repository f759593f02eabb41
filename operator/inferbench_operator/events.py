"""The events of a benchmark: a handful of sentences, each with a name that follows from what it says.

A name that is taken means that the event was posted already, by this operator or by one that died. Of what stands in
the way only the reason counts: its message names a pod, and each pod may wait for the same.
"""

from __future__ import annotations

import hashlib
from datetime import datetime
from enum import StrEnum

from inferbench_contract import crd
from inferbench_contract.result import cut_in_the_middle
from inferbench_operator import observed as observing
from inferbench_operator.observed import SeenBenchmark
from inferbench_operator.pods import Manifest

MAX_MESSAGE_CHARS = 1_000
"""The API server refuses more than 1,024 (kubernetes/pkg/apis/core/validation: events)."""

COMPONENT = "inferbench-operator"


class EventType(StrEnum):
    """How bad it is."""

    NORMAL = "Normal"
    WARNING = "Warning"


def event(benchmark: SeenBenchmark, kind: EventType, reason: str, message: str, now: datetime) -> Manifest:
    """Return an event about a benchmark. The same reason and message give the same name."""
    return _event(benchmark, kind, reason, message, now, f"{reason} {message}")


def of_obstacle(benchmark: SeenBenchmark, reason: str, message: str, now: datetime) -> Manifest:
    """Return the event about what stands in the way. The same reason gives the same name, whichever pod met it."""
    return _event(benchmark, EventType.WARNING, reason, message, now, reason)


def _event(
    benchmark: SeenBenchmark, kind: EventType, reason: str, message: str, now: datetime, identity: str
) -> Manifest:
    digest = hashlib.sha256(f"{benchmark.uid} {identity}".encode()).hexdigest()[:16]
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{benchmark.key.name}.{digest}", "namespace": benchmark.key.namespace},
        "involvedObject": {
            "apiVersion": crd.API_VERSION,
            "kind": crd.KIND,
            "name": benchmark.key.name,
            "namespace": benchmark.key.namespace,
            "uid": benchmark.uid,
        },
        "type": str(kind),
        "reason": reason,
        "message": cut_in_the_middle(message, MAX_MESSAGE_CHARS),
        "source": {"component": COMPONENT},
        "reportingComponent": COMPONENT,
        "firstTimestamp": observing.written(now),
        "lastTimestamp": observing.written(now),
        "count": 1,
    }
