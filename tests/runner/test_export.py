"""`inferbench export`: what was measured, as folders that run without inferbench and answer as fp32 does."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import tempfile
from functools import partial
from importlib import metadata
from itertools import product
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from inferbench_contract.errors import InferbenchError
from inferbench_runner import artifacts, bundle, cuda, environment, prepare
from inferbench_runner.backends import Artifact
from tests import documents
from tests.fake_cuda import FakeDriver, FakeNvml
from tests.programs import Place, place
from tests.runner import shared, tiny, tiny_onnx

BATCH = 3

PATIENCE_SECONDS = 500
"""A model, its graphs, a compiler and six processes; this only ends a test that hangs."""

ONE_THREAD = {"threads": 1}
"""Two of PyTorch's wait for each other for ages where anything else runs."""

QUICK = {"TORCHINDUCTOR_VEC_ISA_OK": "1"}
"""PyTorch's own variable; see conftest.py."""

STRATEGIES = {
    "torch-eager/fp32": {"torch"},
    "torch-eager/bf16": {"torch"},
    "torch-compile-max-autotune/fp32": {"torch"},
    "torch-aot-inductor/fp32": {"torch"},
    "onnxruntime/fp32": {"onnxruntime"},
    "onnxruntime/int8-static": {"onnxruntime"},
    "openvino/fp32": {"openvino"},
    "openvino/int8-static": {"openvino"},
}
"""What is exported, with the one heavy library that its load.py imports. For torch-compile see test_export_int8.py."""

PRECISIONS = ("fp32", "bf16", "int8-static")

UNSUPPORTED = "torch-eager/int8-static"

LEFT_OUT = [
    {"backend": backend, "precision": precision}
    for backend, precision in product({strategy.partition("/")[0] for strategy in STRATEGIES}, PRECISIONS)
    if f"{backend}/{precision}" not in {*STRATEGIES, UNSUPPORTED}
]
"""For those of PyTorch at 8 bits see test_export_int8.py."""

DISTANCES = {"fp32": (0, 1e-5), "bf16": (1e-3, 8e-2), "int8-static": (1e-3, 0.15)}
"""How far the answers are from fp32: what is nearer is computed in something finer."""

RUN = """
import json, runpy, sys
import numpy as np
sys.path.append(sys.argv[1])
images = np.random.default_rng(1).random((3, 3, 32, 32), np.float32)
answers = runpy.run_path(sys.argv[1] + "/load.py")["load"]()({"image": images})
np.savez(sys.argv[2], **answers)
heavy = {"inferbench_runner", "inferbench_contract", "onnxruntime", "openvino", "torch", "torchvision"}
print(json.dumps(sorted(heavy & set(sys.modules))))
"""


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A small model that was measured with every strategy, and the program to export from it.

    In the folder for temporary files PyTorch finds the headers that it compiled before, whoever needed them.
    """
    folders = {"INFERBENCH_CACHE": str(shared.cache()), "TMPDIR": tempfile.gettempdir()}
    with place(tmp_path_factory.mktemp("export"), folders) as here:
        model = tiny.a_model(here.folder, planes=16).model_dump(mode="json", exclude_none=True)
        said = {"precisions": PRECISIONS, "batchSizes": [BATCH], "backendOptions": {}, "cpu": ONE_THREAD}
        said["measurement"] = {**documents.rounds(1), "layout": "channels-last"}
        backends = sorted({strategy.partition("/")[0] for strategy in STRATEGIES})
        file = here.write(model=model, backends=backends, exclude=LEFT_OUT, **said)
        done = here.run("run", file, "--output", here.folder / "out", patience_seconds=PATIENCE_SECONDS)
        assert done.returncode == 0, done.stdout + done.stderr
        yield here


def exported(here: Place, strategy: str, folder: str) -> Path:
    """Export a strategy at the batch size of these tests."""
    output = here.folder / folder
    asked = ("--batch-size", BATCH, "--strategy", strategy, "--output", output)
    done = here.run("export", here.folder / "out", *asked)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{strategy}@{BATCH} is in {output}" in done.stdout
    return output


@pytest.fixture(scope="module")
def folders(measured):
    """Every strategy, exported."""
    return {strategy: exported(measured, strategy, strategy.replace("/", "-")) for strategy in STRATEGIES}


def alone(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run Python as a stranger would: another folder, none of our variables."""
    command = [sys.executable, "-I", *map(str, arguments)]
    theirs = {"PATH": "/usr/bin:/bin", "HOME": str(cwd), **QUICK}
    return subprocess.run(command, cwd=cwd, env=theirs, capture_output=True, text=True, check=False)


def weights_of(here: Place) -> Path:
    """Return the file of the weights that were prepared."""
    asked = {"model_folder": here.folder, "cache": Path(here.more["INFERBENCH_CACHE"])}
    model, wanted = tiny.a_model(here.folder, planes=16), frozenset({Artifact.WEIGHTS})
    return prepare.locate(prepare.Request(model=model, artifacts=wanted, **asked)).weights


@pytest.fixture(scope="module")
def truth(measured):
    """What PyTorch answers to other inputs than were kept, with the weights that were prepared."""
    script = """
import sys, numpy as np, torch
sys.path.append(sys.argv[1])
import tiny_models
module = tiny_models.make(planes=16)
module.load_state_dict(torch.load(sys.argv[2], weights_only=True))
images = torch.from_numpy(np.random.default_rng(1).random((3, 3, 32, 32), np.float32))
with torch.inference_mode():
    np.save(sys.argv[3], module.eval()(images).numpy())
"""
    answers = measured.folder / "truth.npy"
    done = alone("-c", script, measured.folder, weights_of(measured), answers, cwd=measured.folder)
    assert done.returncode == 0, done.stderr
    return np.load(answers)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_folder_runs_in_a_process_that_knows_nothing_of_inferbench(folders, truth, tmp_path, strategy):
    answers = tmp_path / "answers.npz"

    done = alone("-c", RUN, folders[strategy], answers, cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    least, most = DISTANCES[strategy.partition("/")[2]]
    found = np.load(answers)["output"]
    assert least <= np.linalg.norm(found - truth) / np.linalg.norm(truth) < most
    assert set(json.loads(done.stdout)) == STRATEGIES[strategy]


@pytest.mark.parametrize("strategy", ["onnxruntime/fp32", "openvino/int8-static"])
def test_check_compares_with_the_reference_and_finds_a_wrong_answer(folders, tmp_path, strategy):
    right = alone(folders[strategy] / "check.py", cwd=tmp_path)
    wrong = tmp_path / "copy"
    subprocess.run(["cp", "-r", folders[strategy], wrong], check=True)
    with np.load(wrong / "check.npz") as kept:
        arrays = dict(kept)
    np.savez(wrong / "check.npz", **{name: -array for name, array in arrays.items() if name.startswith("output:")},
             **{name: array for name, array in arrays.items() if name.startswith("input:")})  # fmt: skip

    assert right.returncode == 0, right.stderr
    assert right.stdout.startswith("output: relative L2 error ")
    assert right.stdout.splitlines()[-1] == "OK: as accurate as this precision has to be"
    found = alone(wrong / "check.py", cwd=tmp_path)
    assert (found.returncode, found.stdout.splitlines()[-1]) == (1, "WRONG: too far from fp32")


REMEMBERING = """
import runpy

def load():
    model, answers = runpy.run_path({path!r})["load"](), []

    def run(inputs):
        answers.append(model(inputs))
        return answers[min(len(answers), {recorded}) - 1]

    return run
"""
"""A load.py whose answers are, after some calls, those of the last of them: a replay that reads no inputs."""


@pytest.mark.parametrize("recorded", [1, 3], ids=["the first call", "the third call"])
def test_check_finds_a_model_that_answers_from_memory(folders, tmp_path, recorded):
    forgetful = tmp_path / "copy"
    subprocess.run(["cp", "-r", folders["onnxruntime/fp32"], forgetful], check=True)
    (forgetful / "load.py").rename(forgetful / "real.py")
    (forgetful / "load.py").write_text(REMEMBERING.format(path=str(forgetful / "real.py"), recorded=recorded))

    done = alone(forgetful / "check.py", cwd=tmp_path)

    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout == "WRONG: the outputs stayed the same when the inputs changed\n"


def written_files(folder: Path) -> set[str]:
    """Return what an export holds, without the bytecode that running it leaves there."""
    files = (file for file in folder.rglob("*") if file.is_file() and file.parent.name != "__pycache__")
    return {str(file.relative_to(folder)) for file in files}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_model_json_says_what_it_is_and_what_was_measured(folders, strategy):
    told = json.loads((folders[strategy] / "model.json").read_text())

    assert (told["cell"], told["batchSize"], told["benchmark"]) == (f"{strategy}@{BATCH}", BATCH, "scripted")
    assert told["inputs"] == [{"name": "image", "dtype": "float32", "shape": [BATCH, 3, 32, 32]}]
    assert told["outputs"] == [{"name": "output", "dtype": "float32", "shape": [BATCH, 10]}]
    assert told["measured"]["outcome"] == "Measured"
    assert told["measured"]["latencyNanoseconds"] > 0
    assert told["fingerprint"] == environment.describe().fingerprint
    assert "gpu" not in told
    assert set(told["versions"]) > {"python"}
    for name, file in told["files"].items():
        assert artifacts.digest(folders[strategy] / name) == file["sha256"]
    assert {told["artifact"], "load.py", "check.py", "check.npz"} <= set(told["files"])
    assert set(told["files"]) == written_files(folders[strategy]) - {"model.json"}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_requirements_name_what_load_py_imports_in_the_versions_that_were_measured(folders, strategy):
    lines = (folders[strategy] / "requirements.txt").read_text().splitlines()
    required = dict(line.split("==") for line in lines[1:])

    assert lines[0].endswith(f"with Python {platform.python_version()}.")
    assert all(metadata.version(name).partition("+")[0] == version for name, version in required.items())
    imported = {"numpy", *STRATEGIES[strategy]}
    assert {name.removesuffix("-gpu") for name in required} - {"torchvision", "triton"} == imported


def test_an_onnx_graph_comes_with_a_triton_repository_that_holds_the_same_file(folders):
    folder = folders["onnxruntime/int8-static"]
    [model] = (folder / "triton").iterdir()

    assert model.name == "scripted-onnxruntime-int8-static"
    assert (model / "1/model.onnx").samefile(folder / "model.onnx")
    assert (
        f'name: "{model.name}"\nbackend: "onnxruntime"\nmax_batch_size: {BATCH}\n'
        in (model / "config.pbtxt").read_text()
    )


def test_only_what_triton_serves_as_it_is_has_a_repository(folders):
    assert {strategy for strategy, folder in folders.items() if (folder / "triton").exists()} == {
        "onnxruntime/fp32",
        "onnxruntime/int8-static",
    }


def test_without_a_strategy_the_best_is_handed_over(measured):
    done = measured.run(
        "export", measured.folder / "out", "--batch-size", BATCH, "--output", measured.folder / "best", "--json"
    )

    told, summary = json.loads(done.stdout), json.loads((measured.folder / "out/summary.json").read_text())
    [best] = [each["strategy"] for each in summary["best"] if each["batchSize"] == BATCH]
    assert told["cell"] == f"{best}@{BATCH}"
    assert json.loads((measured.folder / "best/model.json").read_text()) == told


@pytest.mark.parametrize(
    ("asked", "status", "words"),
    [
        pytest.param(("--batch-size", 7), 2, "--batch-size is 7; ", id="a size that was not measured"),
        pytest.param(
            ("--batch-size", BATCH, "--strategy", "fast"), 2, "--strategy is fast; expected a backend", id="no strategy"
        ),
        pytest.param(
            ("--batch-size", BATCH, "--strategy", "fake/fp32"), 2, "--strategy is fake/fp32; ", id="one of elsewhere"
        ),
        pytest.param(
            ("--batch-size", BATCH, "--strategy", UNSUPPORTED),
            2,
            f"{UNSUPPORTED}@3 is Unsupported (",
            id="what was not measured",
        ),
    ],
)
def test_what_cannot_be_handed_over_is_told_in_a_sentence(measured, asked, status, words):
    done = measured.run("export", measured.folder / "out", *asked, "--output", measured.folder / "never")

    assert done.returncode == status
    assert words in done.stderr
    assert not (measured.folder / "never").exists()


def test_a_folder_that_holds_something_is_left_alone(measured):
    taken = measured.folder / "taken"
    taken.mkdir()
    (taken / "letter.txt").write_text("dear")

    done = measured.run("export", measured.folder / "out", "--batch-size", BATCH, "--output", taken)

    assert done.returncode == 1
    assert "is there already and is not an empty folder" in done.stderr
    assert [file.name for file in taken.iterdir()] == ["letter.txt"]


def test_on_another_machine_nothing_is_exported(measured, tmp_path):
    """The artefact would be made anew, by other libraries or for another processor."""
    copy = tmp_path / "out"
    subprocess.run(["cp", "-r", measured.folder / "out", copy], check=True)
    told = json.loads((copy / "environment.json").read_text())
    (copy / "environment.json").write_text(json.dumps({**told, "fingerprint": "another"}))

    done = measured.run("export", copy, "--batch-size", BATCH, "--output", tmp_path / "never")

    assert done.returncode == 3
    assert "is not as it was when" in done.stderr


def test_a_scripted_strategy_has_nothing_to_hand_over(tmp_path):
    with place(tmp_path) as here:
        here.run("run", here.write(), "--output", here.folder / "out")
        done = here.run("export", here.folder / "out", "--batch-size", 1, "--output", here.folder / "never")

    assert done.returncode == 1
    assert "fake/fp32@1 has nothing to hand over" in done.stderr


# ---- what ran on a GPU ---------------------------------------------------------------------------


@pytest.fixture
def hand_over_from_gpu(tmp_path, monkeypatch):
    """Hands over a cell of somebody's ONNX file that ran on a GPU, whose driver and NVML are stand-ins."""
    model = tiny_onnx.a_file(tmp_path).model_dump(mode="json", exclude_none=True)
    said = {"backends": ["onnxruntime"], "precisions": ["fp32", "fp16"], "device": "gpu", "backendOptions": {}}
    (tmp_path / "plan.json").write_text(documents.scripted_plan(model=model, **said).dump())
    monkeypatch.setattr(cuda, "require_driver", partial(cuda.require_driver, load=FakeDriver()))
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml())

    def hand_over(precision, sha256):
        places = {"plan": tmp_path / "plan.json", "model_folder": tmp_path, "cache": tmp_path / "cache"}
        cell = {"strategy": f"onnxruntime/{precision}", "batch_size": 1, "model_sha256": sha256}
        about = {"name": "mine", "about": {"hardware": "2 x NVIDIA H200"}}
        return bundle.make(bundle.Request(**places, **cell, **about, output=tmp_path / "handed"))

    return hand_over


@pytest.mark.parametrize(
    ("precision", "element"),
    [pytest.param("fp32", TensorProto.FLOAT, id="fp32"), pytest.param("fp16", TensorProto.FLOAT16, id="fp16")],
)
def test_a_graph_is_handed_over_in_its_precision_and_names_the_gpu_that_it_ran_on(
    hand_over_from_gpu, tmp_path, precision, element
):
    told = hand_over_from_gpu(precision, artifacts.digest(tmp_path / "tiny.onnx"))

    weights = onnx.load(tmp_path / "handed/model.onnx").graph.initializer
    assert element in {tensor.data_type for tensor in weights} <= {element, TensorProto.INT64}
    assert told["gpu"] == {"name": "NVIDIA H200", "driver": "580.159.04", "computeCapability": "9.0"}
    assert (told["device"], told["hardware"]) == ("gpu", "2 x NVIDIA H200")
    assert json.loads((tmp_path / "handed/model.json").read_text()) == told


def test_a_file_that_has_changed_since_it_was_measured_is_not_handed_over(hand_over_from_gpu, tmp_path):
    with pytest.raises(
        InferbenchError, match=r"tiny\.onnx is not the file that was measured\. .* --model-folder FOLDER"
    ):
        hand_over_from_gpu("fp32", "0" * 64)

    assert not (tmp_path / "handed").exists()
