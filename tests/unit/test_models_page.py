"""benchmarks/models.py, which writes docs/results/models.md: it judges as cells are judged, and misses no graph."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

ROOT = Path(__file__).resolve().parents[2]

CONVERTED = (
    "onnxruntime-cpu-int8-dynamic",
    "onnxruntime-cpu-int8-static",
    "onnxruntime-cuda-fp16",
    "onnxruntime-cuda-bf16",
    "tensorrt-fp16",
    "tensorrt-bf16",
    "tensorrt-int8-static",
    "tensorrt-fp8",
    "openvino-int8-static",
)
BUILT = ("fp32", "int8+fp16")

NEAR = {"examples": "16", "relative_l2": "0.0009", "worst_cosine": "0.99999", "top1_agreement": "0.5"}


def write(folder, model, converted=CONVERTED, built=BUILT, **found):
    """Write what pytest does of a model; `found` is what is noted of its fp8."""
    suite = ET.Element("testsuite")
    for graph in converted:
        name = f"test_a_converted_graph_is_valid_and_near_to_fp32[{graph}-{model}]"
        noted = ET.SubElement(ET.SubElement(suite, "testcase", name=name), "properties")
        for key, value in (NEAR | (found if graph == "tensorrt-fp8" else {})).items():
            ET.SubElement(noted, "property", name=key, value=value)
    for graph in built:
        ET.SubElement(suite, "testcase", name=f"test_the_builder_takes_the_graph[{graph}-{model}]")
    ET.ElementTree(suite).write(folder / f"{model}.xml")


def printed(folder, *names):
    """Run the script as `make test-models` does."""
    command = [sys.executable, "benchmarks/models.py", folder, *names]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_a_graph_comes_out_as_its_cell_would(tmp_path):
    """The converters allow fp8 more than a cell is allowed; half of 16 first choices mean nothing, of 256 they do."""
    write(tmp_path, "swin_t", relative_l2="0.08", worst_cosine="0.996")
    write(tmp_path, "densenet121", relative_l2="0.19", worst_cosine="0.975")
    write(tmp_path, "resnet50", examples="256")

    done = printed(tmp_path, "swin_t", "densenet121", "resnet50")

    assert done.returncode == 0, done.stderr
    assert "| swin_t | tensorrt-fp8 | 0.08 | 0.99600 |  | Measured | ok |" in done.stdout
    assert "| densenet121 | tensorrt-fp8 | 0.19 | 0.97500 |  | Inaccurate | ok |" in done.stdout
    assert "| resnet50 | tensorrt-fp8 | 0.0009 | 0.99999 | 50.0% | Inaccurate | ok |" in done.stdout


@pytest.mark.parametrize(
    ("written", "told"),
    [
        pytest.param(
            {}, "fp32 for TensorRT-RTX, int8+fp16 for TensorRT-RTX, onnxruntime-cpu-int8-dynamic, ", id="no file"
        ),
        pytest.param(
            {"converted": CONVERTED[:-1], "built": BUILT}, "openvino-int8-static: its", id="a file without a graph"
        ),
        pytest.param(
            {"built": BUILT[:1]}, "int8+fp16 for TensorRT-RTX: its process died", id="a file without an engine"
        ),
    ],
)
def test_a_model_whose_process_left_less_than_the_others_is_named(tmp_path, written, told):
    write(tmp_path, "resnet50")
    if written:
        write(tmp_path, "swin_t", **written)

    done = printed(tmp_path, "resnet50", "swin_t")

    assert done.returncode == 1, done.stderr
    assert f"* swin_t was not judged in {told}" in done.stdout
    assert "resnet50 was not judged" not in done.stdout
