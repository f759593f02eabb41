"""What each backend can do: the table says yes, or why not."""

from __future__ import annotations

import re
from itertools import product

import pytest

from inferbench_contract import capabilities
from inferbench_contract.capabilities import IMPOSSIBLE
from inferbench_contract.words import Backend, Device, ModelSource, Precision, Strategy

EVERYTHING = list(product((Strategy(b, p) for b, p in product(Backend, Precision)), Device, ModelSource))

ORDER = ("fp32", "tf32", "fp16", "bf16", "int8-dynamic", "int8-static", "fp8")

TABLE = {
    "torch-eager cpu": "yes NeedsGpu yes yes yes Emulated NoKernel",
    "torch-eager gpu": "yes yes yes yes yes NoKernel yes",
    "torch-compile cpu": "yes NeedsGpu yes yes yes yes NoKernel",
    "torch-compile gpu": "yes yes yes yes yes NoKernel yes",
    "torch-compile-max-autotune cpu": "yes NeedsGpu yes yes yes yes NoKernel",
    "torch-compile-max-autotune gpu": "yes yes yes yes yes NoKernel yes",
    "torch-aot-inductor cpu": "yes NeedsGpu yes yes yes yes NoKernel",
    "torch-aot-inductor gpu": "yes yes yes yes yes NoKernel yes",
    "onnxruntime cpu": "yes NeedsGpu UpCast NoKernel yes yes NoKernel",
    "onnxruntime gpu": "yes yes yes yes NoKernel Emulated Emulated",
    "openvino cpu": "yes NeedsGpu yes yes Emulated yes NoKernel",
    "openvino gpu": "NeedsCpu NeedsCpu NeedsCpu NeedsCpu NeedsCpu NeedsCpu NeedsCpu",
    "tensorrt cpu": "NeedsGpu NeedsGpu NeedsGpu NeedsGpu NeedsGpu NeedsGpu NeedsGpu",
    "tensorrt gpu": "yes yes yes yes NoKernel yes yes",
    "fake cpu": "yes yes yes yes yes yes yes",
    "fake gpu": "yes yes yes yes yes yes yes",
}
"""Whole, for a model that is a PyTorch module: the word of the reason, or yes."""


def said(strategy: Strategy, device: Device, source: ModelSource) -> str:
    """The word of the reason, or yes."""
    return (capabilities.support(strategy, device, source) or "yes").partition(":")[0]


def test_the_table_has_a_line_for_every_backend_on_every_device_and_a_column_for_every_precision():
    assert set(TABLE) == {f"{backend} {device}" for backend, device in product(Backend, Device)}
    assert set(ORDER) == set(Precision)


@pytest.mark.parametrize("line", TABLE)
@pytest.mark.parametrize("source", [ModelSource.TORCHVISION, ModelSource.PYTHON])
def test_a_pair_is_measured_or_has_its_reason(line, source):
    backend, device = line.split()
    strategies = (Strategy(Backend(backend), Precision(precision)) for precision in ORDER)

    assert " ".join(said(strategy, Device(device), source) for strategy in strategies) == TABLE[line]


def test_an_onnx_file_makes_a_difference_to_pytorch_alone():
    """There is no module in it."""
    for strategy, device, source in EVERYTHING:
        if source is ModelSource.ONNX and strategy.backend in capabilities.TORCH:
            assert said(strategy, device, source) == "NoTorchModule"
        else:
            assert said(strategy, device, source) == said(strategy, device, ModelSource.TORCHVISION)


def test_every_reason_is_short_and_begins_with_a_word():
    reasons = {capabilities.support(*combination) for combination in EVERYTHING}

    for text in reasons - {None}:
        assert re.fullmatch(r"[A-Z][A-Za-z]+: .{10,140}\.", text)


def test_every_row_decides_about_something():
    deciding = {capabilities.support(*combination) for combination in EVERYTHING}

    assert {text for _, text in IMPOSSIBLE} <= deciding
