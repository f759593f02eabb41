"""Where the API server keeps what the operator reads and writes: paths, and paths read back."""

from __future__ import annotations

from inferbench_contract.crd import API_VERSION, PLURAL


def benchmarks(namespace: str | None, name: str | None = None, subresource: str | None = None) -> str:
    """Return the path of one benchmark, of all in a namespace, or (None) of all in the cluster."""
    return _path(f"/apis/{API_VERSION}", namespace, PLURAL, name, subresource)


def jobs(namespace: str | None, name: str | None = None) -> str:
    """Return the path of one Job, or of all."""
    return _path("/apis/batch/v1", namespace, "jobs", name)


def pods(namespace: str | None, name: str | None = None) -> str:
    """Return the path of one pod, or of all."""
    return _path("/api/v1", namespace, "pods", name)


def config_maps(namespace: str | None, name: str | None = None) -> str:
    """Return the path of one ConfigMap, or of all."""
    return _path("/api/v1", namespace, "configmaps", name)


def events(namespace: str | None, name: str | None = None) -> str:
    """Return the path of one event, or of all: core/v1, which `kubectl describe` shows."""
    return _path("/api/v1", namespace, "events", name)


def _path(
    root: str, namespace: str | None, plural: str, name: str | None = None, subresource: str | None = None
) -> str:
    place = [root, *(["namespaces", namespace] if namespace else []), plural]
    return "/".join([*place, *([name] if name else []), *([subresource] if subresource else [])])


def resource_of(path: str) -> tuple[str, bool]:
    """Read a path back: `jobs` or `inferencebenchmarks/status`, and whether it names one object."""
    parts = path.strip("/").split("/")
    rest = parts[3:] if parts[0] == "apis" else parts[2:]
    if len(rest) > 2 and rest[0] == "namespaces":
        rest = rest[2:]
    return "/".join([*rest[:1], *rest[2:3]]) or "discovery", len(rest) > 1
