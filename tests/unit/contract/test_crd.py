"""The CustomResourceDefinition: what can be said of it without an API server (tests/cluster asks a real one)."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from inferbench_cli.__main__ import main
from inferbench_contract import crd, document, plan, rules, schema
from inferbench_contract.errors import SpecError
from inferbench_contract.fields import MAX_FREE_BYTES
from inferbench_contract.pod_template import POD_RIGHTS
from tests.bad_specs import BAD_SPECS, VALID, By
from tests.stored import OPENAPI, SPEC, filled_in

ROOT = Path(__file__).parents[3]
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))

DEFINITION = crd.definition()
PRIVILEGED = crd.definition(allow_privileged_pod_templates=True)


def everything(node, place=()):
    """Every schema inside a schema, with its place."""
    yield place, node
    for name, inner in node.get("properties", {}).items():
        yield from everything(inner, (*place, name))
    for key in ("items", "additionalProperties"):
        if key in node:
            yield from everything(node[key], (*place, key))


# ---- the definition ------------------------------------------------------------------------------


def test_kubernetes_own_types_can_hold_it():
    client = pytest.importorskip("kubernetes.client")

    read = client.V1CustomResourceDefinition.model_validate(DEFINITION)

    assert read.spec.names.plural == "inferencebenchmarks"


def test_it_is_of_the_objects_that_a_benchmark_says_it_is():
    assert schema.at(("apiVersion",))["enum"] == [crd.API_VERSION]
    assert schema.at(("kind",))["enum"] == [crd.KIND]


def test_every_node_has_a_type_but_the_one_that_has_two():
    """A name or a file: the API server keeps what it cannot type, and the operator looks at it."""
    untyped = [place for place, node in everything(OPENAPI) if "type" not in node]

    assert untyped == [("spec", "model", "torchvision", "weights")]


def test_it_holds_nothing_that_a_structural_schema_may_not():
    text = crd.dump(DEFINITION)

    for word in ("$ref", "anyOf", "oneOf", "const:", "title:", "null", "examples:", "additionalProperties: false"):
        assert word not in text


def test_every_text_list_and_free_mapping_has_bounds():
    """Without them the API server refuses rules over them, because they might cost it too much."""
    bounds = {"string": ("maxLength", "enum", "format"), "array": ("maxItems",)}
    unbounded = [
        place
        for place, node in everything(SPEC)
        if not set(bounds.get(node.get("type"), node)) & set(node) and place[:1] != ("podTemplate",)
    ]

    assert unbounded == []
    assert all(node.get("maxItems", 0) <= 64 for _, node in everything(OPENAPI))


def test_every_field_says_what_it_means():
    """`kubectl explain` has nothing else; the parts of a pod are explained by Kubernetes."""
    silent = [
        place
        for place, node in everything(OPENAPI)
        if place and "description" not in node
        and not {"podTemplate", "metadata", "items", "minTop1Agreement", "backendOptions"} & set(place)
    ]  # fmt: skip

    assert silent == []


def test_it_is_small_enough_for_kubectl_apply():
    """It keeps a copy in an annotation, of at most 262,144 bytes; and every client reads it."""
    assert len(crd.dump(DEFINITION).encode()) < 60_000


def test_its_yaml_says_the_same_without_anchors():
    text = crd.dump(DEFINITION)

    assert yaml.safe_load(text) == DEFINITION
    assert "&id" not in text


def test_what_crds_holds_is_what_would_be_generated():
    assert (ROOT / "crds" / crd.FILE).read_text(encoding="utf-8") == crd.dump(DEFINITION)


def test_what_no_definition_can_hold_is_refused_with_its_place():
    with pytest.raises(ValueError, match=r"spec\.shape\[\]: found exclusiveMinimum, which"):
        schema.structural(
            {"type": "object", "properties": {"shape": {"type": "array", "items": {"exclusiveMinimum": 0}}}},
            place="spec",
        )


def test_a_free_mapping_may_have_as_many_entries_as_fit_into_it():
    assert len('"a": 1, ') * schema.MAX_ENTRIES >= MAX_FREE_BYTES


# ---- defaults ------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_the_defaults_that_the_api_server_fills_in_change_nothing(path):
    """Neither the benchmark nor its plan, whose hash stands in the names of its Jobs."""
    written = yaml.safe_load(path.read_text(encoding="utf-8"))
    stored = filled_in(OPENAPI, written)

    mine, theirs = document.from_object(written, "mine"), document.from_object(stored, "theirs")

    assert stored != written or path.name == "everything.yaml"
    assert theirs == mine
    assert plan.expand(theirs).hash == plan.expand(mine).hash


def test_options_of_backends_have_no_defaults():
    """They are their backends' to choose."""
    options = SPEC["properties"]["backendOptions"]["properties"]

    assert "freezing" in options["torch-compile"]["properties"]
    assert not any("default" in node for option in options.values() for _, node in everything(option))


# ---- rules ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", BAD_SPECS, ids=lambda bad: bad.name)
def test_a_bad_spec_is_refused_by_validate_in_the_same_words(bad):
    with pytest.raises(SpecError) as refused:
        document.from_object(bad.document, "bad")

    mistake = next((m for m in refused.value.mistakes if m.startswith(f"bad: {bad.place}: ")), None)
    assert mistake is not None, refused.value.mistakes
    assert bad.words in mistake


def test_the_document_that_bad_specs_are_made_from_is_valid():
    assert document.from_object(VALID, "good").name == "good"


def test_every_rule_has_a_bad_spec_that_it_refuses():
    """So that the API server was seen to refuse it, with the words of `validate`."""
    told = {bad.words for bad in BAD_SPECS if bad.by is By.RULE}
    without = [
        rule.sentence
        for place in rules.RULES.values()
        for rule in place
        if not any(sentence_holds(rule.sentence, words) for words in told)
    ]

    assert without == []


def sentence_holds(sentence, words):
    """Whether words of the table are what a rule says, or its beginning, or its end."""
    said = ".+".join(re.escape(part) for part in sentence.rstrip(".").split("{found}"))
    return re.fullmatch(rf"{said}\.?", words) is not None or sentence.endswith(words)


def test_every_rule_stands_at_a_place_that_exists():
    places = {place for place, _ in everything(OPENAPI)}

    assert set(rules.every(SPEC)) <= places


def test_every_field_of_the_spec_stays_as_it_is_or_is_one_of_the_three_that_may_change():
    frozen = {rule["fieldPath"][1:] for rule in SPEC["x-kubernetes-validations"] if "oldSelf" in rule["rule"]}

    assert frozen == SPEC["properties"].keys() - set(rules.CHANGEABLE)
    assert set(rules.CHANGEABLE) <= SPEC["properties"].keys()


def test_a_name_has_the_same_bounds_as_in_a_file():
    name = schema.at(("metadata", "name"))

    assert name["maxLength"] == rules.MAX_NAME
    assert {rule["fieldPath"] for rule in OPENAPI["x-kubernetes-validations"]} == {".metadata.name"}


def guarded(definition):
    """The fields of a pod template that have a rule."""
    spec = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    template = spec["properties"]["podTemplate"]["properties"]
    return {
        place[-1] for _, part in template.items() for place, n in everything(part) if "x-kubernetes-validations" in n
    }


def test_every_right_that_a_pod_template_may_not_give_has_a_rule():
    assert guarded(DEFINITION) == POD_RIGHTS | {"add"}


def test_where_the_operator_allows_privileged_pod_templates_they_have_no_rules():
    assert guarded(PRIVILEGED) == set()


# ---- the program ---------------------------------------------------------------------------------


def test_schema_prints_the_definition(capsys):
    assert main(["schema", "--crd"]) == 0
    assert capsys.readouterr().out == crd.dump(DEFINITION)


def test_schema_prints_the_one_that_goes_with_the_operators_setting(capsys):
    assert main(["schema", "--crd", "--allow-privileged-pod-templates"]) == 0
    assert yaml.safe_load(capsys.readouterr().out) == PRIVILEGED


def test_a_definition_in_step_is_said_nothing_about(capsys):
    assert main(["schema", "--check", str(ROOT / "crds")]) == 0
    assert capsys.readouterr() == ("", "")


def test_a_definition_out_of_step_is_told_with_the_command_that_mends_it(tmp_path, capsys):
    file = tmp_path / crd.FILE
    file.write_text(crd.dump(DEFINITION).replace("ibench", "ib"))

    assert main(["schema", "--check", str(tmp_path)]) == 1
    assert capsys.readouterr().err.endswith(f"run `inferbench schema --crd >{file}`.\n")


def test_a_definition_that_is_missing_is_out_of_step(tmp_path):
    assert main(["schema", "--check", str(tmp_path)]) == 1
