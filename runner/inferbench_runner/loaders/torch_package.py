"""Runs model.pt2 with PyTorch as it was measured. Needs what requirements.txt names.

    from load import load

    model = load()
    outputs = model({name: array})     # each input by its name: see model.json; floats go in and come out as fp32

The package holds machine code for the processor that it was compiled on, and takes batches of one size. From C++ it is
loaded with torch::inductor::AOTIModelPackageLoader.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

HERE = Path(__file__).resolve().parent

Arrays = Mapping[str, np.ndarray[Any, Any]]


def load() -> Callable[[Arrays], Arrays]:
    """Load the package with as many threads as were measured."""
    told = json.loads((HERE / "model.json").read_text())
    settings = told["session"]
    torch.set_num_threads(settings["threads"])
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = settings["tf32"]
    call = torch._inductor.aoti_load_package(str(HERE / "model.pt2"))  # noqa: SLF001 (its documented name)
    dtype = getattr(torch, settings["dtype"])

    def run(inputs: Arrays) -> Arrays:
        tensors = [torch.from_numpy(inputs[each["name"]]).to(settings["device"]) for each in told["inputs"]]
        tensors = [each.to(dtype) if each.is_floating_point() else each for each in tensors]
        with torch.inference_mode():
            answered = call(*(laid_out(each, settings["layout"]) for each in tensors))
        return {name: to_host(tensor) for name, tensor in named(answered).items()}

    return run


def laid_out(tensor: Any, layout: str) -> Any:
    """Return a tensor in the layout that was measured; only a tensor with four dimensions has a choice."""
    is_last = layout == "channels-last" and tensor.dim() == 4
    return tensor.contiguous(memory_format=torch.channels_last if is_last else torch.contiguous_format)


def named(answered: Any) -> Mapping[str, Any]:
    """Give each output the name that model.json has for it."""
    if isinstance(answered, torch.Tensor):
        return {"output": answered}
    return answered if isinstance(answered, Mapping) else {f"output_{i}": each for i, each in enumerate(answered)}


def to_host(tensor: Any) -> np.ndarray[Any, Any]:
    """Copy a tensor into an array, a floating one as fp32."""
    array: np.ndarray[Any, Any] = (tensor.float() if tensor.is_floating_point() else tensor).cpu().numpy()
    return array
