"""The model that is measured: from torchvision, from an ONNX file, or made by a Python function."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Self

from pydantic import Discriminator, Field, Tag, model_validator

from inferbench_contract.fields import (
    MAX_ITEMS,
    Factory,
    FilePath,
    FreeMapping,
    InputName,
    Integer,
    Model,
    ModelName,
    WeightsName,
)
from inferbench_contract.places import Mistakes
from inferbench_contract.words import ModelSource


class WeightsFile(Model):
    """Weights in a file that torch.save wrote: a state dict, loaded with `weights_only`."""

    path: FilePath
    """The file: relative to the YAML file, in a pod to the models volume."""


RANDOM_WEIGHTS = "random"


def _kind_of_weights(value: object) -> str:
    return "<file>" if isinstance(value, Mapping | WeightsFile) else "<name>"


Weights = Annotated[
    Annotated[WeightsName, Tag("<name>")] | Annotated[WeightsFile, Tag("<file>")], Discriminator(_kind_of_weights)
]


class TorchvisionModel(Model):
    """A model of torchvision's."""

    name: ModelName
    """Its name in torchvision.models."""
    weights: Weights = "DEFAULT"
    """DEFAULT or another name of the model's weights (downloaded), random (seeded, batch norms calibrated), {path}."""


class OnnxModel(Model):
    """A model in an ONNX file."""

    path: FilePath
    """The file: relative to the YAML file, in a pod to the models volume."""


class PythonModel(Model):
    """A model that a Python function makes."""

    factory: Factory
    """`module:function`; the function returns a torch.nn.Module. The module's folder has to be importable."""
    kwargs: FreeMapping = {}  # noqa: RUF012 (pydantic copies a default)
    """Keyword arguments of the function."""


class Dtype(StrEnum):
    """Element types of inputs."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    INT64 = "int64"
    INT32 = "int32"
    UINT8 = "uint8"
    BOOL = "bool"


class InputSpec(Model):
    """One input of the model."""

    name: InputName
    """Its name; in an ONNX file the graph's."""
    shape: Annotated[tuple[Annotated[Integer, Field(ge=1, le=65_536)], ...], Field(max_length=8)]
    """Its shape without the batch dimension, which is the first."""
    dtype: Dtype = Dtype.FLOAT32
    """Its element type; floats follow the precision of the strategy."""


class ModelSpec(Model):
    """What is measured: exactly one of torchvision, onnx, python."""

    torchvision: TorchvisionModel | None = None
    """A model of torchvision's."""
    onnx: OnnxModel | None = None
    """A model in an ONNX file."""
    python: PythonModel | None = None
    """A model that a Python function makes; its inputs have to be given."""
    inputs: Annotated[tuple[InputSpec, ...], Field(max_length=MAX_ITEMS)] = ()
    """The inputs, where the source does not know them: torchvision does, an ONNX file of fixed shapes too."""

    @property
    def source(self) -> ModelSource:
        """Which of the three it is."""
        return next(source for source in ModelSource if getattr(self, source) is not None)

    @property
    def has_random_weights(self) -> bool:
        """Whether its answers mean nothing, so that their top-1 is not looked at."""
        return self.torchvision is not None and self.torchvision.weights == RANDOM_WEIGHTS

    @model_validator(mode="after")
    def _has_one_source(self) -> Self:
        given = [str(source) for source in ModelSource if getattr(self, source) is not None]
        if len(given) != 1:
            found = " and ".join(given) or "none of them"
            raise Mistakes({(): f"found {found}, expected exactly one of {', '.join(ModelSource)}."})
        if self.python is not None and not self.inputs:
            raise Mistakes(
                {("inputs",): "found none, expected the name, shape and dtype of each: a function tells none."}
            )
        return self
