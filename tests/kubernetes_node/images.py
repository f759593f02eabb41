"""Builds the images of the Dockerfile without a registry and without a container engine that runs as a service.

The base, where others take python:3.12-slim-bookworm, is Debian itself, made by debootstrap. buildah keeps its layers
beside the tools (tests/kubernetes/tools.py), so that a change of the source builds one small layer; what comes out is a
folder in the layout of the Open Container Initiative, which a node imports. `python -m tests.kubernetes_node.images`
builds them by hand.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from tests.kubernetes import tools

ROOT: Final = Path(__file__).resolve().parents[2]

OPERATOR: Final = "localhost/inferbench-operator:test"
RUNNER_SLIM: Final = "localhost/inferbench-runner:slim"
RUNNER: Final = "localhost/inferbench-runner:test"
PAUSE: Final = "localhost/inferbench-pause:test"
"""What a pod's first container runs, the one that holds its network."""

TARGETS: Final = {OPERATOR: "operator", RUNNER_SLIM: "runner-slim", RUNNER: "runner"}

SUITE: Final = (PAUSE, OPERATOR, RUNNER_SLIM)
"""The images of every change. The runner with torch has 7 GB and is built on demand."""

STAGES: Final = {"localhost/inferbench-build-tools:test": "tools", "localhost/inferbench-program:test": "program"}
"""Stages that are in no image. With names of their own, what has no name and is below none is of an older build."""

LAYOUT_SECONDS: Final = 600
"""A layout that nobody asked for in so long is read by nobody: a node takes seconds to import it."""

MOST_DOWNLOADS_BYTES: Final = 10**9
"""What the builds have fetched is kept for the next change of a lock, but not the 6 GB of the runner with torch."""

CONTEXT: Final = ("Dockerfile", ".dockerignore", "pyproject.toml", "README.md", "LICENSE")
CONTEXT_FOLDERS: Final = ("locks", "contract", "operator", "runner", "cli")
"""What the Dockerfile copies from."""

SUITE_OF_DEBIAN: Final = "bookworm"
MIRROR: Final = "http://deb.debian.org/debian"
BASE_PACKAGES: Final = ("ca-certificates", "python3", "python3-venv")
NOT_NEEDED: Final = ("usr/share/doc", "usr/share/info", "usr/share/locale", "usr/share/man", "var/cache/apt", "dev")
"""Left out of the base, as Debian's slim images do."""

PAUSE_FILE: Final = 'FROM {base}\nUSER 65532:65532\nCMD ["/bin/sleep", "infinity"]\n'
"""It shares the base's only layer with all other images, so it takes no space of its own."""

MOUNTED: Final = ("/etc/ssl/certs", "/etc/pip.conf", "/etc/uv", "~/.config/pip", "~/.config/uv")
"""How this machine reaches package indexes: what of it there is, is mounted into the builds and stays in no image."""


MANIFEST_TYPE: Final = "application/vnd.oci.image.manifest.v1+json"
INDEX_TYPE: Final = "application/vnd.oci.image.index.v1+json"
NAME_FOR_CONTAINERD: Final = "io.containerd.image.name"
"""Where containerd looks for the whole name of an image."""


class ImageError(Exception):
    """An image cannot be built; the message says why."""


def layout(*names: str) -> Path:
    """Return a folder that holds these images; builds what has changed.

    Raises:
        ImageError: a program is missing, or a step failed.
    """
    _require_programs()
    folder = _home() / f"layout-{_key(names)}"
    if not folder.is_dir():
        with _locked():
            if not folder.is_dir():
                _make_layout(names, folder)
    os.utime(folder)
    return folder


def layers(layout: Path) -> Mapping[str, Sequence[int]]:
    """Return the size in bytes of each layer of the images in a folder; the base is the first of them."""
    found = {}
    for entry in _content(layout / "index.json")["manifests"]:
        manifest = _content(_blob(layout, entry["digest"]))
        found[entry["annotations"][NAME_FOR_CONTAINERD]] = [layer["size"] for layer in manifest["layers"]]
    return found


def labels(layout: Path) -> Mapping[str, Mapping[str, str]]:
    """Return the labels of the images in a folder."""
    found = {}
    for entry in _content(layout / "index.json")["manifests"]:
        manifest = _content(_blob(layout, entry["digest"]))
        config = _content(_blob(layout, manifest["config"]["digest"]))["config"]
        found[entry["annotations"][NAME_FOR_CONTAINERD]] = config.get("Labels") or {}
    return found


def revision() -> str:
    """Return the commit of this source, with `-dirty` where it was changed since; unknown outside of a checkout."""
    command = ("git", "-C", ROOT, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    try:
        return _run(*command).strip()
    except (ImageError, OSError):
        return "unknown"


def base_name() -> str:
    """Return the name of the base, which changes with what it is made of."""
    inputs = (SUITE_OF_DEBIAN, MIRROR, *BASE_PACKAGES, *NOT_NEEDED)
    return f"localhost/inferbench-base:{hashlib.sha256(' '.join(inputs).encode()).hexdigest()[:12]}"


def _make_layout(names: Sequence[str], folder: Path) -> None:
    base = _base()
    for name in (*STAGES, *names):
        _build(name, base)
    with tempfile.TemporaryDirectory(dir=_home(), prefix=".layout-") as workshop:
        made = Path(workshop) / "made"
        (made / "blobs/sha256").mkdir(parents=True)
        manifests = [_write(name, made, Path(workshop) / "one") for name in names]
        index = {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": manifests}
        (made / "index.json").write_text(json.dumps(index))
        (made / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
        (made / "images").write_text("".join(f"{name}\n" for name in names))
        made.rename(folder)
    _remove_older_builds()


def _write(name: str, layout: Path, scratch: Path) -> dict[str, Any]:
    """Write an image into a layout, and return its entry in the index.

    buildah could write the layout itself, but would compress each layer, each time, at 50 MB in a second.
    """
    _say(f"Writing {name}...")
    _buildah("push", "--quiet", "--format=oci", "--disable-compression", name, f"dir:{scratch}")
    for blob in scratch.iterdir():
        blob.rename(layout / "blobs/sha256" / blob.name)
    manifest = layout / "blobs/sha256/manifest.json"
    content = manifest.read_bytes()
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    manifest.rename(_blob(layout, digest))
    names = {NAME_FOR_CONTAINERD: name, "org.opencontainers.image.ref.name": name.rpartition(":")[2]}
    return {"mediaType": MANIFEST_TYPE, "digest": digest, "size": len(content), "annotations": names}


def _remove_older_builds() -> None:
    """Remove what no present image stands on; the caller holds the lock, so nobody builds meanwhile."""
    _buildah("rmi", "--prune", "--force")
    for folder in _home().glob("layout-*"):
        names = (folder / "images").read_text().split()
        if folder.name != f"layout-{_key(names)}" and time.time() - folder.stat().st_mtime > LAYOUT_SECONDS:
            shutil.rmtree(folder)
    downloads = _scratch() / "buildah-cache"
    if sum(file.lstat().st_size for file in downloads.rglob("*") if file.is_file()) > MOST_DOWNLOADS_BYTES:
        shutil.rmtree(downloads)


def _blob(layout: Path, digest: str) -> Path:
    return layout / "blobs" / digest.replace(":", "/")


def _content(file: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return content


def _build(name: str, base: str) -> None:
    _say(f"Building {name}...")
    started = time.monotonic()
    if name == PAUSE:
        with tempfile.TemporaryDirectory(dir=_home()) as empty:
            file = Path(empty) / "Dockerfile"
            file.write_text(PAUSE_FILE.format(base=base))
            _bud(name, empty)
    else:
        told = {"BASE": base, "VERSION": _version(), "REVISION": revision()}
        arguments = [f"--build-arg={argument}={value}" for argument, value in told.items()]
        mounts = [f"--volume={path}:{path}:ro" for each in MOUNTED if (path := Path(each).expanduser()).exists()]
        _bud(name, ROOT, f"--target={(TARGETS | STAGES)[name]}", *arguments, *mounts)
    _say(f"  {time.monotonic() - started:.0f} s")


def _bud(name: str, context: Path | str, *options: str) -> None:
    _buildah("bud", "--isolation=chroot", "--layers", "--pull-never", "--quiet", f"--tag={name}", *options, context)


def _base() -> str:
    """Make the base if it is not there, and return its name."""
    name = base_name()
    if name in _buildah("images", "--format={{.Name}}:{{.Tag}}").split():
        return name
    _say(f"Making the base from Debian {SUITE_OF_DEBIAN} (once, about a minute and a half)...")
    with tempfile.TemporaryDirectory(dir=_home(), prefix=".base-") as workshop:
        system = Path(workshop) / "system"
        include = f"--include={','.join(BASE_PACKAGES)}"
        _run("unshare", "--mount", "debootstrap", "--variant=minbase", include, SUITE_OF_DEBIAN, system, MIRROR)
        left_out = [f"--exclude=./{path}/*" for path in NOT_NEEDED]
        _run("tar", "-C", system, *left_out, "-cf", f"{workshop}/base.tar", ".")
        shutil.rmtree(system)
        (Path(workshop) / "Dockerfile").write_text('FROM scratch\nADD base.tar /\nCMD ["/bin/bash"]\n')
        _bud(name, workshop)
    return name


def _buildah(*arguments: object) -> str:
    """Run buildah with a store of our own, with mounts that nobody else sees, and with our folder as its /var/lib."""
    own = _home() / "var-lib"
    own.mkdir(exist_ok=True)
    enter = ("unshare", "--mount", "sh", "-c", 'mount --bind "$0" /var/lib && exec "$@"', own)
    with tempfile.TemporaryDirectory(prefix="inferbench-buildah-") as run_root:
        store = ("--root", _home() / "store", "--runroot", run_root, "--storage-driver=overlay")
        return _run(*enter, "buildah", *store, *arguments)


def _run(*command: object) -> str:
    line = list(map(str, command))
    answer = subprocess.run(
        line, check=False, capture_output=True, text=True, env={**os.environ, "TMPDIR": str(_scratch())}
    )
    if answer.returncode != 0:
        end = "\n".join(f"  {each}" for each in (answer.stdout + answer.stderr).splitlines()[-40:])
        raise ImageError(f"{' '.join(line)} ended with status {answer.returncode}:\n{end}")
    return answer.stdout


def _scratch() -> Path:
    """Where programs put what they need only for a while, and buildah what its builds have fetched."""
    folder = _home() / "scratch"
    folder.mkdir(exist_ok=True)
    return folder


def _key(names: Sequence[str]) -> str:
    """A name that changes with everything that the images are made of."""
    digest = hashlib.sha256(f"{' '.join(names)} {base_name()} {_version()}".encode())
    for file in (Path(__file__), *_context()):
        digest.update(str(file.relative_to(ROOT)).encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def _context() -> Iterable[Path]:
    folders = (sorted((ROOT / folder).rglob("*")) for folder in CONTEXT_FOLDERS)
    files = (file for folder in folders for file in folder if file.is_file() and "__pycache__" not in file.parts)
    return (*(ROOT / name for name in CONTEXT), *files)


def _version() -> str:
    return str(tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"])


def _require_programs() -> None:
    missing = [program for program in ("buildah", "debootstrap", "tar", "unshare") if shutil.which(program) is None]
    if missing:
        raise ImageError(f"{', '.join(missing)} not found. Install what the tests of real pods need: make e2e-setup")


def _home() -> Path:
    folder = tools.cache() / "images"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def _locked() -> Iterator[None]:
    """Let one process at a time build; the kernel lets go of the lock however its holder ends."""
    with (_home() / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201 - whoever waits for minutes wants to know for what


def main() -> int:
    """Build the images by hand and say how large they are."""
    parser = argparse.ArgumentParser(prog="python -m tests.kubernetes_node.images", description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true", help="the runner with torch too: 7 GB, about 10 minutes")
    names = (*SUITE, RUNNER) if parser.parse_args().full else SUITE
    try:
        folder = layout(*names)
    except (ImageError, tools.ToolError) as error:
        _say(str(error))
        return 1
    for name, sizes in layers(folder).items():
        print(f"{name}  {sum(sizes) / 1e6:,.0f} MB, {sum(sizes[1:]) / 1e6:,.0f} MB over its base")  # noqa: T201
    print(f"in {folder}")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
