"""How PyTorch's strategies lay images out in memory: plane by plane, or pixel by pixel (channels last).

One policy for all of them, from `measurement.layout`, for every 4-D input and every 4-D weight. What has another number
of dimensions has one layout only here: it is contiguous.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from typing import TYPE_CHECKING, Final

from inferbench_contract.spec import Layout
from inferbench_runner.backends import FellBack

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

DIMENSIONS: Final = 4
"""Of a batch of images, and of a convolution's kernels: PyTorch's channels_last is defined for no others."""


def arranged(tensor: Tensor, layout: Layout) -> Tensor:
    """Return a tensor in a layout: itself where it lies so already, else a copy."""
    return tensor.contiguous(memory_format=_format(tensor, layout))


def arrange(module: nn.Module, layout: Layout) -> nn.Module:
    """Lay out all weights of a model in place, and return it."""
    for tensor in _held(module):
        tensor.data = arranged(tensor.data, layout)
    return module


def require(tensors: Iterable[Tensor], layout: Layout) -> None:
    """Raise FellBack where a tensor that is used lies in another layout."""
    strange = [each for each in tensors if not each.is_contiguous(memory_format=_format(each, layout))]
    if strange:
        shape, strides = tuple(strange[0].shape), strange[0].stride()
        raise FellBack(f"Layout: {layout} was asked for, and a tensor of shape {shape} has the strides {strides}")


def require_of(module: nn.Module, layout: Layout) -> None:
    """Raise FellBack where a weight of a model lies in another layout."""
    require(_held(module), layout)


def _held(module: nn.Module) -> Iterable[Tensor]:
    """Return the weights that have a choice of layouts. Quantised ones are Linear layers', which have none."""
    return (tensor for tensor in chain(module.parameters(), module.buffers()) if tensor.dim() == DIMENSIONS)


def _format(tensor: Tensor, layout: Layout) -> torch.memory_format:
    import torch

    is_last = layout is Layout.CHANNELS_LAST and tensor.dim() == DIMENSIONS
    return torch.channels_last if is_last else torch.contiguous_format
