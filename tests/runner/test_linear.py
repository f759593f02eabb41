"""What torchao's dynamic 8 bits reach of a model, counted. fp8 weights are made on the host here: no GPU is needed."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torchao.kernel import intmm
from torchao.quantization import Float8DynamicActivationFloat8WeightConfig, PerTensor
from torchao.quantization.quantize_.workflows.float8.float8_tensor import Float8Tensor, QuantizeTensorToFloat8Kwargs
from torchao.utils import TorchAOBaseTensor

from inferbench_contract.spec import AccuracySpec, MeasurementSpec
from inferbench_contract.words import Backend, Device, Precision
from inferbench_runner import artifacts
from inferbench_runner.backends import FellBack, Unsupported, _linear, _torch
from inferbench_runner.backends._linear import Product
from inferbench_runner.loaders import torch_recipe
from inferbench_runner.task import Artifacts, CellTask

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


def is_in_8_bits(layer: nn.Linear) -> bool:
    return isinstance(layer.weight, TorchAOBaseTensor)


def test_each_layer_does_two_operations_for_each_weight_and_row():
    found, total = _linear.products(a_model(64, 128, 32), {"rows": np.ones((3, 5, 64), np.float32)})

    assert found == [Product("0", 15, 64, 128), Product("1", 15, 128, 32)]
    assert [product.operations for product in found] == [15 * 2 * 64 * 128, 15 * 2 * 128 * 32]
    assert total == sum(product.operations for product in found)


def test_int8_reaches_all_linear_layers():
    model = a_model(64, 128, 32)
    found, total = _linear.products(model, EXAMPLE)

    _linear.quantise(model, Precision.INT8_DYNAMIC, _linear.chosen(found, Precision.INT8_DYNAMIC, Device.CPU))

    assert [is_in_8_bits(layer) for layer in model] == [True, True]
    _linear.require_share(model, found, total, Precision.INT8_DYNAMIC)


def test_a_model_whose_larger_layer_is_in_fp8_is_measured():
    model = a_model(64, 128, 32)
    found, total = _linear.products(model, EXAMPLE)

    in_fp8(model[0])

    _linear.require_share(model, found, total, Precision.FP8)


def test_a_model_whose_smaller_layer_is_in_fp8_is_unsupported_with_the_share():
    """128 * 32 of 128 * (64 + 32)."""
    model = a_model(64, 128, 32)
    found, total = _linear.products(model, EXAMPLE)

    in_fp8(model[1])

    with pytest.raises(Unsupported, match=r"^LinearShare: .* do 33\.3% of .*; the rest would be bf16\. Use tensorrt\."):
        _linear.require_share(model, found, total, Precision.FP8)


def test_a_model_of_which_torchao_takes_nothing_fell_back():
    with pytest.raises(FellBack, match="int8-dynamic was asked for, and torchao quantised none of the Linear layers"):
        _linear.quantise(a_model(64, 128, 32), Precision.INT8_DYNAMIC, frozenset({"elsewhere"}))


def exported(model: nn.Module, rows: torch.Tensor) -> torch.export.ExportedProgram:
    """Export a model as torch-aot-inductor does."""
    with torch.no_grad():
        return torch.export.export(model, (rows,))


def test_an_exported_model_multiplies_integers():
    model = a_model(64, 128, 32)
    _linear.quantise(model, Precision.INT8_DYNAMIC, frozenset({"0", "1"}))

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


class TestWhatCudaTakes:
    """From 17 rows on, and both sizes of a weight multiples of 8."""

    @pytest.mark.parametrize(
        ("product", "suits"),
        [
            pytest.param(Product("0", 17, 64, 1000), True, id="enough rows, and sizes that are multiples of 8"),
            pytest.param(Product("0", 16, 64, 1000), False, id="a row too few"),
            pytest.param(Product("0", 17, 60, 64), False, id="inputs that are no multiple of 8"),
            pytest.param(Product("0", 17, 64, 10), False, id="outputs that are no multiple of 8"),
        ],
    )
    @pytest.mark.parametrize("others", [[], [Product("0", 197, 64, 64)]], ids=["alone", "beside one that suits"])
    def test_a_layer_is_quantised_on_a_gpu_if_all_that_it_multiplies_suits(self, product, suits, others):
        layers = _linear.chosen([*others, product], Precision.INT8_DYNAMIC, Device.GPU)

        assert layers == ({"0"} if suits else set())

    @pytest.mark.parametrize(
        ("precision", "device"), [(Precision.INT8_DYNAMIC, Device.CPU), (Precision.FP8, Device.GPU)], ids=str
    )
    def test_nobody_else_is_asked_for_so_much(self, precision, device):
        assert _linear.chosen([Product("0", 1, 60, 10)], precision, device) == {"0"}


class TestOnAGpu:
    """Which layers are quantised there, and why: no GPU is here, but the rule of CUDA's that it follows was seen."""

    FACTORY = """
import torch


def make(inputs, hidden, outputs):
    return torch.nn.Sequential(torch.nn.Linear(inputs, hidden), Pooled(), torch.nn.Linear(hidden, outputs))


class Pooled(torch.nn.Module):
    def forward(self, tokens):
        return tokens.mean(1)
"""

    TOKENS = 20

    @pytest.fixture
    def a_task(self, tmp_path, monkeypatch):
        """Makes the task of a cell on a GPU: a layer for each of 20 tokens, then a head. It is built on the host."""
        (tmp_path / "two_layers.py").write_text(self.FACTORY)
        monkeypatch.setattr(_torch, "_place", lambda _: "cpu")

        def make(batch_size, backend=Backend.TORCH_COMPILE, inputs=64, hidden=64, outputs=32):
            sizes = {"inputs": inputs, "hidden": hidden, "outputs": outputs}
            layers = nn.Linear(inputs, hidden), nn.Identity(), nn.Linear(hidden, outputs)
            torch.save(nn.Sequential(*layers).state_dict(), tmp_path / "weights.pt")
            artifacts.write_arrays(tmp_path, {"tokens": np.ones((64, self.TOKENS, inputs), np.float32)})
            return CellTask(
                backend=backend,
                precision=Precision.INT8_DYNAMIC,
                batch_size=batch_size,
                round=0,
                device=Device.GPU,
                threads=1,
                options={},
                model={
                    "python": {"factory": "two_layers:make", "kwargs": sizes},
                    "inputs": [{"name": "tokens", "shape": [self.TOKENS, inputs]}],
                },
                model_folder=tmp_path,
                measurement=MeasurementSpec(),
                accuracy=AccuracySpec(),
                artifacts=Artifacts(weights=tmp_path / "weights.pt", inputs=tmp_path),
                cache=tmp_path,
                result=tmp_path / "result.json",
            )

        return make

    @pytest.mark.parametrize("backend", [Backend.TORCH_EAGER, Backend.TORCH_COMPILE, Backend.TORCH_AOT_INDUCTOR])
    @pytest.mark.parametrize(("batch_size", "is_taken"), [(1, False), (16, False), (17, True)])
    def test_a_head_is_left_in_fp32_until_the_batch_has_rows_enough(self, a_task, backend, batch_size, is_taken):
        task = a_task(batch_size, backend)

        body, _, head = _torch.module(task)

        assert is_in_8_bits(body)
        assert is_in_8_bits(head) is is_taken
        assert _torch.quantised_layers(task) == (["0", "2"] if is_taken else ["0"])

    def test_what_is_left_in_fp32_is_exported_as_it_is(self, a_task):
        module = _torch.module(a_task(1))

        _linear.require_products(exported(module, torch.ones(1, self.TOKENS, 64)))

    def test_an_exported_program_leaves_the_same_layers_in_fp32(self, a_task):
        body, _, head = torch_recipe.quantised(
            a_model(64, 64, 64, 32), "int8-dynamic", _torch.quantised_layers(a_task(1))
        )

        assert (is_in_8_bits(body), is_in_8_bits(head)) == (True, False)

    def test_too_much_in_fp32_is_unsupported_with_the_reason(self, a_task):
        """The head does more than all tokens together."""
        with pytest.raises(
            Unsupported, match=r"^NoKernel: .* do 13\.8% of .* Use bf16, or a batch size of at least 17\.$"
        ):
            _torch.module(a_task(1, hidden=8, outputs=1000 * 8))

    @pytest.mark.parametrize("sizes", [{"inputs": 60}, {"hidden": 60}], ids=str)
    def test_sizes_that_are_no_multiples_of_eight_are_unsupported_at_any_batch_size(self, a_task, sizes):
        with pytest.raises(Unsupported, match=r"^NoKernel: .* Use bf16\.$"):
            _torch.module(a_task(64, **sizes))

    def test_other_code_that_chooses_layers_makes_other_packages(self, a_task, monkeypatch):
        task = a_task(17)
        before = _torch.content(task)

        monkeypatch.setattr(_torch.environment, "makers", lambda *_: {"code": ["other"], "versions": {}})

        assert _torch.content(task) != before


class TestEagerOnAGpu:
    """What torchao says that it does there with other products: none of this would be 8 bits on the GPU."""

    @pytest.mark.parametrize(("inputs", "outputs"), [(64, 60), (60, 64)])
    def test_torchao_has_the_host_multiply_what_is_no_multiple_of_eight(self, inputs, outputs):
        """A device without memory stands in for the GPU: nothing can be copied from it."""
        rows, weight = (torch.empty(*s, dtype=torch.int8, device="meta") for s in ((32, inputs), (inputs, outputs)))

        with pytest.raises(NotImplementedError, match="Cannot copy out of meta tensor"):
            intmm.safe_int_mm(rows, weight)

    def test_torchao_multiplies_in_fp32_what_cuda_refuses(self, monkeypatch):
        def refuse(*_):
            raise RuntimeError("self.size(0) needs to be greater than 16, but got 16")

        monkeypatch.setattr(intmm, "out_dtype", refuse)
        rows, weight = (torch.empty(*s, dtype=torch.int8, device="meta") for s in ((16, 64), (64, 64)))

        with Operators() as seen:
            intmm.safe_int_mm(rows, weight)

        assert ("mm", torch.float32) in seen.found


class Operators(TorchDispatchMode):
    """Lists the operators that run, with the type of what they answer."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        answer = func(*args, **(kwargs or {}))
        self.found.append((func.overloadpacket.__name__, answer.dtype))
        return answer
