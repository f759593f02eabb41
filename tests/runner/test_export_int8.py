"""`inferbench export` of PyTorch's 8-bit strategies: each folder answers alone, in a fresh process, nearly as fp32."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile

import numpy as np
import pytest

from inferbench_runner.backends import _int8_static
from tests.programs import place
from tests.runner import shared

BATCH = 3

PATIENCE_SECONDS = 550
"""A model, two programs, three compilations and ten processes; this only ends a test that hangs."""

PERCEPTRON = """
import torch
from torch import nn


def make():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(3072, 256), nn.ReLU(), nn.Linear(256, 20))
"""

STRATEGIES = {
    "torch-eager/int8-dynamic": "weights.pt",
    "torch-compile/int8-dynamic": "weights.pt",
    "torch-compile/int8-static": _int8_static.PROGRAM,
    "torch-aot-inductor/int8-dynamic": "model.pt2",
    "torch-aot-inductor/int8-static": "model.pt2",
    "onnxruntime/int8-dynamic": "model.onnx",
}
"""What is exported, with the artefact that its folder holds."""

LEFT_OUT = (
    ("torch-eager", "int8-static"),
    ("onnxruntime", "int8-static"),
)

RUN = """
import runpy, sys
import numpy as np
sys.path.append(sys.argv[1])
images = np.random.default_rng(1).standard_normal((3, 3, 32, 32), np.float32)
np.savez(sys.argv[2], **runpy.run_path(sys.argv[1] + "/load.py")["load"]()({"image": images}))
assert not {"inferbench_runner", "inferbench_contract"} & set(sys.modules)
"""

TRUTH = """
import sys
import numpy as np, torch
sys.path.append(sys.argv[1])
import perceptron
images = torch.from_numpy(np.random.default_rng(1).standard_normal((3, 3, 32, 32), np.float32))
with torch.inference_mode():
    np.save(sys.argv[2], perceptron.make().eval()(images).numpy())
"""


def alone(*arguments, cwd):
    """Run Python as a stranger would: another folder, none of our variables."""
    command = [sys.executable, "-I", *map(str, arguments)]
    theirs = {"PATH": "/usr/bin:/bin", "HOME": str(cwd), "TORCHINDUCTOR_VEC_ISA_OK": "1"}
    return subprocess.run(command, cwd=cwd, env=theirs, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A model of Linear layers that was measured with every strategy; for the folders see test_export.py."""
    folders = {"INFERBENCH_CACHE": str(shared.cache()), "TMPDIR": tempfile.gettempdir()}
    with place(tmp_path_factory.mktemp("export-int8"), folders) as here:
        (here.folder / "perceptron.py").write_text(PERCEPTRON)
        image = {"name": "image", "shape": [3, 32, 32]}
        file = here.write(
            model={"python": {"factory": "perceptron:make"}, "inputs": [image]},
            backends=sorted({strategy.partition("/")[0] for strategy in STRATEGIES}),
            precisions=["int8-dynamic", "int8-static"],
            exclude=[{"backend": backend, "precision": precision} for backend, precision in LEFT_OUT],
            batchSizes=[BATCH],
            backendOptions={},
            cpu={"threads": 1},
            measurement={"rounds": 1, "maxSecondsPerCell": 1, "warmupMaxSeconds": 1},
        )
        done = here.run("run", file, "--output", here.folder / "out", patience_seconds=PATIENCE_SECONDS)
        assert done.returncode == 0, done.stdout + done.stderr
        yield here


@pytest.fixture(scope="module")
def truth(measured):
    """What the model answers in fp32."""
    answers = measured.folder / "truth.npy"
    done = alone("-c", TRUTH, measured.folder, answers, cwd=measured.folder)
    assert done.returncode == 0, done.stderr
    return np.load(answers)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_folder_holds_what_ran_and_answers_alone_as_8_bits_do(measured, truth, tmp_path, strategy):
    folder = tmp_path / "export"

    done = measured.run("export", measured.folder / "out", "--batch-size", BATCH, "--strategy", strategy,
                        "--output", folder)  # fmt: skip
    ran = alone("-c", RUN, folder, tmp_path / "answers.npz", cwd=tmp_path)

    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((folder / "model.json").read_text())["artifact"] == STRATEGIES[strategy]
    assert ran.returncode == 0, ran.stderr
    found = np.load(tmp_path / "answers.npz")["output"]
    assert 1e-4 < np.linalg.norm(found - truth) / np.linalg.norm(truth) < 0.1
