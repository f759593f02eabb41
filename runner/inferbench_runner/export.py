"""Exports a PyTorch model to an ONNX graph with a free batch dimension, and checks that it computes the same."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from inferbench_contract.errors import EnvironmentFault, how_to_install
from inferbench_runner import accuracy, inputs, models, onnx_models
from inferbench_runner.backends import Unsupported
from inferbench_runner.inputs import Input

if TYPE_CHECKING:
    from torch import nn

MAX_BATCH: Final = 65_536
"""The largest batch size of the language."""

EXPORTED_BATCH: Final = 2
OTHER_BATCH: Final = 3
"""With a batch of one the exporter might take it for a constant; the second size shows that it did not."""

MAX_RELATIVE_L2: Final = 1e-4
"""What fp32 strategies are held to. Exports of 20 models were within 1.5e-6."""


def write(module: nn.Module, tensors: Sequence[Input], target: Path) -> None:
    """Write `target`/model.onnx. Raises Unsupported where PyTorch cannot, or the graph is another function."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        if importlib.util.find_spec(package) is None:
            raise EnvironmentFault(f"{package} is not installed. {how_to_install('runner')}")
    _export(module, tensors, target)
    _compare(module, tensors, target)


def _export(module: nn.Module, tensors: Sequence[Input], target: Path) -> None:
    import torch

    sample = tuple(torch.from_numpy(array) for array in inputs.random_tensors(tensors, EXPORTED_BATCH, 0).values())
    batch = torch.export.Dim(onnx_models.BATCH, min=1, max=MAX_BATCH)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        names = list(models.named_outputs(module(*sample)))
        try:
            program = torch.onnx.export(
                module,
                sample,
                dynamo=True,
                input_names=[each.name for each in tensors],
                output_names=names,
                dynamic_shapes=tuple({0: batch} for _ in tensors),
                verbose=False,
            )
        except Exception as error:
            raise Unsupported(f"ExportFailed: PyTorch cannot export this model to ONNX: {error}") from error
    onnx_models.save(program.model_proto, target)


def _compare(module: nn.Module, tensors: Sequence[Input], target: Path) -> None:
    """Run the graph at a batch size that it was not exported with."""
    import onnx

    file = target / onnx_models.FILE
    onnx.checker.check_model(str(file))
    batch = inputs.random_tensors(tensors, OTHER_BATCH, 1)
    expected, found = models.run(module, batch), onnx_models.function(file, tensors)(batch)
    fault = accuracy.mismatch(found, expected)
    if fault is None:
        judged = accuracy.judge([accuracy.differences(found, expected, np.arange(OTHER_BATCH))])
        fault = f"relative L2 error {judged.relative_l2:.1g}" if judged.relative_l2 > MAX_RELATIVE_L2 else None
    if fault is not None:
        raise Unsupported(f"ExportDiffers: the exported graph does not compute what the model does: {fault}.")
