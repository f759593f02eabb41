"""TensorRT on a real GPU, as users run it: what tests/runner/test_tensorrt.py had to leave to a GPU."""

from __future__ import annotations

import json

import pytest

from inferbench_contract.capabilities import support
from inferbench_contract.words import Backend, Device, ModelSource, Precision, Strategy
from inferbench_runner.backends import tensorrt
from inferbench_runner.backends._tensorrt_plans import LAYERS, NOTES, PLANS
from tests.gpu.conftest import all_measured, error, has_the_four_numbers, outcomes, skip_where_missing

PRECISIONS = [
    precision
    for precision in Precision
    if support(Strategy(Backend.TENSORRT, precision), Device.GPU, ModelSource.TORCHVISION) is None
]

END_TO_END = {"rounds": 1, "maxSecondsPerCell": 1, "warmupMaxSeconds": 2, "contract": "end-to-end"}


@pytest.fixture(scope="module", autouse=True)
def library():
    """The test is skipped where TensorRT is not installed."""
    skip_where_missing(Backend.TENSORRT, Precision.FP32)


def only(*, with_graph=False, **spec):
    return {"backends": ["tensorrt"], "backendOptions": {"tensorrt": {"cudaGraph": with_graph}}, **spec}


@pytest.fixture(scope="module")
def floats(run):
    return run(**only(precisions=["fp32", "tf32", "fp16"]))


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("with_graph", [False, True], ids=["plain", "cuda graph"])
def test_every_precision_that_is_said_to_work_works(run, precision, with_graph):
    skip_where_missing(Backend.TENSORRT, precision)
    rows = run(**only(with_graph=with_graph, precisions=[str(precision)], batchSizes=[1, 32]))

    assert all_measured(rows), outcomes(rows)
    assert all(map(has_the_four_numbers, rows.values()))


def test_fp32_is_fp32(floats):
    """TensorRT uses TF32 unless its flag is cleared."""
    assert error(floats, "tensorrt/fp32@8") < 20_000
    assert error(floats, "tensorrt/tf32@8") > 5 * error(floats, "tensorrt/fp32@8")


def test_a_replayed_graph_computes_the_same(run, floats):
    rows = run(**only(with_graph=True, precisions=["fp16"]))
    replayed, plain = rows["tensorrt/fp16@1"], floats["tensorrt/fp16@1"]

    assert all_measured(rows), outcomes(rows)
    assert replayed["relative_l2_parts_per_billion"] == plain["relative_l2_parts_per_billion"]


def test_end_to_end_there_are_four_numbers_too(run):
    rows = run(**only(precisions=["fp32"], batchSizes=[8], measurement=END_TO_END))

    assert all_measured(rows), outcomes(rows)
    assert all(map(has_the_four_numbers, rows.values()))


def test_a_plan_is_built_once_and_says_what_it_is_made_of(run, cache, floats):
    before = {folder.name for folder in (cache / PLANS).iterdir()}

    rows = run(**only(precisions=["fp32", "tf32", "fp16"]))

    assert all_measured(rows), outcomes(rows)
    assert {folder.name for folder in (cache / PLANS).iterdir()} == before
    for folder in (cache / PLANS).iterdir():
        assert json.loads((folder / LAYERS).read_text())["Layers"]
        assert json.loads((folder / NOTES).read_text())["buildMilliseconds"] > 0


def test_the_inspector_names_the_types_that_the_precision_check_looks_for(cache, floats):
    """FellBack rests on these words, and NVIDIA has changed them between versions."""
    texts = [(folder / LAYERS).read_text().lower() for folder in (cache / PLANS).iterdir()]

    assert any(any(word in text for word in tensorrt.TYPE_WORDS[Precision.FP16]) for text in texts)
    assert all(any(word in text for word in tensorrt.ANY_TYPE_WORDS) for text in texts)
