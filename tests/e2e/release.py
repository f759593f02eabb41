"""The chart, installed by the real Helm into a cluster of tests, and the pages of the operator that it starts."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.kubernetes import tools
from tests.kubernetes.kubectl import Kubectl
from tests.kubernetes_node import images

CHART: Final = Path(__file__).resolve().parents[2] / "charts/inferbench"
NAME: Final = "inferbench"
NAMESPACE: Final = "inferbench-system"
OPERATOR: Final = "inferbench"
PORT: Final = 8080

QUICK: Final = {
    "runner.cpu": "500m",
    "runner.memory": "512Mi",
    "settings.statusIntervalSeconds": "1",
    "settings.lostAfterSeconds": "2",
}
"""Small pods that fit beside each other on any machine, and a status that a test need not wait for."""


class HelmError(Exception):
    """Helm said no; the message is what it printed."""


@dataclass(frozen=True)
class Release:
    """The chart in a cluster."""

    kubectl: Kubectl
    """As the admin, in the operator's namespace."""

    def install(self, *more: str, runner: str = images.RUNNER_SLIM) -> str:
        """Install it, or upgrade what is installed, with the images of this source, and wait until it is ready."""
        parts = {"image": images.OPERATOR, "runner.image": runner}
        named = {f"{key}.{part}": value for key, image in parts.items() for part, value in _parts(image).items()}
        values = [f"--set={name}={value}" for name, value in {**named, **QUICK}.items()]
        return self.helm(
            *("upgrade", "--install", NAME, str(CHART), "--create-namespace", *values, *more),
            *("--wait", "--timeout=2m"),
        )

    def uninstall(self) -> str:
        """Take it away, and wait until its pod is gone."""
        return self.helm("uninstall", NAME, "--wait")

    def helm(self, *arguments: str) -> str:
        """Run `helm ARGUMENTS` and return what it prints. Raises HelmError if it failed."""
        where = ("--kubeconfig", str(self.kubectl.kubeconfig), "--namespace", NAMESPACE)
        command = [str(tools.tool("helm")), *arguments, *where]
        answer = subprocess.run(command, check=False, capture_output=True, text=True)
        if answer.returncode != 0:
            raise HelmError(
                f"helm {' '.join(arguments)} ended with status {answer.returncode}: {answer.stderr.strip()}"
            )
        return answer.stdout

    def page(self, path: str) -> str:
        """Read a page of the operator through its service."""
        service = f"/api/v1/namespaces/{NAMESPACE}/services/{OPERATOR}:{PORT}"
        return self.kubectl.run("get", "--raw", f"{service}/proxy{path}")

    def log(self) -> str:
        """Read the operator's log."""
        return self.kubectl.run("logs", f"deployment/{OPERATOR}", "--tail=-1")


def _parts(image: str) -> dict[str, str]:
    repository, _, tag = image.rpartition(":")
    return {"repository": repository, "tag": tag}
