"""Static int8 in PyTorch in processes of their own, as cells are: real torchao, Inductor and oneDNN's kernels."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from inferbench_contract.spec import ModelSpec, QuantizationSpec
from inferbench_contract.words import Backend, Precision
from inferbench_runner import calibration
from inferbench_runner.backends import Artifact, _int8_static
from inferbench_runner.task import CellTask
from tests.runner import shared, test_backends, tiny

WANTED = frozenset({Artifact.WEIGHTS, Artifact.INPUTS, Artifact.REFERENCE})

COMPILED = (Backend.TORCH_COMPILE, Backend.TORCH_AOT_INDUCTOR)

PATIENCE_SECONDS = 550
"""Two compilations; this only ends a test that hangs."""

QUANTISE = "quantize_per_tensor"
"""What writes activations as 8-bit numbers, in a program."""

ONE_THREAD = 1
"""Two of PyTorch's wait for each other for ages where anything else runs."""

UNREACHED = """
import torch
from torch import nn


class Squared(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(32, 10)

    def forward(self, image):
        rows = image.flatten(1, 2)
        products = torch.matmul(rows.transpose(1, 2), rows)
        return self.head(products.mean(1))


def make():
    return Squared()
"""
"""Nearly all of its arithmetic is a product of two activations, which the recipe does not quantise."""

NOTHING_COMPILED = """
import json, sys
from inferbench_runner.backends import FellBack, _int8_static, _torch
from inferbench_runner.task import CellTask

module = _torch.module(CellTask.model_validate_json(sys.argv[1]))
try:
    with _int8_static.all_lowered(module):
        pass
except FellBack as reason:
    print(json.dumps(str(reason)))
"""


NOTHING_BUILT = """
from inferbench_runner.backends import _torch


def refuse(task):
    raise AssertionError("a model was built")


_torch._built = refuse
"""
"""What a process begins with that only loads what is there."""

OBSERVED = """
import json, sys, warnings
import torch
from torch import nn
from torchao.quantization.pt2e.quantize_pt2e import prepare_pt2e
from inferbench_runner.backends import _int8_static

warnings.simplefilter("ignore")


class Everything(nn.Module):
    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(3 if first else 16, 16, 3, padding=1) for first in (1, 0, 0, 0))
        self.norms = nn.ModuleList(nn.BatchNorm2d(16) for _ in self.convs)
        self.relu, self.swish, self.gelu = nn.ReLU(inplace=True), nn.Hardswish(), nn.GELU()
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.up, self.down = nn.Linear(16, 64), nn.Linear(64, 16)

    def forward(self, image):
        first, second, third, fourth = (lambda image, i=i: self.norms[i](self.convs[i](image)) for i in range(4))
        image = self.relu(first(image))
        image = self.relu(second(image) + image)
        image += self.swish(third(image))
        image = nn.functional.max_pool2d(nn.functional.relu(fourth(image)), 2)
        rows = image.flatten(2).transpose(1, 2)
        rows = rows + self.attention(rows, rows, rows, need_weights=False)[0]
        return (rows + self.down(self.gelu(self.up(rows)))).mean(1)


def strict(module, sample):
    batch = {0: torch.export.Dim("batch", min=1, max=64)}
    return torch.export.export(module, sample, dynamic_shapes=(batch,), strict=True).module(check_guards=False)


def observed(exported):
    prepared = prepare_pt2e(exported, _int8_static._quantiser())
    named = _int8_static.operator_name
    observers = [node for node in prepared.graph.nodes if node.op == "call_module"]
    return sorted(str((named(node.args[0]), sorted(map(named, node.users)))) for node in observers)


model, sample = Everything().eval().requires_grad_(False), (torch.randn(2, 3, 8, 8),)
with torch.no_grad():
    print(json.dumps([observed(export(model, sample)) for export in (strict, _int8_static._exported)]))
"""
"""Where torchao would look at tensors: what they come from, and what reads them."""


def int8(make, backend=Backend.TORCH_COMPILE, batch_size=4, calibration="minmax"):
    """Return the task of a cell at int8-static. Programs, and what is compiled of them, are kept for the next run."""
    task = make(backend, Precision.INT8_STATIC, batch_size=batch_size)
    kept = {"cache": shared.cache(), "threads": ONE_THREAD}
    return task.model_copy(update={"quantization": QuantizationSpec(calibration=calibration), **kept})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("int8-static")


@pytest.fixture(scope="module")
def a_task(folder):
    """Makes the task of one cell of a small model of convolutions."""
    model = tiny.a_model(folder, planes=32)
    return test_backends.tasks_of(model, folder, WANTED, shared.cache())


@pytest.fixture(scope="module")
def cells(a_task):
    """What a process answers with each backend that compiles."""
    return cells_of(*(int8(a_task, backend) for backend in COMPILED))


def test_every_backend_that_compiles_is_as_near_to_fp32_as_8_bits_are(cells):
    assert len(cells) == len(COMPILED)
    for cell in cells:
        assert cell["accuracy"]["fault"] is None
        assert 1e-3 < cell["accuracy"]["relative_l2"] < 0.1


def test_the_backends_compute_one_program_which_holds_no_fp32_weights(cells, a_task):
    """Its file would be four times as large with them."""
    [file] = {_int8_static.locate(int8(a_task, backend)) for backend in COMPILED}
    weights = [tensor for tensor in _int8_static.load(file).state_dict().values() if tensor.ndim > 1]

    compiled, packaged = (cell["accuracy"]["relative_l2"] for cell in cells)
    assert packaged == pytest.approx(compiled, rel=0.01)
    assert {str(tensor.dtype) for tensor in weights} == {"torch.int8"}


def test_each_range_is_the_whole_of_what_the_examples_and_the_weights_are(cells, a_task):
    """The input's quantiser reaches from the smallest number of the examples to the largest, in 255 steps."""
    task = int8(a_task)
    [image] = calibration.examples(task.artifacts.inputs).values()
    module = _int8_static.load(_int8_static.locate(task))
    scales = [node.args[1] for node in module.graph.nodes if _int8_static.operator_name(node) == QUANTISE]
    weights = [tensor.int().flatten(1) for tensor in module.state_dict().values() if tensor.ndim > 1]

    assert len(cells) == len(COMPILED)
    assert scales[0] == pytest.approx((image.max() - image.min()) / 255)
    assert {int(weight.abs().amax(dim=1).min()) for weight in weights} == {127}


def test_a_second_process_loads_the_program_builds_no_model_and_compiles_to_integers_too(cells, a_task):
    """It imports nothing of torchao's to quantise with, and there Inductor's patterns are."""
    [again] = cells_of(int8(a_task), before=NOTHING_BUILT)

    assert again["accuracy"]["relative_l2"] == pytest.approx(cells[0]["accuracy"]["relative_l2"], rel=0.01)
    assert again["notes"]["compileCache"] == "warm"


def test_the_recipe_finds_in_an_exported_program_what_it_finds_in_one_that_was_exported_strictly():
    """It goes by the modules that nodes come from, of which a program as it is usually exported tells otherwise."""
    strict, ours = answer_of(OBSERVED)

    assert ours == strict
    assert sum("conv2d" in each for each in ours) >= 4
    assert sum("linear" in each for each in ours) >= 2


def test_a_layer_that_was_not_compiled_to_integers_is_found_out(a_task):
    """A block in which nothing is compiled is the extreme of it."""
    assert answer_of(NOTHING_COMPILED, int8(a_task, calibration="entropy")) == (
        "Precision: int8-static was asked for, and Inductor took 8-bit kernels for 0 of 2 conv layers and 0 of 1 "
        "linear layers"
    )


def test_a_model_most_of_which_would_stay_fp32_is_unsupported_with_its_share(folder):
    (folder / "unreached.py").write_text(UNREACHED)
    image = {"name": "image", "shape": [3, 32, 32]}
    model = ModelSpec.model_validate({"python": {"factory": "unreached:make"}, "inputs": [image]})
    make = test_backends.tasks_of(model, folder, WANTED, shared.cache())

    [cell] = cells_of(int8(make))

    assert cell["unsupported"].startswith("Int8Share: PyTorch's int8 layers would do 0.")


def test_resnet_18_in_8_bits_is_near_to_fp32(folder):
    """Twenty convolutions, sums of branches, a pool, a head: what the small model has not."""
    model = ModelSpec.model_validate({"torchvision": {"name": "resnet18", "weights": "random"}})
    make = test_backends.tasks_of(model, folder, WANTED, shared.cache())

    [cell] = cells_of(int8(make, batch_size=8))

    assert cell["accuracy"]["fault"] is None
    assert 1e-3 < cell["accuracy"]["relative_l2"] < 0.1
    assert cell["accuracy"]["worst_cosine"] > 0.99


def cells_of(*tasks: CellTask, before: str = "") -> list[dict[str, Any]]:
    """Run cells one after the other in one process, which may do something `before`."""
    printed = run(before + test_backends.CELLS, *tasks)
    return [json.loads(line) for line in printed if line.startswith("{")]


def answer_of(script: str, *tasks: CellTask) -> Any:
    """Run a script, and return the last line that it prints."""
    return json.loads(run(script, *tasks)[-1])


def run(script: str, *tasks: CellTask) -> list[str]:
    """Run a script of tasks in a process of its own, and return the lines that it prints."""
    command = [sys.executable, "-c", script, *(task.model_dump_json() for task in tasks)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE_SECONDS)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.splitlines()
