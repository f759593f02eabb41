"""What a person must not lose, whatever happens to a run: it is killed, interrupted, and runs out of disk."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from inferbench_contract import plan as plans
from inferbench_contract import result as results
from inferbench_contract.errors import ResultError
from tests import documents, in_process, mounts, programs
from tests.mounts import Disk
from tests.programs import PATIENCE_SECONDS, Place, wait_until
from tests.runner import tiny_onnx

SOON_SECONDS = 20
"""Much more than what Ctrl-C takes (about a second), much less than what would go on without it."""

RUNNER, CELL = "inferbench_runner sweep", "inferbench_runner.cell"
"""What the command lines of the two kinds of process hold."""

Cell = tuple[int, int]
"""Sweep and batch size."""


def measured(output: Path) -> dict[Cell, tuple[int, int]]:
    """Return every cell that was delivered, with what tells one measurement of it from another.

    The file of its raw calls comes into being by one rename in each measurement: its inode and time.
    """
    if not (output / "plan.json").exists():
        return {}
    plan = plans.load((output / "plan.json").read_text(), "plan.json")
    found = {}
    for sweep in plan.sweeps:
        try:
            result = results.decode((output / "results" / f"{sweep.index}.json").read_bytes(), plan, sweep).result
        except (OSError, ResultError):
            continue
        for cell in result.cells:
            status = (output / "samples" / f"{sweep.index}-{cell.batch_size}.json.gz").stat()
            found[sweep.index, cell.batch_size] = (status.st_ino, status.st_mtime_ns)
    return found


def in_flight(output: Path, sweep: int = 0) -> int | None:
    """Return the batch size that a sweep is measuring."""
    try:
        return json.loads((output / "results" / f"{sweep}.json").read_bytes()).get("inFlight")
    except OSError:
        return None


def counts(output: Path) -> Mapping[str, int]:
    """Return how many cells ended how."""
    return json.loads((output / "summary.json").read_text())["cells"]


def interrupt(program: subprocess.Popen[str]) -> None:
    """Press Ctrl-C: the terminal sends the signal to the group in its foreground."""
    os.killpg(program.pid, signal.SIGINT)


@pytest.fixture
def hanging(place: Place) -> Iterator[subprocess.Popen[str]]:
    """A run whose second cell hangs, just now."""
    file = place.write(batchSizes=[1, 2], faults=[{"fault": "hang", "batchSize": 2}])
    with place.started("run", file, "--output", place.folder / "out") as program:
        wait_until(lambda: in_flight(place.folder / "out") == 2 and place.find(CELL), "the cell that hangs")
        wait_until(lambda: is_asleep(*place.find(CELL)), "the cell to hang")
        yield program


def is_asleep(pid: int) -> bool:
    """Tell whether a process sleeps and goes on sleeping: it has started, and says nothing any more."""
    seen = []
    for _ in range(2):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        seen.append((fields[0], fields[11:13]))
        time.sleep(0.2)
    return seen[0] == seen[1] and seen[0][0] == "S"


class TestKilled:
    KILLS = 20
    LATEST_SECONDS = 2
    """From start to the first cell's end takes little more than one: kills strike all through it, and some after it."""

    def test_a_run_that_is_killed_again_and_again_loses_nothing_and_repeats_only_what_was_in_flight(
        self, place: Place
    ) -> None:
        """SIGKILL at 20 random moments."""
        moments = random.Random(20)
        file = place.write(precisions=["fp32", "fp16"], batchSizes=[1, 2, 4], measurement=documents.rounds(2))
        output = place.folder / "out"
        command = ("run", file.name, "--output", output.name, "--quiet")
        with place.started(*command):
            wait_until(lambda: measured(output), "the first cell")
        place.wait_until_empty()

        kept = measured(output)
        for _ in range(self.KILLS - 1):
            with place.started(*command) as program:
                end_of(program, within=moments.uniform(0, self.LATEST_SECONDS))
            place.wait_until_empty()
            now = measured(output)
            assert now.items() >= kept.items(), "a cell was lost, or measured again"
            kept = now
        done = place.run(*command)

        assert done.returncode == 0, done.stderr
        assert counts(output)["measured"] == 6
        assert len(measured(output)) == 12
        assert measured(output).items() >= kept.items()
        assert not [*output.rglob("*.tmp")], "no half-written file is left"

    def test_nothing_outlives_a_run_that_is_killed(self, place: Place, hanging) -> None:
        hanging.kill()

        place.wait_until_empty()
        assert len(measured(place.folder / "out")) == 1

    def test_a_runner_that_dies_is_started_again(self, place: Place) -> None:
        file = place.write(batchSizes=[1, 2], faults=[{"fault": "hang", "batchSize": 2}], timeoutSecondsPerSweep=20)
        output = place.folder / "out"
        with place.started("run", file, "--output", output) as program:
            wait_until(lambda: in_flight(output) == 2 and place.find(CELL), "the cell that hangs")
            before, (runner,) = measured(output), place.find(RUNNER)
            os.kill(runner, signal.SIGKILL)
            wait_until(lambda: place.find(RUNNER) not in ([], [runner]) and place.find(CELL), "the second attempt")
            interrupt(program)
            program.communicate(timeout=SOON_SECONDS)

        assert program.returncode == 130
        assert measured(output) == before

    def test_a_sweep_whose_runner_dies_at_every_attempt_is_lost_and_the_others_are_not(self, place: Place) -> None:
        file = place.write(precisions=["fp32", "fp16"], faults=[{"fault": "hang", "precision": "fp32"}], retries=0)
        output = place.folder / "out"
        with place.started("run", file, "--output", output) as program:
            wait_until(lambda: in_flight(output) == 1 and place.find(CELL), "the cell that hangs")
            (runner,) = place.find(RUNNER)
            os.kill(runner, signal.SIGKILL)
            out, err = program.communicate(timeout=PATIENCE_SECONDS)

        assert program.returncode == 1
        assert "sweep 1 of 2, fake/fp32, round 1 of 1: no result" in out
        assert "The runner of sweep-0 ended with status -9" in err
        assert counts(output) == {
            "planned": 2,
            "measured": 1,
            "unsupported": 0,
            "inaccurate": 0,
            "failed": 0,
            "missing": 1,
        }


def end_of(program: subprocess.Popen[str], *, within: float) -> None:
    """Wait for the end of a program, but not longer."""
    try:
        program.wait(within)
    except subprocess.TimeoutExpired:
        return


class TestInterrupted:
    def test_ctrl_c_keeps_what_is_done_and_says_how_to_go_on_and_that_works(self, place: Place) -> None:
        file = place.write("my bench.yaml", batchSizes=[1, 2, 3])
        output = place.folder / "out"
        with place.started("run", file.name, "--output", output.name, "--fresh") as program:
            wait_until(lambda: measured(output), "the first cell")
            interrupt(program)
            out, err = program.communicate(timeout=SOON_SECONDS)

        assert program.returncode == 130
        assert err.startswith("Interrupted; what was measured is kept. To go on: ")
        assert err.endswith("inferbench run 'my bench.yaml' --output out\n")
        assert "\nInterrupted after 0 of 1 sweep.\n" in out
        assert "only fake/fp32 was measured" in out, "what there is of an answer is shown"
        place.wait_until_empty()
        kept = measured(output)
        assert 0 < len(kept) < 3

        done = place.run("run", file.name, "--output", output.name)

        assert done.returncode == 0
        assert len(measured(output)) == 3
        assert measured(output).items() >= kept.items()

    def test_ctrl_c_ends_a_cell_that_hangs(self, place: Place, hanging) -> None:
        """The terminal's signal reaches the program alone: its children are in sessions of their own."""
        sessions = {pid: os.getsid(pid) for pid in place.processes()}
        interrupt(hanging)

        assert hanging.wait(SOON_SECONDS) == 130
        assert len(measured(place.folder / "out")) == 1
        assert len(sessions) == 3
        assert all(session == pid for pid, session in sessions.items() if pid != hanging.pid)

    def test_ctrl_c_twice_ends_it_at_once_even_if_the_runner_does_not_listen(self, place: Place, hanging) -> None:
        (runner,) = place.find(RUNNER)
        os.kill(runner, signal.SIGSTOP)

        interrupt(hanging)
        with pytest.raises(subprocess.TimeoutExpired):
            hanging.wait(0.5)
        interrupt(hanging)

        assert hanging.wait(SOON_SECONDS) == 130
        place.wait_until_empty()
        assert len(measured(place.folder / "out")) == 1

    def test_sigterm_is_heard_as_ctrl_c(self, place: Place, hanging) -> None:
        hanging.terminate()

        _, err = hanging.communicate(timeout=SOON_SECONDS)
        assert hanging.returncode == 130
        assert "To go on: " in err
        place.wait_until_empty()

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_before_anything_is_measured_it_just_ends(self, place: Place, number) -> None:
        with place.started("run", place.write(), "--output", "out") as program:
            wait_until(lambda: place.find("inferbench_runner environment"), "the first question to the runner")
            os.killpg(program.pid, number)
            out, err = program.communicate(timeout=SOON_SECONDS)

        assert program.returncode == 130
        assert (out, err) == ("", "inferbench: interrupted\n")


class TestTogether:
    def test_the_second_run_in_a_folder_is_refused_and_the_first_is_unharmed(self, place: Place) -> None:
        file = place.write(batchSizes=[1, 2], faults=[{"fault": "hang", "batchSize": 2}])
        output = place.folder / "out"
        with place.started("run", file, "--output", output) as first:
            wait_until(lambda: in_flight(output) == 2 and place.find(CELL), "the cell that hangs")
            before = {path: path.stat().st_mtime_ns for path in output.rglob("*")}

            for more in ((), ("--fresh",)):
                second = in_process.call(place, "run", file, "--output", output, *more)

                assert second.returncode == 3
                assert second.stdout == ""
                assert second.stderr == (
                    f"inferbench: Another run (process {first.pid}) is writing to {output}. "
                    "Wait for it, stop it, or give --output another folder.\n"
                )
            assert {path: path.stat().st_mtime_ns for path in output.rglob("*")} == before
            interrupt(first)

            assert first.wait(SOON_SECONDS) == 130
        assert len(measured(output)) == 1


@dataclass(frozen=True)
class Greedy:
    """A run that took more than there is."""

    output: Path
    done: subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def greedy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Greedy]:
    """Its first cell prints a gigabyte, its second eats memory; more fail than the file allows."""
    faults = [{"fault": "flood", "batchSize": 1}, {"fault": "eat-memory", "batchSize": 2}]
    more = {"INFERBENCH_MEMORY_LIMIT_MIB": "300"}
    with programs.place(tmp_path_factory.mktemp("greedy"), more) as place:
        file = place.write(batchSizes=[1, 2, 4], faults=faults, maxFailedCells=1)
        yield Greedy(place.folder / "out", place.run("run", file, "--output", "out"))


class TestMachine:
    def test_what_the_machine_lacks_ends_the_run_at_once_and_what_was_measured_stays(self, place: Place) -> None:
        file = place.write(precisions=["fp32", "fp16", "bf16"], faults=[{"fault": "environment", "precision": "fp16"}])
        done = place.run("run", file, "--output", "out")

        assert done.returncode == 3
        assert done.stderr == "inferbench: fake/fp16@1: Scripted: fake/fp16@1 was to end as environment.\n"
        assert set(measured(place.folder / "out")) == {(0, 1)}
        assert "sweep 3" not in done.stdout

    def test_a_cell_that_eats_memory_is_ended_and_larger_batches_are_spared(self, greedy: Greedy) -> None:
        """More cells failed than the file allows: exit status 1."""
        said = greedy.done.stdout

        assert greedy.done.returncode == 1
        assert counts(greedy.output)["failed"] == 2
        assert "fake/fp32@2: OutOfMemory: HostMemory: fake/fp32@2 held " in said
        assert "fake/fp32@4: OutOfMemory: AfterOutOfMemory: batch size 2 was out of memory already" in said

    def test_a_gigabyte_of_output_costs_no_disk(self, greedy: Greedy) -> None:
        assert counts(greedy.output)["measured"] == 1
        assert sum(path.stat().st_size for path in greedy.output.rglob("*")) < 1 << 20
        assert len(greedy.done.stdout) < 10_000


class TestDisk:
    @pytest.fixture
    def disk(self, place: Place) -> Iterator[Disk]:
        """A disk with room for a few results."""
        with mounts.disk(place.folder / "disk", size="36k") as disk:
            yield disk

    def test_a_full_disk_ends_the_run_with_a_sentence_and_with_room_the_same_command_goes_on(
        self, place: Place, disk: Disk
    ) -> None:
        file = place.write(batchSizes=[1, 2], measurement=documents.rounds(2))
        output = disk.folder / "out"
        command = ("run", file, "--output", output, "--quiet")

        full = place.run(*command, before=disk.before)

        assert full.returncode == 3
        assert full.stderr == (
            f"inferbench: {output} cannot be written: No space left on device. Make room there or give --output "
            "another folder; what is already measured stays, and the same command goes on from it.\n"
        )
        kept = measured(disk.seen("out"))
        assert 0 < len(kept) < 4
        assert not [*disk.seen().rglob("*.tmp")]

        disk.remount("size=10m")
        done = place.run(*command, before=disk.before)

        assert done.returncode == 0, done.stderr
        assert len(measured(disk.seen("out"))) == 4
        assert measured(disk.seen("out")).items() >= kept.items()

    def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_measured(
        self, place: Place, disk: Disk
    ) -> None:
        disk.remount("ro")
        done = place.run("run", place.write(), "--output", disk.folder / "out", before=disk.before)

        assert done.returncode == 3
        assert done.stderr == (
            f"inferbench: {disk.folder}/out cannot be written: Read-only file system. Give --output another folder; "
            "what is already measured stays, and the same command goes on from it.\n"
        )

    def test_a_file_in_place_of_the_folder_is_no_traceback(self, place: Place) -> None:
        (place.folder / "file").touch()
        done = in_process.call(place, "run", place.write(), "--output", "file")

        assert done.returncode == 3
        assert done.stderr.startswith("inferbench: file cannot be written: File exists. Give --output another folder")


@dataclass(frozen=True)
class Mended:
    """A run that failed twice because of its cache, and went on when it was mended."""

    full: subprocess.CompletedProcess[str]
    read_only: subprocess.CompletedProcess[str]
    mended: subprocess.CompletedProcess[str]
    disk: Disk
    again: Callable[[], subprocess.CompletedProcess[str]]
    """Measures it all again."""


@pytest.fixture(scope="module")
def cached(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mended]:
    """A model that has something to keep, and at first a disk with less room than the cache wants to leave free."""
    folder = tmp_path_factory.mktemp("cached")
    tiny_onnx.a_file(folder)
    more = {"INFERBENCH_CACHE": str(folder / "disk/cache")}
    with programs.place(folder, more) as place, mounts.disk(folder / "disk", size="64k") as disk:
        strategy = {"backend": "onnxruntime", "precision": "fp32"}
        model = {"onnx": {"path": "tiny.onnx"}}
        file = place.write(model=model, backends=["onnxruntime"], baseline=strategy, backendOptions={})
        run = partial(place.run, "run", file, "--output", folder / "out", "--quiet", before=disk.before)
        full = run()
        disk.remount("size=200m,ro")
        read_only = run()
        disk.remount("rw")
        yield Mended(full, read_only, run(), disk, again=partial(run, "--fresh"))


class TestCache:
    def test_a_cache_that_is_full_or_read_only_is_named_and_with_room_the_same_command_goes_on(
        self, cached: Mended
    ) -> None:
        full, read_only, mended, folder = cached.full, cached.read_only, cached.mended, cached.disk.folder

        assert (full.returncode, read_only.returncode, mended.returncode) == (3, 3, 0), mended.stderr
        assert full.stderr == (
            f"inferbench: The cache folder {folder}/cache has 0 MiB free, and 64 MiB are needed. "
            "Make room, or set INFERBENCH_CACHE to a folder on a larger disk.\n"
        )
        assert read_only.stderr == (
            f"inferbench: Cannot write to the cache folder {folder}/cache: Read-only file system. "
            "Mend that, or set INFERBENCH_CACHE to another folder.\n"
        )

    def test_a_corrupt_entry_of_the_cache_is_made_anew_and_the_run_succeeds(self, cached: Mended) -> None:
        (kept,) = cached.disk.seen("cache").glob("reference/*/scores.npy")
        sound = kept.read_bytes()
        kept.write_bytes(sound[:-1] + bytes([sound[-1] ^ 1]))

        done = cached.again()

        assert done.returncode == 0, done.stderr
        assert counts(cached.disk.folder.parent / "out")["measured"] == 1
        assert kept.read_bytes() == sound
