"""What the operator tells about itself on /metrics: how busy, how late, what it asked of the API server, what failed.

Results are not here: they are many, and `results_page` serves them. docs/metrics.md names every metric.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from inferbench_contract import __version__
from inferbench_operator.results_page import ResultsPage
from inferbench_operator.workqueue import Queue

PREFIX = "inferbench_operator"

RECONCILE_BUCKETS = (0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 60.0)
"""A look that finds nothing to do takes about 1 ms, one with writes some 20 ms, one at a busy server seconds."""

REQUEST_BUCKETS = (0.005, 0.02, 0.1, 0.5, 2.0, 10.0)
"""Few, because each is a series for every verb, resource and status; 30 s is where a request is given up."""

LAG_BUCKETS = (0.005, 0.02, 0.1, 0.5, 2.0)
"""A loop that is late by more than 0.1 s shows in everything that the operator does."""

LAG_PERIOD_SECONDS = 0.5
"""Two looks at the clock in a second cost nothing, and miss no pause that anybody would notice."""

Counts = Callable[[], Mapping[str, float]]
"""Tells numbers by the value of a label, whenever it is asked."""


class Metrics:
    """The operator's own metrics, in a registry of their own."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a series for each series, which no dashboard shows
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        Info(f"{PREFIX}_build", "Versions of the operator and of kopf.", registry=self.registry).info(
            {"version": __version__, "kopf_version": version("kopf")}
        )
        self._reconciles = self._histogram(
            "reconcile_duration_seconds", "Time of one look at a benchmark, its writes included.", RECONCILE_BUCKETS
        )
        self._errors = self._counter(
            "reconcile_errors", "Looks at a benchmark that ended by an error, by its reason.", "reason"
        )
        self._requests = self._histogram(
            "api_request_duration_seconds",
            "Requests to the API server, kopf's included; code 0 is no answer. Of a watch the time until it is open.",
            REQUEST_BUCKETS,
            "verb",
            "resource",
            "code",
        )
        self._rejected = self._counter(
            "results_rejected", "Termination messages that were not accepted as results, by reason.", "reason"
        )
        self._lag = self._histogram(
            "event_loop_lag_seconds", "How late the event loop was when it was to do something.", LAG_BUCKETS
        )
        self.last_lag_seconds = 0.0
        """How late the event loop was when it was last looked at."""

    @contextmanager
    def reconciling(self) -> Iterator[None]:
        """Time one look at a benchmark; an error is counted where it is caught, by `count_error`."""
        with self._reconciles.time():
            yield

    def count_error(self, reason: str) -> None:
        """Count a look that ended by an error: `Conflict`, `Unreachable`, or the name of the exception."""
        self._errors.labels(reason).inc()

    def count_request(self, verb: str, resource: str, code: int, seconds: float) -> None:
        """Count a request to the API server; this is what `kube.Api` wants for `on_request`."""
        self._requests.labels(verb, resource, str(code)).observe(seconds)

    def count_rejected(self, reason: str) -> None:
        """Count a termination message that was not used, or not all of it: the `reason` of the attempt."""
        self._rejected.labels(reason).inc()

    def follow_queue(self, queue: Queue[Any]) -> None:
        """Show how much waits in the queue, and how long already."""
        self._follow("queue_depth", "Benchmarks that wait to be looked at.", lambda: queue.depth)
        self._follow(
            "queue_oldest_seconds",
            "How long the longest wait has lasted.",
            lambda: queue.oldest_seconds,
        )
        self._follow("reconcile_oldest_seconds", "How long the longest look has lasted.", lambda: queue.busy_seconds)

    def follow_page(self, page: ResultsPage) -> None:
        """Show how large /results is, and whether it had to leave cells out."""
        self._follow("results_series", "Series of /results.", lambda: page.series)
        self._follow(
            "results_truncated", "Benchmarks whose cells are left out of /results.", lambda: len(page.truncated)
        )

    def follow(self, name: str, documentation: str, label: str, counts: Counts) -> None:
        """Show a gauge `inferbench_operator_<name>` for each value of a label, as `counts` tells them when asked."""
        self.registry.register(_Following(f"{PREFIX}_{name}", documentation, label, counts))

    async def watch_lag(self) -> None:
        """Look every half second how late the event loop is, for ever."""
        clock = asyncio.get_running_loop().time
        while True:
            due = clock() + LAG_PERIOD_SECONDS
            await asyncio.sleep(LAG_PERIOD_SECONDS)
            self.last_lag_seconds = max(0.0, clock() - due)
            self._lag.observe(self.last_lag_seconds)

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """Return all metrics and their content type: OpenMetrics for who accepts it, else Prometheus' text format."""
        try:
            encode, content_type = choose_encoder(accept)
        except (TypeError, ValueError):  # it compares versions that are no numbers, too
            encode, content_type = choose_encoder("")
        return encode(self.registry), content_type

    def _histogram(self, name: str, documentation: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(f"{PREFIX}_{name}", documentation, labels, buckets=buckets, registry=self.registry)

    def _counter(self, name: str, documentation: str, *labels: str) -> Counter:
        return Counter(f"{PREFIX}_{name}", documentation, labels, registry=self.registry)

    def _follow(self, name: str, documentation: str, value: Callable[[], float]) -> None:
        Gauge(f"{PREFIX}_{name}", documentation, registry=self.registry).set_function(value)


class _Following(Collector):
    """A gauge that asks for its values whenever it is asked for them."""

    def __init__(self, name: str, documentation: str, label: str, counts: Counts) -> None:
        self._name, self._documentation, self._label, self._counts = name, documentation, label, counts

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield the one family, with a sample for each value of the label."""
        family = GaugeMetricFamily(self._name, self._documentation, labels=[self._label])
        for value, count in sorted(self._counts().items()):
            family.add_metric([value], count)
        yield family

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """Name the family without asking for values, which may not be there yet."""
        yield GaugeMetricFamily(self._name, self._documentation, labels=[self._label])
