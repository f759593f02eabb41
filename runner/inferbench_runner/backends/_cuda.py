"""Streams, events and pinned memory for backends that run without PyTorch, from NVIDIA's own bindings.

Written without a GPU at hand: nothing in this module has run yet.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from inferbench_contract.errors import EnvironmentFault

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

DEVICES: Final = (Path("/dev/nvidiactl"), Path("/dev/dxg"))
"""What the driver puts there: on Linux, and in Windows' Linux."""

NANOSECONDS_PER_MILLISECOND: Final = 1_000_000


def require_device() -> None:
    """Raise EnvironmentFault where there is no NVIDIA driver; cheap."""
    if not any(device.exists() for device in DEVICES):
        raise EnvironmentFault(
            "There is no NVIDIA GPU here (no /dev/nvidiactl). Say `device: cpu`, or run on a machine with one."
        )


def ask(answer: tuple[Any, ...]) -> Any:
    """Return what a call of the runtime answered. Raises RuntimeError with the runtime's name for what went wrong."""
    status, *values = answer
    if int(status) != 0:
        raise RuntimeError(f"CUDA: {getattr(status, 'name', status)}")
    return values[0] if values else None


class Stream:
    """A stream of our own and two events on it, around the work of one call."""

    def __init__(self) -> None:
        from cuda.bindings import runtime

        self._runtime = runtime
        self._stream = ask(runtime.cudaStreamCreateWithFlags(runtime.cudaStreamNonBlocking))
        self._begin, self._end = (ask(runtime.cudaEventCreate()) for _ in range(2))

    @property
    def address(self) -> int:
        """The stream as libraries want it told."""
        return int(self._stream)

    def begin(self) -> None:
        """Mark where the work begins."""
        self._runtime.cudaEventRecord(self._begin, self._stream)

    def end(self) -> None:
        """Mark where the work ends."""
        self._runtime.cudaEventRecord(self._end, self._stream)

    def synchronize(self) -> None:
        """Wait for everything on the stream."""
        ask(self._runtime.cudaStreamSynchronize(self._stream))

    def elapsed_ns(self) -> int:
        """Return the device's time between the two marks."""
        milliseconds: float = ask(self._runtime.cudaEventElapsedTime(self._begin, self._end))
        return round(milliseconds * NANOSECONDS_PER_MILLISECOND)

    def copy_in(self, device: int, host: NDArray[Any]) -> None:
        """Start to copy pinned host memory to the device."""
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._runtime.cudaMemcpyAsync(device, host.ctypes.data, host.nbytes, kind, self._stream)

    def copy_out(self, host: NDArray[Any], device: int) -> None:
        """Start to copy device memory to pinned host memory."""
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._runtime.cudaMemcpyAsync(host.ctypes.data, device, host.nbytes, kind, self._stream)


def pinned(shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return an array in page-locked memory, which lives as long as the process."""
    import numpy as np
    from cuda.bindings import runtime

    size = int(np.prod(shape)) * dtype.itemsize
    address = ask(runtime.cudaHostAlloc(max(1, size), runtime.cudaHostAllocDefault))
    memory = (ctypes.c_byte * size).from_address(int(address))
    return np.ctypeslib.as_array(memory).view(dtype).reshape(shape)
