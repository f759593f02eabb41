"""Lower precisions end to end: the graph is prepared, converted in a process of its own, timed and judged."""

from __future__ import annotations

import csv

from tests.programs import Place, place


def test_eight_bits_are_measured_on_the_graph_that_was_converted_for_the_processor(tmp_path):
    with place(tmp_path) as here:
        file = here.write(
            model={"torchvision": {"name": "resnet18", "weights": "random"}},
            backends=["onnxruntime"],
            precisions=["fp32", "int8-static", "fp16"],
            backendOptions={},
        )

        done = here.run("run", file, "--output", here.folder / "out")

    assert done.returncode == 0, done.stdout + done.stderr
    rows = {row["precision"]: row for row in rows_of(here)}
    assert rows["fp32"]["outcome"] == rows["int8-static"]["outcome"] == "Measured"
    assert int(rows["fp32"]["relative_l2_parts_per_billion"]) < 10_000
    assert 1_000_000 < int(rows["int8-static"]["relative_l2_parts_per_billion"]) < 150_000_000
    assert rows["fp16"]["outcome"] == "Unsupported"
    assert rows["fp16"]["reason"].startswith("UpCast: ")


def rows_of(here: Place) -> list[dict[str, str]]:
    """Return the rows of cells.csv."""
    with (here.folder / "out/cells.csv").open() as file:
        return list(csv.DictReader(file))
