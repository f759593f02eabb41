"""Fixtures of the tests that start real processes, and what makes them quick."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import programs
from tests.programs import Place

# Inductor asks the compiler whether it knows this processor's vectors, once in each cache, by programs that take longer
# than our models do, and many tests have a cache of their own. Every g++ since 11 knows them.
os.environ["TORCHINDUCTOR_VEC_ISA_OK"] = "1"

# Beside other tests, a thread of PyTorch's that waits for another one takes a CPU from those who have work.
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"

LONGEST = (
    "test_torch_cuda_lowering.py",
    "test_int8_static.py",
    "test_promises.py",
    "test_bad_days.py",
    "test_export.py",
    "test_backends.py",
    "test_export_int8.py",
    "test_convert.py",
    "test_prepare.py",
    "test_pod.py",
    "test_run.py",
    "test_gpu_benchmarks.py",
    "test_torch_flags.py",
    "test_tensorrt_rtx.py",
    "test_bad_models.py",
    "test_layout.py",
)
"""They begin first: a file is one worker's, which makes its fixtures once, and a long one at the end is waited for."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files that take longest first."""
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """A folder to run the program in; the test fails if a process is left behind."""
    with programs.place(tmp_path) as made:
        yield made
