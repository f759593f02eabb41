"""Runs the exported model on the inputs in check.npz, and compares its answers with what fp32 answers to them.

    python check.py

Needs what load.py needs. The last line begins with OK (exit status 0: as accurate as this precision has to be) or with
WRONG (1: it is not).
"""

from __future__ import annotations

import json
import runpy
import sys
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent

CALLS = 6
"""Each with the examples in other places: a library that records its first calls and replays them, as CUDA graphs do,
must read the inputs of each."""

REPLAYED = 3
"""Of the calls, which come after any that are recorded."""

Arrays = Mapping[str, np.ndarray[Any, Any]]


def main() -> int:
    """Run some batches and print, for each output, how far it is from the reference at worst."""
    told = json.loads((HERE / "model.json").read_text())
    model = runpy.run_path(str(HERE / "load.py"))["load"]()
    with np.load(HERE / "check.npz") as kept:
        examples = {name: kept[name] for name in kept.files}
    batches = [{name: filled(examples[name], told["batchSize"], call) for name in examples} for call in range(CALLS)]
    fed, expected = ([picked(batch, kind, told[f"{kind}s"]) for batch in batches] for kind in ("input", "output"))
    found = [{name: np.array(array) for name, array in model(inputs).items()} for inputs in fed]
    if is_stale(found, expected):
        print("WRONG: the outputs stayed the same when the inputs changed")  # noqa: T201
        return 1
    errors = {name: worst(found, expected, name) for name in expected[0]}
    limit = told["accuracy"]["maxRelativeL2"]
    for name, error in errors.items():
        print(f"{name}: relative L2 error {error:.2g}, at most {limit:.2g} is expected")  # noqa: T201
    is_right = all(error <= limit for error in errors.values())
    print("OK: as accurate as this precision has to be" if is_right else "WRONG: too far from fp32")  # noqa: T201
    return 0 if is_right else 1


def filled(examples: np.ndarray[Any, Any], batch_size: int, call: int) -> np.ndarray[Any, Any]:
    """Return a whole batch: the examples again and again, in each call from another one on."""
    return examples[(call + np.arange(batch_size)) % len(examples)]


def picked(batch: Arrays, kind: str, tensors: Sequence[Mapping[str, Any]]) -> Arrays:
    """Return the inputs or the outputs of a batch by their names."""
    return {tensor["name"]: batch[f"{kind}:{tensor['name']}"] for tensor in tensors}


def is_stale(found: Sequence[Arrays], expected: Sequence[Arrays]) -> bool:
    """Tell whether each of the last calls answered what the one before it did, though something else was expected.

    A single one may: fewer bits answer examples alike that the last digits of fp32 tell apart.
    """
    pairs = zip(pairwise(found[-REPLAYED - 1 :]), pairwise(expected[-REPLAYED - 1 :]), strict=True)
    told = [same(before, now) for (before, now), (earlier, wanted) in pairs if not same(earlier, wanted)]
    return bool(told) and all(told)


def same(ours: Arrays, theirs: Arrays) -> bool:
    """Tell whether all arrays are the same."""
    return all(np.array_equal(ours[name], theirs[name]) for name in theirs)


def worst(found: Sequence[Arrays], expected: Sequence[Arrays], name: str) -> float:
    """Return the largest error of an output among all calls; a NaN is larger than any."""
    return float(np.max([relative_l2(a[name], b[name]) for a, b in zip(found, expected, strict=True)]))


def relative_l2(found: np.ndarray[Any, Any], expected: np.ndarray[Any, Any]) -> float:
    """Return the norm of the difference over the norm of what is expected."""
    a, b = found.astype(np.float64), expected.astype(np.float64)
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


if __name__ == "__main__":
    sys.exit(main())
