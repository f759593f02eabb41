"""What was measured on a GPU, handed over and run there by a process that cannot see inferbench."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from inferbench_contract.words import Backend, Precision
from tests.gpu.conftest import PATIENCE_SECONDS, inferbench, outcomes, rows_of, skip_where_missing

BATCH = 8

WITHOUT_INFERBENCH = """
import runpy, sys
for name in ("inferbench_contract", "inferbench_runner", "inferbench_cli"):
    sys.modules[name] = None
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""Runs a program as Python does, but that importing any of these fails as if it were not installed. What the program
needs may lie where variables point to, as the libraries of a GPU often do, so Python is not told to ignore them."""


def checked(folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the check of an exported folder as a stranger would."""
    theirs = {name: value for name, value in os.environ.items() if not name.startswith("INFERBENCH_")}
    command = [sys.executable, "-P", "-c", WITHOUT_INFERBENCH, folder / "check.py"]
    return subprocess.run(
        command, cwd=folder.parent, env=theirs, capture_output=True, text=True, check=False, timeout=PATIENCE_SECONDS
    )


@pytest.mark.parametrize(
    ("backend", "options"),
    [
        pytest.param(Backend.TENSORRT, {}, id="tensorrt"),
        pytest.param(Backend.TENSORRT, {"cudaGraph": True}, id="tensorrt, replayed as a cuda graph"),
        pytest.param(Backend.ONNXRUNTIME, {}, id="onnxruntime"),
        pytest.param(Backend.TORCH_COMPILE, {}, id="torch-compile"),
    ],
)
def test_what_was_measured_on_a_gpu_answers_as_fp32_does_without_inferbench(
    results, cache, driver, tmp_path, backend, options
):
    skip_where_missing(backend, Precision.FP16)
    handed, strategy = tmp_path / "handed", f"{backend}/fp16"
    measured = results(
        backends=[str(backend)], precisions=["fp16"], batchSizes=[BATCH], backendOptions={str(backend): options}
    )

    done = inferbench(cache, "export", measured, "--batch-size", BATCH, "--strategy", strategy, "--output", handed)
    found = checked(handed)

    assert done.returncode == 0, (outcomes(rows_of(measured)), done.stderr)
    assert found.returncode == 0, found.stdout + found.stderr
    assert found.stdout.splitlines()[-1] == "OK: as accurate as this precision has to be"
    told = json.loads((handed / "model.json").read_text())
    assert (told["cell"], told["device"], told["gpu"]["name"]) == (f"{strategy}@{BATCH}", "gpu", driver.name)
