"""`inferbench export` of PyTorch's 8-bit strategies: each folder answers alone, in a fresh process, nearly as fp32."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from itertools import groupby

import pytest

from inferbench_contract.spec import ModelSpec
from inferbench_runner.backends import _int8_static
from tests import documents
from tests.programs import place
from tests.runner import shared, test_export
from tests.runner.test_export import BATCH, ONE_THREAD, PATIENCE_SECONDS

PERCEPTRON = """
import torch
from torch import nn


def make():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(3072, 256), nn.ReLU(), nn.Linear(256, 20))
"""

MODEL = {"python": {"factory": "perceptron:make"}, "inputs": [{"name": "image", "shape": [3, 32, 32]}]}

BY_THE_PROGRAM = "torch-compile/int8-static"
"""The only one that is measured here, and exported from there: its load.py is that of no float, see test_export.py."""

STRATEGIES = {
    "torch-aot-inductor/int8-dynamic": "model.pt2",
    "torch-aot-inductor/int8-static": "model.pt2",
    BY_THE_PROGRAM: _int8_static.PROGRAM,
    "torch-eager/int8-dynamic": "weights.pt",
    "torch-compile/int8-dynamic": "weights.pt",
    "onnxruntime/int8-dynamic": "model.onnx",
}
"""What is handed over, with the artefact that its folder holds. Those of a library run in one process, what imports
least first: a package needs no torchao, a program only what it names its operators with."""

HAND_OVER = """
import sys
from inferbench_runner import bundle

for request in sys.argv[1:]:
    bundle.make(bundle.Request.model_validate_json(request))
"""


def said(**more):
    """Return what is measured, and more of it."""
    return {"model": MODEL, "batchSizes": [BATCH], "backendOptions": {}, "cpu": ONE_THREAD, **more}


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A model of Linear layers that was measured with one strategy; for the folders see test_export.py."""
    folders = {"INFERBENCH_CACHE": str(shared.cache()), "TMPDIR": tempfile.gettempdir()}
    with place(tmp_path_factory.mktemp("export-int8"), folders) as here:
        (here.folder / "perceptron.py").write_text(PERCEPTRON)
        backend, _, precision = BY_THE_PROGRAM.partition("/")
        file = here.write(**said(backends=[backend], precisions=[precision]))
        done = here.run("run", file, "--output", here.folder / "out", patience_seconds=PATIENCE_SECONDS)
        assert done.returncode == 0, done.stdout + done.stderr
        yield here


@pytest.fixture(scope="module")
def folders(measured):
    """Every strategy, handed over; those that were not measured by one process, which is what the program starts."""
    plan = measured.folder / "plan.json"
    backends = sorted({strategy.partition("/")[0] for strategy in STRATEGIES})
    plan.write_text(
        documents.scripted_plan(**said(backends=backends, precisions=["int8-dynamic", "int8-static"])).dump()
    )
    made = {strategy: measured.folder / strategy.replace("/", "-") for strategy in STRATEGIES}
    requests = [
        test_export.request_of(plan, shared.cache(), strategy, BATCH, folder).model_dump_json()
        for strategy, folder in made.items()
        if strategy != BY_THE_PROGRAM
    ]
    done = subprocess.run([sys.executable, "-c", HAND_OVER, *requests], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {**made, BY_THE_PROGRAM: test_export.exported(measured, BY_THE_PROGRAM, "measured")}


@pytest.fixture(scope="module")
def errors(measured, folders):
    """How far each folder's answers are from fp32, when it runs in a process that knows nothing of inferbench."""
    inputs, truth = test_export.others(ModelSpec.model_validate(MODEL), measured.folder)
    found = {}
    for _, strategies in groupby(STRATEGIES, key=lambda strategy: strategy.startswith("torch-")):
        names = list(strategies)
        answers = test_export.answered_alone((folders[name] for name in names), inputs, measured.folder)
        found |= {name: test_export.distance(told, truth) for name, (_, told) in zip(names, answers, strict=True)}
    return found


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_folder_holds_what_ran(folders, strategy):
    assert json.loads((folders[strategy] / "model.json").read_text())["artifact"] == STRATEGIES[strategy]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_folder_answers_alone_as_8_bits_do(errors, strategy):
    assert 1e-3 < errors[strategy] < 0.1
