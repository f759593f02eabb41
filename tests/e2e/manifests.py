"""What the tests of real pods apply: namespaces, volumes, Jobs, and a model small enough to build on the spot."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from inferbench_contract import plan as plans
from inferbench_contract.spec import InferenceBenchmark
from inferbench_operator import pods
from inferbench_operator.observed import RUNNER
from inferbench_operator.settings import Settings
from tests.kubernetes_node import images
from tests.kubernetes_node.namespaces import NAME

Manifest = dict[str, Any]

RESTRICTED = {
    "pod-security.kubernetes.io/enforce": "restricted",
    "pod-security.kubernetes.io/enforce-version": "latest",
}
"""Pods that ask for more than the restricted standard allows are refused."""

SETTINGS = Settings(runner_image=images.RUNNER_SLIM, runner_cpu="500m", runner_memory="512Mi")

MODEST = {"requests": {"cpu": "50m", "memory": "128Mi"}, "limits": {"cpu": "1", "memory": "512Mi"}}
"""Of the processors it may take one, and asks for so little that a dozen pods find room on a machine with two."""

FEATURES, HIDDEN, CLASSES = 64, 256, 10


def namespace(name: str) -> Manifest:
    """Return a namespace that enforces restricted Pod Security."""
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": RESTRICTED}}


def claim(namespace: str, name: str, folder: Path, mode: str = "ReadWriteOnce") -> list[Manifest]:
    """Return a claim and the local volume that it is bound to: a folder of the node, which needs no provisioner."""
    size = {"storage": "100Gi"}
    volume_name = f"{namespace}-{name}"
    here = {"key": "kubernetes.io/hostname", "operator": "In", "values": [NAME]}
    volume = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": volume_name},
        "spec": {
            "capacity": size,
            "accessModes": [mode],
            "storageClassName": "",
            "persistentVolumeReclaimPolicy": "Retain",
            "claimRef": {"namespace": namespace, "name": name},
            "local": {"path": str(folder)},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [here]}]}},
        },
    }
    asked = {
        "accessModes": [mode],
        "storageClassName": "",
        "volumeName": volume_name,
        "resources": {"requests": size},
    }
    metadata = {"namespace": namespace, "name": name}
    return [volume, {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": asked}]


def plain_job(document: Mapping[str, Any]) -> Manifest:
    """Return the Job that the operator would make of a benchmark, without an operator."""
    benchmark = InferenceBenchmark.model_validate(document)
    plan = plans.expand(benchmark)
    template = pods.template(benchmark.spec, {}, {"INFERBENCH_PLAN": plan.dump()}, None, SETTINGS)
    spec = {"completionMode": "Indexed", "completions": len(plan.sweeps), "parallelism": 1, "template": template}
    metadata = {"name": benchmark.metadata.name}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata,
        "spec": {**spec, "backoffLimitPerIndex": 0, "podReplacementPolicy": "Failed"},
    }


def write_model(file: Path) -> None:
    """Write two linear layers as an ONNX file: milliseconds to load, microseconds to run, and a right answer."""
    random = np.random.default_rng(0)
    shapes = {"first": (FEATURES, HIDDEN), "second": (HIDDEN, CLASSES)}
    weights = {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    nodes = [
        helper.make_node("MatMul", ["features", "first"], ["hidden"]),
        helper.make_node("Relu", ["hidden"], ["positive"]),
        helper.make_node("MatMul", ["positive", "second"], ["scores"]),
    ]
    inputs = [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["batch", FEATURES])]
    outputs = [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", CLASSES])]
    constants = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "two-layers", inputs, outputs, constants)
    onnx.save_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), file)


def modest(**spec: Any) -> Manifest:
    """Return the podTemplate of a pod that fits beside many others, with more fields of its spec."""
    return {"spec": {"containers": [{"name": RUNNER, "resources": MODEST}], **spec}}


PYTHON_PATH = "/opt/python"
"""Where pods find torch when their image has none."""


def with_python(claim_name: str, resources: Mapping[str, Any] | None = None) -> Manifest:
    """Return the podTemplate that lends a pod the packages in a claim."""
    runner = {
        "name": RUNNER,
        "env": [{"name": "PYTHONPATH", "value": PYTHON_PATH}],
        "volumeMounts": [{"name": "python", "mountPath": PYTHON_PATH, "readOnly": True}],
        **({"resources": resources} if resources else {}),
    }
    volume = {"name": "python", "persistentVolumeClaim": {"claimName": claim_name, "readOnly": True}}
    return {"spec": {"containers": [runner], "volumes": [volume]}}


def mounted_models(claim_name: str) -> Manifest:
    """Return the volumes of a podTemplate that put a claim where models are looked for."""
    return {"volumes": [{"name": "models", "persistentVolumeClaim": {"claimName": claim_name, "readOnly": True}}]}
