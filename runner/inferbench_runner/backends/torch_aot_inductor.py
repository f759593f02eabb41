"""AOTInductor: the model compiled ahead of time into a package, for this batch size, and loaded in every cell.

The package is built once for all rounds and kept in the cache, under everything that decides it. Loading compiles
nothing. On a GPU it has not been seen yet; on a library that stands in for CUDA packages were built and loaded.
"""

from __future__ import annotations

import os
import re
import tempfile
import time
import warnings
import zipfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from inferbench_contract.errors import how_to_install
from inferbench_contract.words import Device, Precision
from inferbench_runner import artifacts, environment
from inferbench_runner.backends import Session, Unsupported, _compiled, _cuda_home, _linear, _torch
from inferbench_runner.task import CellTask

if TYPE_CHECKING:
    from torch import Tensor

ARTIFACTS = _torch.ARTIFACTS

PACKAGES: Final = "torch-packages"
"""The kind of cache entry."""

PACKAGE: Final = "model.pt2"

MODULES: Final = tuple(
    f"inferbench_runner.backends.{name}"
    for name in ("torch_aot_inductor", "_compiled", "_cuda_home", "_int8_static", "_layout", "_linear", "_torch")
)
"""What of our own code decides what a package is compiled from and how."""

OLDEST: Final = (2, 15)
"""Of PyTorch, because `_loaded` hands it a folder. 2.11 takes files only (docs/results/2026-11-26-h100.md), and what is
between has not been tried."""


def missing(precision: Precision, device: Device) -> str | None:
    """Say which package or program is not installed, or that PyTorch is too old."""
    if (reason := _compiled.missing(precision, device)) is not None:
        return reason
    found = versions().get("torch")
    if found is not None and (reason := too_old(found)) is not None:
        return reason
    return missing_on_gpu() if device is Device.GPU else None


def missing_on_gpu() -> str | None:
    """Say what is not here of what the calls of kernels are compiled with: they are C++ on a GPU too."""
    return _compiled.missing_compiler(Device.CPU) or _cuda_home.missing()


def too_old(found: str) -> str | None:
    """Say that this version of PyTorch cannot load what is built here."""
    if tuple(int(digits) for digits in re.findall(r"\d+", found)[: len(OLDEST)]) >= OLDEST:
        return None
    needed = ".".join(map(str, OLDEST))
    reason = f"TooOld: PyTorch {found} is here, and {needed} is needed: older ones do not load a package from a folder."
    return f"{reason} {how_to_install('runner', is_upgrade=True)}"


def versions() -> Mapping[str, str]:
    """Return the versions of PyTorch and Triton."""
    return _torch.versions(_compiled.LIBRARIES)


def load(task: CellTask) -> Session:
    """Find or build the package for this batch size, load it, and bind the first batch."""
    _compiled.require_freezing(task)
    _torch.set_up(task)
    inputs = _torch.bound(task)
    if not is_there(task):
        _compiled.learn_vectors(task)
    begin_ns = time.perf_counter_ns()
    folder, was_built = package(task, inputs)
    call = _loaded(folder / PACKAGE, task.result.parent)
    notes: dict[str, int | str] = {"compileCache": "cold" if was_built else "warm"}
    notes["compileNanoseconds"] = time.perf_counter_ns() - begin_ns
    return _torch.session(task, call, inputs, notes)


def package(task: CellTask, inputs: Mapping[str, Tensor]) -> tuple[Path, bool]:
    """Return the folder with the package, and whether it was built just now."""
    return artifacts.find_or_build(task.cache, PACKAGES, package_key(task), partial(_build, task, inputs))


def is_there(task: CellTask) -> bool:
    """Tell whether the package was built before and is sound."""
    return artifacts.open_entry(task.cache, PACKAGES, package_key(task)) is not None


def package_key(task: CellTask) -> str:
    """Hash everything that decides a package, our own code among it. The number of threads is compiled into it."""
    return artifacts.key(
        {
            **_torch.content(task),
            "cell": str(task.cell),
            "options": dict(task.options),
            "threads": task.threads,
            "device": task.device,
            "hardware": environment.describe().hardware,
            **environment.makers(MODULES, _compiled.LIBRARIES),
        }
    )


def _build(task: CellTask, inputs: Mapping[str, Tensor], folder: Path) -> None:
    """Export the model at this batch size and compile it. Raises Unsupported where PyTorch cannot export it."""
    import torch

    os.environ[_compiled.FOLDER] = str(task.result.parent / "inductor")
    if task.device is Device.GPU:
        _cuda_home.offer(task.result.parent)
    module = _torch.module(task)
    with torch.no_grad(), warnings.catch_warnings():  # inference_mode would refuse torchao's weights
        warnings.simplefilter("ignore")
        try:
            program = torch.export.export(module, tuple(inputs.values()))
        except Exception as error:
            raise Unsupported(f"ExportFailed: PyTorch cannot export this model: {error}") from error
        if task.precision in _linear.DYNAMIC:
            _linear.require_products(program)
        settings = {"freezing": _compiled.is_frozen(task)}
        with _compiled.as_asked(task, module):
            torch._inductor.aoti_compile_and_package(  # noqa: SLF001 (its documented name)
                program, package_path=str(folder / PACKAGE), inductor_configs=settings
            )
    _torch.require_arithmetic(task.precision, task.device)  # a package keeps what its model was compiled to


def _loaded(file: Path, scratch: Path) -> Any:
    """Unpack a package into a folder that goes when the cell has ended, and load it from there.

    Left to itself the library unpacks into /tmp, where everything stays when a process ends as ours do.
    """
    import torch

    place = tempfile.mkdtemp(prefix="package-", dir=scratch)
    with zipfile.ZipFile(file) as archive:
        archive.extractall(place)
    return torch._inductor.aoti_load_package(place)  # noqa: SLF001 (its documented name)
