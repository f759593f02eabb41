"""Lower precisions end to end: the graph is prepared, converted in a process of its own, timed and judged."""

from __future__ import annotations

import csv

import pytest

from inferbench_contract.words import Device, Precision
from inferbench_runner.backends import openvino
from tests.programs import Place, place
from tests.runner import shared, tiny

PATIENCE_SECONDS = 400
"""A model, its graphs and eight processes; this only ends a test that hangs."""

LIMITS = {"fp32": (0, 10_000), "fp16": (50_000, 10_000_000), "bf16": (500_000, 80_000_000)}
"""How far an answer may be from fp32 in parts per billion: each precision shows what it is by its error."""


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """The rows of cells.csv by strategy, of a small residual network on this processor."""
    cache = {"INFERBENCH_CACHE": str(shared.cache())}
    with place(tmp_path_factory.mktemp("precisions"), cache) as here:
        file = here.write(
            model=tiny.a_model(here.folder, planes=16).model_dump(mode="json", exclude_none=True),
            backends=["onnxruntime", "openvino"],
            precisions=["fp32", "bf16", "fp16", "int8-static"],
            cpu={"threads": 1},
            backendOptions={},
        )
        done = here.run("run", file, "--output", here.folder / "out", patience_seconds=PATIENCE_SECONDS)
    assert done.returncode == 0, done.stdout + done.stderr
    return rows_of(here)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_eight_bits_are_measured_on_the_graph_that_was_converted_for_the_processor(rows, backend):
    row = rows[f"{backend}/int8-static"]

    assert row["outcome"] == "Measured"
    assert 1_000_000 < int(row["relative_l2_parts_per_billion"]) < 150_000_000


@pytest.mark.parametrize("strategy", ["onnxruntime/fp32", "openvino/fp32", "openvino/fp16", "openvino/bf16"])
def test_a_precision_is_measured_as_what_it_is_or_not_at_all(rows, strategy):
    row, precision = rows[strategy], Precision(strategy.partition("/")[2])

    if (reason := openvino.missing(precision, Device.CPU)) is not None:
        assert (row["outcome"], row["reason"]) == ("Unsupported", reason)
    else:
        low, high = LIMITS[precision]
        assert row["outcome"] == "Measured"
        assert low <= int(row["relative_l2_parts_per_billion"]) < high


def test_what_would_be_cast_up_is_unsupported(rows):
    assert rows["onnxruntime/fp16"]["outcome"] == "Unsupported"
    assert rows["onnxruntime/fp16"]["reason"].startswith("UpCast: ")


def test_the_error_against_fp64_tells_rounding_in_another_order_from_a_lower_precision(rows):
    """ONNX Runtime's fp32 is as exact as PyTorch's, to within a factor of three; eight bits lose four digits."""
    exact, coarse = (int(rows[f"onnxruntime/{each}"]["error_ratio_milli"]) for each in ("fp32", "int8-static"))

    assert 300 < exact < 3_000
    assert coarse > 1000 * exact


def rows_of(here: Place) -> dict[str, dict[str, str]]:
    """Return the rows of cells.csv."""
    with (here.folder / "out/cells.csv").open() as file:
        return {f"{row['backend']}/{row['precision']}": row for row in csv.DictReader(file)}
