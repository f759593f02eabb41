"""A machine inside this one leaves nothing behind, whatever becomes of it, and changes nothing of the host."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kubernetes.client import eventually
from tests.kubernetes_node import namespaces
from tests.kubernetes_node.namespaces import KERNEL_SETTINGS, MachineError, machine

pytestmark = pytest.mark.usefixtures("root")

MARK = "inferbench-test-of-machine"


def host():
    """Return what of the host a node could change: mounts, interfaces, rules, kernel settings, cgroups of ours."""
    settings = [Path("/proc/sys", name) for name in KERNEL_SETTINGS]
    return {
        "mounts": Path("/proc/self/mounts").read_text(),
        "interfaces": subprocess.check_output(["ip", "-brief", "link"], text=True),
        "rules": subprocess.check_output(["iptables-save"], text=True).splitlines()[1:-1],
        "settings": {file: file.read_text() for file in settings if file.exists()},
        "cgroups": [each.name for each in namespaces.CGROUPS.glob(f"**/{namespaces.PREFIX}{os.getpid()}-*")],
    }


def processes():
    """Return the processes that were started by these tests on a machine."""
    lines = Path("/proc").glob("[0-9]*/cmdline")
    return [line for line in lines if MARK.encode() in _read(line)]


def _read(file):
    try:
        return file.read_bytes()
    except OSError:
        return b""


def busy(place):
    """Do on a machine what a node does: mounts, an interface, a rule, kernel settings, a process that stays."""
    place.run("mount", "-t", "tmpfs", "some", place.state / "var")
    place.run("ip", "link", "add", "pods0", "type", "bridge")
    place.run("iptables", "-t", "nat", "-N", "KUBE-TEST")
    place.run("sh", "-c", "echo 77 >/proc/sys/kernel/panic")
    place.start(MARK, "sh", "-c", f": {MARK}; setsid sleep 1000 & wait")
    place.run("sh", "-c", "mkdir -p /var/lib/cni/of-a-node /run/of-a-node")
    eventually(processes, what="a process on the machine")


def test_when_the_block_ends_nothing_is_left_and_nothing_has_changed(tmp_path):
    before = host()

    with machine(tmp_path / "machine") as place:
        busy(place)

    assert host() == before
    assert processes() == []
    assert not (tmp_path / "machine").exists()
    assert not Path("/var/lib/cni/of-a-node").exists()


def test_an_error_inside_the_block_leaves_nothing_either(tmp_path):
    before = host()

    def fail():
        with machine(tmp_path / "machine") as place:
            busy(place)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()

    assert host() == before
    assert processes() == []


def test_a_machine_that_cannot_be_made_says_why_and_leaves_nothing(tmp_path):
    """The kernel separates the options of a mount by commas, so it does not find this folder."""
    before = host()

    with pytest.raises(MachineError, match="cannot be made: mount"), machine(tmp_path / "a,b"):
        pass

    assert host() == before
    assert not (tmp_path / "a,b").exists()


def test_killing_the_one_that_made_it_ends_every_process_on_it(tmp_path):
    program = f"""
from pathlib import Path
from tests.e2e.test_machine import busy
from tests.kubernetes_node.namespaces import machine
with machine(Path({str(tmp_path / "machine")!r})) as place:
    busy(place)
    print("busy", flush=True)
    time.sleep(1000)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as maker:
        assert maker.stdout.readline() == "busy\n"

        maker.send_signal(signal.SIGKILL)

    eventually(lambda: not processes(), what="an end of all processes")
    with machine(tmp_path / "next"):
        pass
    assert not list(namespaces.CGROUPS.glob(f"**/{namespaces.PREFIX}{maker.pid}-*"))


def test_a_service_that_was_killed_can_be_started_again(tmp_path):
    with machine(tmp_path / "machine") as place:
        service = place.start("sleeper", "sleep", "1000")
        eventually(lambda: "sleep" in place.run("ps", "-eo", "comm"), what="the service")

        service.kill()

        assert "sleep" not in place.run("ps", "-eo", "comm")
        service.started()
        eventually(lambda: "sleep" in place.run("ps", "-eo", "comm"), what="the service")
        service.require_alive()
