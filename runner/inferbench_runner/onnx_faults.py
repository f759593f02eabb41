"""What keeps an ONNX file from being measured, as far as reading it tells: nothing of it is run.

A fixed batch dimension is the hard one. `onnx_models` frees it where the graph computes the same then, which only
running it shows; but where an output has as many rows whatever goes in, its shapes show already that it will not.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ConfigDict

from inferbench_contract.errors import EnvironmentFault, InferbenchError, how_to_install
from inferbench_contract.places import Place
from inferbench_contract.spec import ModelSpec
from inferbench_runner import models, onnx_models
from inferbench_runner.backends import Unsupported, fixed_batch

PATH: Final = ("spec", "model", "onnx", "path")
INPUTS: Final = ("spec", "model", "inputs")
BATCH_SIZES: Final = ("spec", "batchSizes")


class Request(BaseModel):
    """Which file to look into, and what is to be measured of it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: ModelSpec
    model_folder: Path
    """What relative paths in the model start from."""
    batch_sizes: tuple[int, ...]


class Faults(BaseModel):
    """Sentences with their places in the benchmark."""

    model_config = ConfigDict(frozen=True)

    mistakes: tuple[tuple[Place, str], ...] = ()
    """With one of these no cell can be measured."""
    notes: tuple[tuple[Place, str], ...] = ()
    """With these some may not be."""


def find(request: Request) -> Faults:
    """Look into the file. Raises EnvironmentFault where the library is not here that reads it."""
    if importlib.util.find_spec("onnx") is None:
        raise EnvironmentFault(f"onnx is not installed. {how_to_install('runner')}")
    if request.model.onnx is None:
        raise ValueError("this model is no ONNX file")
    try:
        path = request.model.onnx.path
        graph = onnx_models.read(models.existing(request.model_folder, path, "onnx.path"), with_weights=False)
    except InferbenchError as error:
        why = " ".join(str(error).split())
        told = f'found "{path}", expected an ONNX model: {why}'
        return Faults(mistakes=((PATH, told),))
    if mistakes := tuple(_of_inputs(graph, request.model)):
        return Faults(mistakes=mistakes)
    return _of_batch(graph, request.batch_sizes)


def _of_inputs(graph: Any, model: ModelSpec) -> Iterator[tuple[Place, str]]:
    """Find what the benchmark has to say of the inputs, and does not."""
    try:
        onnx_models.tensors_in(graph, model)
    except Unsupported as error:
        yield PATH, f"found an input of another kind, expected tensors of numbers: {error}"
    except InferbenchError as error:
        given = ", ".join(each.name for each in model.inputs) or "nothing"
        yield INPUTS, f"found {given}, expected what fits the graph: {error}"


def _of_batch(graph: Any, batch_sizes: Sequence[int]) -> Faults:
    """Say what becomes of the batch sizes where the graph has one of its own."""
    fixed = onnx_models.fixed_batches(graph)
    others = [size for size in batch_sizes if set(fixed.values()) - {size}]
    if not others:
        return Faults()
    name, size = next(iter(fixed.items()))
    asked = ", ".join(map(str, others))
    if not _cannot_be_freed(graph):
        return Faults(notes=((BATCH_SIZES, _may_be_freed(name, size, asked)),))
    if len(others) < len(batch_sizes):
        return Faults(notes=((BATCH_SIZES, f"Batch {asked} will be Unsupported. {fixed_batch(name, size)}"),))
    if len(set(fixed.values())) > 1:
        return Faults(mistakes=((PATH, _of_several_sizes(fixed)),))
    return Faults(mistakes=((BATCH_SIZES, f"found {asked}, expected {size}. {fixed_batch(name, size)}"),))


def _may_be_freed(name: str, size: int, asked: str) -> str:
    return (
        f"Input {name} of the graph takes batches of {size}. A run asks the graph for other sizes, and takes them if "
        f"what it computes stays the same; if not, batch {asked} will be Unsupported (FixedBatch)."
    )


def _of_several_sizes(fixed: Mapping[str, int]) -> str:
    told = ", ".join(f"{name} ({size})" for name, size in fixed.items())
    return (
        f"found inputs that take batches of different sizes, {told}, expected one size for all. Export the model with "
        "a free first dimension (torch.onnx.export: dynamic_shapes)."
    )


def _cannot_be_freed(graph: Any) -> bool:
    """Tell whether the batch dimension stays as it is for certain; changes the graph."""
    return not onnx_models.free_batch(graph) or _has_rows_of_its_own(graph)


def _has_rows_of_its_own(graph: Any) -> bool:
    """Tell whether some output of a graph has a number of rows that does not come from its inputs."""
    import onnx

    for value in graph.graph.output:
        value.type.tensor_type.ClearField("shape")
    try:
        outputs = onnx.shape_inference.infer_shapes(graph).graph.output
    except Exception:  # noqa: BLE001 (what the library cannot infer, it does not show)
        return False
    return any(dim.dim_value for value in outputs for dim in value.type.tensor_type.shape.dim[:1])
