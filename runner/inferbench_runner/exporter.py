"""`/metrics` of a runner pod: what `live` knows, for Prometheus, served by threads of the supervisor.

Who scrapes sees it only while the pod runs, and never the result: that goes another way. The metrics have no label that
tells pods apart; Prometheus adds its own.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from itertools import accumulate
from typing import Final
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, ProcessCollector, start_http_server
from prometheus_client.metrics_core import GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from inferbench_runner.gpu import Reading
from inferbench_runner.live import BOUNDS_NS, Calls, Live

PREFIX: Final = "inferbench_runner"

CALLS_HELP: Final = (
    "Timed calls of the cells of this pod, each counted once, with the median of the last 64 calls of the report that "
    "told of it (two a second), or with the median of its cell. It shows the level and how it moves, not the tail: p99 "
    "is in the result."
)

GPU: Final[tuple[tuple[str, str, Callable[[Reading], int | None], float], ...]] = (
    (
        "gpu_utilization_ratio",
        "Share of the last second in which the GPU ran a kernel.",
        lambda r: r.busy_percent,
        0.01,
    ),
    ("gpu_memory_used_bytes", "GPU memory in use, by anybody.", lambda r: r.memory_used_bytes, 1),
    ("gpu_temperature_celsius", "Temperature of the GPU.", lambda r: r.temperature_celsius, 1),
    ("gpu_power_watts", "Power that the GPU draws.", lambda r: r.power_milliwatts, 1e-3),
    ("gpu_sm_clock_hertz", "Clock of the GPU's processors.", lambda r: r.sm_mhz, 1e6),
    ("gpu_memory_clock_hertz", "Clock of the GPU's memory.", lambda r: r.memory_mhz, 1e6),
)
"""What is shown of the GPU while a cell runs: name, help, where it is read, and what makes it the base unit."""


class Families(Collector):
    """Turns what `live` knows into metrics whenever somebody asks."""

    def __init__(self, live: Live) -> None:
        self._live = live

    def collect(self) -> Iterator[Metric]:
        """Yield all that there is to say now."""
        yield self._info()
        yield self._cell()
        progress = "Share of the cells of this pod's sweep that have an outcome."
        yield GaugeMetricFamily(f"{PREFIX}_progress_ratio", progress, self._live.progress)
        yield self._cells()
        yield self._calls()
        if (reading := self._live.gpu) is not None:
            yield from _gpu(reading)

    def _info(self) -> Metric:
        sweep, result = self._live.sweep, self._live.result
        labels = {
            "plan": result.plan,
            "sweep": str(sweep.index),
            "strategy": str(sweep.strategy),
            "round": str(sweep.round),
            "hardware": result.hardware,
        }
        return InfoMetricFamily(PREFIX, "The sweep that this pod runs; sweep and round count from 0.", labels)

    def _cell(self) -> Metric:
        strategy, moment = self._live.sweep.strategy, self._live.moment
        labels = {
            "backend": str(strategy.backend),
            "precision": str(strategy.precision),
            "batch_size": "" if moment.batch_size is None else str(moment.batch_size),
            "stage": moment.stage,
        }
        what = "The cell that is measured now and what it is busy with; without a batch size something for all cells."
        return InfoMetricFamily(f"{PREFIX}_cell", what, labels)

    def _cells(self) -> Metric:
        family = GaugeMetricFamily(
            f"{PREFIX}_cells", "Cells of this pod's sweep that have ended, by outcome.", labels=["outcome"]
        )
        for outcome, count in self._live.outcomes.items():
            family.add_metric([outcome], count)
        return family

    def _calls(self) -> Metric:
        family = HistogramMetricFamily(f"{PREFIX}_call_duration_seconds", CALLS_HELP, labels=["batch_size"])
        for batch_size, calls in self._live.calls.items():
            family.add_metric([str(batch_size)], _buckets(calls), calls.total_ns / 1e9)
        return family


def serve(live: Live, port: int) -> WSGIServer:
    """Answer from now on at every address of this machine, in threads that end with the process.

    Raises:
        OSError: the port cannot be had.
    """
    registry = CollectorRegistry()
    registry.register(Families(live))
    ProcessCollector(registry=registry)  # how little the supervisor itself takes
    any_address = "::" if socket.has_dualstack_ipv6() else "0.0.0.0"  # noqa: S104 (whoever may reach the pod may look)
    server, _ = start_http_server(port, any_address, registry)
    return server


def _buckets(calls: Calls) -> list[tuple[str, float]]:
    """Return what each bound has below it."""
    bounds = [*(str(bound / 1e9) for bound in BOUNDS_NS), "+Inf"]
    return list(zip(bounds, accumulate(calls.counts), strict=True))


def _gpu(reading: Reading) -> Iterator[Metric]:
    for name, told, read, scale in GPU:
        if (value := read(reading)) is not None:
            yield GaugeMetricFamily(f"{PREFIX}_{name}", told, value * scale)
