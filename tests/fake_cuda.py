"""A scripted stand-in for NVIDIA's driver, CUDA runtime and NVML, for machines without a GPU.

It is no GPU, and nothing here was compared with one. What it can show: which calls are made in which order, with which
addresses and on which stream; that memory is freed once and not used afterwards; that nothing is read before it was
waited for. Memory on the "GPU" is real bytes at made-up addresses. A stream is a list of things to do, which are done
when somebody waits for it and not before. Time on the GPU passes by what each piece of work is said to take.

`tests/runner/test_tensorrt_names.py` compares its names, numbers and arguments with those of the real bindings.
"""

# ruff: noqa: N802, N803, N815 (the names are NVIDIA's)

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from types import SimpleNamespace

FIRST_ADDRESS = 0x7F00_0000_0000
ALIGNMENT = 512
FREED = b"\xdd"

H200_BYTES = 150_000_000_000
COPY_NS = 1_000


class CudaErrorT(IntEnum):
    """The numbers of cudaError_t that occur here."""

    cudaSuccess = 0
    cudaErrorInvalidValue = 1
    cudaErrorMemoryAllocation = 2
    cudaErrorInvalidResourceHandle = 400
    cudaErrorNotReady = 600
    cudaErrorIllegalAddress = 700
    cudaErrorStreamCaptureUnsupported = 900
    cudaErrorStreamCaptureInvalidated = 901


class CudaMemcpyKind(IntEnum):
    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2
    cudaMemcpyDeviceToDevice = 3


class CudaStreamCaptureMode(IntEnum):
    cudaStreamCaptureModeGlobal = 0
    cudaStreamCaptureModeThreadLocal = 1


Work = Callable[[], None]


@dataclass(eq=False)
class FakeStream:
    address: int
    waiting: list[Work] = field(default_factory=list)
    recorded: list[Work] | None = None
    is_spoilt: bool = False

    def __int__(self):
        return self.address

    def add(self, work: Work) -> None:
        """Take work: to do, or into the graph that is being recorded."""
        (self.waiting if self.recorded is None else self.recorded).append(work)


@dataclass(eq=False)
class FakeEvent:
    at_ns: int | None = None


@dataclass(eq=False)
class FakeGraph:
    works: list[Work]


class IllegalAddress(Exception):
    pass


class FakeCuda:
    """Stands in for the module `cuda.bindings.runtime`."""

    cudaError_t = CudaErrorT
    cudaMemcpyKind = CudaMemcpyKind
    cudaStreamCaptureMode = CudaStreamCaptureMode
    cudaStreamNonBlocking = 1
    cudaHostAllocDefault = 0

    def __init__(self, memory_bytes=H200_BYTES, name=b"NVIDIA H200\0", capability=(9, 0)):
        self.calls: list[str] = []
        """Every call by its name, in order."""
        self.done: list[str] = []
        """What the GPU has really done, in order."""
        self.faults: dict[str, CudaErrorT] = {}
        """The next call of this name fails so."""
        self.now_ns = 0
        self.memory_bytes = memory_bytes
        self._facts = (name, capability)
        self._device: dict[int, bytearray] = {}
        self._host: dict[int, ctypes.Array] = {}
        self._keep: list[ctypes.Array] = []
        self._streams: dict[int, FakeStream] = {}
        self._open: set[object] = set()
        self._next = FIRST_ADDRESS
        self._sticky = CudaErrorT.cudaSuccess

    @property
    def left_over(self) -> int:
        """How many things were made and not freed."""
        return len(self._device) + len(self._host) + len(self._streams) + len(self._open)

    def stream_at(self, address: int) -> FakeStream:
        """What a library finds that is told a stream by its address."""
        return self._streams[address]

    def read(self, address: int, size: int) -> bytes:
        """Read the GPU's memory, as a kernel does."""
        memory, offset = self._find(address, size)
        return bytes(memory[offset : offset + size])

    def write(self, address: int, content: bytes) -> None:
        """Write the GPU's memory, as a kernel does."""
        memory, offset = self._find(address, len(content))
        memory[offset : offset + len(content)] = content

    def run(self, what: str, duration_ns: int, work: Work) -> Work:
        """Make a piece of work that says it was done, and takes time."""

        def done() -> None:
            self.now_ns += duration_ns
            self.done.append(what)
            work()

        return done

    # The calls, as the bindings have them: each answers a tuple that begins with the error.

    def cudaSetDevice(self, device):
        return self._answer("cudaSetDevice")

    def cudaGetDeviceProperties(self, device):
        name, (major, minor) = self._facts
        facts = SimpleNamespace(
            name=name,
            major=major,
            minor=minor,
            multiProcessorCount=132,
            totalGlobalMem=self.memory_bytes,
            l2CacheSize=60 << 20,
        )
        return self._answer("cudaGetDeviceProperties", facts)

    def cudaGetErrorString(self, error):
        return CudaErrorT.cudaSuccess, {2: b"out of memory", 700: b"an illegal memory access was encountered"}.get(
            int(error), b"something is wrong"
        )

    def cudaMemGetInfo(self):
        taken = sum(map(len, self._device.values()))
        return self._answer("cudaMemGetInfo", self.memory_bytes - taken, self.memory_bytes)

    def cudaMalloc(self, size):
        error = self._begin("cudaMalloc") or self._refuse_while_recording()
        if error or sum(map(len, self._device.values())) + size > self.memory_bytes:
            return error or CudaErrorT.cudaErrorMemoryAllocation, None
        address, self._next = self._next, self._next + -(-size // ALIGNMENT) * ALIGNMENT + ALIGNMENT
        self._device[address] = bytearray(b"\xcd" * size)  # what was there before is anything but zeros
        return CudaErrorT.cudaSuccess, address

    def cudaFree(self, devPtr):
        return self._release("cudaFree", self._device, devPtr)

    def cudaHostAlloc(self, size, flags):
        if error := self._begin("cudaHostAlloc") or self._refuse_while_recording():
            return error, None
        memory = (ctypes.c_byte * size)()
        ctypes.memset(memory, 0xCD, size)
        self._keep.append(memory)  # a stale array of ours may still look at it
        self._host[ctypes.addressof(memory)] = memory
        return CudaErrorT.cudaSuccess, ctypes.addressof(memory)

    def cudaFreeHost(self, ptr):
        if memory := self._host.get(ptr):
            ctypes.memset(memory, FREED[0], ctypes.sizeof(memory))
        return self._release("cudaFreeHost", self._host, ptr)

    def cudaStreamCreateWithFlags(self, flags):
        assert flags == self.cudaStreamNonBlocking
        address, self._next = self._next, self._next + ALIGNMENT
        self._streams[address] = FakeStream(address)
        return self._answer("cudaStreamCreateWithFlags", self._streams[address])

    def cudaStreamDestroy(self, stream):
        return self._release("cudaStreamDestroy", self._streams, int(stream))

    def cudaEventCreate(self):
        event = FakeEvent()
        self._open.add(event)
        return self._answer("cudaEventCreate", event)

    def cudaEventDestroy(self, event):
        return self._discard("cudaEventDestroy", event)

    def cudaEventRecord(self, event, stream):
        if error := self._begin("cudaEventRecord"):
            return (error,)
        self._streams[int(stream)].add(lambda: setattr(event, "at_ns", self.now_ns))
        return (CudaErrorT.cudaSuccess,)

    def cudaEventElapsedTime(self, start, end):
        if start.at_ns is None or end.at_ns is None:
            return CudaErrorT.cudaErrorNotReady, None
        return self._answer("cudaEventElapsedTime", (end.at_ns - start.at_ns) / 1e6)

    def cudaStreamSynchronize(self, stream):
        error = self._begin("cudaStreamSynchronize") or self._refuse_while_recording()
        return (error or self._work_off(self._streams[int(stream)]),)

    def cudaDeviceSynchronize(self):
        error = self._begin("cudaDeviceSynchronize") or self._refuse_while_recording()
        for stream in self._streams.values():
            error = error or self._work_off(stream)
        return (error,)

    def cudaMemcpyAsync(self, dst, src, count, kind, stream):
        if error := self._begin("cudaMemcpyAsync"):
            return (error,)
        copy = {1: self._copy_in, 2: self._copy_out, 3: self._copy_within}[int(kind)]
        self._streams[int(stream)].add(self.run(kind.name, COPY_NS, lambda: copy(dst, src, count)))
        return (CudaErrorT.cudaSuccess,)

    def cudaStreamBeginCapture(self, stream, mode):
        self._streams[int(stream)].recorded = []
        return self._answer("cudaStreamBeginCapture")

    def cudaStreamEndCapture(self, stream):
        found = self._streams[int(stream)]
        works, found.recorded = found.recorded, None
        if found.is_spoilt or works is None:
            found.is_spoilt = False
            return CudaErrorT.cudaErrorStreamCaptureInvalidated, None
        return self._made("cudaStreamEndCapture", FakeGraph(works))

    def cudaGraphInstantiate(self, graph, flags):
        if error := self._begin("cudaGraphInstantiate"):
            return error, None
        return self._made("", FakeGraph(list(graph.works)))

    def cudaGraphDestroy(self, graph):
        return self._discard("cudaGraphDestroy", graph)

    def cudaGraphExecDestroy(self, graphExec):
        return self._discard("cudaGraphExecDestroy", graphExec)

    def cudaGraphLaunch(self, graphExec, stream):
        if graphExec not in self._open:
            return (CudaErrorT.cudaErrorInvalidResourceHandle,)
        for work in graphExec.works:
            self._streams[int(stream)].add(work)
        return self._answer("cudaGraphLaunch")

    def _begin(self, call):
        if call:
            self.calls.append(call)
        return self.faults.pop(call, self._sticky)

    def _answer(self, call, *values):
        error = self._begin(call)
        return (error, *(values if error == 0 else (None,) * len(values)))

    def _made(self, call, thing):
        self._open.add(thing)
        return self._answer(call, thing)

    def _release(self, call, living, key):
        self.calls.append(call)
        return (CudaErrorT.cudaErrorInvalidValue if living.pop(key, None) is None else CudaErrorT.cudaSuccess,)

    def _discard(self, call, thing):
        self.calls.append(call)
        if thing not in self._open:
            return (CudaErrorT.cudaErrorInvalidResourceHandle,)
        self._open.remove(thing)
        return (CudaErrorT.cudaSuccess,)

    def _refuse_while_recording(self):
        """Memory and waiting are forbidden in the thread that records, and spoil the graph."""
        recording = [stream for stream in self._streams.values() if stream.recorded is not None]
        for stream in recording:
            stream.is_spoilt = True
        return CudaErrorT.cudaErrorStreamCaptureUnsupported if recording else CudaErrorT.cudaSuccess

    def _work_off(self, stream):
        works, stream.waiting = stream.waiting, []
        try:
            for work in works:
                work()
        except IllegalAddress:
            self._sticky = CudaErrorT.cudaErrorIllegalAddress
        return self._sticky

    def _copy_in(self, dst, src, count):
        self.write(dst, self._host_bytes(src, count))

    def _copy_out(self, dst, src, count):
        self._host_bytes(dst, count)
        ctypes.memmove(dst, self.read(src, count), count)

    def _copy_within(self, dst, src, count):
        self.write(dst, self.read(src, count))

    def _host_bytes(self, address, count):
        """Read host memory, which must be pinned: copies to and from other memory are not asynchronous."""
        if not any(start <= address and address + count <= start + len(m) for start, m in self._host.items()):
            raise IllegalAddress(f"{address:#x} is not pinned")
        return ctypes.string_at(address, count)

    def _find(self, address, size):
        for start, memory in self._device.items():
            if start <= address and address + size <= start + len(memory):
                return memory, address - start
        raise IllegalAddress(f"{address:#x}")


class FakeDriver:
    """Stands in for libcuda.so.1 as ctypes has it, as far as `cuda.require_driver` asks."""

    def __init__(
        self, version=13_000, devices=1, init=0, uuid=bytes(range(16)), name=b"NVIDIA H200", capability=(9, 0)
    ):
        self.calls: list[str] = []
        self._version = version
        self._devices = devices
        self._init = init
        self._uuid = uuid
        self._name = name
        self._capability = capability

    def __call__(self, name):
        """Be loaded."""
        assert name == "libcuda.so.1"
        return self

    def cuInit(self, flags):
        self.calls.append("cuInit")
        return self._init

    def cuDriverGetVersion(self, version):
        self.calls.append("cuDriverGetVersion")
        version._obj.value = self._version
        return 0

    def cuDeviceGetCount(self, count):
        count._obj.value = self._devices
        return 0

    def cuDeviceGet(self, device, ordinal):
        device._obj.value = ordinal
        return 0

    def cuDeviceGetUuid_v2(self, uuid, device):
        uuid._obj[:] = list(self._uuid)
        return 0

    def cuDeviceGetName(self, name, length, device):
        name.value = self._name
        return 0

    def cuDeviceGetAttribute(self, value, attribute, device):
        major, minor = self._capability
        value._obj.value = {75: major, 76: minor}[attribute]
        return 0

    def cuGetErrorName(self, error, name):
        name._obj.value = b"CUDA_ERROR_SYSTEM_DRIVER_MISMATCH"
        return 0


@dataclass
class FakeDriverApi:
    """Stands in for the module `cuda.bindings.driver`: starts one kernel, which takes a time and writes nothing."""

    cuda: FakeCuda
    kernel_ns: int = 5_000_000
    status: int = 0
    launches: list[tuple] = field(default_factory=list)

    def cuModuleLoadData(self, image):
        assert b".entry anchor" in image
        return self.status, "module"

    def cuModuleGetFunction(self, hmod, name):
        assert (hmod, name) == ("module", b"anchor")
        return self.status, "function"

    def cuLaunchKernel(self, f, gx, gy, gz, bx, by, bz, shared, stream, parameters, extra):  # noqa: PLR0917
        results, turns = (ctypes.c_void_p * 2).from_address(parameters)
        address = ctypes.c_uint64.from_address(results).value
        self.launches.append((gx * gy * gz, bx * by * bz, ctypes.c_uint32.from_address(turns).value))
        self.cuda.read(address, gx * bx * 4)  # every thread writes one float
        self.cuda.stream_at(stream).add(self.cuda.run("anchor", self.kernel_ns, lambda: None))
        return (self.status,)


class FakeNvml:
    """Stands in for the module `pynvml`: one card, whose answers are the attributes below; None is "not supported".

    More `names` are more cards, with the same answers but for the limits of power in `limits_of_others`.
    """

    NVML_CLOCK_SM = 1
    NVML_CLOCK_MEM = 2
    NVML_TEMPERATURE_GPU = 0
    NVML_COMPUTEMODE_DEFAULT = 0
    NVML_COMPUTEMODE_PROHIBITED = 2
    NVML_COMPUTEMODE_EXCLUSIVE_PROCESS = 3

    class NVMLError(Exception):
        pass

    def __init__(self, uuid="GPU-00010203-0405-0607-0809-0a0b0c0d0e0f", **answers):
        self.uuid = uuid
        self.has_driver = True
        self.is_open = False
        self.sm_mhz = 1980
        self.memory_mhz = 3201
        self.sm_max_mhz = 1980
        self.memory_max_mhz = 3201
        self.reasons = 0
        self.celsius = 45
        self.milliwatts = 350_000
        self.limit_milliwatts = 700_000
        self.millijoules = 1_000_000
        self.used = 1 << 30
        self.total = H200_BYTES
        self.busy = 0
        self.pids = [4711]
        self.mig = [0, 0]
        self.ecc = [1, 1]
        self.persistence = 1
        self.compute_mode = 0
        self.is_slice = False
        self.names = ["NVIDIA H200"]
        self.at = 0
        """Which of the cards has the UUID."""
        self.limits_of_others = {}
        """In milliwatts, by handle."""
        self.__dict__.update(answers)

    def nvmlInit(self):
        if not self.has_driver:
            raise self.NVMLError("Driver Not Loaded")
        self.is_open = True

    def nvmlShutdown(self):
        self.is_open = False

    def nvmlSystemGetDriverVersion(self):
        return "580.159.04"

    def nvmlDeviceGetCount(self):
        return len(self.names)

    def nvmlDeviceGetHandleByIndex(self, index):
        return f"card {index}" if index else "card"

    def nvmlDeviceGetHandleByUUID(self, uuid):
        if uuid != self.uuid:
            raise self.NVMLError("Not Found")
        return "slice" if self.is_slice else self.nvmlDeviceGetHandleByIndex(self.at)

    def nvmlDeviceIsMigDeviceHandle(self, handle):
        return int(self.is_slice)

    def nvmlDeviceGetDeviceHandleFromMigDeviceHandle(self, migDeviceHandle):
        return "card"

    def nvmlDeviceGetName(self, handle):
        return self._told(self.names[int(handle.removeprefix("card ")) if " " in handle else 0])

    def nvmlDeviceGetUUID(self, handle):
        return self.uuid

    def nvmlDeviceGetMemoryInfo(self, handle):
        return SimpleNamespace(total=self.total, used=self.used, free=self.total - self.used)

    def nvmlDeviceGetComputeRunningProcesses(self, handle):
        return [SimpleNamespace(pid=pid) for pid in self._told(self.pids)]

    def nvmlDeviceGetUtilizationRates(self, handle):
        return SimpleNamespace(gpu=self._card(handle, self.busy), memory=0)

    def nvmlDeviceGetClockInfo(self, handle, type):  # noqa: A002 (its name)
        return self._card(handle, self.sm_mhz if type == self.NVML_CLOCK_SM else self.memory_mhz)

    def nvmlDeviceGetMaxClockInfo(self, handle, type):  # noqa: A002 (its name)
        return self._card(handle, self.sm_max_mhz if type == self.NVML_CLOCK_SM else self.memory_max_mhz)

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle):
        return self._card(handle, self.reasons)

    def nvmlDeviceGetTemperature(self, handle, sensor):
        return self._card(handle, self.celsius)

    def nvmlDeviceGetPowerUsage(self, handle):
        return self._card(handle, self.milliwatts)

    def nvmlDeviceGetEnforcedPowerLimit(self, handle):
        return self._card(handle, self.limits_of_others.get(handle, self.limit_milliwatts))

    def nvmlDeviceGetTotalEnergyConsumption(self, handle):
        return self._card(handle, self.millijoules)

    def nvmlDeviceGetMigMode(self, handle):
        return self._card(handle, self.mig)

    def nvmlDeviceGetEccMode(self, handle):
        return self._card(handle, self.ecc)

    def nvmlDeviceGetPersistenceMode(self, handle):
        return self._card(handle, self.persistence)

    def nvmlDeviceGetComputeMode(self, handle):
        return self._card(handle, self.compute_mode)

    def _card(self, handle, value):
        """Answer for the whole card; a slice has no clocks, heat or power of its own."""
        if handle == "slice":
            raise self.NVMLError("Not Supported")
        return self._told(value)

    def _told(self, value):
        if value is None:
            raise self.NVMLError("Not Supported")
        return value
