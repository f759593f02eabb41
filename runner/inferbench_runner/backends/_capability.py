"""Precisions that a GPU may be too old for. A library would emulate them there, refuse them, or compute plain fp32.

Each backend asks before a sweep begins, with what the driver says of the GPU, and again where it loads a model.
"""

from __future__ import annotations

from typing import Final

from inferbench_contract.words import Precision
from inferbench_runner.backends import Unsupported

NEEDS: Final = {Precision.TF32: (8, 0), Precision.BF16: (8, 0), Precision.FP8: (8, 9)}
"""The compute capability of the first generation whose tensor cores have it: Ampere, Ampere, Ada."""


def missing(precision: Precision, name: str, capability: tuple[int, int]) -> str | None:
    """Say that a GPU of this name and compute capability has no kernels for a precision; None where it has."""
    needed = NEEDS.get(precision, (0, 0))
    if capability >= needed:
        return None
    wanted, has = (".".join(map(str, each)) for each in (needed, capability))
    return f"NoKernel: {precision} needs compute capability {wanted}, and {name} has {has}. Use fp32 or fp16."


def require(precision: Precision, name: str, capability: tuple[int, int]) -> None:
    """Raise Unsupported where a GPU has no kernels for a precision."""
    if (reason := missing(precision, name, capability)) is not None:
        raise Unsupported(reason)
