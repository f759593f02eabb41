"""Watching a sweep's GPU from beside it, on the scripted stand-in for NVML; the probes answer from a script."""

from __future__ import annotations

import gzip
import json
import sys
from functools import partial
from itertools import count
from pathlib import Path
from threading import Event

import pytest

from inferbench_contract.errors import EnvironmentFault
from inferbench_contract.words import Doubt, Outcome, Precision
from inferbench_runner import cuda, gpu, sweep, watching
from inferbench_runner.guards import Seen, Window, Work
from inferbench_runner.watching import Watcher
from tests.fake_cuda import FakeDriver, FakeNvml
from tests.fakes import SECOND
from tests.results import a_plan, a_result, ended, measured

UUID = "00010203-0405-0607-0809-0a0b0c0d0e0f"
LONG = 10**18
PATIENCE_SECONDS = 60


class Probes:
    """Answers the probes: the anchors in turn, and always the same limits."""

    def __init__(self, *anchors_ns: int) -> None:
        self.started: list[str] = []
        self._anchors_ns = iter(anchors_ns)

    def __call__(self, command):
        module, answer = command[-2:]
        self.started.append(module.removeprefix("inferbench_runner."))
        if self.started[-1] == "probes":
            told = {"bandwidthBytesPerSecond": 10**12, "l2Bytes": 0, "operationsPerSecond": {"fp16": 10**15}}
        elif (took_ns := next(self._anchors_ns, None)) is not None:
            told = {"computeNanoseconds": took_ns, "copyNanoseconds": 1}
        else:
            return
        Path(answer).write_text(json.dumps(told))


@pytest.fixture
def watch(tmp_path):
    """Makes a watcher of a card with these answers, and lists how long it slept."""

    def make(probes, **answers):
        monitor = gpu.open_monitor(UUID, FakeNvml(**answers), clock=lambda: 5)
        return Watcher(monitor, probes, tmp_path, sleep=lambda _: None)

    return make


def cell(hear):
    """A cell that was measured, and says when."""
    hear({"stage": "measuring"})
    hear({"stage": "checking", **Window(0, 10).told()})
    return measured()


def around(watcher, run=cell, work=None):
    return watcher.around(run, Precision.FP16, work)


def test_a_quiet_gpu_casts_no_doubt(watch):
    with watch(Probes(100, 100)) as watcher:
        assert around(watcher).doubts == ()


def test_who_looks_on_sees_each_reading_of_a_cell_and_no_other(tmp_path):
    """It is shown what is read anyway: nothing is asked of the GPU for the sake of who looks on."""
    seen = []
    monitor = gpu.open_monitor(UUID, FakeNvml(celsius=50), clock=lambda: 5)
    with Watcher(monitor, Probes(100, 100), tmp_path, sleep=lambda _: None, see=seen.append) as watcher:
        before = list(seen)
        around(watcher)

    assert before == []
    assert {reading.temperature_celsius for reading in seen} == {50}


def test_the_anchor_runs_once_between_two_cells_and_never_beside_one(watch):
    probes = Probes(100, 100, 100)

    def run(hear):
        probes.started.append("cell")
        return cell(hear)

    with watch(probes) as watcher:
        around(watcher, run)
        around(watcher, run)

    assert probes.started == ["probes", "anchor", "cell", "anchor", "cell", "anchor"]


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        pytest.param({}, True, id="a card that counts"),
        pytest.param({"millijoules": None}, False, id="an old card"),
        pytest.param({"uuid": f"MIG-{UUID}", "is_slice": True}, False, id="a slice of a card"),
    ],
)
def test_it_is_known_before_the_first_cell_whether_energy_is_counted(watch, answers, expected):
    with watch(Probes(100), **answers) as watcher:
        assert watcher.counts_energy is expected


def test_a_cell_has_the_power_of_its_calls_back_to_back(tmp_path):
    """A card that takes 250 W, read at the beginning and at the end of a cell, which are 6 s apart for its clock."""
    library, times_ns, has_begun = FakeNvml(), count(0, 6 * SECOND), Event()

    def now_ns():
        at_ns = next(times_ns)
        library.millijoules = 250_000 * at_ns // SECOND
        return at_ns

    def run(hear):
        assert has_begun.wait(PATIENCE_SECONDS)
        hear({"measuredFrom": 0, "backToBackFrom": 0, "measuredTo": LONG})
        return measured()

    monitor = gpu.open_monitor(UUID, library, clock=now_ns)
    with Watcher(monitor, Probes(100, 100), tmp_path, lambda _: None, lambda _: has_begun.set()) as watcher:
        assert around(watcher, run).power_milliwatts == 250_000


@pytest.mark.parametrize(
    ("answers", "anchors", "doubts"),
    [
        pytest.param({"reasons": 0x20}, (100, 100), (Doubt.THROTTLED,), id="heat"),
        pytest.param({}, (100, 102), (Doubt.DRIFTED,), id="the fixed work took longer afterwards"),
        pytest.param({"busy": 70}, (100, 100), (Doubt.NOISY_NEIGHBOUR,), id="busy before we began"),
        pytest.param({"pids": [1, 2]}, (100, 100), (Doubt.NOISY_NEIGHBOUR,), id="another process computes"),
        pytest.param({}, (), (), id="the probe does not work here"),
    ],
)
def test_what_is_seen_is_doubted(watch, answers, anchors, doubts):
    with watch(Probes(*anchors), **answers) as watcher:
        assert around(watcher).doubts == doubts


def test_a_time_below_the_cards_limits_is_doubted(watch):
    work = Work(operations_per_input=LONG, weights=0)

    with watch(Probes(100, 100)) as watcher:
        assert around(watcher, work=work).doubts == (Doubt.ABOVE_ROOFLINE,)


def test_what_was_seen_of_the_gpu_is_kept_beside_the_raw_calls(watch, tmp_path):
    samples = tmp_path / "3-8.json.gz"
    samples.touch()

    with watch(Probes(100, 100), celsius=61) as watcher:
        watcher.around(cell, Precision.FP16, None, partial(sweep.keep_seen, samples))

    content = json.loads(gzip.decompress((tmp_path / "3-8-gpu.json.gz").read_bytes()))
    assert (content["measuredFrom"], content["measuredTo"]) == (0, 10)
    assert set(content["readings"]["temperatureCelsius"]) == {61}
    assert {len(column) for column in content["readings"].values()} == {len(content["readings"]["atNs"])}


@pytest.mark.parametrize("samples", [None, "3-8.json.gz"], ids=["in a pod", "of a cell that has no raw calls"])
def test_without_raw_calls_nothing_is_kept(tmp_path, samples):
    sweep.keep_seen(None if samples is None else tmp_path / samples, Seen())

    assert list(tmp_path.iterdir()) == []


def test_a_cell_that_crashed_keeps_its_outcome(watch):
    with watch(Probes(100, 200), reasons=0x20) as watcher:
        assert around(watcher, lambda _: ended(Outcome.CRASHED)) == ended(Outcome.CRASHED)


def test_a_cell_that_says_nonsense_of_its_times_is_judged_without_them(watch):
    def run(hear):
        hear({"measuredFrom": "yesterday", "measuredTo": None})
        return measured()

    with watch(Probes(100, 100), reasons=0x20) as watcher:
        assert around(watcher, run).doubts == ()


def no_driver():
    raise EnvironmentFault("There is no NVIDIA driver here")


@pytest.mark.parametrize("is_wanted", [True, False])
def test_without_a_gpu_cells_run_as_ever(tmp_path, is_wanted):
    probes = Probes()

    with watching.watcher(probes, tmp_path, is_wanted=is_wanted, ask_driver=no_driver) as watcher:
        assert around(watcher) == measured()

    assert probes.started == []


class TestCard:
    """The driver and NVML are stand-ins, which know one UUID; NVML has it of the second of two cards that differ."""

    @pytest.fixture
    def ask_driver(self):
        return partial(cuda.require_driver, needed=0, load=FakeDriver(version=12_000))

    @pytest.mark.parametrize(
        ("answers", "words"),
        [
            pytest.param({"at": 1, "limits_of_others": {"card 1": 400_000}}, "400 W", id="the second card"),
            pytest.param({"uuid": f"MIG-{UUID}", "is_slice": True}, "700 W, MIG slice", id="a slice of a card"),
        ],
    )
    def test_the_one_that_cuda_shows_is_described(self, monkeypatch, ask_driver, answers, words):
        monkeypatch.setitem(sys.modules, "pynvml", FakeNvml(names=["NVIDIA H200"] * 2, **answers))

        found = watching.card(ask_driver)

        assert found.in_words == f"NVIDIA H200, driver 580.159.04, {words}"
        assert not sys.modules["pynvml"].is_open

    def test_a_sweep_names_it(self, monkeypatch, ask_driver, tmp_path):
        library = FakeNvml(names=["NVIDIA H200", "NVIDIA A100"], at=1)
        monkeypatch.setitem(sys.modules, "pynvml", library)
        monkeypatch.setattr(watching, "card", partial(watching.card, ask_driver))
        plan, delivered = a_plan(device="gpu"), []
        place = sweep.Place(tmp_path, tmp_path, None, None, lambda _: None, is_asked_to_stop=lambda: False)
        done = a_result(plan, 0, [measured(cell.batch_size) for cell in plan.sweeps[0].cells])

        sweep.run(plan, plan.sweeps[0], delivered.append, place, previous=done)

        assert {result.hardware for result in delivered} == {"NVIDIA A100, driver 580.159.04, 700 W"}

    def test_without_a_gpu_there_is_none(self):
        assert watching.card(no_driver) is None
