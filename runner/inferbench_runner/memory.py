"""How near a process is to the memory that it may have: it is ended before the kernel ends the whole container."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from inferbench_runner import circumstances

LIMIT = "INFERBENCH_MEMORY_LIMIT_MIB"
"""Environment variable: what a cell process may take, where it should be less than the container or the machine has."""

NEAR = 0.95
"""The kernel kills at the limit, and kills all of a container's processes; the watch only looks now and then."""

MEBIBYTE = 1 << 20


@dataclass(frozen=True, slots=True)
class Usage:
    """What a process tree holds and may hold, and what the container or the machine around it has left of its own."""

    taken: int
    limit: int
    around_left: int
    around_limit: int

    @property
    def left(self) -> float:
        """What the process can still take before it is near a limit."""
        return min(NEAR * self.limit - self.taken, self.around_left - (1 - NEAR) * self.around_limit)

    @property
    def is_near_limit(self) -> bool:
        """Tell whether the process must be ended now."""
        return self.left <= 0


def usage(pid: int, environment: Mapping[str, str] = os.environ, root: Path = circumstances.ROOT) -> Usage | None:
    """Look at a process and its descendants. None where there is no /proc, or the process has ended."""
    taken = sum(_own_bytes(each, root) for each in _tree(pid, root))
    around = _around(root)
    if taken == 0 or around is None:
        return None
    limit, used = around
    return Usage(taken, min(limit, _given(environment) or limit), limit - used, limit)


def kernel_kills(root: Path = circumstances.ROOT) -> int:
    """Count the processes that the kernel has killed for want of memory on this machine; it does not say which."""
    fields = (line.split() for line in circumstances.read_text(root / "proc/vmstat").splitlines())
    return next((int(words[1]) for words in fields if words[0] == "oom_kill"), 0)


def _given(environment: Mapping[str, str]) -> int | None:
    text = environment.get(LIMIT, "")
    return int(text) * MEBIBYTE if text.isdecimal() else None


def _around(root: Path) -> tuple[int, int] | None:
    """Return limit and use of the cgroup where it has a limit, else of the machine; None where neither is told."""
    total, available = circumstances.memory_total_bytes(root), circumstances.memory_available_bytes(root)
    limit, used = circumstances.memory_limit_bytes(root), circumstances.memory_used_bytes(root)
    if limit is not None and used is not None and (total is None or limit < total):
        return limit, used
    return None if total is None or available is None else (total, total - available)


def _tree(pid: int, root: Path) -> list[int]:
    """Return a process and its descendants; compilers run as children."""
    found = [pid]
    for parent in found:
        for children in (root / f"proc/{parent}/task").glob("*/children"):
            found += [int(child) for child in circumstances.read_text(children).split()]
    return found


def _own_bytes(pid: int, root: Path) -> int:
    """Return the memory that the end of a process frees: not pages of files, which the kernel drops as it likes.

    Sandboxes whose kernel is a program (gVisor) tell only the sum.
    """
    status = root / f"proc/{pid}/status"
    anonymous = circumstances.bytes_told(status, "RssAnon")
    if anonymous is None:
        return circumstances.bytes_told(status, "VmRSS") or 0
    return anonymous + (circumstances.bytes_told(status, "RssShmem") or 0)
