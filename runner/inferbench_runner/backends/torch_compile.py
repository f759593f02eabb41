"""torch.compile: PyTorch's operators fused and generated anew, for this batch size."""

from __future__ import annotations

from collections.abc import Mapping

from inferbench_contract.words import Device, Precision
from inferbench_runner.backends import Session, _compiled, _torch
from inferbench_runner.task import CellTask

ARTIFACTS = _torch.ARTIFACTS


def missing(precision: Precision, device: Device) -> str | None:
    """Say which package or program is not installed."""
    return _compiled.missing(precision, device)


def versions() -> Mapping[str, str]:
    """Return the versions of PyTorch and Triton."""
    return _torch.versions(_compiled.LIBRARIES)


def load(task: CellTask) -> Session:
    """Build and compile the model, and bind the first batch."""
    return _compiled.load(task, mode(task))


def mode(task: CellTask) -> str:
    """Return torch.compile's name for how it compiles."""
    return str(task.options.get("mode", "default"))
