"""The supervisor of a sweep with real cell processes: whatever becomes of one, the others are measured all the same."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from inferbench_contract.errors import EnvironmentFault
from inferbench_contract.plan import Plan
from inferbench_contract.result import CellResult, SweepResult
from inferbench_contract.words import Outcome
from inferbench_runner import memory, sweep
from tests import documents
from tests.results import a_result, measured


@dataclass
class Ran:
    """What a sweep did: every result that it delivered, and what it told meanwhile."""

    folder: Path
    delivered: list[SweepResult] = field(default_factory=list)
    told: list[Mapping[str, Any]] = field(default_factory=list)

    @property
    def scratch(self) -> Path:
        """A folder for temporary files, where a test makes one."""
        return self.folder / "scratch"

    @property
    def last(self) -> SweepResult:
        return self.delivered[-1]

    def cell(self, batch_size: int) -> CellResult:
        return next(cell for cell in self.last.cells if cell.batch_size == batch_size)

    @property
    def outcomes(self) -> dict[int, Outcome]:
        return {cell.batch_size: cell.outcome for cell in self.last.cells}

    def log(self, batch_size: int) -> str | None:
        """What the process of a cell printed, where that was kept."""
        file = self.folder / "logs" / f"fake-fp32-b{batch_size}-round1.log"
        return file.read_text() if file.exists() else None

    def start(
        self, plan: Plan, previous: SweepResult | None = None, is_asked_to_stop: Callable[[], bool] = lambda: False
    ) -> None:
        """Run the first sweep of a plan."""
        place = sweep.Place(
            model_folder=self.folder,
            cache=self.folder / "cache",
            samples=self.folder / "samples",
            logs=self.folder / "logs",
            tell=self.told.append,
            is_asked_to_stop=is_asked_to_stop,
        )
        sweep.run(plan, plan.sweeps[0], self.delivered.append, place, previous)


@pytest.fixture
def ran(tmp_path: Path) -> Ran:
    return Ran(tmp_path)


FAULTS = ("crash", "hang", "garbage", "no-result", "flood", "raise", "exit", "unsupported", "fell-back", "inaccurate",
          "not-finite", "slow", "eat-memory")  # fmt: skip
"""Every fault that does not end the whole run, in the order of batch sizes from 2; nothing is wrong at 1."""

AFTER = len(FAULTS) + 2
"""The batch size after the one that ate the memory, which is the last that is tried."""


def batch_of(fault: str) -> int:
    """Return the batch size that has a fault."""
    return FAULTS.index(fault) + 2


@pytest.fixture(scope="module")
def bad_day(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """A sweep in which everything goes wrong that can."""
    plan = documents.scripted_plan(
        batchSizes=list(range(1, AFTER + 1)),
        faults=[{"fault": fault, "batchSize": batch_of(fault)} for fault in FAULTS],
        timeoutSecondsPerSweep=60,
    )
    ran = Ran(tmp_path_factory.mktemp("bad-day"))
    ran.scratch.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(memory.LIMIT, "300")
        patch.setattr(tempfile, "tempdir", str(ran.scratch))
        ran.start(plan)
    return ran


def test_a_cell_says_when_it_made_its_calls_and_since_when_back_to_back(bad_day):
    """For who has read the GPU meanwhile: clocks of all of them, energy of the last."""
    (said,) = (told for told in bad_day.told if told.get("stage") == "checking" and told["batchSize"] == 1)

    assert said["measuredFrom"] < said["backToBackFrom"] < said["measuredTo"]


@pytest.mark.parametrize(
    ("fault", "outcome", "reason", "printed"),
    [
        ("crash", Outcome.CRASHED, "SIGSEGV: fake/fp32@2 was killed by a signal. about to crash", "about to crash"),
        ("hang", Outcome.TIMED_OUT, "TimeLimit: fake/fp32@3 took more than its ", None),
        ("garbage", Outcome.CRASHED, "NoResult: the process ended with status 0 but left a result that cannot", None),
        ("no-result", Outcome.CRASHED, "NoResult: the process ended with status 0 but left no result.", None),
        ("flood", Outcome.MEASURED, "", None),
        ("raise", Outcome.FAILED, "RuntimeError: Scripted: ", "Traceback"),
        ("exit", Outcome.CRASHED, "ExitStatus: fake/fp32@8 ended with status 7. giving up", "giving up"),
        ("unsupported", Outcome.UNSUPPORTED, "Scripted: ", None),
        ("fell-back", Outcome.FELL_BACK, "Scripted: ", "Traceback"),
        ("inaccurate", Outcome.INACCURATE, "Relative L2 error 0.33", None),
        ("not-finite", Outcome.INACCURATE, "Wrong outputs: ", None),
        ("slow", Outcome.MEASURED, "", None),
        ("eat-memory", Outcome.OUT_OF_MEMORY, "HostMemory: fake/fp32@14 held ", None),
    ],
)
def test_every_fault_becomes_an_outcome_with_its_reason(bad_day: Ran, fault, outcome, reason, printed) -> None:
    """And what the process printed last is kept where a person finds it."""
    cell, log = bad_day.cell(batch_of(fault)), bad_day.log(batch_of(fault))

    assert cell.outcome is outcome
    assert cell.reason.startswith(reason)
    assert log is None if printed is None else printed in log


def test_a_scripted_slowness_is_measured_as_what_it_is(bad_day: Ran) -> None:
    """Ten times what the script's calls take otherwise: to within 10 %."""
    sizes = [batch_of(fault) for fault in ("slow", "flood")]
    slow, flooded = (bad_day.cell(size).latency_median_ns / (40 + 0.25 * size) for size in sizes)

    assert slow / flooded == pytest.approx(10, rel=0.1)


def test_the_cells_around_a_fault_are_measured_all_the_same(bad_day: Ran) -> None:
    assert bad_day.cell(1).outcome is Outcome.MEASURED
    assert bad_day.cell(batch_of("flood")).outcome is Outcome.MEASURED
    assert set(bad_day.outcomes) == set(range(1, AFTER + 1))


def test_after_a_cell_was_out_of_memory_larger_batches_are_not_tried(bad_day: Ran) -> None:
    cell = bad_day.cell(AFTER)

    assert cell.outcome is Outcome.OUT_OF_MEMORY
    assert cell.reason == "AfterOutOfMemory: batch size 14 was out of memory already"
    assert AFTER not in {result.in_flight for result in bad_day.delivered}


def test_a_cell_is_named_as_in_flight_before_it_starts_and_delivered_when_it_has_ended(bad_day: Ran) -> None:
    tried = list(range(1, AFTER))

    assert [result.in_flight for result in bad_day.delivered if result.in_flight] == tried
    for result in bad_day.delivered:
        assert result.in_flight is None or [cell.batch_size for cell in result.cells] == tried[: result.in_flight - 1]


def test_the_raw_calls_of_measured_cells_are_kept(bad_day: Ran) -> None:
    kept = {file.name for file in (bad_day.folder / "samples").iterdir()}

    assert kept == {f"0-{size}.json.gz" for size in (1, *map(batch_of, ("flood", "inaccurate", "not-finite", "slow")))}


def test_a_library_that_reports_no_memory_spares_the_larger_batches_too(ran: Ran) -> None:
    ran.start(documents.scripted_plan(batchSizes=[1, 2, 4], faults=[{"fault": "out-of-memory", "batchSize": 2}]))

    assert ran.outcomes == {1: Outcome.MEASURED, 2: Outcome.OUT_OF_MEMORY, 4: Outcome.OUT_OF_MEMORY}
    assert ran.cell(2).reason.startswith("MemoryError: Scripted")


def test_the_cells_of_a_sweep_share_its_time_so_that_one_that_hangs_leaves_enough(ran: Ran) -> None:
    plan = documents.scripted_plan(
        batchSizes=[1, 2], faults=[{"fault": "hang", "batchSize": 1}], timeoutSecondsPerSweep=6
    )
    ran.start(plan)

    assert ran.outcomes == {1: Outcome.TIMED_OUT, 2: Outcome.MEASURED}


def test_what_the_machine_lacks_ends_the_sweep_at_once_and_keeps_what_it_has(ran: Ran) -> None:
    plan = documents.scripted_plan(batchSizes=[1, 2, 3], faults=[{"fault": "environment", "batchSize": 2}])

    with pytest.raises(EnvironmentFault, match=r"^fake/fp32@2: Scripted: fake/fp32@2 was to end as environment\.$"):
        ran.start(plan)

    assert ran.outcomes == {1: Outcome.MEASURED}
    assert ran.last.in_flight == 2


def test_a_sweep_that_is_asked_to_stop_gives_up_the_cell_in_flight_and_keeps_the_others(ran: Ran) -> None:
    plan = documents.scripted_plan(batchSizes=[1, 2, 3], faults=[{"fault": "hang", "batchSize": 2}])

    with pytest.raises(sweep.AskedToStop):
        ran.start(plan, is_asked_to_stop=lambda: bool(ran.delivered and ran.last.in_flight == 2))

    assert ran.outcomes == {1: Outcome.MEASURED}


MEASURED_BEFORE = measured(1, latency_ms=123)


@pytest.fixture(scope="module")
def went_on(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """A sweep that began an hour ago and was interrupted after twenty seconds, of which it prepared for five."""
    plan, ran = documents.scripted_plan(batchSizes=[1, 2]), Ran(tmp_path_factory.mktemp("went-on"))
    an_hour_ago_ms = time.time_ns() // 1_000_000 - 3_600_000
    times = {"started_ms": an_hour_ago_ms, "finished_ms": an_hour_ago_ms + 20_000, "prepare_ms": 5_000}
    ran.start(plan, previous=a_result(plan, cells=[MEASURED_BEFORE], **times))
    return ran


def test_what_an_earlier_run_measured_is_not_measured_again(went_on: Ran) -> None:
    assert went_on.cell(1) == MEASURED_BEFORE
    assert went_on.cell(2).latency_median_ns != MEASURED_BEFORE.latency_median_ns
    assert [result.in_flight for result in went_on.delivered if result.in_flight] == [2]


def test_the_pause_after_an_interruption_counts_as_nobody_s_time(went_on: Ran) -> None:
    assert 20_000 <= went_on.last.finished_ms - went_on.last.started_ms < 600_000
    assert went_on.last.prepare_ms >= 5_000


def test_a_sweep_leaves_nothing_in_the_folder_for_temporary_files(bad_day: Ran) -> None:
    assert list(bad_day.scratch.iterdir()) == []


def test_without_a_folder_for_temporary_files_the_sentence_says_what_to_do(ran: Ran, monkeypatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(ran.folder / "missing"))

    with pytest.raises(EnvironmentFault, match=r"missing cannot be written: No such file .* set TMPDIR"):
        ran.start(documents.scripted_plan())


GOOD = {"batch_size": 2, "outcome": "Measured", "reason": "", "doubts": ["Drifted"], "latency_median_ns": 1_000}
"""What a cell process writes."""


class TestReadCellResult:
    """What a cell process left is read as if a stranger had written it."""

    def read(self, tmp_path: Path, **said: object) -> CellResult:
        file = tmp_path / "result.json"
        file.write_text(json.dumps({**GOOD, **said}))
        return sweep.read_cell_result(file, 2)

    def test_a_result_is_read(self, tmp_path) -> None:
        assert self.read(tmp_path).latency_median_ns == 1_000

    @pytest.mark.parametrize(
        "said",
        [
            pytest.param({"latency_median_ns": "fast"}, id="text for a number"),
            pytest.param({"latency_median_ns": 1.5}, id="a fraction"),
            pytest.param({"latency_median_ns": True}, id="a truth for a number"),
            pytest.param({"latency_median_ns": float("nan")}, id="NaN"),
            pytest.param({"latency_median_ns": None}, id="measured, but no latency"),
            pytest.param({"latency_median_ns": -5}, id="a negative latency"),
            pytest.param({"samples": [1]}, id="a list for a number"),
            pytest.param({"outcome": "Splendid"}, id="an outcome that is none"),
            pytest.param({"doubts": ["Bored"]}, id="a doubt that is none"),
            pytest.param({"doubts": "Drifted"}, id="text for a list"),
            pytest.param({"reason": None}, id="no reason"),
            pytest.param({"reason": "x" * 100_000}, id="larger than any result"),
            pytest.param({"batch_size": 4}, id="the result of another cell"),
        ],
    )
    def test_what_is_not_a_result_of_this_cell_is_refused(self, tmp_path, said) -> None:
        with pytest.raises(ValueError, match=r"."):
            self.read(tmp_path, **said)

    @pytest.mark.parametrize("payload", [b"", b"null", b"[]", b"{}", b"{", b"\xff\x00", b"[" * 10_000])
    def test_nonsense_is_refused(self, tmp_path, payload) -> None:
        file = tmp_path / "result.json"
        file.write_bytes(payload)

        with pytest.raises(ValueError, match=r"."):
            sweep.read_cell_result(file, 2)
