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

COMPILED = scripted_plan(backends=["torch-compile"], batchSizes=[1, 2], backendOptions={})
"""A sweep that loads for minutes."""


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

    assert stream.getvalue().endswith(f": batch 1 {outcome} (TheReason: it did.); batch 2 20.0 ms\n")


def test_a_reason_is_told_where_it_is_met_first(spoken, stream):
    failed = [ended(Outcome.FAILED, 1), ended(Outcome.FAILED, 2)]
    for sweep in PLAN.sweeps[:2]:
        spoken.finished(sweep, a_result(PLAN, sweep, failed))

    assert [line.partition(": ")[2] for line in stream.getvalue().splitlines()] == [
        "batch 1 Failed (TheReason: it did.); batch 2 Failed",
        "batch 1 Failed; batch 2 Failed",
    ]


class Clock:
    """Runs what is to come when a test says so."""

    def __init__(self) -> None:
        self.waiting: list[Alarm] = []

    def __call__(self, seconds, call):
        assert seconds == progress.PLAIN_SECONDS
        return Alarm(self, call)

    def goes_on(self) -> None:
        """Let the time pass."""
        waiting, self.waiting = self.waiting, []
        for alarm in waiting:
            alarm.call()


class Alarm:
    def __init__(self, clock, call) -> None:
        self.clock, self.call = clock, call

    def start(self) -> None:
        self.clock.waiting.append(self)

    def cancel(self) -> None:
        if self in self.clock.waiting:
            self.clock.waiting.remove(self)


def heard(spoken, sweep, stage, **said):
    spoken.heard(sweep, {"event": "progress", "stage": stage, **said})


def test_without_a_terminal_what_goes_on_for_long_is_a_line_each(stream):
    clock = Clock()
    spoken = Spoken(Console(file=stream, width=40, markup=False, highlight=False), COMPILED, 0, clock)
    (sweep,) = COMPILED.sweeps
    spoken.started(sweep)
    heard(spoken, sweep, "preparing the model")
    heard(spoken, sweep, "making the weights of resnet50")
    clock.goes_on()
    heard(spoken, sweep, "loading", batchSize=1)
    clock.goes_on()
    heard(spoken, sweep, "measuring", batchSize=1, latencyNanoseconds=10**7)
    clock.goes_on()
    heard(spoken, sweep, "measuring", batchSize=2, latencyNanoseconds=10**7)
    clock.goes_on()

    where = "  sweep 1 of 1, torch-compile/fp32, round 1 of 1: "
    assert stream.getvalue().splitlines() == [
        f"{where}making the weights of resnet50",
        f"{where}batch 1: loading and compiling",
        f"{where}batch 2: measuring, 10.0 ms so far",
    ]


def test_what_is_over_is_not_told_any_more(stream):
    clock = Clock()
    spoken = Spoken(Console(file=stream, markup=False, highlight=False), PLAN, 0, clock)
    heard(spoken, PLAN.sweeps[0], "loading", batchSize=1)
    spoken.finished(PLAN.sweeps[0], None)
    heard(spoken, PLAN.sweeps[1], "loading", batchSize=1)
    spoken.closed()
    clock.goes_on()

    assert len(stream.getvalue().splitlines()) == 1


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
    ("seconds", "finished", "running", "left", "text"),
    [
        pytest.param(0, 0, 100, 4, "", id="before the first sweep has ended nothing is known"),
        pytest.param(10, 2, 0, 3, " (about 15 s left)", id="the others take as long as those that have ended"),
        pytest.param(10, 2, 4, 3, " (about 11 s left)", id="what the running one took is over"),
        pytest.param(10, 2, 40, 3, " (about 10 s left)", id="one over its time leaves the others theirs"),
        pytest.param(10, 2, 4.4, 1, " (about 1 s left)", id="the last one is about to end"),
        pytest.param(10, 2, 4.6, 1, "", id="the last one ends at any moment"),
        pytest.param(10, 2, 40, 1, "", id="the last one is over its time, so nothing is known"),
        pytest.param(89, 1, 0, 1, " (about 89 s left)", id="seconds"),
        pytest.param(90, 1, 0, 1, " (about 2 min left)", id="minutes from one and a half"),
        pytest.param(600, 1, 0, 40, " (about 400 min left)", id="many"),
    ],
)
def test_the_time_left_follows_from_what_was_seen(seconds, finished, running, left, text):
    assert progress.time_left(seconds, finished, running, left) == text


def test_the_time_left_never_grows_while_a_sweep_runs():
    told = [progress.time_left(5, 1, running, 1) for running in (0, 1, 3, 4, 5, 7)]

    assert told == [*(f" (about {seconds} s left)" for seconds in (5, 4, 2, 1)), "", ""]


def test_on_a_terminal_the_time_left_counts_down_with_the_clock(stream):
    """The last of two sweeps, 3 s after the first has ended, which took 5 s."""
    times = iter([100, 105, 108])
    terminal = Console(file=stream, force_terminal=True, width=200, markup=False, highlight=False)
    spoken = Spoken(terminal, PLAN, 2, clock=lambda: next(times))
    spoken.finished(PLAN.sweeps[2], None)
    heard(spoken, PLAN.sweeps[3], "measuring")
    spoken.closed()

    assert "sweep 4 of 4, fake/fp32, round 2 of 2: measuring (about 2 s left)" in stream.getvalue()
