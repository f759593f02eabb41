"""The statements that a run judges: what they compare, and what is wrong with those that say nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from fractions import Fraction
from itertools import combinations
from typing import Any

import pytest

from inferbench_contract.statements import Expectation, ExpectationForm, operand
from inferbench_contract.words import Backend, Cell, Precision, Strategy
from tests.builders import a_document
from tests.mistakes import mistakes, the_mistake

EAGER = Strategy(Backend.TORCH_EAGER, Precision.FP32)
ONNXRUNTIME = Strategy(Backend.ONNXRUNTIME, Precision.FP32)


def test_operands_are_strategies_or_cells():
    assert operand("torch-eager/fp32") == EAGER
    assert operand("torch-eager/fp32@8") == Cell(EAGER, 8)


AHEAD = {"name": "e", "faster": "onnxruntime/fp32", "than": "torch-eager/fp32"}


@pytest.mark.parametrize(
    ("fields", "form"),
    [
        pytest.param(AHEAD, ExpectationForm.FASTER, id="faster than"),
        pytest.param({**AHEAD, "grows_with_batch_size": True}, ExpectationForm.LEAD_GROWS, id="a growing lead"),
        pytest.param(
            {**AHEAD, "by_more_than": {"faster": "torch-compile/fp32", "than": "torch-eager/fp32"}},
            ExpectationForm.LEADS_MORE,
            id="a lead over a lead",
        ),
        pytest.param(
            {"name": "e", "equal": "torch-eager/fp32@1", "to": "torch-eager/fp32@8", "within": "5%"},
            ExpectationForm.EQUAL,
            id="equal to",
        ),
    ],
)
def test_an_expectation_makes_one_of_four_statements(fields, form):
    assert Expectation(**fields).form is form


def test_an_expectation_about_strategies_compares_them_at_every_batch_size_or_those_it_names():
    everywhere, somewhere = Expectation(**AHEAD), Expectation(**AHEAD, batch_sizes=(32, 8))

    assert everywhere.pairs((1, 8)) == ((Cell(ONNXRUNTIME, 1), Cell(EAGER, 1)), (Cell(ONNXRUNTIME, 8), Cell(EAGER, 8)))
    assert [ahead.batch_size for ahead, _ in somewhere.pairs((1, 8, 32))] == [8, 32]


def test_an_expectation_about_cells_compares_these_two():
    flat = Expectation(name="e", equal="torch-eager/fp32@1", to="torch-eager/fp32@8", within="5%")

    assert flat.pairs((1, 8, 32)) == ((Cell(EAGER, 1), Cell(EAGER, 8)),)
    assert flat.tolerance == Fraction(1, 20)


# ---- what is wrong with one ----------------------------------------------------------------------

EXPECTATIONS = [
    pytest.param(
        "faster: torch-eager/fp32", "than: found faster, expected faster and than, or equal, to and within.", id="half"
    ),
    pytest.param(
        "than: torch-eager/fp32, to: torch-eager/fp32",
        "to: found than, to, expected faster and than, or equal, to and within.",
        id="two halves",
    ),
    pytest.param(
        "equal: torch-eager/fp32, to: onnxruntime/fp32, within: '5%', by: 2x",
        "by: found by, equal, to, within, expected faster and than, or equal",
        id="a mixture",
    ),
    pytest.param(
        "faster: torch-eager/fp32, than: torch-eagr/fp32",
        'than: found "torch-eagr/fp32", expected instead of torch-eagr one of torch-eager, ',
        id="an unknown backend",
    ),
    pytest.param(
        "faster: torch-eager/fp32, than: torch-eager/fp33",
        'than: found "torch-eager/fp33", expected instead of fp33 one of fp32, ',
        id="an unknown precision",
    ),
    pytest.param(
        "faster: torch-eager/fp32, than: torch-eagr/fp33",
        f'than: found "torch-eagr/fp33", expected instead of torch-eagr one of {", ".join(Backend)}, and instead of '
        "fp33 one of fp32, ",
        id="an unknown backend at an unknown precision",
    ),
    pytest.param(
        "faster: torch-eager/fp32@1, than: tensorrt/fp16@4",
        "than: found tensorrt/fp16, expected one of this benchmark: torch-eager/fp32, onnxruntime/fp32. "
        "found batch size 4, expected one of the benchmark's: 1, 8.",
        id="a cell of a strategy and of a batch size that are not measured",
    ),
    pytest.param(
        "fastr: torch-eager/fp32, than: onnxruntime/fp32",
        "fastr: found an unknown field, did you mean faster?",
        id="what is missing stands there under another name",
    ),
    pytest.param(
        "faster: torch-eager/fp32, than: yes",
        "than: found yes, which some programs read as true or false, expected",
        id="what is missing is there and cannot be read",
    ),
    pytest.param(
        "faster: torch-eager, than: onnxruntime/fp32",
        'faster: found "torch-eager", expected a strategy or a cell such as torch-eager/fp32, torch-eager/fp32@8.',
        id="a backend alone",
    ),
    pytest.param(
        "faster: torch-eager/fp32, than: tensorrt/fp16",
        "than: found tensorrt/fp16, expected one of this benchmark: torch-eager/fp32, onnxruntime/fp32.",
        id="a strategy that is not measured",
    ),
    pytest.param(
        "equal: torch-eager/fp32@1, to: torch-eager/fp32@4, within: '5%'",
        "to: found batch size 4, expected one of the benchmark's: 1, 8.",
        id="a cell that is not measured",
    ),
    pytest.param(
        "faster: torch-eager/fp32, than: onnxruntime/fp32, batchSizes: [1, 2]",
        "batchSizes[1]: found 2, expected one of the benchmark's: 1, 8.",
        id="a batch size that is not measured",
    ),
    pytest.param(
        "faster: torch-eager/fp32, than: onnxruntime/fp32, batchSizes: [8], growsWithBatchSize: true",
        "growsWithBatchSize: found one batch size, expected at least two to grow with.",
        id="growing over one batch size",
    ),
    pytest.param(
        "faster: torch-eager/fp32, than: onnxruntime/fp32@8",
        "than: found torch-eager/fp32 and onnxruntime/fp32@8, expected two strategies or two cells.",
        id="a strategy and a cell",
    ),
    pytest.param(
        "faster: torch-eager/fp32, than: torch-eager/fp32",
        "than: found torch-eager/fp32 on both sides, expected two different ones.",
        id="the same twice",
    ),
    pytest.param(
        "faster: torch-eager/fp32@1, than: torch-eager/fp32@8, batchSizes: [1]",
        "batchSizes: found it beside two cells, expected it beside two strategies.",
        id="batch sizes of cells",
    ),
    pytest.param(
        "faster: torch-eager/fp32, than: onnxruntime/fp32, by: 0.9x",
        'by: found "0.9x", expected a factor of at least 1x such as 1.1x.',
        id="faster by less than nothing",
    ),
    pytest.param(
        "equal: torch-eager/fp32, to: onnxruntime/fp32, within: '0%'",
        "within: found 0%, expected more: no two measurements are the same.",
        id="equal to within nothing",
    ),
    pytest.param(
        "faster: torch-eager/fp32, than: onnxruntime/fp32, growsWithBatchSize: true,"
        " byMoreThan: {faster: torch-eager/fp32, than: onnxruntime/fp32}",
        "byMoreThan: found growsWithBatchSize and byMoreThan, expected one of them: write two expectations.",
        id="two statements",
    ),
    pytest.param(
        "faster: torch-eager/fp32, than: onnxruntime/fp32, byMoreThan: {faster: fake/fp32, than: onnxruntime/fp32}",
        "byMoreThan.faster: found fake/fp32, expected one of this benchmark: torch-eager/fp32, onnxruntime/fp32.",
        id="a lead over what is not measured",
    ),
]


@pytest.mark.parametrize(("statement", "mistake"), EXPECTATIONS)
def test_an_expectation_speaks_of_what_is_measured(statement, mistake):
    text = a_document(expectations=f"[{{name: e, {statement}}}]")

    assert the_mistake(text).replace("[0].", "[0]: ").startswith(f"9: spec.expectations[0]: {mistake}")


SOUND = {"name": "it", "faster": "torch-eager/fp32", "than": "onnxruntime/fp32"}

WRONG_BY_ITSELF = {
    "a name": {"name": "It is"},
    "an unknown field": {"colour": "red"},
    "an unknown backend": {"faster": "tensort/fp32"},
    "a factor": {"by": "0.9x"},
    "another lead": {"byMoreThan": {"faster": "tensort/fp32", "than": "torch-eager/fp32"}},
}
WRONG_TOGETHER = {
    "a strategy that is not measured": {"than": "tensorrt/fp32"},
    "a batch size that is not measured": {"batchSizes": [8, 4]},
    "a field of another form": {"within": "5%"},
    "another lead over what is not measured": {"byMoreThan": {"faster": "fake/fp32", "than": "torch-eager/fp32"}},
}
"""What is wrong with an expectation; nothing of the second kind can be seen from one field alone."""

PAIRS = [
    pytest.param(one, other, id=f"{a} and {b}")
    for (a, one), (b, other) in combinations({**WRONG_BY_ITSELF, **WRONG_TOGETHER}.items(), 2)
    if not one.keys() & other.keys()
]


def wrong_fields(*expectations: Mapping[str, Any], **spec: str) -> set[str]:
    """Return where the mistakes of a benchmark with these expectations are."""
    text = a_document(**spec, expectations=json.dumps(expectations))
    return {mistake.split(": ")[1] for mistake in mistakes(text)}


@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_no_mistake_in_an_expectation_hides_another(one, other):
    alone = wrong_fields({**SOUND, **one}) | wrong_fields({**SOUND, **other})

    assert len(alone) == 2
    assert wrong_fields({**SOUND, **one, **other}) == alone


@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_no_mistake_in_an_expectation_hides_one_in_the_next(one, other):
    first, second = {**SOUND, **one}, {**SOUND, "name": "next", **other}
    moved = {field.replace("[0]", "[1]", 1) for field in wrong_fields(second)}

    assert wrong_fields(first, second) == wrong_fields(first) | moved


def test_a_mistake_inside_a_field_does_not_hide_that_the_field_does_not_belong_there():
    cells = {"name": "it", "faster": "torch-eager/fp32@1", "than": "torch-eager/fp32@8"}

    assert wrong_fields(
        {**cells, "batchSizes": [4], "byMoreThan": {"faster": "tensort/fp32", "than": "fake/fp32"}}
    ) == {
        "spec.expectations[0].batchSizes",
        "spec.expectations[0].batchSizes[0]",
        "spec.expectations[0].byMoreThan",
        "spec.expectations[0].byMoreThan.faster",
        "spec.expectations[0].byMoreThan.than",
    }


def test_two_names_that_are_the_same_are_told_beside_a_mistake_in_one_of_them():
    assert wrong_fields(SOUND, {**SOUND, "by": "0.9x"}) == {"spec.expectations[1].name", "spec.expectations[1].by"}


def test_a_wrong_batch_size_of_the_benchmark_hides_no_strategy_that_is_not_measured():
    told = wrong_fields({**SOUND, "than": "tensorrt/fp32", "batchSizes": [4]}, batchSizes="[1, 0]")

    assert told == {"spec.batchSizes[1]", "spec.expectations[0].than"}


def test_what_the_benchmark_measures_is_not_judged_by_a_list_that_is_wrong_itself():
    assert wrong_fields({**SOUND, "than": "tensorrt/fp32"}, backends="[tensort, torch-eager]") == {"spec.backends[0]"}


@pytest.mark.parametrize("items", ["[[1], {a: 1}, x, 8]", "{a: 8}", "[" + "9, " * 64 + "9]", "yes"])
def test_batch_sizes_that_are_none_get_no_second_mistake_of_what_they_are_not(items):
    text = a_document(
        expectations=f"[{{name: e, faster: torch-eager/fp32, than: onnxruntime/fp32, batchSizes: {items}}}]"
    )
    told = [mistake.split(": ")[1] for mistake in mistakes(text)]

    assert len(set(told)) == len(told) > 0
    assert all(place.startswith("spec.expectations[0].batchSizes") for place in told)


def test_two_expectations_have_two_names():
    one = "{name: e, faster: torch-eager/fp32, than: onnxruntime/fp32}"

    assert the_mistake(a_document(expectations=f"[{one}, {one}]")) == (
        '9: spec.expectations[1].name: found "e" a second time, expected each once.'
    )
