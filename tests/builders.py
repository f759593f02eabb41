"""Builders that say only what a test is about: what is not given is some small valid thing."""

from __future__ import annotations

from typing import Any

from inferbench_contract.spec import InferenceBenchmark

SMALL = {
    "model": "{torchvision: {name: resnet50, weights: random}}",
    "device": "cpu",
    "backends": "[torch-eager, onnxruntime]",
    "batchSizes": "[1, 8]",
}


def a_document(**fields: str | None) -> str:
    """YAML of a small benchmark. Fields of the spec are YAML text; None leaves one out. `spec` begins in line 4."""
    spec = {name: text for name, text in {**SMALL, **fields}.items() if text is not None}
    head = "apiVersion: inferbench.dev/v1alpha1\nkind: InferenceBenchmark\nmetadata: {name: example}\nspec:\n"
    return head + "".join(f"  {name}: {text}\n" for name, text in spec.items())


def a_benchmark(name: str = "example", **fields: Any) -> InferenceBenchmark:
    """A small benchmark. Fields of the spec in snake_case, as Python values or as what JSON has for them."""
    small = {"model": {"torchvision": {"name": "resnet50", "weights": "random"}}, "device": "cpu"}
    spec = {**small, "backends": ("torch-eager", "onnxruntime"), "batch_sizes": (1, 8), **fields}
    head = {"api_version": "inferbench.dev/v1alpha1", "kind": "InferenceBenchmark"}
    return InferenceBenchmark.model_validate({**head, "metadata": {"name": name}, "spec": spec})
