"""PyTorch as it comes: every operator is a call of its own."""

from __future__ import annotations

from collections.abc import Mapping

from inferbench_contract.words import Device, Precision
from inferbench_runner.backends import Session, _torch
from inferbench_runner.task import CellTask

ARTIFACTS = _torch.ARTIFACTS


def missing(precision: Precision, device: Device) -> str | None:
    """Say which package is not installed."""
    return _torch.missing(precision, device)


def versions() -> Mapping[str, str]:
    """Return PyTorch's version."""
    return _torch.versions()


def load(task: CellTask) -> Session:
    """Build the model and bind the first batch."""
    _torch.set_up(task)
    return _torch.session(task, _torch.module(task), _torch.bound(task))
