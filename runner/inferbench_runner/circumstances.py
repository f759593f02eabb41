"""What else happens on this machine, and how much of it is ours: reads /proc and cgroups (version 1 or 2).

Linux tells most; where a file is missing (macOS, a bare container) the answer is None or "nothing was seen", never an
error. Every function takes the root of the file system, so that a folder can stand in for a machine.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/")

NO_LIMIT_BYTES = 1 << 60
"""cgroup v1 writes "no limit" as the largest multiple of a page; nothing real is this large."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Counters that only rise, as they stand now. Ticks are those of /proc/stat, 10 ms of one CPU as a rule."""

    total_ticks: int = 0
    """Of all CPUs together, idle or not."""
    busy_ticks: int = 0
    """Spent in any process or interrupt on this machine."""
    steal_ticks: int = 0
    """The hypervisor ran somebody else while a CPU of this machine had work."""
    own_ticks: int = 0
    """Spent in this process and its descendants."""
    throttled_periods: int = 0
    """Periods in which a CPU quota ran out, in this cgroup and those around it."""
    throttled_us: int = 0


@dataclass(frozen=True, slots=True)
class Disturbance:
    """What happened between two snapshots."""

    total_ticks: int = 0
    others_ticks: int = 0
    """Spent in processes that are not ours. The process that started us is one of them: it disturbs no less."""
    steal_ticks: int = 0
    throttled_periods: int = 0
    throttled_us: int = 0

    @property
    def taken_ticks(self) -> int:
        """What others took, in this machine or beside it on the host."""
        return self.others_ticks + self.steal_ticks


def snapshot(root: Path = ROOT) -> Snapshot:
    """Read all counters. Takes some milliseconds, more where many processes run: never between timed calls."""
    times = _cpu_times(root)
    throttling = [_numbers(folder / "cpu.stat") for folder in cgroup_folders("cpu", root)]
    return Snapshot(
        total_ticks=sum(times.values()),
        busy_ticks=sum(times.get(kind, 0) for kind in ("user", "nice", "system", "irq", "softirq")),
        steal_ticks=times.get("steal", 0),
        own_ticks=_own_ticks(root),
        throttled_periods=sum(stat.get("nr_throttled", 0) for stat in throttling),
        throttled_us=sum(stat.get("throttled_usec", stat.get("throttled_time", 0) // 1000) for stat in throttling),
    )


def difference(before: Snapshot, after: Snapshot) -> Disturbance:
    """Tell what happened in between. Counters of two files never agree to the tick, so nothing is below zero."""
    own = after.own_ticks - before.own_ticks
    return Disturbance(
        total_ticks=max(0, after.total_ticks - before.total_ticks),
        others_ticks=max(0, after.busy_ticks - before.busy_ticks - own),
        steal_ticks=max(0, after.steal_ticks - before.steal_ticks),
        throttled_periods=max(0, after.throttled_periods - before.throttled_periods),
        throttled_us=max(0, after.throttled_us - before.throttled_us),
    )


def process_age_ms(root: Path = ROOT) -> int | None:
    """Return how long ago this process was started, to 10 ms: its imports count, which no clock of its own saw."""
    uptime, own = read_text(root / "proc/uptime").split(), read_text(root / "proc/self/stat").rpartition(")")[2].split()
    if not uptime or len(own) < 20:
        return None
    started_s = int(own[19]) / os.sysconf("SC_CLK_TCK")
    return max(0, round(1000 * (float(uptime[0]) - started_s)))


def threads_default(root: Path = ROOT) -> int:
    """Return how many threads can really run at once: the CPUs this process may use, within the cgroup's quota."""
    quota = quota_milli_cpus(root)
    allowed = len(affinity(root))
    return allowed if quota is None else min(allowed, -(-quota // 1000))


def affinity(root: Path = ROOT) -> tuple[int, ...]:
    """List the CPUs that this process may run on; all of them where the system does not say."""
    allowed = _fields(root / "proc/self/status").get("Cpus_allowed_list", "")
    return _cpu_list(allowed) or tuple(range(os.cpu_count() or 1))


def quota_milli_cpus(root: Path = ROOT) -> int | None:
    """Return the tightest CPU quota around this process in thousandths of a CPU, at least 1; None without one."""
    quotas = [quota for folder in cgroup_folders("cpu", root) if (quota := _quota(folder)) is not None]
    return min(quotas, default=None)


def memory_limit_bytes(root: Path = ROOT) -> int | None:
    """Return the tightest memory limit of the cgroups around this process; None without one."""
    return min((limit for limit, _ in _memory_limits(root)), default=None)


def memory_used_bytes(root: Path = ROOT) -> int | None:
    """Return what counts against `memory_limit_bytes`, less the file pages, which the kernel drops before it kills.

    Active ones too: a model that is mapped into memory is all active, and costs nothing but reading it again. (The
    kubelet's "working set" counts them, for it judges who is to be evicted.) None without a limit.
    """
    for _, folder in sorted(_memory_limits(root))[:1]:
        stat = _numbers(folder / "memory.stat")
        droppable = sum(stat.get(f"total_{kind}", stat.get(kind, 0)) for kind in ("inactive_file", "active_file"))
        for name in ("memory.current", "memory.usage_in_bytes"):
            if (used := _number(folder / name)) is not None:
                return max(0, used - droppable)
    return None


def memory_total_bytes(root: Path = ROOT) -> int | None:
    """Return the memory of the machine."""
    return bytes_told(root / "proc/meminfo", "MemTotal")


def memory_available_bytes(root: Path = ROOT) -> int | None:
    """Return what programs can still take on the machine without swapping."""
    return bytes_told(root / "proc/meminfo", "MemAvailable")


def load_average_milli(root: Path = ROOT) -> int | None:
    """Return the load of the last minute in thousandths: how many wanted to run."""
    words = read_text(root / "proc/loadavg").split()
    return round(float(words[0]) * 1000) if words else None


def governor(root: Path = ROOT) -> str | None:
    """Name the frequency governors of the CPUs that this process may use; None where the system hides them."""
    folder = root / "sys/devices/system/cpu"
    names = {read_text(folder / f"cpu{cpu}/cpufreq/scaling_governor").strip() for cpu in affinity(root)}
    return ",".join(sorted(names - {""})) or None


def cgroup_folders(controller: str, root: Path = ROOT) -> tuple[Path, ...]:
    """List the folders of the cgroups around this process that a controller rules, the innermost first.

    A container without a cgroup namespace is told its path on the host but sees its own cgroup as the root, so folders
    that are not there are passed over.
    """
    paths = dict(_cgroup_paths(root))
    mount = root / "sys/fs/cgroup"
    unified = (mount / "cgroup.controllers").exists()
    mount, path = (mount, paths.get("")) if unified else (mount / controller, paths.get(controller))
    if path is None:
        return ()
    inner = mount / path.lstrip("/")
    around = [inner, *inner.parents]
    return tuple(folder for folder in around[: around.index(mount) + 1] if folder.is_dir())


def _cgroup_paths(root: Path) -> Iterator[tuple[str, str]]:
    """Yield controller and path; version 2 has one line, without a controller."""
    for line in read_text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            yield controller, path


def _memory_limits(root: Path) -> Iterator[tuple[int, Path]]:
    """Yield each limit around this process with the cgroup that has it."""
    for folder in cgroup_folders("memory", root):
        for name in ("memory.max", "memory.limit_in_bytes"):
            limit = _number(folder / name)
            if limit is not None and limit < NO_LIMIT_BYTES:
                yield limit, folder


def _quota(folder: Path) -> int | None:
    """Read `200000 100000` or `max 100000` (version 2), or two files of which the first may hold -1 (version 1)."""
    words = read_text(folder / "cpu.max").split()
    if not words:
        words = [read_text(folder / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period")]
    if len(words) != 2 or not all(word.isdecimal() for word in words):
        return None
    return max(1, int(words[0]) * 1000 // int(words[1]))


def _cpu_times(root: Path) -> Mapping[str, int]:
    """Read the line of all CPUs in /proc/stat. The two `guest` columns are part of `user` and `nice`."""
    words = read_text(root / "proc/stat").partition("\n")[0].split()
    kinds = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")
    return dict(zip(kinds, map(int, words[1:]), strict=False))


def _own_ticks(root: Path) -> int:
    """Add up this process, its living descendants, and the dead ones that each of them has waited for."""
    own = _process(root / "proc/self/stat")
    if own is None:
        return 0
    children: dict[int, list[_Process]] = {}
    for path in (root / "proc").glob("[0-9]*/stat"):
        if (process := _process(path)) is not None:
            children.setdefault(process.parent, []).append(process)
    family = [own]
    for member in family:
        family += children.get(member.pid, [])
    return sum(member.ticks for member in family)


@dataclass(frozen=True, slots=True)
class _Process:
    pid: int
    parent: int
    ticks: int


def _process(path: Path) -> _Process | None:
    """Read a process's stat; None when it has just ended. Its name may hold spaces and brackets: proc_pid_stat(5)."""
    head, bracket, tail = read_text(path).rpartition(")")
    if not bracket:
        return None
    words = tail.split()
    return _Process(pid=int(head.split()[0]), parent=int(words[1]), ticks=sum(map(int, words[11:15])))


def _cpu_list(text: str) -> tuple[int, ...]:
    """Read `0-3,8`."""
    ranges = [part.partition("-") for part in text.split(",") if part]
    return tuple(cpu for first, _, last in ranges for cpu in range(int(first), int(last or first) + 1))


def _fields(path: Path) -> Mapping[str, str]:
    """Read lines of `name: value`; the first of a name counts."""
    pairs = (line.partition(":") for line in reversed(read_text(path).splitlines()))
    return {name.strip(): value.strip() for name, _, value in pairs}


def _numbers(path: Path) -> Mapping[str, int]:
    """Read lines of `name number`."""
    words = (line.split() for line in read_text(path).splitlines())
    return {pair[0]: int(pair[1]) for pair in words if len(pair) == 2}


def _number(path: Path) -> int | None:
    text = read_text(path).strip()
    return int(text) if text.isdecimal() else None


def bytes_told(path: Path, name: str) -> int | None:
    """Read a line `name: 16 kB` of a file of /proc, in bytes; None where there is none."""
    number = _fields(path).get(name, "").removesuffix("kB").strip()
    return int(number) * 1024 if number.isdecimal() else None


def read_text(path: Path) -> str:
    """Read a file of the kernel; empty when it is missing, forbidden, or its process has just ended."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
