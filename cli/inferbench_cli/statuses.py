"""The program's exit statuses beside those that errors bring along. `--help` lists all of them."""

from __future__ import annotations

from typing import Final

FAILED: Final = 1
"""More cells failed than may, or nothing was measured, whatever kept it from that."""

EXPECTATION: Final = 4
"""An expectation does not hold."""

INTERRUPTED: Final = 130
"""128 and SIGINT, as a shell reports it."""
