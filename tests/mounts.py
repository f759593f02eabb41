"""A small disk of its own for a program: a tmpfs in a private mount namespace, which nobody else sees."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

IS_ROOT = os.geteuid() == 0


@dataclass(frozen=True)
class Disk:
    """A disk mounted at a folder, for whoever enters its namespace."""

    folder: Path
    holder: int
    """Process id of the one that keeps the namespace."""

    @property
    def before(self) -> tuple[str, ...]:
        """The beginning of a command line that runs the rest where the disk is mounted. It runs in the root folder."""
        user = () if IS_ROOT else ("--user", "--preserve-credentials")
        return ("nsenter", f"--target={self.holder}", "--mount", *user, "--")

    def remount(self, options: str) -> None:
        """Change the disk: `size=1m`, `ro`."""
        subprocess.run([*self.before, "mount", "-o", f"remount,{options}", str(self.folder)], check=True)

    def seen(self, *parts: str) -> Path:
        """Return the path of something on the disk as it is seen from outside."""
        return Path(f"/proc/{self.holder}/root{self.folder}", *parts)


@contextmanager
def disk(folder: Path, size: str) -> Iterator[Disk]:
    """Mount an empty disk; skips the test where nobody may mount."""
    folder.mkdir()
    user = () if IS_ROOT else ("--map-root-user",)
    mount = f'mount -t tmpfs -o size={size} tmpfs "{folder}" && echo ready && exec cat'
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(["unshare", "--mount", *user, "sh", "-c", mount], text=True, **pipes) as holder:
        if not holder.stdout or holder.stdout.readline() != "ready\n":
            pytest.skip(f"mounting is not allowed here: {holder.communicate()[1].strip()}")
        yield Disk(folder, holder.pid)
        holder.communicate()
