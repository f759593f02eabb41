"""What torchao's dynamic 8 bits reach of a model, counted. fp8 weights are made on the host here: no GPU is needed."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn
from torchao.quantization import Float8DynamicActivationFloat8WeightConfig, PerTensor
from torchao.quantization.quantize_.workflows.float8.float8_tensor import Float8Tensor, QuantizeTensorToFloat8Kwargs

from inferbench_contract.words import Precision
from inferbench_runner.backends import FellBack, Unsupported, _linear

EXAMPLE = {"rows": np.ones((1, 64), np.float32)}

ROWS = torch.linspace(-1, 1, 4 * 64).reshape(4, 64)


def a_model(*sizes: int) -> nn.Sequential:
    """Return Linear layers, one after the other."""
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Linear(before, after) for before, after in pairwise(sizes))).eval()


def in_fp8(layer: nn.Linear) -> None:
    """Quantise one layer as torchao does where a GPU has fp8."""
    by_call = QuantizeTensorToFloat8Kwargs(granularity=PerTensor())
    recipe = Float8DynamicActivationFloat8WeightConfig()
    weight = Float8Tensor.from_hp(
        layer.weight, granularity=PerTensor(), mm_config=recipe.mm_config, act_quant_kwargs=by_call
    )
    layer.weight = nn.Parameter(weight, requires_grad=False)


def test_each_layer_does_two_operations_for_each_weight():
    counted, total = _linear.operations(a_model(64, 128, 32), EXAMPLE)

    assert counted == {"0": 2 * 64 * 128, "1": 2 * 128 * 32}
    assert total == sum(counted.values())


def test_int8_reaches_all_linear_layers():
    model = a_model(64, 128, 32)
    counted, total = _linear.operations(model, EXAMPLE)

    _linear.quantise(model, Precision.INT8_DYNAMIC)

    _linear.require_share(model, counted, total, Precision.INT8_DYNAMIC)


def test_a_model_whose_larger_layer_is_in_fp8_is_measured():
    model = a_model(64, 128, 32)
    counted, total = _linear.operations(model, EXAMPLE)

    in_fp8(model[0])

    _linear.require_share(model, counted, total, Precision.FP8)


def test_a_model_whose_smaller_layer_is_in_fp8_is_unsupported_with_the_share():
    """128 * 32 of 128 * (64 + 32)."""
    model = a_model(64, 128, 32)
    counted, total = _linear.operations(model, EXAMPLE)

    in_fp8(model[1])

    with pytest.raises(Unsupported, match=r"^LinearShare: .* do 33\.3% of .*; the rest would be bf16\. Use tensorrt\."):
        _linear.require_share(model, counted, total, Precision.FP8)


def test_a_model_of_which_nothing_was_quantised_fell_back():
    model = a_model(64, 128, 32)
    counted, total = _linear.operations(model, EXAMPLE)

    with pytest.raises(FellBack, match="fp8 was asked for, and torchao quantised none of the Linear layers"):
        _linear.require_share(model, counted, total, Precision.FP8)


def exported(model: nn.Module, rows: torch.Tensor) -> torch.export.ExportedProgram:
    """Export a model as torch-aot-inductor does."""
    with torch.no_grad():
        return torch.export.export(model, (rows,))


def test_an_exported_model_multiplies_integers():
    model = a_model(64, 128, 32)
    _linear.quantise(model, Precision.INT8_DYNAMIC)

    _linear.require_products(exported(model, ROWS))


def test_a_model_in_fp8_answers_as_three_bits_of_mantissa_do_and_multiplies_them_when_it_is_exported():
    exact = a_model(64, 128, 32)
    model = a_model(64, 128, 32).to(torch.bfloat16)
    for layer in model:
        in_fp8(layer)

    with torch.inference_mode():
        expected, found = exact(ROWS), model(ROWS.bfloat16()).float()

    assert 1e-2 < torch.linalg.norm(found - expected) / torch.linalg.norm(expected) < 0.15
    _linear.require_products(exported(model, ROWS.bfloat16()))


def test_an_exported_model_that_multiplies_floats_fell_back():
    with pytest.raises(FellBack, match="8 bits were asked for"):
        _linear.require_products(exported(a_model(64, 128, 32), ROWS))
