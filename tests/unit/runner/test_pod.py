"""What a pod reads of its environment, and what it prints for those who read its log."""

from __future__ import annotations

from pathlib import Path

import pytest

from inferbench_contract.errors import InferbenchError
from inferbench_contract.words import Outcome
from inferbench_runner import pod
from inferbench_runner.pod import Asked, Log
from tests.results import a_plan

PLAN = a_plan().dump()
GOOD = {"INFERBENCH_PLAN": PLAN, "JOB_COMPLETION_INDEX": "2", "HOME": "/tmp"}


def asked(**changes):
    """Read a good environment with other variables; None takes one away."""
    return pod.read({name: text for name, text in {**GOOD, **changes}.items() if text is not None})


def mistakes(**changes):
    with pytest.raises(pod.WrongEnvironment) as raised:
        asked(**changes)
    assert isinstance(raised.value, InferbenchError)
    return str(raised.value).splitlines()


class TestRead:
    def test_what_kubernetes_and_the_operator_set_is_enough(self):
        assert asked() == Asked(
            PLAN, "INFERBENCH_PLAN", 2, None, Path("/models"), Path("/tmp/.cache/inferbench"), 9_091
        )

    def test_everything_can_be_said(self):
        said = {
            "INFERBENCH_SWEEPS": "3,7-9",
            "INFERBENCH_MODELS": "/elsewhere",
            "INFERBENCH_CACHE": "/var/cache/inferbench",
            "INFERBENCH_METRICS_PORT": "0",
        }

        found = asked(**said)

        assert found.sweeps == (3, 7, 8, 9)
        assert (found.model_folder, found.cache) == (Path("/elsewhere"), Path("/var/cache/inferbench"))
        assert found.metrics_port == 0

    def test_an_empty_variable_is_as_good_as_none(self):
        names = ("PLAN_FILE", "SWEEPS", "MODELS", "CACHE", "METRICS_PORT")

        assert asked(**{f"INFERBENCH_{name}": "" for name in names}) == asked()

    def test_the_plan_may_be_in_a_file(self, tmp_path):
        file = tmp_path / "plan.json"
        file.write_text(PLAN)

        found = asked(INFERBENCH_PLAN=None, INFERBENCH_PLAN_FILE=str(file))

        assert (found.plan, found.plan_source) == (PLAN, str(file))

    def test_every_mistake_is_named_at_once(self):
        found = mistakes(
            INFERBENCH_PLAN=None,
            JOB_COMPLETION_INDEX="two",
            INFERBENCH_SWEEPS="7,3",
            INFERBENCH_METRICS_PORT="http",
        )

        assert found == [
            "expected the plan in INFERBENCH_PLAN or in the file that INFERBENCH_PLAN_FILE names, and none is set",
            "JOB_COMPLETION_INDEX is 'two', expected a whole number, as Kubernetes gives it to pods of an Indexed Job",
            "INFERBENCH_SWEEPS: found '3', expected numbers of sweeps in ascending order, such as 3,7-9",
            "INFERBENCH_METRICS_PORT is 'http', expected a port from 1 to 65535, or 0 for no metrics",
        ]

    @pytest.mark.parametrize(
        ("changes", "mistake"),
        [
            pytest.param({"INFERBENCH_PLAN_FILE": "/plan"}, "and both are set", id="two plans"),
            pytest.param({"JOB_COMPLETION_INDEX": None}, "is not set, expected a whole number", id="no index"),
            pytest.param({"JOB_COMPLETION_INDEX": "-1"}, "is '-1'", id="a negative index"),
            pytest.param({"JOB_COMPLETION_INDEX": "9" * 5_000}, "is '999", id="an index of 5,000 digits"),
            pytest.param({"JOB_COMPLETION_INDEX": "٣"}, "is '٣'", id="a digit of another script"),
            pytest.param({"INFERBENCH_METRICS_PORT": "65536"}, "is '65536'", id="a port that is none"),
            pytest.param(
                {"INFERBENCH_PLAN": None, "INFERBENCH_PLAN_FILE": "/nowhere/plan.json"},
                "INFERBENCH_PLAN_FILE names /nowhere/plan.json, which cannot be read: [Errno 2] No such file",
                id="a file that is not there",
            ),
        ],
    )
    def test_a_mistake_says_what_was_found(self, changes, mistake):
        (found,) = mistakes(**changes)

        assert mistake in found


class TestSweep:
    @pytest.mark.parametrize(
        ("index", "sweeps", "expected"),
        [
            pytest.param("2", "", 2, id="the index is the sweep"),
            pytest.param("0", "3,7-9", 3, id="it counts in the list where there is one"),
            pytest.param("3", "3,7-9", 9, id="to its last"),
        ],
    )
    def test_the_completion_index_says_which(self, index, sweeps, expected):
        assert asked(JOB_COMPLETION_INDEX=index, INFERBENCH_SWEEPS=sweeps).sweep == expected

    def test_an_index_beyond_the_list_is_a_mistake(self):
        beyond = asked(JOB_COMPLETION_INDEX="4", INFERBENCH_SWEEPS="3,7-9")

        with pytest.raises(pod.WrongEnvironment) as raised:
            _ = beyond.sweep

        assert str(raised.value) == (
            "JOB_COMPLETION_INDEX is 4 and INFERBENCH_SWEEPS is 3,7-9, expected an index from 0 to 3"
        )


class TestLog:
    def test_each_stage_and_each_end_of_a_cell_is_a_line(self, capsys):
        log = Log()
        for said in (
            {"event": "progress", "stage": "preparing the model"},
            {"event": "model", "reason": "which the cells tell"},
            {"event": "progress", "stage": "loading", "batchSize": 1},
            {"event": "progress", "stage": "measuring", "calls": 10, "latencyNanoseconds": 1, "batchSize": 1},
            {"event": "progress", "stage": "measuring", "calls": 20, "latencyNanoseconds": 2, "batchSize": 1},
            ended(1, Outcome.MEASURED, latencyNanoseconds=29_600_000),
            {"event": "progress", "stage": "loading", "batchSize": 8},
            ended(8, Outcome.CRASHED, reason="SIGSEGV: it was\nkilled."),
        ):
            log.hear(said)

        assert capsys.readouterr().out.splitlines() == [
            "preparing the model",
            "batch 1: loading",
            "batch 1: measuring",
            "batch 1: Measured, 29.6 ms",
            "batch 8: loading",
            "batch 8: Crashed. SIGSEGV: it was killed.",
        ]


def ended(batch_size, outcome, **said):
    """What a sweep tells of a cell that has ended."""
    return {
        "event": "cell",
        "batchSize": batch_size,
        "outcome": outcome,
        "reason": "",
        "latencyNanoseconds": None,
        **said,
    }
