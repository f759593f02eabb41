"""What holds for every test: its folder is its tier, and in CI nothing but the GPU tier is left out."""

from __future__ import annotations

import gc
import os
import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

TIERS = ("runner", "cluster", "e2e", "tensorrt", "gpu")
"""The folders under tests/ whose tests carry a marker of the same name; those in unit/ carry none."""

IN_CI = os.environ.get("CI") == "true"

# Where bytecode is not kept, as in many images, each process of a test compiles the source of every library that it
# imports: for one with PyTorch that is as much work again as all else that it does.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# A busy machine makes no test wrong, and CI tries the same examples for everyone: red is about the change.
settings.register_profile("house", deadline=None, derandomize=IN_CI, print_blob=True)
settings.register_profile("thorough", settings.get_profile("house"), max_examples=10_000)
settings.load_profile(os.environ.get("INFERBENCH_HYPOTHESIS", "house"))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark each test with its tier."""
    for item in items:
        tier = tier_of(item.path, config.rootpath)
        if tier in TIERS:
            item.add_marker(tier)


def pytest_collection_finish() -> None:
    """Leave libraries and collected tests to themselves: each full collection of garbage would look at all of them."""
    gc.collect()
    gc.freeze()


def tier_of(path: Path, root: Path) -> str:
    """Return the name of the folder under tests/ that holds the file; nothing for a file elsewhere."""
    tests = root / "tests"
    return path.relative_to(tests).parts[0] if path.is_relative_to(tests) else ""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI, a test that skips itself fails."""
    report = yield
    fail_if_skipped(report, item)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """In CI, a module that skips itself fails."""
    report = yield
    fail_if_skipped(report, collector)
    return report


def fail_if_skipped(report: pytest.TestReport | pytest.CollectReport, node: pytest.Item | pytest.Collector) -> None:
    """Turn a skip into a failure where nothing may be left out; an expected failure is not a skip."""
    if not IN_CI or not report.skipped or hasattr(report, "wasxfail"):
        return
    if tier_of(node.path, node.config.rootpath) == "gpu":
        return
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
    report.outcome = "failed"
    report.longrepr = f"With CI=true nothing may be skipped but the GPU tier. {reason}"
