"""One cluster for all processes of a test run, kept by a process of its own for as long as somebody uses it.

Whoever comes first starts the keeper. Everybody holds a lock while they use the cluster; the kernel lets go of it
however they end, and when nobody holds it any more the keeper takes the cluster down.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NoReturn

from tests.kubernetes import access, tools
from tests.kubernetes.access import Access
from tests.kubernetes.control_plane import LOCK, PREFIX, ControlPlane, locked
from tests.kubernetes.nodes import some_nodes

ROOT = Path(__file__).resolve().parents[2]
USERS, STARTING, KEEPER_LOG = "users.lock", "starting.lock", "keeper.log"

LOOK_SECONDS = 0.3
"""How often the keeper looks whether somebody still uses the cluster."""

NODES, GPUS = 2, 8


@contextmanager
def joined(key: str) -> Iterator[Access]:
    """Use the cluster called `key`; it is started if it is not there, and goes when its last user goes."""
    place = Path(tempfile.gettempdir()) / f"{PREFIX}shared-{key}"
    users = _enter(place)
    try:
        with locked(place / STARTING):
            if not (place / access.FILE).exists():
                _start_keeper(place)
        yield access.load(place)
    finally:
        users.close()


def keep(place: Path) -> None:
    """Keep a cluster until nobody uses it any more; the body of the keeper's process."""
    signal.signal(signal.SIGTERM, _leave)
    try:
        with locked(place / LOCK), ControlPlane(place) as plane, some_nodes(plane.api(), NODES, gpus=GPUS):
            _tell("ready")
            _wait_until_unused(place)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _enter(place: Path) -> IO[str]:
    """Hold the users' lock, of a folder that is still there once it is held."""
    while True:
        place.mkdir(parents=True, exist_ok=True)
        users = (place / USERS).open("w")
        fcntl.flock(users, fcntl.LOCK_SH)
        if (place / USERS).exists() and os.path.samestat(os.fstat(users.fileno()), (place / USERS).stat()):
            return users
        users.close()


def _start_keeper(place: Path) -> None:
    """Start the keeper apart from this process and its terminal, and wait for its word."""
    reader, writer = os.pipe()
    command = ["setsid", "--fork", sys.executable, "-m", "tests.kubernetes", "keep", str(place)]
    with open(reader, encoding="utf-8") as said, (place / KEEPER_LOG).open("ab") as log:  # noqa: PTH123 - a pipe
        subprocess.run(command, check=True, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=writer, stderr=log)
        os.close(writer)
        if said.readline().strip() != "ready":
            raise RuntimeError(
                f"the shared cluster does not start. Its log ends with:\n{tools.tail(place / KEEPER_LOG, 40)}"
            )


def _tell(word: str) -> None:
    """Say one word to whoever started the keeper, and nothing more: they may be gone the next moment."""
    print(word, flush=True)  # noqa: T201 - a pipe to the one who waits
    with open(os.devnull, "w", encoding="utf-8") as nowhere:  # noqa: PTH123 - no path of ours
        os.dup2(nowhere.fileno(), sys.stdout.fileno())


def _wait_until_unused(place: Path) -> None:
    with (place / USERS).open("r+") as users:
        while True:
            time.sleep(LOOK_SECONDS)
            try:
                fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                continue


def _leave(*_: object) -> NoReturn:
    raise SystemExit(0)
