"""PyTorch's flags for fp32: a model that sets them itself is found out after the calls, by the cell that ran it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from inferbench_contract.spec import MeasurementSpec, ModelSpec
from inferbench_contract.words import Backend, Device, Precision
from inferbench_runner import artifacts
from inferbench_runner.backends import Artifact, FellBack, _torch, torch_aot_inductor
from tests.runner import shared, test_backends

LOOSE = """
import torch


class Loose(torch.nn.Linear):
    def forward(self, numbers):
        torch.set_float32_matmul_precision("medium")
        return super().forward(numbers)


def make():
    return Loose(8, 8)


def make_loosely():
    torch.set_float32_matmul_precision("medium")
    return torch.nn.Linear(8, 8)
"""

WANTED = frozenset({Artifact.WEIGHTS, Artifact.INPUTS, Artifact.REFERENCE})

LOOKED_AT = """
import json, sys
from pathlib import Path
import torch
from inferbench_contract.words import Device, Precision
from inferbench_runner import backends
from inferbench_runner.backends import FellBack, _torch
from inferbench_runner.task import CellTask

torch._inductor.aoti_compile_and_package = lambda program, *, package_path, **_: Path(package_path).touch()
for text in sys.argv[1:]:
    task = CellTask.model_validate_json(text)
    torch.set_float32_matmul_precision("highest")
    _torch.require_arithmetic(Precision.FP32, Device.CPU)
    try:
        session = backends.find(task.backend).load(task)
        session.enqueue()
        session.verify()
        print(json.dumps(""))
    except FellBack as error:
        print(json.dumps(str(error)))

torch.backends.cuda.matmul.allow_tf32 = False
torch.backends.cuda.matmul.fp32_precision = "tf32"
try:
    _torch.require_arithmetic(Precision.FP32, Device.GPU)
except FellBack as error:
    print(json.dumps(str(error)))
"""
"""Prints why each task fell back, as its cell finds out; then what is said of flags that contradict each other.

Each task begins with the flags as they are for fp32. Nothing here is about what is compiled, so nothing is.
"""


@pytest.fixture(scope="module")
def a_task(tmp_path_factory):
    """Makes the task of one cell of a model that is made by a function of `loose.py`."""
    folder = tmp_path_factory.mktemp("flags")
    (folder / "loose.py").write_text(LOOSE)

    def make(function, *args):
        model = {"python": {"factory": f"loose:{function}"}, "inputs": [{"name": "numbers", "shape": [8]}]}
        task = test_backends.tasks_of(ModelSpec.model_validate(model), folder, WANTED, shared.cache())(*args)
        return task.model_copy(update={"measurement": MeasurementSpec(max_seconds_per_cell=1, warmup_max_seconds=1)})

    return make


def ran(task):
    """How a cell ended, in its own process, and what it says of that."""
    file = task.result.with_name("task.json")
    file.write_text(task.model_dump_json())
    task.result.unlink(missing_ok=True)
    subprocess.run([sys.executable, "-m", "inferbench_runner.cell", file], capture_output=True, check=True)
    result = json.loads(task.result.read_text())
    return result["outcome"], result["reason"]


@pytest.fixture(scope="module")
def a_package(a_task):
    """The task of a package of a model that lets fp32 be rounded when it is built."""
    return a_task("make_loosely", Backend.TORCH_AOT_INDUCTOR)


@pytest.fixture(scope="module")
def reasons(a_task, a_package):
    """Why each of these falls back, nothing where it does not, in one process; see `LOOKED_AT`."""
    tasks = {
        "built": a_task("make_loosely", Backend.TORCH_EAGER),
        "in halves": a_task("make", Backend.TORCH_EAGER, Precision.BF16),
        "a package": a_package,
    }
    command = [sys.executable, "-c", LOOKED_AT, *(task.model_dump_json() for task in tasks.values())]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return dict(zip((*tasks, "contradictory flags"), map(json.loads, ended.stdout.splitlines()), strict=True))


ROUNDED = "Tf32: fp32 was asked for, and PyTorch's mkldnn.matmul.fp32_precision"


def test_a_model_that_lets_fp32_be_rounded_when_it_is_called_fell_back(a_task):
    outcome, reason = ran(a_task("make", Backend.TORCH_EAGER))

    assert outcome == "FellBack"
    assert reason.startswith(ROUNDED)


def test_a_model_that_lets_it_be_rounded_when_it_is_built_falls_back_too(reasons):
    assert reasons["built"].startswith(ROUNDED)


def test_halves_have_nothing_to_do_with_it(reasons):
    assert reasons["in halves"] == ""


def test_no_package_is_kept_of_a_model_that_lets_fp32_be_rounded(reasons, a_package):
    """Later cells would load it with flags that say nothing of what is in it."""
    key = torch_aot_inductor.package_key(a_package)

    assert reasons["a package"].startswith(ROUNDED)
    assert artifacts.open_entry(a_package.cache, torch_aot_inductor.PACKAGES, key) is None


@pytest.fixture
def flags():
    """PyTorch's flags of old, as they are for fp32; afterwards as they were."""
    import torch

    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    yield torch.backends
    torch.set_float32_matmul_precision(before[0])
    torch.backends.cudnn.allow_tf32 = before[1]


class TestOnGpu:
    """The flags are there without a GPU."""

    def test_fp32_wants_both_off_and_names_the_one_that_is_on(self, flags):
        _torch.require_arithmetic(Precision.FP32, Device.GPU)
        flags.cudnn.allow_tf32 = True

        with pytest.raises(FellBack, match=r"fp32 was asked for, and PyTorch's cudnn\.allow_tf32 say"):
            _torch.require_arithmetic(Precision.FP32, Device.GPU)

    def test_the_floats_that_int8_leaves_are_fp32_too(self, flags):
        flags.cuda.matmul.allow_tf32 = True

        with pytest.raises(FellBack, match=r"int8-dynamic was asked for, and PyTorch's cuda\.matmul\.allow_tf32"):
            _torch.require_arithmetic(Precision.INT8_DYNAMIC, Device.GPU)

    def test_tf32_wants_both_on(self, flags):
        with pytest.raises(FellBack, match=r"cuda\.matmul\.allow_tf32 and cudnn\.allow_tf32"):
            _torch.require_arithmetic(Precision.TF32, Device.GPU)
        flags.cuda.matmul.allow_tf32 = flags.cudnn.allow_tf32 = True

        _torch.require_arithmetic(Precision.TF32, Device.GPU)

    def test_halves_want_nothing(self, flags):
        flags.cuda.matmul.allow_tf32 = True

        _torch.require_arithmetic(Precision.FP16, Device.GPU)

    def test_flags_of_old_and_of_late_that_contradict_each_other_are_no_answer(self, reasons):
        told = reasons["contradictory flags"]

        assert told.startswith("Tf32: fp32 was asked for, and PyTorch's flags contradict each other: ")


@pytest.mark.parametrize(
    ("version", "is_too_old"),
    [("2.11.0+cu130", True), ("2.14.1", True), ("2.15.0", False), ("2.15.0a0+git1234", False), ("3.0.0", False)],
)
def test_packages_need_a_pytorch_that_loads_them_from_a_folder(version, is_too_old):
    reason = torch_aot_inductor.too_old(version)

    assert (reason is not None) is is_too_old
    if reason is not None:
        assert reason.startswith(f"TooOld: PyTorch {version} is here, and 2.15 is needed")
