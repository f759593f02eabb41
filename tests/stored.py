"""What the API server stores of what somebody writes: the same, with the defaults of the schema filled in."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from inferbench_contract import crd

OPENAPI = crd.definition()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
SPEC = OPENAPI["properties"]["spec"]


def filled_in(node: Mapping[str, Any], value: Any) -> Any:
    """Return a value with the defaults of its schema; tests/cluster proves that an API server does the same."""
    if isinstance(value, list) and "items" in node:
        return [filled_in(node["items"], item) for item in value]
    if not isinstance(value, dict):
        return value
    known = node.get("properties", {})
    missing = {name: copy.deepcopy(inner["default"]) for name, inner in known.items() if "default" in inner}
    every = {**missing, **value}
    return {name: filled_in(known.get(name, {}), inner) for name, inner in every.items()}
