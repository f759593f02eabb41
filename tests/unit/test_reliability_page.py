"""docs/reliability.md: every fault in its tables has a test, and every test that it names is there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from inferbench_operator.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/reliability.md").read_text(encoding="utf-8")
FAULTS = PAGE[PAGE.index("## Faults and outcomes") :]


def rows():
    """Return the cells of each row of the tables of faults."""
    lines = [
        line for line in FAULTS.splitlines() if line.startswith("| ") and not line.startswith(("| fault", "| ---"))
    ]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def all_tests():
    """Return the names of all tests of the repository."""
    trees = (ast.parse(path.read_text(encoding="utf-8")) for path in (ROOT / "tests").rglob("test_*.py"))
    functions = (node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))
    return {node.name for node in functions if node.name.startswith("test_")}


def test_every_fault_names_a_test():
    untested = [cells[0] for cells in rows() if not re.search(r"`test_\w+`", cells[-1])]

    assert len(rows()) > 50
    assert untested == []


def test_every_test_that_it_names_is_there():
    named = set(re.findall(r"`(test_\w+)`", PAGE))

    assert sorted(named - all_tests()) == []


def test_every_row_has_the_same_cells():
    assert {len(cells) for cells in rows()} == {5}


def test_its_numbers_are_the_operators():
    defaults = Settings()

    assert f"{defaults.stuck_after_seconds // 3600} h (`INFERBENCH_OPERATOR_STUCK_AFTER_SECONDS`)" in PAGE
    assert f"counters every {defaults.status_interval_seconds} s" in PAGE
    assert f"| {defaults.shard_after_seconds // 60} minutes, or a quarter of the run so far |" in PAGE
    assert f"| {defaults.resync_seconds // 60} minutes: then everything is listed again |" in PAGE
    assert f"| {defaults.lost_after_seconds} s, then it is lost |" in PAGE
