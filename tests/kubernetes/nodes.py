"""Nodes that exist only in the API server: Kubernetes schedules pods onto them, and something else plays the pods."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Self

import urllib3

from tests.kubernetes.client import Api, ApiError, Object

LABEL = "inferbench.dev/fake-node"
"""Marks these nodes; also the key of their taint where real nodes are beside them."""

SELECTOR = {LABEL: "true"}
TAINT = {"key": LABEL, "value": "true", "effect": "NoSchedule"}
TOLERATION = {"key": LABEL, "operator": "Exists", "effect": "NoSchedule"}

GPU = "NVIDIA-A100-SXM4-80GB"
SIZE = {"cpu": "64", "memory": "512Gi", "ephemeral-storage": "2Ti", "pods": "10000"}
"""More than any test asks for: what is scarce is said by the test."""

LEASE_SECONDS = 40
HEARTBEAT_SECONDS = 10
"""A real kubelet's: it renews its lease every 10 s, and after 50 s without it the node is taken for dead."""


def a_node(
    name: str, *, gpus: int = 0, product: str = GPU, labels: Mapping[str, str] | None = None, is_tainted: bool = False
) -> Object:
    """Return a node; with GPUs it is labelled as NVIDIA's GPU feature discovery labels one."""
    told = {**SELECTOR, "kubernetes.io/hostname": name, "kubernetes.io/os": "linux"}
    told |= {"nvidia.com/gpu.product": product} if gpus else {}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {**told, **(labels or {})}},
        "spec": {"taints": [TAINT]} if is_tainted else {},
    }


def a_status(name: str, gpus: int = 0) -> dict[str, Any]:
    """Return the status of a node that is ready."""
    size = {**SIZE, **({"nvidia.com/gpu": str(gpus)} if gpus else {})}
    ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "played by a test"}
    return {
        "capacity": size,
        "allocatable": size,
        "addresses": [{"type": "Hostname", "address": name}],
        "conditions": [{**ready, "lastHeartbeatTime": _now(), "lastTransitionTime": _now()}],
    }


class FakeNodes:
    """Nodes with a heartbeat for as long as the `with` block lasts; then they are gone."""

    def __init__(self, api: Api, *nodes: Object, gpus: int = 0) -> None:
        self._api = api
        self._nodes = nodes
        self._gpus = gpus
        self._over = threading.Event()
        self._heart = threading.Thread(target=self._beat, name="heartbeat of the fake nodes", daemon=True)

    def __enter__(self) -> Self:
        """Create the nodes, and wait for none of them: the scheduler waits by itself."""
        for node in self._nodes:
            name = node["metadata"]["name"]
            self._api.create("/api/v1/nodes", node)
            self._api.patch(f"/api/v1/nodes/{name}/status", {"status": a_status(name, self._gpus)})
            self._api.create(LEASES, _lease(name))
        self._heart.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Remove the nodes."""
        self._over.set()
        self._heart.join()
        for node in self._nodes:
            with suppress(ApiError, OSError, urllib3.exceptions.HTTPError):
                self._api.delete(f"/api/v1/nodes/{node['metadata']['name']}")

    @property
    def names(self) -> list[str]:
        """The nodes' names."""
        return [node["metadata"]["name"] for node in self._nodes]

    def _beat(self) -> None:
        while not self._over.wait(HEARTBEAT_SECONDS):
            for name in self.names:
                with suppress(ApiError, OSError, urllib3.exceptions.HTTPError):  # the server may be away for a test
                    self._api.patch(f"{LEASES}/{name}", {"spec": {"renewTime": _now()}})


def some_nodes(api: Api, count: int = 2, *, gpus: int = 0, is_tainted: bool = False, prefix: str = "fake") -> FakeNodes:
    """Return `count` nodes of a kind."""
    nodes = (a_node(f"{prefix}-{place}", gpus=gpus, is_tainted=is_tainted) for place in range(count))
    return FakeNodes(api, *nodes, gpus=gpus)


LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"


def _lease(name: str) -> Object:
    spec = {"holderIdentity": name, "leaseDurationSeconds": LEASE_SECONDS, "renewTime": _now()}
    head = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease"}
    return {**head, "metadata": {"name": name, "namespace": "kube-node-lease"}, "spec": spec}


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
