"""What the tests on a real GPU share. Without one each is skipped, with the reason that a user would be told."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from inferbench_contract.errors import EnvironmentFault
from inferbench_contract.words import Backend, Device, Precision
from inferbench_runner import backends, cuda, gpu

PROGRAM = (sys.executable, "-P", "-m", "inferbench_cli")

PATIENCE_SECONDS = 1_800
"""torch.compile and TensorRT build for a minute a cell; this only ends what hangs."""

MODEL = {"torchvision": {"name": "resnet18", "weights": "random"}}
"""Real layers at a real size, made here; random weights are judged by distances, not by classes."""

SHORT = {"rounds": 1, "maxSecondsPerCell": 1, "warmupMaxSeconds": 2}

Rows = Mapping[str, Mapping[str, str]]


@pytest.fixture(scope="session", autouse=True)
def driver() -> cuda.Driver:
    """What the driver says; the test is skipped where there is none."""
    try:
        return cuda.require_driver()
    except EnvironmentFault as fault:
        pytest.skip(f"needs an NVIDIA GPU: {fault}")


@pytest.fixture(scope="session", autouse=True)
def _its_share_of_the_cpus() -> None:
    """Leave each of pytest's workers CPUs of its own.

    Ten runs that took all 16 CPUs each, for the threads of PyTorch, stood still for minutes on the first GPU machine.
    """
    workers, name = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")), os.environ.get("PYTEST_XDIST_WORKER", "gw0")
    every = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, every[int(name.removeprefix("gw")) % workers :: workers] or every)


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """One cache for all tests and workers: the model is prepared once."""
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "cache"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def results(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Runs a benchmark on the GPU and returns the folder of its results."""

    def results_(**spec: Any) -> Path:
        return results_in(tmp_path_factory.mktemp("run"), cache, **spec)

    return results_


@pytest.fixture(scope="session")
def run(results: Callable[..., Path]) -> Callable[..., Rows]:
    """Runs a benchmark on the GPU and returns its cells by `backend/precision@batch`, as cells.csv has them."""
    return lambda **spec: rows_of(results(**spec))


def results_in(folder: Path, cache: Path, **spec: Any) -> Path:
    """Run a benchmark that lies in a folder, and return the one of its results."""
    wanted = {"model": MODEL, "device": "gpu", "batchSizes": [1, 8], "measurement": SHORT, **spec}
    head = {"apiVersion": "inferbench.dev/v1alpha1", "kind": "InferenceBenchmark", "metadata": {"name": "gpu"}}
    (folder / "bench.yaml").write_text(yaml.safe_dump({**head, "spec": wanted}))
    ended = inferbench(cache, "run", folder / "bench.yaml", "--output", folder / "out")
    assert (folder / "out/cells.csv").exists(), ended.stderr
    return folder / "out"


def inferbench(cache: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run `inferbench ARGUMENTS` to its end, however that is."""
    return subprocess.run(
        [*PROGRAM, *map(str, arguments)],
        env={**os.environ, "INFERBENCH_CACHE": str(cache)},
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_SECONDS,
    )


def rows_of(results: Path) -> Rows:
    """Read the cells of a folder of results."""
    with (results / "cells.csv").open() as file:
        return {f"{row['backend']}/{row['precision']}@{row['batch_size']}": row for row in csv.DictReader(file)}


def skip_where_missing(backend: Backend, precision: Precision) -> None:
    """Skip a test of what this GPU or its software cannot do, with the reason that a user would be told."""
    if (reason := backends.find(backend).missing(precision, Device.GPU)) is not None:
        pytest.skip(reason)


def outcomes(rows: Rows) -> dict[str, str]:
    """How each cell ended, with the reason where it did not end well."""
    return {cell: f"{row['outcome']} {row['reason']}".strip() for cell, row in rows.items()}


def all_measured(rows: Rows) -> bool:
    """Tell whether every cell has numbers that passed the accuracy gate."""
    return {row["outcome"] for row in rows.values()} == {"Measured"}


def error(rows: Rows, cell: str) -> int:
    """How far a cell's answers are from the fp32 reference on the CPU, in billionths."""
    return int(rows[cell]["relative_l2_parts_per_billion"])


def counts_energy(driver: cuda.Driver) -> bool:
    """Tell whether the card tells what it takes from its supply."""
    if (monitor := gpu.open_monitor(driver.uuid)) is None:
        return False
    with monitor:
        return monitor.read().energy_millijoules is not None


def has_the_four_numbers(row: Mapping[str, str]) -> bool:
    """Tell whether a cell has its four times, and whether they can be true together."""
    latency, device = int(row["latency_median_ns"]), int(row["device_median_ns"])
    return 0 < device <= 1.02 * latency + 2_000 and 0 < int(row["enqueue_median_ns"]) <= latency
