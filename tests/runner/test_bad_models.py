"""What a person is told by the real program when a model, the internet or the compiler fails them.

The cache is in test_bad_days.py: a disk of its own can fill up.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import programs
from tests.programs import Place
from tests.runner import shared, tiny


def cells(place: Place) -> dict[str, int]:
    """Return how many cells ended how."""
    told: dict[str, int] = json.loads((place.folder / "out/summary.json").read_text())["cells"]
    return told


def with_environment(place: Place, **more: str) -> Place:
    """Return the same place, where every program has more environment variables."""
    return Place(place.folder, place.mark, more)


def test_without_internet_a_run_of_trained_weights_names_the_two_ways_out(place: Place) -> None:
    nowhere = "http://127.0.0.1:9"
    offline = with_environment(place, https_proxy=nowhere, TORCH_HOME=str(place.folder / "torch"))
    model = {"torchvision": {"name": "resnet18", "weights": "DEFAULT"}}
    file = place.write(model=model, backends=["torch-eager"])

    done = offline.run("run", file, "--output", "out")

    assert done.returncode == 3
    (told,) = (line for line in done.stderr.splitlines() if "Two ways out: " in line)
    assert "weights: random" in told
    assert "path: FILE" in told
    assert "Traceback" not in done.stdout + done.stderr


@pytest.fixture(scope="module")
def refused(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Place, subprocess.CompletedProcess[str]]]:
    """A run of a file that is no model, by two backends; which other models are refused is in test_models.py."""
    with programs.place(tmp_path_factory.mktemp("refused")) as place:
        (place.folder / "model.onnx").write_text("<html>You are not signed in.</html>")
        strategies = {"backends": ["onnxruntime", "openvino"], "backendOptions": {}, "batchSizes": [1, 4]}
        file = place.write(model={"onnx": {"path": "model.onnx"}}, **strategies)
        yield place, place.run("run", file, "--output", "out")


def test_a_model_file_that_is_none_is_named_with_what_it_is(refused) -> None:
    place, done = refused

    assert f"{place.folder / 'model.onnx'} is not an ONNX model" in done.stderr
    assert "begin with b'<html>You" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_a_model_that_cannot_be_prepared_ends_the_run_after_one_sweep_with_its_reason(refused) -> None:
    """No other strategy could do better: what they all read is not there."""
    place, done = refused

    assert done.returncode == 1
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("sweep "))
    assert re.fullmatch(r"sweep 1 of 2, .*: batch 1 Failed \(.*is not an ONNX model.*\); batch 4 Failed", line)
    assert re.match(r"inferbench: The model cannot be prepared, so no sweep can .* is not an ONNX model", done.stderr)
    assert [file.name for file in (place.folder / "out/results").iterdir()] == ["0.json"]
    assert f"What was printed meanwhile is in {Path('out/logs/preparing.log')}." in done.stderr


def test_without_a_compiler_its_cells_are_unsupported_and_the_others_are_measured(place: Place) -> None:
    model = tiny.a_model(place.folder, planes=16).model_dump(mode="json", exclude_none=True)
    first = {"backend": "onnxruntime", "precision": "fp32"}
    file = place.write(model=model, backends=["torch-compile", "onnxruntime"], baseline=first, backendOptions={})

    poor = with_environment(place, CXX="/nowhere/c++", INFERBENCH_CACHE=str(shared.cache()))
    done = poor.run("run", file, "--output", "out")

    assert done.returncode == 0, done.stderr
    assert (cells(place)["measured"], cells(place)["unsupported"]) == (1, 1)
    assert "torch-compile/fp32@1: Unsupported: " in done.stdout
    assert "/nowhere/c++" in done.stdout
