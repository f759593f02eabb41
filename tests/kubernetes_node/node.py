"""Runs a whole cluster of one node: the control plane of tests/kubernetes, containerd, the kubelet and kube-proxy.

    with node(folder, images.layout(*images.SUITE)) as it:
        it.plane.kubectl().apply(...)

All of it is in a machine of its own (namespaces.py). The API server has the same port inside and, through a door,
outside, so that one kubeconfig serves both.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from tests.kubernetes import tools
from tests.kubernetes.client import eventually
from tests.kubernetes.control_plane import APISERVER, ControlPlane, Settings
from tests.kubernetes_node import images
from tests.kubernetes_node.door import door
from tests.kubernetes_node.namespaces import ADDRESS, CGROUPS, NAME, Machine, MachineError, Service, machine

PROGRAMS: Final = ("containerd", "ctr", "runc", "iptables", "conntrack", "ip", "nsenter", "unshare", "setpriv", "tar")
PLUGINS: Final = Path("/usr/lib/cni")
SOCKET: Final = "/run/containerd/containerd.sock"

PODS: Final = "10.244.0.0/24"
"""Addresses of pods; they exist in the machine alone."""

READY_SECONDS: Final = 60
"""A node is ready about four seconds after its first process."""

UNPACKED_RATIO: Final = 3
"""How much a node takes for its images over what they take in a layout, with room for what containers write."""

CONTAINERD: Final = """
version = 2
root = "{state}/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.internal.v1.opt"] # it makes /opt/containerd on the host
[debug]
  level = "warn"
[grpc]
  address = "{socket}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  disable_apparmor = true
  restrict_oom_score_adj = true # a container's root may lack the right to ask the kernel for a lower score than its own
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{plugins}"
    conf_dir = "{state}/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
"""

NETWORK: Final = {
    "cniVersion": "0.4.0",
    "name": "pods",
    "plugins": [
        {
            "type": "bridge",
            "bridge": "pods0",
            "isGateway": True,
            "ipMasq": True,
            "hairpinMode": True,
            "ipam": {"type": "host-local", "ranges": [[{"subnet": PODS}]], "routes": [{"dst": "0.0.0.0/0"}]},
        },
        {"type": "portmap", "capabilities": {"portMappings": True}},
    ],
}


@dataclass(frozen=True)
class Node:
    """A node and its cluster, while they run."""

    machine: Machine
    plane: ControlPlane
    containerd: Service
    kubelet: Service
    kube_proxy: Service

    def load(self, layout: Path) -> None:
        """Import the images of a folder that `images.layout` made."""
        pack = subprocess.Popen(["tar", "-C", str(layout), "-cf", "-", "."], stdout=subprocess.PIPE)
        take = [*self.machine.inside, *_ctr("images", "import", "-")]
        with pack, subprocess.Popen(take, stdin=pack.stdout, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as taker:
            _, said = taker.communicate()
        if pack.returncode != 0 or taker.returncode != 0:
            raise MachineError(f"The images in {layout} cannot be imported: {said.decode().strip()}")

    def ctr(self, *arguments: str) -> str:
        """Run containerd's own client and return what it prints."""
        return self.machine.run(*_ctr(*arguments))

    def kill_for_want_of_memory(self, pod: Mapping[str, Any], container: str = "runner") -> None:
        """End a container as the kernel of a cgroup v2 machine does when memory is out: whole, whoever took too much.

        With cgroup v1 the kernel kills one process alone, and tells the container's runtime all the same. So a process
        is led into the container that eats until it is killed, and the container's others are killed for it. Its first
        process is stopped before, for a runner would see what happens and save itself.
        """
        first = self.process_of(pod, container)
        self.machine.run("kill", "-STOP", first)
        groups = self.machine.run("cat", f"/proc/{first}/cgroup").splitlines()
        eat = f'echo $$ >"{_memory_group(groups)}/cgroup.procs"; exec tail /dev/zero'
        self.machine.run("sh", "-c", f'sh -c "$0" || [ $? -eq {128 + signal.SIGKILL} ]', eat)
        self.ctr("task", "kill", "--all", "--signal", "SIGKILL", _container_id(pod, container))

    def process_of(self, pod: Mapping[str, Any], container: str = "runner") -> int:
        """Return the first process of a container, by its number inside the machine."""
        wanted = _container_id(pod, container)
        rows = (line.split() for line in self.ctr("task", "list").splitlines())
        return next(int(row[1]) for row in rows if row[0] == wanted)

    def door(self, address: str, port: int, outside: int = 0) -> AbstractContextManager[int]:
        """Open a door to an address inside; the block has the port outside."""
        return door(self.machine, address, port, outside)


def missing() -> str:
    """Say what this machine lacks to run a node; nothing if it lacks nothing."""
    absent = [program for program in PROGRAMS if shutil.which(program) is None]
    absent += [] if (PLUGINS / "bridge").exists() else ["the plug-ins of containernetworking-plugins"]
    return f"{', '.join(absent)} not found. Install what real pods need: make e2e-setup" if absent else ""


@contextmanager
def node(state: Path, layout: Path, settings: Settings | None = None) -> Iterator[Node]:
    """Start a cluster with these images; it is ready when the block begins, and gone without residue after it.

    Raises:
        MachineError: a program is missing or a step failed; with the end of the log that says why.
        ControlPlaneError: the same of the control plane.
    """
    if lack := missing():
        raise MachineError(lack)
    with machine(state) as place, _control_plane(place, settings or Settings()) as plane:
        _store_images_in_memory_if_there_is_plenty(place, layout)
        containerd = _containerd(place)  # first and alone: a kubelet that finds nobody at its socket ends
        _wait([containerd], lambda: "Server:" in place.run(*_ctr("version")), "containerd")
        made = Node(place, plane, containerd, _kubelet(place, plane), _kube_proxy(place, plane))
        made.load(layout)
        services = [made.containerd, made.kubelet, made.kube_proxy]
        _wait(services, lambda: _is_ready(plane), "the node")
        _wait(services, lambda: "default/kubernetes:https" in place.run("iptables-save", "-t", "nat"), "kube-proxy")
        yield made


@contextmanager
def _control_plane(place: Machine, settings: Settings) -> Iterator[ControlPlane]:
    """Run the control plane in the machine's network, at a port that leads there from outside too."""
    with ExitStack() as stack:
        port = stack.enter_context(door(place, ADDRESS))
        inside = {"bind_address": "0.0.0.0", "advertise_address": ADDRESS, "port": port, "prefix": place.network}
        by_address = "--kubelet-preferred-address-types=InternalIP"  # nobody there knows the node by its name
        arguments = {**settings.arguments, APISERVER: (*settings.arguments.get(APISERVER, ()), by_address)}
        chosen = replace(settings, **inside, arguments=arguments)
        yield stack.enter_context(ControlPlane(place.state / "control-plane", chosen))


def _store_images_in_memory_if_there_is_plenty(place: Machine, layout: Path) -> None:
    """Unpacking images is writing ten thousands of files and, at the end, removing them: a disk takes half a minute."""
    wanted = UNPACKED_RATIO * sum(file.stat().st_size for file in layout.rglob("*") if file.is_file())
    memory = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    available = 1024 * int(memory["MemAvailable"].split()[0])
    (place.state / "containerd").mkdir()
    if wanted < available / 2:
        place.run("mount", "-t", "tmpfs", "-o", "mode=711", "inferbench-images", place.state / "containerd")


def _containerd(place: Machine) -> Service:
    _write(place.state / "cni" / "pods.conflist", json.dumps(NETWORK))
    content = CONTAINERD.format(state=place.state, socket=SOCKET, pause=images.PAUSE, plugins=PLUGINS)
    config = _write(place.state / "containerd.toml", content)
    return place.start("containerd", "containerd", "--config", config)


def _kubelet(place: Machine, plane: ControlPlane) -> Service:
    config = _write(place.state / "kubelet.json", json.dumps(_kubelet_configuration(place)))
    _write(place.state / "resolv.conf", "")
    arguments = (f"--config={config}", f"--kubeconfig={plane.kubeconfig('node')}", f"--hostname-override={NAME}")
    return place.start("kubelet", tools.tool("kubelet"), *arguments, f"--node-ip={ADDRESS}")


def _kubelet_configuration(place: Machine) -> Mapping[str, Any]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        # Its port is in the machine's network, which only root enters.
        "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
        "authorization": {"mode": "AlwaysAllow"},
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{place.cgroup}",
        "clusterDNS": [ADDRESS],  # nothing answers there: what runs here finds its services by their address
        "clusterDomain": "cluster.local",
        "containerRuntimeEndpoint": f"unix://{SOCKET}",
        # The host's disk is as full as it is; pods are not evicted for that, nor are images that cannot come again.
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        "imageGCHighThresholdPercent": 100,
        "failCgroupV1": False,
        "failSwapOn": False,
        "oomScoreAdj": 0,
        "resolvConf": str(place.state / "resolv.conf"),
        "volumePluginDir": str(place.state / "volume-plugins"),
    }


def _kube_proxy(place: Machine, plane: ControlPlane) -> Service:
    configuration = {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "iptables",
        "clusterCIDR": PODS,
        "clientConnection": {"kubeconfig": str(plane.kubeconfig("kube-proxy"))},
        "conntrack": {"maxPerCore": 0, "min": 0},  # the size of that table is the whole host's
        "hostnameOverride": NAME,
    }
    config = _write(place.state / "kube-proxy.json", json.dumps(configuration))
    return place.start("kube-proxy", tools.tool("kube-proxy"), f"--config={config}")


def _is_ready(plane: ControlPlane) -> bool:
    conditions = plane.api().get(f"/api/v1/nodes/{NAME}")["status"]["conditions"]
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def _wait(services: Sequence[Service], is_so: Callable[[], bool], what: str) -> None:
    """Wait until something works, and complain at once of a service that has ended."""

    def look() -> bool:
        for service in services:
            service.require_alive()
        try:
            return bool(is_so())
        except MachineError:  # it does not answer yet
            return False

    try:
        eventually(look, READY_SECONDS, what)
    except AssertionError as error:
        logs = "\n".join(f"{each.log}:\n{tools.tail(each.log)}" for each in services)
        raise MachineError(f"{error}\n{logs}") from error


def _ctr(*arguments: str) -> tuple[str, ...]:
    return ("ctr", "--address", SOCKET, "--namespace", "k8s.io", *arguments)


def _memory_group(lines: Sequence[str]) -> Path:
    """Return the folder of a memory cgroup, of lines like `4:memory:/...` or, in version 2, the only one, `0::/...`."""
    names = {controllers: path for _, controllers, path in (line.split(":", 2) for line in lines)}
    return CGROUPS / f"memory{names['memory']}" if "memory" in names else CGROUPS / names[""].lstrip("/")


def _container_id(pod: Mapping[str, Any], container: str) -> str:
    statuses = pod["status"]["containerStatuses"]
    found: str = next(each["containerID"] for each in statuses if each["name"] == container)
    return found.removeprefix("containerd://")


def _write(file: Path, text: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    file.chmod(0o600)
    return file
