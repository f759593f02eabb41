"""What sessions share that read and write arrays of ours: their types, and on a CPU that a call has answered."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from inferbench_runner.backends import Arrays
from inferbench_runner.clocks import HOST_CLOCK, Clock

if TYPE_CHECKING:
    from numpy.typing import NDArray

BFLOAT16: Final = "bfloat16"
"""As ml_dtypes, which teaches NumPy the type, calls it."""


class HostSession:
    """Inputs that lie in our arrays, in the types of the graph. What runs them and what came out is the subclass's."""

    def __init__(self, bound: Mapping[str, NDArray[Any]]) -> None:
        self._inputs = bound

    @property
    def clock(self) -> Clock:
        """The host's."""
        return HOST_CLOCK

    def synchronize(self) -> None:
        """Nothing is ever under way."""

    def device_time_ns(self) -> int | None:
        """There are no events."""
        return None

    def load_batch(self, inputs: Arrays) -> None:
        """Copy a batch into the bound arrays."""
        for name, array in self._inputs.items():
            array[...] = inputs[name]

    def inputs(self) -> Arrays:
        """Return copies of the bound arrays."""
        return {name: array.copy() for name, array in self._inputs.items()}


def type_named(name: str) -> np.dtype[Any]:
    """Return the type that NumPy, or for bf16 ml_dtypes, has under this name."""
    if name == BFLOAT16:
        import ml_dtypes  # noqa: F401 (NumPy knows its types once it is imported)

    return np.dtype(name)


def as_answer(array: NDArray[Any]) -> NDArray[Any]:
    """Return a copy of what came out, floats as fp32."""
    is_floating = array.dtype.kind == "f" or array.dtype.name == BFLOAT16
    return array.astype(np.float32) if is_floating else array.copy()
