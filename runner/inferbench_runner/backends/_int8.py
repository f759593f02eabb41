"""Dynamic int8 in PyTorch: torchao quantises Linear layers, with scales that are found at every call.

Everything else stays fp32, so only models are measured whose arithmetic is mostly in such layers: the others would be
fp32 under the name of int8.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from inferbench_runner import models
from inferbench_runner.backends import Arrays, FellBack, Unsupported

if TYPE_CHECKING:
    from torch import nn

MIN_SHARE: Final = 0.5
"""Of a model's operations. A vision transformer has nearly two thirds of them in layers that torchao takes, ResNet-50
0.05 %."""


def missing() -> str | None:
    """Say that torchao is not installed."""
    if importlib.util.find_spec("torchao") is None:
        return "NotInstalled: torchao is not installed. Install it: pip install 'inferbench[runner]'"
    return None


def quantised(module: nn.Module, example: Arrays) -> nn.Module:
    """Quantise a model in place. Raises Unsupported where that reaches too little of it."""
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_
    from torchao.utils import TorchAOBaseTensor

    operations, total = _operations(module, example)
    quantize_(module, Int8DynamicActivationInt8WeightConfig())
    layers = dict(module.named_modules())
    reached = [name for name in operations if isinstance(layers[name].weight, TorchAOBaseTensor)]
    share = sum(operations[name] for name in reached) / max(1, total)
    if operations and not reached:
        raise FellBack("Precision: int8-dynamic was asked for, and torchao quantised none of the Linear layers")
    if share < MIN_SHARE:
        raise Unsupported(
            f"LinearShare: torchao quantises Linear layers, which do {share:.1%} of this model's arithmetic; the rest "
            "would be fp32. Use onnxruntime."
        )
    return module


def _operations(module: nn.Module, example: Arrays) -> tuple[Mapping[str, int], int]:
    """Count what each Linear layer does for an example, and what the whole model does."""
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
