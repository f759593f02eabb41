"""Compiles quantised.pt2 with PyTorch as it was measured: a program with 8-bit weights that torchao wrote.

    from load import load

    model = load()
    outputs = model({name: array})     # each input by its name: see model.json; floats go in and come out as fp32

Needs what requirements.txt names, a C++ compiler, and an x86 CPU with 8-bit dot products. It is compiled at the first
call, for batches of one size.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchao.quantization.pt2e.quantizer.x86_inductor_quantizer  # noqa: F401 (Inductor's patterns of 8-bit layers)

HERE = Path(__file__).resolve().parent

Arrays = Mapping[str, np.ndarray[Any, Any]]


def load() -> Callable[[Arrays], Arrays]:
    """Read the program, and compile it with as many threads as were measured."""
    told = json.loads((HERE / "model.json").read_text())
    settings = told["session"]
    torch.set_num_threads(settings["threads"])
    torch._inductor.config.freezing = settings["compile"]["freezing"]  # noqa: SLF001 (its documented name)
    module = torch.export.load(HERE / told["artifact"]).module(check_guards=False)
    call = torch.compile(module, dynamic=False, fullgraph=False, mode=settings["compile"]["mode"])

    def run(inputs: Arrays) -> Arrays:
        tensors = [torch.from_numpy(inputs[each["name"]]) for each in told["inputs"]]
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
