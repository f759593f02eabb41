"""`benchmarks/gpu/all.py` as far as it goes without a GPU: its benchmarks are valid, and the fake backend plays it."""

from __future__ import annotations

import importlib
import io
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import tarfile
import zipfile
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path

import pytest
import yaml

from inferbench_contract import plan as plans
from inferbench_contract import result
from inferbench_contract.words import Outcome
from tests import results

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "benchmarks/gpu"

LOCK = "locks/tensorrt-10.6.txt"

TRTEXEC = """
[11/24/2026-10:00:00] [I] Throughput: 2900.1 qps
[11/24/2026-10:00:00] [I] Latency: min = 0.33 ms, max = 0.9 ms, mean = 0.34 ms, median = 0.338 ms, percentile(90%) = 0.34 ms
[11/24/2026-10:00:00] [I] GPU Compute Time: min = 0.31 ms, max = 0.8 ms, mean = 0.32 ms, median = 0.3175 ms, percentile(90%) = 0.32 ms
"""  # noqa: E501 (as it prints)


PLAY = ("--device", "cpu", "--backend", "fake")
"""The fake backend plays all others."""

PLAYERS = ("torch-eager/fp32", "tensorrt/fp16")
"""Of those whom it can play: every step has one of these."""

ADVERSARY = "torch-compile/fp16"
"""Whom the article's claims need besides, so that there are some of both kinds about batches 1 and 8."""


def called(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Call the script in this process, whose own start takes longer than most of what it does. `script` is imported."""
    script, out, err = sys.modules["all"], io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["all.py", *map(str, arguments)])
        patch.setattr(script.sweep, "_run_cell", script.sweep._run_cell)  # the script puts another there, and ends
        try:
            status = script.main()
        except SystemExit as ended:  # as argparse ends
            status = ended.code
    return subprocess.CompletedProcess(arguments, status, out.getvalue(), err.getvalue())


@pytest.fixture
def play(tmp_path, script):
    """Plays the script in the folder of the test."""
    return partial(called, tmp_path / "out", *PLAY)


@dataclass(frozen=True)
class Plays:
    """A profile that was broken off at once, then played to its end, then asked for once more."""

    folder: Path
    late: subprocess.CompletedProcess[str]
    whole: subprocess.CompletedProcess[str]
    again: subprocess.CompletedProcess[str]

    def told(self, steps):
        """What the steps wrote."""
        return {step: json.loads((self.folder / f"out/{step}.json").read_text()) for step in steps}


CHEAP = ("--rounds", 1, "--bare-seconds", 0.1, "--largest")
ARTICLE = ("--steps", "article", *CHEAP, 8)
"""Its claims speak of batches 1 and 8."""


@pytest.fixture(scope="module")
def script():
    """The script as a module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        yield importlib.import_module("all")


@pytest.fixture(scope="module")
def whole(script, tmp_path_factory):
    """All steps of the full profile; the article's is done first, because it needs more cells than the others do."""
    folder = tmp_path_factory.mktemp("full")
    play = partial(called, folder / "out", *PLAY, "--profile", "full")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("INFERBENCH_CACHE", str(folder / "cache"))
        every = script.runs.PLAYED
        patch.setattr(script.runs, "PLAYED", {name: every[name] for name in (*PLAYERS, ADVERSARY)})
        late = play(*CHEAP, 8, "--minutes", 0)
        article = play(*ARTICLE)
        assert article.returncode == 0, article.stderr
        patch.setattr(script.runs, "PLAYED", {name: every[name] for name in PLAYERS})
        done = play(*CHEAP, 1, "--archive", folder / "out.tar.gz")
        return Plays(folder, late, done, play(*CHEAP, 1, "--minutes", 0))


@pytest.fixture(scope="module", params=["short", "full"])
def foreseen(request, script, tmp_path_factory):
    """A profile, the folder in which its benchmarks were written, and what was said of them."""
    folder = tmp_path_factory.mktemp(request.param)
    return request.param, folder, called(folder, "--profile", request.param, "--plan")


def test_every_benchmark_of_a_profile_is_valid_and_its_length_is_foreseen(foreseen):
    """The short one fits into twenty minutes by what cells were seen to take."""
    profile, folder, ended = foreseen

    assert ended.returncode == 0, ended.stderr
    minutes = float(re.search(r"^about ([0-9.]+) minutes in all", ended.stdout, re.MULTILINE)[1])
    assert 10 < minutes <= 20 if profile == "short" else minutes > 60
    assert (folder / "article.yaml").exists()


def test_every_step_is_played_and_what_was_played_is_not_judged(whole, script):
    steps = script.PROFILES["full"].steps
    told = whole.told(steps)

    report = (whole.folder / "out/report.md").read_text()
    wanted = [figure for step in told.values() for figure in step["figures"].values()]
    assert whole.whole.returncode == 0, whole.whole.stderr
    assert set(steps) == set(script.STEPS)
    assert re.findall(r"^## (\w+)", report, re.MULTILINE) == list(steps)
    assert told["repeatability"]["pairs"] > 0
    assert told["repeatability"]["answersPercent"].keys() == told["repeatability"]["errorsPercent"].keys()
    assert {figure["reached"] for figure in wanted} == {None}
    assert whole.whole.stdout.count("| not judged |") == len(wanted) == len(script.figures.WANTED)


def test_what_is_broken_off_goes_on_and_what_is_done_is_not_done_again(whole):
    assert whole.late.returncode == 75
    assert "the minutes are over" in whole.late.stderr
    assert "== machine" in whole.late.stdout
    assert "== machine" not in whole.whole.stdout
    assert whole.told(["bias"])["bias"]["cells"][0]["biasPercent"] < 1_000
    assert (whole.again.returncode, whole.again.stdout.count("== ")) == (0, 0)


def test_what_is_taken_away_says_what_it_is(whole):
    head = "# Played by the fake backend: none of these numbers was measured"

    with tarfile.open(whole.folder / "out.tar.gz") as tar:
        names, report = tar.getnames(), tar.extractfile("out/report.md").read().decode()

    assert "out/mlperf/summary.json" in names
    assert not [name for name in names if "samples" in name]
    assert report.startswith(head)


def test_a_step_that_fails_leaves_the_others_their_time(tmp_path):
    """`compile` reads the article's run, which was not made here. In a process of its own, as on a GPU."""
    command = [sys.executable, FOLDER / "all.py", tmp_path, *PLAY, "--steps", "compile,machine"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)

    assert ended.returncode == 1
    assert "compile failed: FileNotFoundError" in ended.stderr
    assert (tmp_path / "machine.json").exists()


def test_an_unknown_step_is_named(play):
    assert "there is no step everything; there are machine," in play("--steps", "everything").stderr


class TestFigures:
    def test_what_was_found_is_reached_or_not_and_what_was_not_found_is_not_judged(self, script):
        found = {"bias": 0.99, "repeatability": 1.51, "mlperf": 60.0, "share": 49.0, "engine": None}

        judged = script.figures.judged(found, is_played=False)

        reached = {name: figure["reached"] for name, figure in judged.items()}
        assert reached == {"bias": True, "repeatability": False, "mlperf": True, "share": False, "engine": None}

    def test_a_figure_that_is_not_reached_is_an_answer_of_its_own(self, play, tmp_path, script):
        (tmp_path / "out").mkdir()
        figures = script.figures.judged({"bias": 1.5}, is_played=False)
        (tmp_path / "out/bias.json").write_text(json.dumps({"step": "bias", "figures": figures}))

        ended = play("--steps", "bias")

        assert ended.returncode == 4
        assert "by at most 1% | 1.50% | NOT reached |" in ended.stdout

    def test_a_bias_is_judged_by_a_bare_loop_of_60_s_and_not_by_a_shorter_one(self, script):
        compared = [{"biasPercent": percent} for percent in (0.2, -0.7)]

        assert script.largest_bias(compared, bare_seconds=60) == pytest.approx(0.7)
        assert script.largest_bias(compared, bare_seconds=59) is None

    def test_two_answers_are_the_medians_of_the_even_and_the_odd_rounds(self, script):
        assert [*script.halves([10, 40, 12, 42, 14])] == [(12, 41)]
        assert [*script.halves([10])] == []

    def test_an_engine_is_held_against_trtexec_else_its_own_profiler(self, script):
        ours = {"deviceMedianNanoseconds": 103, "profilerMedianNanoseconds": 100}

        assert script.engine_error(ours) == pytest.approx(3)
        assert script.engine_error({**ours, "trtexecMedianNanoseconds": 206}) == pytest.approx(50)
        assert script.engine_error({"deviceMedianNanoseconds": None}) is None

    @pytest.mark.parametrize(
        ("best", "reference", "reached"),
        [
            pytest.param(60_000, 94_600, True, id="what is wanted"),
            pytest.param(0, 94_600, False, id="every cell failed"),
            pytest.param(60_000, None, None, id="MLPerf has no figure for the card"),
        ],
    )
    def test_mlperfs_figure_is_missed_where_nothing_was_measured(self, script, best, reference, reached):
        share = script.offline_share(best, reference)

        assert script.figures.judged({"mlperf": share}, is_played=False)["mlperf"]["reached"] is reached

    def test_the_share_of_a_warm_cache_leaves_out_first_rounds_and_what_was_compiled(self, script, tmp_path):
        """Each kind of sweep spends another share of its time: one that is counted and should not be is seen."""
        plan = plans.expand(results.three_backends(measurement={"rounds": 2}))
        (tmp_path / "results").mkdir()
        (tmp_path / "plan.json").write_text(plan.dump())
        second = {
            "torch-eager": results.measured(measure_ms=8_000),
            "torch-compile": results.measured(measure_ms=4_000, compile_was_cold=1, compile_ms=1),
            "onnxruntime": results.ended(Outcome.FAILED),
        }
        for sweep in plan.sweeps:
            first = results.measured(measure_ms=1_000)
            cell = second[str(sweep.strategy.backend)] if sweep.round else first
            done = results.a_result(plan, sweep, [cell])
            (tmp_path / f"results/{sweep.index}.json").write_bytes(result.encode(done))

        assert script.runs.warm_share(tmp_path) == pytest.approx(100 * 8_000 / results.SWEEP_MS)

    def test_the_full_profile_can_spend_half_of_its_time_measuring(self, script, tmp_path):
        """By what cells were seen to take beside it, where they use the seconds that they have."""
        profile = script.PROFILES["full"]
        asked = script.runs.Asked(tmp_path, profile.measurement, "gpu", [], "resnet50", "random", 0.0)
        file, seen = script.written(script.Call(asked, profile), "article"), set()
        script.runs.seconds(file, seen)

        warm = script.runs.seconds(file, seen)

        measuring = warm - script.runs.seconds(file, seen, timed_seconds=0)
        warming_up = profile.measurement["warmupMaxSeconds"] / 2
        assert measuring / warm * profile.article_seconds / (profile.article_seconds + warming_up) > 0.5


class TestReading:
    def test_trtexecs_figure_is_the_median_of_the_gpus_time(self, monkeypatch):
        monkeypatch.syspath_prepend(str(FOLDER))

        assert importlib.import_module("bias").read_trtexec(TRTEXEC) == 317_500

    @pytest.mark.parametrize(
        ("hardware", "expected"),
        [
            pytest.param("NVIDIA H200, driver 580.159.04", 94_600, id="H200"),
            pytest.param("NVIDIA GH200 480GB", 95_000, id="the longer name counts"),
            pytest.param("NVIDIA H100 PCIe", 56_500, id="not the one with faster memory"),
            pytest.param("NVIDIA GeForce RTX 4090", None, id="nobody has submitted one"),
        ],
    )
    def test_mlperfs_figure_is_that_of_the_card(self, script, hardware, expected):
        assert script.offline_figure(hardware) == expected

    def test_a_claim_of_what_is_not_measured_is_judged_of_another_and_says_so(self, script):
        claim = {"name": "flat", "equal": "tensorrt/fp32@1", "to": "tensorrt/fp32@8"}
        instead = {"tensorrt/fp32": "tensorrt/fp16"}

        told = script.instead_of(claim, instead)

        assert told == {"name": "flat-fp16", "equal": "tensorrt/fp16@1", "to": "tensorrt/fp16@8"}
        assert script.instead_of({"name": "wins", "faster": "x/fp16", "than": "y/fp16"}, instead)["name"] == "wins"

    def test_the_short_profile_judges_every_claim_of_the_article_at_the_sizes_that_it_has(self, script, tmp_path):
        claims = {}
        for name, profile in script.PROFILES.items():
            asked = script.runs.Asked(tmp_path, profile.measurement, "gpu", [], "resnet50", "random", 0.0)
            file = script.written(script.Call(asked, profile), "article")
            claims[name] = yaml.safe_load(file.read_text())["spec"]["expectations"]

        short, full = ([claim["name"] for claim in claims[name]] for name in ("short", "full"))
        assert short == [f"{name}-fp16" if name == "tensorrt-flat" else name for name in full]
        assert set(script.PROFILES["short"].steps) <= set(script.PROFILES["full"].steps)

    def test_a_claim_is_judged_at_the_batch_sizes_that_are_measured(self, script):
        claim = {"name": "claim", "batchSizes": [32, 128]}

        assert script.at_batches(claim, [1, 8, 128]) == {"name": "claim", "batchSizes": [128]}
        assert script.at_batches(claim, [1, 8]) is None
        assert script.at_batches({"name": "claim"}, [1]) == {"name": "claim"}


UV = r"""#!/bin/sh
echo "$*" >>"$KIT_LOG"
while [ $# -gt 0 ]; do
    [ "$1" = --target ] && site=$2
    last=$1
    shift
done
mkdir -p "$site"
echo content >"$site/$(basename "$last").txt"
"""
"""A stand-in for uv that writes down what it is asked, and puts a file where it would install."""

MVN = r"""#!/bin/sh
for each; do
    case "$each" in
    -Dmaven.repo.local=*) folder=${each#*=}/org/bytedeco/tensorrt/10.6 ;;
    -Dartifact=*) echo "${each#*=}" >>"$KIT_LOG" ;;
    esac
done
mkdir -p "$folder"
cp "$KIT_JAR" "$folder/libraries-redist.jar"
"""
"""A stand-in for Maven's client that writes down what it is asked, and brings the archive of the test."""

SCRIPTS = ("pack.sh", "redist.py", "thin.py", "unpack.sh")
CHECKOUT = (*(f"benchmarks/gpu/{name}" for name in SCRIPTS), "locks/gpu.txt", LOCK)
"""What a kit is packed from, beside what the stand-ins would install."""


def checkout(folder: Path, jar: Path, redist) -> Path:
    """Copy what a kit is packed from, where the archive of the test is the one that is expected."""
    for name in CHECKOUT:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    text = (ROOT / "benchmarks/gpu/redist.py").read_text()
    expected = sha256(jar.read_bytes()).hexdigest()
    (folder / "benchmarks/gpu/redist.py").write_text(text.replace(redist.KIT.sha256, expected))
    return folder


PTX, CUBIN = 1, 2
CODE_BYTES = 1 << 20


def a_library(*entries: tuple[int, int]) -> bytes:
    """A file with a fat binary between other things; each entry is 1 MiB of code, all of one byte: its capability."""
    codes = [
        struct.pack("<HHIQ12xI32x", kind, 1, 64, CODE_BYTES, capability) + bytes([capability]) * CODE_BYTES
        for kind, capability in entries
    ]
    size = sum(map(len, codes))
    return b"machine code" + struct.pack("<IHHQ", 0xBA55ED50, 1, 16, size) + b"".join(codes) + b"and the rest"


class TestThinning:
    """A library for one GPU: what others run is zeros, and everything is where it was."""

    @pytest.fixture
    def left(self, script, tmp_path):
        """Thins a library for an H100 and says of which capabilities it still has code."""
        thin = importlib.import_module("thin")

        def left_(*entries):
            file = tmp_path / "lib.so"
            file.write_bytes(before := a_library(*entries))
            blanked = thin.thin(file, 90)
            after = file.read_bytes()
            kept = [capability for _, capability in entries if bytes([capability]) * CODE_BYTES in after]
            assert len(after) == len(before)
            assert after.startswith(b"machine code") and after.endswith(b"and the rest")  # noqa: PT018 (one statement)
            assert blanked == CODE_BYTES * (len(entries) - len(kept))
            return kept

        return left_

    @pytest.mark.parametrize(
        ("entries", "kept"),
        [
            pytest.param([(CUBIN, 80), (CUBIN, 90), (PTX, 86)], [90], id="its own cubin is all that it needs"),
            pytest.param([(CUBIN, 80), (PTX, 86)], [86], id="PTX for older GPUs can be compiled for it"),
            pytest.param([(CUBIN, 80), (PTX, 120)], [], id="PTX for later GPUs cannot"),
        ],
    )
    def test_what_the_gpu_runs_stays(self, left, entries, kept):
        assert left(*entries) == kept

    def test_a_file_that_only_looks_like_a_fat_binary_stays_as_it_is(self, script, tmp_path):
        file = tmp_path / "lib.so"
        file.write_bytes(
            content := struct.pack("<IHHQ", 0xBA55ED50, 1, 16, 1 << 40) + b"\1" * 100 + b"\x50\xed\x55\xba"
        )

        assert importlib.import_module("thin").thin(file, 90) == 0
        assert file.read_bytes() == content


@pytest.fixture
def kit(tmp_path, script):
    """Packs a kit with stand-ins for uv and Maven's client, in pieces of 200 bytes."""
    programs = tmp_path / "programs"
    programs.mkdir()
    for name, text in (("uv", UV), ("mvn", MVN)):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    archive = tmp_path / "libraries.jar"
    with zipfile.ZipFile(archive, "w") as jar:
        jar.writestr("org/somewhere/libnvinfer.so.10.6.0", a_library((CUBIN, 90), (CUBIN, 80)))
        jar.writestr("META-INF/MANIFEST.MF", b"")
    source = checkout(tmp_path / "checkout", archive, importlib.import_module("redist"))

    def pack(**environment):
        log = tmp_path / "log"
        log.write_text("")
        told = {"KIT_UV": str(programs / "uv"), "KIT_LOG": str(log), "KIT_PIECE": "200", "KIT_JAR": str(archive)}
        told |= {"PATH": f"{programs}:{os.environ['PATH']}", **environment}
        command = [source / "benchmarks/gpu/pack.sh", tmp_path / "kit"]
        ended = subprocess.run(command, env={**os.environ, **told}, capture_output=True, text=True, check=False)
        return Packed(ended, tmp_path / "kit", log.read_text())

    return pack


@dataclass(frozen=True)
class Packed:
    """What became of a kit."""

    ended: subprocess.CompletedProcess[str]
    folder: Path
    asked: str
    """Of uv and Maven's client."""


def unpacked(kit: Path, site: Path):
    """What unpacking a kit says, and its exit status."""
    return subprocess.run(["sh", kit / "pieces/unpack.sh", site], capture_output=True, text=True, check=False)


class TestKit:
    def test_what_was_packed_is_there_once_it_is_unpacked(self, kit, tmp_path):
        packed = kit()

        ended = unpacked(packed.folder, tmp_path / "site")

        assert ended.returncode == 0, packed.ended.stderr + ended.stderr
        assert ended.stdout.startswith(
            f"export PYTHONPATH={tmp_path}/site LD_LIBRARY_PATH={tmp_path}/site/tensorrt_libs\n"
        )
        assert [file.name for file in (tmp_path / "site/tensorrt_libs").iterdir()] == ["libnvinfer.so.10.6.0"]
        assert "tensorrt_bindings import" in (tmp_path / "site/tensorrt/__init__.py").read_text()
        assert packed.asked.count("--python-version 3.12") == 3
        assert len(list((packed.folder / "pieces").glob("kit-*"))) > 1

    def test_its_bindings_and_its_libraries_are_of_one_version_and_both_are_checked(self, kit):
        packed = kit()

        assert "Fetching TensorRT: tensorrt-cu12-bindings==10.6." in packed.ended.stderr
        assert f"--require-hashes --requirements {LOCK}" in packed.asked
        assert "org.bytedeco:tensorrt:10.6-1.5.11:jar:linux-x86_64-redist" in packed.asked

    def test_libraries_that_are_not_those_that_are_known_are_not_packed(self, kit, tmp_path):
        other = tmp_path / "other.jar"
        other.write_bytes(b"something else")

        packed = kit(KIT_JAR=str(other))

        assert packed.ended.returncode == 1
        assert f"has the sha256 {sha256(b'something else').hexdigest()}, and" in packed.ended.stderr
        assert not any((packed.folder / "pieces").iterdir())

    @pytest.mark.parametrize(("environment", "has_other_code"), [({}, True), ({"KIT_SM": "90"}, False)])
    def test_it_may_be_for_one_kind_of_gpu(self, kit, tmp_path, environment, has_other_code):
        packed = kit(**environment)

        unpacked(packed.folder, tmp_path / "site")

        library = (tmp_path / "site/tensorrt_libs/libnvinfer.so.10.6.0").read_bytes()
        assert bytes([90]) * CODE_BYTES in library
        assert (bytes([80]) * CODE_BYTES in library) is has_other_code
        assert ("libnvinfer.so.10.6.0: 1 MB of 2 MB are for other GPUs" in packed.ended.stderr) is not has_other_code

    def test_a_kit_may_leave_tensorrt_out(self, kit, tmp_path):
        packed = kit(KIT_TENSORRT="none")

        unpacked(packed.folder, tmp_path / "site")

        assert LOCK not in packed.asked
        assert not (tmp_path / "site/tensorrt").exists()

    def test_a_version_that_it_would_not_fetch_is_refused(self, kit):
        packed = kit(KIT_TENSORRT="11.2")

        assert packed.ended.returncode == 2
        assert "KIT_TENSORRT is 11.2, and there is one TensorRT for a kit" in packed.ended.stderr
        assert packed.asked == ""

    def test_it_holds_what_the_lock_pins_but_for_what_is_large_and_there(self, kit):
        lock = (kit(KIT_TENSORRT="none").folder / "lock.txt").read_text()

        names = set(re.findall(r"^([a-z0-9-]+)==", lock, re.MULTILINE))
        assert {
            "onnxruntime-gpu",
            "onnx",
            "torchao",
            "pydantic",
            "rich",
            "nvidia-ml-py",
            "cuda-bindings",
            "pytest",
        } <= names
        assert not {"torch", "torchvision", "triton", "nvidia-cublas", "openvino", "tensorrt-rtx-cu13-libs"} & names
        assert lock.count("==") < lock.count("--hash=")

    def test_a_piece_that_was_spoilt_on_the_way_is_named(self, kit, tmp_path):
        folder = kit(KIT_TENSORRT="none").folder
        piece = folder / "pieces/kit-aaa"
        piece.write_bytes(piece.read_bytes()[:-1] + b"?")

        ended = unpacked(folder, tmp_path / "site")

        assert ended.returncode != 0
        assert "kit-aaa: FAILED" in ended.stdout + ended.stderr
        assert not any((tmp_path / "site").iterdir())
