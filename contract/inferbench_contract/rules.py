"""The rules that the API server checks beyond types and bounds, in CEL: those of `spec`, with its words.

They refuse nothing that `document` accepts. What they leave to it (whether an expectation names a strategy that is
planned, bytes and fractions in free mappings, ...) becomes `Accepted=False`. The API server limits what rules and their
messages may cost, by the bounds of the fields that they name: so what was found is told only where it is a field of the
schema (the API server shows numbers itself), and nothing is looked at more often than the square of a list of 64.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from inferbench_contract.fields import MAX_ITEMS
from inferbench_contract.pod_template import RIGHT_REFUSED
from inferbench_contract.schema import FREE
from inferbench_contract.spec import MAX_CELL_ROUNDS, MAX_CELLS
from inferbench_contract.words import Precision

CHANGEABLE = ("suspend", "parallelism", "ttlSecondsAfterFinished")
"""The fields of the spec that say nothing about what is measured and how."""

MAX_NAME = 45
"""As in `spec.BenchmarkName`, whose bounds no schema can hold: metadata is the API server's own."""

Place = tuple[str, ...]
"""Keys from the root of the schema inwards, without `properties`; `items` is any item of a list."""


@dataclass(frozen=True, slots=True)
class Rule:
    """`holds` is CEL. `sentence` is what is wrong otherwise, where {found} stands for what the CEL `found` gives."""

    holds: str
    sentence: str
    found: str = ""
    at: str = ""
    """The field that is at fault, from the rule's place inwards: `.measurement.rounds`."""

    def document(self) -> dict[str, str]:
        """Return it as `x-kubernetes-validations` has it."""
        before, found, after = self.sentence.partition("{found}")
        # CEL reads a JSON string as itself.
        told = f"{json.dumps(before)} + {self.found} + {json.dumps(after)}"
        said = {"messageExpression": told} if found else {"message": self.sentence}
        return {"rule": self.holds} | said | ({"fieldPath": self.at} if self.at else {})


# ---- what the spec says about itself -------------------------------------------------------------

STRATEGIES = (
    "self.backends.map(b, self.precisions.filter("
    "p, !self.exclude.exists(e, e.backend == b && e.precision == p)).size()).sum()"
)
"""How many are planned."""
CELLS = f"{STRATEGIES} * self.batchSizes.size()"

LETTERS = "lower-case letters, digits and hyphens"

BENCHMARK = (
    Rule(
        '!self.metadata.name.contains(".")',
        f'found "{{found}}", expected {LETTERS} such as resnet50.',
        found="self.metadata.name",
        at=".metadata.name",
    ),
    Rule(
        f"self.metadata.name.size() <= {MAX_NAME}",
        f'found "{{found}}", expected {LETTERS} of at most {MAX_NAME} characters such as resnet50.',
        found="self.metadata.name",
        at=".metadata.name",
    ),
)

SPEC = (
    Rule(
        "self.exclude.all(e, e.backend in self.backends && e.precision in self.precisions)",
        "expected a pair of backends and precisions.",
        at=".exclude",
    ),
    Rule(f"{STRATEGIES} > 0", "found every strategy, expected at least one to be left.", at=".exclude"),
    Rule(
        f"{CELLS} <= {MAX_CELLS}",
        f"found too many cells, expected at most {MAX_CELLS:,}: make two benchmarks of it.",
        at=".batchSizes",
    ),
    Rule(
        f"{CELLS} * self.measurement.rounds <= {MAX_CELL_ROUNDS}",
        f"found too many cells in all rounds, expected at most {MAX_CELL_ROUNDS:,}.",
        at=".measurement.rounds",
    ),
    Rule(
        "!has(self.objective.batchSize) || self.objective.batchSize in self.batchSizes",
        "expected one of batchSizes.",
        at=".objective.batchSize",
    ),
    Rule(
        "!has(self.baseline) || self.baseline.backend in self.backends && self.baseline.precision in self.precisions"
        " && !self.exclude.exists(e, e.backend == self.baseline.backend && e.precision == self.baseline.precision)",
        "found {found}, expected one of this benchmark.",
        found='self.baseline.backend + "/" + self.baseline.precision',
        at=".baseline",
    ),
)

MODEL = (
    Rule(
        "[has(self.torchvision), has(self.onnx), has(self.python)].filter(given, given).size() == 1",
        "expected exactly one of torchvision, onnx, python.",
    ),
    Rule(
        "!has(self.python) || self.inputs.size() > 0",
        "found none, expected the name, shape and dtype of each: a function tells none.",
        at=".inputs",
    ),
)

ROUNDS = (Rule("self == 1 || self % 2 == 0", "expected an even number, or 1 for a look without verdicts."),)

OBJECTIVE = (
    Rule(
        'self.metric != "latency" || !has(self.maxLatencyMicroseconds)',
        "found it, expected nothing: metric latency does not use it.",
        at=".maxLatencyMicroseconds",
    ),
    Rule(
        'self.metric != "throughput" || !has(self.batchSize)',
        "found it, expected nothing: metric throughput does not use it.",
        at=".batchSize",
    ),
)

PRECISIONS = ", ".join(Precision)
AGREEMENT = (
    Rule(
        f"self.all(p, p in {json.dumps([*Precision])})",
        f"found an unknown name, expected one of {PRECISIONS}.",
    ),
)


def _sides(left: str, right: str) -> tuple[Rule, ...]:
    """Return the rules about what is compared, for either pair of fields that names it."""
    is_cell = f'has(self.{left}) && self.{left}.contains("@")'
    both = f"has(self.{left}) && has(self.{right})"
    return (
        Rule(
            f'!({both}) || self.{left}.contains("@") == self.{right}.contains("@")',
            "found {found}, expected two strategies or two cells.",
            found=f'self.{left} + " and " + self.{right}',
        ),
        Rule(
            f"!({both}) || self.{left} != self.{right}",
            "found {found} on both sides, expected two different ones.",
            found=f"self.{left}",
        ),
        Rule(f"!({is_cell}) || !has(self.batchSizes)", BESIDE_CELLS, at=".batchSizes"),
        Rule(f"!({is_cell}) || !self.growsWithBatchSize", BESIDE_CELLS, at=".growsWithBatchSize"),
        Rule(f"!({is_cell}) || !has(self.byMoreThan)", BESIDE_CELLS, at=".byMoreThan"),
    )


BESIDE_CELLS = "found it beside two cells, expected it beside two strategies."

EXPECTATION = (
    Rule(
        "has(self.equal) ? has(self.to) && has(self.within) && !(has(self.faster) || has(self.than) || has(self.by)"
        " || self.growsWithBatchSize || has(self.byMoreThan))"
        " : has(self.faster) && has(self.than) && !(has(self.to) || has(self.within))",
        "expected faster and than, or equal, to and within.",
    ),
    *_sides("faster", "than"),
    *_sides("equal", "to"),
    Rule(
        "!(self.growsWithBatchSize && has(self.byMoreThan))",
        "found growsWithBatchSize and byMoreThan, expected one of them: write two expectations.",
    ),
    Rule(
        '!has(self.within) || self.within.matches("[1-9]")',
        "found {found}, expected more: no two measurements are the same.",
        found="self.within",
        at=".within",
    ),
)


def _distinct(compared: str = "{}") -> tuple[Rule, ...]:
    """Return the rule that a list holds nothing twice; `compared` is the CEL of what is compared of an item {}."""
    same = f"{compared.format('other')} == {compared.format('item')}"
    return (Rule(f"self.all(item, self.exists_one(other, {same}))", "found one a second time, expected each once."),)


RULES: Mapping[Place, tuple[Rule, ...]] = {
    (): BENCHMARK,
    ("spec",): SPEC,
    ("spec", "model"): MODEL,
    ("spec", "backends"): _distinct(),
    ("spec", "precisions"): _distinct(),
    ("spec", "batchSizes"): _distinct(),
    ("spec", "gpu", "products"): _distinct(),
    ("spec", "measurement", "rounds"): ROUNDS,
    ("spec", "accuracy", "minTop1Agreement"): AGREEMENT,
    ("spec", "objective"): OBJECTIVE,
    ("spec", "expectations"): _distinct("{}.name"),
    ("spec", "expectations", "items"): EXPECTATION,
}

SETS: tuple[Place, ...] = (("spec", "expectations", "items", "batchSizes"),)
"""Lists whose items the API server keeps apart by itself, in words of its own: a rule would look at the square of 64 in
each of 64 lists, and took it 0.7 s for the largest benchmark."""


# ---- what may not be changed ---------------------------------------------------------------------

UNCHANGED = f"found a change, expected none: only {', '.join(CHANGEABLE[:-1])} and {CHANGEABLE[-1]} may change."


def unchangeable(spec: Mapping[str, Any]) -> tuple[Rule, ...]:
    """Return the rules that keep a spec's fields as they are; `spec` is its structural schema.

    They stand at the spec: at an optional field itself, a rule would not see it come and go.
    """
    frozen = {name: field for name, field in spec["properties"].items() if name not in CHANGEABLE}
    always = {name for name, field in frozen.items() if "default" in field or name in spec["required"]}
    return tuple(Rule(_same(name, always=name in always), UNCHANGED, at=f".{name}") for name in frozen)


def _same(name: str, *, always: bool) -> str:
    if always:
        return f"self.{name} == oldSelf.{name}"
    return f"has(self.{name}) ? has(oldSelf.{name}) && self.{name} == oldSelf.{name} : !has(oldSelf.{name})"


def every(spec: Mapping[str, Any]) -> Mapping[Place, tuple[Rule, ...]]:
    """Return all rules by their place; `spec` is the structural schema of the spec."""
    return {**RULES, ("spec",): (*SPEC, *unchangeable(spec))}


# ---- what a pod template may not give ------------------------------------------------------------


def pod_template() -> dict[str, Any]:
    """Return the schema of a pod template's metadata and spec, both kept as they are."""
    return {"metadata": _kept({}), "spec": _kept({})}


def guarded_pod_template() -> dict[str, Any]:
    """Return the same with the fields named that give rights, for rules to see: `pod_template.POD_RIGHTS`."""
    account, flag = _refused("string", 'self == ""', maxLength=253), _refused("boolean", "!self")
    windows = _kept({"hostProcess": flag})
    containers = _list_of(_container(flag, windows))
    return {
        "metadata": _kept({}),
        "spec": _kept({
            "serviceAccountName": account,
            "serviceAccount": account,
            "automountServiceAccountToken": flag,
            "hostNetwork": flag,
            "hostPID": flag,
            "hostIPC": flag,
            "hostUsers": flag,
            "securityContext": _kept({"windowsOptions": windows}),
            "initContainers": containers,
            "containers": containers,
            "ephemeralContainers": _refused("array", "self.size() == 0", maxItems=MAX_ITEMS, items=_kept({})),
            "volumes": _list_of(_volume()),
        }),
    }  # fmt: skip


def _container(flag: Mapping[str, Any], windows: Mapping[str, Any]) -> dict[str, Any]:
    added = _refused("array", "self.size() == 0", maxItems=MAX_ITEMS, items={"type": "string", "maxLength": 64})
    port = _kept({
        "hostPort": _refused("integer", "self == 0"),
        "hostIP": _refused("string", 'self == ""', maxLength=64),
    })  # fmt: skip
    context = _kept({
        "privileged": flag,
        "allowPrivilegeEscalation": flag,
        "capabilities": _kept({"add": added}),
        "windowsOptions": windows,
    })  # fmt: skip
    return _kept({"securityContext": context, "ports": _list_of(port)})


def _volume() -> dict[str, Any]:
    """Return the schema of a volume. A rule that is false refuses the field whatever it holds."""
    never = _refused("object", "false", **FREE)
    source = _kept({"serviceAccountToken": never, "podCertificate": never})
    return _kept({"hostPath": never, "csi": never, "projected": _kept({"sources": _list_of(source)})})


def _refused(kind: str, holds: str, **bounds: Any) -> dict[str, Any]:
    return {"type": kind, **bounds, "x-kubernetes-validations": [Rule(holds, RIGHT_REFUSED).document()]}


def _kept(properties: Mapping[str, Any]) -> dict[str, Any]:
    """Return a mapping of which some fields are known, and all are kept as they are."""
    return {"type": "object", **FREE} | ({"properties": dict(properties)} if properties else {})


def _list_of(items: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "array", "maxItems": MAX_ITEMS, "items": dict(items)}
