"""What README.md and examples/ promise: every command as it stands there, every example for CPUs, in small."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from inferbench_contract import document
from inferbench_runner import artifacts
from tests.runner import shared, tiny, zoo

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
BIN = Path(sys.executable).parent


def run(*arguments, folder, cache=None):
    """Run the program as a shell would, in a folder of its own."""
    environment = {**os.environ, "INFERBENCH_CACHE": str(cache or shared.cache())}
    command = [BIN / "inferbench", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def blocks(kind):
    """Return the fenced blocks of README.md that are marked so."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    return [text for marked, text in fenced if marked == kind]


def commands():
    """Return the command lines of README.md, without what stands behind a #."""
    lines = [line for block in blocks("") for line in block.splitlines()]
    return [shlex.split(line, comments=True) for line in lines if line.startswith((".venv/bin/", "make "))]


@pytest.fixture(scope="module")
def minimal(tmp_path_factory):
    """The folder in which examples/minimal.yaml was run as README.md says."""
    folder = tmp_path_factory.mktemp("minimal")
    done = run("run", ROOT / "examples/minimal.yaml", folder=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_readme_names_only_targets_that_make_has():
    targets = {words[1] for words in commands() if words[0] == "make"}

    listed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout

    assert targets >= {"demo", "test"}
    assert all(re.search(rf"^  make {target} ", listed, re.MULTILINE) for target in targets)


def test_every_command_in_readme_works(minimal, tmp_path):
    (results,) = (minimal / "inferbench-results").iterdir()
    asked = [words[1:] for words in commands() if words[0] == ".venv/bin/inferbench"]
    asked = [words for words in asked if words[0] != "run"]  # the fixture has run it

    for words in asked:
        places = {"examples/minimal.yaml": ROOT / "examples/minimal.yaml", "inferbench-results/...": results}
        done = run(*(places.get(word, word) for word in words), folder=tmp_path)
        assert done.returncode == 0, (words, done.stderr)

    assert {words[0] for words in asked} == {"validate", "plan", "report", "export", "backends"}


def test_the_benchmark_in_readme_is_valid():
    (text,) = blocks("yaml")

    assert document.parse(text, "README.md").name == "mine"


def test_the_minimal_example_measures_real_cells(minimal):
    (results,) = (minimal / "inferbench-results").iterdir()

    summary = json.loads((results / "summary.json").read_text())

    assert summary["cells"] == {
        "planned": 2,
        "measured": 2,
        "unsupported": 0,
        "inaccurate": 0,
        "failed": 0,
        "missing": 0,
    }
    assert (results / "report.html").stat().st_size < 100_000


def test_the_scripted_example_ends_as_its_script_says(tmp_path):
    """At two of its three batch sizes: those at which something is scripted."""
    said = yaml.safe_load((ROOT / "examples/fake.yaml").read_text())
    said["spec"] |= {"batchSizes": [1, 32], "expectations": []}
    (tmp_path / "fake.yaml").write_text(yaml.safe_dump(said))

    done = run("run", "fake.yaml", "--json", folder=tmp_path)

    assert done.returncode == 0, done.stderr
    cells = json.loads(done.stdout)["cells"]
    assert (cells["planned"], cells["failed"], cells["inaccurate"], cells["missing"]) == (8, 2, 2, 0)


QUICK = {"rounds": 1, "maxSecondsPerCell": 1, "warmupMaxSeconds": 1}


ANY_CHOICE = {"minTop1Agreement": {"bf16": "50%", "int8-dynamic": "50%", "int8-static": "50%"}}
"""What a small model with random weights chooses means nothing: its distances are judged, and enough."""


def said_in(name):
    """Return the spec of an example."""
    return yaml.safe_load((ROOT / "examples" / name).read_text())["spec"]


def shortened(name, folder, **spec):
    """Copy an example into a folder, with one short round of one batch size and one thread; no less is looked at."""
    said = yaml.safe_load((ROOT / "examples" / name).read_text())
    said["spec"] |= {"batchSizes": [1], "measurement": QUICK, "cpu": {"threads": 1}, **spec}
    (folder / name).write_text(yaml.safe_dump(said))
    return name


@pytest.fixture
def with_tiny_resnet(tmp_path):
    """A folder with the examples' own model, and a cache folder that holds what is made of it, and nothing else."""
    decisive = {name: artifacts.digest(ROOT / "examples" / name) for name in ("tiny_resnet.py", "python-factory.yaml")}
    shutil.copy(ROOT / "examples/tiny_resnet.py", tmp_path)
    return tmp_path, shared.cache() / f"tiny-resnet-{artifacts.key(decisive)[:16]}"


def test_the_demo_measures_all_its_backends(tmp_path):
    """The demo but for patience: ResNet-50 has fifty layers to compile, the model of the tests has few."""
    model = tiny.a_model(tmp_path, planes=16).model_dump(mode="json", exclude_none=True)
    demo = shortened("demo.yaml", tmp_path, model=model, expectations=[])

    done = run("run", demo, "--json", folder=tmp_path)

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["cells"]["measured"] == 3


@pytest.mark.parametrize(
    ("name", "transforms", "backends", "precisions"),
    [
        pytest.param("int8.yaml", False, ["onnxruntime"], ["fp32", "int8-dynamic", "int8-static"], id="8 bits"),
        pytest.param("halves.yaml", False, ["torch-eager"], ["fp32", "bf16"], id="16 bits"),
        pytest.param("vit.yaml", True, ["torch-eager", "onnxruntime"], ["fp32", "int8-dynamic"], id="a transformer's"),
    ],
)
def test_the_examples_of_precisions_measure_them(tmp_path, name, transforms, backends, precisions):
    """Of a small model of the same kind, by one or two backends: what the others do is seen where they are tested."""
    small = zoo.Zoo(tmp_path).model("vit") if transforms else tiny.a_model(tmp_path, planes=16)
    model = small.model_dump(mode="json", exclude_none=True)
    less = {"precisions": precisions, "exclude": [], "expectations": [], "backendOptions": {}, "accuracy": ANY_CHOICE}
    file = shortened(name, tmp_path, model=model, backends=backends, **less)

    done = run("run", file, "--json", folder=tmp_path)

    assert done.returncode == 0, done.stderr
    assert set(precisions) <= set(said_in(name)["precisions"])
    cells, measured = json.loads(done.stdout)["cells"], len(backends) * len(precisions)
    assert (cells["planned"], cells["measured"]) == (measured, measured), done.stdout


def test_the_examples_of_a_model_and_of_a_file_of_ones_own_work(with_tiny_resnet):
    """The file is the factory's model, as it was exported for ONNX Runtime; what ran of it can be handed over."""
    folder, cache = with_tiny_resnet

    model = run("run", shortened("python-factory.yaml", folder), "--json", folder=folder, cache=cache)
    [graph] = (cache / "onnx").glob("*/model.onnx")
    shutil.copy(graph, folder)
    file = run("run", shortened("onnx-file.yaml", folder, precisions=["fp32"]), "--json", folder=folder)
    [results] = (folder / "inferbench-results").glob("onnx-file-*")
    handed = run("export", results, "--batch-size", "1", "--output", "winner", folder=folder)
    checked = subprocess.run(
        [sys.executable, "-I", folder / "winner/check.py"], capture_output=True, text=True, check=False
    )

    assert (model.returncode, file.returncode) == (0, 0), model.stderr + file.stderr
    assert [json.loads(done.stdout)["cells"]["measured"] for done in (model, file)] == [3, 2]
    assert (handed.returncode, checked.returncode) == (0, 0), handed.stderr + checked.stderr
    assert checked.stdout.splitlines()[-1] == "OK: as accurate as this precision has to be"
