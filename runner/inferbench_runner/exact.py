"""What a model answers in fp64, for a few examples: the yardstick that tells whose fp32 is the better one.

It stands beside the reference, whose own error it measures. A model that insists on fp32 somewhere has none, and
neither has an ONNX file, whose operators mostly exist in fp32 only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

import numpy as np

from inferbench_runner.backends import Arrays

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import nn

EXAMPLES: Final = 8
"""The first of the evaluation inputs. The ratio is one of norms over whole outputs, which vary little."""

NAMES: Final = "exact.json"

NO_ANSWERS: Final[Mapping[str, NDArray[np.float64]]] = {}


def answers(module: nn.Module, examples: Arrays) -> Mapping[str, NDArray[np.float64]]:
    """Run a model in fp64; it stays so. Returns nothing where it cannot."""
    import torch

    from inferbench_runner import models  # here, so that cells which only read import no more than they need

    inputs = [torch.from_numpy(array) for array in examples.values()]
    try:
        with torch.inference_mode():
            outputs = module.double()(*(each.double() if each.is_floating_point() else each for each in inputs))
    except (RuntimeError, TypeError, ValueError):  # a layer or a factory's own code has fp32 written into it
        return NO_ANSWERS
    named = models.named_outputs(outputs)
    is_double = all(tensor.dtype == torch.float64 for tensor in named.values() if tensor.is_floating_point())
    found = {name: tensor.numpy() for name, tensor in named.items() if tensor.is_floating_point()}
    return found if is_double and all(np.isfinite(array).all() for array in found.values()) else NO_ANSWERS


def write(folder: Path, arrays: Arrays) -> None:
    """Write them beside the reference."""
    (folder / NAMES).write_text(json.dumps(list(arrays)))
    for name, array in arrays.items():
        np.save(_file(folder, name), array)


def read(folder: Path) -> Mapping[str, NDArray[Any]]:
    """Read what stands beside a reference; nothing where there is none."""
    try:
        names = json.loads((folder / NAMES).read_bytes())
    except OSError:
        return NO_ANSWERS
    return {name: np.load(_file(folder, name), allow_pickle=False) for name in names}


def _file(folder: Path, name: str) -> Path:
    return folder / f"exact-{quote(name, safe='')}.npy"
