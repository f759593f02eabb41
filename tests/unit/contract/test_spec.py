"""What a benchmark may say, and what it means where it says nothing."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from inferbench_contract import capabilities
from inferbench_contract.spec import (
    MAX_CELL_ROUNDS,
    MAX_CELLS,
    InferenceBenchmark,
    MeasurementSpec,
)
from inferbench_contract.words import Backend, Device, ModelSource, Precision
from tests.builders import a_benchmark


def test_a_benchmark_that_says_little_gets_four_rounds_at_fp32_on_a_gpu():
    spec = a_benchmark(device="gpu").spec

    assert spec.device is Device.GPU
    assert spec.precisions == (Precision.FP32,)
    assert spec.measurement == MeasurementSpec(rounds=4, max_seconds_per_cell=3, warmup_max_seconds=8)
    assert (spec.parallelism, spec.retries, spec.timeout_seconds_per_sweep, spec.max_failed_cells) == (1, 1, 1800, 0)


def test_batch_sizes_are_put_in_ascending_order():
    """When a cell is out of memory, the larger ones of its sweep need not be tried."""
    assert a_benchmark(batch_sizes=(32, 1, 8)).spec.batch_sizes == (1, 8, 32)


def test_strategies_are_every_backend_at_every_precision_less_the_excluded():
    excluded = {"backend": "onnxruntime", "precision": "fp32"}

    spec = a_benchmark(precisions=("fp32", "bf16"), exclude=[excluded]).spec

    assert [str(s) for s in spec.strategies] == ["torch-eager/fp32", "torch-eager/bf16", "onnxruntime/bf16"]


@pytest.mark.parametrize(
    ("fields", "baseline"),
    [
        pytest.param({"backends": ("onnxruntime", "torch-eager")}, "torch-eager/fp32", id="eager wherever it stands"),
        pytest.param({"backends": ("torch-compile", "onnxruntime")}, "onnxruntime/fp32", id="else onnxruntime"),
        pytest.param({"model": {"onnx": {"path": "m.onnx"}}}, "onnxruntime/fp32", id="an ONNX file has no eager"),
        pytest.param({"backends": ("tensorrt", "fake")}, "fake/fp32", id="else the first that can be measured"),
        pytest.param({"backends": ("tensorrt",)}, "tensorrt/fp32", id="else the first"),
        pytest.param(
            {"baseline": {"backend": "onnxruntime", "precision": "fp32"}}, "onnxruntime/fp32", id="as it says"
        ),
    ],
)
def test_the_baseline_is_the_one_that_people_know_unless_the_file_names_another(fields, baseline):
    assert str(a_benchmark(**fields).spec.baseline_strategy) == baseline


def test_a_model_knows_its_source_and_whether_its_answers_mean_anything():
    trained = a_benchmark(model={"torchvision": {"name": "resnet50"}}).spec.model
    read = a_benchmark(model={"torchvision": {"name": "resnet50", "weights": {"path": "w.pth"}}}).spec.model
    of_onnx = a_benchmark(model={"onnx": {"path": "m.onnx"}}).spec.model

    assert (trained.source, of_onnx.source) == (ModelSource.TORCHVISION, ModelSource.ONNX)
    assert a_benchmark().spec.model.has_random_weights
    assert not any(model.has_random_weights for model in (trained, read, of_onnx))


def test_a_benchmark_is_as_large_as_allowed_and_no_larger():
    """Counted by arithmetic: nothing is expanded to find out."""
    eight = [backend.value for backend in Backend]
    allowed = {"backends": eight, "precisions": ("fp32", "fp16"), "batch_sizes": range(1, 63)}  # 992 cells

    assert len(a_benchmark(**allowed).spec.strategies) * 62 <= MAX_CELLS
    assert 992 * a_benchmark(**allowed).spec.measurement.rounds <= MAX_CELL_ROUNDS
    with pytest.raises(ValidationError, match="16 strategies x 63 batch sizes = 1,008 cells"):
        a_benchmark(**{**allowed, "batch_sizes": range(1, 64)})
    with pytest.raises(ValidationError, match="992 cells x 6 rounds = 5,952, expected at most 4,000"):
        a_benchmark(**allowed, measurement={"rounds": 6})


def test_a_benchmark_survives_json_under_either_spelling():
    expectation = {"name": "e", "faster": "onnxruntime/fp32", "than": "torch-eager/fp32"}
    benchmark = a_benchmark(expectations=[expectation], accuracy={"min_top1_agreement": {"fp32": "99%"}})

    assert InferenceBenchmark.model_validate_json(benchmark.model_dump_json()) == benchmark
    assert InferenceBenchmark.model_validate(benchmark.model_dump(mode="json", by_alias=True)) == benchmark


def test_a_benchmark_does_not_change_after_it_was_read():
    with pytest.raises(ValidationError, match="frozen"):
        a_benchmark().spec.device = Device.GPU


def test_every_measured_baseline_can_be_measured():
    for device in Device:
        spec = a_benchmark(device=device, backends=[b.value for b in Backend]).spec
        assert capabilities.support(spec.baseline_strategy, device, spec.model.source) is None
