"""The JSON schema of an InferenceBenchmark, derived from the models: for editors, for messages, and to make a CRD of.

It has no references, and an optional field is the field itself, which may be missing. `structural` makes of it what a
CustomResourceDefinition can hold: a type at every node, and nothing that the API server does not know.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from pydantic.json_schema import GenerateJsonSchema

from inferbench_contract.options import BackendOptions
from inferbench_contract.spec import InferenceBenchmark

if TYPE_CHECKING:
    from pydantic import BaseModel

Schema = Mapping[str, Any]

NULL = {"type": "null"}

FREE = {"x-kubernetes-preserve-unknown-fields": True}
"""What the API server keeps as it is."""

MAX_ENTRIES = 1_024
"""Of a free mapping: more do not fit into the 8,192 bytes that it may have as JSON."""

FREE_INSIDE = {"maxProperties": MAX_ENTRIES} | FREE
"""A mapping that the API server keeps as it is."""

KEPT = (
    "description", "type", "format", "enum", "pattern", "minimum", "maximum", "minLength", "maxLength", "minItems",
    "maxItems", "maxProperties", "required", "x-kubernetes-list-type", "x-kubernetes-list-map-keys",
)  # fmt: skip
"""What a CRD and JSON schema mean the same by, in the order in which people read it."""

SAID_OTHERWISE = frozenset({
    "title", "examples", "default", "properties", "items", "additionalProperties", "propertyNames", "oneOf",
})  # fmt: skip
"""What a CRD has other forms for, or no use for."""


class _WithoutInventedTitles(GenerateJsonSchema):
    """Keep only the titles that somebody wrote: they say in messages what a text is."""

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002  (pydantic's signature)
        return False


@cache
def document_schema() -> Schema:
    """Return the schema of the whole document. It is made once: treat it as frozen."""
    document = schema_of(InferenceBenchmark)
    options = document["properties"]["spec"]["properties"]["backendOptions"]
    options["properties"] = schema_of(BackendOptions)["properties"]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **document}


def schema_of(model: type[BaseModel]) -> dict[str, Any]:
    """Return the schema of a model, without references."""
    raw = model.model_json_schema(by_alias=True, schema_generator=_WithoutInventedTitles)
    definitions = raw.pop("$defs", {})
    inlined: dict[str, Any] = _inlined(raw, definitions)
    return inlined


def at(place: Sequence[str | int]) -> Schema:
    """Return the schema of a place in the document; of an unknown or a free one, one that allows anything."""
    schema = document_schema()
    for step in place:
        schema = next((inner for variant in _variants(schema) if (inner := _step(variant, step)) is not None), {})
    return schema


def fields(place: Sequence[str | int]) -> tuple[str, ...]:
    """Return the names of the fields of a mapping."""
    return tuple(name for variant in _variants(at(place)) for name in variant.get("properties", ()))


def homes(name: str) -> tuple[tuple[str, ...], ...]:
    """Return the places of the mappings that have a field of this name."""
    return tuple(place for place, schema in _mappings(document_schema(), ()) if name in schema["properties"])


def _mappings(schema: Schema, place: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Schema]]:
    if "properties" in schema:
        yield place, schema
        for name, inner in schema["properties"].items():
            yield from _mappings(inner.get("items", inner), (*place, name))


def _variants(schema: Schema) -> Sequence[Schema]:
    variants: Sequence[Schema] = schema.get("oneOf", [schema])
    return variants


def _step(schema: Schema, step: str | int) -> Schema | None:
    inner = schema.get("items") if isinstance(step, int) else schema.get("properties", {}).get(step)
    others = schema.get("additionalProperties")
    return inner or (others if isinstance(others, Mapping) and isinstance(step, str) else None)


def _inlined(node: Any, definitions: Mapping[str, Any]) -> Any:
    """Put definitions in the place of references, and leave null out: a missing field says the same."""
    if isinstance(node, list):
        return [_inlined(item, definitions) for item in node if item != NULL]
    if not isinstance(node, dict):
        return node
    inlined = {key: _inlined(value, definitions) for key, value in node.items() if value is not None}
    if "$ref" in inlined:
        definition = _inlined(definitions[inlined.pop("$ref").rpartition("/")[2]], definitions)
        inlined = {**definition, **inlined}
    if len(inlined.get("anyOf", ())) == 1:
        inlined = {**inlined.pop("anyOf")[0], **inlined}
    if "const" in inlined:
        inlined["enum"] = [inlined.pop("const")]
    return inlined


# ---- what a CustomResourceDefinition can hold ----------------------------------------------------


def structural(schema: Schema, *, place: str = "") -> dict[str, Any]:
    """Return the structural form of a schema. Raises ValueError at what has none; `place` stands in the message."""
    if unknown := sorted(schema.keys() - set(KEPT) - SAID_OTHERWISE):
        msg = f"{place or 'the schema'}: found {', '.join(unknown)}, which a CustomResourceDefinition does not know"
        raise ValueError(msg)
    if "oneOf" in schema:
        return _either(schema, place)
    return _kept(schema) | _inside(schema, place)


def _kept(schema: Schema) -> dict[str, Any]:
    kept = {key: schema[key] for key in KEPT if key in schema}
    described = {"description": " ".join(kept["description"].split())} if "description" in kept else {}
    return kept | described | _default(schema)


def _either(schema: Schema, place: str) -> dict[str, Any]:
    """Stand the constraints of all variants side by side, without a type: each speaks of values of its own type only.

    A CRD has no type for "this or that" but integer or text.
    """
    variants = [structural(variant, place=place) for variant in schema["oneOf"]]
    both = {key: value for variant in variants for key, value in variant.items() if key not in {"type", "description"}}
    return _kept(schema) | both | FREE


def _default(schema: Schema) -> dict[str, Any]:
    """Keep a default, so that the field always exists. Those inside an object are the business of its own fields."""
    default = schema.get("default")
    return {} if default is None else {"default": {} if isinstance(default, Mapping) else default}


def _inside(schema: Schema, place: str) -> dict[str, Any]:
    """Return what a list or a mapping may hold."""
    if "items" in schema:
        return {"items": structural(schema["items"], place=f"{place}[]")}
    if schema["type"] != "object":
        return {}
    if fields := schema.get("properties"):
        return {"properties": {name: structural(inner, place=f"{place}.{name}") for name, inner in fields.items()}}
    if isinstance(values := schema.get("additionalProperties"), Mapping) and values:
        names = schema.get("propertyNames", {}).get("enum", ())
        most = {"maxProperties": len(names)} if names else {}
        return {"additionalProperties": structural(values, place=f"{place}{{}}")} | most
    return FREE_INSIDE
