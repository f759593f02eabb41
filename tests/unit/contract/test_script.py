import pytest
from pydantic import ValidationError

from inferbench_contract import script
from inferbench_contract.script import Fault, Script
from inferbench_contract.words import Precision


def test_a_script_says_nothing_that_need_not_be_said():
    assert Script.model_validate({}) == Script()


def test_a_script_is_written_in_camel_case_and_read_back_the_same():
    told = Script.model_validate(
        {
            "callMicroseconds": 500,
            "processSd": "2.5%",
            "speedups": {"fp16": "2x"},
            "faults": [{"fault": "crash", "precision": "fp16", "batchSize": 8, "round": 0}],
        }
    )

    assert (told.call_microseconds, told.process_sd, told.speedups) == (500, "2.5%", {Precision.FP16: "2x"})
    assert Script.model_validate(told.model_dump(mode="json", by_alias=True)) == told


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param({"callMiliseconds": 5}, id="an unknown field"),
        pytest.param({"callMicroseconds": -1}, id="a negative time"),
        pytest.param({"processSd": "2.5"}, id="a share without its sign"),
        pytest.param({"processSd": 2.5}, id="a share as a number"),
        pytest.param({"speedups": {"fp16": "2"}}, id="a factor without its sign"),
        pytest.param({"speedups": {"fp17": "2x"}}, id="an unknown precision"),
        pytest.param({"faults": [{"fault": "sulk"}]}, id="an unknown fault"),
        pytest.param({"faults": [{"batchSize": 8}]}, id="a fault that is none"),
        pytest.param({"faults": [{"fault": "crash", "batchSize": 0}]}, id="a batch of nothing"),
        pytest.param({"faults": [{"fault": "crash"}] * 65}, id="too many faults"),
    ],
)
def test_a_script_that_is_wrong_is_refused(wrong):
    with pytest.raises(ValidationError):
        Script.model_validate(wrong)


def fault_at(faults, precision=Precision.FP32, batch_size=1, round_=0):
    return Script.model_validate({"faults": faults}).fault_of(precision, batch_size, round_)


@pytest.mark.parametrize("fault", Fault)
def test_every_fault_can_be_ordered_for_all_cells(fault):
    assert fault_at([{"fault": fault}]) is fault


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ({}, Fault.HANG),
        ({"precision": Precision.FP16}, None),
        ({"batch_size": 8}, None),
        ({"round_": 1}, None),
    ],
    ids=["there", "another precision", "another batch size", "another round"],
)
def test_a_fault_strikes_where_all_that_is_given_matches(place, expected):
    faults = [{"fault": "hang", "precision": "fp32", "batchSize": 1, "round": 0}]

    assert fault_at(faults, **place) is expected


def test_round_0_is_a_round_and_not_all_of_them():
    assert fault_at([{"fault": "hang", "round": 0}], round_=1) is None


def test_of_several_faults_the_first_that_matches_strikes():
    faults = [{"fault": "crash", "batchSize": 8}, {"fault": "exit"}, {"fault": "hang"}]

    assert fault_at(faults, batch_size=8) is Fault.CRASH
    assert fault_at(faults, batch_size=1) is Fault.EXIT


@pytest.mark.parametrize(("text", "expected"), [("2.5%", 0.025), ("0%", 0), ("100%", 1)])
def test_share(text, expected):
    assert script.share(text) == expected
