"""The operator's own metrics: what each verb adds, in both formats, and that the loop's lag is seen."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from inferbench_operator.metrics import PREFIX, Metrics
from inferbench_operator.results_page import FAMILIES, Published, ResultsPage
from inferbench_operator.settings import ResultsDetail
from inferbench_operator.workqueue import Queue
from tests import virtual_time
from tests.builders import a_benchmark

ROOT = Path(__file__).resolve().parents[3]

OPENMETRICS = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.2,*/*;q=0.1"
"""What Prometheus sends, since version 2.5."""


def samples(metrics, name):
    """The samples of a name, by their labels."""
    text, _ = metrics.render()
    found = [sample for family in parse_text(text.decode()) for sample in family.samples]
    return {tuple(sorted(s.labels.items())): s.value for s in found if s.name == f"{PREFIX}_{name}"}


def test_it_says_which_version_runs():
    (labels,) = samples(Metrics(), "build_info")

    assert [name for name, _ in labels] == ["kopf_version", "version"]


@pytest.mark.parametrize(
    ("accept", "parse", "content_type"),
    [
        ("", parse_text, "text/plain; version=0.0.4; charset=utf-8"),
        ("text/html", parse_text, "text/plain; version=0.0.4; charset=utf-8"),
        ("application/openmetrics-text; version=new", parse_text, "text/plain; version=0.0.4; charset=utf-8"),
        (OPENMETRICS, parse_openmetrics, "application/openmetrics-text; version=1.0.0; charset=utf-8"),
    ],
)
def test_it_is_written_in_the_format_that_is_asked_for(accept, parse, content_type):
    metrics = Metrics()
    metrics.count_error("Conflict")

    text, told = metrics.render(accept)

    assert told.startswith(content_type)
    assert {f"{PREFIX}_reconcile_errors", f"{PREFIX}_build"} <= {
        family.name.removesuffix("_info") for family in parse(text.decode())
    }


def test_a_request_is_counted_by_verb_resource_and_status():
    metrics = Metrics()
    metrics.count_request("patch", "inferencebenchmarks/status", 200, 0.01)
    metrics.count_request("patch", "inferencebenchmarks/status", 200, 0.03)
    metrics.count_request("get", "configmaps", 0, 30)

    counts = samples(metrics, "api_request_duration_seconds_count")
    sums = samples(metrics, "api_request_duration_seconds_sum")

    patched = (("code", "200"), ("resource", "inferencebenchmarks/status"), ("verb", "patch"))
    silent = (("code", "0"), ("resource", "configmaps"), ("verb", "get"))
    assert counts == {patched: 2, silent: 1}
    assert sums[patched] == pytest.approx(0.04)


def test_a_look_is_timed_even_if_it_fails():
    metrics = Metrics()
    with contextlib.suppress(ValueError), metrics.reconciling():
        raise ValueError
    metrics.count_error("ValueError")

    assert samples(metrics, "reconcile_duration_seconds_count") == {(): 1}
    assert samples(metrics, "reconcile_errors_total") == {(("reason", "ValueError"),): 1}


def test_a_rejected_result_is_counted_by_its_reason():
    metrics = Metrics()

    metrics.count_rejected("NotJson")

    assert samples(metrics, "results_rejected_total") == {(("reason", "NotJson"),): 1}


def test_the_queue_is_shown_as_it_is_when_somebody_looks():
    now = [0.0]
    queue, metrics = Queue(lambda: now[0]), Metrics()
    metrics.follow_queue(queue)
    before = samples(metrics, "queue_depth")
    queue.add(("team-a", "one"))
    queue.add(("team-a", "two"))
    now[0] = 3.0

    assert before == {(): 0}
    assert samples(metrics, "queue_depth") == {(): 2}
    assert samples(metrics, "queue_oldest_seconds") == {(): 3}
    assert samples(metrics, "reconcile_oldest_seconds") == {(): 0}


def test_what_is_counted_elsewhere_is_asked_for_when_somebody_looks():
    metrics, jobs = Metrics(), {"Active": 1}
    metrics.follow("jobs", "Jobs of benchmarks, by state.", "state", lambda: jobs)

    assert samples(metrics, "jobs") == {(("state", "Active"),): 1}
    jobs.update(Active=0, Complete=1)
    assert samples(metrics, "jobs") == {(("state", "Active"),): 0, (("state", "Complete"),): 1}


def test_what_is_followed_is_not_asked_before_somebody_looks():
    def not_yet():
        raise AssertionError("the caches are not filled yet")

    Metrics().follow("jobs", "Jobs of benchmarks, by state.", "state", not_yet)


def test_the_page_of_results_is_measured():
    page, metrics = ResultsPage(ResultsDetail.CELLS, 0), Metrics()
    metrics.follow_page(page)
    page.put("team-a", "resnet50", Published(a_benchmark().spec))

    assert samples(metrics, "results_series") == {(): 1}
    assert samples(metrics, "results_truncated") == {(): 0}


def test_a_loop_that_is_held_up_is_noticed():
    async def main():
        metrics = Metrics()
        watching = asyncio.create_task(metrics.watch_lag())
        await asyncio.sleep(2.1)
        in_time = metrics.last_lag_seconds
        await asyncio.sleep(0.1)
        virtual_time.running_loop().now += 3.0  # something computes
        await asyncio.sleep(0.01)
        late = metrics.last_lag_seconds
        watching.cancel()
        return in_time, late, samples(metrics, "event_loop_lag_seconds_bucket")[(("le", "2.0"),)]

    in_time, late, quick = virtual_time.run(main())

    assert in_time == pytest.approx(0)
    assert late == pytest.approx(2.7)
    assert quick == 4


def test_nothing_is_told_about_when_a_metric_began():
    metrics = Metrics()
    metrics.count_error("Conflict")

    assert b"_created" not in metrics.render()[0]
    assert b"_created" not in metrics.render(OPENMETRICS)[0]


def test_every_metric_of_the_operator_stands_in_the_documentation():
    text = (ROOT / "docs/metrics.md").read_text(encoding="utf-8")
    queue, metrics, page = Queue(lambda: 0.0), Metrics(), ResultsPage(ResultsDetail.ALL, 0)
    metrics.follow_queue(queue)
    metrics.follow_page(page)
    told = {family.name for family in parse_text(metrics.render()[0].decode())}
    told |= {family.name for families in FAMILIES.values() for family in families}

    missing = [name for name in told if not name.startswith("process_") and f"`{name}" not in text]

    assert len(told) > 30
    assert missing == []
