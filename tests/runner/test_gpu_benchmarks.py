"""`benchmarks/gpu/all.py` as far as it goes without a GPU: its benchmarks are valid, and the fake backend plays it."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

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

    def test_a_claim_is_judged_at_the_batch_sizes_that_are_measured(self, script):
        claim = {"name": "claim", "batchSizes": [32, 128]}

        assert script.at_batches(claim, [1, 8, 128]) == {"name": "claim", "batchSizes": [128]}
        assert script.at_batches(claim, [1, 8]) is None
        assert script.at_batches({"name": "claim"}, [1]) == {"name": "claim"}
