"""Calls the program inside a test's own process, where a claim is about what it says and does and not about a process.

Starting Python and importing what every command imports takes longer than most commands do.
"""

from __future__ import annotations

import contextlib
import io
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from subprocess import CompletedProcess

import pytest

from inferbench_cli import __main__ as program
from tests.programs import Place

NO_TERMINAL = {"COLUMNS": "80", "LINES": "25"}
"""What a program takes that has none; here it would find the one that the tests were started from."""


def call(place: Place, *arguments: object) -> CompletedProcess[str]:
    """Do what `place.run` does, but for the process; what the program starts is started all the same."""
    out, err = io.StringIO(), io.StringIO()
    with _standing_in(place), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = program.main([str(argument) for argument in arguments])
        except SystemExit as ended:  # as argparse ends
            status = int(ended.code or 0)
    return CompletedProcess(arguments, status, out.getvalue(), err.getvalue())


@contextmanager
def _standing_in(place: Place) -> Iterator[None]:
    """Make the folder and the environment of a place those of this process, and take both and all signals back."""
    heeded = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    wanted = {**place.environment, **NO_TERMINAL}
    try:
        with contextlib.chdir(place.folder), pytest.MonkeyPatch.context() as patch:
            for name in os.environ.keys() - wanted.keys():
                patch.delenv(name)
            for name, text in wanted.items():
                patch.setenv(name, text)
            yield
    finally:
        for number, handler in heeded.items():
            signal.signal(number, handler)
