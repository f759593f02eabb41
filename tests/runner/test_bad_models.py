"""What a person is told by the real program when a model, the internet, the cache or the compiler fails them."""

from __future__ import annotations

import json

from tests.programs import Place
from tests.runner import shared, tiny, tiny_onnx


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


def test_a_model_file_that_is_none_is_named_with_what_it_is(place: Place) -> None:
    (place.folder / "model.onnx").write_text("<html>You are not signed in.</html>")
    file = place.write(model={"onnx": {"path": "model.onnx"}}, backends=["onnxruntime"])

    done = place.run("run", file, "--output", "out")

    assert done.returncode == 1
    assert f"{place.folder / 'model.onnx'} is not an ONNX model" in done.stdout + done.stderr
    assert "begin with b'<html>You" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_a_corrupt_entry_of_the_cache_is_made_anew_and_the_run_succeeds(place: Place) -> None:
    tiny_onnx.a_file(place.folder)
    file = place.write(model={"onnx": {"path": "tiny.onnx"}}, backends=["onnxruntime"])
    assert place.run("run", file, "--output", "out").returncode == 0
    (kept,) = (place.folder / "cache").glob("reference/*/scores.npy")
    sound = kept.read_bytes()
    kept.write_bytes(sound[:-1] + bytes([sound[-1] ^ 1]))

    done = place.run("run", file, "--output", "out", "--fresh")

    assert done.returncode == 0, done.stderr
    assert cells(place)["measured"] == 1
    assert kept.read_bytes() == sound


def test_without_a_compiler_its_cells_are_unsupported_and_the_others_are_measured(place: Place) -> None:
    model = tiny.a_model(place.folder, planes=16).model_dump(mode="json", exclude_none=True)
    file = place.write(model=model, backends=["torch-eager", "torch-compile"])

    poor = with_environment(place, CXX="/nowhere/c++", INFERBENCH_CACHE=str(shared.cache()))
    done = poor.run("run", file, "--output", "out")

    assert done.returncode == 0, done.stderr
    assert (cells(place)["measured"], cells(place)["unsupported"]) == (1, 1)
    assert "torch-compile/fp32@1: Unsupported: " in done.stdout
    assert "/nowhere/c++" in done.stdout
