"""Finds scrape targets in a cluster as Prometheus does, for one that was built without that.

Debian leaves `kubernetes_sd_configs` out of its Prometheus. The labels here are those that it would make
(https://prometheus.io/docs/prometheus/2.42/configuration/configuration/#kubernetes_sd_config), so that the relabelling
which the chart's README gives to everybody is done by the real Prometheus.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from tests.kubernetes.client import Api

Object = Mapping[str, Any]
Group = dict[str, Any]


def targets(api: Api, role: str) -> list[Group]:
    """Return what a role finds now, in the form of file_sd."""
    return list({"pod": _pods, "endpointslice": _endpoint_slices}[role](api))


def _pods(api: Api) -> Iterator[Group]:
    for pod in api.items("/api/v1/pods"):
        if address := pod["status"].get("podIP"):
            for container in pod["spec"]["containers"]:
                for port in container.get("ports", ()):
                    labels = {**_pod_labels(pod), **_port_labels(container["name"], port)}
                    yield _group(address, port["containerPort"], labels)


def _endpoint_slices(api: Api) -> Iterator[Group]:
    services = {_key(service): service for service in api.items("/api/v1/services")}
    for found in api.items("/apis/discovery.k8s.io/v1/endpointslices"):
        name = found["metadata"].get("labels", {}).get("kubernetes.io/service-name", "")
        service = services.get((found["metadata"]["namespace"], name))
        about = {"__meta_kubernetes_namespace": found["metadata"]["namespace"]}
        about |= _described("service", service) if service else {}
        for endpoint in found.get("endpoints") or ():
            for port in found.get("ports") or ():
                more = {"__meta_kubernetes_endpointslice_port_name": port.get("name", "")}
                yield from (_group(address, port["port"], {**about, **more}) for address in endpoint["addresses"])


def _group(address: str, port: int, labels: Mapping[str, str]) -> Group:
    return {"targets": [f"{address}:{port}"], "labels": dict(labels)}


def _pod_labels(pod: Object) -> dict[str, str]:
    status = {
        "__meta_kubernetes_namespace": pod["metadata"]["namespace"],
        "__meta_kubernetes_pod_ip": pod["status"]["podIP"],
        "__meta_kubernetes_pod_phase": pod["status"]["phase"],
        "__meta_kubernetes_pod_node_name": pod["spec"].get("nodeName", ""),
    }
    return {**status, **_described("pod", pod)}


def _port_labels(container: str, port: Object) -> dict[str, str]:
    return {
        "__meta_kubernetes_pod_container_name": container,
        "__meta_kubernetes_pod_container_port_name": port.get("name", ""),
        "__meta_kubernetes_pod_container_port_number": str(port["containerPort"]),
        "__meta_kubernetes_pod_container_port_protocol": port.get("protocol", "TCP"),
    }


def _described(kind: str, thing: Object) -> dict[str, str]:
    """Return the labels that tell an object's name, labels and annotations."""
    said = {f"__meta_kubernetes_{kind}_name": thing["metadata"]["name"]}
    for what in ("label", "annotation"):
        for name, value in thing["metadata"].get(f"{what}s", {}).items():
            said[f"__meta_kubernetes_{kind}_{what}_{re.sub('[^a-zA-Z0-9_]', '_', name)}"] = value
    return said


def _key(thing: Object) -> tuple[str, str]:
    return thing["metadata"]["namespace"], thing["metadata"]["name"]
