"""The model that peer.py gives to both tools: ResNet-50 of transformers, from a folder on this machine.

`python benchmarks/peer_resnet.py FOLDER CONFIG` makes the folder (random weights, as `save_pretrained` writes them) for
optimum-benchmark; `load` is the factory by which inferbench's `python` model source reads the same folder.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


def make(folder: str, config: str) -> None:
    """Write a model with random weights; `config` is what differs from transformers' ResNetConfig(), as JSON."""
    import torch
    from transformers import ConvNextImageProcessor, ResNetConfig, ResNetForImageClassification

    torch.manual_seed(0)
    model = ResNetForImageClassification(ResNetConfig(num_labels=1000, **json.loads(config)))
    model.eval().save_pretrained(folder)
    ConvNextImageProcessor(size={"shortest_edge": 224}).save_pretrained(folder)


def load(folder: str) -> nn.Module:
    """Read the model from the folder."""
    from transformers import ResNetForImageClassification

    return ResNetForImageClassification.from_pretrained(folder)


if __name__ == "__main__":
    make(*sys.argv[1:])
