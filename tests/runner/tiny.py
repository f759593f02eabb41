"""A model of our own for the tests: small, with the layers that matter, made by a factory as users make theirs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inferbench_contract.spec import ModelSpec

if TYPE_CHECKING:
    import pytest

SOURCE = """
import torch
from torch import nn


class Residual(nn.Module):
    def __init__(self, planes):
        super().__init__()
        self.branch = nn.Sequential(nn.Conv2d(planes, planes, 3, padding=1), nn.BatchNorm2d(planes), nn.ReLU())

    def forward(self, image):
        return image + self.branch(image)


def make(planes=8, classes=10, outputs=1):
    body = nn.Sequential(nn.Conv2d(3, planes, 3, 2), Residual(planes), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    heads = nn.ModuleList(nn.Linear(planes, classes) for _ in range(outputs))
    return Headed(body, heads) if outputs > 1 else nn.Sequential(body, heads[0])


class Headed(nn.Module):
    def __init__(self, body, heads):
        super().__init__()
        self.body, self.heads = body, heads

    def forward(self, image):
        features = self.body(image)
        return {f"head{i}": head(features) for i, head in enumerate(self.heads)}


def make_frozen():
    return make().requires_grad_(False)


def make_no_module():
    return "a text"
"""


def a_model(folder: Path, function: str = "make", side: int = 32, **kwargs: Any) -> ModelSpec:
    """Write the factory's file into a folder and return the model."""
    (folder / "tiny_models.py").write_text(SOURCE)
    return ModelSpec.model_validate(
        {
            "python": {"factory": f"tiny_models:{function}", "kwargs": kwargs},
            "inputs": [{"name": "image", "shape": [3, side, side]}],
        },
    )


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take away what any test before this one imported, in whichever file and folder, as another process would."""
    elsewhere = [entry for entry in sys.path if not Path(entry, "tiny_models.py").is_file()]
    monkeypatch.setattr(sys, "path", elsewhere)
    monkeypatch.delitem(sys.modules, "tiny_models", raising=False)
