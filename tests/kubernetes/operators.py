"""The operator as a process of its own, signed in as the service account and with the rights that the chart gives it.

with Operator(access, "some-namespace") as operator:
    operator.kill()      # -9
    operator.start()
    operator.get("/results")
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import IO, Self

import yaml

from tests.kubernetes import tools
from tests.kubernetes.access import Access
from tests.kubernetes.client import eventually

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "charts/inferbench"
RELEASE = "inferbench"
KUBE_VERSION = "1.35"
"""What helm takes the cluster for, which it does not ask here."""

HOME, WATCHED = "home-of-the-operator", "watched-by-the-operator"
"""Stand for namespaces in what Helm renders."""

ROLES = "/apis/rbac.authorization.k8s.io/v1"
RIGHTS = {
    "ServiceAccount": "/api/v1/namespaces/{}/serviceaccounts",
    "Role": f"{ROLES}/namespaces/{{}}/roles",
    "RoleBinding": f"{ROLES}/namespaces/{{}}/rolebindings",
    "ClusterRole": f"{ROLES}/clusterroles",
    "ClusterRoleBinding": f"{ROLES}/clusterrolebindings",
}
"""What the chart's rights are made of, and where the API has each kind."""

PORTS = range(20_000, 32_000)
"""Below those that the kernel gives to connections (net.ipv4.ip_local_port_range)."""

READY_SECONDS = 60
STOP_SECONDS = 20
SHOWN_CHARS = 8_000

QUICK = {
    "INFERBENCH_OPERATOR_RUNNER_IMAGE": "inferbench-runner:test",
    "INFERBENCH_OPERATOR_RUNNER_CPU": "1",
    "INFERBENCH_OPERATOR_RUNNER_MEMORY": "64Mi",
    "INFERBENCH_OPERATOR_STATUS_INTERVAL_SECONDS": "1",
    "INFERBENCH_OPERATOR_LOST_AFTER_SECONDS": "2",
    "INFERBENCH_OPERATOR_JOB_TTL_SECONDS": "600",
    "INFERBENCH_OPERATOR_API_QPS": "500",
    "INFERBENCH_OPERATOR_API_BURST": "500",
}
"""Settings with which a test does not wait for what a person would not mind waiting for."""


@dataclass
class Operator:
    """One operator. `namespace` is what it watches; empty: the whole cluster."""

    access: Access
    namespace: str = ""
    settings: Mapping[str, str] = field(default_factory=dict)
    kubeconfig: Path | None = None
    """Another one than that of its service account, such as a proxy's."""
    name: str = "operator"
    more: tuple[str, ...] = ()
    """Other namespaces that it watches too."""
    port: int = 0
    """Where it serves its pages; 0: one that is free."""
    program: Sequence[str] = ("-m", "inferbench_operator")
    """What Python runs: the operator, or a file that starts an odd one."""
    process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        """Give it its rights and start it; wait until it is ready."""
        self.port = self.port or _free_port()
        self.home = Path(tempfile.mkdtemp(prefix="inferbench-operator-"))
        self.log = self.home / "log"
        give_rights(self.access, self.namespace, *self.more)
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop it, and say the end of its log, which pytest shows of a test that failed."""
        self.stop()
        print(self.said[-SHOWN_CHARS:], file=sys.stderr)  # noqa: T201 (pytest keeps it)
        shutil.rmtree(self.home)

    @property
    def token(self) -> str:
        """The token of its service account."""
        return self.access.api().token_of(self.home_namespace, RELEASE)

    @property
    def home_namespace(self) -> str:
        """Where its service account lives."""
        return self.namespace or "default"

    def start(self, *, is_ready: bool = True) -> None:
        """Start it, and wait until it has seen the cluster."""
        kubeconfig = self.kubeconfig or self.access.kubeconfig_with(f"{self.name}-{self.home_namespace}", self.token)
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("INFERBENCH_")},
            **QUICK,
            "KUBECONFIG": str(kubeconfig),
            "INFERBENCH_OPERATOR_HTTP_PORT": str(self.port),
            "INFERBENCH_OPERATOR_WATCH_NAMESPACES": ",".join([self.namespace, *self.more]),
            **self.settings,
        }
        with self.log.open("ab") as log:
            self.process = _started(self.program, environment, log)
        if is_ready:
            eventually(self._is_ready, READY_SECONDS, f"the operator to be ready; its log is {self.log}")

    def kill(self) -> None:
        """Kill it with -9, wherever it is."""
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        """Ask it to stop; return its exit status."""
        return self._end(signal.SIGTERM)

    def get(self, path: str) -> str:
        """Read one of its pages. Raises HTTPError where it answers with an error."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as answer:
            return str(answer.read().decode())

    @property
    def said(self) -> str:
        """All that it has logged."""
        return self.log.read_text(encoding="utf-8")

    def _is_ready(self) -> bool:
        assert self.process is not None
        status = self.process.poll()
        assert status is None, f"it ended with status {status}: {self.said[-2_000:]}"
        try:
            return self.get("/readyz") == "ok\n"
        except urllib.error.HTTPError as error:
            raise AssertionError(error.read().decode()) from error

    def _end(self, how: signal.Signals) -> int:
        if self.process is None:
            return 0
        self.process.send_signal(how)
        try:
            return self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        finally:
            self.process = None


def give_rights(access: Access, namespace: str, *more: str) -> None:
    """Apply the service account and the roles of the chart, and nothing else of it; `more`: where it may work too."""
    home = namespace or "default"
    for watched in (home, *more):
        rendered = _rights(is_everywhere=not namespace).replace(HOME, home).replace(WATCHED, watched)
        for each in filter(None, yaml.safe_load_all(rendered)):
            place = RIGHTS[each["kind"]].format(each["metadata"].get("namespace"))
            access.api().apply(f"{place}/{each['metadata']['name']}", each)


@cache
def _rights(*, is_everywhere: bool) -> str:
    """Render them once: Helm takes a fifth of a second of a CPU, and they differ in namespaces alone."""
    command = [str(tools.tool("helm")), "template", RELEASE, str(CHART), "--namespace", HOME]
    command += ["--kube-version", KUBE_VERSION]
    command += ["--show-only", "templates/serviceaccount.yaml", "--show-only", "templates/rbac.yaml"]
    command += [] if is_everywhere else ["--set", f"watchNamespaces={{{WATCHED}}}"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _started(program: Sequence[str], environment: Mapping[str, str], log: IO[bytes]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-P", *program]
    return subprocess.Popen(command, env=dict(environment), stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd="/")


def _free_port() -> int:
    """Draw a port that nobody has, and that the kernel gives to nobody: of its own, two processes may get the same."""
    while True:
        port = PORTS.start + secrets.randbelow(len(PORTS))
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
