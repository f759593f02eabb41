"""Runs the real program in a place of its own, and knows every process that was started there, however it got away."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import Popen
from typing import Any

from tests import documents

PROGRAM = Path(sys.executable).with_name("inferbench")

MARK = "INFERBENCH_TEST_MARK"
"""Environment variable that every process of a place inherits, so that none can hide by a session of its own."""

PATIENCE_SECONDS = 120
"""Nothing here is a matter of time: this only ends a test that hangs."""

LEAVES_SECONDS = 15
"""How long a process may take to be gone after the one that started it was killed."""

FOREIGN = ("INFERBENCH_", "XDG_", "COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "TERM", "CI", "PYTEST")
"""Beginnings of variables of this terminal that would change what the program does or prints."""


@dataclass(frozen=True)
class Place:
    """A folder to run the program in: nothing that it reads or writes by default is outside."""

    folder: Path
    mark: str = field(default_factory=lambda: secrets.token_hex(8))
    more: Mapping[str, str] = field(default_factory=dict)
    """More environment variables for every program that is run here."""

    @property
    def scratch(self) -> Path:
        """The folder for temporary files."""
        return self.folder / "tmp"

    @property
    def environment(self) -> dict[str, str]:
        """The environment of what is run here."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
        own = {"HOME": str(self.folder), "TMPDIR": str(self.scratch), "INFERBENCH_CACHE": str(self.folder / "cache")}
        return {**inherited, **own, MARK: self.mark, **self.more}

    def write(self, file_name: str = "bench.yaml", **said: Any) -> Path:
        """Write a benchmark of the fake backend; see `documents.scripted`."""
        file = self.folder / file_name
        file.write_text(documents.scripted_text(**said))
        return file

    @contextmanager
    def started(self, *arguments: object, before: tuple[str, ...] = (), **options: Any) -> Iterator[Popen[str]]:
        """Start `inferbench ARGUMENTS` as a shell does: in a process group of its own. It ends with the block."""
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        with Popen(
            [*before, str(PROGRAM), *map(str, arguments)],
            preexec_fn=_heed,  # noqa: PLW1509 (no test has threads when it starts a program)
            **{"cwd": self.folder, "env": self.environment, "process_group": 0, **pipes, **options},
        ) as program:
            try:
                yield program
            finally:
                program.kill()

    def run(
        self, *arguments: object, before: tuple[str, ...] = (), patience_seconds: float = PATIENCE_SECONDS
    ) -> subprocess.CompletedProcess[str]:
        """Run `inferbench ARGUMENTS` to its end."""
        with self.started(*arguments, before=before) as program:
            out, err = program.communicate(timeout=patience_seconds)
        return subprocess.CompletedProcess(program.args, program.returncode, out, err)

    def processes(self) -> dict[int, str]:
        """Return every living process that was started here, with its command line."""
        wanted = f"{MARK}={self.mark}".encode()
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if wanted in (folder / "environ").read_bytes().split(b"\0"):
                    found[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
        return found

    def find(self, part: str) -> list[int]:
        """Return the processes with this in their command line, which a process that has just forked shares."""
        return [pid for pid, line in self.processes().items() if part in line]

    def wait_until_empty(self) -> None:
        """Wait until no process is left that was started here."""
        with suppress(TimeoutError):
            wait_until(lambda: not self.processes(), "an empty place", LEAVES_SECONDS)
        if left := self.processes():
            raise AssertionError(f"left behind: {left}")


def _heed() -> None:
    """Let Ctrl-C be heard, as a terminal's shell does; whoever runs the tests in the background has it ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextmanager
def place(folder: Path, more: Mapping[str, str] | None = None) -> Iterator[Place]:
    """Make a place, and see to it that no process is left behind in it: whatever happened, that is a fault."""
    made = Place(folder, more=more or {})
    made.scratch.mkdir()
    try:
        yield made
        made.wait_until_empty()
    finally:
        for pid in made.processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def wait_until(is_so: Callable[[], object], what: str, seconds: float = PATIENCE_SECONDS) -> None:
    """Wait for something that another process brings about; a test fails when it does not come."""
    deadline = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds} s for {what}")
        time.sleep(0.01)
