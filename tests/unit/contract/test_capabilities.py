"""What each backend can do: the table says yes, or why not."""

from __future__ import annotations

import re
from itertools import product

import pytest

from inferbench_contract import capabilities
from inferbench_contract.capabilities import IMPOSSIBLE, MEASURED
from inferbench_contract.words import Backend, Device, ModelSource, Precision, Strategy

EVERYTHING = list(product((Strategy(b, p) for b, p in product(Backend, Precision)), Device, ModelSource))


def reason(strategy: str, device: str = "gpu", source: str = "torchvision") -> str | None:
    return capabilities.support(Strategy.parse(strategy), Device(device), ModelSource(source))


@pytest.mark.parametrize(
    ("strategy", "device", "source"),
    [
        ("torch-eager/fp32", "cpu", "torchvision"),
        ("torch-eager/tf32", "gpu", "torchvision"),
        ("torch-compile/bf16", "cpu", "python"),
        ("torch-compile-max-autotune/fp32", "gpu", "torchvision"),
        ("onnxruntime/fp32", "cpu", "onnx"),
        ("onnxruntime/tf32", "gpu", "torchvision"),
        ("onnxruntime/int8-static", "cpu", "onnx"),
        ("onnxruntime/fp16", "gpu", "torchvision"),
        ("tensorrt/int8-static", "gpu", "onnx"),
        ("torch-eager/int8-dynamic", "cpu", "torchvision"),
        ("torch-aot-inductor/bf16", "cpu", "torchvision"),
        ("torch-aot-inductor/fp16", "gpu", "python"),
        ("torch-compile/int8-static", "cpu", "torchvision"),
        ("torch-compile-max-autotune/int8-static", "cpu", "python"),
        ("torch-aot-inductor/int8-static", "cpu", "torchvision"),
        ("openvino/fp32", "cpu", "onnx"),
        ("openvino/bf16", "cpu", "torchvision"),
        ("openvino/fp16", "cpu", "onnx"),
        ("openvino/int8-static", "cpu", "torchvision"),
        ("fake/fp8", "cpu", "onnx"),
        ("fake/tf32", "cpu", "torchvision"),
    ],
)
def test_this_version_measures(strategy, device, source):
    assert reason(strategy, device, source) is None


@pytest.mark.parametrize(
    ("strategy", "device", "source", "begins"),
    [
        ("torch-eager/fp32", "cpu", "onnx", "NoTorchModule: "),
        ("tensorrt/fp16", "cpu", "torchvision", "NeedsGpu: "),
        ("openvino/fp32", "gpu", "torchvision", "NeedsCpu: "),
        ("torch-compile/tf32", "cpu", "torchvision", "NeedsGpu: TF32"),
        ("onnxruntime/tf32", "cpu", "onnx", "NeedsGpu: TF32"),
        ("onnxruntime/fp16", "cpu", "torchvision", "UpCast: "),
        ("onnxruntime/bf16", "cpu", "torchvision", "NoKernel: "),
        ("onnxruntime/int8-static", "gpu", "torchvision", "Emulated: "),
        ("torch-eager/int8-static", "cpu", "torchvision", "Emulated: "),
        ("onnxruntime/fp8", "gpu", "torchvision", "Emulated: "),
        ("torch-eager/fp8", "cpu", "torchvision", "NoKernel: "),
        ("tensorrt/int8-dynamic", "gpu", "torchvision", "NoKernel: "),
        ("torch-compile/int8-static", "gpu", "torchvision", "NoKernel: "),
        ("torch-eager/fp16", "cpu", "torchvision", "NotImplemented: "),
        ("openvino/int8-dynamic", "cpu", "torchvision", "Emulated: "),
        ("torch-aot-inductor/int8-dynamic", "cpu", "torchvision", "NotImplemented: "),
        ("torch-aot-inductor/fp32", "cpu", "onnx", "NoTorchModule: "),
    ],
)
def test_this_version_says_why_it_does_not_measure(strategy, device, source, begins):
    assert str(reason(strategy, device, source)).startswith(begins)


def test_every_combination_is_supported_or_has_a_short_reason_that_begins_with_a_word():
    reasons = {capabilities.support(*combination) for combination in EVERYTHING}

    for text in reasons - {None}:
        assert re.fullmatch(r"[A-Z][A-Za-z]+: .{10,140}\.", text)


def test_nothing_is_both_impossible_and_measured():
    """A row that another one overrides says something that is not so."""
    both = [
        combination
        for combination in EVERYTHING
        if any(rows.include(*combination) for rows, _ in IMPOSSIBLE)
        and any(rows.include(*combination) for rows in MEASURED)
    ]

    assert both == []


def test_every_row_decides_about_something():
    deciding = {capabilities.support(*combination) for combination in EVERYTHING}

    assert {text for _, text in IMPOSSIBLE} <= deciding


def test_the_fake_backend_can_do_everything():
    assert {capabilities.support(s, d, m) for s, d, m in EVERYTHING if s.backend is Backend.FAKE} == {None}
