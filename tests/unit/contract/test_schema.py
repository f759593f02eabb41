"""The JSON schema: complete enough for an editor, plain enough for a CRD."""

from __future__ import annotations

import json

from inferbench_contract import schema
from inferbench_contract.words import Backend

DOCUMENT = schema.document_schema()


def everything(node, place=()):
    """Every schema inside the document's, with its place."""
    yield place, node
    for name, inner in node.get("properties", {}).items():
        yield from everything(inner, (*place, name))
    for key in ("items", "additionalProperties"):
        if isinstance(node.get(key), dict):
            yield from everything(node[key], (*place, key))
    for variant in node.get("oneOf", ()):
        yield from everything(variant, place)


def test_it_is_structural():
    text = json.dumps(DOCUMENT)

    for word in ("$ref", "$defs", "anyOf", "allOf", '"null"', '"number"', '"const"'):
        assert word not in text


def test_every_field_says_what_it_means():
    spec = DOCUMENT["properties"]["spec"]

    undescribed = [name for name, inner in spec["properties"].items() if not inner.get("description")]

    assert undescribed == []


def test_everything_but_the_fake_backends_script_has_bounds():
    """Without them the API server refuses rules over the CRD, because they might cost it too much."""
    unbounded = []
    for place, node in everything(DOCUMENT):
        bounds = {"string": "maxLength", "array": "maxItems", "integer": "maximum"}
        bound = bounds.get(node.get("type", ""))
        if bound and bound not in node and "enum" not in node and "fake" not in place:
            unbounded.append(place)

    assert unbounded == []


def test_unknown_fields_are_refused_wherever_fields_are_known():
    """A mapping by backend or precision has its names checked instead."""
    open_ones = [p for p, n in everything(DOCUMENT) if "properties" in n and n.get("additionalProperties") is not False]

    assert open_ones == [("spec", "backendOptions")]


def test_every_backend_has_a_row_of_options():
    assert list(schema.at(("spec", "backendOptions"))["properties"]) == [str(backend) for backend in Backend]


def test_a_place_is_found_through_lists_maps_and_either_kind_of_weights():
    assert schema.at(("spec", "batchSizes", 3))["maximum"] == 65_536
    assert "pattern" in schema.at(("spec", "accuracy", "minTop1Agreement", "fp32"))
    assert "path" in schema.fields(("spec", "model", "torchvision", "weights"))
    assert schema.at(("spec", "podTemplate", "spec", "whatever")) == {}


def test_a_field_is_found_by_its_name():
    assert schema.homes("rounds") == (("spec", "measurement"),)
