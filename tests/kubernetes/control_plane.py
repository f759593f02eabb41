"""Runs a control plane: etcd, kube-apiserver, kube-controller-manager and kube-scheduler as child processes.

    with ControlPlane() as plane:
        plane.api().get("/api/v1/nodes")
        plane.kill("kube-apiserver"); plane.start("kube-apiserver"); plane.wait_ready()

Each has a folder for its state, ports of its own on the loopback interface and an authority of its own, so that several
run side by side. It ends with the block, with Ctrl-C, and with the process that started it, even if that was killed.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import urllib3

from tests.kubernetes import pki, tools
from tests.kubernetes.access import Access, Request
from tests.kubernetes.client import Api, ApiError
from tests.kubernetes.kubectl import Kubectl

ETCD, APISERVER, CONTROLLERS, SCHEDULER = "etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"
COMPONENTS = (ETCD, APISERVER, CONTROLLERS, SCHEDULER)
"""In the order of their start; they end the other way round."""

IDENTITIES: Mapping[str, tuple[str, ...]] = {
    "admin": ("admin", "system:masters"),
    CONTROLLERS: ("system:kube-controller-manager",),
    SCHEDULER: ("system:kube-scheduler",),
    "kube-proxy": ("system:kube-proxy",),
    "node": ("system:node:node1", "system:nodes"),
    "fake-kubelet": ("fake-kubelet", "system:masters"),
}
"""Users that every cluster has: the short word, the name, the groups. What a name may do is Kubernetes' own default."""

READY_SECONDS = 90
"""It takes about five; a machine with other work may need more."""

STOP_SECONDS = 5
"""An API server that is asked to stop serves the watches that it has for another minute; then it is made to."""

PREFIX = "inferbench-cluster-"
LOCK = "owner.lock"
ABANDONED_SECONDS = 60
"""A state folder that nobody has locked so long after it was made belongs to nobody."""

AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitManagedFields": True,
    "rules": [
        # Each request is one record: a watch when it begins, everything else when it has its answer.
        {"level": "Metadata", "verbs": ["watch"], "omitStages": ["RequestReceived", "ResponseComplete"]},
        {"level": "Metadata", "omitStages": ["RequestReceived", "ResponseStarted"]},
    ],
}


@dataclass(frozen=True)
class Settings:
    """What may differ from one control plane to another."""

    users: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """More users than IDENTITIES: each a short word, and the user's name and groups."""
    bind_address: str = "127.0.0.1"
    """Where the API server listens."""
    advertise_address: str = ""
    """Where pods reach it through the service `kubernetes`; empty: no pod does."""
    port: int = 0
    """Of the API server; 0: any that is free."""
    names: tuple[str, ...] = ()
    """More names for its certificate: `IP:10.1.0.1`, `DNS:api`."""
    service_range: str = "10.96.0.0/16"
    api_qps: int | None = 1000
    """Requests per second that a controller may send. None: as Kubernetes ships, 20, which caps all Jobs together."""
    concurrent_job_syncs: int | None = 20
    """None: as Kubernetes ships, 5."""
    is_audited: bool = True
    """Whether requests are written down; it costs a few per cent."""
    arguments: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """More arguments, by component."""
    prefix: tuple[str, ...] = ()
    """What stands before each component's command line: words that run the rest in another network, for example."""

    @property
    def client_address(self) -> str:
        """Where clients on this machine reach the API server."""
        return "127.0.0.1" if self.bind_address in {"0.0.0.0", "::"} else self.bind_address


AS_SHIPPED = Settings(api_qps=None, concurrent_job_syncs=None)
"""Controllers as slow as in a cluster that nobody has tuned."""


class ControlPlaneError(Exception):
    """A component does not run; the message has the end of its log."""


class ControlPlane:
    """A control plane, running for as long as the `with` block lasts.

    The thread that enters the block must live as long as the block: Linux ends the components when it is gone.
    """

    def __init__(self, folder: Path | None = None, settings: Settings | None = None) -> None:
        """Without a folder the state is a temporary one, and goes at the end; a given one stays."""
        self.settings = settings or Settings()
        self._given = folder
        self._users = {**IDENTITIES, **self.settings.users}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._commands: dict[str, list[str]] = {}
        self._exit = ExitStack()

    def add_user(self, name: str, *groups: str) -> None:
        """Let a user in; before the start, since the API server reads its users only then."""
        if self._commands:
            raise RuntimeError(f"user {name} comes too late: users are read when the API server starts")
        self._users[name] = (name, *groups)

    def __enter__(self) -> Self:
        """Start everything and wait until it is ready."""
        with ExitStack() as stack:
            self._prepare(stack)
            stack.callback(self._take_down)
            self._start_all()
            self._exit = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        """Take everything down and leave nothing behind."""
        self._exit.close()

    @property
    def url(self) -> str:
        """The address of the API server."""
        return self.access.url

    @property
    def ca_file(self) -> Path:
        """The certificate that clients have to trust."""
        return self.access.ca_file

    def token(self, user: str = "admin") -> str:
        """Return the token of a user."""
        return self.access.token(user)

    def kubeconfig(self, user: str = "admin") -> Path:
        """Write the kubeconfig of a user and return its path."""
        return self.access.kubeconfig(user)

    def api(self, user: str = "admin") -> Api:
        """Return a client that acts as a user."""
        return self.access.api(user)

    def kubectl(self, user: str = "admin", namespace: str = "") -> Kubectl:
        """Return the real kubectl, acting as a user."""
        return self.access.kubectl(user, namespace)

    def audit(self, since: int = 0) -> Iterator[Request]:
        """Read what the API server was asked; see `Access.audit`."""
        return self.access.audit(since)

    def log(self, component: str) -> Path:
        """Return the log of a component."""
        return self.folder / "logs" / f"{component}.log"

    def pid(self, component: str) -> int:
        """Return the process of a component."""
        return self._processes[component].pid

    def start(self, component: str) -> None:
        """Start a component that does not run."""
        if self._runs(component):
            raise RuntimeError(f"{component} runs already")
        # A group of its own, so that Ctrl-C reaches it only through us, in the right order.
        program = (str(tools.tool(component)), *self._commands[component])
        command = [*self.settings.prefix, "setpriv", "--pdeathsig", "KILL", *program]
        with self.log(component).open("ab") as log:
            self._processes[component] = subprocess.Popen(
                command, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def stop(self, component: str) -> None:
        """Ask a component to end, and wait until it has."""
        self._end(component, signal.SIGTERM)

    def kill(self, component: str) -> None:
        """End a component without asking."""
        self._end(component, signal.SIGKILL)

    def wait_ready(self, seconds: float = READY_SECONDS) -> None:
        """Wait until the API server is ready and the controllers work.

        Raises:
            ControlPlaneError: a component has ended, or the time was over.
        """
        self._wait(self._is_ready, APISERVER, seconds)
        self._wait(self._controllers_work, CONTROLLERS, seconds)

    def _prepare(self, stack: ExitStack) -> None:
        self.folder = folder = stack.enter_context(state_folder(self._given))
        for name in ("logs", "pki", "etcd"):
            (folder / name).mkdir(exist_ok=True)
        api_port = stack.enter_context(_port(self.settings.bind_address, self.settings.port))
        etcd_ports = [stack.enter_context(_port("127.0.0.1", 0)) for _ in ("clients", "peers")]
        self._authority = pki.authority(folder / "pki")
        tokens = {user: secrets.token_hex(16) for user in self._users}
        audit_file = folder / "audit.log" if self.settings.is_audited else None
        url = f"https://{self.settings.client_address}:{api_port}"
        self.access = Access(url, self._authority.certificate, tokens, folder, audit_file)
        self._commands = self._command_lines(api_port, *etcd_ports)

    def _command_lines(self, api_port: int, etcd_port: int, peer_port: int) -> dict[str, list[str]]:
        keys = pki.service_account_keys(self.folder / "pki")
        lines = {
            ETCD: self._etcd(etcd_port, peer_port),
            APISERVER: self._apiserver(api_port, etcd_port, *keys),
            CONTROLLERS: self._controller_manager(keys[0]),
            SCHEDULER: self._scheduler(),
        }
        return {name: [*line, *self.settings.arguments.get(name, ())] for name, line in lines.items()}

    def _etcd(self, port: int, peer_port: int) -> list[str]:
        clients, peers = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{peer_port}"
        return [
            *("--name=it", f"--data-dir={self.folder / 'etcd'}", "--log-level=warn"),
            *(f"--listen-client-urls={clients}", f"--advertise-client-urls={clients}"),
            *(f"--listen-peer-urls={peers}", f"--initial-advertise-peer-urls={peers}", f"--initial-cluster=it={peers}"),
            "--socket-reuse-port",
            "--unsafe-no-fsync",  # the machine's crash is none of the faults that are tested
            f"--quota-backend-bytes={4 * 2**30}",
        ]

    def _apiserver(self, port: int, etcd_port: int, private: Path, public: Path) -> list[str]:
        certificate, key = self._authority.sign(APISERVER, self._names())
        return [
            *(f"--etcd-servers=http://127.0.0.1:{etcd_port}", f"--secure-port={port}", "--permit-port-sharing"),
            *(f"--bind-address={self.settings.bind_address}", *self._advertised()),
            *(f"--tls-cert-file={certificate}", f"--tls-private-key-file={key}"),
            *(f"--token-auth-file={self._token_file()}", "--authorization-mode=Node,RBAC", "--allow-privileged"),
            *(
                "--enable-admission-plugins=NodeRestriction",
                f"--service-cluster-ip-range={self.settings.service_range}",
            ),
            *("--service-account-issuer=https://kubernetes.default.svc", f"--service-account-key-file={public}"),
            *(f"--service-account-signing-key-file={private}", *self._audited()),
        ]

    def _names(self) -> list[str]:
        """Return what the API server may be called; the service `kubernetes` has the first address of its range."""
        first = self.settings.service_range.rpartition(".")[0] + ".1"
        addresses = dict.fromkeys(("127.0.0.1", first, self.settings.client_address, self.settings.advertise_address))
        hosts = ("localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc")
        return [*(f"IP:{a}" for a in addresses if a), *(f"DNS:{host}" for host in hosts), *self.settings.names]

    def _advertised(self) -> list[str]:
        """A loopback address may not stand in a service; then nobody writes the service's endpoints."""
        if self.settings.advertise_address:
            return [f"--advertise-address={self.settings.advertise_address}"]
        return ["--advertise-address=127.0.0.1", "--endpoint-reconciler-type=none"]

    def _audited(self) -> list[str]:
        if self.access.audit_file is None:
            return []
        self.access.audit_file.touch()
        policy = self._write("audit-policy.json", json.dumps(AUDIT_POLICY))
        megabytes = 100_000  # one file, however long: it is turned over at 100 MB otherwise
        return [
            f"--audit-policy-file={policy}",
            f"--audit-log-path={self.access.audit_file}",
            f"--audit-log-maxsize={megabytes}",
        ]

    def _token_file(self) -> Path:
        rows = ((self.access.tokens[user], *identity) for user, identity in self._users.items())
        lines = [f'{token},{name},{name},"{",".join(groups)}"\n' for token, name, *groups in rows]
        return self._write("tokens.csv", "".join(lines))

    def _controller_manager(self, private: Path) -> list[str]:
        qps, syncs = self.settings.api_qps, self.settings.concurrent_job_syncs
        return [
            *(f"--kubeconfig={self.kubeconfig(CONTROLLERS)}", "--use-service-account-credentials"),
            *(f"--root-ca-file={self.ca_file}", f"--service-account-private-key-file={private}"),
            *("--leader-elect=false", "--secure-port=0"),
            *([f"--kube-api-qps={qps}", f"--kube-api-burst={2 * qps}"] if qps else []),
            *([f"--concurrent-job-syncs={syncs}"] if syncs else []),
        ]

    def _scheduler(self) -> list[str]:
        qps = self.settings.api_qps
        pace = {"qps": qps, "burst": 2 * qps} if qps else {}
        content = {
            "apiVersion": "kubescheduler.config.k8s.io/v1",
            "kind": "KubeSchedulerConfiguration",
            "clientConnection": {"kubeconfig": str(self.kubeconfig(SCHEDULER)), **pace},
            "leaderElection": {"leaderElect": False},
        }
        return [f"--config={self._write('scheduler.json', json.dumps(content))}", "--secure-port=0"]

    def _write(self, name: str, text: str) -> Path:
        file = self.folder / name
        file.write_text(text, encoding="utf-8")
        file.chmod(0o600)
        return file

    def _start_all(self) -> None:
        self.start(ETCD)
        self.start(APISERVER)
        self._wait(self._answers, APISERVER, READY_SECONDS)
        self.start(CONTROLLERS)
        self.start(SCHEDULER)
        self.wait_ready()
        self.access.save()

    def _answers(self) -> bool:
        with suppress(ApiError):  # not ready is an answer
            self.api().text("/livez")
        return True

    def _is_ready(self) -> bool:
        return self.api().text("/readyz") == "ok"

    def _controllers_work(self) -> bool:
        """The account that pods of the namespace `default` need is made by a controller."""
        return self.api().find("/api/v1/namespaces/default/serviceaccounts/default") is not None

    def _wait(self, is_so: Callable[[], object], component: str, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        answer = "no"
        while time.monotonic() < deadline:
            self._check()
            try:
                if is_so():
                    return
            except (urllib3.exceptions.HTTPError, OSError, ApiError) as error:
                answer = str(error)
            time.sleep(0.05)
        said = f"Its last answer: {answer}. Its log ends with:\n{tools.tail(self.log(component))}"
        raise ControlPlaneError(f"{component} is not ready after {seconds:g} s. {said}")

    def _check(self) -> None:
        """Complain of a component that has ended by itself."""
        for name, process in self._processes.items():
            if process.poll() is not None:
                said = tools.tail(self.log(name))
                raise ControlPlaneError(f"{name} ended with status {process.returncode}. Its log ends with:\n{said}")

    def _runs(self, component: str) -> bool:
        return component in self._processes and self._processes[component].poll() is None

    def _end(self, component: str, how: signal.Signals) -> None:
        process = self._processes.pop(component, None)
        if process is None:
            return
        process.send_signal(how)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _take_down(self) -> None:
        """End everything. Only etcd has something to lose, and only where the folder stays."""
        for component in reversed(COMPONENTS):
            self._end(component, signal.SIGTERM if component == ETCD and self._given else signal.SIGKILL)


@contextmanager
def _port(address: str, number: int) -> Iterator[int]:
    """Keep a port for a server that shares it (SO_REUSEPORT): nobody else gets it, also while the server restarts."""
    with socket.socket() as keeper:
        keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        keeper.bind((address, number))
        yield keeper.getsockname()[1]


@contextmanager
def state_folder(given: Path | None) -> Iterator[Path]:
    """Make the folder for the state; a temporary one goes at the end, and those of killed processes go now."""
    if given is not None:
        given.mkdir(parents=True, exist_ok=True)
        yield given.absolute()
        return
    _remove_abandoned(Path(tempfile.gettempdir()))
    folder = Path(tempfile.mkdtemp(prefix=PREFIX))
    try:
        with locked(folder / LOCK):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Hold a lock that ends with this process, however it ends."""
    with file.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _remove_abandoned(place: Path) -> None:
    for folder in place.glob(f"{PREFIX}*"):
        with suppress(OSError):
            if folder.stat().st_uid == os.getuid() and _is_abandoned(folder):
                shutil.rmtree(folder, ignore_errors=True)


def _is_abandoned(folder: Path) -> bool:
    if not (folder / LOCK).exists():
        return time.time() - folder.stat().st_mtime > ABANDONED_SECONDS
    with (folder / LOCK).open("r+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True
