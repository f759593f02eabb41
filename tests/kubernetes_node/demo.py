"""The demonstration on a cluster that is started for it: `python -m tests.kubernetes_node.demo up`, later `down`.

`up` builds what is missing, starts a real Kubernetes with one node and Prometheus, installs the chart, applies
examples/cluster/demo.yaml, shows how it goes and what came out, and leaves all of it running; `down` takes it away.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import yaml

from tests.e2e import manifests
from tests.kubernetes import tools
from tests.kubernetes.control_plane import ControlPlaneError
from tests.kubernetes.kubectl import Kubectl, KubectlError
from tests.kubernetes_node import images
from tests.kubernetes_node.images import ROOT, ImageError
from tests.kubernetes_node.namespaces import MachineError
from tests.kubernetes_node.node import missing, node
from tests.kubernetes_node.prometheus import Prometheus, prometheus

BENCHMARK: Final = ROOT / "examples/cluster/demo.yaml"
CHART: Final = ROOT / "charts/inferbench"
RELEASE, SYSTEM, NAMESPACE, NAME = "inferbench", "inferbench-system", "demo", "demo"

PYTHON_OF_BASE: Final = "3.11"
"""Debian bookworm's, over which the images are built."""

PYTHON_FOLDER: Final = "python-"
"""Beginning of the name of the folder with torch; a hash of the lock follows."""

START_SECONDS: Final = 600
"""Unpacking the whole runner image, 7 GB, takes most of it."""
FINISH_SECONDS: Final = 1_800
"""The measurement takes about five minutes on two cores."""

STOP_SECONDS: Final = 60


def home() -> Path:
    """Return the folder with the state of the demonstration's cluster."""
    return tools.cache() / "demo-cluster"


def up(*, full: bool) -> int:
    """Start everything, run the demonstration, and say how to go on."""
    layout = images.layout(*(images.PAUSE, images.OPERATOR, images.RUNNER) if full else images.SUITE)
    python = None if full else _python_environment()
    _say("Starting Kubernetes with one node, and Prometheus...")
    told = _start_keeper(layout)
    kubectl = Kubectl(Path(told["kubeconfig"]), NAMESPACE)
    _say("Installing the chart...")
    _install(kubectl.kubeconfig, images.RUNNER if full else images.RUNNER_SLIM)
    _say(f"Applying {BENCHMARK.relative_to(ROOT)}...")
    _apply(kubectl, python)
    _show_progress(kubectl)
    _tell(kubectl.run("describe", "inferencebenchmark", NAME))
    _ask_prometheus(Prometheus(told["prometheus"]))
    _say_how_to_go_on(told)
    return 0


def down() -> int:
    """Take everything away."""
    keeper = _keeper()
    if keeper is None:
        _say("There is no demonstration cluster.")
    else:
        _say("Taking the demonstration cluster down...")
        os.kill(keeper, signal.SIGTERM)
        _wait(lambda: _keeper() is None, STOP_SECONDS, "the cluster to end")
    shutil.rmtree(home(), ignore_errors=True)
    return 0


def keep(layout: Path) -> int:
    """Hold the cluster until asked to stop; this is the process that stays when `up` has ended."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with node(home() / "state", layout) as made, prometheus(made) as scraper:
        kubeconfig = home() / "kubeconfig"
        shutil.copy(made.plane.kubeconfig(), kubeconfig)
        told = {"kubeconfig": str(kubeconfig), "prometheus": scraper.url}
        (home() / "ready.tmp").write_text(json.dumps(told))
        (home() / "ready.tmp").rename(home() / "ready.json")
        signal.pause()
    return 0


def _start_keeper(layout: Path) -> Mapping[str, str]:
    """Start the process that holds the cluster, or find the one that does; return what it tells."""
    ready = home() / "ready.json"
    if _keeper() is None:
        shutil.rmtree(home(), ignore_errors=True)
        (home() / "state").mkdir(parents=True)
        command = [
            sys.executable,
            "-m",
            __spec__.name if __spec__ else "tests.kubernetes_node.demo",
            "keep",
            str(layout),
        ]
        with (home() / "log").open("wb") as log:
            keeper = subprocess.Popen(
                command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        (home() / "pid").write_text(str(keeper.pid))
        _wait(lambda: ready.exists() or keeper.poll() is not None, START_SECONDS, "Kubernetes")
    if not ready.exists():
        raise MachineError(f"The cluster does not start:\n{tools.tail(home() / 'log')}")
    told: Mapping[str, str] = json.loads(ready.read_text())
    return told


def _keeper() -> int | None:
    """Return the process that holds the cluster, if there is one."""
    try:
        number = int((home() / "pid").read_text())
        command = Path(f"/proc/{number}/cmdline").read_bytes().split(b"\0")
    except (OSError, ValueError):
        return None
    return number if b"keep" in command else None


def _install(kubeconfig: Path, runner: str) -> None:
    operator, runner_parts = images.OPERATOR.rsplit(":", 1), runner.rsplit(":", 1)
    values = {
        "image.repository": operator[0],
        "image.tag": operator[1],
        "runner.image.repository": runner_parts[0],
        "runner.image.tag": runner_parts[1],
        "runner.memory": "4Gi",  # exporting ResNet-50 takes two
    }
    settings = [f"--set-string={name}={value}" for name, value in values.items()]
    where = ("--namespace", SYSTEM, "--create-namespace", "--kubeconfig", str(kubeconfig))
    _run(tools.tool("helm"), "upgrade", "--install", RELEASE, CHART, *where, *settings, "--wait", "--timeout=2m")


def _apply(kubectl: Kubectl, python: Path | None) -> None:
    """Apply the benchmark anew, with a folder of the node for its cache, and one with torch if the image has none."""
    benchmark = yaml.safe_load(BENCHMARK.read_text(encoding="utf-8"))
    cache = home() / "cache"
    cache.mkdir(exist_ok=True)
    around = [manifests.namespace(NAMESPACE), *manifests.claim(NAMESPACE, "inferbench-cache", cache)]
    if python is not None:
        around += manifests.claim(NAMESPACE, "python", python, "ReadOnlyMany")
        benchmark["spec"]["podTemplate"] = manifests.with_python("python")
    kubectl.apply(around)
    kubectl.wait("persistentvolumeclaims", "--all", condition="jsonpath={.status.phase}=Bound")
    kubectl.delete("inferencebenchmark", NAME, wait=True)
    kubectl.apply(benchmark)


def _show_progress(kubectl: Kubectl) -> None:
    """Let kubectl show every change until the benchmark has ended."""
    command = [str(tools.tool("kubectl")), "--namespace", NAMESPACE, "get", "ibench", NAME, "--watch"]
    _say(f"kubectl {' '.join(command[1:])}")
    with subprocess.Popen(command, env={**os.environ, "KUBECONFIG": str(kubectl.kubeconfig)}) as watching:
        try:
            deadline = time.monotonic() + FINISH_SECONDS
            while not _has_finished(kubectl):
                if time.monotonic() > deadline:
                    raise MachineError(f"The benchmark has not ended after {FINISH_SECONDS} s")
                time.sleep(1)
        finally:
            watching.terminate()


def _has_finished(kubectl: Kubectl) -> bool:
    conditions = kubectl.get("inferencebenchmark", NAME).get("status", {}).get("conditions", [])
    return any(each["type"] == "Finished" and each["status"] == "True" for each in conditions)


def _ask_prometheus(scraper: Prometheus) -> None:
    """Ask Prometheus which strategy is fastest at batch 1, as a dashboard would."""
    question = f'bottomk(1, inferbench_cell_latency_median_seconds{{benchmark="{NAME}",batch_size="1"}})'
    _wait(lambda: scraper.query(question), START_SECONDS, "Prometheus to scrape the results")
    _tell(f"Prometheus: {question}")
    for labels, value in scraper.query(question):
        _tell(f"  {labels['backend']}/{labels['precision']}: {value * 1000:.1f} ms")


def _say_how_to_go_on(told: Mapping[str, str]) -> None:
    _tell(
        f"\nIt goes on running. To look around:\n"
        f"  export KUBECONFIG={told['kubeconfig']}\n"
        f"  {tools.tool('kubectl')} --namespace {NAMESPACE} get ibench,jobs,pods,configmaps\n"
        f"  Prometheus is at {told['prometheus']}\n"
        f"To take it away: make clean-cluster",
    )


def _python_environment() -> Path:
    """Return a folder with the packages of the runner's lock, as its image would hold them."""
    lock = ROOT / "locks/runner.txt"
    folder = tools.cache() / f"{PYTHON_FOLDER}{hashlib.sha256(lock.read_bytes()).hexdigest()[:12]}"
    if not folder.is_dir():
        _say("Installing torch for the pods (once, a minute; about 6 GB)...")
        half = folder.with_suffix(".half")
        shutil.rmtree(half, ignore_errors=True)
        uv = Path(sys.executable).with_name("uv")
        options = (
            "--require-hashes",
            "--only-binary=:all:",
            f"--python-version={PYTHON_OF_BASE}",
            "--compile-bytecode",
        )
        _run(uv, "pip", "install", "--quiet", *options, f"--target={half}", f"--requirements={lock}")
        half.rename(folder)
        if _keeper() is None:  # else its pods may still read an older one
            _remove_others(folder)
    return folder


def _remove_others(folder: Path) -> None:
    """Remove what was installed from older locks: each has 6 GB."""
    for other in folder.parent.glob(f"{PYTHON_FOLDER}*"):
        if other != folder:
            shutil.rmtree(other)


def _run(*command: object) -> None:
    line = list(map(str, command))
    answer = subprocess.run(line, check=False, capture_output=True, text=True)
    if answer.returncode != 0:
        raise MachineError(f"{' '.join(line)} ended with status {answer.returncode}:\n{answer.stderr.strip()}")


def _wait(is_so: Any, seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > deadline:
            raise MachineError(f"waited {seconds} s for {what}")
        time.sleep(0.2)


def _say(text: str) -> None:
    """Say what is done; what is asked for goes to standard output."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201


def _tell(text: str) -> None:
    print(text, flush=True)  # noqa: T201


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what is asked; errors become sentences."""
    parser = argparse.ArgumentParser(prog="python -m tests.kubernetes_node.demo", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("up").add_argument("--full", action="store_true", help="use the runner image with torch (7 GB)")
    commands.add_parser("down")
    commands.add_parser("keep").add_argument("layout", type=Path)
    asked = parser.parse_args(arguments)
    if os.geteuid() != 0 or (asked.command != "down" and missing()):
        _say(missing() or "The demonstration cluster needs root: it makes namespaces, mounts and cgroups.")
        return 1
    try:
        match asked.command:
            case "up":
                return up(full=asked.full)
            case "keep":
                return keep(asked.layout)
        return down()
    except (ImageError, MachineError, ControlPlaneError, KubectlError, tools.ToolError) as error:
        _say(str(error))
        return 1


if __name__ == "__main__":
    sys.exit(main())
