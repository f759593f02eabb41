"""What `podTemplate` may be: fields that the operator can merge, and none that gives a pod rights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from inferbench_contract.places import Place, contents, refuse

if TYPE_CHECKING:
    from pydantic import JsonValue, ValidationInfo

POD_RIGHTS = frozenset({
    "serviceAccountName", "serviceAccount", "automountServiceAccountToken", "serviceAccountToken",
    "podCertificate", "csi", "ephemeralContainers",
    "hostNetwork", "hostPID", "hostIPC", "hostUsers", "hostPath", "hostPort", "hostIP", "hostProcess",
    "privileged", "allowPrivilegeEscalation",
})  # fmt: skip
"""Fields of a pod that give it rights which its benchmark's author need not have: the operator is nobody's deputy.

A projected certificate names the pod's service account; the driver of an inline `csi` volume may be handed its token
(CSIDriver: tokenRequests); to add an ephemeral container takes a right of its own, and no pod template may have one.
"""

RIGHT_REFUSED = "found it, expected nothing: it gives the pod rights that its author may not have."
"""Of each of them, here as by the API server."""

PRIVILEGED = "allow_privileged_pod_templates"
"""Key of the validation context by which an operator's administrator lets pod templates give such rights."""


KINDS: Mapping[type, str] = {
    dict: "a mapping",
    list: "a list",
    str: "text",
    bool: "true or false",
    int: "a number",
    type(None): "nothing",
}
"""What stands in YAML, by what it is read as."""

MERGE_KEYS: Mapping[str, Mapping[str, type]] = {
    "containers": {"name": str},
    "initContainers": {"name": str},
    "volumes": {"name": str},
    "env": {"name": str},
    "imagePullSecrets": {"name": str},
    "volumeMounts": {"mountPath": str},
    "ports": {"containerPort": int},
    "tolerations": {"key": str, "effect": str},
}
"""What makes two entries of a list the same one (kubernetes/api core/v1: patchMergeKey; tolerations have none)."""


def _merged(*place: str) -> Mapping[Place, type]:
    """Return the shapes of a list whose entries are merged by what makes two of them the same one."""
    entry = (*place, "items")
    return {place: list, entry: dict, **{(*entry, key): kind for key, kind in MERGE_KEYS[place[-1]].items()}}


def _container_shapes(*place: str) -> Mapping[Place, type]:
    return {
        **_merged(*place),
        **_merged(*place, "items", "env"),
        **_merged(*place, "items", "volumeMounts"),
        **_merged(*place, "items", "ports"),
    }


POD_SHAPES: Mapping[Place, type] = {
    ("metadata",): dict,
    ("metadata", "labels"): dict,
    ("metadata", "annotations"): dict,
    ("spec",): dict,
    **_merged("spec", "volumes"),
    **_merged("spec", "imagePullSecrets"),
    **_merged("spec", "tolerations"),
    **_container_shapes("spec", "containers"),
    **_container_shapes("spec", "initContainers"),
}
"""What a pod template is merged by, which cannot be anything else; `items` is any item of a list."""

NAMED = frozenset({"containers", "initContainers", "env", "volumes"})
"""Lists whose entries have to have a name."""


def _misshapen(place: Place, value: JsonValue) -> str | None:
    """Say what is wrong with the shape of a part of a pod template."""
    if value is None:
        return "found nothing, expected a value: leave the field out instead."
    known = tuple("items" if isinstance(step, int) else step for step in place)
    wanted = POD_SHAPES.get(known)
    if wanted is not None and type(value) is not wanted:
        return f"found {KINDS.get(type(value), 'something else')}, expected {KINDS[wanted]}."
    if wanted is dict and known[-2:-1] and known[-2] in NAMED and isinstance(value, dict) and "name" not in value:
        return "found an entry without a name, expected one."
    return None


def is_well_shaped(template: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """Refuse what cannot be merged, with its place."""
    told = ((place, _misshapen(place, value)) for place, value in contents(template))
    refuse({place: sentence for place, sentence in told if sentence is not None})
    return template


def deputises_nobody(template: dict[str, JsonValue], info: ValidationInfo) -> dict[str, JsonValue]:
    """Refuse fields of `POD_RIGHTS` and unknown ones, unless the context has `PRIVILEGED`."""
    found: dict[Place, str] = {
        (name,): "found an unknown field, expected metadata or spec." for name in template.keys() - {"metadata", "spec"}
    }
    is_allowed = bool((info.context or {}).get(PRIVILEGED))
    for place, value in () if is_allowed else contents(template.get("spec")):
        if value and (place[-1] in POD_RIGHTS or place[-2:] == ("capabilities", "add")):
            found["spec", *place] = RIGHT_REFUSED
    refuse(found)
    return template
