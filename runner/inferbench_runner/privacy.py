"""Libraries that tell their makers what they are used for: not from here.

What somebody measures is nobody else's business, and a thread that uploads takes time from what is measured.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, Final, cast

VARIABLES: Final[Mapping[str, str]] = {"ORT_DISABLE_TELEMETRY": "1"}
"""ONNX Runtime since 1.29 sends names, hashes and devices of every session to Microsoft from Linux too, by a thread and
a database of its own (microsoft/onnxruntime#27379), unless this is set before it is loaded. Its function
`disable_telemetry_events()` comes too late for what it sends first."""


def keep_openvino_quiet() -> None:
    """See to it that `import openvino` tells Intel nothing; call it before.

    It reports every import by the package openvino_telemetry where that can be imported, and has a stand-in for where
    it cannot.
    """
    cast("dict[str, Any]", sys.modules).setdefault("openvino_telemetry", None)
