"""The probes as far as they go without a GPU: their kernel through NVIDIA's assembler, their matrices on the CPU."""

from __future__ import annotations

import importlib.util
import subprocess
from pathlib import Path

import pytest
import torch
from torch import nn

from inferbench_runner import anchor, probes, work
from inferbench_runner.guards import Work

TOOLS = Path(importlib.util.find_spec("triton").origin).parent / "backends/nvidia/bin"
"""Triton brings NVIDIA's assembler along, where there are GPUs for it."""


@pytest.mark.parametrize("generation", ["sm_75", "sm_80", "sm_89", "sm_90", "sm_120"])
def test_the_kernel_is_valid_for_every_generation_and_keeps_its_work(tmp_path, generation):
    """An assembler that saw that the results are never used would leave the loop out; it sees that they are written."""
    source, program = tmp_path / "anchor.ptx", tmp_path / "anchor.cubin"
    source.write_bytes(anchor.KERNEL)
    subprocess.run([TOOLS / "ptxas", f"-arch={generation}", source, "-o", program], check=True, capture_output=True)

    code = subprocess.run([TOOLS / "nvdisasm", program], capture_output=True, text=True, check=True).stdout

    assert code.count("FFMA") >= 4
    assert "STG" in code


@pytest.mark.parametrize("command", [probes.anchor_command, probes.roofline_command])
def test_a_machine_without_a_gpu_has_no_answer_and_a_reason(tmp_path, command):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")

    ended = subprocess.run(command(tmp_path / "answer.json"), capture_output=True, text=True, check=False)

    assert (ended.returncode, list(tmp_path.iterdir())) == (1, [])
    assert ended.stderr.startswith("There is no NVIDIA driver here")


def test_limits_are_measured_with_every_arithmetic_that_there_is():
    found = probes.roofline(torch, "cpu", seconds_each=0.001, size=64, size_bytes=1 << 20)

    assert found.bandwidth_bytes_per_second > 1_000_000
    assert {"fp32", "bf16"} <= set(found.operations_per_second)
    assert "tf32" not in found.operations_per_second


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(4, 6, 3, padding=1, groups=2, bias=False)
        self.product = nn.Linear(6 * 8 * 8, 5, bias=False)

    def forward(self, image):
        return self.product(self.convolution(image).flatten(1))


EXPECTED = Work(
    operations_per_input=2 * (6 * 8 * 8) * (4 // 2 * 3 * 3) + 2 * (6 * 8 * 8) * 5,
    weights=6 * 2 * 3 * 3 + 6 * 8 * 8 * 5,
)


def test_the_operations_of_a_module_are_those_of_the_textbook():
    module, example = Small(), torch.zeros(1, 4, 8, 8)

    assert work.of_module(module, lambda: module(example)) == EXPECTED


def test_a_graph_says_the_same_as_the_module_it_was_exported_from(tmp_path):
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.onnx.export(
        Small().eval(), (torch.zeros(2, 4, 8, 8),), None, dynamo=True, dynamic_shapes=({0: batch},), verbose=False
    )
    program.save(tmp_path / "model.onnx")

    found = work.of_graph(tmp_path / "model.onnx", "batch")

    assert found == EXPECTED


def test_a_graph_of_a_fixed_batch_size_is_counted_for_one_example(tmp_path):
    torch.onnx.export(Small().eval(), (torch.zeros(4, 4, 8, 8),), tmp_path / "model.onnx", dynamo=True, verbose=False)

    found = work.of_graph(tmp_path / "model.onnx", "batch")

    assert found.operations_per_input == EXPECTED.operations_per_input


def test_the_count_stands_beside_the_reference(tmp_path):
    work.write(tmp_path, EXPECTED)

    assert work.read(tmp_path) == EXPECTED


@pytest.mark.parametrize("folder", [None, Path("/nowhere")])
def test_what_was_never_counted_is_none(folder):
    assert work.read(folder) is None
