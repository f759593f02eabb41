"""The house that the code lives in: the folders, the versions, the locks, the rules and their reasons."""

from __future__ import annotations

import pkgutil
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import inferbench_contract

ROOT = Path(__file__).resolve().parents[2]
PLACES = ("contract", "runner", "operator", "cli")
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
LOCKS = sorted((ROOT / "locks").glob("*.txt"))


@pytest.mark.parametrize("place", PLACES)
def test_the_four_folders_are_only_places(place):
    """A package `operator` in the repository root would hide the standard library's; even collections would fail."""
    assert (ROOT / place / f"inferbench_{place}" / "__init__.py").is_file()
    assert not (ROOT / place / "__init__.py").exists()


def test_operator_is_the_standard_librarys_in_the_repository_root():
    program = "import collections, operator; print(operator.__file__)"

    answer = subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True, text=True)

    assert not Path(answer.stdout.strip()).is_relative_to(ROOT / "operator")
    assert Path(answer.stdout.strip()).name == "operator.py"


def test_every_package_says_that_it_is_typed():
    for place in PLACES:
        assert (ROOT / place / f"inferbench_{place}" / "py.typed").is_file()


def test_the_version_is_the_same_everywhere():
    assert inferbench_contract.__version__ == PYPROJECT["project"]["version"]


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_a_lock_pins_every_line_by_version_and_hash(lock):
    lines = lock.read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
    requirements = [line for line in lines if line and not line.startswith("#")]

    loose = [line for line in requirements if not re.match(r"[\w.-]+==[^\s;]+ .*--hash=sha256:[0-9a-f]{64}", line)]

    assert requirements
    assert loose == []


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_a_lock_names_no_host(lock):
    text = lock.read_text(encoding="utf-8")

    assert "://" not in text
    assert "index-url" not in text
    assert "find-links" not in text


def test_every_package_has_one_version_per_python_in_all_locks():
    """What runs in a pod is what was tested, here or (what only a GPU needs) on a GPU machine."""
    tested = versions_in(ROOT / "locks/dev.txt") | versions_in(ROOT / "locks/gpu.txt")
    for lock in ("runner.txt", "runner-slim.txt", "operator.txt"):
        assert versions_in(ROOT / "locks" / lock) <= tested


def versions_in(lock):
    return set(re.findall(r"^[\w.-]+==[^\s;]+", lock.read_text(encoding="utf-8"), flags=re.MULTILINE))


def test_the_locks_are_in_step_with_pyproject():
    assert lock_check(ROOT).returncode == 0


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        pytest.param("pyproject.toml", '"rich>=14"', '"rich>=13"', id="a dependency that changed"),
        pytest.param("locks/dev.txt", "rich==", "rich-rich==", id="a lock that was edited by hand"),
    ],
)
def test_a_lock_out_of_step_is_told_by_the_file_that_changed(tmp_path, name, old, new):
    shutil.copytree(ROOT / "locks", tmp_path / "locks")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    text = (tmp_path / name).read_text(encoding="utf-8")
    assert old in text
    (tmp_path / name).write_text(text.replace(old, new), encoding="utf-8")

    answer = lock_check(tmp_path)

    assert answer.returncode == 1
    assert answer.stderr == f"{name} has changed since the locks were made: run `make lock`\n"


def lock_check(root):
    command = [sys.executable, str(root / "locks/lock.py"), "--check"]
    return subprocess.run(command, check=False, capture_output=True, text=True)


def test_every_rule_that_the_linter_leaves_out_carries_its_reason():
    """An ignore without a reason is a habit; with one it can be questioned."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    table = text[text.index("[tool.ruff.lint]") : text.index("[tool.ruff.lint.flake8-type-checking]")]
    ignored = [line.strip() for line in table.splitlines() if re.search(r'"[A-Z]+[0-9]*"[,\]]', line)]
    ignored.remove('select = ["ALL"]')

    without_reason = [line for line in ignored if not re.search(r"# \w.{10,}$", line)]

    assert len(ignored) > len(PYPROJECT["tool"]["ruff"]["lint"]["ignore"])
    assert without_reason == []


def test_nobody_is_told_to_install_a_strangers_package():
    """On PyPI the name is taken: hints install from inferbench's folder."""
    told = [
        ROOT / "README.md",
        *ROOT.glob("docs/**/*.md"),
        *(file for place in PLACES for file in ROOT.glob(f"{place}/**/*.py")),
    ]

    assert not [file for file in told if re.search(r"install [^\n]*\binferbench\[", file.read_text(encoding="utf-8"))]


def test_importing_the_contract_imports_no_library_that_measures():
    modules = [f"inferbench_contract.{each.name}" for each in pkgutil.iter_modules(inferbench_contract.__path__)]
    program = f"import sys, {', '.join(modules)}; print(*sys.modules)"

    answer = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)

    assert {"torch", "onnx", "onnxruntime", "kopf", "kubernetes", "numpy"}.isdisjoint(answer.stdout.split())
