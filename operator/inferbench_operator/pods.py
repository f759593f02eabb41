"""The runner's pod: what the operator asks for, with the benchmark's podTemplate merged over it.

Containers, volumes, environment, mounts, ports and tolerations merge by name; mappings merge by field; everything else
is replaced. What the operator itself relies on (labels, the plan, how the pod ends) cannot be replaced.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from inferbench_contract.handshake import (
    CACHE_VARIABLE,
    INDEX_VARIABLE,
    METRICS_PORT,
    METRICS_PORT_VARIABLE,
    MODELS_FOLDER,
    MODELS_VARIABLE,
    PLAN_FILE_VARIABLE,
    PLAN_VARIABLE,
    SWEEPS_VARIABLE,
    TERMINATION_LOG,
)
from inferbench_contract.pod_template import MERGE_KEYS
from inferbench_contract.spec import BenchmarkSpec, GpuSpec
from inferbench_contract.words import Device
from inferbench_operator.observed import RUNNER
from inferbench_operator.settings import Settings

Manifest = dict[str, Any]

USER = 65532
"""A user that is nobody's, as distroless images have it."""

CACHE_PATH = "/var/cache/inferbench"
PLAN_FOLDER = "/etc/inferbench"
PLAN_FILE = f"{PLAN_FOLDER}/plan.json"

DEADLINE_GRACE_SECONDS = 120
"""The supervisor keeps the sweep's time itself; the pod's own deadline is for a supervisor that hangs."""

REPLACED = frozenset({"resources", "affinity"})
"""Mappings of which half is another thing than the whole: requests without limits, a term of an affinity."""

WHOLE_ENTRIES = frozenset({"volumes", "env"})
"""Lists whose entries hold one of several: merging an emptyDir with a claim would make a volume of neither."""

OWN_VARIABLES = frozenset({PLAN_VARIABLE, PLAN_FILE_VARIABLE, SWEEPS_VARIABLE, INDEX_VARIABLE})

SHARING = "nvidia.com/gpu.sharing-strategy"
SHARED = ("time-slicing", "mps")
"""Label and values of NVIDIA's GPU feature discovery for a card that is given to several pods at once."""


def template(
    spec: BenchmarkSpec,
    labels: Mapping[str, str],
    variables: Mapping[str, str],
    plan_map: str | None,
    settings: Settings,
) -> Manifest:
    """Return the PodTemplateSpec of a stage. `plan_map`: the ConfigMap of the plan, where the environment has none."""
    own = {
        "metadata": {"labels": dict(labels), "annotations": _annotations()},
        "spec": _spec(spec, variables, plan_map, settings),
    }
    merged = merge(own, spec.pod_template)
    return _kept(merged, own)


def merge(own: Any, over: Any, name: str = "") -> Any:
    """Put what the user wrote over what the operator asks for."""
    if isinstance(own, Mapping) and isinstance(over, Mapping) and name not in REPLACED:
        return {**own, **{key: merge(own[key], value, key) if key in own else value for key, value in over.items()}}
    if isinstance(own, list) and isinstance(over, list) and name in MERGE_KEYS:
        return _merged_list(own, over, name)
    return over


def _merged_list(own: Sequence[Any], over: Sequence[Any], name: str) -> list[Any]:
    def identity(entry: Any) -> tuple[Any, ...]:
        return tuple(entry.get(key) for key in MERGE_KEYS[name]) if isinstance(entry, Mapping) else (id(entry),)

    merged = {identity(entry): entry for entry in own}
    for entry in over:
        before = None if name in WHOLE_ENTRIES else merged.get(identity(entry))
        merged[identity(entry)] = entry if before is None else merge(before, entry)
    return list(merged.values())


def _kept(merged: Manifest, own: Manifest) -> Manifest:
    """Restore what the operator relies on: whose pod it is, which plan it runs, and how its end is told."""
    merged["metadata"]["labels"].update(own["metadata"]["labels"])
    merged["spec"]["restartPolicy"] = "Never"
    runner, original = _runner(merged), _runner(own)
    own_variables = [entry for entry in original["env"] if entry["name"] in OWN_VARIABLES]
    runner["env"] = [entry for entry in runner["env"] if entry["name"] not in OWN_VARIABLES] + own_variables
    runner |= {key: original[key] for key in ("terminationMessagePath", "terminationMessagePolicy")}
    return merged


def _runner(pod: Manifest) -> Manifest:
    return next(container for container in pod["spec"]["containers"] if container["name"] == RUNNER)


def _annotations() -> Manifest:
    return {
        "prometheus.io/scrape": "true",
        "prometheus.io/port": str(METRICS_PORT),
        "prometheus.io/path": "/metrics",
        # A sidecar keeps a Job's pod alive, takes part of the node's CPU and a share of the termination message.
        "sidecar.istio.io/inject": "false",
        "linkerd.io/inject": "disabled",
    }


def _spec(spec: BenchmarkSpec, variables: Mapping[str, str], plan_map: str | None, settings: Settings) -> Manifest:
    pod: Manifest = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 30,
        "activeDeadlineSeconds": spec.timeout_seconds_per_sweep + DEADLINE_GRACE_SECONDS,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(spec, variables, plan_map, settings)],
        "volumes": _volumes(spec, plan_map),
    }
    optional = {
        "affinity": _affinity(spec.gpu) if spec.device is Device.GPU else None,
        "nodeSelector": dict(settings.runner_node_selector),
        "tolerations": [dict(each) for each in settings.runner_tolerations] if spec.device is Device.GPU else [],
        "imagePullSecrets": [{"name": name} for name in settings.image_pull_secrets],
        "priorityClassName": settings.runner_priority_class,
    }
    return pod | {key: value for key, value in optional.items() if value}


def _container(spec: BenchmarkSpec, variables: Mapping[str, str], plan_map: str | None, settings: Settings) -> Manifest:
    mounts = [("cache", CACHE_PATH), ("models", MODELS_FOLDER), ("tmp", "/tmp")]  # noqa: S108 (in the container)
    return {
        "name": RUNNER,
        "image": spec.image or settings.runner_image,
        "imagePullPolicy": settings.image_pull_policy,
        "command": ["inferbench-runner", "pod"],
        "env": [{"name": name, "value": value} for name, value in {**_environment(), **variables}.items()],
        "ports": [{"name": "metrics", "containerPort": METRICS_PORT, "protocol": "TCP"}],
        "resources": resources(spec, settings),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "terminationMessagePath": TERMINATION_LOG,
        "terminationMessagePolicy": "File",
        "volumeMounts": [
            *({"name": name, "mountPath": path} for name, path in mounts),
            *([{"name": "plan", "mountPath": PLAN_FOLDER, "readOnly": True}] if plan_map else []),
        ],
    }


def _environment() -> Mapping[str, str]:
    return {
        CACHE_VARIABLE: CACHE_PATH,
        MODELS_VARIABLE: MODELS_FOLDER,
        METRICS_PORT_VARIABLE: str(METRICS_PORT),
        "HOME": "/tmp",  # noqa: S108 (in the container)
        "TMPDIR": "/tmp",  # noqa: S108 (in the container)
    }


def resources(spec: BenchmarkSpec, settings: Settings) -> Manifest:
    """Return requests equal to limits: the kubelet then gives whole CPUs where it can, and nobody else shares them."""
    wanted = {"cpu": str(spec.cpu.threads or settings.runner_cpu), "memory": settings.runner_memory}
    if spec.device is Device.GPU:
        wanted[spec.gpu.resource_name] = str(spec.gpu.count)
    return {"requests": dict(wanted), "limits": dict(wanted)}


def _volumes(spec: BenchmarkSpec, plan_map: str | None) -> list[Manifest]:
    claim = spec.cache.persistent_volume_claim if spec.cache is not None else None
    cache: Manifest = {"emptyDir": {}} if claim is None else {"persistentVolumeClaim": {"claimName": claim}}
    volumes = [{"name": "cache", **cache}, {"name": "models", "emptyDir": {}}, {"name": "tmp", "emptyDir": {}}]
    return [*volumes, *([{"name": "plan", "configMap": {"name": plan_map}}] if plan_map else [])]


def _affinity(gpu: GpuSpec) -> Manifest | None:
    wanted: list[Manifest] = []
    if gpu.products:
        wanted.append({"key": "nvidia.com/gpu.product", "operator": "In", "values": list(gpu.products)})
    if gpu.exclusive:
        wanted.append({"key": SHARING, "operator": "NotIn", "values": list(SHARED)})
    if not wanted:
        return None
    terms = {"nodeSelectorTerms": [{"matchExpressions": wanted}]}
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}
