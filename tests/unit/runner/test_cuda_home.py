"""Where torch-aot-inductor finds CUDA's headers: in a toolkit, else in wheels that have them too."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from inferbench_runner.backends import _cuda_home

MAPS = (
    "7f00-7f01 r--p 00000000 08:01 17 /usr/lib/x86_64-linux-gnu/libc.so.6",
    "7f02-7f03 rw-p 00000000 00:00 0",
    "7f04-7f05 r-xp 00000000 08:01 18 /usr/lib/x86_64-linux-gnu/libcuda.so.580.65.06",
)


@pytest.fixture(autouse=True)
def a_machine(monkeypatch, tmp_path):
    """One without a toolkit, and whose wheels have nothing of one."""
    for name in ("CUDA_HOME", "CUDA_PATH", "CUDA_INC_PATH", "LIBRARY_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(_cuda_home, "USUAL", tmp_path / "cuda")
    monkeypatch.setattr(_cuda_home, "_folders", lambda package: [tmp_path / package])


def with_file(file: Path) -> Path:
    file.parent.mkdir(parents=True)
    file.touch()
    return file


@pytest.fixture
def wheels(tmp_path, monkeypatch):
    """The folders of headers in wheels, and a driver that is loaded."""
    triton = with_file(tmp_path / "triton/backends/nvidia" / _cuda_home.HEADER).parents[1]
    nvidia = with_file(tmp_path / "nvidia/cu13" / _cuda_home.OF_NVIDIA).parents[1]
    monkeypatch.setattr(_cuda_home, "driver", lambda: Path("/usr/lib/libcuda.so.1"))
    return triton, nvidia


def test_without_headers_the_reason_says_what_would_have_them():
    assert _cuda_home.missing().startswith("NotInstalled: ")
    assert "Set CUDA_HOME" in _cuda_home.missing()


def test_headers_in_wheels_are_enough_and_stand_in_for_a_toolkit(wheels, tmp_path):
    missing = _cuda_home.missing()

    _cuda_home.offer(tmp_path)

    assert missing is None
    assert (os.environ["CUDA_HOME"], os.environ["CUDA_INC_PATH"]) == tuple(map(str, wheels))
    assert Path(os.environ["LIBRARY_PATH"], "libcuda.so").readlink() == Path("/usr/lib/libcuda.so.1")


def test_folders_that_were_searched_for_libraries_are_still(wheels, tmp_path, monkeypatch):
    monkeypatch.setenv("LIBRARY_PATH", "/opt/lib")

    _cuda_home.offer(tmp_path)

    assert os.environ["LIBRARY_PATH"] == f"/opt/lib:{tmp_path / 'driver'}"


@pytest.mark.parametrize("variable", ["CUDA_HOME", "CUDA_PATH"])
def test_a_toolkit_that_is_named_is_taken_as_it_is(wheels, tmp_path, monkeypatch, variable):
    home = with_file(tmp_path / "mine" / _cuda_home.HEADER).parents[1]
    monkeypatch.setenv(variable, str(home))

    _cuda_home.offer(tmp_path)

    assert os.environ[variable] == str(home)
    assert "CUDA_INC_PATH" not in os.environ


def test_a_toolkit_is_found_by_its_compiler(tmp_path):
    compiler = with_file(tmp_path / "bin/nvcc")
    compiler.chmod(0o755)
    with_file(tmp_path / _cuda_home.HEADER)

    assert _cuda_home.toolkit() == tmp_path


def test_a_toolkit_without_headers_is_none(wheels, tmp_path):
    """As in NVIDIA's images called `runtime`."""
    (tmp_path / "cuda/lib64").mkdir(parents=True)

    _cuda_home.offer(tmp_path)

    assert os.environ["CUDA_HOME"] == str(wheels[0])


def test_the_driver_is_the_one_that_this_process_has_loaded():
    assert _cuda_home.driver(MAPS) == Path("/usr/lib/x86_64-linux-gnu/libcuda.so.580.65.06")
