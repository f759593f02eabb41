import csv
import io
import itertools
from pathlib import Path

import pytest

from inferbench_cli import run
from inferbench_cli.folder import Folder
from inferbench_cli.progress import Silent
from inferbench_contract import plan as plans
from inferbench_contract import result as results
from inferbench_contract.errors import EnvironmentFault, InferbenchError, PlanError
from inferbench_contract.spec import InferenceBenchmark
from inferbench_contract.summary import Summary, summarize
from inferbench_contract.words import Doubt, Outcome
from tests.documents import rounds, scripted_benchmark, scripted_text
from tests.results import cell, compared, ended, measured, results_for

PROMISED = (
    "backend,precision,batch_size,outcome,latency_median_ns,latency_low_ns,latency_high_ns,latency_p90_ns,"
    "latency_p99_ns,throughput_milli_per_second,speedup_milli,speedup_low_milli,speedup_high_milli,verdict,doubts,"
    "rounds,samples,reason"
)
"""The beginning of the header of cells.csv, as the design has it."""

TWO = {"precisions": ["fp32", "fp16"], "measurement": rounds(2)}
"""Two strategies in two rounds; the first is the baseline."""


def summary_of(benchmark: InferenceBenchmark, latency_of) -> Summary:
    """Return the summary of a benchmark whose cells took so long, by strategy, batch size and round."""
    plan = plans.expand(benchmark)
    return summarize(benchmark, plan, results_for(plan, latency_of))


def table_of(found: Summary, samples=None) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(run.cells_csv(found, samples or {}))))


class TestExitStatus:
    FAULTS = (None, PlanError("the plan"), EnvironmentFault("the machine"), InferbenchError("a lost sweep"))

    @pytest.mark.parametrize(
        ("interrupted", "fault", "failed", "broken"),
        list(itertools.product((False, True), FAULTS, (False, True), (False, True))),
    )
    def test_of_several_the_first_of_130_2_3_1_4_counts(self, interrupted, fault, failed, broken):
        promise = {"name": "same", "equal": "fake/fp32", "to": "fake/fp16", "within": "5%", "batchSizes": [1]}
        benchmark = scripted_benchmark(**TWO, expectations=[promise], batchSizes=[1, 2])

        def latency_of(strategy, batch_size, round_):
            if failed and batch_size == 2:
                return ended(Outcome.CRASHED, batch_size)
            return measured(batch_size, 20 if broken and strategy.precision == "fp16" else 10)

        found = summary_of(benchmark, latency_of)
        ways = {
            130: interrupted,
            2: isinstance(fault, PlanError),
            3: isinstance(fault, EnvironmentFault),
            1: failed or type(fault) is InferbenchError,
            4: broken,
        }

        status = run.exit_status(run.Ended(found, Folder(Path()), interrupted, fault), benchmark)

        assert status == next((status for status, applies in ways.items() if applies), 0)

    @pytest.mark.parametrize(("allowed", "status"), [(1, 1), (2, 0)])
    def test_as_many_cells_may_fail_as_the_file_allows(self, allowed, status):
        benchmark = scripted_benchmark(batchSizes=[1, 2, 3], maxFailedCells=allowed)
        found = summary_of(benchmark, lambda _, size, __: measured(1) if size == 1 else ended(Outcome.FAILED, size))

        assert run.exit_status(run.Ended(found, Folder(Path()), False, None), benchmark) == status

    @pytest.mark.parametrize(
        ("outcome", "accuracy", "status"),
        [
            pytest.param(Outcome.UNSUPPORTED, {}, 0, id="what cannot be done never counts as failed"),
            pytest.param(Outcome.INACCURATE, {}, 0, id="nor does what is inaccurate"),
            pytest.param(Outcome.INACCURATE, {"onViolation": "Fail"}, 1, id="unless the file says so"),
            pytest.param(Outcome.FELL_BACK, {}, 1, id="what ran as something else has failed"),
        ],
    )
    def test_what_counts_as_failed(self, outcome, accuracy, status):
        benchmark = scripted_benchmark(accuracy=accuracy, batchSizes=[1, 2])
        found = summary_of(benchmark, lambda _, size, __: measured(1) if size == 1 else ended(outcome, size))

        assert run.exit_status(run.Ended(found, Folder(Path()), False, None), benchmark) == status

    @pytest.mark.parametrize("outcome", [Outcome.UNSUPPORTED, Outcome.CRASHED])
    def test_where_nothing_was_measured_it_is_1_however_many_cells_may_fail(self, outcome):
        benchmark = scripted_benchmark(batchSizes=[1, 2], maxFailedCells=2)
        found = summary_of(benchmark, lambda _, size, __: ended(outcome, size))

        assert run.exit_status(run.Ended(found, Folder(Path()), False, None), benchmark) == 1


class TestRefusal:
    """What is said where the model cannot be prepared."""

    def test_it_names_the_log_that_has_the_traceback(self, tmp_path):
        log = tmp_path / "preparing.log"
        log.write_text("Traceback (most recent call last): ...")

        told = run.refusal("ValueError: depth is 7.", log)

        assert f" ends here: ValueError: depth is 7. What was printed meanwhile is in {log}. Mend the model " in told

    def test_without_a_log_it_names_none(self, tmp_path):
        assert "printed" not in run.refusal("ValueError", tmp_path / "preparing.log")


class TestCellsCsv:
    def test_the_header_begins_with_what_is_promised(self):
        found = summary_of(scripted_benchmark(), lambda *_: 10)

        assert run.cells_csv(found, {}).startswith(PROMISED + ",")
        assert len(set(run.CSV_HEADER)) == len(run.CSV_HEADER)

    def test_numbers_are_whole_and_in_the_unit_of_their_column(self):
        """Two rounds of 10 ms for the baseline, of 5 ms for the other: twice as fast in each."""
        found = summary_of(scripted_benchmark(**TWO), lambda strategy, *_: 10 if strategy.precision == "fp32" else 5)
        fp32, fp16 = table_of(found)

        assert [fp16[name] for name in PROMISED.split(",")] == [
            "fake", "fp16", "1", "Measured", "5000000", "5000000", "5000000", "", "", "200000",
            "2000", "2000", "2000", "Faster", "", "2", "200", "",
        ]  # fmt: skip
        assert (fp32["speedup_milli"], fp32["verdict"]) == ("", ""), "nothing is faster than itself"

    def test_percentiles_are_of_the_calls_of_all_rounds_together(self):
        """Of 1 to 1,000 the nearest rank gives 900 and 990, whichever round they were in."""
        found = summary_of(scripted_benchmark(measurement=rounds(2)), lambda *_: 10)
        samples = {(cell("fake/fp32@1"), 0): range(1, 501), (cell("fake/fp32@1"), 1): range(501, 1001)}
        (row,) = table_of(found, samples)

        assert (row["latency_p90_ns"], row["latency_p99_ns"]) == ("900", "990")

    def test_without_the_calls_of_some_round_there_are_no_percentiles(self):
        found = summary_of(scripted_benchmark(measurement=rounds(2)), lambda *_: 10)
        (row,) = table_of(found, {(cell("fake/fp32@1"), 0): range(1, 1001)})

        assert (row["latency_p90_ns"], row["latency_p99_ns"]) == ("", "")

    def test_what_was_not_measured_is_empty_and_says_why(self):
        reason = 'Scripted: "a, b"\nand more'
        found = summary_of(scripted_benchmark(), lambda *_: ended(Outcome.CRASHED, reason=reason))
        (row,) = table_of(found)

        assert (row["outcome"], row["reason"]) == ("Crashed", reason)
        assert {row[name] for name in PROMISED.split(",")[4:14]} == {""}

    def test_what_has_no_result_yet_is_missing(self):
        found = summary_of(scripted_benchmark(**TWO), lambda *_: None)

        assert [row["outcome"] for row in table_of(found)] == ["Missing", "Missing"]

    def test_doubts_are_counted_by_rounds(self):
        def latency_of(_, __, round_):
            return measured(doubts=(Doubt.DRIFTED, Doubt.FEW_SAMPLES) if round_ else (Doubt.DRIFTED,))

        (row,) = table_of(summary_of(scripted_benchmark(measurement=rounds(2)), latency_of))

        assert row["doubts"] == "Drifted:2;FewSamples:1"

    def test_energy_is_what_the_rounds_took_together_for_an_input(self):
        """300 W and 320 W at 4,000 inputs a second each are 77.5 mJ an input."""
        milliwatts = (300_000, 320_000)

        def latency_of(_, __, round_):
            return measured(power_milliwatts=milliwatts[round_], throughput_milli_per_second=4_000_000)

        (row,) = table_of(summary_of(scripted_benchmark(measurement=rounds(2)), latency_of))

        assert (row["power_milliwatts"], row["energy_microjoules_per_input"]) == ("310000", "77500")

    def test_accuracy_is_that_of_the_round_that_compared_most(self):
        told = (compared(0.97), compared(0.875, compared_examples=8, relative_l2_parts_per_billion=90_000_000))

        (row,) = table_of(
            summary_of(scripted_benchmark(measurement=rounds(2)), lambda _, __, round_: measured(**told[round_]))
        )

        assert {name: row[name] for name in compared(1)} == {name: str(value) for name, value in told[0].items()}

    def test_clocks_are_the_middle_and_reasons_for_low_ones_are_counted(self):
        clocks, bits = (1_980, 1_200), (0b0, 0b1)

        def latency_of(_, __, round_):
            return measured(sm_clock_mhz=clocks[round_], throttle_bits=bits[round_])

        (row,) = table_of(summary_of(scripted_benchmark(measurement=rounds(2)), latency_of))

        assert (row["sm_clock_mhz"], row["throttle_reasons"]) == ("1590", "SwPowerCap:1")

    def test_heat_and_memory_are_the_most_of_all_rounds_and_power_is_the_middle(self):
        told = ((65, 320_000, 2_000), (71, 300_000, 1_900))
        names = ("gpu_temperature_max_celsius", "gpu_power_median_milliwatts", "gpu_memory_max_mib")

        def latency_of(_, __, round_):
            return measured(**dict(zip(names, told[round_], strict=True)))

        (row,) = table_of(summary_of(scripted_benchmark(measurement=rounds(2)), latency_of))

        assert [row[name] for name in names] == ["71", "310000", "2000"]

    def test_without_a_gpu_there_are_no_clocks(self):
        (row,) = table_of(summary_of(scripted_benchmark(), lambda *_: 10))

        assert (row["sm_clock_mhz"], row["throttle_reasons"]) == ("", "")

    def test_compile_times_are_the_median_of_the_rounds_apart_by_whether_their_cache_was_empty(self):
        told = ((900, 1), (100, 0), (300, 0), (None, None))

        def latency_of(_, __, round_):
            return measured(compile_ms=told[round_][0], compile_was_cold=told[round_][1])

        (row,) = table_of(summary_of(scripted_benchmark(measurement=rounds(4)), latency_of))

        assert (row["compile_cold_ms"], row["compile_warm_ms"]) == ("900", "200")

    def test_where_no_gpu_counted_it_there_is_no_energy(self):
        (row,) = table_of(summary_of(scripted_benchmark(), lambda *_: 10))

        assert (row["power_milliwatts"], row["energy_microjoules_per_input"]) == ("", "")


class TestWriteAnswer:
    def test_it_is_the_same_whenever_it_is_written(self, tmp_path):
        benchmark = scripted_benchmark(**TWO)
        plan = plans.expand(benchmark)
        (tmp_path / "results").mkdir()
        for result in results_for(plan, lambda *_: 10):
            (tmp_path / "results" / f"{result.sweep}.json").write_bytes(results.encode(result))
        names = ("summary.json", "cells.csv", "report.html")

        found = run.write_answer(Folder(tmp_path), benchmark, plan)
        first = [(tmp_path / name).read_bytes() for name in names]
        run.write_answer(Folder(tmp_path), benchmark, plan)

        assert [(tmp_path / name).read_bytes() for name in names] == first
        assert first[0].decode() == found.dump()

    def test_of_nothing_there_is_an_answer_too(self, tmp_path):
        benchmark = scripted_benchmark()
        found = run.write_answer(Folder(tmp_path), benchmark, plans.expand(benchmark))

        assert found.counts.missing == 1
        assert (tmp_path / "report.html").read_text().startswith("<!")


FACTORY = {"python": {"factory": "mine:make"}, "inputs": [{"name": "image", "shape": [3, 32, 32]}]}

NOW = {"fingerprint": "a machine", "modelSha256": "1", "governor": "powersave"}


class TestWhatDiffers:
    @pytest.mark.parametrize(
        ("before", "differs"),
        [
            pytest.param(NOW, None, id="the same"),
            pytest.param({}, None, id="nothing is known"),
            pytest.param({**NOW, "modelSha256": None}, None, id="nobody wrote down of which model they are"),
            pytest.param(
                {**NOW, "modelSha256": "2"},
                "The code of the model (mine:make) is not what was measured",
                id="of another model",
            ),
            pytest.param(
                {**NOW, "fingerprint": "another", "governor": "performance"},
                "This machine is not as it was (governor changed)",
                id="of another machine",
            ),
        ],
    )
    def test_results_of_two_machines_or_two_models_are_not_put_together(self, before, differs):
        assert run.what_differs(before, NOW, scripted_benchmark(model=FACTORY)) == differs

    def test_of_a_model_in_a_file_it_is_the_file_that_differs(self):
        file = scripted_benchmark(model={"onnx": {"path": "model.onnx"}})

        assert run.what_differs({"modelSha256": "2"}, NOW, file).startswith("The model's file is not the one")


class TestRun:
    @pytest.fixture
    def begun(self, tmp_path, monkeypatch):
        """Begins or goes on with a run of a factory whose code has this hash, of which every sweep is measured."""
        file = tmp_path / "models/bench.yaml"
        file.parent.mkdir()
        file.write_text(scripted_text(model=FACTORY))
        plan = plans.expand(scripted_benchmark(model=FACTORY))

        def begun(sha256):
            told = {"fingerprint": "a machine", "modelSha256": sha256}
            monkeypatch.setattr(run.machine, "describe", lambda *_: told)
            return run.run(file, tmp_path / "out", lambda *_: Silent(), fresh=False)

        (tmp_path / "out/results").mkdir(parents=True)
        for result in results_for(plan, lambda *_: 10):
            (tmp_path / f"out/results/{result.sweep}.json").write_bytes(results.encode(result))
        for name, text in {"plan.json": plan.dump(), "benchmark.yaml": file.read_text()}.items():
            (tmp_path / "out" / name).write_text(text)
        return begun

    def test_it_does_not_go_on_with_a_model_whose_code_was_changed(self, begun):
        begun("1")
        begun("1")

        with pytest.raises(
            EnvironmentFault, match=r"model \(mine:make\) is not .* --fresh to throw those results away"
        ):
            begun("2")

    def test_it_writes_down_where_the_model_lies_as_seen_from_its_results(self, begun, tmp_path):
        begun("1")

        assert Folder(tmp_path / "out").environment()["modelFolder"] == "../models"
