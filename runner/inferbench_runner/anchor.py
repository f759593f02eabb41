"""The anchor probe: the same piece of work each time (`python -m inferbench_runner.anchor ANSWER`).

It needs CUDA's bindings and imports little else, because it runs between all cells. It is a process of its own that is
gone before the next cell starts: a context that waits beside a cell would take memory from it, and keep it out of a
card that only one process may use.
"""

from __future__ import annotations

import ctypes
import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from inferbench_contract.errors import EnvironmentFault
from inferbench_runner import cuda, lifeline, sinks
from inferbench_runner.clocks import HOST_CLOCK, Clock

WARM_NS: Final = 150_000_000
TIMED_NS: Final = 150_000_000
"""0.3 s together (benchtools.md 4.5). The clocks have fallen while the last cell ended, and rise within some 10 ms."""

KERNEL: Final = b"""
.version 7.0
.target sm_75
.address_size 64

.visible .entry anchor(.param .u64 results, .param .u32 turns)
{
    .reg .pred %more;
    .reg .b32 %turn, %block, %threads, %thread;
    .reg .b64 %address, %offset;
    .reg .f32 %a, %b, %c, %d, %x, %y;

    ld.param.u64 %address, [results];
    ld.param.u32 %turn, [turns];
    mov.u32 %block, %ctaid.x;
    mov.u32 %threads, %ntid.x;
    mov.u32 %thread, %tid.x;
    mad.lo.u32 %thread, %block, %threads, %thread;
    cvt.rn.f32.u32 %a, %thread;
    mov.f32 %b, %a;
    mov.f32 %c, %a;
    mov.f32 %d, %a;
    mov.f32 %x, 0f3F7FFFEF;
    mov.f32 %y, 0f3A83126F;
again:
    fma.rn.f32 %a, %a, %x, %y;
    fma.rn.f32 %b, %b, %x, %y;
    fma.rn.f32 %c, %c, %x, %y;
    fma.rn.f32 %d, %d, %x, %y;
    sub.u32 %turn, %turn, 1;
    setp.ne.u32 %more, %turn, 0;
    @%more bra again;

    add.f32 %a, %a, %b;
    add.f32 %c, %c, %d;
    add.f32 %a, %a, %c;
    mul.wide.u32 %offset, %thread, 4;
    cvta.to.global.u64 %address, %address;
    add.u64 %address, %address, %offset;
    st.global.f32 [%address], %a;
    ret;
}
"""
"""Four chains of multiply-adds and nothing else: its time is that of the multiprocessors' clock. As text, so that the
driver compiles it for whatever card there is, and no compiler need be installed. x = 1 - 2^-20, y = 0.001."""

TURNS: Final = 250_000
"""About 5 ms at 2 GHz: a scheduler has 8 warps, each of 4 multiply-adds and one instruction for the loop: 40 cycles."""
THREADS: Final = 256
BLOCKS_PER_MULTIPROCESSOR: Final = 4
FLOAT_BYTES: Final = 4

COPY_BYTES: Final = 256 << 20
"""Several times the largest cache of a card (60 MB in an H200, 96 MB in an RTX 4090)."""
COPY_SHARE: Final = 1 / 8
"""Of the free memory, for each of two buffers, where the card is small or full."""


def measure(device: cuda.Device, driver: Any, clock: Clock = HOST_CLOCK) -> tuple[int, int]:
    """Do the fixed work again and again; return the medians of computing and copying, in nanoseconds."""
    stream, marks = device.stream(), [device.event() for _ in range(3)]
    compute = _kernel(device, driver, stream)
    size_bytes = min(COPY_BYTES, int(device.free_bytes() * COPY_SHARE))
    target, source = device.buffer(size_bytes), device.buffer(size_bytes)

    def once() -> tuple[int, int]:
        stream.mark(marks[0])
        compute()
        stream.mark(marks[1])
        stream.copy(target, source)
        stream.mark(marks[2])
        stream.synchronize()
        return device.elapsed_ns(marks[0], marks[1]), device.elapsed_ns(marks[1], marks[2])

    _repeat(once, clock() + WARM_NS, clock)
    computing, copying = zip(*_repeat(once, clock() + TIMED_NS, clock), strict=True)
    return round(statistics.median(computing)), round(statistics.median(copying))


def main(arguments: list[str]) -> int:
    """Do the fixed work and write what it took; 0 if that went well."""
    lifeline.hold()
    try:
        cuda.require_driver()
        from cuda.bindings import driver

        with cuda.open_device() as device:
            compute_ns, copy_ns = measure(device, driver)
    except (EnvironmentFault, RuntimeError, ImportError) as error:
        print(error, file=sys.stderr)  # noqa: T201 (the supervisor keeps it)
        return 1
    answer = {"computeNanoseconds": compute_ns, "copyNanoseconds": copy_ns}
    sinks.write_whole(Path(arguments[0]), json.dumps(answer).encode())
    return 0


def _kernel(device: cuda.Device, driver: Any, stream: cuda.Stream) -> Callable[[], None]:
    """Return a function that starts the fixed kernel, on as many blocks as fill the card."""
    module = _ask("cuModuleLoadData", driver.cuModuleLoadData(KERNEL))
    function = _ask("cuModuleGetFunction", driver.cuModuleGetFunction(module, b"anchor"))
    blocks = BLOCKS_PER_MULTIPROCESSOR * device.properties().multiprocessors
    results = ctypes.c_uint64(device.buffer(blocks * THREADS * FLOAT_BYTES).address)
    turns = ctypes.c_uint32(TURNS)
    arguments = (ctypes.c_void_p * 2)(ctypes.addressof(results), ctypes.addressof(turns))
    kept = (results, turns, arguments)

    def start() -> None:
        address = ctypes.addressof(kept[-1])
        answer = driver.cuLaunchKernel(function, blocks, 1, 1, THREADS, 1, 1, 0, stream.address, address, 0)
        _ask("cuLaunchKernel", answer)

    return start


def _ask(call: str, answer: tuple[Any, ...]) -> Any:
    status, *values = answer
    if int(status) != 0:
        raise cuda.CudaError(f"{call}: {getattr(status, 'name', status)}")
    return values[0] if values else None


def _repeat(once: Callable[[], tuple[int, int]], until_ns: int, clock: Clock) -> list[tuple[int, int]]:
    """Do it at least once, and until the time is over."""
    found = [once()]
    while clock() < until_ns:
        found.append(once())
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
