"""`inferbench run` and `report` on good days: real runs of the fake backend, what they print and what they leave.

What is asked of a run that is finished is asked without a process of its own (`tests.in_process`).
"""

from __future__ import annotations

import csv
import gzip
import json
import os
import pty
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from inferbench_cli import machine
from inferbench_contract.errors import EnvironmentFault
from tests import documents, in_process, programs
from tests.programs import PATIENCE_SECONDS, Place

PROMISED = [
    "backend", "precision", "batch_size", "outcome", "latency_median_ns", "latency_low_ns", "latency_high_ns",
    "latency_p90_ns", "latency_p99_ns", "throughput_milli_per_second", "speedup_milli", "speedup_low_milli",
    "speedup_high_milli", "verdict", "doubts", "rounds", "samples", "reason",
]  # fmt: skip
"""The first columns of cells.csv, as the design has them."""

STEADY = {"processSd": "0%", "callSd": "0.5%", "autocorrelation": "0%", "callMicroseconds": 12_000}
"""So little noise that two rounds decide, and enough calls for a p90 when all rounds are taken together."""

BROKEN_PROMISE = {"name": "ten-times", "faster": "fake/fp16", "than": "fake/fp32", "by": "10x"}
KEPT_PROMISE = {"name": "faster-at-all", "faster": "fake/fp16", "than": "fake/fp32"}

BENCHMARK = {
    "name": "good-day",
    "precisions": ["fp32", "fp16", "int8-static"],
    "measurement": documents.rounds(2),
    "exclude": [{"backend": "fake", "precision": "int8-static"}],
    "expectations": [KEPT_PROMISE, BROKEN_PROMISE],
    "script": {**STEADY, "speedups": {"fp16": "2x"}},
}
"""Two strategies, two rounds: four sweeps. One expectation holds, one does not."""

RESULTS = [f"results/{index}.json" for index in range(4)]
SAMPLES = [f"samples/{index}-1.json.gz" for index in range(4)]


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Place, subprocess.CompletedProcess[str]]]:
    """A run, and what it printed. Nobody changes its folder: tests work on copies."""
    with programs.place(tmp_path_factory.mktemp("once")) as place:
        yield place, place.run("run", place.write(**BENCHMARK), "--output", "out")


@pytest.fixture
def finished(place: Place, once) -> Path:
    """A copy of the run's folder."""
    shutil.copytree(once[0].folder / "out", place.folder / "out")
    return place.folder / "out"


MODEL = {"torchvision": {"name": "resnet50", "weights": {"path": "weights.pt"}}}
"""The fake backend does not read it, but its file is looked at."""

SHORT = {"name": "tiny", "model": MODEL, "batchSizes": [1, 2]}


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Place, subprocess.CompletedProcess[str]]]:
    """A run that was not told where to, beside files that are called as libraries are. Nobody changes it either."""
    with programs.place(tmp_path_factory.mktemp("short")) as place:
        for name in ("json", "numpy", "random", "inferbench_runner"):
            (place.folder / f"{name}.py").write_text("raise SystemExit('the wrong module')")
        (place.folder / "weights.pt").write_text("some")
        yield place, place.run("run", place.write(**SHORT), "--quiet")


@pytest.fixture
def short_again(place: Place, short) -> Path:
    """A copy of what that run read and wrote: its benchmark can be run again here. The folder of its results."""
    shutil.copytree(short[0].folder / "inferbench-results", place.folder / "inferbench-results")
    for name in ("bench.yaml", "weights.pt"):
        shutil.copy(short[0].folder / name, place.folder)
    (results,) = (place.folder / "inferbench-results").iterdir()
    return results


def times(folder: Path) -> dict[str, int]:
    """Return when each cell was measured."""
    return {file.name: file.stat().st_mtime_ns for file in (folder / "samples").iterdir()}


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "cells.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


class TestFinished:
    def test_plain_lines_tell_of_every_sweep_when_nobody_sits_at_a_terminal(self, once) -> None:
        _, done = once
        said = done.stdout.splitlines()
        lines = [line for line in said if not line.startswith((" ", "Load average "))]  # of a machine that is busy

        assert lines[0] == "2 cells in 2 rounds, 4 sweeps, to out/"
        assert lines.pop(1).startswith("Estimate: about 1 min;")
        assert lines.pop(1).startswith("Two rounds give very wide intervals;")
        for place, (strategy, round_) in enumerate([("fp32", 1), ("fp16", 1), ("fp16", 2), ("fp32", 2)], 1):
            expected = rf"sweep {place} of 4, fake/{strategy}, round {round_} of 2: batch 1 \d+\.\d+ ms"
            assert re.fullmatch(expected, lines[place])
        assert "\x1b" not in done.stdout
        assert done.stderr == ""

    def test_the_answer_is_a_table_a_sentence_for_each_batch_size_and_the_expectations(self, once) -> None:
        _, done = once

        assert "Best at each batch size; speedups are over fake/fp32, intervals are 95 %" in done.stdout
        row = r"^ +1 +fake/fp16 +6\.\d+ ms .*\d+ +(1\.9|2\.0).x .*Faster +L2 <0\.1% "
        assert re.search(row, done.stdout, re.MULTILINE)
        assert "\nBatch 1: fake/fp16 is fastest, " in done.stdout
        assert "\n  faster-at-all: holds, " in done.stdout
        assert "\n  ten-times: does not hold, " in done.stdout
        assert "\nEverything is in out/ (open report.html in a browser).\n" in done.stdout

    def test_an_expectation_that_does_not_hold_is_exit_status_4(self, once) -> None:
        _, done = once

        assert done.returncode == 4

    def test_the_folder_holds_what_the_design_says(self, finished: Path) -> None:
        found = {str(path.relative_to(finished)) for path in finished.rglob("*") if path.is_file()}

        whole = {"plan.json", "environment.json", "benchmark.yaml", "summary.json", "cells.csv", "report.html", ".lock"}
        assert found == {*whole, *RESULTS, *SAMPLES}

    def test_every_json_has_a_version(self, finished: Path) -> None:
        for name in ("plan.json", "environment.json", "summary.json"):
            assert json.loads((finished / name).read_text())["schemaVersion"] == 1
        for name in RESULTS:
            assert json.loads((finished / name).read_text())["v"] == 1
        for name in SAMPLES:
            assert json.loads(gzip.decompress((finished / name).read_bytes()))["schemaVersion"] == 1

    def test_the_first_columns_of_the_csv_are_the_promised_ones(self, finished: Path) -> None:
        header = (finished / "cells.csv").read_text().partition("\n")[0].split(",")

        assert header[: len(PROMISED)] == PROMISED
        assert len(set(header)) == len(header)

    def test_the_csv_has_a_row_for_each_cell(self, finished: Path) -> None:
        fp32, fp16 = rows(finished)

        assert [fp32[name] for name in PROMISED[:4]] == ["fake", "fp32", "1", "Measured"]
        assert (fp32["rounds"], fp32["verdict"], fp32["speedup_milli"]) == ("2", "", "")
        assert int(fp32["latency_low_ns"]) <= int(fp32["latency_median_ns"]) <= int(fp32["latency_high_ns"])
        assert abs(int(fp32["latency_median_ns"]) - 12_250_000) < 120_000
        assert int(fp32["latency_p90_ns"]) > int(fp32["latency_median_ns"]), "all rounds together are calls enough"
        assert (fp16["verdict"], round(int(fp16["speedup_milli"]), -2)) == ("Faster", 2000)

    def test_summary_csv_and_report_are_the_same_when_they_are_made_again(self, place: Place, finished: Path) -> None:
        before = {name: (finished / name).read_bytes() for name in ("summary.json", "cells.csv", "report.html")}
        for name in before:
            (finished / name).unlink()

        done = in_process.call(place, "report", "out", "--json")

        assert done.returncode == 0
        assert done.stdout.encode() == before["summary.json"]
        assert {name: (finished / name).read_bytes() for name in before} == before

    def test_the_report_does_without_the_raw_calls(self, place: Place, finished: Path, once) -> None:
        """Percentiles of all rounds together are what it then cannot tell."""
        whole = rows(finished)
        shutil.rmtree(finished / "samples")

        done = in_process.call(place, "report", "out")

        assert done.returncode == 0
        assert done.stdout.startswith("Best at each batch size")
        percentiles = {"latency_p90_ns": "", "latency_p99_ns": ""}
        assert rows(finished) == [{**row, **percentiles} for row in whole]
        assert (finished / "report.html").stat().st_size > 1_000

    def test_a_report_of_what_is_no_folder_of_results_says_so(self, place: Place) -> None:
        done = in_process.call(place, "report", place.folder)

        assert done.returncode == 2
        assert done.stderr == f"inferbench: {place.folder} holds no plan.json, so it is not a folder of results.\n"

    def test_a_report_judges_by_the_copy_of_the_file_and_refuses_one_that_asks_for_something_else(
        self, place: Place, finished: Path
    ) -> None:
        kept = {**BENCHMARK, "expectations": [KEPT_PROMISE]}
        (finished / "benchmark.yaml").write_text(documents.scripted_text(**kept))
        judged = in_process.call(place, "report", "out")
        (finished / "benchmark.yaml").write_text(documents.scripted_text(**{**kept, "batchSizes": [2]}))
        refused = in_process.call(place, "report", "out")

        assert judged.returncode == 0
        assert "ten-times" not in judged.stdout
        assert refused.returncode == 2
        assert re.match(r"inferbench: out/benchmark.yaml was changed: its plan is \w{10}, ", refused.stderr)


class TestAgain:
    """The same command on a folder that holds results."""

    def test_what_is_finished_is_not_measured_again_wherever_the_folder_is(self, place: Place, finished: Path) -> None:
        moved = finished.rename(place.folder / "elsewhere [1]")
        before, summary = times(moved), (moved / "summary.json").read_bytes()

        again = in_process.call(place, "run", place.write(**BENCHMARK), "--output", moved.name)

        assert again.returncode == 4
        assert times(moved) == before
        assert (moved / "summary.json").read_bytes() == summary
        assert again.stdout.startswith(
            "2 cells in 2 rounds, 4 sweeps, to elsewhere [1]/\n"
            "Nothing is left to measure: an earlier run finished 4 of 4 sweeps (--fresh starts over).\n"
        )

    def test_as_json_nothing_but_the_summary_is_printed(self, place: Place, finished: Path) -> None:
        done = in_process.call(place, "run", place.write(**BENCHMARK), "--output", "out", "--json")

        assert done.returncode == 4
        assert done.stdout == (finished / "summary.json").read_text()
        assert done.stderr == ""

    def test_quietly_only_the_answer_is_printed(self, place: Place, finished: Path, once) -> None:
        done = in_process.call(place, "run", place.write(**BENCHMARK), "--output", "out", "--quiet")

        spoken = once[1].stdout
        assert done.stdout == spoken[spoken.index("Best at each batch size") :]

    def test_an_expectation_that_was_changed_measures_nothing_again(self, place: Place, finished: Path) -> None:
        before = times(finished)
        done = in_process.call(
            place, "run", place.write(**{**BENCHMARK, "expectations": [KEPT_PROMISE]}), "--output", "out", "--quiet"
        )

        assert done.returncode == 0
        assert times(finished) == before

    def test_results_that_cannot_be_trusted_are_measured_again(self, place: Place, finished: Path) -> None:
        """One is cut off, one is of another plan, one is empty; the fourth is left alone."""
        cut, other, empty, good = (finished / name for name in RESULTS)
        cut.write_bytes(cut.read_bytes()[:100])
        other.write_text(other.read_text().replace('"plan":"', '"plan":"0'))
        empty.write_bytes(b"")
        (finished / "results" / ".3.json.77.tmp").write_text("half of a resu")
        before, kept = times(finished), good.read_bytes()

        done = place.run("run", place.write(**BENCHMARK), "--output", "out")

        now = times(finished)
        assert done.returncode == 4
        assert [name for name in sorted(now) if now[name] != before.get(name)] == sorted(before)[:3]
        assert good.read_bytes() == kept
        assert "going on: an earlier run finished 1 of 4 sweeps (" in done.stdout
        assert not [*finished.rglob("*.tmp")]

    def test_another_plan_is_refused_and_nothing_is_touched(self, place: Place, finished: Path) -> None:
        before = {
            path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file() and path.name != ".lock"
        }
        done = in_process.call(place, "run", place.write(**{**BENCHMARK, "batchSizes": [2]}), "--output", "out")

        assert done.returncode == 2
        assert re.fullmatch(
            r"inferbench: out holds results of plan \w{10}, and this benchmark's plan is \w{10}\. "
            r"Give --output another folder, or throw those results away with `inferbench run --fresh`\.\n",
            done.stderr,
        )
        assert {path: path.stat().st_mtime_ns for path in before} == before

    def test_a_plan_that_was_changed_by_hand_is_refused(self, place: Place, finished: Path) -> None:
        plan = finished / "plan.json"
        plan.write_text(plan.read_text().replace('"batchSizes":[1]', '"batchSizes":[2]'))

        done = in_process.call(place, "run", place.write(**BENCHMARK), "--output", "out")

        assert done.returncode == 2
        assert done.stderr.startswith("inferbench: out/plan.json was changed after it was written: ")
        assert done.stderr.endswith("Start over with `inferbench run --fresh`.\n")

    def test_fresh_measures_everything_again_and_leaves_what_is_not_ours(self, place: Place, short_again: Path) -> None:
        before = times(short_again)
        (short_again / "plan.json").write_text("no plan")
        (short_again / "notes.txt").write_text("mine")

        done = place.run("run", "bench.yaml", "--fresh", "--quiet")

        assert done.returncode == 0
        assert len(before) == 2
        assert times(short_again).keys() == before.keys()
        assert not times(short_again).items() & before.items()
        assert (short_again / "notes.txt").read_text() == "mine"

    @pytest.mark.parametrize("more", [(), ("--fresh",)])
    def test_a_folder_with_somebody_s_files_is_refused_and_nothing_is_touched(self, place: Place, more) -> None:
        """Even if they are called as ours are."""
        theirs = place.folder / "theirs"
        for name in ("results/thesis.tex", "logs/diary.txt", "summary.json"):
            (theirs / name).parent.mkdir(parents=True, exist_ok=True)
            (theirs / name).write_text("years of work")
        before = {path: path.stat().st_mtime_ns for path in theirs.rglob("*")}

        done = in_process.call(place, "run", place.write(**BENCHMARK), "--output", "theirs", *more)

        assert done.returncode == 2
        assert done.stderr == (
            "inferbench: theirs is not empty and no folder of results (it holds logs, results, summary.json). "
            "Give --output a new folder.\n"
        )
        assert {path: path.stat().st_mtime_ns for path in theirs.rglob("*")} == before

    def test_results_of_two_machines_are_not_put_together(self, place: Place, finished: Path) -> None:
        file = finished / "environment.json"
        environment = json.loads(file.read_text())
        file.write_text(
            json.dumps({**environment, "fingerprint": "another", "cpuModel": "Another CPU", "memoryBytes": 1})
        )

        done = in_process.call(place, "run", place.write(**BENCHMARK), "--output", "out")

        assert done.returncode == 3
        assert done.stderr == (
            "inferbench: This machine is not as it was (cpuModel changed) when out was begun, so the results cannot be "
            "put together. Give --output another folder, or --fresh to throw those results away.\n"
        )


class TestPlaces:
    def test_without_output_the_folder_is_named_after_the_benchmark_and_its_plan(self, short) -> None:
        place, done = short
        plan = documents.scripted_plan(**SHORT)

        assert done.returncode == 0
        assert [path.name for path in (place.folder / "inferbench-results").iterdir()] == [f"tiny-{plan.short_hash}"]

    def test_a_file_may_come_through_a_pipe_and_its_report_can_be_made_again(self, place: Place) -> None:
        promise = {"name": "larger-is-slower", "faster": "fake/fp32@1", "than": "fake/fp32@2"}
        text = documents.scripted_text(batchSizes=[1, 2], expectations=[promise])
        with place.started("run", "/dev/stdin", "--output", "out", "--json", stdin=subprocess.PIPE) as program:
            out, err = program.communicate(text, timeout=PATIENCE_SECONDS)

        assert (program.returncode, err) == (0, "")
        assert in_process.call(place, "report", "out", "--json").stdout == out

    def test_a_model_s_file_that_is_missing_is_named(self, place: Place) -> None:
        done = in_process.call(place, "run", place.write(model=MODEL), "--output", "out")

        assert done.returncode == 3
        assert f"weights.path is weights.pt, and there is no file {place.folder}/weights.pt. Paths" in done.stderr

    def test_a_sweep_of_another_model_than_the_run_was_begun_with_is_not_measured(self, place: Place) -> None:
        (place.folder / "weights.pt").write_text("others")
        plan = place.folder / "plan.json"
        plan.write_text(documents.scripted_plan(model=MODEL).dump())

        with pytest.raises(EnvironmentFault, match="was changed while it was measured, so the run ends here"):
            machine.measure(plan, 0, place.folder, machine.Model(place.folder, "0" * 64), lambda _: None)

        assert not (place.folder / "results").exists()

    def test_a_model_s_file_that_was_changed_is_not_measured_on(self, place: Place, short_again: Path) -> None:
        (place.folder / "weights.pt").write_text("others")
        done = in_process.call(place, "run", "bench.yaml", "--output", short_again, "--quiet")

        assert done.returncode == 3
        assert done.stderr.startswith(
            f"inferbench: The model's file is not the one that was measured when {short_again} was begun"
        )

    def test_modules_of_the_current_folder_do_not_stand_in_for_libraries(self, short) -> None:
        place, done = short

        assert (place.folder / "inferbench_runner.py").exists()
        assert (done.returncode, done.stderr) == (0, "")

    def test_a_reader_that_has_had_enough_is_no_traceback(self, place: Place, finished: Path) -> None:
        with place.started("report", "out") as program:
            program.stdout.close()
            err = program.stderr.read()
            program.wait(PATIENCE_SECONDS)

        assert program.returncode == 1
        assert err == ""


class TestTerminal:
    def test_a_live_line_tells_what_is_measured_its_median_so_far_and_the_time_left(self, place: Place) -> None:
        """And when all is done the screen holds the table and the cursor is back."""
        file = place.write(script={"realTime": True}, measurement=documents.rounds(2))
        ours, theirs = pty.openpty()
        size = {"TERM": "xterm-256color", "COLUMNS": "140", "LINES": "40"}
        terminal = Place(place.folder, place.mark, size)
        with terminal.started("run", file, "--output", "out", stdin=theirs, stdout=theirs, stderr=theirs) as program:
            os.close(theirs)
            screen = b"".join(iter(lambda: read(ours), b"")).decode()
            program.wait(PATIENCE_SECONDS)
        os.close(ours)
        text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen)

        assert program.returncode == 0
        # The line is painted ten times a second, and a quick start lies between two of them.
        assert re.search(r"sweep 1 of 2, fake/fp32, round 1 of 2: (starting|batch 1: loading)", text)
        assert re.search(r"sweep 1 of 2, fake/fp32, round 1 of 2: batch 1: [a-z ]+, 4\d\.\d ms so far", text)
        assert re.search(r"sweep 2 of 2, fake/fp32, round 2 of 2: batch 1: .* \(about \d+ s left\)", text)
        assert screen.rindex("\x1b[?25h") > screen.rindex("\x1b[?25l")
        assert "Best at each batch size" in text[text.rindex("so far") :]
        assert "Everything is in out/" in text


def read(terminal: int) -> bytes:
    """Read from a terminal; empty when the last program on it has ended."""
    try:
        return os.read(terminal, 1 << 16)
    except OSError:
        return b""


def test_the_same_python_runs_everything() -> None:
    """The tests run the program that stands beside the Python that runs them."""
    assert programs.PROGRAM.parent == Path(sys.executable).parent
    assert programs.PROGRAM.exists()
