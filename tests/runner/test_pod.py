"""`inferbench-runner pod` as a kubelet runs it: environment in, termination message and exit status out."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from subprocess import Popen
from urllib.request import urlopen

import pytest
from prometheus_client.parser import text_string_to_metric_families

from inferbench_contract import result as results
from inferbench_contract.plan import Plan
from inferbench_contract.result import SweepResult
from inferbench_contract.words import Outcome
from tests import documents, mounts, programs
from tests.programs import PATIENCE_SECONDS, Place, wait_until

RUNNER = Path(sys.executable).with_name("inferbench-runner")

GRACE_SECONDS = 10
"""Much more than what it takes to stop (a quarter of a second), less than the 30 s that Kubernetes gives."""

CELL = "inferbench_runner.cell"
"""What the command line of a cell's process holds."""


@dataclass(frozen=True)
class Pod:
    """A pod that runs one sweep of a plan."""

    place: Place
    plan: Plan
    index: int = 0
    more: Mapping[str, str] = field(default_factory=dict)

    @property
    def message(self) -> Path:
        """The termination message, a file that the kubelet has made."""
        return self.place.folder / "termination-log"

    @property
    def environment(self) -> dict[str, str]:
        """What the operator and Kubernetes set."""
        return {
            **self.place.environment,
            "INFERBENCH_PLAN": self.plan.dump(),
            "INFERBENCH_MODELS": str(self.place.folder),
            "INFERBENCH_METRICS_PORT": "0",
            "INFERBENCH_TERMINATION_LOG": str(self.message),
            "JOB_COMPLETION_INDEX": str(self.index),
            **self.more,
        }

    @contextmanager
    def started(self, before: tuple[str, ...] = ()) -> Iterator[Popen[str]]:
        """Start the pod's container; it ends with the block."""
        self.message.touch()
        environment = {name: text for name, text in self.environment.items() if text}
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        with Popen(
            [*before, str(RUNNER), "pod"], cwd=self.place.folder, env=environment, text=True, **pipes
        ) as program:
            try:
                yield program
            finally:
                program.kill()

    def run(self, before: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        """Run it to its end."""
        with self.started(before) as program:
            out, err = program.communicate(timeout=PATIENCE_SECONDS)
        return subprocess.CompletedProcess(program.args, program.returncode, out, err)

    def result(self, sweep: int | None = None) -> SweepResult:
        """Read the message as the operator does."""
        wanted = self.plan.sweeps[self.index if sweep is None else sweep]
        decoded = results.decode(self.message.read_bytes(), self.plan, wanted)
        assert decoded.problems == ()
        return decoded.result

    def in_flight(self) -> int | None:
        return self.result().in_flight if self.message.stat().st_size else None


def outcomes(result: SweepResult) -> dict[int, Outcome]:
    return {cell.batch_size: cell.outcome for cell in result.cells}


def hanging(place: Place) -> Pod:
    """A pod whose second cell will hang."""
    return Pod(place, documents.scripted_plan(batchSizes=[1, 2, 4], faults=[{"fault": "hang", "batchSize": 2}]))


@contextmanager
def while_it_hangs(pod: Pod) -> Iterator[Popen[str]]:
    with pod.started() as program:
        wait_until(lambda: pod.in_flight() == 2 and pod.place.find(CELL), "the cell that hangs")
        yield program


Done = tuple[Pod, subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Done]:
    """A pod of a later stage, whose plan is in a file and in whose message something stood before."""
    plan = documents.scripted_plan(precisions=["fp32", "fp16"], batchSizes=[1, 2, 4], measurement=documents.rounds(4))
    with programs.place(tmp_path_factory.mktemp("good")) as place:
        file = place.folder / "plan.json"
        file.write_text(plan.dump())
        where = {"INFERBENCH_PLAN": "", "INFERBENCH_PLAN_FILE": str(file), "INFERBENCH_SWEEPS": "2,5-7"}
        pod = Pod(place, plan, index=1, more=where)
        pod.message.write_bytes(b"x" * 4_096)
        yield pod, pod.run()


FAULTS = ("crash", "raise", "unsupported", "exit")
"""In the order of the batch sizes 1, 2, 4, 8; nothing is wrong at 16."""


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Done]:
    """A pod whose cells fail in many ways, and whose message was larger than any can be."""
    faults = [{"fault": fault, "batchSize": 1 << place} for place, fault in enumerate(FAULTS)]
    with programs.place(tmp_path_factory.mktemp("faulty")) as place:
        pod = Pod(place, documents.scripted_plan(batchSizes=[1, 2, 4, 8, 16], faults=faults))
        pod.message.write_bytes(b"x" * 100_000)
        yield pod, pod.run()


class TestComplete:
    def test_every_cell_is_in_the_message_and_the_exit_status_is_0(self, good: Done) -> None:
        pod, done = good

        result = pod.result(sweep=5)
        assert (done.returncode, done.stderr) == (0, "")
        assert outcomes(result) == dict.fromkeys((1, 2, 4), Outcome.MEASURED)
        assert (result.in_flight, result.fault) == (None, "")
        assert result.hardware
        assert result.started_ms < result.finished_ms

    def test_its_log_is_for_people(self, faulty: Done) -> None:
        _, done = faulty

        lines = done.stdout.splitlines()
        assert lines[0] == "sweep 1 of 1, fake/fp32, round 1 of 1, batch 1, 2, 4, 8, 16"
        assert "batch 16: measuring" in lines
        assert [line for line in lines if line.startswith("batch 16: Measured, 43.")]
        assert [
            line for line in lines if line.startswith("batch 8: Crashed. ExitStatus: fake/fp32@8 ended with status 7.")
        ]
        assert "fake-fp32-b8-round1, the end of its output:\ngiving up, as scripted\n\n" in done.stderr

    def test_a_cell_that_fails_is_an_outcome_and_no_reason_to_run_the_pod_again(self, faulty: Done) -> None:
        pod, done = faulty

        assert done.returncode == 0
        assert outcomes(pod.result()) == {
            1: Outcome.CRASHED,
            2: Outcome.FAILED,
            4: Outcome.UNSUPPORTED,
            8: Outcome.CRASHED,
            16: Outcome.MEASURED,
        }

    def test_a_plan_may_come_as_a_file(self, good: Done) -> None:
        pod, done = good

        assert "INFERBENCH_PLAN" not in {name for name, text in pod.environment.items() if text}
        assert done.returncode == 0, done.stderr

    def test_a_later_stage_counts_in_its_list_of_sweeps(self, good: Done) -> None:
        pod, done = good

        assert pod.result(sweep=5).is_complete(pod.plan.sweeps[5])
        assert done.stdout.startswith(f"sweep 6 of 8, {pod.plan.sweeps[5].strategy}, round 3 of 4")

    def test_what_stood_in_the_message_before_does_not_matter(self, good: Done, faulty: Done) -> None:
        """As much as a message may hold, and more; ten bytes in TestReadOnlyRoot."""
        assert len(good[0].result(sweep=5).cells) == 3
        assert len(faulty[0].result().cells) == 5


class TestKilled:
    KILLS = 8
    LINES = 10
    """Of the log of three cells, all but the last few."""
    LATEST_SECONDS = 0.3
    """From one line to the next takes no longer, or the start of a process and therefore much longer."""

    def test_whenever_it_is_killed_the_message_holds_every_cell_that_ended_and_names_the_one_in_flight(
        self, place: Place
    ) -> None:
        """SIGKILL of the supervisor, whose child dies with it, at a random moment after a random line of its log."""
        moments = random.Random(12)
        pod = Pod(place, documents.scripted_plan(batchSizes=[1, 2, 4]))
        seen = set()
        for _ in range(self.KILLS):
            with pod.started() as program:
                said = [program.stdout.readline().strip() for _ in range(moments.randint(1, self.LINES))]
                time.sleep(moments.uniform(0, self.LATEST_SECONDS))
                program.kill()
                said += program.stdout.read().splitlines()
            place.wait_until_empty()
            if not pod.message.stat().st_size:
                continue
            result = pod.result()
            ended = {size for size in (1, 2, 4) if any(line.startswith(f"batch {size}: Measured") for line in said)}
            begun = {size for size in (1, 2, 4) if f"batch {size}: loading" in said}
            assert ended <= set(outcomes(result))
            assert begun <= {*outcomes(result), result.in_flight}
            seen.add((len(result.cells), result.in_flight))
            pod.message.unlink()

        assert len(seen) > 2, "they struck in different cells"

    def test_a_cell_in_flight_is_named_when_it_and_everything_else_is_killed(self, place: Place) -> None:
        """As the kernel does when a container's memory is used up."""
        pod = hanging(place)
        with while_it_hangs(pod) as program:
            for pid in (program.pid, *place.find(CELL)):
                os.kill(pid, signal.SIGKILL)
            program.wait()

        assert outcomes(pod.result()) == {1: Outcome.MEASURED}
        assert pod.result().in_flight == 2

    def test_a_dead_child_is_an_outcome_of_its_cell_and_the_next_is_measured(self, place: Place) -> None:
        pod = hanging(place)
        with while_it_hangs(pod) as program:
            os.kill(*place.find(CELL), signal.SIGKILL)
            program.communicate(timeout=PATIENCE_SECONDS)

        assert program.returncode == 0
        assert outcomes(pod.result()) == {1: Outcome.MEASURED, 2: Outcome.CRASHED, 4: Outcome.MEASURED}


@dataclass(frozen=True)
class Stopped:
    """A pod that was scraped while its second cell hung, and then asked to stop."""

    pod: Pod
    found: Mapping[tuple[object, ...], float]
    done: subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stopped]:
    port = a_free_port()
    with programs.place(tmp_path_factory.mktemp("stopped")) as place:
        pod = replace(hanging(place), more={"INFERBENCH_METRICS_PORT": str(port)})
        with while_it_hangs(pod) as program:
            wait_until(lambda: scrape(port), "the metrics")
            found = scrape(port)
            program.terminate()
            out, err = program.communicate(timeout=GRACE_SECONDS)
        place.wait_until_empty()
        yield Stopped(pod, found, subprocess.CompletedProcess(program.args, program.returncode, out, err))


class TestAskedToStop:
    def test_sigterm_keeps_what_is_done_and_ends_with_143_within_the_grace_period(self, stopped: Stopped) -> None:
        assert (stopped.done.returncode, stopped.done.stderr) == (143, "")
        assert stopped.done.stdout.endswith("asked to stop; what was measured is kept\n")
        assert outcomes(stopped.pod.result()) == {1: Outcome.MEASURED}
        assert list(stopped.pod.place.scratch.iterdir()) == []


class TestFaults:
    def test_what_the_machine_lacks_is_in_the_message_and_the_status_is_44(self, place: Place) -> None:
        sentence = "fake/fp32@2: Scripted: fake/fp32@2 was to end as environment."
        faults = [{"fault": "environment", "batchSize": 2}]
        pod = Pod(place, documents.scripted_plan(batchSizes=[1, 2, 4], faults=faults))

        done = pod.run()

        result = pod.result()
        assert (done.returncode, done.stderr) == (44, sentence + "\n")
        assert (result.fault, result.in_flight) == (sentence, None)
        assert outcomes(result) == {1: Outcome.MEASURED}

    def test_a_model_that_is_not_there_is_in_the_message_too(self, place: Place) -> None:
        strategy = {"backend": "onnxruntime", "precision": "fp32"}
        plan = documents.scripted_plan(
            model={"onnx": {"path": "missing.onnx"}}, backends=["onnxruntime"], baseline=strategy, backendOptions={}
        )
        pod = Pod(place, plan)

        done = pod.run()

        assert done.returncode in (43, 44)
        assert "missing.onnx" in done.stderr
        assert done.stderr.strip().startswith(pod.result().fault[:100])

    @pytest.mark.parametrize(
        ("more", "words"),
        [
            pytest.param({"INFERBENCH_PLAN": "{}"}, ["INFERBENCH_PLAN is no plan of this version"], id="no plan"),
            pytest.param(
                {"INFERBENCH_PLAN": "", "JOB_COMPLETION_INDEX": "", "INFERBENCH_SWEEPS": "x"},
                ["and none is set", "JOB_COMPLETION_INDEX is not set", "INFERBENCH_SWEEPS: found 'x'"],
                id="no plan at all, no index, and a list that is none",
            ),
        ],
    )
    def test_an_environment_that_makes_no_sense_is_told_in_the_message_and_the_status_is_43(
        self, place: Place, more: Mapping[str, str], words: list[str]
    ) -> None:
        """In plain words: there is no plan whose result could carry them."""
        pod = Pod(place, documents.scripted_plan(), more=more)

        done = pod.run()

        assert done.returncode == 43
        assert [word for word in words if word not in done.stderr] == []
        assert pod.message.read_text() == done.stderr.strip()

    def test_a_plan_that_was_changed_is_refused(self, place: Place) -> None:
        content = json.loads(documents.scripted_plan().dump())
        content["batchSizes"] = [2]
        done = Pod(place, documents.scripted_plan(), more={"INFERBENCH_PLAN": json.dumps(content)}).run()

        assert done.returncode == 43
        assert "INFERBENCH_PLAN was changed after it was written" in done.stderr

    @pytest.mark.parametrize(
        ("more", "sentence"),
        [
            ({"JOB_COMPLETION_INDEX": "1"}, "sweep 1 is asked for; the plan has sweeps 0 to 0"),
            ({"INFERBENCH_SWEEPS": "7"}, "sweep 7 is asked for; the plan has sweeps 0 to 0"),
            (
                {"JOB_COMPLETION_INDEX": "1", "INFERBENCH_SWEEPS": "0"},
                "JOB_COMPLETION_INDEX is 1 and INFERBENCH_SWEEPS is 0, expected an index from 0 to 0",
            ),
        ],
    )
    def test_a_sweep_that_the_plan_does_not_have_is_told_as_a_fault(
        self, place: Place, more: Mapping[str, str], sentence: str
    ) -> None:
        pod = Pod(place, documents.scripted_plan(), more=more)

        done = pod.run()

        assert (done.returncode, done.stderr) == (43, sentence + "\n")
        assert json.loads(pod.message.read_bytes())["fault"] == sentence


class TestMessageFile:
    def test_without_the_file_nothing_is_measured(self, place: Place) -> None:
        pod = Pod(place, documents.scripted_plan(), more={"INFERBENCH_TERMINATION_LOG": str(place.folder / "none")})

        done = pod.run()

        assert (done.returncode, done.stdout) == (44, "")
        assert done.stderr.startswith(
            f"The result cannot be written to the termination message {place.folder}/none: No such file or directory. "
        )

    def test_one_that_is_read_only_is_told(self, place: Place) -> None:
        with mounts.disk(place.folder / "disk", size="64k") as disk:
            disk.seen("log").touch()
            disk.remount("ro")
            pod = Pod(place, documents.scripted_plan(), more={"INFERBENCH_TERMINATION_LOG": str(disk.folder / "log")})

            done = pod.run(disk.before)

        assert done.returncode == 44
        assert "log: Read-only file system. It must be the file that" in done.stderr


class TestReadOnlyRoot:
    def test_nothing_is_written_but_below_the_folders_that_a_pod_has_for_it(self, place: Place) -> None:
        """The whole file system is read-only, and so is the working folder; HOME, TMPDIR and the cache are not."""
        pod = Pod(place, documents.scripted_plan())
        pod.message.write_bytes(b"x" * 10)

        done = pod.run(read_only_root(place.folder))

        assert (done.returncode, done.stderr) == (0, "")
        assert pod.result().is_complete(pod.plan.sweeps[0])


def read_only_root(but: Path) -> tuple[str, ...]:
    """Return the beginning of a command line for a mount namespace in which everything but a folder is read-only."""
    script = 'mount --bind "$0" "$0" && mount -o remount,bind,ro / && cd / && ! touch probe 2>/dev/null && exec "$@"'
    user = () if mounts.IS_ROOT else ("--map-root-user",)
    return ("unshare", "--mount", *user, "sh", "-c", script, str(but))


class TestMetrics:
    def test_while_it_runs_it_can_be_scraped(self, stopped: Stopped) -> None:
        found = stopped.found

        assert found["inferbench_runner_progress_ratio",] == pytest.approx(1 / 3)
        assert found["inferbench_runner_cells", ("outcome", "Measured")] == 1
        calls = found["inferbench_runner_call_duration_seconds_count", ("batch_size", "1")]
        assert calls == stopped.pod.result().cells[0].samples
        (cell,) = [dict(labels) for name, *labels in found if name == "inferbench_runner_cell_info"]
        assert (cell["backend"], cell["precision"], cell["batch_size"]) == ("fake", "fp32", "2")

    def test_a_port_in_use_is_no_reason_to_fail_a_measurement(self, place: Place) -> None:
        with socket.create_server(("", 0)) as taken:
            port = taken.getsockname()[1]
            pod = Pod(place, documents.scripted_plan(), more={"INFERBENCH_METRICS_PORT": str(port)})

            done = pod.run()

        assert done.returncode == 0
        assert pod.result().is_complete(pod.plan.sweeps[0])
        assert done.stderr == (
            f"There are no metrics at port {port} ([Errno 98] Address already in use); the sweep is measured all the "
            "same. Set INFERBENCH_METRICS_PORT to a port that is free, or to 0.\n"
        )


def a_free_port() -> int:
    with socket.create_server(("", 0)) as taken:
        return taken.getsockname()[1]


def scrape(port: int) -> dict[tuple[object, ...], float]:
    """Return every sample by its name and labels; nothing while nobody answers."""
    try:
        with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=GRACE_SECONDS) as answer:
            text = answer.read().decode()
    except OSError:
        return {}
    families = text_string_to_metric_families(text)
    return {(s.name, *sorted(s.labels.items())): s.value for family in families for s in family.samples}


class TestWeight:
    def test_the_supervisor_loads_no_library_that_measures(self) -> None:
        """Every sweep pays for its start, and it runs beside what is measured."""
        program = "import sys, inferbench_runner.pod, inferbench_runner.__main__; print(*sys.modules)"
        answer = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)

        heavy = {"torch", "onnx", "onnxruntime", "numpy", "prometheus_client", "yaml", "rich", "http.server"}
        assert heavy.isdisjoint(answer.stdout.split())
