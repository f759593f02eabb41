"""Dynamic 8 bits in PyTorch: torchao quantises Linear layers, with scales of activations that are found at every call.

int8-dynamic leaves everything else in fp32, fp8 in bf16, as torchao's users have it. On a GPU int8-dynamic leaves in
fp32 what CUDA does not multiply in 8 bits, too. Only models are measured whose arithmetic is mostly in such layers: the
others would be floats under the name of 8 bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from inferbench_contract.words import Device, Precision
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

FEWEST_ROWS: Final = 17
"""Of a product of 8-bit numbers that CUDA takes (PyTorch's `_int_mm`). With fewer, compiled code fails (on an H100: the
head of a vision transformer at batch 1), and torchao in eager multiplies in fp32 instead."""

MULTIPLE: Final = 8
"""Of both sizes of a weight, for the same. torchao in eager has the host do what fits no such product."""


@dataclass(frozen=True, slots=True)
class Product:
    """What a Linear layer multiplies in one call: rows of numbers by a weight."""

    layer: str
    rows: int
    inputs: int
    outputs: int

    @property
    def operations(self) -> int:
        """Return what it does: a multiplication and an addition are two."""
        return 2 * self.rows * self.inputs * self.outputs

    @property
    def has_sizes_for_cuda(self) -> bool:
        """Tell whether CUDA multiplies by this weight in 8 bits, if there are rows enough."""
        return self.inputs % MULTIPLE == 0 and self.outputs % MULTIPLE == 0

    @property
    def suits_cuda(self) -> bool:
        """Tell whether CUDA does this product in 8 bits."""
        return self.has_sizes_for_cuda and self.rows >= FEWEST_ROWS


def must_suit_cuda(precision: Precision, device: Device) -> bool:
    """Tell whether layers are chosen by what CUDA takes. At fp8 torchao itself leaves out what does not suit."""
    return (precision, device) == (Precision.INT8_DYNAMIC, Device.GPU)


def products(module: nn.Module, example: Arrays) -> tuple[Sequence[Product], int]:
    """List what the Linear layers of a model on the host multiply for an example, and count what the whole does."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    found: list[Product] = []

    def noter_of(name: str) -> Any:
        def note(layer: Any, _: Any, output: Any) -> None:
            rows = output.numel() // layer.out_features
            found.append(Product(name, rows, layer.in_features, layer.out_features))

        return note

    linear = [(name, layer) for name, layer in module.named_modules() if type(layer) is torch.nn.Linear]
    hooks = [layer.register_forward_hook(noter_of(name)) for name, layer in linear]
    with FlopCounterMode(display=False) as total:
        models.run(module, example)
    for hook in hooks:
        hook.remove()
    return found, int(total.get_total_flops())


def chosen(found: Sequence[Product], precision: Precision, device: Device) -> frozenset[str]:
    """Name the layers that are to be quantised: on a GPU, at int8, those of which CUDA takes every product."""
    layers = {product.layer for product in found}
    if must_suit_cuda(precision, device):
        layers -= {product.layer for product in found if not product.suits_cuda}
    return frozenset(layers)


def quantise(module: nn.Module, precision: Precision, layers: frozenset[str]) -> None:
    """Let torchao quantise these Linear layers of a model, in place; it leaves out what it cannot take.

    Raises FellBack where it takes none of them.
    """
    from torchao.quantization import (
        Float8DynamicActivationFloat8WeightConfig,
        Int8DynamicActivationInt8WeightConfig,
        quantize_,
    )

    recipes = {
        Precision.INT8_DYNAMIC: Int8DynamicActivationInt8WeightConfig,
        Precision.FP8: Float8DynamicActivationFloat8WeightConfig,
    }
    quantize_(module, recipes[precision](), filter_fn=lambda _, name: name in layers)
    if layers and not layers & _in_8_bits(module):
        raise FellBack(f"Precision: {precision} was asked for, and torchao quantised none of the Linear layers")


def require_products(program: Any) -> None:
    """Raise FellBack where an exported model multiplies no 8-bit numbers, or casts weights up that had 8 bits."""
    names = [operator_name(node) for node in program.graph.nodes]
    if not PRODUCTS & set(names) or any(name.startswith("dequantize_") for name in names):
        raise FellBack("Precision: 8 bits were asked for, and the exported program multiplies floats instead")


def require_share(module: nn.Module, found: Sequence[Product], total: int, precision: Precision) -> None:
    """Refuse a model in which quantising reached less than half of the arithmetic. Raises Unsupported.

    `found` and `total` are what `products` said before: of the batch where CUDA has to take it, or of as many of its
    examples as FEWEST_ROWS, as an example has a row at least.
    """
    in_8_bits = _in_8_bits(module)
    share = _share([product for product in found if product.layer in in_8_bits], total)
    if share >= MIN_SHARE:
        return
    left_out = [product for product in found if product.layer not in in_8_bits]
    is_of_cuda = precision is Precision.INT8_DYNAMIC and any(not product.suits_cuda for product in left_out)
    if is_of_cuda and _share(found, total) >= MIN_SHARE:
        raise Unsupported(_no_kernel(share, found, total))
    rest, other = ("bf16", "tensorrt") if precision is Precision.FP8 else ("fp32", "onnxruntime")
    raise Unsupported(
        f"LinearShare: torchao quantises Linear layers, which do {share:.1%} of this model's arithmetic; the rest "
        f"would be {rest}. Use {other}."
    )


def _no_kernel(share: float, found: Sequence[Product], total: int) -> str:
    fitting = [product for product in found if product.has_sizes_for_cuda]
    larger = f", or a batch size of at least {FEWEST_ROWS}" if _share(fitting, total) >= MIN_SHARE else ""
    return (
        f"NoKernel: CUDA multiplies 8-bit numbers from {FEWEST_ROWS} rows on, by weights whose sizes are multiples of "
        f"{MULTIPLE}. Linear layers of that kind do {share:.1%} of this model's arithmetic here; the rest would be "
        f"fp32. Use bf16{larger}."
    )


def _in_8_bits(module: nn.Module) -> frozenset[str]:
    """Name the layers whose weight is torchao's by now."""
    from torchao.utils import TorchAOBaseTensor

    weights = ((name, getattr(layer, "weight", None)) for name, layer in module.named_modules())
    return frozenset(name for name, weight in weights if isinstance(weight, TorchAOBaseTensor))


def _share(done: Sequence[Product], total: int) -> float:
    return sum(product.operations for product in done) / max(1, total)
