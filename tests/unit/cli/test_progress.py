import io

import pytest
from rich.console import Console

from inferbench_cli import progress
from inferbench_cli.progress import Silent, Spoken
from inferbench_contract.words import Outcome
from tests.documents import rounds, scripted_plan
from tests.results import a_result, ended, measured

PLAN = scripted_plan(precisions=["fp32", "fp16"], batchSizes=[1, 2], measurement=rounds(2))
"""Four sweeps of two cells."""


@pytest.fixture
def stream() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def spoken(stream) -> Spoken:
    """Progress where nobody sits at a terminal."""
    return Spoken(Console(file=stream, width=40, markup=False, highlight=False), PLAN, 0)


def test_a_sweep_is_a_line_when_it_has_ended(spoken, stream):
    sweep = PLAN.sweeps[1]
    spoken.started(sweep)
    spoken.heard(sweep, {"event": "progress", "stage": "measuring", "batchSize": 1, "latencyNanoseconds": 10**7})
    spoken.finished(sweep, a_result(PLAN, sweep, [measured(1, 10), measured(2, 20.5)]))
    spoken.closed()

    assert stream.getvalue() == "sweep 2 of 4, fake/fp16, round 1 of 2: batch 1 10.0 ms; batch 2 20.5 ms\n"


@pytest.mark.parametrize("outcome", [outcome for outcome in Outcome if outcome is not Outcome.MEASURED])
def test_a_cell_that_is_not_measured_tells_its_outcome(spoken, stream, outcome):
    """Also an inaccurate one, which has a latency that nobody should quote."""
    cells = [ended(outcome, 1, latency_median_ns=10**7), measured(2, 20)]
    spoken.finished(PLAN.sweeps[0], a_result(PLAN, 0, cells))

    assert stream.getvalue().endswith(f": batch 1 {outcome}; batch 2 20.0 ms\n")


@pytest.mark.parametrize("result", [None, a_result(PLAN, 0)])
def test_a_sweep_that_was_lost_has_no_result(spoken, stream, result):
    spoken.finished(PLAN.sweeps[0], result)

    assert stream.getvalue() == "sweep 1 of 4, fake/fp32, round 1 of 2: no result\n"


@pytest.mark.parametrize(
    "said",
    [
        pytest.param({}, id="nothing"),
        pytest.param({"event": "progress"}, id="no stage"),
        pytest.param({"event": "progress", "stage": ["x"], "latencyNanoseconds": "fast"}, id="of other types"),
        pytest.param({"event": "progress", "stage": "[/red]", "batchSize": "[b]"}, id="that looks like markup"),
    ],
)
def test_what_a_runner_says_never_ends_the_run(said):
    on_terminal = Spoken(Console(file=io.StringIO(), force_terminal=True, markup=False), PLAN, 0)

    on_terminal.started(PLAN.sweeps[0])
    on_terminal.heard(PLAN.sweeps[0], said)
    on_terminal.closed()


def test_silence_says_nothing(capsys):
    silent = Silent()
    silent.started(PLAN.sweeps[0])
    silent.heard(PLAN.sweeps[0], {"event": "progress"})
    silent.finished(PLAN.sweeps[0], None)
    silent.closed()

    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("seconds", "finished", "left", "text"),
    [
        pytest.param(100, 0, 4, "", id="before the first sweep has ended nothing is known"),
        pytest.param(10, 2, 3, " (about 15 s left)", id="the others take as long as those that have ended"),
        pytest.param(89, 1, 1, " (about 89 s left)", id="seconds"),
        pytest.param(90, 1, 1, " (about 2 min left)", id="minutes from one and a half"),
        pytest.param(600, 1, 40, " (about 400 min left)", id="many"),
    ],
)
def test_the_time_left_follows_from_what_was_seen(seconds, finished, left, text):
    assert progress.time_left(seconds, finished, left) == text
