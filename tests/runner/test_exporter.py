"""The metrics of a runner pod over a real socket, and what Prometheus's own check says of them."""

from __future__ import annotations

import errno
import gzip
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from urllib.request import Request, urlopen

import pytest
from prometheus_client.parser import text_string_to_metric_families

from inferbench_runner import exporter
from inferbench_runner.gpu import Reading
from inferbench_runner.live import Live
from tests.results import a_plan, a_result, measured

PLAN = a_plan(batch_sizes=[1, 8, 32])
PROGRESS = "inferbench_runner_progress_ratio"
WAIT_SECONDS = 10


def a_live() -> Live:
    """A sweep that has measured one of three cells on a GPU."""
    shown = Live(PLAN.sweeps[0], a_result(PLAN))
    shown.deliver(a_result(PLAN, 0, [measured(1)], in_flight=8, hardware="A card"))
    shown.see(Reading(1, 1_980, 3_201, (), 45, 350_000, 1, 1 << 30, 97, 1))
    return shown


@contextmanager
def served(shown: Live) -> Iterator[str]:
    """Serve at some free port; yields the address of this machine's own interface."""
    server = exporter.serve(shown, 0)
    try:
        yield f"http://127.0.0.1:{server.server_port}/metrics"
    finally:
        server.shutdown()
        server.server_close()


def scrape(url: str, **headers: str) -> bytes:
    with urlopen(Request(url, headers=headers), timeout=WAIT_SECONDS) as answer:
        return answer.read()


def samples(payload: bytes) -> Mapping[str, float]:
    """Return the value of each metric that has no labels."""
    families = text_string_to_metric_families(payload.decode())
    return {sample.name: sample.value for family in families for sample in family.samples if not sample.labels}


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as tried:
            tried.bind(("::1", 0))
    except OSError:
        return False
    return True


def test_it_is_served_at_addresses_of_both_kinds() -> None:
    """Clusters are of IPv4, of IPv6, or of both."""
    with served(a_live()) as url:
        urls = [url, url.replace("127.0.0.1", "[::1]")] if has_ipv6() else [url]
        found = [samples(scrape(each)) for each in urls]

    for metrics in found:
        assert metrics[PROGRESS] == pytest.approx(1 / 3)
        assert metrics["process_cpu_seconds_total"] > 0


def test_each_scrape_tells_what_is_true_then() -> None:
    shown = a_live()
    with served(shown) as url:
        before = samples(scrape(url))
        shown.deliver(a_result(PLAN, 0, [measured(1), measured(8)]))
        after = samples(gzip.decompress(scrape(url, **{"Accept-Encoding": "gzip"})))

    assert [found[PROGRESS] for found in (before, after)] == pytest.approx([1 / 3, 2 / 3])


def test_a_port_in_use_is_an_error_of_the_system() -> None:
    with served(a_live()) as url, pytest.raises(OSError, match=os.strerror(errno.EADDRINUSE)):
        exporter.serve(a_live(), int(url.rpartition(":")[2].removesuffix("/metrics")))


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (Debian's package prometheus)")
def test_names_and_units_please_prometheus_s_own_check() -> None:
    with served(a_live()) as url:
        checked = subprocess.run(["promtool", "check", "metrics"], input=scrape(url), capture_output=True, check=False)

    assert (checked.returncode, checked.stderr) == (0, b"")
