"""The prepare process: makes once what all cells of a model read. `python -m inferbench_runner.prepare REQUEST ANSWER`.

The supervisor asks `locate` first, which needs hashes and versions only, and starts the process when something is
missing. The process ends with status 0 whenever its answer says what came of it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from pydantic import BaseModel, ConfigDict

from inferbench_contract.accuracy import MIN_EXAMPLES_FOR_TOP1
from inferbench_contract.errors import InferbenchError
from inferbench_contract.spec import ModelSpec
from inferbench_contract.words import Backend
from inferbench_runner import (
    answers,
    artifacts,
    backends,
    environment,
    exact,
    export,
    inputs,
    models,
    onnx_models,
    photographs,
    work,
)
from inferbench_runner.backends import Arrays, Artifact
from inferbench_runner.guards import Work
from inferbench_runner.inputs import Colours, Input
from inferbench_runner.task import Artifacts

if TYPE_CHECKING:
    from torch import nn

FILES: Final = {Artifact.WEIGHTS: "weights.pt", Artifact.ONNX: onnx_models.FILE}
"""Artifacts that are one file; the others are folders of arrays."""

ORDER: Final = (Artifact.WEIGHTS, Artifact.INPUTS, Artifact.REFERENCE, Artifact.ONNX)
"""The export comes last: where it is refused, other backends have what they read."""

SHARED: Final = frozenset({Artifact.INPUTS, Artifact.REFERENCE})
"""What every backend reads that runs a model."""

TRAINED_EXAMPLES: Final = MIN_EXAMPLES_FOR_TOP1
"""Where the model is trained and chooses a class: as many as its top-1 agreement is judged by."""

OTHER_EXAMPLES: Final = 32
"""Where only distances are judged: they vary little from example to example."""

MIN_EXAMPLES: Final = 8
MAX_EXAMPLE_BYTES: Final = 2 << 30
"""Inputs and reference together. Models with large outputs (a class for each pixel) get fewer examples, at least 8."""

REFERENCE_BATCH: Final = 8
"""The reference runs in batches of this many: quicker than one by one, and little memory."""

PHOTOGRAPH_LIBRARIES: Final = ("numpy", "pillow", "scikit-image")
TORCH_LIBRARIES: Final = ("torch", "torchvision")
EXPORT_LIBRARIES: Final = ("onnx", "onnxscript")
ONNX_LIBRARIES: Final = ("onnx", "onnxruntime", "onnxruntime-gpu")
"""What decides the content of artifacts, each installed one with its version."""

MODULES: Final = tuple(
    f"inferbench_runner.{name}"
    for name in ("exact", "export", "inputs", "models", "onnx_models", "photographs", "prepare", "work")
)
"""And our own code as it is, so that a change of it makes no use of what older code made."""

IMAGE_RANK: Final = 3
"""Of an input's shape without the batch: channels, height, width. One that is longer and begins with 1 is suspect."""


class Request(BaseModel):
    """What to prepare."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: ModelSpec
    model_folder: Path
    """What relative paths in the model start from."""
    cache: Path
    artifacts: frozenset[Artifact]


def needed(model: ModelSpec, chosen: Sequence[Backend]) -> frozenset[Artifact]:
    """Return the artifacts that some backends read of a model; there are no weights beside an ONNX file."""
    every = frozenset[Artifact]().union(*(backends.find(backend).ARTIFACTS for backend in chosen))
    return every - {Artifact.WEIGHTS} if model.onnx is not None else every


def locate(request: Request) -> Artifacts | None:
    """Return the artifacts if all are in the cache and sound. Raises InferbenchError where the model's file is not."""
    keys = _keys(request)
    found = {kind: artifacts.open_entry(request.cache, kind, keys[kind]) for kind in request.artifacts}
    entries = {kind: entry for kind, entry in found.items() if entry is not None}
    return _artifacts(entries) if len(entries) == len(found) else None


def command(request: Request, request_file: Path, answer_file: Path) -> Sequence[str]:
    """Write the request, and return the command line of the process that prepares it."""
    return answers.command("inferbench_runner.prepare", request, request_file, answer_file)


def main(arguments: Sequence[str]) -> int:
    """Prepare what the request asks for and write the answer; always 0."""
    return answers.serve(arguments, Request, _made)


def make(request: Request) -> Artifacts:
    """Make here and now what is missing."""
    workshop = _Workshop(request)
    return _artifacts({kind: workshop.entry(kind) for kind in ORDER if kind in request.artifacts})


def _made(request: Request) -> Artifacts:
    """Make what is missing; on errors of a library it is noted what may be wrong with the model's shapes."""
    try:
        return make(request)
    except Exception as error:
        if suspicion := _batch_in_shape(request.model):
            error.add_note(suspicion)
        raise


@dataclass(frozen=True, slots=True)
class _Reference:
    """The model as it was given, in fp32, on the CPU (where TF32 is no question): what all else is compared with."""

    tensors: Sequence[Input]
    colours: Colours
    run: Callable[[Arrays], Arrays]


class _Workshop:
    """Makes the artifacts of one model. What several of them need is made once, when the first of them needs it."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._model = request.model
        self._keys = _keys(request)

    def entry(self, kind: Artifact) -> Path:
        """Return the folder of an artifact, which is there now."""
        return artifacts.publish(self._request.cache, kind, self._keys[kind], getattr(self, f"_write_{kind}"))

    @cached_property
    def _module(self) -> nn.Module:
        weights = self.entry(Artifact.WEIGHTS)
        return models.build(self._model, self._request.model_folder, weights / FILES[Artifact.WEIGHTS])

    @cached_property
    def _reference(self) -> _Reference:
        if self._model.onnx is not None:
            file = self.entry(Artifact.ONNX) / FILES[Artifact.ONNX]
            tensors = onnx_models.tensors_of(file, self._model)
            return _Reference(tensors, Colours(), onnx_models.function(file, tensors))
        return _Reference(*models.inputs_of(self._model), partial(models.run, self._module))

    def _write_weights(self, folder: Path) -> None:
        import torch

        self._say("making the weights of {}")
        state = models.initial_state(self._model, self._request.model_folder, self._request.cache)
        self._require_space(tensor.nbytes for tensor in state.values())
        torch.save(dict(state), folder / FILES[Artifact.WEIGHTS])

    def _write_inputs(self, folder: Path) -> None:
        self._say("making evaluation inputs for {}")
        examples = self._examples(self._example_count())
        self._require_space(array.nbytes for array in examples.values())
        artifacts.write_arrays(folder, examples)

    def _write_reference(self, folder: Path) -> None:
        examples = self.entry(Artifact.INPUTS)
        count = artifacts.example_count(examples)
        self._say(f"computing the fp32 reference of {{}} on {count} examples")
        starts = range(0, count, REFERENCE_BATCH)
        batches = [np.arange(start, min(start + REFERENCE_BATCH, count)) for start in starts]
        parts = [self._reference.run(artifacts.read_rows(examples, rows)) for rows in batches]
        outputs = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        _require_numbers(outputs)
        self._require_space(array.nbytes for array in outputs.values())
        artifacts.write_arrays(folder, outputs)
        exact.write(folder, self._exact_answers(artifacts.read_rows(examples, np.arange(min(count, exact.EXAMPLES)))))
        work.write(folder, self._work())

    def _exact_answers(self, examples: Arrays) -> Arrays:
        """Compute in fp64 what the reference's own error is measured by; the model itself stays fp32."""
        if self._model.onnx is not None:
            return exact.NO_ANSWERS
        weights = self.entry(Artifact.WEIGHTS) / FILES[Artifact.WEIGHTS]
        return exact.answers(models.build(self._model, self._request.model_folder, weights), examples)

    def _work(self) -> Work:
        """Count what the model must compute for one example."""
        if self._model.onnx is not None:
            return work.of_graph(self.entry(Artifact.ONNX) / FILES[Artifact.ONNX], onnx_models.BATCH)
        example = self._examples(1)
        return work.of_module(self._module, lambda: self._reference.run(example))

    def _write_onnx(self, folder: Path) -> None:
        if self._model.onnx is not None:
            self._say("checking {}")
            onnx_models.write(self._model, self._request.model_folder, folder)
        else:
            module = self._module
            self._say("exporting {} to ONNX")
            export.write(module, self._reference.tensors, folder)

    def _examples(self, count: int) -> Arrays:
        reference = self._reference
        return models.examples(reference.tensors, reference.colours, photographs.EVALUATION, count)

    def _example_count(self) -> int:
        """Look at one batch: how large an example is, and whether the model chooses a class."""
        probe = self._examples(1)
        outputs = self._reference.run(probe)
        chooses = any(array.ndim == 2 and array.dtype.kind == "f" for array in outputs.values())
        judged = chooses and inputs.takes_images(self._reference.tensors) and not self._model.has_random_weights
        example_bytes = sum(array.nbytes for array in (*probe.values(), *outputs.values()))
        return max(
            MIN_EXAMPLES, min(TRAINED_EXAMPLES if judged else OTHER_EXAMPLES, MAX_EXAMPLE_BYTES // example_bytes)
        )

    def _require_space(self, sizes: Iterable[int]) -> None:
        artifacts.require_space(self._request.cache, sum(sizes))

    def _say(self, doing: str) -> None:
        answers.say(doing.format(_name(self._model)))


def _keys(request: Request) -> Mapping[Artifact, str]:
    """Hash, for each artifact, everything that decides its content."""
    model = models.identity(request.model, request.model_folder)
    libraries = (*PHOTOGRAPH_LIBRARIES, *(TORCH_LIBRARIES if request.model.onnx is None else ONNX_LIBRARIES))
    more = {Artifact.ONNX: EXPORT_LIBRARIES}
    besides = {Artifact.REFERENCE: {"exact": exact.EXAMPLES}}

    def content(kind: Artifact) -> dict[str, Any]:
        makers = environment.makers(MODULES, (*libraries, *more.get(kind, ())))
        return {"kind": kind, "model": model, **makers, **besides.get(kind, {})}

    return {kind: artifacts.key(content(kind)) for kind in Artifact}


def _artifacts(entries: Mapping[Artifact, Path]) -> Artifacts:
    return Artifacts(**{kind: entry / FILES.get(kind, "") for kind, entry in entries.items()})


def _name(model: ModelSpec) -> str:
    if model.torchvision is not None:
        return model.torchvision.name
    return model.onnx.path if model.onnx is not None else model.python.factory if model.python is not None else ""


def _require_numbers(outputs: Arrays) -> None:
    broken = [name for name, array in outputs.items() if not np.isfinite(array).all()]
    if broken:
        raise InferbenchError(
            f"The fp32 reference has NaN or infinity in {', '.join(broken)}: nothing can be compared with it. "
            "Look at the weights and the inputs of the model.",
        )


def _batch_in_shape(model: ModelSpec) -> str:
    """Name the shapes that may hold the batch dimension: the commonest reason why a model refuses its inputs."""
    suspects = [each for each in model.inputs if len(each.shape) > IMAGE_RANK and each.shape[0] == 1]
    if not suspects:
        return ""
    told = ", ".join(f"{each.name} is {list(each.shape)}" for each in suspects)
    return f". In spec.model.inputs {told}: leave out the batch dimension, if the 1 is that."


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
