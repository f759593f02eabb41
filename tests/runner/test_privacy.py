"""What is measured is nobody else's business: the libraries report to nobody what they run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import yaml

from tests.runner.test_onnx_models import a_file

SPEC = {
    "model": {"onnx": {"path": "tiny.onnx"}},
    "backends": ["onnxruntime", "openvino"],
    "precisions": ["fp32"],
    "batchSizes": [1],
    "device": "cpu",
    "baseline": {"backend": "onnxruntime", "precision": "fp32"},
    "measurement": {"rounds": 1, "maxSecondsPerCell": 1, "warmupMaxSeconds": 1},
}

SILENCING = ("CI", "ORT_DISABLE_TELEMETRY")
"""With one of these set the libraries would keep quiet by themselves."""


def test_a_run_leaves_no_library_a_thing_to_report(tmp_path):
    """ONNX Runtime would make a database of events and an id of the machine there, OpenVINO a counter and an id."""
    home = tmp_path / "home"
    home.mkdir()
    a_file(tmp_path)
    head = {"apiVersion": "inferbench.dev/v1alpha1", "kind": "InferenceBenchmark", "metadata": {"name": "tiny"}}
    (tmp_path / "bench.yaml").write_text(yaml.safe_dump({**head, "spec": SPEC}))
    inherited = {name: value for name, value in os.environ.items() if name not in SILENCING}
    environment = {**inherited, "HOME": str(home), "INFERBENCH_CACHE": str(tmp_path / "cache")}
    command = [Path(sys.executable).parent / "inferbench", "run", "bench.yaml", "--output", "results"]

    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
    assert list(home.rglob("*")) == []
