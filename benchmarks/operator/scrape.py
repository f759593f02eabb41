"""How long a scrape of /results takes, beside the same series from the stock Prometheus client.

    python benchmarks/operator/scrape.py [--scrapes 5]

Must be reached: a scrape of 110,000 series in less than 0.5 s and of 300,000 in less than 1 s, in the median. The
series are those of 1,000 benchmarks of 48 cells at the detail `cells`, and of 880 at `all`. Each page is served by a
process of its own over loopback: by the operator's server; by the stock client's, with a labelled Gauge for each family
whose values are set beforehand; and, as the least that anything can take, as bytes that were compressed beforehand. Two
read it: a bare client, which throws away what it reads, and Prometheus, whose own `scrape_duration_seconds` counts (its
first scrape, which makes the series, stands apart). Without a `prometheus` on the PATH the bare client's time counts.
Beside the times stand the longest turn that serving took of the operator's event loop, in CPU time, what a benchmark
costs when it changes, and the process's memory. Exit status 1 if it is not reached.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
import math
import platform
import resource
import shutil
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.error import URLError
from urllib.parse import quote
from urllib.request import urlopen

from prometheus_client import CollectorRegistry, Gauge, start_http_server
from prometheus_client.parser import text_string_to_metric_families

import inferbench_contract
from inferbench_contract import plan as plans
from inferbench_contract.result import CellResult, SweepResult
from inferbench_contract.spec import InferenceBenchmark
from inferbench_contract.summary import summarize
from inferbench_contract.words import Outcome
from inferbench_operator import server
from inferbench_operator.health import Health
from inferbench_operator.metrics import Metrics
from inferbench_operator.results_page import TEXT, Published, ResultsPage
from inferbench_operator.settings import ResultsDetail, Settings

MUST_SECONDS = {ResultsDetail.CELLS: 0.5, ResultsDetail.ALL: 1.0}
BENCHMARKS = {ResultsDetail.CELLS: 1_000, ResultsDetail.ALL: 880}
DIFFERENT = 100
"""Results that differ in every number; about ten benchmarks share each, under names of their own."""

SPEC = {
    "model": {"torchvision": {"name": "resnet50"}},
    "backends": ["torch-eager", "torch-compile", "torch-compile-max-autotune"],
    "precisions": ["fp32", "tf32"],
    "batchSizes": [1, 2, 4, 8, 16, 32, 64, 128],
}
"""Six strategies at eight batch sizes: 48 cells."""

SCRAPE_SECONDS = 15
"""Between two scrapes of Prometheus, and its patience with one: what its users have."""


def main() -> int:
    """Time both at both details, print the table, and tell whether ours was quick enough."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scrapes", type=int, default=5, help="by each reader; default: %(default)s")
    parser.add_argument("--serve", choices=SERVERS, help=argparse.SUPPRESS)
    parser.add_argument("--detail", type=ResultsDetail, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        SERVERS[arguments.serve](arguments.detail)
        return 0
    prometheus = shutil.which("prometheus")
    print(f"inferbench {inferbench_contract.__version__}, Python {platform.python_version()}, {platform.machine()}\n")
    print("| series | MB, gzip | served by | bare client, s | Prometheus, s (first) | turn, ms | change, ms | MiB |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    rows = [measured(name, detail, arguments.scrapes, prometheus) for detail in MUST_SECONDS for name in SERVERS]
    print()
    for row in rows:
        if row.name == OPERATOR:
            must = MUST_SECONDS[row.detail]
            print(f"A scrape of {row.series:,} series takes {row.seconds:.2f} s; it must take less than {must} s.")
    return 0 if all(row.seconds < MUST_SECONDS[row.detail] for row in rows if row.name == OPERATOR) else 1


@dataclass(frozen=True)
class Row:
    """What one server came to."""

    name: str
    detail: ResultsDetail
    series: int
    bare: Sequence[float]
    by_prometheus: Sequence[float]

    @property
    def seconds(self) -> float:
        """The time that counts."""
        return statistics.median(self.by_prometheus[1:] or self.bare)


def measured(name: str, detail: ResultsDetail, scrapes: int, prometheus: str | None) -> Row:
    """Start a server, let both read it in turn, print its row."""
    child = Child(name, detail)
    bare = [child.scrape() for _ in range(scrapes + 1)][1:]  # the first one only warms up
    by_prometheus = scraped(prometheus, child.port, scrapes) if prometheus else ()
    told = child.end()
    row = Row(name, detail, int(told["series"]), bare, by_prometheus)
    own = (f"{told[key]:.1f}" if key in told else "-" for key in ("turn_ms", "change_ms"))
    print(
        f"| {row.series:,} | {child.bytes / 1e6:.1f} | {name} | {statistics.median(bare):.3f} "
        f"| {_told(by_prometheus)} | {' | '.join(own)} | {told['mib']:.0f} |",
        flush=True,
    )
    return row


def _told(seconds: Sequence[float]) -> str:
    if not seconds:
        return "-"
    first, median = seconds[0], statistics.median(seconds[1:])
    return "given up" if math.isinf(median) else f"{median:.3f} ({first:.2f})"


class Child:
    """A process that serves one page."""

    def __init__(self, name: str, detail: ResultsDetail) -> None:
        command = [sys.executable, __file__, "--serve", name, "--detail", detail]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.told = self._read()
        self.port = int(self.told["port"])
        self.bytes = 0

    def scrape(self) -> float:
        """Read the page, compressed as Prometheus wants it; return the seconds from asking to the last byte."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=120)
        began = time.perf_counter()
        connection.request("GET", "/results", headers={"Accept-Encoding": "gzip"})
        answer = connection.getresponse()
        self.bytes = len(answer.read())
        took = time.perf_counter() - began
        connection.close()
        assert answer.status == 200
        return took

    def end(self) -> dict[str, float]:
        """End it; return all that it told."""
        assert self.process.stdin
        self.process.stdin.close()
        self.told |= self._read()
        self.process.wait()
        return self.told

    def _read(self) -> dict[str, float]:
        assert self.process.stdout
        return dict(json.loads(self.process.stdout.readline()))


# ---- Prometheus ----------------------------------------------------------------------------------

CONFIGURATION = """\
scrape_configs:
  - job_name: results
    metrics_path: /results
    scrape_interval: {seconds}s
    scrape_timeout: {seconds}s
    honor_labels: true
    static_configs: [{{targets: ["127.0.0.1:{port}"]}}]
    relabel_configs: [{{target_label: instance, replacement: inferbench}}]
"""


def scraped(program: str, port: int, scrapes: int) -> list[float]:
    """Let Prometheus scrape a port once and then so often; return how long it says each took, inf if it gave up."""
    with TemporaryDirectory() as folder:
        file, own = Path(folder) / "prometheus.yml", free_port()
        file.write_text(CONFIGURATION.format(port=port, seconds=SCRAPE_SECONDS))
        command = [program, f"--config.file={file}", f"--storage.tsdb.path={folder}/data"]
        command += [f"--web.listen-address=127.0.0.1:{own}", "--log.level=error"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            while len(ups := _asked(own, "up")) <= scrapes:
                time.sleep(1)
            took = _asked(own, "scrape_duration_seconds")
            return [seconds if up else math.inf for up, seconds in zip(ups, took, strict=False)]
        finally:
            process.terminate()
            process.wait()


def _asked(port: int, name: str) -> list[float]:
    try:
        with urlopen(f"http://127.0.0.1:{port}/api/v1/query?query={quote(name + '[1h]')}", timeout=60) as answer:
            found = json.load(answer)["data"]["result"]
    except URLError:
        return []  # it is not there yet
    return [float(value) for _, value in found[0]["values"]] if found else []


# ---- what the children do ------------------------------------------------------------------------


def filled_page(detail: ResultsDetail) -> tuple[ResultsPage, float]:
    """Return the page and the milliseconds that one benchmark's change took, in the median."""
    told = [_published(number) for number in range(DIFFERENT)]
    page, milliseconds = ResultsPage(detail, 10_000_000), []
    for i in range(BENCHMARKS[detail]):
        began = time.perf_counter()
        page.put(f"team-{i % 20}", f"resnet50-nightly-{i}", told[i % DIFFERENT])
        milliseconds.append(1000 * (time.perf_counter() - began))
    return page, statistics.median(milliseconds)


def _published(number: int) -> Published:
    benchmark = InferenceBenchmark.model_validate(
        {"apiVersion": "inferbench.dev/v1alpha1", "kind": "InferenceBenchmark", "metadata": {"name": "x"}, "spec": SPEC}
    )
    plan = plans.expand(benchmark)
    summary = summarize(benchmark, plan, [_result(plan, sweep, number) for sweep in plan.sweeps])
    conditions = dict.fromkeys(("Accepted", "ResultsComplete", "Succeeded", "Finished"), "True")
    started = datetime(2026, 11, 25, tzinfo=UTC) + timedelta(minutes=number)
    ended = started + timedelta(minutes=17)
    return Published(benchmark.spec, summary, "runner:0.1.0", conditions, started, ended, ended)


def _result(plan: plans.Plan, sweep: plans.Sweep, number: int) -> SweepResult:
    factor = (1 + number / 97) * (1 + sweep.index / 389)
    cells = tuple(
        CellResult(
            size,
            Outcome.MEASURED,
            latency_median_ns=round(1_234_567 * size**0.9 * factor),
            latency_p99_ns=round(1_345_678 * size**0.9 * factor),
            throughput_milli_per_second=round(810_045 * size**0.1 / factor),
            memory_mib=1_234 + size + sweep.index,
        )
        for size in sweep.batch_sizes
    )
    return SweepResult(plan.short_hash, sweep.index, cells, hardware="NVIDIA A100-SXM4-80GB, driver 580.65.06")


def serve_ours(detail: ResultsDetail) -> None:
    """Serve the page with the operator's server until standard input ends."""
    asyncio.run(_serve_ours(detail))


async def _serve_ours(detail: ResultsDetail) -> None:
    page, change_ms = filled_page(detail)
    port = free_port()
    runner = await server.serve(Settings(port=port), Metrics(), page, Health({}, {}))
    say(port=port, series=page.series, change_ms=change_ms)
    turn = await _longest_turn(asyncio.get_running_loop().run_in_executor(None, sys.stdin.read))
    await runner.cleanup()
    say(turn_ms=1000 * turn, mib=memory_mib())


async def _longest_turn(until: asyncio.Future[str]) -> float:
    """Return the most CPU time that the loop's thread took between two looks at its clock, in seconds.

    CPU time, because on a busy machine the time on the wall is mostly somebody else's.
    """
    longest, before = 0.0, time.thread_time()
    while not until.done():
        await asyncio.sleep(0.0005)
        longest, before = max(longest, time.thread_time() - before), time.thread_time()
    return longest


def serve_stock(detail: ResultsDetail) -> None:
    """Serve the same samples with the stock client until standard input ends."""
    page, _ = filled_page(detail)
    text, series = page.render().decode(), page.series
    del page
    registry = CollectorRegistry()
    for family in text_string_to_metric_families(text):
        gauge = Gauge(family.name, family.documentation, list(family.samples[0].labels), registry=registry)
        for sample in family.samples:
            gauge.labels(**sample.labels).set(sample.value)
    port = free_port()
    httpd, thread = start_http_server(port, "127.0.0.1", registry)
    say(port=port, series=series)
    sys.stdin.read()
    httpd.shutdown()
    thread.join()
    say(mib=memory_mib())


def serve_bytes(detail: ResultsDetail) -> None:
    """Serve the same page as bytes that are ready until standard input ends."""
    page, _ = filled_page(detail)
    body, series = gzip.compress(page.render(), 1), page.series
    del page

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", TEXT)
            self.send_header("Content-Encoding", "gzip")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=httpd.serve_forever).start()
    say(port=httpd.server_port, series=series)
    sys.stdin.read()
    httpd.shutdown()
    say(mib=memory_mib())


OPERATOR = "operator"
SERVERS = {OPERATOR: serve_ours, "prometheus-client": serve_stock, "ready bytes": serve_bytes}


def free_port() -> int:
    """Return a port that nobody has."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def memory_mib() -> float:
    """Return the most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def say(**told: float) -> None:
    """Tell the parent."""
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    sys.exit(main())
