"""`benchmarks/gpu/all.py` as far as it goes without a GPU: its benchmarks are valid, and the fake backend plays it."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml

from inferbench_contract import plan as plans
from inferbench_contract import result
from tests import results

FOLDER = Path(__file__).parents[2] / "benchmarks/gpu"

TRTEXEC = """
[11/24/2026-10:00:00] [I] Throughput: 2900.1 qps
[11/24/2026-10:00:00] [I] Latency: min = 0.33 ms, max = 0.9 ms, mean = 0.34 ms, median = 0.338 ms, percentile(90%) = 0.34 ms
[11/24/2026-10:00:00] [I] GPU Compute Time: min = 0.31 ms, max = 0.8 ms, mean = 0.32 ms, median = 0.3175 ms, percentile(90%) = 0.32 ms
"""  # noqa: E501 (as it prints)


@pytest.fixture
def play(tmp_path):
    """Runs the script with the fake backend as the player of all."""

    def run(*arguments, folder="out"):
        command = [
            sys.executable,
            FOLDER / "all.py",
            tmp_path / folder,
            "--device",
            "cpu",
            "--backend",
            "fake",
            *arguments,
        ]
        environment = {**os.environ, "INFERBENCH_CACHE": str(tmp_path / "cache")}
        return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=300)

    return run


@pytest.fixture
def script(monkeypatch):
    """The script as a module."""
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("all")


@pytest.mark.parametrize("profile", ["short", "full"])
def test_every_benchmark_of_a_profile_is_valid_and_its_length_is_foreseen(tmp_path, profile):
    command = [sys.executable, FOLDER / "all.py", tmp_path, "--profile", profile, "--plan"]

    ended = subprocess.run(command, capture_output=True, text=True, check=False)

    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines()[-1].startswith("about ")
    assert (tmp_path / "article.yaml").exists()


def test_the_short_profile_fits_into_twenty_minutes_by_what_cells_were_seen_to_take(tmp_path):
    command = [sys.executable, FOLDER / "all.py", tmp_path, "--plan"]

    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout

    assert 10 < float(re.search(r"^about ([0-9.]+) minutes in all", told, re.MULTILINE)[1]) <= 20


@pytest.mark.parametrize(("profile", "rounds"), [("short", 1), ("full", 1)])
def test_every_step_of_a_profile_is_played_and_what_was_played_is_not_judged(play, tmp_path, script, profile, rounds):
    ended = play("--profile", profile, "--rounds", str(rounds), "--largest", "8", "--bare-seconds", "0.1")

    steps = script.PROFILES[profile].steps
    told = {step: json.loads((tmp_path / f"out/{step}.json").read_text()) for step in steps}
    report = (tmp_path / "out/report.md").read_text()
    wanted = [figure for step in told.values() for figure in step["figures"].values()]
    assert ended.returncode == 0, ended.stderr
    assert re.findall(r"^## (\w+)", report, re.MULTILINE) == list(steps)
    assert told["repeatability"]["pairs"] > 0
    assert {figure["reached"] for figure in wanted} == {None}
    assert ended.stdout.count("| not judged |") == len(wanted) > 0


def test_what_is_broken_off_goes_on_and_what_is_done_is_not_done_again(play, tmp_path):
    steps = ("--steps", "machine,mlperf,bias", "--bare-seconds", "0.2")

    late = play(*steps, "--minutes", "0")
    whole = play(*steps, "--archive", tmp_path / "out.tar.gz")
    again = play(*steps, "--minutes", "0")

    assert (late.returncode, whole.returncode, again.returncode) == (75, 0, 0), late.stderr + whole.stderr
    assert "the minutes are over" in late.stderr
    assert json.loads((tmp_path / "out/bias.json").read_text())["cells"][0]["biasPercent"] < 1_000
    assert (
        (tmp_path / "out/report.md").read_text().startswith("# Played by the fake backend: none of these numbers was")
    )
    with tarfile.open(tmp_path / "out.tar.gz") as tar:
        assert {"out/report.md", "out/mlperf/summary.json"} <= set(tar.getnames())


def test_a_step_that_fails_leaves_the_others_their_time(play, tmp_path):
    """`compile` reads the article's run, which was not made here."""
    ended = play("--steps", "compile,machine")

    assert ended.returncode == 1
    assert "compile failed: FileNotFoundError" in ended.stderr
    assert (tmp_path / "out/machine.json").exists()


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

    def test_an_engine_is_held_against_trtexec_else_its_own_profiler(self, script):
        ours = {"deviceMedianNanoseconds": 103, "profilerMedianNanoseconds": 100}

        assert script.engine_error(ours) == pytest.approx(3)
        assert script.engine_error({**ours, "trtexecMedianNanoseconds": 206}) == pytest.approx(50)
        assert script.engine_error({"deviceMedianNanoseconds": None}) is None

    def test_the_share_of_a_warm_cache_leaves_out_first_rounds_and_what_was_compiled(self, script, tmp_path):
        plan = plans.expand(results.three_backends(measurement={"rounds": 2}))
        (tmp_path / "results").mkdir()
        (tmp_path / "plan.json").write_text(plan.dump())
        for sweep in plan.sweeps:
            was_cold = 1 if str(sweep.strategy.backend) == "torch-compile" else None
            cell = results.measured(measure_ms=8_000, compile_was_cold=was_cold, compile_ms=was_cold)
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
    case "$each" in -DoutputDirectory=*) folder=${each#*=} ;; esac
done
mkdir -p "$folder"
cp "$KIT_JAR" "$folder/"
"""


@pytest.fixture
def kit(tmp_path):
    """Packs a kit with stand-ins for uv and Maven's client, in pieces of 4 KiB; returns its folder and uv's log."""
    programs = tmp_path / "programs"
    programs.mkdir()
    for name, text in (("uv", UV), ("mvn", MVN)):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    with zipfile.ZipFile(tmp_path / "libraries.jar", "w") as jar:
        jar.writestr("org/somewhere/libnvinfer.so.10.6.0", b"library")
        jar.writestr("META-INF/MANIFEST.MF", b"")

    def pack(**environment):
        log = tmp_path / "log"
        log.write_text("")
        told = {"KIT_UV": str(programs / "uv"), "KIT_LOG": str(log), "KIT_PIECE": "4K", **environment}
        told |= {"KIT_JAR": str(tmp_path / "libraries.jar"), "PATH": f"{programs}:{os.environ['PATH']}"}
        command = [FOLDER / "pack.sh", tmp_path / "kit"]
        subprocess.run(command, env={**os.environ, **told}, capture_output=True, text=True, check=True)
        return tmp_path / "kit", log.read_text()

    return pack


def unpacked(kit: Path, site: Path):
    """What unpacking a kit says, and its exit status."""
    return subprocess.run(["sh", kit / "pieces/unpack.sh", site], capture_output=True, text=True, check=False)


class TestKit:
    def test_what_was_packed_is_there_once_it_is_unpacked(self, kit, tmp_path):
        folder, asked = kit()

        ended = unpacked(folder, tmp_path / "site")

        assert ended.returncode == 0, ended.stderr
        assert ended.stdout.startswith(
            f"export PYTHONPATH={tmp_path}/site LD_LIBRARY_PATH={tmp_path}/site/tensorrt_libs\n"
        )
        assert (tmp_path / "site/tensorrt_libs/libnvinfer.so.10.6.0").read_bytes() == b"library"
        assert "tensorrt_bindings import" in (tmp_path / "site/tensorrt/__init__.py").read_text()
        assert asked.count("--python-version 3.12") == 3
        assert len(list((folder / "pieces").glob("kit-*"))) > 1

    def test_a_kit_may_leave_tensorrt_out(self, kit, tmp_path):
        folder, asked = kit(KIT_TENSORRT="none")

        unpacked(folder, tmp_path / "site")

        assert "tensorrt-cu12" not in asked
        assert not (tmp_path / "site/tensorrt").exists()

    def test_it_holds_what_the_lock_pins_but_for_what_is_large_and_there(self, kit):
        folder, _ = kit(KIT_TENSORRT="none")

        lock = (folder / "lock.txt").read_text()

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
        folder, _ = kit(KIT_TENSORRT="none")
        piece = folder / "pieces/kit-aaa"
        piece.write_bytes(piece.read_bytes()[:-1] + b"?")

        ended = unpacked(folder, tmp_path / "site")

        assert ended.returncode != 0
        assert "kit-aaa: FAILED" in ended.stdout + ended.stderr
        assert not any((tmp_path / "site").iterdir())
