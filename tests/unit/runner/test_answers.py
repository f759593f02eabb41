"""What a process that makes files for the cache answers, whatever became of them."""

from __future__ import annotations

import pytest
from pydantic import BaseModel

from inferbench_contract.errors import EnvironmentFault
from inferbench_contract.words import Outcome
from inferbench_runner import answers
from inferbench_runner.answers import Refusal
from inferbench_runner.backends import Unsupported
from inferbench_runner.task import Artifacts


class Request(BaseModel):
    """Asks for a file of this name."""

    name: str


def answered(folder, make):
    """What is read of the answer of a process that was asked for `graph`."""
    files = (folder / "request.json", folder / "answer.json")
    *_, request_file, answer_file = answers.command("some.module", Request(name="graph"), *files)
    assert answers.serve([request_file, answer_file], Request, make) == 0
    return answers.read_answer(files[1])


def raising(error):
    def make(request):
        raise error

    return make


def test_what_was_made_is_the_answer(tmp_path):
    assert answered(tmp_path, lambda request: Artifacts(onnx=tmp_path / request.name)).onnx == tmp_path / "graph"


@pytest.mark.parametrize(
    ("error", "outcome", "message"),
    [
        pytest.param(
            Unsupported("Int8Share: too little."), Outcome.UNSUPPORTED, "Int8Share: too little.", id="refused"
        ),
        pytest.param(ValueError("no such axis"), Outcome.FAILED, "ValueError: no such axis", id="a library's error"),
    ],
)
def test_a_refusal_keeps_its_words_and_an_error_has_its_name(error, outcome, message, tmp_path):
    assert answered(tmp_path, raising(error)) == Refusal(outcome, message)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        pytest.param(EnvironmentFault("The disk is full."), "The disk is full.", id="the disk is full"),
        pytest.param(ModuleNotFoundError(name="onnx"), "onnx is not installed. ", id="a library is missing"),
    ],
)
def test_what_the_machine_lacks_is_a_fault_of_the_machine(error, words, tmp_path):
    with pytest.raises(EnvironmentFault, match=f"^{words}"):
        answered(tmp_path, raising(error))
