"""Runs the exported model on the inputs in check.npz, and compares its answers with what fp32 answers to them.

    python check.py

Needs what load.py needs. Exit status 0: as accurate as this precision has to be; 1: not.
"""

from __future__ import annotations

import json
import runpy
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent


def main() -> int:
    """Run a batch and print, for each output, how far it is from the reference."""
    told = json.loads((HERE / "model.json").read_text())
    load = runpy.run_path(str(HERE / "load.py"))["load"]
    with np.load(HERE / "check.npz") as kept:
        arrays = {name: filled(kept[name], told["batchSize"]) for name in kept.files}
    outputs = load()({each["name"]: arrays[f"input:{each['name']}"] for each in told["inputs"]})
    errors = {name: relative_l2(outputs[name], arrays[f"output:{name}"]) for name in names(told["outputs"])}
    limit = told["accuracy"]["maxRelativeL2"]
    for name, error in errors.items():
        print(f"{name}: relative L2 error {error:.2g}, at most {limit:.2g} is expected")  # noqa: T201
    return 0 if all(error <= limit for error in errors.values()) else 1


def names(tensors: list[Mapping[str, Any]]) -> list[str]:
    """Return the names of described tensors."""
    return [tensor["name"] for tensor in tensors]


def filled(examples: np.ndarray[Any, Any], batch_size: int) -> np.ndarray[Any, Any]:
    """Return a whole batch: the examples again and again."""
    return examples[np.arange(batch_size) % len(examples)]


def relative_l2(found: np.ndarray[Any, Any], expected: np.ndarray[Any, Any]) -> float:
    """Return the norm of the difference over the norm of what is expected."""
    a, b = found.astype(np.float64), expected.astype(np.float64)
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


if __name__ == "__main__":
    sys.exit(main())
