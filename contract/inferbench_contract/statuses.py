"""The runner's exit statuses beyond 0 (every cell has an outcome): what it says to whoever started it."""

from __future__ import annotations

from typing import Final

BAD_CONFIGURATION_STATUS: Final = 43
"""The plan or the arguments are wrong: no second try mends them."""

ENVIRONMENT_FAULT_STATUS: Final = 44
"""Of a cell too: the machine lacks something that no retry brings, and every other sweep would miss."""

ASKED_TO_STOP_STATUS: Final = 143
"""It was asked to stop and delivered what it had: 128 and SIGTERM, as a shell reports it."""
