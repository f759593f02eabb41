"""Builds the model with PyTorch as it was measured: the code that makes it, weights.pt, and the settings.

    from load import load

    model = load()
    outputs = model({name: array})     # each input by its name: see model.json; floats go in and come out as fp32

Needs what requirements.txt names, and the module that `recipe.function` in model.json names.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

HERE = Path(__file__).resolve().parent

Arrays = Mapping[str, np.ndarray[Any, Any]]


def load() -> Callable[[Arrays], Arrays]:
    """Build the model, compile it where it was measured compiled, and set what was set."""
    told = json.loads((HERE / "model.json").read_text())
    settings = told["session"]
    torch.set_num_threads(settings["threads"])
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = settings["tf32"]
    torch.backends.cudnn.fp32_precision = "tf32" if settings["tf32"] else "ieee"
    dtype = getattr(torch, settings["dtype"])
    module = arranged(build(told["recipe"]), settings["layout"]).to(settings["device"], dtype)
    module = quantised(module, settings["quantised"], told["recipe"]["quantisedLayers"])
    call = compiled(module, settings["compile"])

    def run(inputs: Arrays) -> Arrays:
        tensors = [torch.from_numpy(inputs[each["name"]]).to(settings["device"]) for each in told["inputs"]]
        tensors = [each.to(dtype) if each.is_floating_point() else each for each in tensors]
        with torch.inference_mode():
            answered = call(*(laid_out(each, settings["layout"]) for each in tensors))
        return {name: to_host(tensor) for name, tensor in named(answered).items()}

    return run


def build(recipe: Mapping[str, Any]) -> Any:
    """Call the function that makes the model, and give it its weights."""
    sys.path.append(str(HERE))
    name, _, function = recipe["function"].partition(":")
    module = getattr(importlib.import_module(name), function)(**recipe["arguments"])
    module.load_state_dict(torch.load(HERE / "weights.pt", weights_only=True))
    return module.eval()


def arranged(module: Any, layout: str) -> Any:
    """Lay out the kernels of convolutions."""
    for tensor in (*module.parameters(), *module.buffers()):
        tensor.data = laid_out(tensor.data, layout)
    return module


def quantised(module: Any, precision: str | None, layers: Sequence[str]) -> Any:
    """Quantise these Linear layers, which needs torchao (the version is in model.json); leave floats as they are."""
    if precision is None:
        return module
    from torchao import quantization

    recipes = {
        "int8-dynamic": quantization.Int8DynamicActivationInt8WeightConfig,
        "fp8": quantization.Float8DynamicActivationFloat8WeightConfig,
    }
    quantization.quantize_(module, recipes[precision](), filter_fn=lambda _, name: name in layers)
    return module


def compiled(module: Any, settings: Mapping[str, Any] | None) -> Any:
    """Compile a module for one batch size, at its first call; leave it as it is where there are no settings."""
    if settings is None:
        return module
    torch._inductor.config.freezing = settings["freezing"]  # noqa: SLF001 (its documented name)
    return torch.compile(module, dynamic=False, fullgraph=False, mode=settings["mode"])


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
