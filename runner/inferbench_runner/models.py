"""Finds the model that a benchmark names, and builds it with PyTorch: torchvision's by name, anybody's by a factory.

PyTorch is imported inside the functions that need it, so that finding a model's files and their hashes costs nothing.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import mmap
import re
import socket
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from inferbench_contract.errors import EnvironmentFault, InferbenchError
from inferbench_contract.model import RANDOM_WEIGHTS, ModelSpec, TorchvisionModel, WeightsFile
from inferbench_runner import artifacts, inputs, photographs, sources
from inferbench_runner.backends import Arrays, Unsupported
from inferbench_runner.inputs import Colours, Input

if TYPE_CHECKING:
    from torch import Tensor, nn

SEED: Final = 20_260_101
"""Of random weights, of crops and of random inputs: the same everywhere, and none that anybody tuned."""

CALIBRATION_EXAMPLES: Final = 32
"""Enough for batch norms: the outputs of random models then lie between 0.1 and 2, where fp16 holds them."""

HEAD_STD: Final = 0.02
"""Of the weights that replace a layer of zeros (torchvision's vision transformers begin with such a head)."""

DOWNLOAD_SECONDS: Final = 30
"""Without an answer for so long there is no internet; torch.hub itself would wait for ever."""

NORM_BIAS: Final = 0.5
"""Of random models' batch norms. Random ReLU networks are chaotic: with 0, rounding to bf16 grows to 8.7 % of error in
ResNet-50's answers (39 % in its last layer), where a gate sees nothing; with a half to 1.3 %. Trained ones: 0.5 %."""

INCEPTIONS: Final = ("googlenet", "inception_v3")
"""Their builders have arguments of their own: heads that serve training only, a second normalisation of images."""


def identity(model: ModelSpec, folder: Path) -> dict[str, Any]:
    """Return what a model is, with the hashes of the files that it is made of."""
    return {**model.model_dump(mode="json"), "files": _hashes(model, folder)}


def digest(model: ModelSpec, folder: Path) -> str | None:
    """Return one hash of the files that a model is made of; None where it is known by its name and a version."""
    hashes = _hashes(model, folder)
    return artifacts.key({"files": hashes}) if len(hashes) > 1 else next(iter(hashes), None)


def _hashes(model: ModelSpec, folder: Path) -> Sequence[str]:
    try:
        return [artifacts.digest(file) for file in files(model, folder)]
    except OSError as error:
        raise InferbenchError(f"The model's file {error.filename} cannot be read: {error.strerror}.") from error


def files(model: ModelSpec, folder: Path) -> Sequence[Path]:
    """Return the files that a model is made of; torchvision's own are known by its version."""
    if model.onnx is not None:
        return onnx_files(existing(folder, model.onnx.path, "onnx.path"))
    if model.python is not None:
        return sources.files(model.python.factory.partition(":")[0], folder)
    if model.torchvision is not None and isinstance(model.torchvision.weights, WeightsFile):
        return (existing(folder, model.torchvision.weights.path, "torchvision.weights.path"),)
    return ()


def existing(folder: Path, path: str, field: str) -> Path:
    """Return a model's file, which has to be there."""
    file = folder / path
    if not file.is_file():
        raise InferbenchError(f"spec.model.{field} is {path}, and there is no file {file}. Paths start from {folder}.")
    return file


def onnx_files(file: Path) -> Sequence[Path]:
    """Return an ONNX file and the files beside it that hold its tensors."""
    return (file, *(tensors for tensors in _tensor_files(file) if tensors.is_file()))


def missing_tensor_files(file: Path) -> Sequence[Path]:
    """Return the files that should stand beside an ONNX file and hold its tensors, and do not."""
    return [tensors for tensors in _tensor_files(file) if not tensors.is_file()]


def _tensor_files(file: Path) -> Sequence[Path]:
    """Find them by how protobuf writes the entry ("location", name): a model's hash takes no library then."""
    if file.stat().st_size == 0:
        return ()
    with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        entries = re.finditer(rb"\n\x08location\x12([\x01-\x7f])", content)
        named = {bytes(content[entry.end() : entry.end() + entry[1][0]]) for entry in entries}
    return [file.parent / name.decode(errors="replace") for name in sorted(named)]


def initial_state(model: ModelSpec, folder: Path, cache: Path) -> Mapping[str, Tensor]:
    """Make a model's weights: draw, read or download them, or take those that its factory gives it."""
    if model.torchvision is None:
        state: Mapping[str, Tensor] = _from_factory(model, folder).state_dict()
        return state
    if model.has_random_weights:
        return _random_state(model, model.torchvision)
    weights = model.torchvision.weights
    if isinstance(weights, WeightsFile):
        state = _read_state(existing(folder, weights.path, "torchvision.weights.path"))
    else:
        state = _download(model.torchvision, cache)
    return _without_training_heads(model.torchvision, state)


def build(model: ModelSpec, folder: Path, weights: Path) -> nn.Module:
    """Build a model in eval mode from the weights that were prepared for it, initialising nothing in vain.

    Whether weights require gradients is left as their maker has it: PyTorch chooses other kernels where they do not.
    """
    import torch

    # Copied, because mapped pages are small ones that can be taken away: no model that is served has such weights.
    mapped = torch.load(weights, weights_only=True, mmap=True)
    state = {name: tensor.clone() for name, tensor in mapped.items()}
    module = _from_factory(model, folder) if model.torchvision is None else _skeleton(model.torchvision, state)[0]
    module.load_state_dict(state, assign=True)
    return module.eval()


def recipe(model: ModelSpec, weights: Path) -> tuple[str, Mapping[str, Any]]:
    """Return the function that makes a model, as `module:function`, and the arguments with which these weights fit."""
    import torch

    if model.python is not None:
        return model.python.factory, model.python.kwargs
    if model.torchvision is None:
        raise Unsupported("NoTorchModule: an ONNX file holds no PyTorch module.")
    state = torch.load(weights, weights_only=True, mmap=True)
    _, arguments = _skeleton(model.torchvision, state)
    return "torchvision.models:get_model", {"name": model.torchvision.name, **_arguments(model.torchvision, arguments)}


def inputs_of(model: ModelSpec) -> tuple[Sequence[Input], Colours]:
    """Return the inputs of a model that PyTorch builds: those of the benchmark, or what its weights were trained on."""
    colours, side = _training(model.torchvision) if model.torchvision is not None else (Colours(), 0)
    if model.inputs:
        return [Input(each.name, each.shape, str(each.dtype)) for each in model.inputs], colours
    if not side:
        raise InferbenchError("This model's inputs are not known. Say their names and shapes under spec.model.inputs.")
    return [Input("input", (3, side, side))], colours


def run(module: nn.Module, batch: Arrays) -> Arrays:
    """Run a model on host arrays; floating outputs come back as fp32."""
    import torch

    with torch.inference_mode():
        outputs = named_outputs(module(*(torch.from_numpy(array) for array in batch.values())))
        return {name: to_host(tensor) for name, tensor in outputs.items()}


def to_host(tensor: Tensor) -> Any:
    """Copy a tensor into an array, a floating one as fp32."""
    import torch

    return tensor.detach().to("cpu", torch.float32 if tensor.is_floating_point() else tensor.dtype, copy=True).numpy()


def named_outputs(value: Any) -> dict[str, Tensor]:
    """Give each output of a model its name: one tensor, a mapping of them, or several in a row."""
    import torch

    if isinstance(value, torch.Tensor):
        return {"output": value}
    row = {f"output_{i}": each for i, each in enumerate(value)} if isinstance(value, tuple | list) else {}
    named = dict(value) if isinstance(value, Mapping) else row
    if not named or not all(isinstance(each, torch.Tensor) for each in named.values()):
        found = f"{type(value).__name__} of {', '.join(type(each).__name__ for each in named.values()) or 'nothing'}"
        raise Unsupported(f"OutputsNotTensors: the model returns a {found}; expected tensors, or a mapping of them.")
    return named


def examples(tensors: Sequence[Input], colours: Colours, files: Sequence[str], count: int) -> Arrays:
    """Make examples for a model: crops of these photographs if it takes images, seeded random tensors if not."""
    if not inputs.takes_images(tensors):
        return inputs.random_tensors(tensors, count, SEED)
    _, height, width = tensors[0].shape
    images = inputs.crops(photographs.read(files), count, height, width, SEED)
    return {tensors[0].name: inputs.normalise(images, colours)}


# ---- torchvision ---------------------------------------------------------------------------------


def _builder(model: TorchvisionModel) -> Callable[..., nn.Module]:
    """Find torchvision's function that builds a model."""
    from torchvision import models

    names = models.list_models()
    if model.name not in names:
        near = ", ".join(difflib.get_close_matches(model.name, names)) or "none"
        raise InferbenchError(
            f"spec.model.torchvision.name is {model.name}; torchvision has no such model. Near it: {near}."
        )
    builder: Callable[..., nn.Module] = models.get_model_builder(model.name)
    if {"detection", "quantization"} & set(builder.__module__.split(".")):
        raise Unsupported(
            f"DataDependent: {model.name} returns shapes or types that depend on its data, so its outputs cannot be "
            "compared. Measure its backbone.",
        )
    return builder


def _training(model: TorchvisionModel) -> tuple[Colours, int]:
    """Return colours and side of the images that a model is trained on; 0 where it does not take single images."""
    builder = _builder(model)
    if {"video", "optical_flow"} & set(builder.__module__.split(".")):
        return Colours(), 0
    trained = _trained_weights(model).transforms()
    side = getattr(trained, "crop_size", None) or trained.resize_size
    return Colours(tuple(trained.mean), tuple(trained.std)), side[0]


def _trained_weights(model: TorchvisionModel) -> Any:
    """Return torchvision's entry for the weights; of random ones and of a file, the entry of those that are usual."""
    from torchvision import models

    _builder(model)
    choices = models.get_model_weights(model.name)
    if model.weights == RANDOM_WEIGHTS or isinstance(model.weights, WeightsFile):
        return choices.DEFAULT
    if model.weights not in choices.__members__:
        known = ", ".join((*choices.__members__, RANDOM_WEIGHTS))
        raise InferbenchError(f"spec.model.torchvision.weights is {model.weights}; {model.name} has {known}.")
    return choices[model.weights]


def _made(model: TorchvisionModel, **arguments: Any) -> nn.Module:
    """Build a model as torchvision does for inference, but without its weights and without downloading a backbone's."""
    return _builder(model)(**_arguments(model, arguments))


def _arguments(model: TorchvisionModel, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
    """Add what a builder needs so that it downloads nothing and adds nothing that only training uses."""
    if model.name in INCEPTIONS:
        trained = model.weights != RANDOM_WEIGHTS
        arguments = {"aux_logits": False, "transform_input": trained, "init_weights": not trained, **arguments}
    if "weights_backbone" in inspect.signature(_builder(model)).parameters:
        arguments = {"weights_backbone": None, **arguments}
    return {"weights": None, **arguments}


def _skeleton(model: TorchvisionModel, state: Mapping[str, Tensor]) -> tuple[nn.Module, Mapping[str, Any]]:
    """Build a model that a state dict fits into, where possible without memory for numbers that are replaced anyway.

    Also returns the arguments that it was built with for the sake of this state dict.
    """
    import torch

    arguments: dict[str, Any] = {"aux_loss": True} if any(name.startswith("aux_classifier.") for name in state) else {}
    try:
        with torch.device("meta"):
            module = _made(model, **arguments)
    except NotImplementedError:  # RegNet works its widths out with tensors, which need their numbers
        module = _made(model, **arguments)
    classes = _other_classes(module, state)
    if classes is not None:
        arguments = {"num_classes": classes, **arguments}
    unsaved = {name for name, _ in module.named_buffers()} - set(state)
    return _made(model, **arguments) if unsaved or classes is not None else module, arguments


def _other_classes(module: nn.Module, state: Mapping[str, Tensor]) -> int | None:
    """Return the number of classes of a state dict whose head, the last layer, has not the usual one."""
    name, usual = list(module.state_dict().items())[-1]
    return None if name not in state or state[name].shape == usual.shape else len(state[name])


def _random_state(model: ModelSpec, source: TorchvisionModel) -> Mapping[str, Tensor]:
    """Draw weights that behave like trained ones: their outputs depend on the input, and no precision overflows."""
    import torch

    torch.manual_seed(SEED)
    module = _made(source).eval()
    for parameter in module.parameters():
        if parameter.ndim > 1 and not parameter.any():
            torch.nn.init.normal_(parameter, std=HEAD_STD)
    tensors, colours = inputs_of(model)
    batch = examples(tensors, colours, photographs.CALIBRATION, CALIBRATION_EXAMPLES)
    _calibrate(module, [torch.from_numpy(array) for array in batch.values()])
    state: Mapping[str, Tensor] = module.state_dict()
    return state


def _calibrate(module: nn.Module, batch: Sequence[Tensor]) -> None:
    """Let the batch norms learn the means and variances that they see in one batch."""
    import torch

    kinds = (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d, torch.nn.BatchNorm3d)
    norms = [each for each in module.modules() if isinstance(each, kinds)]
    for norm in norms:
        norm.momentum = None
        norm.train()
        torch.nn.init.constant_(norm.bias, NORM_BIAS)
    with torch.no_grad():
        module(*batch)


def _download(model: TorchvisionModel, cache: Path) -> Mapping[str, Tensor]:
    """Download trained weights, or take them from where torchvision keeps its downloads."""
    import torch

    weights = _trained_weights(model)
    kept = Path(torch.hub.get_dir(), "checkpoints")
    folder = kept if (kept / Path(weights.url).name).exists() else cache / "downloads"
    try:
        with _impatient():
            state: Mapping[str, Tensor] = weights.get_state_dict(progress=False, check_hash=True, model_dir=str(folder))
    except (OSError, RuntimeError) as error:
        raise EnvironmentFault(
            f"The weights {weights} cannot be downloaded from {weights.url} ({error}). Two ways out: fetch that file "
            "where there is internet and say `weights: {path: FILE}`, or say `weights: random`: the speed is the same.",
        ) from error
    return state


@contextmanager
def _impatient() -> Iterator[None]:
    """Let connections fail that get no answer."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_SECONDS)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _read_state(file: Path) -> Mapping[str, Tensor]:
    """Read a state dict, also one that a training loop has wrapped."""
    import torch

    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        raise InferbenchError(
            f"{file} is not a file of weights: expected a state dict as torch.save writes it, "
            f"found {artifacts.beginning(file)}.",
        ) from error
    for wrapper in ("state_dict", "model"):
        content = content[wrapper] if isinstance(content, Mapping) and wrapper in content else content
    if not isinstance(content, Mapping) or not all(isinstance(each, torch.Tensor) for each in content.values()):
        raise InferbenchError(
            f"{file} holds a {type(content).__name__}; expected a state dict: tensors by their names."
        )
    return {name.removeprefix("module."): tensor for name, tensor in content.items()}


def _without_training_heads(model: TorchvisionModel, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Return the weights as far as inference needs them, if they fit."""
    heads = ("aux1.", "aux2.", "AuxLogits.") if model.name in INCEPTIONS else ()
    kept = {name: tensor for name, tensor in state.items() if not name.startswith(heads)} if heads else dict(state)
    try:
        _skeleton(model, kept)[0].load_state_dict(kept, assign=True)
    except RuntimeError as error:
        raise InferbenchError(f"These weights are not those of a {model.name}: {str(error)[:500]}") from error
    return kept


# ---- a Python factory ----------------------------------------------------------------------------


def _from_factory(model: ModelSpec, folder: Path) -> nn.Module:
    """Let a factory make a model, from the same random state wherever it is called."""
    import torch

    if model.python is None:
        raise Unsupported("NoTorchModule: an ONNX file holds no PyTorch module.")
    module_name, _, function = model.python.factory.partition(":")
    sources.require(module_name, folder)
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
    torch.manual_seed(SEED)
    module = importlib.import_module(module_name)
    if not hasattr(module, function):
        raise InferbenchError(f"spec.model.python.factory names the function {function}; {module.__file__} has none.")
    made = getattr(module, function)(**model.python.kwargs)
    if not isinstance(made, torch.nn.Module):
        raise InferbenchError(f"{model.python.factory} returned a {type(made).__name__}; expected a torch.nn.Module.")
    return made
