"""What Prometheus gets from a runner pod, read with its own client's parser."""

from __future__ import annotations

import re

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

from inferbench_contract.words import Outcome
from inferbench_runner import exporter
from inferbench_runner.gpu import Reading
from inferbench_runner.live import Live
from tests.results import a_plan, a_result, ended, measured

PLAN = a_plan(batch_sizes=[1, 8, 32], precisions=["fp16"])
READING = Reading(
    at_ns=1,
    sm_mhz=1_980,
    memory_mhz=3_201,
    temperature_celsius=45,
    power_milliwatts=350_500,
    memory_used_bytes=1 << 30,
    busy_percent=97,
)


def a_live():
    """A sweep in its second cell, which reports 100 calls of 2 ms; the first had one call too long for any bucket."""
    shown = Live(PLAN.sweeps[0], a_result(PLAN))
    shown.deliver(a_result(PLAN, 0, [measured(1, latency_ms=20_000, samples=1)], in_flight=8, hardware='A "card", 1'))
    shown.hear({"stage": "measuring", "batchSize": 8, "calls": 100, "latencyNanoseconds": 2_000_000})
    shown.see(READING)
    return shown


def text_of(shown, generate=generate_latest):
    registry = CollectorRegistry()
    registry.register(exporter.Families(shown))
    return generate(registry).decode()


def samples(text, read=parse):
    """Return every sample by its name and labels."""
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in read(text)
        for sample in family.samples
    }


def test_a_scrape_tells_the_sweep_the_cell_and_how_far_it_is():
    found = samples(text_of(a_live()))

    info = {"hardware": 'A "card", 1', "plan": PLAN.short_hash, "round": "0", "strategy": "fake/fp16", "sweep": "0"}
    cell = {"backend": "fake", "batch_size": "8", "precision": "fp16", "stage": "measuring"}
    assert found["inferbench_runner_info", *info.items()] == 1
    assert found["inferbench_runner_cell_info", *cell.items()] == 1
    assert found["inferbench_runner_progress_ratio",] == pytest.approx(1 / 3)


def test_every_outcome_has_its_count_also_when_it_is_zero():
    """So that a query for crashes has an answer before the first one."""
    shown = a_live()
    shown.deliver(a_result(PLAN, 0, [measured(1), ended(Outcome.CRASHED, 8), ended(Outcome.CRASHED, 32)]))

    found = samples(text_of(shown))

    counts = {outcome: found["inferbench_runner_cells", ("outcome", outcome)] for outcome in Outcome}
    assert counts == dict.fromkeys(Outcome, 0) | {Outcome.MEASURED: 1, Outcome.CRASHED: 2}


def test_the_histogram_is_cumulative_and_in_seconds():
    found = samples(text_of(a_live()))

    name = "inferbench_runner_call_duration_seconds"
    buckets = {
        float(dict(labels)["le"]): value
        for (kind, *labels), value in found.items()
        if kind == f"{name}_bucket" and ("batch_size", "8") in labels
    }
    assert list(buckets) == [1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1, 3, 10, float("inf")]
    assert list(buckets.values()) == [0, 0, 0] + [100] * 9
    assert found[f"{name}_count", ("batch_size", "8")] == 100
    assert found[f"{name}_sum", ("batch_size", "8")] == pytest.approx(0.2)
    assert found[f"{name}_bucket", ("batch_size", "1"), ("le", "10.0")] == 0
    assert found[f"{name}_bucket", ("batch_size", "1"), ("le", "+Inf")] == 1


def test_the_gpu_is_told_in_base_units():
    found = samples(text_of(a_live()))

    assert {name.removeprefix("inferbench_runner_gpu_"): found[name,] for name, *_ in found if "_gpu_" in name} == {
        "utilization_ratio": 0.97,
        "memory_used_bytes": 1 << 30,
        "temperature_celsius": 45,
        "power_watts": 350.5,
        "sm_clock_hertz": 1.98e9,
        "memory_clock_hertz": 3.201e9,
    }


def test_what_the_gpu_does_not_tell_is_not_shown():
    shown = a_live()
    shown.see(Reading(at_ns=1, temperature_celsius=45))

    assert [name for name, *_ in samples(text_of(shown)) if "_gpu_" in name] == [
        "inferbench_runner_gpu_temperature_celsius"
    ]


def test_before_anything_has_happened_there_is_something_to_scrape():
    found = samples(text_of(Live(PLAN.sweeps[0], a_result(PLAN))))

    assert found["inferbench_runner_progress_ratio",] == 0


def test_openmetrics_is_understood_too():
    plain, open_ = samples(text_of(a_live())), samples(text_of(a_live(), generate_openmetrics), parse_openmetrics)

    assert open_ == plain


def test_no_pod_has_more_series_than_its_cells_explain():
    """Three single ones, one for each outcome, the GPU's, and 14 of a histogram for each batch size."""
    most = a_plan(batch_sizes=list(range(1, 33)))
    shown = Live(most.sweeps[0], a_result(most))
    shown.deliver(a_result(most, 0, [measured(size) for size in range(1, 33)]))
    shown.see(READING)

    assert len(samples(text_of(shown))) == 3 + len(Outcome) + len(exporter.GPU) + 14 * 32


def test_names_have_the_prefix_base_units_and_help():
    """What promtool checks, for where it is not installed."""
    families = list(parse(text_of(a_live())))

    assert all(family.name.startswith("inferbench_runner") for family in families)
    assert all(re.search(r"\.$", family.documentation) for family in families)
    for family in families:
        assert not re.search(r"_(ms|milliseconds|mhz|mib|percent|milliwatts|total)(_|$)", family.name)
