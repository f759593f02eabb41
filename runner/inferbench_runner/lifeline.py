"""Ties a process to the one that started it, so that a killed run leaves nothing behind that measures on."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Mapping

from inferbench_contract.handshake import PARENT_VARIABLE

PR_SET_PDEATHSIG = 1
"""prctl(2) on Linux: the signal that the kernel sends when the parent ends, however it ends."""


def environment() -> Mapping[str, str]:
    """Return what a child's environment needs, so that its `hold` knows whom to die with."""
    return {PARENT_VARIABLE: str(os.getpid())}


def hold() -> None:
    """Die with the parent that INFERBENCH_PARENT names, also if it has ended already. Without the variable: nothing."""
    parent = os.environ.get(PARENT_VARIABLE)
    if parent is None or not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(parent):
        os.kill(os.getpid(), signal.SIGKILL)
