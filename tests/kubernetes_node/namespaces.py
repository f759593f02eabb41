"""A machine inside this one: namespaces of its own for network, mounts, processes, host name, and cgroups below one.

Whatever runs there sees the host's files, but /var and /run are its own, and so are its interfaces and firewall rules.
All its processes, containers included, end with their first one, and that one ends with the block that made it, however
the block ends: the kernel takes them down, and mounts, interfaces and rules go with them.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Final

from tests.kubernetes.tools import tail

ADDRESS: Final = "172.31.255.1"
"""The machine's only address besides loopback. Nothing outside it is routed here, so it can clash with nothing."""

NAME: Final = "node1"

CGROUPS: Final = Path("/sys/fs/cgroup")
PREFIX: Final = "inferbench-node-"
"""Beginning of the cgroup's name; the process that made it follows, so that a later one can tell it is gone."""

NUMBERS: Final = count()
"""Machines of this process: while one runs, another one's cgroup comes and goes."""

KERNEL_SETTINGS: Final = (
    "kernel/keys/root_maxbytes",
    "kernel/keys/root_maxkeys",
    "kernel/panic",
    "kernel/panic_on_oops",
    "vm/overcommit_memory",
    "vm/panic_on_oom",
)
"""The kubelet sets these, and they are the whole host's: it is given files that look like them."""

LEAVES_SECONDS: Final = 20
"""How long the kernel may take to end everything and to let go of its cgroups."""

SCRIPT: Final = """
set -eu
mount --make-rshared /
mount -t tmpfs -o mode=755 inferbench-run /run
mkdir -p /run/lock
mount -t overlay -o "lowerdir=/var,upperdir=$STATE/var,workdir=$STATE/work" inferbench-var /var
mkdir -p /var/lib/kubelet /var/lib/cni
mount --bind "$STATE/kubelet" /var/lib/kubelet
for setting in $SETTINGS; do
    [ -e "/proc/sys/$setting" ] || continue
    mkdir -p "$STATE/sys/${setting%/*}"
    cat "/proc/sys/$setting" >"$STATE/sys/$setting"
    mount --bind "$STATE/sys/$setting" "/proc/sys/$setting"
done
hostname "$NAME"
ip link set lo up
ip link add node0 type bridge
ip address add "$ADDRESS/32" dev node0
ip link set node0 up
ip route add default dev node0 # nothing answers there, but services have addresses without a route of their own
trap '' CHLD # as its first process it inherits every orphan, and the kernel buries them
echo ready
exec cat
"""
"""What the first process does: it makes the machine, says so, and lives until its standard input closes."""


class MachineError(Exception):
    """The machine cannot be made; the message says why."""


@dataclass(frozen=True)
class Machine:
    """The namespaces, as something to start programs in."""

    state: Path
    """A folder of its own for all that is written; the same path inside and outside."""
    maker: int
    """Process id, outside, of the one that holds the namespaces."""
    cgroup: str
    """Name of the cgroup, the same in every hierarchy, below which its pods are."""
    services: list[Service] = field(default_factory=list)
    """What was started to stay."""

    @property
    def network(self) -> tuple[str, ...]:
        """The beginning of a command line that runs the rest in the machine's network, otherwise outside."""
        return ("nsenter", f"--net=/proc/{self.maker}/ns/net", "--")

    @property
    def inside(self) -> tuple[str, ...]:
        """The beginning of a command line that runs the rest on the machine, in the root folder."""
        spaces = [f"--{name}=/proc/{self.maker}/ns/{file}" for name, file in SPACES.items()]
        return ("nsenter", *spaces, "--")

    def run(self, *command: object, timeout: float = 120) -> str:
        """Run a program on the machine to its end and return what it prints. Raises MachineError if it fails."""
        line = [*self.inside, *map(str, command)]
        answer = subprocess.run(line, check=False, capture_output=True, text=True, timeout=timeout)
        if answer.returncode != 0:
            text = " ".join(map(str, command))
            raise MachineError(f"{text} ended with status {answer.returncode}: {answer.stderr.strip()}")
        return answer.stdout

    def start(self, name: str, *command: object) -> Service:
        """Start a program that stays as long as the machine; its output goes to a log in the state folder."""
        service = Service(self, name, tuple(map(str, command)))
        self.services.append(service)
        return service.started()


SPACES: Final = {"mount": "mnt", "net": "net", "uts": "uts", "ipc": "ipc", "pid": "pid_for_children"}
"""Options of nsenter with the files under /proc/PID/ns. The maker itself is outside of the processes it holds."""


@dataclass
class Service:
    """A program that stays, on a machine."""

    machine: Machine
    name: str
    command: tuple[str, ...]
    process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> Path:
        """What it printed, over all its starts."""
        return self.machine.state / "logs" / f"{self.name}.log"

    def started(self) -> Service:
        """Start it, now or again."""
        self.log.parent.mkdir(exist_ok=True)
        note = f'echo $$ >"{self._pid_file}"; exec "$0" "$@"'  # inside, where numbers of processes are other ones
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*self.machine.inside, "sh", "-c", note, *self.command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return self

    def kill(self) -> None:
        """End it at once, as a crash does; what it has started lives on."""
        self.machine.run("kill", "-KILL", self._pid_file.read_text().strip())
        if self.process is not None:
            self.process.wait(LEAVES_SECONDS)

    def require_alive(self) -> None:
        """Raise MachineError if it has ended by itself."""
        if self.process is not None and self.process.poll() is not None:
            raise MachineError(f"{self.name} ended with status {self.process.returncode}:\n{tail(self.log)}")

    @property
    def _pid_file(self) -> Path:
        return self.machine.state / "logs" / f"{self.name}.pid"


@contextmanager
def machine(state: Path) -> Iterator[Machine]:
    """Make a machine whose files are in `state`, an empty folder; nothing of it is left after the block.

    Raises:
        MachineError: this is not root's process, or the kernel refuses a step.
    """
    if os.geteuid() != 0:
        raise MachineError("A node needs root: it makes namespaces, mounts and cgroups.")
    _remove_stale_cgroups()
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, state, ignore_errors=True)
        for folder in ("var", "work", "kubelet"):
            (state / folder).mkdir(parents=True)
        cgroup = f"{PREFIX}{os.getpid()}-{next(NUMBERS)}"
        stack.callback(_remove_cgroup, cgroup)
        _make_cgroup(cgroup)
        services: list[Service] = []
        stack.callback(_wait_for, services)
        yield Machine(state, stack.enter_context(_held(state)), cgroup, services)


@contextmanager
def _held(state: Path) -> Iterator[int]:
    """Hold the namespaces by their first process; afterwards it and all others are gone."""
    kinds = ("--net", "--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child", "--mount-proc")
    variables = {"STATE": str(state), "NAME": NAME, "ADDRESS": ADDRESS, "SETTINGS": " ".join(KERNEL_SETTINGS)}
    with subprocess.Popen(
        ["unshare", *kinds, "--propagation=private", "--", "sh", "-c", SCRIPT],
        env={**os.environ, **variables},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C is for whoever made the machine, who then takes it down in order
    ) as holder:
        try:
            if holder.stdout is None or holder.stdout.readline() != "ready\n":
                raise MachineError(f"The machine cannot be made: {holder.communicate()[1].strip()}")
            with _ended(holder.pid):
                yield holder.pid
        finally:
            holder.kill()


@contextmanager
def _ended(holder: int) -> Iterator[None]:
    """End the first process after the block. The kernel lets it go last, after all others of its namespace."""
    first = int(Path(f"/proc/{holder}/task/{holder}/children").read_text())
    process = os.pidfd_open(first)
    try:
        yield
    finally:
        signal.pidfd_send_signal(process, signal.SIGKILL)
        select.select([process], [], [], LEAVES_SECONDS)
        os.close(process)


def _wait_for(services: Iterable[Service]) -> None:
    """Bury the processes that led into the machine, whose other ends are gone."""
    for service in services:
        if service.process is not None:
            service.process.wait(LEAVES_SECONDS)


def _hierarchies() -> list[Path]:
    """Return the roots of cgroup hierarchies: one in version 2, one for each controller in version 1."""
    if (CGROUPS / "cgroup.controllers").exists():
        return [CGROUPS]
    return sorted({folder.resolve() for folder in CGROUPS.iterdir() if (folder / "cgroup.procs").exists()})


def _make_cgroup(name: str) -> None:
    """Make the cgroup everywhere, in version 2 with every controller: the kubelet looks whether it is there."""
    for root in _hierarchies():
        (root / name).mkdir(exist_ok=True)
        if (root / "cgroup.controllers").exists():
            for controller in (root / "cgroup.controllers").read_text().split():
                with suppress(OSError):
                    (root / "cgroup.subtree_control").write_text(f"+{controller}")


def _remove_cgroup(name: str) -> None:
    """Remove the cgroup and all below it, as soon as the kernel has buried the processes in it."""
    deadline = time.monotonic() + LEAVES_SECONDS
    while left := [folder for root in _hierarchies() for folder in _below(root / name)]:
        for folder in left:
            with suppress(OSError):
                folder.rmdir()
        if time.monotonic() > deadline:
            return
        time.sleep(0.02)


def _below(folder: Path) -> list[Path]:
    """Return a folder and all folders in it, the innermost first; nothing if it is not there."""
    return [Path(path) for path, _, _ in os.walk(folder, topdown=False)]


def _remove_stale_cgroups() -> None:
    """Remove what a process left that could not take its machine down, because it was killed."""
    for root in _hierarchies():
        for folder in root.glob(f"{PREFIX}*"):
            if not Path("/proc", folder.name.removeprefix(PREFIX).partition("-")[0]).exists():
                for each in _below(folder):
                    with suppress(OSError):
                        each.rmdir()
