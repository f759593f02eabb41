"""What the OpenVINO backend refuses, decided from what a compiled graph tells of itself."""

from __future__ import annotations

import pytest

from inferbench_contract.words import Device, Precision
from inferbench_runner.backends import FellBack, openvino
from inferbench_runner.backends.openvino import Layer


def layers(*precisions: str, kind: str = "Convolution") -> list[Layer]:
    """Layers of a kind, after one that only moves data."""
    moved = Layer("image", "Reorder", "f32")
    return [moved, *(Layer(f"layer{number}", kind, precision) for number, precision in enumerate(precisions))]


@pytest.mark.parametrize(
    ("precision", "found"),
    [
        pytest.param(Precision.FP32, layers("f32", "f32"), id="fp32 throughout"),
        pytest.param(Precision.BF16, layers("bf16"), id="bf16, between inputs and outputs that stay fp32"),
        pytest.param(Precision.INT8_STATIC, layers("u8", "i8", "f32"), id="8 bits, and a product of activations"),
        pytest.param(Precision.FP32, layers(kind="Pooling"), id="nothing heavy"),
    ],
)
def test_a_graph_that_computes_in_what_was_asked_for_is_measured(precision, found):
    openvino.require_precision(precision, found)


@pytest.mark.parametrize(
    ("precision", "found", "words"),
    [
        pytest.param(
            Precision.FP32,
            layers("f32", "bf16"),
            "fp32 was asked for, and OpenVINO computes 1 of 2 heavy layers in something else "
            r"\(Convolution layer1 in bf16\)",
            id="bf16 without being asked, as it does by default on processors that have it",
        ),
        pytest.param(
            Precision.BF16, layers("f32", kind="FullyConnected"), "FullyConnected layer0 in f32", id="no bf16"
        ),
        pytest.param(Precision.INT8_STATIC, layers("bf16"), "Convolution layer0 in bf16", id="bf16 instead of 8 bits"),
        pytest.param(
            Precision.INT8_STATIC, layers("f32"), "computes no layer in 8 bits", id="quantisers that go unused"
        ),
    ],
)
def test_a_graph_that_computes_in_something_else_fell_back(precision, found, words):
    with pytest.raises(FellBack, match=words):
        openvino.require_precision(precision, found)


def test_another_device_is_no_fallback_that_goes_unnoticed():
    openvino.require_device(["CPU"])

    with pytest.raises(FellBack, match=r"OpenVINO took GPU\.0"):
        openvino.require_device(["GPU.0"])


def test_it_is_measured_on_cpus_only():
    assert openvino.missing(Precision.FP32, Device.GPU).startswith("NeedsCpu: ")
