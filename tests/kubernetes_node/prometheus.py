"""Runs Debian's Prometheus on a node, with the scrape configuration that the chart's README gives to everybody."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import urllib3
import yaml

from tests.kubernetes.client import Api, ApiError, eventually
from tests.kubernetes_node import discovery
from tests.kubernetes_node.images import ROOT
from tests.kubernetes_node.namespaces import MachineError
from tests.kubernetes_node.node import Node

README: Final = ROOT / "charts/inferbench/README.md"
PORT: Final = 9090
READY_SECONDS: Final = 30


class PrometheusError(Exception):
    """Prometheus says no; the message has its words."""


@dataclass(frozen=True)
class Prometheus:
    """A Prometheus that runs, and the address at which it is reached from outside."""

    url: str

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """Return the labels and the value of every series that an expression finds now."""
        found = self._get(f"query?query={quote(expression)}")["result"]
        return [(series["metric"], float(series["value"][1])) for series in found]

    def targets(self) -> list[dict[str, Any]]:
        """Return what it scrapes at the moment."""
        targets: list[dict[str, Any]] = self._get("targets?state=active")["activeTargets"]
        return targets

    def _get(self, path: str) -> Any:
        answer = urllib3.request("GET", f"{self.url}/api/v1/{path}", timeout=10, retries=False)
        if answer.status != 200:
            raise PrometheusError(f"Prometheus answers {path} with {answer.status}: {answer.data.decode()}")
        return answer.json()["data"]


@contextmanager
def prometheus(node: Node, seconds: float = 1, outside: int = 0) -> Iterator[Prometheus]:
    """Run it with a scrape every so many seconds, of targets that are looked for as often."""
    folder = node.machine.state / "prometheus"
    folder.mkdir()
    config, found = configuration(folder, seconds)
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
    address = f"127.0.0.1:{PORT}"
    options = ("--config.file", folder / "prometheus.yaml", "--storage.tsdb.path", folder / "data")
    with node.door("127.0.0.1", PORT, outside) as port, _discovery(node.plane.api(), found, seconds):
        service = node.machine.start("prometheus", "prometheus", *options, f"--web.listen-address={address}")
        made = Prometheus(f"http://127.0.0.1:{port}")

        def answers() -> bool:
            service.require_alive()
            with suppress(PrometheusError):  # it says so while it starts
                return made.query("vector(1)") == [({}, 1.0)]
            return False

        eventually(answers, READY_SECONDS, "Prometheus")
        yield made


def configuration(folder: Path, seconds: float) -> tuple[dict[str, Any], Mapping[Path, str]]:
    """Return the configuration of the chart's README, in a hurry, and the files of targets with the role of each."""
    documented = yaml.safe_load(documented_configuration())
    files = {}
    for job in documented["scrape_configs"]:
        job.pop("scrape_interval", None)
        (source,) = job.pop("kubernetes_sd_configs")
        file = folder / f"{job['job_name']}.json"
        files[file] = source["role"]
        job["file_sd_configs"] = [{"files": [str(file)]}]
    interval = f"{round(seconds * 1000)}ms"
    return {"global": {"scrape_interval": interval, "scrape_timeout": interval}, **documented}, files


@contextmanager
def _discovery(api: Api, files: Mapping[Path, str], seconds: float) -> Iterator[None]:
    """Keep the files of targets in step with the cluster."""
    over = threading.Event()

    def look() -> None:
        while not over.is_set():
            for file, role in files.items():
                with suppress(ApiError, urllib3.exceptions.HTTPError):
                    file.with_suffix(".half").write_text(json.dumps(discovery.targets(api, role)))
                    file.with_suffix(".half").rename(file)
            over.wait(seconds)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def documented_configuration() -> str:
    """Return the YAML that the chart's README says to use."""
    blocks = re.findall(r"^```yaml\n(.*?)^```$", README.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    found = [block for block in blocks if "scrape_configs:" in block]
    if len(found) != 1:
        raise MachineError(f"{README} has {len(found)} scrape configurations, expected one")
    return found[0]


def complaints(exposition: str) -> str:
    """Return what `promtool check metrics` has to say about a page of metrics; nothing if all is well."""
    promtool = shutil.which("promtool")
    if promtool is None:
        raise MachineError("promtool not found. It comes with Debian's prometheus: make e2e-setup")
    answer = subprocess.run(
        [promtool, "check", "metrics"], check=False, capture_output=True, text=True, input=exposition
    )
    return answer.stdout + answer.stderr


def series(exposition: str, name: str) -> Mapping[str, float]:
    """Return the series of one metric on a page, each under its labels as they stand there."""
    rows = re.findall(rf"^{name}(\{{.*\}})? (\S+)$", exposition, re.MULTILINE)
    return {labels: float(value) for labels, value in rows}
