"""One cache folder for all tests, kept between runs for as long as nothing changes that could change what is in it.

Each entry is found by the hash of what decides it, as a user's are; but a user does not edit the code that makes them.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import os
import shutil
import sys
from pathlib import Path

from inferbench_runner import artifacts, environment

ROOT = Path(__file__).parents[2]

VARIABLE = "INFERBENCH_TEST_CACHE"
"""Environment variable with the folder for the folders, where what is made is too much to be kept in .venv/."""


@functools.cache
def cache() -> Path:
    """Return the folder; those that were made by other code, and that nobody uses, are removed."""
    root = Path(os.environ.get(VARIABLE) or Path(sys.prefix, "tests")).absolute()
    root.mkdir(parents=True, exist_ok=True)
    folder = root / decisive()
    held = os.open(folder.with_suffix(".lock"), os.O_CREAT | os.O_RDWR)  # for as long as this process lives
    fcntl.flock(held, fcntl.LOCK_SH)
    folder.mkdir(exist_ok=True)
    for other in root.iterdir():
        if other.is_dir() and other != folder:
            remove_unused(other)
    return folder


def decisive() -> str:
    """Hash what runs: all the code of the runner and of the contract, what the locks name, and this machine."""
    files = [*(ROOT / "contract").rglob("*.py"), *(ROOT / "runner").rglob("*.py"), *(ROOT / "locks").glob("*.txt")]
    hashes = sorted(f"{file.relative_to(ROOT)} {artifacts.digest(file)}" for file in files)
    return hashlib.sha256("\n".join([*hashes, environment.describe().fingerprint]).encode()).hexdigest()[:16]


def remove_unused(folder: Path) -> None:
    """Remove a folder of an earlier run, unless a process has it."""
    with folder.with_suffix(".lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        shutil.rmtree(folder, ignore_errors=True)
