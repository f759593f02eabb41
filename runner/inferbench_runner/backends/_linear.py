"""Dynamic 8 bits in PyTorch: torchao quantises Linear layers, with scales of activations that are found at every call.

int8-dynamic leaves everything else in fp32, fp8 in bf16, as torchao's users have it. Only models are measured whose
arithmetic is mostly in such layers: the others would be floats under the name of 8 bits. Not yet seen on a GPU.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from inferbench_contract.words import Precision
from inferbench_runner import models
from inferbench_runner.backends import Arrays, FellBack, Unsupported
from inferbench_runner.backends._int8_static import operator_name

if TYPE_CHECKING:
    from torch import nn

DYNAMIC: Final = frozenset({Precision.INT8_DYNAMIC, Precision.FP8})
"""The precisions that torchao makes."""

MIN_SHARE: Final = 0.5
"""Of a model's operations. A vision transformer has nearly two thirds of them in layers that torchao takes, ResNet-50
0.05 %."""

PRODUCTS: Final = frozenset({"_int_mm", "_scaled_mm", "out_dtype"})
"""Operators that multiply matrices of 8-bit numbers, by their names in an exported program. The last is how torchao
writes int8 products for a GPU."""


def operations(module: nn.Module, example: Arrays) -> tuple[Mapping[str, int], int]:
    """Count what each Linear layer of a model on the host does for an example, by name, and what the whole does."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    counted: dict[str, int] = {}

    def counter_of(name: str) -> Any:
        def count(layer: Any, _: Any, output: Any) -> None:
            counted[name] = counted.get(name, 0) + 2 * output.numel() * layer.in_features

        return count

    linear = [(name, layer) for name, layer in module.named_modules() if type(layer) is torch.nn.Linear]
    hooks = [layer.register_forward_hook(counter_of(name)) for name, layer in linear]
    with FlopCounterMode(display=False) as total:
        models.run(module, example)
    for hook in hooks:
        hook.remove()
    return counted, int(total.get_total_flops())


def quantise(module: nn.Module, precision: Precision) -> None:
    """Let torchao quantise the Linear layers of a model, in place; it leaves out what it cannot take."""
    from torchao.quantization import (
        Float8DynamicActivationFloat8WeightConfig,
        Int8DynamicActivationInt8WeightConfig,
        quantize_,
    )

    recipes = {
        Precision.INT8_DYNAMIC: Int8DynamicActivationInt8WeightConfig,
        Precision.FP8: Float8DynamicActivationFloat8WeightConfig,
    }
    quantize_(module, recipes[precision]())


def require_products(program: Any) -> None:
    """Raise FellBack where an exported model multiplies no 8-bit numbers, or casts weights up that had 8 bits."""
    names = [operator_name(node) for node in program.graph.nodes]
    if not PRODUCTS & set(names) or any(name.startswith("dequantize_") for name in names):
        raise FellBack("Precision: 8 bits were asked for, and the exported program multiplies floats instead")


def require_share(module: nn.Module, counted: Mapping[str, int], total: int, precision: Precision) -> None:
    """Refuse a model in which quantising reached too little.

    `counted` and `total` are what `operations` found before. Raises FellBack where no Linear layer is quantised, and
    Unsupported where those that are do less than half of the arithmetic.
    """
    from torchao.utils import TorchAOBaseTensor

    layers = dict(module.named_modules())
    reached = [name for name in counted if isinstance(layers[name].weight, TorchAOBaseTensor)]
    share = sum(counted[name] for name in reached) / max(1, total)
    if counted and not reached:
        raise FellBack(f"Precision: {precision} was asked for, and torchao quantised none of the Linear layers")
    if share < MIN_SHARE:
        rest, other = ("bf16", "tensorrt") if precision is Precision.FP8 else ("fp32", "onnxruntime")
        raise Unsupported(
            f"LinearShare: torchao quantises Linear layers, which do {share:.1%} of this model's arithmetic; the rest "
            f"would be {rest}. Use {other}."
        )
