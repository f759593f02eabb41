"""Benchmarks that are wrong: what `inferbench validate` says of each, and who refuses it in a cluster.

One table for three tests: the words of `document` (unit), what the API server refuses at `kubectl apply` and how it
says so (cluster), and what only the operator can know and puts into `Accepted=False` in the very words of `document`.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

LEFT_OUT = object()
"""Instead of a value: the field is not there."""

VALID: Mapping[str, Any] = {
    "apiVersion": "inferbench.dev/v1alpha1",
    "kind": "InferenceBenchmark",
    "metadata": {"name": "good"},
    "spec": {
        "model": {"torchvision": {"name": "resnet50", "weights": "random"}},
        "device": "cpu",
        "backends": ["torch-eager", "onnxruntime"],
        "batchSizes": [1, 8],
    },
}


class By(Enum):
    """Who refuses it in a cluster."""

    SCHEMA = auto()
    """The API server, by types and bounds, in words of its own."""
    RULE = auto()
    """The API server, by a rule of ours in CEL, in our words."""
    OPERATOR = auto()
    """The operator, in the condition Accepted, in the words of `document`."""


@dataclass(frozen=True)
class BadSpec:
    """`changes` of the valid document, by dotted place. `place` and `words` are those of `document`."""

    name: str
    changes: Mapping[str, Any]
    place: str
    words: str
    by: By
    server_words: str = ""
    """What the API server says, where it says something else."""
    server_place: str = ""
    """Where it sees the mistake, if elsewhere: it tells no index of a list that a rule looks at whole."""

    @property
    def document(self) -> dict[str, Any]:
        """The whole document."""
        return changed(VALID, self.changes)

    @property
    def told_by_server(self) -> tuple[str, ...]:
        """What has to stand in the API server's refusal."""
        return self.server_place or self.place, self.server_words or self.words

    @property
    def told_by_operator(self) -> tuple[str, ...]:
        """What has to stand in the message of Accepted=False."""
        return f"{self.place}: ", self.words


def changed(document: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of a document with the values at some dotted places replaced or left out."""
    copied = copy.deepcopy(dict(document))
    for path, value in changes.items():
        *around, last = path.split(".")
        inside = copied
        for step in around:
            inside = inside.setdefault(step, {})
        inside[last] = value
        if value is LEFT_OUT:
            del inside[last]
    return copied


def _expectation(**fields: Any) -> dict[str, Any]:
    return {"spec.expectations": [{"name": "it", **fields}]}


FORMS = "expected faster and than, or equal, to and within."
BESIDE_CELLS = "found it beside two cells, expected it beside two strategies."
WHOLE = "spec.expectations[0]"
CELL, OTHER_CELL = "torch-eager/fp32@1", "torch-eager/fp32@8"
EAGER, ONNXRUNTIME = "torch-eager/fp32", "onnxruntime/fp32"
FP32 = {"backend": "torch-eager", "precision": "fp32"}
EVERY_PRECISION = ["fp32", "tf32", "fp16", "bf16", "int8-dynamic", "int8-static", "fp8"]

BY_RULE = (
    BadSpec(
        "two sources of a model",
        {"spec.model.onnx": {"path": "a.onnx"}},
        "spec.model",
        "expected exactly one of torchvision, onnx, python.",
        By.RULE,
    ),
    BadSpec(
        "no source of a model",
        {"spec.model": {}},
        "spec.model",
        "expected exactly one of torchvision, onnx, python.",
        By.RULE,
    ),
    BadSpec(
        "a function without inputs",
        {"spec.model": {"python": {"factory": "my.models:make"}}},
        "spec.model.inputs",
        "found none, expected the name, shape and dtype of each: a function tells none.",
        By.RULE,
    ),
    BadSpec(
        "a backend twice",
        {"spec.backends": ["fake", "fake"]},
        "spec.backends[1]",
        "a second time, expected each once.",
        By.RULE,
        server_place="spec.backends",
    ),
    BadSpec(
        "a precision twice",
        {"spec.precisions": ["fp32", "fp16", "fp32"]},
        "spec.precisions[2]",
        "a second time, expected each once.",
        By.RULE,
        server_place="spec.precisions",
    ),
    BadSpec(
        "a batch size twice",
        {"spec.batchSizes": [1, 8, 8]},
        "spec.batchSizes[2]",
        "a second time, expected each once.",
        By.RULE,
        server_place="spec.batchSizes",
    ),
    BadSpec(
        "a product twice",
        {"spec.gpu": {"products": ["NVIDIA-L4", "NVIDIA-L4"]}},
        "spec.gpu.products[1]",
        "a second time, expected each once.",
        By.RULE,
        server_place="spec.gpu.products",
    ),
    BadSpec(
        "an odd number of rounds",
        {"spec.measurement.rounds": 3},
        "spec.measurement.rounds",
        "expected an even number, or 1 for a look without verdicts.",
        By.RULE,
    ),
    BadSpec(
        "an exclusion of what is not asked for",
        {"spec.exclude": [FP32, {"backend": "tensorrt", "precision": "fp32"}]},
        "spec.exclude[1]",
        "expected a pair of backends and precisions.",
        By.RULE,
        server_place="spec.exclude",
    ),
    BadSpec(
        "everything excluded",
        {"spec.exclude": [FP32, {"backend": "onnxruntime", "precision": "fp32"}]},
        "spec.exclude",
        "found every strategy, expected at least one to be left.",
        By.RULE,
    ),
    BadSpec(
        "too many cells",
        {
            "spec.backends": ["torch-eager", "torch-compile", "onnxruntime"],
            "spec.precisions": EVERY_PRECISION,
            "spec.batchSizes": [*range(1, 65)],
        },
        "spec.batchSizes",
        "expected at most 1,000: make two benchmarks of it.",
        By.RULE,
    ),
    BadSpec(
        "too many cells in all rounds",
        {"spec.precisions": EVERY_PRECISION, "spec.batchSizes": [*range(1, 65)], "spec.measurement.rounds": 6},
        "spec.measurement.rounds",
        "expected at most 4,000.",
        By.RULE,
    ),
    BadSpec(
        "an agreement of a precision that does not exist",
        {"spec.accuracy": {"minTop1Agreement": {"fp64": "99%"}}},
        "spec.accuracy.minTop1Agreement.fp64",
        "found an unknown name, expected one of fp32, tf32, fp16, bf16, int8-dynamic, int8-static, fp8.",
        By.RULE,
        server_place="spec.accuracy.minTop1Agreement",
    ),
    BadSpec(
        "an objective at a batch size that is not measured",
        {"spec.objective": {"batchSize": 4}},
        "spec.objective.batchSize",
        "expected one of batchSizes",
        By.RULE,
    ),
    BadSpec(
        "a limit of the latency, where the latency decides",
        {"spec.objective": {"maxLatencyMicroseconds": 4}},
        "spec.objective.maxLatencyMicroseconds",
        "found it, expected nothing: metric latency does not use it.",
        By.RULE,
    ),
    BadSpec(
        "a batch size, where the throughput decides",
        {"spec.objective": {"metric": "throughput", "batchSize": 8}},
        "spec.objective.batchSize",
        "found it, expected nothing: metric throughput does not use it.",
        By.RULE,
    ),
    BadSpec(
        "a baseline that is not measured",
        {"spec.baseline": {"backend": "tensorrt", "precision": "fp32"}},
        "spec.baseline",
        "found tensorrt/fp32, expected one of this benchmark",
        By.RULE,
    ),
    BadSpec(
        "a baseline that is excluded",
        {"spec.baseline": FP32, "spec.exclude": [FP32]},
        "spec.baseline",
        "found torch-eager/fp32, expected one of this benchmark",
        By.RULE,
    ),
    BadSpec(
        "two expectations of one name",
        {"spec.expectations": [{"name": "it", "faster": EAGER, "than": ONNXRUNTIME}] * 2},
        "spec.expectations[1].name",
        "a second time, expected each once.",
        By.RULE,
        server_place="spec.expectations",
    ),
    BadSpec(
        "an expectation of nothing",
        _expectation(),
        "spec.expectations[0].faster",
        FORMS,
        By.RULE,
        server_place=WHOLE,
    ),
    BadSpec(
        "an expectation of one side",
        _expectation(faster=EAGER),
        "spec.expectations[0].than",
        FORMS,
        By.RULE,
        server_place=WHOLE,
    ),
    BadSpec(
        "an expectation of two forms",
        _expectation(faster=EAGER, than=ONNXRUNTIME, within="5%"),
        "spec.expectations[0].within",
        FORMS,
        By.RULE,
        server_place=WHOLE,
    ),
    BadSpec(
        "an equality without bounds",
        _expectation(equal=CELL, to=OTHER_CELL),
        "spec.expectations[0].within",
        FORMS,
        By.RULE,
        server_place=WHOLE,
    ),
    BadSpec(
        "an equality that grows",
        _expectation(equal=EAGER, to=ONNXRUNTIME, within="5%", growsWithBatchSize=True),
        "spec.expectations[0].growsWithBatchSize",
        FORMS,
        By.RULE,
        server_place=WHOLE,
    ),
    BadSpec(
        "a strategy against a cell",
        _expectation(faster=CELL, than=ONNXRUNTIME),
        "spec.expectations[0].than",
        f"found {CELL} and {ONNXRUNTIME}, expected two strategies or two cells.",
        By.RULE,
        server_place=WHOLE,
    ),
    BadSpec(
        "a strategy against itself",
        _expectation(faster=EAGER, than=EAGER),
        "spec.expectations[0].than",
        f"found {EAGER} on both sides, expected two different ones.",
        By.RULE,
        server_place=WHOLE,
    ),
    BadSpec(
        "two cells at batch sizes",
        _expectation(faster=CELL, than=OTHER_CELL, batchSizes=[1]),
        "spec.expectations[0].batchSizes",
        BESIDE_CELLS,
        By.RULE,
    ),
    BadSpec(
        "two cells that grow",
        _expectation(faster=CELL, than=OTHER_CELL, growsWithBatchSize=True),
        "spec.expectations[0].growsWithBatchSize",
        BESIDE_CELLS,
        By.RULE,
    ),
    BadSpec(
        "two cells and another lead",
        _expectation(faster=CELL, than=OTHER_CELL, byMoreThan={"faster": EAGER, "than": ONNXRUNTIME}),
        "spec.expectations[0].byMoreThan",
        BESIDE_CELLS,
        By.RULE,
    ),
    BadSpec(
        "two statements in one",
        _expectation(
            faster=EAGER,
            than=ONNXRUNTIME,
            growsWithBatchSize=True,
            byMoreThan={"faster": ONNXRUNTIME, "than": EAGER},
        ),
        "spec.expectations[0].byMoreThan",
        "found growsWithBatchSize and byMoreThan, expected one of them: write two expectations.",
        By.RULE,
        server_place=WHOLE,
    ),
    BadSpec(
        "an equality to within nothing",
        _expectation(equal=EAGER, to=ONNXRUNTIME, within="0.0%"),
        "spec.expectations[0].within",
        "found 0.0%, expected more: no two measurements are the same.",
        By.RULE,
    ),
    BadSpec(
        "a name with a dot",
        {"metadata.name": "resnet.50"},
        "metadata.name",
        'found "resnet.50", expected lower-case letters, digits and hyphens such as resnet50.',
        By.RULE,
    ),
    BadSpec(
        "a name of which no host name can be made",
        {"metadata.name": "a" * 46},
        "metadata.name",
        "expected lower-case letters, digits and hyphens of at most 45 characters such as resnet50.",
        By.RULE,
    ),
)

RIGHT = "found it, expected nothing: it gives the pod rights that its author may not have."


def _right(name: str, place: str, spec: Mapping[str, Any], *, by: By = By.RULE) -> BadSpec:
    return BadSpec(name, {"spec.podTemplate": {"spec": dict(spec)}}, f"spec.podTemplate.spec.{place}", RIGHT, by)


def _container(name: str, place: str, **fields: Any) -> BadSpec:
    return _right(name, f"containers[0].{place}", {"containers": [{"name": "runner", **fields}]})


def _security(name: str, place: str, **context: Any) -> BadSpec:
    return _container(name, f"securityContext.{place}", securityContext=context)


RIGHTS = (
    _right("a service account", "serviceAccountName", {"serviceAccountName": "admin"}),
    _right("a service account by its old name", "serviceAccount", {"serviceAccount": "admin"}),
    _right("a token", "automountServiceAccountToken", {"automountServiceAccountToken": True}),
    _right("the host's network", "hostNetwork", {"hostNetwork": True}),
    _right("the host's processes", "hostPID", {"hostPID": True}),
    _right("the host's shared memory", "hostIPC", {"hostIPC": True}),
    _right("the host's users", "hostUsers", {"hostUsers": True}),
    _right(
        "a folder of the host",
        "volumes[0].hostPath",
        {"volumes": [{"name": "models", "hostPath": {"path": "/etc"}}]},
    ),
    _right(
        "a token in a volume",
        "volumes[0].projected.sources[0].serviceAccountToken",
        {"volumes": [{"name": "t", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}}]},
    ),
    _right(
        "a certificate in a volume",
        "volumes[0].projected.sources[0].podCertificate",
        {"volumes": [{"name": "t", "projected": {"sources": [{"podCertificate": {"keyType": "ED25519"}}]}}]},
    ),
    _right(
        "a volume whose driver may be handed a token",
        "volumes[0].csi",
        {"volumes": [{"name": "secrets", "csi": {"driver": "secrets-store.csi.k8s.io"}}]},
    ),
    _right(
        "a process of the host for one container",
        "containers[0].securityContext.windowsOptions.hostProcess",
        {"containers": [{"name": "runner", "securityContext": {"windowsOptions": {"hostProcess": True}}}]},
    ),
    _right(
        "a container for looking into others",
        "ephemeralContainers",
        {"ephemeralContainers": [{"name": "debug", "image": "busybox"}]},
    ),
    _right(
        "a process of the host for all containers",
        "securityContext.windowsOptions.hostProcess",
        {"securityContext": {"windowsOptions": {"hostProcess": True}}},
    ),
    _security("a privileged container", "privileged", privileged=True),
    _security("more rights than its parent", "allowPrivilegeEscalation", allowPrivilegeEscalation=True),
    _security("a capability", "capabilities.add", capabilities={"add": ["SYS_ADMIN"], "drop": ["ALL"]}),
    _container("a port of the host", "ports[0].hostPort", ports=[{"containerPort": 80, "hostPort": 80}]),
    _container("an address of the host", "ports[0].hostIP", ports=[{"containerPort": 80, "hostIP": "0.0.0.0"}]),
    _right(
        "a privileged container that runs first",
        "initContainers[0].securityContext.privileged",
        {"initContainers": [{"name": "first", "securityContext": {"privileged": True}}]},
    ),
)

BY_SCHEMA = (
    BadSpec(
        "a backend that does not exist",
        {"spec.backends": ["tensort"]},
        "spec.backends[0]",
        'found "tensort", expected one of torch-eager,',
        By.SCHEMA,
        'Unsupported value: "tensort": supported values: "torch-eager"',
    ),
    BadSpec(
        "no backend",
        {"spec.backends": []},
        "spec.backends",
        "found 0 items, expected a list of 1 to 8 items.",
        By.SCHEMA,
        "should have at least 1 items",
    ),
    BadSpec(
        "no model",
        {"spec.model": LEFT_OUT},
        "spec.model",
        "found nothing, expected a mapping.",
        By.SCHEMA,
        "Required value",
    ),
    BadSpec(
        "a batch size of nothing",
        {"spec.batchSizes": [0]},
        "spec.batchSizes[0]",
        "found 0, expected an integer from 1 to 65536.",
        By.SCHEMA,
        "should be greater than or equal to 1",
    ),
    BadSpec(
        "more batch sizes than a list may have",
        {"spec.batchSizes": [*range(1, 66)]},
        "spec.batchSizes",
        "found 65 items, expected a list of 1 to 64 items.",
        By.SCHEMA,
        "must have at most 64 items",
    ),
    BadSpec(
        "a field that does not exist",
        {"spec.precision": ["fp32"]},
        "spec.precision",
        "found an unknown field, did you mean precisions?",
        By.SCHEMA,
        "unknown field",
    ),
    BadSpec(
        "text for a number",
        {"spec.retries": "1"},
        "spec.retries",
        'found "1", expected an integer from 0 to 10.',
        By.SCHEMA,
        "must be of type integer",
    ),
    BadSpec(
        "a device that does not exist",
        {"spec.device": "tpu"},
        "spec.device",
        'found "tpu", expected one of gpu, cpu.',
        By.SCHEMA,
        'Unsupported value: "tpu": supported values: "gpu", "cpu"',
    ),
    BadSpec(
        "more sweeps at a time than there are GPUs anywhere",
        {"spec.parallelism": 65},
        "spec.parallelism",
        "found 65, expected an integer from 1 to 64.",
        By.SCHEMA,
        "should be less than or equal to 64",
    ),
    BadSpec(
        "a share that is no percentage",
        {"spec.accuracy": {"minTop1Agreement": {"fp32": "0.99"}}},
        "spec.accuracy.minTop1Agreement.fp32",
        'found "0.99", expected text such as 99.5%.',
        By.SCHEMA,
        "should match",
    ),
    BadSpec(
        "options of a backend that does not exist",
        {"spec.backendOptions": {"tensort": {}}},
        "spec.backendOptions.tensort",
        "found an unknown name, expected one of torch-eager,",
        By.SCHEMA,
        "unknown field",
    ),
    BadSpec(
        "an option that does not exist",
        {"spec.backendOptions": {"tensorrt": {"cudaGraphs": True}}},
        "spec.backendOptions.tensorrt.cudaGraphs",
        "found an unknown field, did you mean cudaGraph?",
        By.SCHEMA,
        "unknown field",
    ),
    BadSpec(
        "an option out of its bounds",
        {"spec.backendOptions": {"tensorrt": {"builderOptimizationLevel": 6}}},
        "spec.backendOptions.tensorrt.builderOptimizationLevel",
        "found 6, expected an integer from 0 to 5.",
        By.SCHEMA,
        "should be less than or equal to 5",
    ),
    BadSpec(
        "weights of a name that is none",
        {"spec.model.torchvision.weights": "default"},
        "spec.model.torchvision.weights",
        'found "default", expected DEFAULT, random,',
        By.SCHEMA,
        "should match",
    ),
    BadSpec(
        "weights in a file of no name",
        {"spec.model.torchvision.weights": {}},
        "spec.model.torchvision.weights.path",
        "found nothing, expected a path",
        By.SCHEMA,
        "Required value",
    ),
    BadSpec(
        "an expectation without a name",
        {"spec.expectations": [{"faster": EAGER, "than": ONNXRUNTIME}]},
        "spec.expectations[0].name",
        "found nothing, expected lower-case letters, digits and hyphens",
        By.SCHEMA,
        "Required value",
    ),
    BadSpec(
        "an expectation at a batch size twice",
        _expectation(faster=EAGER, than=ONNXRUNTIME, batchSizes=[8, 8]),
        "spec.expectations[0].batchSizes[1]",
        "found 8 a second time, expected each once.",
        By.SCHEMA,
        "Duplicate value: 8",
    ),
    BadSpec(
        "a part of a pod template that does not exist",
        {"spec.podTemplate": {"status": {}}},
        "spec.podTemplate.status",
        "found an unknown field, expected metadata or spec.",
        By.SCHEMA,
        "unknown field",
    ),
)

BY_OPERATOR = (
    BadSpec(
        "an expectation of a strategy that does not exist",
        _expectation(faster="tensort/fp32", than=EAGER),
        "spec.expectations[0].faster",
        'found "tensort/fp32", expected instead of tensort one of torch-eager,',
        By.OPERATOR,
    ),
    BadSpec(
        "an expectation of a strategy that is not measured",
        _expectation(faster="tensorrt/fp32", than=EAGER),
        "spec.expectations[0].faster",
        "found tensorrt/fp32, expected one of this benchmark: torch-eager/fp32, onnxruntime/fp32.",
        By.OPERATOR,
    ),
    BadSpec(
        "an expectation at a batch size that is not measured",
        _expectation(faster=EAGER, than=ONNXRUNTIME, batchSizes=[4]),
        "spec.expectations[0].batchSizes[0]",
        "found 4, expected one of the benchmark's: 1, 8.",
        By.OPERATOR,
    ),
    BadSpec(
        "a lead that has nothing to grow with",
        {"spec.batchSizes": [1], **_expectation(faster=EAGER, than=ONNXRUNTIME, growsWithBatchSize=True)},
        "spec.expectations[0].growsWithBatchSize",
        "found one batch size, expected at least two to grow with.",
        By.OPERATOR,
    ),
    BadSpec(
        "a fraction in arguments of a function",
        {
            "spec.model": {
                "python": {"factory": "my.models:make", "kwargs": {"rate": 0.5}},
                "inputs": [{"name": "x", "shape": [3]}],
            }
        },
        "spec.model.python.kwargs.rate",
        "found 0.5, expected no fraction: use a smaller unit, or quotes.",
        By.OPERATOR,
    ),
    BadSpec(
        "a pod template that is too large",
        {"spec.podTemplate": {"metadata": {"annotations": {"why": "a" * 8_200}}}},
        "spec.podTemplate",
        "bytes as JSON, expected at most 8,192.",
        By.OPERATOR,
    ),
    BadSpec(
        "a word that does not exist in the fake backend's script",
        {"spec.backendOptions": {"fake": {"seeds": 1}}},
        "spec.backendOptions.fake.seeds",
        "found an unknown field, did you mean seed?",
        By.OPERATOR,
    ),
    BadSpec(
        "weights that are a number",
        {"spec.model.torchvision.weights": 5},
        "spec.model.torchvision.weights",
        "found 5, expected DEFAULT, random,",
        By.OPERATOR,
    ),
    BadSpec(
        "weights in a file and something else",
        {"spec.model.torchvision.weights": {"path": "a.pth", "strict": True}},
        "spec.model.torchvision.weights.strict",
        "found an unknown field, expected path.",
        By.OPERATOR,
    ),
    _right(
        "a right in a place where nobody looks for it",
        "affinity.hostPath",
        {"affinity": {"hostPath": {"path": "/"}}},
        by=By.OPERATOR,
    ),
    BadSpec(
        "an environment as a mapping",
        {"spec.podTemplate": {"spec": {"containers": [{"name": "runner", "env": {"A": "b"}}]}}},
        "spec.podTemplate.spec.containers[0].env",
        "found a mapping, expected a list.",
        By.OPERATOR,
    ),
    BadSpec(
        "an empty field in a pod template",
        {"spec.podTemplate": {"spec": {"containers": [{"name": "runner", "env": None}]}}},
        "spec.podTemplate.spec.containers[0].env",
        "found nothing, expected a value: leave the field out instead.",
        By.OPERATOR,
    ),
)

BAD_SPECS = (*BY_RULE, *RIGHTS, *BY_SCHEMA, *BY_OPERATOR)
