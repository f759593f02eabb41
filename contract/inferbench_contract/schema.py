"""The JSON schema of an InferenceBenchmark, derived from the models: for editors, for messages, and to make a CRD of.

It is structural: no references, and an optional field is the field itself, which may be missing.
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


class _WithoutInventedTitles(GenerateJsonSchema):
    """Keep only the titles that somebody wrote: they say in messages what a text is."""

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002  (pydantic's signature)
        return False


@cache
def document_schema() -> Schema:
    """Return the schema of the whole document. It is made once: treat it as frozen."""
    document = _schema_of(InferenceBenchmark)
    options = document["properties"]["spec"]["properties"]["backendOptions"]
    options["properties"] = _schema_of(BackendOptions)["properties"]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **document}


def _schema_of(model: type[BaseModel]) -> dict[str, Any]:
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
