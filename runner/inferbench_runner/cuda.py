"""The NVIDIA GPU of this process through CUDA's own bindings: memory, streams, events, graphs. No PyTorch.

`require_driver` asks the driver alone, so that a machine without a GPU is told so before a library is loaded that would
crash on it (TensorRT does). Everything else goes through `cuda.bindings.runtime`, which PyTorch's packages bring along.
Every call is checked; what goes wrong is a `CudaError` that names the call, or an `OutOfMemoryError`.
"""

from __future__ import annotations

import ctypes
import math
import uuid
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self

from inferbench_contract.errors import EnvironmentFault

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

DRIVER_LIBRARY: Final = "libcuda.so.1"
"""What the driver puts on every machine (CUDA's toolkit has only a stub of it, under another name)."""

CUDA_13: Final = 13_000
"""CUDA's versions as the driver tells them: 1000 * major + 10 * minor. CUDA 13 comes with driver 580."""

NO_DEVICE: Final = 100
"""CUDA_ERROR_NO_DEVICE of cuInit: a driver without a GPU, or CUDA_VISIBLE_DEVICES hides all of them."""

UUID_BYTES: Final = 16
NAME_BYTES: Final = 256

CAPABILITY_ATTRIBUTES: Final = (75, 76)
"""CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR."""

NANOSECONDS_PER_MILLISECOND: Final = 1_000_000

Handle = Any
"""An opaque object of the bindings: a stream, an event, a graph."""


class CudaError(RuntimeError):
    """A call of the CUDA runtime failed; the text names the call, the error and what it means."""


class OutOfMemoryError(CudaError, MemoryError):
    """The GPU, or the memory that can be pinned for it, has no room for what was asked for."""


@dataclass(frozen=True, slots=True)
class Driver:
    """What the driver says before any library is loaded."""

    version: int
    """The newest CUDA that it can run, as 1000 * major + 10 * minor."""
    uuid: str
    """Of the first visible GPU or MIG slice. NVML writes `GPU-` or `MIG-` before it, which this call does not tell."""
    name: str
    compute_capability: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Properties:
    """What decides which kernels suit a GPU, and how much fits into it."""

    name: str
    compute_capability: tuple[int, int]
    multiprocessors: int
    """Tells a MIG slice from the whole card."""
    memory_bytes: int
    l2_bytes: int


@dataclass(frozen=True, slots=True)
class Buffer:
    """Memory on the GPU."""

    address: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Pinned:
    """Page-locked host memory, from which and to which the GPU copies by itself."""

    address: int
    array: NDArray[Any]

    @property
    def size_bytes(self) -> int:
        """Size of the array."""
        return self.array.nbytes


def require_driver(needed: int = CUDA_13, load: Callable[[str], Any] = ctypes.CDLL) -> Driver:
    """Return what the driver says of the first visible GPU. Makes no context and takes no memory on it.

    Raises:
        EnvironmentFault: there is no driver or no GPU, or the driver is too old for CUDA `needed`.
    """
    try:
        library = load(DRIVER_LIBRARY)
    except OSError as error:
        raise EnvironmentFault(
            f"There is no NVIDIA driver here ({DRIVER_LIBRARY} cannot be loaded). Say `device: cpu`, or run on a "
            "machine with an NVIDIA GPU, in a container with NVIDIA's container runtime.",
        ) from error
    version = _driver_version(library)
    if version < needed:
        raise EnvironmentFault(
            f"The NVIDIA driver runs CUDA up to {_dotted(version)}, the libraries here need {_dotted(needed)}. Install "
            "a newer driver (for CUDA 12: 535 or newer, for CUDA 13: 580 or newer), or libraries for the older CUDA.",
        )
    return _first_device(library, version)


def open_device(runtime: Any = None) -> Device:
    """Return the first visible GPU. `runtime` is the module `cuda.bindings.runtime`, or what stands in for it."""
    if runtime is None:
        from cuda.bindings import runtime as installed

        return Device(installed)
    return Device(runtime)


class Device:
    """The GPU. What it hands out lives until `close`, which frees the last first."""

    def __init__(self, runtime: Any) -> None:
        self._runtime = runtime
        self._resources = ExitStack()
        self._check("cudaSetDevice", runtime.cudaSetDevice(0))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free everything, after all work has ended. A GPU that has failed frees nothing before its process ends."""
        try:
            self.synchronize()
        except CudaError:
            self._resources.pop_all()
        else:
            self._resources.close()

    def properties(self) -> Properties:
        """Describe the GPU."""
        found = self._check("cudaGetDeviceProperties", self._runtime.cudaGetDeviceProperties(0))
        name = found.name if isinstance(found.name, str) else found.name.split(b"\0")[0].decode(errors="replace")
        return Properties(
            name=name,
            compute_capability=(found.major, found.minor),
            multiprocessors=found.multiProcessorCount,
            memory_bytes=found.totalGlobalMem,
            l2_bytes=found.l2CacheSize,
        )

    def free_bytes(self) -> int:
        """Return how much memory of the GPU nobody holds."""
        free, _ = self._check("cudaMemGetInfo", self._runtime.cudaMemGetInfo())
        return int(free)

    def synchronize(self) -> None:
        """Wait for everything on every stream."""
        self._check("cudaDeviceSynchronize", self._runtime.cudaDeviceSynchronize())

    def buffer(self, size_bytes: int) -> Buffer:
        """Allocate memory on the GPU, for a tensor without elements too. Raises OutOfMemoryError."""
        call = f"cudaMalloc of {size_bytes:,} bytes"
        address = int(self._check(call, self._runtime.cudaMalloc(max(1, size_bytes))))
        self._on_close("cudaFree", self._runtime.cudaFree, address)
        return Buffer(address, size_bytes)

    def pinned(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Pinned:
        """Allocate page-locked host memory for an array. Raises OutOfMemoryError."""
        import numpy as np

        size_bytes = math.prod(shape) * dtype.itemsize
        call = f"cudaHostAlloc of {size_bytes:,} bytes"
        flags = self._runtime.cudaHostAllocDefault
        address = int(self._check(call, self._runtime.cudaHostAlloc(max(1, size_bytes), flags)))
        self._on_close("cudaFreeHost", self._runtime.cudaFreeHost, address)
        memory = (ctypes.c_byte * size_bytes).from_address(address)
        return Pinned(address, np.ndarray(shape, dtype, memoryview(memory)))

    def stream(self) -> Stream:
        """Make a stream that does not wait for the default one."""
        flags = self._runtime.cudaStreamNonBlocking
        handle = self._check("cudaStreamCreateWithFlags", self._runtime.cudaStreamCreateWithFlags(flags))
        self._on_close("cudaStreamDestroy", self._runtime.cudaStreamDestroy, handle)
        return Stream(self._runtime, handle, self._check)

    def event(self) -> Handle:
        """Make an event that remembers when it was reached."""
        handle = self._check("cudaEventCreate", self._runtime.cudaEventCreate())
        self._on_close("cudaEventDestroy", self._runtime.cudaEventDestroy, handle)
        return handle

    def elapsed_ns(self, begin: Handle, end: Handle) -> int:
        """Return the GPU's time from one event to another; both must have been reached. Resolution about 0.5 us."""
        milliseconds: float = self._check("cudaEventElapsedTime", self._runtime.cudaEventElapsedTime(begin, end))
        return round(milliseconds * NANOSECONDS_PER_MILLISECOND)

    def graph(self, stream: Stream, work: Callable[[], None]) -> Handle:
        """Record what `work` starts on the stream, without running it, as a graph for `Stream.launch`.

        Whatever `work` reads and writes must stay where it is for as long as the graph is launched.
        """
        recorded = stream.record(work)
        try:
            handle = self._check("cudaGraphInstantiate", self._runtime.cudaGraphInstantiate(recorded, 0))
        finally:
            self._check("cudaGraphDestroy", self._runtime.cudaGraphDestroy(recorded))
        self._on_close("cudaGraphExecDestroy", self._runtime.cudaGraphExecDestroy, handle)
        return handle

    def _on_close(self, call: str, release: Callable[[Any], tuple[Any, ...]], handle: Handle) -> None:
        self._resources.callback(lambda: self._check(call, release(handle)))

    def _check(self, call: str, answer: tuple[Any, ...]) -> Any:
        """Return what a call answered: nothing, one value, or a tuple of them."""
        status, *values = answer
        if int(status) != 0:
            raise self._error(call, status)
        return tuple(values) if len(values) > 1 else values[0] if values else None

    def _error(self, call: str, status: Any) -> CudaError:
        _, text = self._runtime.cudaGetErrorString(status)
        words = text.decode() if isinstance(text, bytes) else text
        is_memory = int(status) == int(self._runtime.cudaError_t.cudaErrorMemoryAllocation)
        return (OutOfMemoryError if is_memory else CudaError)(f"{call}: {getattr(status, 'name', status)} ({words})")


class Stream:
    """Work in the order in which it was started. The methods that stand inside timed calls do little but call CUDA."""

    def __init__(self, runtime: Any, handle: Handle, check: Callable[[str, tuple[Any, ...]], Any]) -> None:
        self.handle = handle
        self.address = int(handle)
        """As other libraries want it told."""
        self._runtime = runtime
        self._check = check
        self._record_event = runtime.cudaEventRecord
        self._launch_graph = runtime.cudaGraphLaunch
        self._synchronize = runtime.cudaStreamSynchronize
        self._to_device = runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._to_host = runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._on_device = runtime.cudaMemcpyKind.cudaMemcpyDeviceToDevice

    def mark(self, event: Handle) -> None:
        """Let the event remember when the stream gets here."""
        answer = self._record_event(event, self.handle)
        if answer[0]:
            self._check("cudaEventRecord", answer)

    def launch(self, graph: Handle) -> None:
        """Start a graph."""
        answer = self._launch_graph(graph, self.handle)
        if answer[0]:
            self._check("cudaGraphLaunch", answer)

    def synchronize(self) -> None:
        """Wait until the stream has done everything."""
        answer = self._synchronize(self.handle)
        if answer[0]:
            self._check("cudaStreamSynchronize", answer)

    def copy_in(self, device: Buffer, host: Pinned) -> None:
        """Start to copy to the GPU."""
        self._copy(device.address, host.address, _same_size(device, host), self._to_device)

    def copy_out(self, host: Pinned, device: Buffer) -> None:
        """Start to copy from the GPU."""
        self._copy(host.address, device.address, _same_size(device, host), self._to_host)

    def copy(self, target: Buffer, source: Buffer) -> None:
        """Start to copy within the GPU."""
        self._copy(target.address, source.address, min(target.size_bytes, source.size_bytes), self._on_device)

    def record(self, work: Callable[[], None]) -> Handle:
        """Return what `work` starts as a graph that cannot be launched yet. Meanwhile no other thread may call CUDA."""
        mode = self._runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._check("cudaStreamBeginCapture", self._runtime.cudaStreamBeginCapture(self.handle, mode))
        try:
            work()
        except BaseException:
            with suppress(CudaError):  # the error of the work is the one to tell
                self._end_recording()
            raise
        return self._end_recording()

    def _end_recording(self) -> Handle:
        return self._check("cudaStreamEndCapture", self._runtime.cudaStreamEndCapture(self.handle))

    def _copy(self, target: int, source: int, size_bytes: int, kind: Any) -> None:
        if size_bytes == 0:
            return
        answer = self._runtime.cudaMemcpyAsync(target, source, size_bytes, kind, self.handle)
        if answer[0]:
            self._check(f"cudaMemcpyAsync of {size_bytes:,} bytes", answer)


def _same_size(device: Buffer, host: Pinned) -> int:
    if device.size_bytes != host.size_bytes:
        raise ValueError(
            f"the buffer has {device.size_bytes:,} bytes, the array {host.size_bytes:,}; a copy needs as many"
        )
    return host.size_bytes


def _driver_version(library: Any) -> int:
    version = ctypes.c_int(0)
    _ask_driver(library, "cuDriverGetVersion", ctypes.byref(version))
    return version.value


def _first_device(library: Any, version: int) -> Driver:
    """Describe the first GPU that this process may use."""
    _ask_driver(library, "cuInit", 0)
    count, device = ctypes.c_int(0), ctypes.c_int(0)
    _ask_driver(library, "cuDeviceGetCount", ctypes.byref(count))
    if count.value == 0:
        raise _no_device("cuDeviceGetCount found none")
    _ask_driver(library, "cuDeviceGet", ctypes.byref(device), 0)
    major, minor = (_attribute(library, each, device) for each in CAPABILITY_ATTRIBUTES)
    return Driver(version, _uuid(library, device), _name(library, device), (major, minor))


def _uuid(library: Any, device: ctypes.c_int) -> str:
    raw = (ctypes.c_ubyte * UUID_BYTES)()
    # Version 2 answers with the slice's own UUID where MIG is on, version 1 with its card's.
    _ask_driver(library, "cuDeviceGetUuid_v2", ctypes.byref(raw), device)
    return str(uuid.UUID(bytes=bytes(raw)))


def _name(library: Any, device: ctypes.c_int) -> str:
    text = ctypes.create_string_buffer(NAME_BYTES)
    _ask_driver(library, "cuDeviceGetName", text, NAME_BYTES, device)
    return text.value.decode(errors="replace")


def _attribute(library: Any, attribute: int, device: ctypes.c_int) -> int:
    value = ctypes.c_int(0)
    _ask_driver(library, "cuDeviceGetAttribute", ctypes.byref(value), attribute, device)
    return value.value


def _ask_driver(library: Any, call: str, *arguments: Any) -> None:
    status = getattr(library, call)(*arguments)
    if status == NO_DEVICE:
        raise _no_device(f"{call} found none")
    if status != 0:
        raise EnvironmentFault(
            f"The NVIDIA driver does not work: {call} answered {status} ({_error_name(library, status)}). Look at what "
            "nvidia-smi says; after an update of the driver the machine must be restarted.",
        )


def _no_device(seen: str) -> EnvironmentFault:
    return EnvironmentFault(
        f"There is an NVIDIA driver here but no GPU for this process ({seen}). Look at CUDA_VISIBLE_DEVICES and, in a "
        "container, at the devices that it was given; or say `device: cpu`.",
    )


def _error_name(library: Any, status: int) -> str:
    name = ctypes.c_char_p()
    library.cuGetErrorName(status, ctypes.byref(name))
    return name.value.decode() if name.value else "unknown"


def _dotted(version: int) -> str:
    return f"{version // 1000}.{version % 1000 // 10}"
