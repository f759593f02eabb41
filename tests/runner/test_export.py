"""`inferbench export`: what was measured, as folders that run without inferbench and answer as fp32 does.

One run measures for all of it. Its rows show lower precisions end to end: each graph was prepared, converted in a
process of its own, timed and judged.
"""

from __future__ import annotations

import csv
import json
import platform
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from functools import partial
from itertools import groupby, product
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from inferbench_contract.errors import InferbenchError, PlanError
from inferbench_contract.spec import ModelSpec
from inferbench_contract.words import Device, Precision
from inferbench_runner import artifacts, bundle, cuda, environment, loaders, prepare
from inferbench_runner.backends import Arrays, Artifact, openvino
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
    "torch-aot-inductor/fp32": "torch",
    "torch-compile-max-autotune/fp32": "torch",
    "torch-eager/fp32": "torch",
    "torch-eager/bf16": "torch",
    "onnxruntime/fp32": "onnxruntime",
    "onnxruntime/int8-static": "onnxruntime",
    "openvino/fp32": "openvino",
    "openvino/int8-static": "openvino",
}
"""What is handed over, with the one heavy library that its load.py imports. For torch-compile see test_export_int8.py.

Those of a library run in one process, what imports least first.
"""

BY_THE_PROGRAM = (
    "torch-aot-inductor/fp32",
    "torch-compile-max-autotune/fp32",
    "onnxruntime/int8-static",
    "openvino/int8-static",
)
"""One for each load.py. The others are handed over by what the program calls, without its processes."""

BACKENDS = sorted({strategy.partition("/")[0] for strategy in BY_THE_PROGRAM})
PRECISIONS = ("fp32", "bf16", "fp16", "int8-static")

UNSUPPORTED = "onnxruntime/fp16"

LEFT_OUT = [
    {"backend": backend, "precision": precision}
    for backend, precision in product(BACKENDS, PRECISIONS)
    if backend.startswith("torch-") and precision != "fp32"
]
"""PyTorch's bf16 is measured in test_promises.py, and for its 8 bits see test_export_int8.py."""

DISTANCES = {"fp32": (0, 1e-5), "bf16": (1e-3, 8e-2), "int8-static": (1e-3, 0.15)}
"""How far the answers are from fp32: what is nearer is computed in something finer."""

RUN = """
import json, runpy, sys
import numpy as np
with np.load(sys.argv[1]) as kept:
    inputs = dict(kept)
heavy = {"inferbench_runner", "inferbench_contract", "onnxruntime", "openvino", "torch", "torchvision"}
path = list(sys.path)
for folder in sys.argv[2:]:
    answers = runpy.run_path(folder + "/load.py")["load"]()(inputs)
    np.savez(folder + ".npz", **answers)
    print(json.dumps(sorted(heavy & set(sys.modules))))
    own = [name for name, module in sys.modules.items() if str(getattr(module, "__file__", "")).startswith(folder)]
    sys.path[:] = path
    for name in own:
        del sys.modules[name]
"""
"""Answers beside each folder, and prints what has been imported. A folder finds nothing that another one brought."""


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A small model that was measured with every strategy, and the program to export from it.

    In the folder for temporary files PyTorch finds the headers that it compiled before, whoever needed them.
    """
    folders = {"INFERBENCH_CACHE": str(shared.cache()), "TMPDIR": tempfile.gettempdir()}
    with place(tmp_path_factory.mktemp("export"), folders) as here:
        measurement = {**documents.rounds(1), "layout": "channels-last"}
        file = here.write(**said(here.folder), backends=BACKENDS, exclude=LEFT_OUT, measurement=measurement)
        done = here.run("run", file, "--output", here.folder / "out", patience_seconds=PATIENCE_SECONDS)
        assert done.returncode == 0, done.stdout + done.stderr
        yield here


def said(folder: Path) -> Mapping[str, object]:
    """Return what is measured, but for the strategies."""
    model = tiny.a_model(folder, planes=16).model_dump(mode="json", exclude_none=True)
    return {"model": model, "precisions": PRECISIONS, "batchSizes": [BATCH], "backendOptions": {}, "cpu": ONE_THREAD}


def exported(here: Place, strategy: str, folder: str) -> Path:
    """Export a strategy at the batch size of these tests."""
    output = here.folder / folder
    asked = ("--batch-size", BATCH, "--strategy", strategy, "--output", output)
    done = here.run("export", here.folder / "out", *asked)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{strategy}@{BATCH} is in {output}" in done.stdout
    return output


@pytest.fixture(scope="module")
def hand_over(measured):
    """Hands over a strategy of the model, measured or not, as the program has it done."""
    plan = measured.folder / "plan.json"
    backends = sorted({strategy.partition("/")[0] for strategy in (*STRATEGIES, "fake/fp32")})
    plan.write_text(documents.scripted_plan(**said(measured.folder), backends=backends).dump())

    def hand_over(strategy):
        output = measured.folder / strategy.replace("/", "-")
        bundle.make(request_of(plan, shared.cache(), strategy, BATCH, output))
        return output

    return hand_over


def request_of(plan: Path, cache: Path, strategy: str, batch_size: int, output: Path, **more: object) -> bundle.Request:
    """Ask for a folder of a strategy, whose model lies beside the plan."""
    about = {"model_sha256": None, "name": "scripted", "about": {}, **more}
    places = {"plan": plan, "model_folder": plan.parent, "cache": cache, "output": output}
    return bundle.Request(**places, strategy=strategy, batch_size=batch_size, **about)


@pytest.fixture(scope="module")
def best(measured):
    """What is exported without the name of a strategy: the folder, and what the program prints."""
    output = measured.folder / "best"
    done = measured.run("export", measured.folder / "out", "--batch-size", BATCH, "--output", output, "--json")
    assert done.returncode == 0, done.stderr
    return output, json.loads(done.stdout)


@pytest.fixture(scope="module")
def folders(measured, hand_over, best):
    """Every strategy, handed over; the best one as it is there already."""
    folder, told = best
    made = {told["cell"].partition("@")[0]: folder}
    for strategy in STRATEGIES:
        if strategy not in made:
            named = strategy in BY_THE_PROGRAM
            made[strategy] = exported(measured, strategy, strategy.replace("/", "-")) if named else hand_over(strategy)
    return made


def alone(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run Python as a stranger would: another folder, none of our variables."""
    command = [sys.executable, "-I", *map(str, arguments)]
    theirs = {"PATH": "/usr/bin:/bin", "HOME": str(cwd), **QUICK}
    return subprocess.run(command, cwd=cwd, env=theirs, capture_output=True, text=True, check=False)


def answered_alone(folders: Iterable[Path], inputs: Arrays, cwd: Path) -> list[tuple[set[str], Arrays]]:
    """Run folders of one library, in a process without inferbench; return what it imported, and each one's answers."""
    folders = list(folders)
    np.savez(cwd / "inputs.npz", **inputs)
    done = alone("-c", RUN, cwd / "inputs.npz", *folders, cwd=cwd)
    assert done.returncode == 0, done.stderr
    imported = [set(json.loads(line)) for line in done.stdout.splitlines()]
    assert not {"inferbench_runner", "inferbench_contract"} & set().union(*imported)
    return [(each, np.load(f"{folder}.npz")) for each, folder in zip(imported, folders, strict=True)]


def others(model: ModelSpec, folder: Path) -> tuple[Arrays, Arrays]:
    """Return a batch that no folder holds, with what PyTorch answers to it in fp32: the last of what was prepared."""
    wanted = frozenset({Artifact.INPUTS, Artifact.REFERENCE})
    made = prepare.locate(prepare.Request(model=model, model_folder=folder, cache=shared.cache(), artifacts=wanted))
    rows = np.arange(artifacts.example_count(made.inputs))[bundle.CHECKED_EXAMPLES :][-BATCH:]
    return artifacts.read_rows(made.inputs, rows), artifacts.read_rows(made.reference, rows)


@pytest.fixture(scope="module")
def answers(measured, folders):
    """What each folder imported and answered, and how far that is from the truth."""
    inputs, truth = others(tiny.a_model(measured.folder, planes=16), measured.folder)
    found = {}
    for _, strategies in groupby(STRATEGIES, key=STRATEGIES.get):
        names = list(strategies)
        each = answered_alone((folders[name] for name in names), inputs, measured.folder)
        found |= {name: (imported, distance(told, truth)) for name, (imported, told) in zip(names, each, strict=True)}
    return found


def distance(answers: Arrays, truth: Arrays) -> float:
    """Return the relative L2 error of the output."""
    found, expected = answers["output"], truth["output"]
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_folder_runs_in_a_process_that_knows_nothing_of_inferbench(answers, strategy):
    imported, error = answers[strategy]

    least, most = DISTANCES[strategy.partition("/")[2]]
    assert least <= error < most
    assert imported == {STRATEGIES[strategy]}


@pytest.mark.parametrize("strategy", ["onnxruntime/fp32", "openvino/int8-static"])
def test_check_compares_with_the_reference(folders, tmp_path, strategy):
    right = alone(folders[strategy] / "check.py", cwd=tmp_path)

    assert right.returncode == 0, right.stderr
    assert right.stdout.startswith("output: relative L2 error ")
    assert right.stdout.splitlines()[-1] == "OK: as accurate as this precision has to be"


def test_check_finds_a_wrong_answer(folders, tmp_path):
    wrong = tmp_path / "copy"
    subprocess.run(["cp", "-r", folders["onnxruntime/fp32"], wrong], check=True)
    with np.load(wrong / "check.npz") as kept:
        arrays = dict(kept)
    np.savez(wrong / "check.npz", **{name: -array for name, array in arrays.items() if name.startswith("output:")},
             **{name: array for name, array in arrays.items() if name.startswith("input:")})  # fmt: skip

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
def test_check_finds_a_model_that_answers_from_memory(folders, tmp_path, capsys, recorded):
    forgetful = tmp_path / "copy"
    subprocess.run(["cp", "-r", folders["onnxruntime/fp32"], forgetful], check=True)
    (forgetful / "load.py").rename(forgetful / "real.py")
    (forgetful / "load.py").write_text(REMEMBERING.format(path=str(forgetful / "real.py"), recorded=recorded))

    status = runpy.run_path(str(forgetful / "check.py"))["main"]()

    assert status == 1
    assert capsys.readouterr() == ("WRONG: the outputs stayed the same when the inputs changed\n", "")


def test_check_allows_a_model_to_answer_two_examples_alike():
    """Which fewer bits do where only the last digits of fp32 differ."""
    is_stale = runpy.run_path(str(Path(loaders.__file__).with_name("check.py")))["is_stale"]
    expected = [{"y": np.float32([number])} for number in (1, 2, 3, 3 + 1e-6, 4, 5)]

    assert not is_stale([{"y": np.round(each["y"])} for each in expected], expected)
    assert is_stale([{"y": np.float32([1])}] * len(expected), expected)


def written_files(folder: Path) -> set[str]:
    """Return what an export holds, without the bytecode that running it leaves there."""
    files = (file for file in folder.rglob("*") if file.is_file() and file.parent.name != "__pycache__")
    return {str(file.relative_to(folder)) for file in files}


@pytest.mark.parametrize("strategy", BY_THE_PROGRAM)
def test_model_json_says_what_was_measured_and_where(folders, strategy):
    told = json.loads((folders[strategy] / "model.json").read_text())

    assert told["benchmark"] == "scripted"
    assert told["measured"]["outcome"] == "Measured"
    assert told["measured"]["latencyNanoseconds"] > 0
    assert told["fingerprint"] == environment.describe().fingerprint


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_model_json_says_what_it_is(folders, strategy):
    told = json.loads((folders[strategy] / "model.json").read_text())

    assert (told["cell"], told["batchSize"]) == (f"{strategy}@{BATCH}", BATCH)
    assert told["inputs"] == [{"name": "image", "dtype": "float32", "shape": [BATCH, 3, 32, 32]}]
    assert told["outputs"] == [{"name": "output", "dtype": "float32", "shape": [BATCH, 10]}]
    assert "gpu" not in told
    assert set(told["versions"]) > {"python"}
    for name, file in told["files"].items():
        assert artifacts.digest(folders[strategy] / name) == file["sha256"]
    assert {told["artifact"], "load.py", "check.py", "check.npz"} <= set(told["files"])
    assert set(told["files"]) == written_files(folders[strategy]) - {"model.json"}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_requirements_name_what_load_py_imports_in_the_versions_that_were_measured(folders, strategy):
    lines = (folders[strategy] / "requirements.txt").read_text().splitlines()
    required = dict(line.partition("  # measured: ")[0].split("==") for line in lines[1:])
    measured = {library.name.removesuffix("-gpu"): library.version for library in environment.describe().libraries}

    assert lines[0].endswith(f"with Python {platform.python_version()}.")
    assert all(measured[name].partition("+")[0] == version for name, version in required.items())
    assert set(required) - {"torchvision", "triton"} == {"numpy", STRATEGIES[strategy]}


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
    served = {strategy for strategy, folder in folders.items() if (folder / "triton").exists()}

    assert served == {"onnxruntime/fp32", "onnxruntime/int8-static"}


def test_without_a_strategy_the_best_is_handed_over(measured, best):
    folder, told = best

    summary = json.loads((measured.folder / "out/summary.json").read_text())
    [fastest] = [each["strategy"] for each in summary["best"] if each["batchSize"] == BATCH]
    assert told["cell"] == f"{fastest}@{BATCH}"
    assert json.loads((folder / "model.json").read_text()) == told


def test_what_was_not_measured_is_told_in_a_sentence(measured):
    """What else cannot be asked for is told in the same way: see the unit tests of the program's export."""
    asked = ("--batch-size", BATCH, "--strategy", UNSUPPORTED, "--output", measured.folder / "never")

    done = measured.run("export", measured.folder / "out", *asked)

    assert done.returncode == 2
    assert f"{UNSUPPORTED}@3 is Unsupported (" in done.stderr
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


def test_a_scripted_strategy_has_nothing_to_hand_over(hand_over):
    with pytest.raises(PlanError, match="fake/fp32@3 has nothing to hand over"):
        hand_over("fake/fp32")


# ---- how near to fp32 each was when it was measured ----------------------------------------------

LIMITS = {"fp32": (0, 10_000), "fp16": (50_000, 10_000_000), "bf16": (500_000, 80_000_000)}
"""How far an answer may be from fp32 in parts per billion: each precision shows what it is by its error."""


@pytest.fixture(scope="module")
def rows(measured):
    """The rows of cells.csv by strategy."""
    with (measured.folder / "out/cells.csv").open() as file:
        return {f"{row['backend']}/{row['precision']}": row for row in csv.DictReader(file)}


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_eight_bits_are_measured_on_the_graph_that_was_converted_for_the_processor(rows, backend):
    row = rows[f"{backend}/int8-static"]

    assert row["outcome"] == "Measured"
    assert 1_000_000 < int(row["relative_l2_parts_per_billion"]) < 150_000_000


@pytest.mark.parametrize("strategy", ["onnxruntime/fp32", "openvino/fp32", "openvino/fp16", "openvino/bf16"])
def test_a_precision_is_measured_as_what_it_is_or_not_at_all(rows, strategy):
    row, precision = rows[strategy], Precision(strategy.partition("/")[2])

    if (reason := openvino.missing(precision, Device.CPU)) is not None:
        assert (row["outcome"], row["reason"]) == ("Unsupported", reason)
    else:
        low, high = LIMITS[precision]
        assert row["outcome"] == "Measured"
        assert low <= int(row["relative_l2_parts_per_billion"]) < high


@pytest.mark.parametrize("strategy", ["torch-aot-inductor/fp32", "torch-compile-max-autotune/fp32"])
def test_compiled_with_channels_last_a_model_answers_as_the_reference_which_lies_plane_by_plane(rows, strategy):
    """For the other strategies of PyTorch see test_layout.py."""
    row = rows[strategy]

    assert row["outcome"] == "Measured"
    assert int(row["relative_l2_parts_per_billion"]) < LIMITS["fp32"][1]


def test_what_would_be_cast_up_is_unsupported(rows):
    assert rows["onnxruntime/fp16"]["outcome"] == "Unsupported"
    assert rows["onnxruntime/fp16"]["reason"].startswith("UpCast: ")


def test_the_error_against_fp64_tells_rounding_in_another_order_from_a_lower_precision(rows):
    """ONNX Runtime's fp32 is as exact as PyTorch's, to within a factor of three; eight bits lose four digits."""
    exact, coarse = (int(rows[f"onnxruntime/{each}"]["error_ratio_milli"]) for each in ("fp32", "int8-static"))

    assert 300 < exact < 3_000
    assert coarse > 1000 * exact


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
        about = {"model_sha256": sha256, "name": "mine", "about": {"hardware": "2 x NVIDIA H200"}}
        places = (tmp_path / "plan.json", tmp_path / "cache")
        return bundle.make(request_of(*places, f"onnxruntime/{precision}", 1, tmp_path / "handed", **about))

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
