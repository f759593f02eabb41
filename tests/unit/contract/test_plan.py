import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inferbench_contract import document
from inferbench_contract import plan as plans
from inferbench_contract.errors import PlanError
from inferbench_contract.words import Backend, Precision, Strategy
from tests.results import a_plan, asked, cell

SPECS = st.fixed_dictionaries(
    {
        "backends": st.lists(st.sampled_from(Backend), min_size=1, max_size=4, unique=True),
        "precisions": st.lists(st.sampled_from(Precision), min_size=1, max_size=3, unique=True),
        "batch_sizes": st.lists(st.integers(1, 65_536), min_size=1, max_size=64, unique=True),
        "measurement": st.builds(lambda rounds: {"rounds": rounds}, st.sampled_from([1, 2, 4])),
        "device": st.sampled_from(["cpu", "gpu"]),
    }
)

TWO_BY_TWO = {"precisions": ["fp32", "fp16"], "batch_sizes": [1, 8]}


# ---- the order -----------------------------------------------------------------------------------


def test_rounds_are_interleaved_and_every_second_one_is_reversed():
    plan = a_plan(precisions=["fp32", "fp16", "bf16"], measurement={"rounds": 4})

    order = [(sweep.round, str(sweep.strategy.precision)) for sweep in plan.sweeps]

    there, back = ["fp32", "fp16", "bf16"], ["bf16", "fp16", "fp32"]
    assert order == [(r, precision) for r, row in enumerate([there, back, there, back]) for precision in row]


def test_over_an_even_number_of_rounds_a_steady_drift_touches_all_strategies_alike():
    plan = a_plan(precisions=["fp32", "fp16", "bf16"], measurement={"rounds": 6})

    mean_place = {
        s: sum(sweep.index for sweep in plan.sweeps if sweep.strategy == s) / 6
        for s in map(Strategy.parse, plan.strategies)
    }

    assert set(mean_place.values()) == {(len(plan.sweeps) - 1) / 2}


def test_batch_sizes_ascend_whatever_their_order_in_the_file():
    """When one is out of memory, larger ones need not be tried."""
    (sweep, *_) = a_plan(batch_sizes=[32, 1, 8]).sweeps

    assert sweep.batch_sizes == (1, 8, 32)
    assert sweep.cells == (cell("fake/fp32@1"), cell("fake/fp32@8"), cell("fake/fp32@32"))


def test_strategies_stand_in_the_order_of_the_file_without_those_excluded():
    plan = a_plan(
        backends=["onnxruntime", "fake"],
        precisions=["fp32", "fp16"],
        exclude=[{"backend": "fake", "precision": "fp32"}, {"backend": "onnxruntime", "precision": "fp16"}],
    )

    assert plan.strategies == ("onnxruntime/fp32", "fake/fp16")


@pytest.mark.parametrize(("batch_sizes", "expected"), [(1, [1]), (32, [32]), (33, [32, 1]), (64, [32, 32])], ids=str)
def test_a_sweep_has_at_most_as_many_cells_as_fit_into_a_result(batch_sizes, expected):
    plan = a_plan(batch_sizes=list(range(1, batch_sizes + 1)), measurement={"rounds": 1})

    assert [len(sweep.batch_sizes) for sweep in plan.sweeps] == expected


@given(SPECS)
@settings(max_examples=50)
def test_every_supported_cell_is_measured_once_in_every_round(spec):
    plan = a_plan(**spec)

    times = Counter((sweep.round, cell) for sweep in plan.sweeps for cell in sweep.cells)

    every = {(b, p, size) for b in spec["backends"] for p in spec["precisions"] for size in spec["batch_sizes"]}
    found = [*plan.measurable_cells, *plan.unsupported_cells]
    assert times == Counter((r, cell) for r in range(plan.rounds) for cell in plan.measurable_cells)
    assert len(found) == len(every)
    assert {(c.strategy.backend, c.strategy.precision, c.batch_size) for c in found} == every
    assert [sweep.index for sweep in plan.sweeps] == list(range(len(plan.sweeps)))
    assert all(1 <= len(sweep.batch_sizes) <= 32 for sweep in plan.sweeps)


def test_what_a_backend_cannot_do_has_a_reason_and_no_sweep():
    plan = a_plan(backends=["fake", "tensorrt"], precisions=["fp32"], batch_sizes=[1, 8])

    assert {str(sweep.strategy) for sweep in plan.sweeps} == {"fake/fp32"}
    assert list(plan.unsupported_cells) == [cell("tensorrt/fp32@1"), cell("tensorrt/fp32@8")]
    assert set(plan.unsupported_cells.values()) == {"NeedsGpu: TensorRT runs on NVIDIA GPUs only."}


def test_a_plan_may_have_nothing_to_measure():
    plan = a_plan(backends=["tensorrt"])

    assert (plan.sweeps, plan.measurable_cells) == ((), ())
    assert plans.load(plan.dump(), "plan.json") == plan


# ---- the hash ------------------------------------------------------------------------------------


def test_the_same_spec_gives_the_same_plan_in_another_process_with_other_hashes_of_strings():
    program = "from tests.results import a_plan; print(a_plan(**" + repr(TWO_BY_TWO | MANY_MAPPINGS) + ").dump())"

    dumps = {
        subprocess.run(
            [sys.executable, "-c", program],
            env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(["", *sys.path])},
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()
        for seed in ("1", "2")
    }

    assert dumps == {a_plan(**TWO_BY_TWO, **MANY_MAPPINGS).dump()}


def test_the_plan_of_the_demo_has_the_hash_that_readme_shows_on_every_machine_and_python():
    """Whoever changes it makes all results that people have unfit to go on with: it has to be meant, and told."""
    root = Path(__file__).parents[3]

    demo = plans.expand(document.read(root / "examples/demo.yaml"))

    assert set(re.findall(r"demo-([0-9a-f]{10})", (root / "README.md").read_text())) == {demo.short_hash}


MANY_MAPPINGS = {
    "backends": ["fake", "onnxruntime"],
    "backend_options": {
        "fake": {"seed": 3, "callMicroseconds": 5},
        "onnxruntime": {"interOpThreads": 2, "cudaGraph": False},
    },
    "accuracy": {"minTop1Agreement": {"fp32": "99%", "fp16": "98%"}},
}
MAPPINGS_TURNED_ROUND = {
    "backends": ["fake", "onnxruntime"],
    "backend_options": {
        "onnxruntime": {"cudaGraph": False, "interOpThreads": 2},
        "fake": {"callMicroseconds": 5, "seed": 3},
    },
    "accuracy": {"minTop1Agreement": {"fp16": "98%", "fp32": "99%"}},
}


def test_the_order_of_keys_and_of_batch_sizes_in_the_file_says_nothing():
    plan = a_plan(precisions=["fp32", "fp16"], batch_sizes=[8, 1], **MAPPINGS_TURNED_ROUND)

    assert plan == a_plan(**TWO_BY_TWO, **MANY_MAPPINGS)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"objective": {"metric": "throughput"}}, id="objective"),
        pytest.param({"objective": {"batchSize": 8}}, id="objective's batch size"),
        pytest.param({"baseline": {"backend": "fake", "precision": "fp16"}}, id="baseline"),
        pytest.param({"expectations": [{"name": "a", "faster": "fake/fp16", "than": "fake/fp32"}]}, id="expectations"),
        pytest.param({"max_failed_cells": 3}, id="maxFailedCells"),
        pytest.param({"accuracy": {"onViolation": "Report"}}, id="what happens to an inaccurate cell"),
    ],
)
def test_what_only_judges_measures_nothing_again(change):
    assert a_plan(**TWO_BY_TWO, **change).hash == a_plan(**TWO_BY_TWO).hash


@pytest.mark.parametrize(
    "change",
    [
        {"parallelism": 2},
        {"suspend": True},
        {"queue_name": "gpu-queue"},
        {"cache": {"persistentVolumeClaim": "claim"}},
        {"retries": 5},
        {"ttl_seconds_after_finished": 60},
        {"image": "registry.example/runner:2"},
        {"pod_template": {"metadata": {"labels": {"team": "a"}}}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_only_says_where_and_when_sweeps_start_measures_nothing_again(change):
    assert a_plan(**TWO_BY_TWO, **change).hash == a_plan(**TWO_BY_TWO).hash


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"model": {"torchvision": {"name": "resnet18", "weights": "random"}}}, id="model"),
        pytest.param({"model": {"torchvision": {"name": "resnet50", "weights": "DEFAULT"}}}, id="weights"),
        pytest.param({"device": "gpu"}, id="device"),
        pytest.param({"batch_sizes": [1, 9]}, id="batch sizes"),
        pytest.param({"precisions": ["fp32", "bf16"]}, id="precisions"),
        pytest.param({"precisions": ["fp16", "fp32"]}, id="order of strategies, which is the order of measuring"),
        pytest.param({"cpu": {"threads": 1}}, id="threads"),
        pytest.param({"backend_options": {"fake": {"seed": 2}}}, id="options of a backend"),
        pytest.param({"measurement": {"rounds": 6}}, id="rounds"),
        pytest.param({"measurement": {"contract": "end-to-end"}}, id="contract"),
        pytest.param({"measurement": {"layout": "channels-last"}}, id="layout of images"),
        pytest.param({"measurement": {"maxSecondsPerCell": 4}}, id="seconds per cell"),
        pytest.param({"measurement": {"warmupMaxSeconds": 9}}, id="seconds of warming up"),
        pytest.param({"quantization": {"calibration": "entropy"}}, id="how ranges are found"),
        pytest.param({"accuracy": {"minTop1Agreement": {"fp16": "90%"}}}, id="accuracy that the runner asks for"),
        pytest.param({"timeout_seconds_per_sweep": 60}, id="the time after which a sweep is given up"),
    ],
)
def test_what_changes_numbers_or_outcomes_is_another_plan(change):
    assert a_plan(**TWO_BY_TWO | change).hash != a_plan(**TWO_BY_TWO).hash


def test_why_something_is_unsupported_is_not_hashed():
    """So words may become clearer, and what was measured stays measured."""
    plan = a_plan(backends=["fake", "tensorrt"])
    other_words = json.loads(plan.dump()) | {"unsupported": {"tensorrt/fp32": "NeedsGpu: in other words."}}

    assert a_plan(backends=["fake"]).hash == plan.hash
    assert plans.load(json.dumps(other_words), "plan.json").hash == plan.hash


def test_the_name_of_a_benchmark_is_not_in_its_plan():
    renamed = asked(**TWO_BY_TWO).model_copy(update={"metadata": {"name": "another", "labels": {"team": "a"}}})

    assert plans.expand(renamed).hash == a_plan(**TWO_BY_TWO).hash


def test_the_short_hash_is_the_beginning_of_a_sha256():
    plan = a_plan()

    assert len(plan.hash) == 64
    assert plan.short_hash == plan.hash[:10]


# ---- on paper ------------------------------------------------------------------------------------


@given(SPECS)
@settings(max_examples=25)
def test_a_plan_that_is_read_back_is_the_same(spec):
    plan = a_plan(**spec)

    again = plans.load(plan.dump(), "plan.json")

    assert again == plan
    assert again.sweeps == plan.sweeps
    assert again.dump() == plan.dump()


def test_a_plan_that_is_read_back_lists_what_it_leaves_out_in_the_same_order():
    """So that `run` and `report` do."""
    plan = a_plan(backends=["torch-eager", "openvino"], precisions=["fp8", "tf32"], device="cpu", batch_sizes=[1, 8])

    assert [*plans.load(plan.dump(), "plan.json").unsupported_cells] == [*plan.unsupported_cells]
    assert [*plan.unsupported] != sorted(plan.unsupported)


def test_a_plan_is_one_line_of_plain_text():
    text = a_plan(model={"onnx": {"path": "modèles/réseau.onnx"}}).dump()

    assert text.isascii()
    assert len(text.splitlines()) == 1


def test_the_plan_of_twelve_strategies_in_four_rounds_fits_into_a_job():
    """8 kB in the Job's template."""
    plan = a_plan(
        backends=["fake", "torch-eager"],
        precisions=["fp32", "tf32", "bf16"],
        device="gpu",
        batch_sizes=list(range(1, 17)),
    )

    assert len(plan.dump()) < 8_000


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda plan: plan["batchSizes"].append(9), id="a batch size more"),
        pytest.param(lambda plan: plan["sweeps"].pop(), id="a sweep less"),
        pytest.param(lambda plan: plan["sweeps"].reverse(), id="another order"),
        pytest.param(lambda plan: plan["strategies"].reverse(), id="exchanged strategies"),
        pytest.param(lambda plan: plan["work"]["measurement"].update(maxSecondsPerCell=2), id="less time for a cell"),
        pytest.param(lambda plan: plan["work"].update(threads=1), id="other threads"),
        pytest.param(lambda plan: plan.update(hash="0" * 64), id="another hash"),
    ],
)
def test_a_plan_that_was_changed_is_refused(change):
    content = json.loads(a_plan(**TWO_BY_TWO).dump())
    change(content)

    with pytest.raises(PlanError, match=r"folder/plan\.json was changed after it was written.*--fresh"):
        plans.load(json.dumps(content), "folder/plan.json")


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="nothing"),
        pytest.param("{", id="half of one"),
        pytest.param("[1, 2]", id="something else"),
        pytest.param("\0" * 100, id="zeros, as after a crash of the machine"),
        pytest.param("[" * 100_000, id="deep nesting"),
        pytest.param(a_plan().dump().replace('"schemaVersion":1', '"schemaVersion":2'), id="another version"),
        pytest.param(a_plan().dump().replace('"device":"cpu"', '"device":"abacus"'), id="an unknown word"),
        pytest.param(
            a_plan().dump().replace('"strategies":["fake/fp32"]', '"strategies":["fake"]'), id="half a strategy"
        ),
        pytest.param(a_plan().dump().replace('"unsupported":{}', '"unsupported":{"a/b":""}'), id="an unknown strategy"),
        pytest.param(a_plan().dump().replace("[0,0,0,1]", "[1,0,0,1]", 1), id="a strategy that it does not have"),
        pytest.param(a_plan().dump().replace("[0,0,0,1]", "[0,0,0,2]", 1), id="a batch size that it does not have"),
        pytest.param(a_plan().dump().replace("[0,0,0,1]", "[0,0,1,1]", 1), id="a sweep of nothing"),
    ],
)
def test_what_is_no_plan_is_refused_with_the_way_out(text):
    with pytest.raises(PlanError, match=r"folder/plan\.json.*--fresh"):
        plans.load(text, "folder/plan.json")
