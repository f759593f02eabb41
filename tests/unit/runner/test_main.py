"""What the runner tells of a machine and a plan before anything is measured."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from inferbench_contract.errors import EnvironmentFault
from inferbench_contract.words import Backend, Precision
from inferbench_runner import __main__ as program
from inferbench_runner import backends
from tests.documents import scripted_plan

REASON = "NoKernel: this processor has no avx512_fp16."


@pytest.fixture
def told(tmp_path, monkeypatch, capsys):
    """Ask about a plan of four strategies, one of which this machine cannot do."""
    file = tmp_path / "plan.json"
    strategies = {"backends": ["fake", "openvino"], "precisions": ["fp32", "fp16"], "backendOptions": {}}
    file.write_text(scripted_plan(**strategies, batchSizes=[1, 8]).dump())

    def ask(missing):
        monkeypatch.setattr(backends, "find", lambda backend: SimpleNamespace(missing=missing(backend)))
        arguments = program._parser().parse_args(["environment", "--plan", str(file)])
        assert arguments.run(arguments) == 0
        return json.loads(capsys.readouterr().out)

    return ask


def test_what_this_machine_cannot_do_of_a_plan_is_told_with_its_reason(told):
    def missing(backend):
        return lambda precision, _: REASON if (backend, precision) == (Backend.OPENVINO, Precision.FP16) else None

    assert told(missing)["unsupportedHere"] == {"openvino/fp16": REASON}


def test_a_device_that_is_not_there_is_left_to_the_first_sweep_which_ends_the_run(told):
    def missing(_):
        def lacks_a_device(*_):
            raise EnvironmentFault("no GPU")

        return lacks_a_device

    assert told(missing)["unsupportedHere"] == {}


def test_a_model_that_only_a_script_plays_is_not_looked_for(tmp_path, capsys):
    file = tmp_path / "plan.json"
    image = {"name": "image", "shape": [3, 32, 32]}
    file.write_text(scripted_plan(model={"python": {"factory": "nowhere:make"}, "inputs": [image]}).dump())
    arguments = program._parser().parse_args(["environment", "--plan", str(file)])

    assert arguments.run(arguments) == 0

    assert json.loads(capsys.readouterr().out)["modelSha256"] is None
