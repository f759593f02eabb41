"""/results: what a benchmark tells, that both formats read back, and that the page keeps within its bounds."""

from __future__ import annotations

import gzip
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from inferbench_contract import plan as plans
from inferbench_contract.summary import summarize
from inferbench_contract.words import Outcome
from inferbench_operator.results_page import CHUNK_BYTES, FAMILIES, Published, ResultsPage
from inferbench_operator.settings import ResultsDetail
from tests.builders import a_benchmark
from tests.results import (
    COMPILED,
    EAGER,
    ONNXRUNTIME,
    TRAINED,
    asked,
    compared,
    ended,
    measured,
    results_for,
    three_backends,
)

STARTED = datetime(2026, 11, 25, 20, 0, tzinfo=UTC)
COMPLETED = STARTED + timedelta(minutes=5)
MANY = 1_000_000
OPENMETRICS = "application/openmetrics-text;version=1.0.0"

LATENCY_MS = {EAGER: 30, COMPILED: 20, ONNXRUNTIME: 10}


def published(benchmark=None, latency_of=None, **fields):
    """A benchmark of three backends at batch sizes 1 and 8, finished: ONNX Runtime takes 10 ms a batch."""
    benchmark = benchmark or three_backends(batch_sizes=[1, 8])
    plan = plans.expand(benchmark)
    told = latency_of or (lambda strategy, size, _: measured(size, LATENCY_MS[strategy] * size, memory_mib=100))
    summary = summarize(benchmark, plan, results_for(plan, told, hardware="NVIDIA L4, driver 580.1, 72 W"))
    return Published(benchmark.spec, summary, **fields)


def finished(**fields):
    conditions = {"Accepted": "True", "Succeeded": "True", "Finished": "True", "QuotaReserved": "Unknown"}
    return published(
        conditions=conditions, started=STARTED, completed=COMPLETED, succeeded=COMPLETED, image="r:1", **fields
    )


def a_page(detail=ResultsDetail.ALL, max_series=MANY, **told):
    page = ResultsPage(detail, max_series)
    for name, what in told.items():
        page.put("team-a", name, what)
    return page


def samples(page, name):
    """The samples of a name: values by the labels beyond namespace and benchmark."""
    found = [sample for family in parse_text(page.render().decode()) for sample in family.samples]
    return {
        tuple(value for label, value in s.labels.items() if label not in {"namespace", "benchmark"}): s.value
        for s in found
        if s.name == f"inferbench_{name}"
    }


def names(text, parse=parse_text):
    return [family.name for family in parse(text.decode())]


# ---- what a benchmark tells ----------------------------------------------------------------------


def test_a_benchmark_says_what_it_measures_and_on_what():
    page = a_page(resnet=finished())

    (family,) = [family for family in parse_text(page.render().decode()) if family.name == "inferbench_benchmark_info"]
    (sample,) = family.samples
    assert sample.labels.pop("plan")
    assert sample.labels == {
        "namespace": "team-a",
        "benchmark": "resnet",
        "model": "resnet50",
        "device": "cpu",
        "hardware": "NVIDIA L4, driver 580.1, 72 W",
        "gpu_product": "NVIDIA L4",
        "driver_version": "580.1",
        "baseline": "torch-eager/fp32",
        "image": "r:1",
    }


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ({"torchvision": {"name": "resnet50"}}, "resnet50"),
        ({"onnx": {"path": "models/a.onnx"}}, "models/a.onnx"),
        ({"python": {"factory": "my.models:make"}, "inputs": [{"name": "x", "shape": [1]}]}, "my.models:make"),
    ],
)
def test_a_model_is_named_by_its_source(model, expected):
    page = a_page(ResultsDetail.BENCHMARK, it=Published(a_benchmark(backends=["onnxruntime"], model=model).spec))

    assert expected in next(iter(samples(page, "benchmark_info")))


def test_conditions_are_1_or_0_and_what_is_unknown_is_not_told():
    page = a_page(it=published(conditions={"Succeeded": "False", "Finished": "True", "QuotaReserved": "Unknown"}))

    assert samples(page, "benchmark_condition") == {("Succeeded",): 0, ("Finished",): 1}


def test_times_are_seconds_since_1970():
    page = a_page(it=finished())

    assert samples(page, "benchmark_last_start_timestamp_seconds") == {(): STARTED.timestamp()}
    assert samples(page, "benchmark_last_completion_timestamp_seconds") == {(): COMPLETED.timestamp()}
    assert samples(page, "benchmark_last_success_timestamp_seconds") == {(): COMPLETED.timestamp()}
    assert samples(page, "benchmark_last_duration_seconds") == {(): 300}


def test_what_has_not_happened_has_no_time():
    page = a_page(it=published(started=STARTED))

    assert samples(page, "benchmark_last_success_timestamp_seconds") == {}
    assert samples(page, "benchmark_last_duration_seconds") == {}


def test_cells_are_counted_by_outcome():
    def told(strategy, size, _):
        if strategy == ONNXRUNTIME:
            return ended(Outcome.OUT_OF_MEMORY, size)
        return None if strategy == COMPILED and size == 8 else measured(size)

    page = a_page(it=published(latency_of=told))

    assert samples(page, "benchmark_cells") == {("Measured",): 3, ("OutOfMemory",): 2, ("Missing",): 1}


def test_a_benchmark_that_measured_nothing_says_so():
    page = a_page(it=published(latency_of=lambda *_: None))

    assert samples(page, "benchmark_cells") == {("Measured",): 0, ("Missing",): 6}
    assert samples(page, "benchmark_best_info") == {}
    assert samples(page, "cell_latency_median_seconds") == {}
    assert samples(page, "benchmark_sweeps_planned") == {(): 12}
    assert samples(page, "benchmark_sweeps_finished") == {(): 0}


def test_the_objectives_choice_is_named_with_its_numbers():
    page = a_page(it=finished())

    assert samples(page, "benchmark_best_info") == {("onnxruntime", "fp32", "1"): 1}
    assert samples(page, "benchmark_best_latency_median_seconds") == {(): 0.01}
    assert samples(page, "benchmark_best_throughput_inputs_per_second") == {(): 100}
    assert samples(page, "benchmark_best_speedup_ratio") == {(): 3}


def test_expectations_are_counted_by_judgement():
    expectations = [
        {"name": "true", "faster": "onnxruntime/fp32", "than": "torch-eager/fp32"},
        {"name": "false", "faster": "torch-eager/fp32", "than": "onnxruntime/fp32"},
    ]

    page = a_page(it=published(three_backends(batch_sizes=[1, 8], expectations=expectations)))

    assert samples(page, "benchmark_expectations") == {("Holds",): 1, ("DoesNotHold",): 1}


def test_every_cell_has_its_numbers_in_base_units():
    page = a_page(it=finished())

    latency = samples(page, "cell_latency_median_seconds")
    assert latency[("onnxruntime", "fp32", "1")] == 0.01
    assert latency[("torch-eager", "fp32", "8")] == 0.24
    assert len(latency) == 6
    assert samples(page, "cell_throughput_inputs_per_second")[("onnxruntime", "fp32", "8")] == 100
    assert samples(page, "cell_latency_low_seconds")[("onnxruntime", "fp32", "1")] == 0.01
    assert samples(page, "cell_speedup_ratio")[("torch-compile", "fp32", "1")] == 1.5
    assert samples(page, "cell_memory_peak_bytes")[("torch-compile", "fp32", "1")] == 100 * 2**20


def test_a_cells_p99_is_the_largest_of_its_rounds():
    def told(_, size, round_):
        return measured(size, latency_p99_ns=(1 + round_) * 1_000_000)

    page = a_page(it=published(asked(), told))

    assert samples(page, "cell_latency_p99_seconds") == {("fake", "fp32", "1"): 0.004}


def test_the_energy_of_an_input_is_told_of_cells_where_it_was_counted():
    """300 W at 4,000 inputs a second are 75 mJ an input."""

    def told(strategy, size, _):
        milliwatts = 300_000 if strategy == ONNXRUNTIME else None
        return measured(size, throughput_milli_per_second=4_000_000, power_milliwatts=milliwatts)

    page = a_page(it=published(three_backends(), told))

    assert samples(page, "cell_energy_joules_per_input") == {("onnxruntime", "fp32", "1"): 0.075}
    assert b"energy" not in a_page(it=finished()).render()


def test_how_near_a_cell_stays_to_fp32_is_told_and_its_agreement_where_it_is_judged():
    def told(strategy, size, _):
        return measured(size, LATENCY_MS[strategy], **(compared(0.97) if strategy == ONNXRUNTIME else compared()))

    trained, random = (a_page(it=published(three_backends(**model), told)) for model in ({"model": TRAINED}, {}))

    key = ("onnxruntime", "fp32", "1")
    assert samples(trained, "cell_relative_l2_ratio")[key] == 0.031
    assert samples(trained, "cell_top1_agreement_ratio") == {key: 0.97}
    assert len(samples(random, "cell_relative_l2_ratio")) == 3
    assert samples(random, "cell_top1_agreement_ratio") == {}


def test_the_clock_of_a_gpu_is_told_where_it_was_read():
    page = a_page(
        it=published(asked(), lambda _, size, round_: measured(size, sm_clock_mhz=(1980, 1200, 1700, 1700)[round_]))
    )

    assert samples(page, "cell_gpu_sm_clock_hertz") == {("fake", "fp32", "1"): 1.7e9}


def test_the_baseline_has_no_speedup():
    speedups = samples(a_page(it=finished()), "cell_speedup_ratio")

    assert {backend for backend, _, _ in speedups} == {"torch-compile", "onnxruntime"}


def test_a_cell_that_failed_in_one_round_has_no_numbers():
    """Who sorts by latency should not be led to what crashes in one process of four."""

    def told(_, size, round_):
        return ended(Outcome.CRASHED, size) if round_ == 2 else measured(size)

    page = a_page(it=published(asked(), told))

    assert samples(page, "cell_latency_median_seconds") == {}
    assert samples(page, "benchmark_cells") == {("Measured",): 0, ("Crashed",): 1}


def test_without_its_results_a_benchmark_tells_what_stands_in_its_status():
    page = a_page(it=Published(a_benchmark().spec, None, "r:1", {"Succeeded": "True"}, STARTED, COMPLETED, COMPLETED))

    assert samples(page, "benchmark_condition") == {("Succeeded",): 1}
    assert samples(page, "benchmark_last_duration_seconds") == {(): 300}
    assert samples(page, "benchmark_cells") == {}


@pytest.mark.parametrize(
    ("detail", "cells"),
    [
        (ResultsDetail.BENCHMARK, set()),
        (ResultsDetail.CELLS, {"latency_median_seconds", "throughput_inputs_per_second"}),
        (
            ResultsDetail.ALL,
            {
                "latency_median_seconds",
                "throughput_inputs_per_second",
                "latency_low_seconds",
                "latency_high_seconds",
                "speedup_ratio",
                "memory_peak_bytes",
            },
        ),
    ],
)
def test_the_detail_decides_what_is_told_of_cells(detail, cells):
    found = names(a_page(detail, it=finished()).render())

    assert {name for name in found if name.startswith("inferbench_cell_")} == {
        f"inferbench_cell_{name}" for name in cells
    }
    assert "inferbench_benchmark_info" in found


# ---- the two formats -----------------------------------------------------------------------------


def test_an_empty_page_is_valid():
    page = a_page()

    assert page.render() == b""
    assert page.render(OPENMETRICS) == b"# EOF\n"


def test_the_content_type_is_that_of_the_format():
    page = a_page(it=finished())

    assert page.snapshot().content_type == "text/plain; version=0.0.4; charset=utf-8"
    assert page.snapshot(OPENMETRICS).content_type == "application/openmetrics-text; version=1.0.0; charset=utf-8"


def test_both_formats_hold_the_same_samples():
    page = a_page(one=finished(), two=finished())

    text = [sample for family in parse_text(page.render().decode()) for sample in family.samples]
    openmetrics = [s for family in parse_openmetrics(page.render(OPENMETRICS).decode()) for s in family.samples]

    assert [(s.name, s.labels, s.value) for s in text] == [(s.name, s.labels, s.value) for s in openmetrics]
    assert len(text) == page.series


def test_an_info_is_called_by_each_formats_rules():
    page = a_page(it=finished())

    assert b"# TYPE inferbench_benchmark_info gauge\n" in page.render()
    assert b"# TYPE inferbench_benchmark info\n" in page.render(OPENMETRICS)


@pytest.mark.parametrize("accept", ["", OPENMETRICS])
def test_a_family_stands_together_however_many_benchmarks_there_are(accept):
    page = a_page(one=finished(), two=finished(), three=published())
    page.put("team-a", "one", published())
    page.put("team-b", "one", finished())

    lines = page.render(accept).decode().splitlines()
    heads = Counter(line for line in lines if line.startswith("# TYPE"))
    order = [line.split("{")[0] for line in lines if not line.startswith("#")]

    assert set(heads.values()) == {1}
    assert sorted(order, key=order.index) == order


def test_names_end_with_base_units():
    """As `promtool check metrics` wants it: seconds, bytes, ratio, and no suffix that belongs to a counter."""
    for family in (family for families in FAMILIES.values() for family in families):
        parts = family.name.split("_")
        assert not {"ms", "milliseconds", "ns", "mib", "percent", "total", "count", "sum", "bucket"} & set(parts)
        if {"latency", "duration", "timestamp"} & set(parts):
            assert parts[-1] == "seconds"
        assert family.documentation.endswith(".")


LABELS = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\x85\u2028\u2029"), max_size=20)


@given(st.one_of(LABELS, st.sampled_from(['say "hi"', "back\\slash", "two\nlines", '\\"', "\\n", "}{,="])))
def test_whatever_a_label_holds_reads_back(image):
    page = a_page(it=published(image=image))

    for text, parse in ((page.render(), parse_text), (page.render(OPENMETRICS), parse_openmetrics)):
        every = [sample for family in parse(text.decode()) for sample in family.samples]
        (info,) = [sample for sample in every if sample.name == "inferbench_benchmark_info"]
        assert info.labels["image"] == image


# ---- the page ------------------------------------------------------------------------------------


def test_what_is_dropped_is_not_told_any_more():
    page, alone = a_page(one=finished(), two=finished()), a_page(two=finished())

    page.drop("team-a", "one")

    assert page.render() == alone.render()
    assert page.series == alone.series


def test_dropping_what_is_not_there_changes_nothing():
    page = a_page(one=finished())
    before = page.render()

    page.drop("team-a", "two")
    page.drop("team-b", "one")

    assert page.render() == before


def test_the_same_name_in_two_namespaces_is_two_benchmarks():
    page = a_page(one=finished())
    page.put("team-b", "one", published())

    page.drop("team-a", "one")

    assert b'namespace="team-b"' in page.render()
    assert b'namespace="team-a"' not in page.render()


def test_what_is_put_again_replaces_what_was_told():
    page, fresh = a_page(one=finished()), a_page(one=published())

    page.put("team-a", "one", published())

    assert page.render() == fresh.render()
    assert page.series == fresh.series


DETAILS = {"none": Published(a_benchmark().spec), "running": published(), "finished": finished()}
EVENTS = st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from([*DETAILS, "gone"])), max_size=12)


@given(EVENTS, st.integers(0, 120))
def test_the_page_depends_on_what_is_there_and_counts_it_right(events, max_series):
    page, there = ResultsPage(ResultsDetail.CELLS, max_series), {}
    for name, event in events:
        if event == "gone":
            page.drop("team-a", name)
            there.pop(name, None)
        else:
            page.put("team-a", name, DETAILS[event])
            there[name] = DETAILS[event]

    lines = [line for line in page.render().decode().splitlines() if not line.startswith("#")]
    assert page.series == len(lines)
    assert {line.split('benchmark="')[1][0] for line in lines} == set(there)
    assert {name for _, name in page.truncated} <= {name for name, what in there.items() if what.summary}
    with_cells = {line.split('benchmark="')[1][0] for line in lines if line.startswith("inferbench_cell_")}
    assert with_cells == {name for name, what in there.items() if what.summary} - {n for _, n in page.truncated}


def test_beyond_the_limit_the_newest_tell_no_cells():
    room = a_page(ResultsDetail.CELLS, one=finished(), two=finished()).series
    page = ResultsPage(ResultsDetail.CELLS, room)

    for name in ("one", "two", "three"):
        page.put("team-a", name, finished())

    assert page.truncated == {("team-a", "three")}
    assert len(samples(page, "benchmark_info")) == 1, "which all three tell, told apart by labels left out here"
    assert page.render().count(b"inferbench_benchmark_info{") == 3
    assert page.render().count(b"inferbench_cell_latency_median_seconds{") == 12


def test_who_has_its_cells_on_the_page_keeps_them():
    page = ResultsPage(ResultsDetail.CELLS, 0)
    page._max_series = a_page(ResultsDetail.CELLS, one=finished()).series
    page.put("team-a", "one", finished())
    page.put("team-a", "two", finished())
    page.put("team-a", "one", finished())

    assert page.truncated == {("team-a", "two")}


def test_when_another_is_gone_who_was_left_out_first_has_room_again():
    page = ResultsPage(ResultsDetail.CELLS, a_page(ResultsDetail.CELLS, one=finished(), two=finished()).series - 1)
    page.put("team-a", "one", finished())
    page.put("team-a", "two", finished())
    page.put("team-a", "three", finished())

    assert page.drop("team-a", "one") == (("team-a", "two"),)
    page.put("team-a", "two", finished())
    assert page.truncated == {("team-a", "three")}
    assert page.drop("team-a", "three") == ()


def test_chunks_are_the_page_and_none_is_large():
    page = a_page(**{f"b{i}": finished() for i in range(200)})
    rendered = page.snapshot()

    chunks = list(rendered.chunks())

    assert b"".join(chunks) == page.render()
    assert sum(map(len, chunks)) == rendered.size
    assert len(chunks) > 1
    assert max(map(len, chunks)) < 2 * CHUNK_BYTES


def test_compressed_chunks_are_the_page_too():
    page = a_page(**{f"b{i}": finished() for i in range(200)})

    chunks = list(page.snapshot().compressed_chunks())

    assert gzip.decompress(b"".join(chunks)) == page.render()
    assert len(chunks) > 2


def test_a_snapshot_stays_what_it_was_while_benchmarks_come_and_go():
    page = a_page(one=finished())
    rendered, before = page.snapshot(), page.render()

    page.drop("team-a", "one")
    page.put("team-a", "two", published())

    assert b"".join(rendered.chunks()) == before
