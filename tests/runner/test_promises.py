"""What README.md and examples/ promise: every command as it stands there, every example for CPUs, in small."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from inferbench_contract import document
from inferbench_runner import artifacts
from tests.runner import shared, tiny, zoo

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
BIN = Path(sys.executable).parent

QUICK = {"rounds": 1, "maxSecondsPerCell": 1, "warmupMaxSeconds": 1}


SILENCING = ("CI", "ORT_DISABLE_TELEMETRY")
"""With one of these set libraries would keep quiet by themselves."""


def run(*arguments, folder, cache=None, **more):
    """Run the program as a shell would, in a folder of its own; `more` are environment variables."""
    inherited = {name: value for name, value in os.environ.items() if name not in SILENCING}
    environment = {**inherited, "INFERBENCH_CACHE": str(cache or shared.cache()), **more}
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
    """At the one of its three batch sizes at which everything is scripted, up to the last round that is."""
    said = yaml.safe_load((ROOT / "examples/fake.yaml").read_text())
    said["spec"] |= {"batchSizes": [32], "measurement": {**QUICK, "rounds": 2}, "expectations": []}
    (tmp_path / "fake.yaml").write_text(yaml.safe_dump(said))

    done = run("run", "fake.yaml", "--json", folder=tmp_path)

    assert done.returncode == 0, done.stderr
    cells = json.loads(done.stdout)["cells"]
    assert (cells["planned"], cells["failed"], cells["inaccurate"], cells["missing"]) == (4, 2, 1, 0)


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
        pytest.param("int8.yaml", False, ["onnxruntime"], ["int8-static"], id="8 bits"),
        pytest.param("halves.yaml", False, ["torch-eager"], ["bf16"], id="16 bits"),
        pytest.param("vit.yaml", True, ["torch-eager", "onnxruntime"], ["int8-dynamic"], id="a transformer's"),
    ],
)
def test_the_examples_of_precisions_measure_them(tmp_path, name, transforms, backends, precisions):
    """Of a small model of the same kind, by one or two backends: what the others do is seen where they are tested.

    Each precision once: fp32 is what the demo and the shortest example measure, with the same backends.
    """
    small = zoo.Zoo(tmp_path).model("vit") if transforms else tiny.a_model(tmp_path, planes=16)
    model = small.model_dump(mode="json", exclude_none=True)
    first = {"backend": backends[0], "precision": precisions[0]}
    less = {"precisions": precisions, "baseline": first, "accuracy": ANY_CHOICE}
    less |= {"exclude": [], "expectations": [], "backendOptions": {}}
    file = shortened(name, tmp_path, model=model, backends=backends, **less)

    done = run("run", file, "--json", folder=tmp_path)

    assert done.returncode == 0, done.stderr
    assert set(precisions) <= set(said_in(name)["precisions"])
    cells, measured = json.loads(done.stdout)["cells"], len(backends) * len(precisions)
    assert (cells["planned"], cells["measured"]) == (measured, measured), done.stdout


PERCEPTRON = """
from torch import nn


def make():
    return nn.Sequential(nn.Flatten(), nn.Linear(3072, 256), nn.ReLU(), nn.Linear(256, 10))
"""


def test_a_compiled_model_is_measured_in_dynamic_8_bits(tmp_path):
    """The transformer's example, with two layers instead: to compile a whole block takes half a minute."""
    (tmp_path / "perceptron.py").write_text(PERCEPTRON)
    model = {"python": {"factory": "perceptron:make"}, "inputs": [{"name": "image", "shape": [3, 32, 32]}]}
    only = {"backends": ["torch-compile"], "precisions": ["int8-dynamic"], "exclude": [], "expectations": []}
    first = {"backend": "torch-compile", "precision": "int8-dynamic"}
    file = shortened("vit.yaml", tmp_path, model=model, **only, baseline=first, accuracy=ANY_CHOICE)

    done = run("run", file, "--json", folder=tmp_path)

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["cells"]["measured"] == 1


@dataclass(frozen=True)
class OnesOwn:
    """The examples of a model and of a file of one's own, one after the other in a folder: the file is the model's."""

    folder: Path
    model: subprocess.CompletedProcess[str]
    file: subprocess.CompletedProcess[str]

    @property
    def home(self):
        """The home folder of whoever ran the file."""
        return self.folder / "home"


@pytest.fixture(scope="module")
def ones_own(tmp_path_factory):
    """The model has a cache folder that holds what is made of it and nothing else, the file one that is empty.

    That OpenVINO reads what is exported is seen with the file.
    """
    decisive = {name: artifacts.digest(ROOT / "examples" / name) for name in ("tiny_resnet.py", "python-factory.yaml")}
    cache = shared.cache() / f"tiny-resnet-{artifacts.key(decisive)[:16]}"
    folder = tmp_path_factory.mktemp("own")
    shutil.copy(ROOT / "examples/tiny_resnet.py", folder)
    (folder / "home").mkdir()

    of_a_model = shortened("python-factory.yaml", folder, backends=["torch-eager", "onnxruntime"])
    model = run("run", of_a_model, "--json", folder=folder, cache=cache)
    [graph] = (cache / "onnx").glob("*/model.onnx")
    shutil.copy(graph, folder)
    file = shortened("onnx-file.yaml", folder, precisions=["fp32"])
    at_home = {"folder": folder, "cache": folder / "cache", "HOME": str(folder / "home")}
    return OnesOwn(folder, model, run("run", file, "--json", **at_home))


def test_the_examples_of_a_model_and_of_a_file_of_ones_own_work(ones_own):
    """The file is the factory's model, as it was exported for ONNX Runtime; what ran of it can be handed over."""
    model, file, folder = ones_own.model, ones_own.file, ones_own.folder
    assert (model.returncode, file.returncode) == (0, 0), model.stderr + file.stderr
    assert [json.loads(done.stdout)["cells"]["measured"] for done in (model, file)] == [2, 2]

    [results] = (folder / "inferbench-results").glob("onnx-file-*")
    handed = run("export", results, "--batch-size", "1", "--output", "winner", folder=folder, cache=folder / "cache")
    checked = subprocess.run(
        [sys.executable, "-I", folder / "winner/check.py"], capture_output=True, text=True, check=False
    )

    assert (handed.returncode, checked.returncode) == (0, 0), handed.stderr + checked.stderr
    assert checked.stdout.splitlines()[-1] == "OK: as accurate as this precision has to be"


def test_a_run_leaves_no_library_a_thing_to_report(ones_own):
    """ONNX Runtime would make a database of events and an id of the machine there, OpenVINO a counter and an id."""
    assert json.loads(ones_own.file.stdout)["cells"]["measured"] == 2, "by ONNX Runtime and by OpenVINO"
    assert list(ones_own.home.rglob("*")) == []
