"""models + rules -> the CustomResourceDefinition of an InferenceBenchmark, as crds/ holds it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from inferbench_contract import rules, schema
from inferbench_contract.rules import Place, Rule
from inferbench_contract.status import Status

GROUP = "inferbench.dev"
VERSION = "v1alpha1"
KIND = "InferenceBenchmark"
PLURAL = "inferencebenchmarks"

API_VERSION = f"{GROUP}/{VERSION}"
"""What stands in an object of the kind."""

NAME = f"{PLURAL}.{GROUP}"
"""Of the definition, and of the resource for kubectl."""

FILE = f"{GROUP}_{PLURAL}.yaml"
"""Its name in crds/."""

HEADER = f"""\
# The {KIND} resource. Generated from contract/ by `inferbench schema --crd`: do not edit.
# What each field means: `kubectl explain {PLURAL}.spec`.
"""

SUCCEEDED = '.status.conditions[?(@.type=="Succeeded")]'

COLUMNS = (
    ("Succeeded", "string", f"{SUCCEEDED}.status", "Whether it finished as it should: True, False or Unknown."),
    ("Reason", "string", f"{SUCCEEDED}.reason", "Why, in one word."),
    ("Done", "integer", ".status.sweeps.finished", "Sweeps that have finished."),
    ("Total", "integer", ".status.sweeps.planned", "Sweeps that are planned."),
    ("Failed", "integer", ".status.cells.failed", "Cells that failed."),
    ("GPU", "string", ".status.hardware", "What was measured on."),
    ("Best", "string", ".status.best", "The cell that the objective chooses."),
    ("Speedup", "string", ".status.speedup", "How many times as fast as the baseline that cell is."),
    ("Age", "date", ".metadata.creationTimestamp", "Time since it was made."),
)
"""What `kubectl get` shows: name, type, path, description."""


def definition(*, allow_privileged_pod_templates: bool = False) -> dict[str, Any]:
    """Return the CustomResourceDefinition. It goes with the operator's setting of the same name."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": NAME},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": KIND,
                "listKind": f"{KIND}List",
                "plural": PLURAL,
                "singular": KIND.lower(),
                "shortNames": ["ibench"],
                "categories": ["inferbench"],
            },
            "versions": [_version(_spec(allow_privileged_pod_templates=allow_privileged_pod_templates))],
        },
    }


def dump(crd: Mapping[str, Any]) -> str:
    """Write it as YAML with a heading, a field without fields in one line; the same models give the same bytes."""
    return HEADER + yaml.dump(
        dict(crd), Dumper=_Plain, sort_keys=False, allow_unicode=True, width=160, default_flow_style=None
    )


class _Plain(yaml.SafeDumper):
    """Writes what occurs twice twice: anchors are hard to read, and not every program reads them."""

    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002  (PyYAML's signature)
        return True


def _version(spec: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": VERSION,
        "served": True,
        "storage": True,
        "subresources": {"status": {}},
        "additionalPrinterColumns": [
            {"name": name, "type": kind, "jsonPath": path, "description": description}
            for name, kind, path, description in COLUMNS
        ],
        "schema": {"openAPIV3Schema": _ruled(_root(spec), rules.every(spec))},
    }


def _root(spec: Mapping[str, Any]) -> dict[str, Any]:
    written = schema.document_schema()
    head = {
        name: {"description": written["properties"][name]["description"], "type": "string"}
        for name in ("apiVersion", "kind")
    }
    return {
        "description": written["description"],
        "type": "object",
        "required": ["spec"],
        "properties": {
            **head,
            "metadata": {"type": "object", "properties": {"name": {"type": "string"}}},
            "spec": spec,
            "status": _without_defaults(schema.structural(schema.schema_of(Status), place="status")),
        },
    }


def _spec(*, allow_privileged_pod_templates: bool) -> dict[str, Any]:
    spec = schema.structural(schema.document_schema()["properties"]["spec"], place="spec")
    options, template = spec["properties"]["backendOptions"], spec["properties"]["podTemplate"]
    # What an option is when it is not given is its backend's business: filled in here it would change the plan's hash.
    # The script of the fake backend is longer than all other options together, and only the runner needs to know it.
    script = {"description": options["properties"]["fake"]["description"], "type": "object", **schema.FREE_INSIDE}
    options["properties"] = _without_defaults(options["properties"]) | {"fake": script}
    spec["properties"]["podTemplate"] = {
        **{key: template[key] for key in ("description", "type", "default")},
        "properties": rules.pod_template() if allow_privileged_pod_templates else rules.guarded_pod_template(),
    }
    return spec


def _without_defaults(node: Any) -> Any:
    if isinstance(node, list):
        return [_without_defaults(item) for item in node]
    if not isinstance(node, Mapping):
        return node
    return {key: _without_defaults(value) for key, value in node.items() if key != "default"}


def _ruled(node: Mapping[str, Any], every: Mapping[Place, tuple[Rule, ...]], place: Place = ()) -> dict[str, Any]:
    """Put rules where they belong."""
    own = [rule.document() for rule in every.get(place, ())]
    ruled = dict(node) | ({"x-kubernetes-validations": own} if own else {})
    if place in rules.SETS:
        ruled["x-kubernetes-list-type"] = "set"
    if "items" in node:
        ruled["items"] = _ruled(node["items"], every, (*place, "items"))
    if "properties" in node:
        ruled["properties"] = {name: _ruled(inner, every, (*place, name)) for name, inner in node["properties"].items()}
    return ruled
