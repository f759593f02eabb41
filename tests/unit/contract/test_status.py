"""The types of the status: they hold every summary that there can be, and lose nothing of it."""

from __future__ import annotations

import json

from hypothesis import given, settings

from inferbench_contract.status import Condition, Status, StatusModel, SummaryDocument
from inferbench_contract.summary import MAX_BYTES, summarize
from tests.summaries import everything, over_full
from tests.unit.contract.test_summary import BENCHMARK, PLAN, any_results


def without_null(value):
    return {key: item for key, item in value.items() if item is not None}


def written(model: StatusModel):
    return model.model_dump(mode="json", by_alias=True, exclude_none=True)


def assert_nothing_is_lost(document):
    """Keys keep their order too, so that the status shows what summary.json shows."""
    assert json.dumps(written(SummaryDocument.model_validate(document))) == json.dumps(without_null(document))


def fields_in(model: StatusModel):
    """Every field of a model and of those inside it that says something."""
    for name in type(model).model_fields:
        value = getattr(model, name)
        if value not in (None, ()):
            yield type(model), name
        for inner in value if isinstance(value, tuple) else (value,):
            if isinstance(inner, StatusModel):
                yield from fields_in(inner)


def fields_of(kind):
    """Every field of a model and of those inside it."""
    every = [kind]
    for model in every:
        texts = " ".join(str(field.annotation) for field in model.model_fields.values())
        every += [
            other for other in StatusModel.__subclasses__() if f".{other.__name__}" in texts and other not in every
        ]
    return {(model, name) for model in every for name in model.model_fields}


@given(any_results())
@settings(max_examples=40)
def test_whatever_comes_the_summary_is_held_whole(results):
    assert_nothing_is_lost(summarize(BENCHMARK, PLAN, results).document())


def test_a_summary_of_everything_is_held_whole():
    assert_nothing_is_lost(everything())


def test_a_summary_that_had_to_be_shortened_is_held_whole():
    document = over_full()

    assert any("latencyNanoseconds" not in entry for entry in document["best"])
    assert len(json.dumps(document, indent=1)) > 0.9 * MAX_BYTES
    assert_nothing_is_lost(document)


def test_no_field_of_the_types_is_one_that_no_summary_has():
    assert set(fields_in(SummaryDocument.model_validate(everything()))) == fields_of(SummaryDocument)


def test_what_a_newer_operator_adds_is_passed_over():
    document = everything() | {"mood": "good"}
    document["best"][0]["colour"] = "red"

    read = SummaryDocument.model_validate(document)

    assert written(read) == without_null(everything())


def test_a_status_without_anything_is_one():
    assert written(Status.model_validate({})) == {"conditions": [], "stages": [], "shards": []}


def test_a_condition_is_written_as_kubernetes_writes_it():
    said = {
        "type": "Succeeded",
        "status": "False",
        "reason": "TooManyFailures",
        "message": "3 cells failed, expected at most 0.",
        "lastTransitionTime": "2026-11-25T20:38:00Z",
        "observedGeneration": 1,
    }

    assert written(Condition.model_validate(said)) == said
